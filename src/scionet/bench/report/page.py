"""A self-contained HTML page made from run records, without scripts and without torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from scionet.bench.records.failures import Failure
from scionet.bench.records.record import RunRecord
from scionet.bench.records.record_files import write_text
from scionet.bench.report.arm_plots import ArmPlots, protocol
from scionet.bench.report.cards import Card, cards
from scionet.bench.report.plots import accuracy_plot, drop_plot, styles, swatch
from scionet.bench.report.siteplots import curve_plots, latency_plot, shades, widths_plot
from scionet.bench.report.study import Study, spoken, studies
from scionet.bench.report.summary import Row
from scionet.escaping import printable
from scionet.extras import extra

with extra("report"):
    from jinja2 import Environment, PackageLoader, StrictUndefined, Template


@dataclass(frozen=True)
class Chapter:
    """The content of the page about one study; figures are inline SVG, empty if the records have no data for them.

    Attributes:
        study: The rows of the study.
        cards: Headline numbers.
        legend: Swatch and name of each method.
        accuracy: Figure of accuracy against MACs.
        drop: Figure of points lost against MACs.
        widths: Figure of the widths of the headline method.
        other_widths: Name and figure of the widths of each other method.
        shades: Opacity of each budget in the widths figure.
        curves: Name and error curves of each site.
        latency: Figure of the latency of the headline method.
        summaries: Name and summary of each method.
        protocol: The part about arms; None if the runs have no arm.
    """

    study: Study
    cards: tuple[Card, ...]
    legend: tuple[tuple[str, str], ...]
    accuracy: str
    drop: str
    widths: str
    other_widths: tuple[tuple[str, str], ...]
    shades: tuple[tuple[float, str], ...]
    curves: tuple[tuple[str, str], ...]
    latency: str
    summaries: tuple[tuple[str, str], ...]
    protocol: ArmPlots | None

    @property
    def records(self) -> tuple[RunRecord, ...]:
        """All runs of the study."""
        return tuple(record for row in self.study.rows for record in row.records)

    def distinct(self, path: str) -> tuple[str, ...]:
        """The distinct non-empty values of an attribute of the runs, such as ``"provenance.command"``, sorted."""
        return tuple(sorted({str(v) for v in map(attrgetter(path), self.records) if v not in ("", None)}))

    @property
    def masked(self) -> tuple[tuple[str, tuple[Row, ...]], ...]:
        """The rows of networks with masks, for each budget that has any."""
        found = [(b, tuple(row for row in self.study.at(b) if row.weights is not None)) for b in self.study.budgets]
        return tuple((budget, rows) for budget, rows in found if rows)

    @property
    def versions(self) -> tuple[str, ...]:
        """Distinct package versions of the runs, as texts."""
        return tuple(sorted({f"{k} {v}" for r in self.records for k, v in r.provenance.versions.items()}))

    @property
    def notes(self) -> tuple[str, ...]:
        """Distinct notes of the runs."""
        return tuple(dict.fromkeys(note for record in self.records for note in record.notes))


def html(
    records: Sequence[RunRecord], title: str, headline: str | None = None, failures: Sequence[Failure] = ()
) -> str:
    """Render a whole report as one page that needs no other file.

    Args:
        records: The runs, in any order.
        title: Title of the page.
        headline: The method to emphasise; see `scionet.bench.report.study.studies`.
        failures: Failed runs, which are listed at the end.

    Raises:
        RecordError: If there are no records, a run is given twice, or no run has the headline method.
    """
    chapters = [_chapter(study, f"s{i}") for i, study in enumerate(studies(records, headline))]
    return _template().render(title=title, chapters=chapters, failures=failures)


def write_html(
    records: Sequence[RunRecord],
    path: Path,
    title: str,
    headline: str | None = None,
    failures: Sequence[Failure] = (),
) -> None:
    """Write the page of `html` to a file, atomically.

    Raises:
        RecordError: As for `html`, or if the file cannot be written.
    """
    write_text(path, html(records, title, headline, failures))


def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("scionet.bench.report", "."),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["spoken"] = spoken
    return environment.get_template("page.html")


def _shown(value: Any) -> Any:
    """A value of the template; names become printable before they are escaped. Figures are markup already."""
    return printable(value) if type(value) is str else value


def _chapter(study: Study, key: str) -> Chapter:
    others = [(m, widths_plot(study, m, f"{key}w{i}")) for i, m in enumerate(study.methods) if m != study.headline]
    path = study.path(study.headline)
    return Chapter(
        study=study,
        cards=cards(study),
        legend=tuple((swatch(s, f"{key}l{i}"), m) for i, (m, s) in enumerate(styles(study).items())),
        accuracy=accuracy_plot(study, f"{key}a"),
        drop=drop_plot(study, f"{key}d"),
        widths=widths_plot(study, study.headline, f"{key}w"),
        other_widths=tuple((method, svg) for method, svg in others if svg),
        shades=tuple((shade, spoken(row.budget)) for shade, row in zip(shades(len(path)), path, strict=True)),
        curves=tuple((site, svg) for site, svg in curve_plots(study, f"{key}c")),
        latency=latency_plot(study, f"{key}t"),
        summaries=tuple((method, study.path(method)[0].records[0].summary) for method in study.methods),
        protocol=protocol(study, f"{key}p"),
    )
