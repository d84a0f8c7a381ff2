"""scionet analyze rates: measure, write the record, the figure and the page, and print what the numbers say."""

from datetime import UTC, datetime

import torch
from torch import nn

from scionet.analysis.rates.imitation import SiteImitation
from scionet.analysis.rates.pictures import picture_task
from scionet.analysis.rates.sites import imitations
from scionet.analysis.rates.study import measured
from scionet.bench.records.provenance import Provenance
from scionet.bench.records.record_files import make_folder, write_text
from scionet.commands.analyses.rates_record import RatesRecord
from scionet.commands.analyses.rates_sections import sections
from scionet.commands.analyses.study_page import overview, page
from scionet.commands.analyses.subject import described, network_of, read_pictures, refuse_overwriting
from scionet.commands.analysis_options import AnalyzeRates
from scionet.commands.show import line
from scionet.errors import InvalidSetting
from scionet.files.json_dataclasses import to_json
from scionet.progress import bars_where_wanted

TITLE = "How fast does greedy selection converge?"


def run(command: AnalyzeRates) -> None:
    """Measure the parts and write the results.

    Raises:
        PruneError: If something is wrong with what was given.
    """
    path, wanted = refuse_overwriting(command), "sites" in command.parts
    if not wanted and (command.model is not None or command.sites):
        raise InvalidSetting("--model and --sites belong to the part 'sites'; add it to --parts, or leave them out")
    pictures = read_pictures(command, command.seed)
    name, model = network_of(command, pictures, command.seed) if wanted else ("none", nn.Identity())
    make_folder(command.out)

    def sites() -> list[SiteImitation]:
        chosen = command.sites or None
        return imitations(model, pictures.batches, pictures.images[:2], chosen, seed=command.seed)

    task = picture_task(pictures.images.double().numpy(), pictures.labels.numpy())
    with bars_where_wanted(False if command.quiet else None) as progress:
        study = measured(task, sites, command.parts, command.seed, progress)
    today = datetime.now(UTC).date().isoformat()
    provenance = Provenance.here(
        today, f"scionet analyze rates {described(command, command.seed)}", torch.get_num_threads()
    )
    kind = command.source.partition(":")[0]
    record = RatesRecord(kind, len(pictures.labels), name, command.seed, study, provenance)
    write_text(path, to_json(record) + "\n")
    write_results(record, command)


def write_results(record: RatesRecord, command: AnalyzeRates) -> None:
    """Write the figure and the page of a record, and print what its numbers say."""
    found = sections(record.study)
    write_text(command.out / "figure.svg", overview(found))
    subtitle = (
        f"Greedy forward selection against its theorems, on planted problems, on {record.pictures:,} pictures "
        f"({record.source}), and at the sites of {record.network}."
    )
    versions = ", ".join(f"{package} {version}" for package, version in record.provenance.versions.items())
    made = (record.provenance.command, versions, f"{record.provenance.created}, {record.provenance.processor}")
    write_text(command.out / "page.html", page(TITLE, subtitle, found, made))
    for section in found:
        for text in (f"{section.title}:", *section.reading, ""):
            line(text)
    line(f"written to {command.out}: record.json, figure.svg, page.html")
