"""The files that an analysis writes: record, figure and page."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import torch

from scionet.bench.records.provenance import Provenance
from scionet.bench.records.record_files import write_text
from scionet.commands.analyses.study_page import Section, overview, page
from scionet.commands.analyses.subject import described
from scionet.commands.analysis_options import AnalysisOptions
from scionet.commands.show import line
from scionet.files.json_dataclasses import to_json


def provenance_of(name: str, command: AnalysisOptions, seed: int) -> Provenance:
    """Where and how the numbers of `scionet analyze NAME` were made, today and here."""
    today = datetime.now(UTC).date().isoformat()
    return Provenance.here(today, f"scionet analyze {name} {described(command, seed)}", torch.get_num_threads())


def write_results(
    command: AnalysisOptions, record: Any, title: str, subtitle: str, sections: Sequence[Section], made: Provenance
) -> None:
    """Write record, figure and page, and print what the numbers say.

    Args:
        command: Its `out` is the folder.
        record: A dataclass of measurements.
        title: The page's title.
        subtitle: What was measured, on what.
        sections: The parts of the page.
        made: Where and how.
    """
    write_text(command.out / "record.json", to_json(record) + "\n")
    write_text(command.out / "figure.svg", overview(sections))
    versions = ", ".join(f"{package} {version}" for package, version in made.versions.items())
    facts = (made.command, versions, f"{made.created}, {made.processor}")
    write_text(command.out / "page.html", page(title, subtitle, sections, facts))
    for section in sections:
        for text in (f"{section.title}:", *section.reading, ""):
            line(text)
    line(f"written to {command.out}: record.json, figure.svg, page.html")
