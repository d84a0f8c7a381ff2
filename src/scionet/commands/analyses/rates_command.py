"""scionet analyze rates: measure, write the record, the figure and the page, and print what the numbers say."""

from torch import nn

from scionet.analysis.rates.imitation import SiteImitation
from scionet.analysis.rates.pictures import picture_task
from scionet.analysis.rates.sites import imitations
from scionet.analysis.rates.study import measured
from scionet.bench.records.record_files import make_folder
from scionet.commands.analyses.rates_record import RatesRecord
from scionet.commands.analyses.rates_sections import sections
from scionet.commands.analyses.results import provenance_of, write_results
from scionet.commands.analyses.subject import network_of, read_pictures, refuse_overwriting
from scionet.commands.analysis_options import AnalyzeRates
from scionet.errors import InvalidSetting
from scionet.progress import bars_where_wanted

TITLE = "How fast does greedy selection converge?"


def run(command: AnalyzeRates) -> None:
    """Measure the parts and write the results.

    Raises:
        PruneError: If something is wrong with what was given.
    """
    refuse_overwriting(command)
    wanted = "sites" in command.parts
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
    made = provenance_of("rates", command, command.seed)
    kind = command.source.partition(":")[0]
    record = RatesRecord(kind, len(pictures.labels), name, command.seed, study, made)
    subtitle = (
        f"Greedy forward selection against its theorems, on planted problems, on {record.pictures:,} pictures "
        f"({record.source}), and at the sites of {record.network}."
    )
    write_results(command, record, TITLE, subtitle, sections(study), made)
