"""Tables and figures of the benchmarks that have a page of their own in docs."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.records import recorded, recorded_runs
from benchmarks.report import collapse_tables, early_tables, initialisation_tables, repair_tables, shrinking_tables
from benchmarks.report.columns import table
from benchmarks.report.figures import LINE_STYLES, Curves, plot_growth, plot_theory
from benchmarks.run.early.early_record import EarlyRecord
from benchmarks.run.examples import CHOICES, SIZES, label
from scionet.bench.records.record_files import read_value
from scionet.bench.report.summary import Row, Spread, summarise
from scionet.bench.report.tables import replace_between


def write_sections(results: Path, docs: Path) -> None:
    """Write all tables and figures into the pages."""
    theory = read_value(dict, results / "theory" / "resnet20.json")["curves"]
    replace_between(docs / "methods" / "theory.md", "theory", theory_table(theory))
    plot_theory(theory, docs / "theory.svg")
    if (results / "growth" / "growth.json").exists():
        growth = read_value(dict, results / "growth" / "growth.json")
        replace_between(docs / "benchmarks.md", "growth", growth_table(growth))
        plot_growth(growth, docs / "growth.svg")
    toy = read_value(dict, results / "toy" / "toy.json")
    page = docs / "methods" / "differentiable.md"
    replace_between(page, "toy", toy_table(toy))
    replace_between(page, "masks", masks_table(toy))
    overlaps = read_value(dict, results / "selector" / "overlaps.json")["rows"]
    replace_between(
        docs / "methods" / "learned.md", "selector", selector_table(overlaps, results / "selector" / "runs")
    )
    replace_between(docs / "methods" / "coreset.md", "examples", examples_table(results / "examples"))
    moved = read_value(dict, results / "compensation" / "digits.json")["rows"]
    replace_between(docs / "methods" / "masks.md", "compensation", compensation_table(moved))
    before = recorded_runs(results / "initialisation" / "records")
    replace_between(docs / "methods" / "masks.md", "initialisation", initialisation_tables.to_markdown(before))
    searched = read_value(dict, results / "search" / "digits.json")["rows"]
    replace_between(docs / "methods" / "architecture_search.md", "search", search_table(searched))
    shrunk = recorded_runs(results / "shrinking" / "records")
    replace_between(docs / "methods" / "shrinking.md", "shrinking", shrinking_tables.to_markdown(shrunk))
    replace_between(docs / "repair.md", "repair", repair_tables.to_markdown(recorded_runs(results / "repair")))
    collapses = collapse_tables.load_records(results / "collapse")
    replace_between(docs / "analysis.md", "collapse", collapse_tables.to_markdown(collapses))
    collapse_tables.plot(collapses, docs / "collapse.svg")
    replace_between(docs / "early.md", "early", early_tables.to_markdown(recorded(EarlyRecord, results / "early")))


def theory_table(curves: Curves) -> str:
    """Errors with an eighth, a quarter, half and three quarters of the units of each site."""
    names = [name for name in LINE_STYLES if any(name in rows for rows in curves.values())]
    lines = []
    for site, rows in curves.items():
        size = len(rows["greedy"])
        for kept in (size // 8, size // 4, size // 2, 3 * size // 4):
            errors = [f"{rows[name][kept - 1]:.4f}" if name in rows else "–" for name in names]
            lines.append([site, f"{kept} of {size}", *errors])
    return table(["site", "kept", *names], lines)


def growth_table(record: Mapping[str, Any]) -> str:
    """Seconds by width; seconds and memory by number of images."""
    names = list(record["widths"])
    sizes = sorted({size for points in record["widths"].values() for size, _ in points})
    found = {name: dict(points) for name, points in record["widths"].items()}
    paths = [
        [f"{size:,}", *(f"{found[name][size]:.3g}" if size in found[name] else "–" for name in names)] for size in sizes
    ]
    surveys = [
        [f"{row['images']:,}", f"{row['forward s']:.3g}", f"{row['survey s']:.3g}", f"{row['MB']:,.0f}"]
        for row in record["images"]
    ]
    by_width = table(["units N", *(f"{name}, s" for name in names)], paths, texts=0)
    by_images = table(
        ["images", "forward pass, s", "moments of all sites, s", "memory beyond it, MB"], surveys, texts=0
    )
    return f"{by_width}\n\n{by_images}"


def toy_table(record: Mapping[str, Any]) -> str:
    """Precision with one seed, of the independent implementation with the same seed, and over all seeds."""
    lines = []
    for name, shares in record["precision"].items():
        spread = f"{np.mean(shares):.3f} ± {np.std(shares, ddof=1):.3f}"
        reference = f"{record['elsewhere']['precision'][name]:.3f}"
        lines.append([name, f"{shares[0]:.3f}", reference, spread, f"{min(shares):.3f}–{max(shares):.3f}"])
    count = len(record["precision"]["untrained"])
    return table(["selection", "seed 0", "independent", f"{count} seeds", "range"], lines)


def masks_table(record: Mapping[str, Any]) -> str:
    """The number of instances on which softened selection finds the greedy set, by temperature."""
    lines = []
    for name, counts in record["agreeing"].items():
        rows = {
            "seed 0": counts[0],
            "independent": record["elsewhere"]["agreeing"][name],
            f"mean of {len(counts)} seeds": [f"{mean:.1f}" for mean in np.mean(counts, axis=0)],
        }
        lines += [[f"`{name}`", kind, *map(str, row)] for kind, row in rows.items()]
    return table(["mask", "", *(f"τ = {tau:g}" for tau in record["temperatures"])], lines, texts=2)


def selector_table(overlaps: Sequence[Mapping[str, Any]], runs: Path) -> str:
    """Overlap with greedy selection and accuracy; below the table, the seconds of the choice."""
    found = {row.method: row for row in summarise(recorded_runs(runs))}
    lines = []
    for name in overlaps[0]["shares"]:
        shares = _by_seed(overlaps, lambda row, name=name: row["shares"][name])
        lines.append([name, Spread.of(shares).text(3), _accuracy(found[name])])
    seconds = {
        name: _by_seed(overlaps, lambda row, name=name: row["choice s"][name]) for name in overlaps[0]["choice s"]
    }
    times = ", ".join(f"{name} {1000 * np.mean(found):.0f} ms" for name, found in seconds.items())
    heads = ["units chosen by", "share of greedy's half", "accuracy % at half the MACs"]
    return f"{table(heads, lines)}\n\nProcessor time to choose at a site, from moments, on average: {times}."


def compensation_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy by density and score: masked only, and with the remaining weights adjusted, by damping."""
    cases = dict.fromkeys((row["density"], row["score"]) for row in rows)
    lines = []
    for density, score in cases:
        found = [row for row in rows if (row["density"], row["score"]) == (density, score)]
        moved = [[row["moved"][damping] for row in found] for damping in found[0]["moved"]]
        spreads = [Spread.of([100 * share for share in shares]) for shares in ([r["plain"] for r in found], *moved)]
        lines.append([f"{density:g}", f"`{score}`", *(spread.text(1) for spread in spreads)])
    return table(["density", "score", "masked", *(f"moved, λ = {damping}" for damping in rows[0]["moved"])], lines, 2)


def search_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy in percent by recipe: searched, random, the best of the random ones, and uniform; mean over seeds."""
    lines = []
    for recipe in dict.fromkeys(row["recipe"] for row in rows if row["recipe"]):
        seeds = dict.fromkeys(row["seed"] for row in rows)
        found = [
            {
                kind: [
                    100 * r["accuracy"]
                    for r in rows
                    if (r["seed"], r["recipe"], r["architecture"]) == (seed, recipe, kind)
                ]
                for kind in ("searched", "random", "uniform")
            }
            for seed in seeds
        ]
        cells = {
            "searched": [part["searched"][0] for part in found],
            "random": [float(np.mean(part["random"])) for part in found],
            "best random": [max(part["random"]) for part in found],
            "uniform": [part["uniform"][0] for part in found],
        }
        lines.append([recipe, *(Spread.of(values).text(1) for values in cells.values())])
    seconds = [row["seconds"] for row in rows if "seconds" in row]
    macs = {
        k: 100 * np.mean([r["macs"] for r in rows if r["architecture"] == k]) for k in ("searched", "random", "uniform")
    }
    said = ", ".join(f"{kind} {share:.1f} %" for kind, share in macs.items())
    heads = ["training", "searched, %", "random, mean, %", "best random, %", "uniform, %"]
    return f"{table(heads, lines)}\n\nMACs, mean: {said}. A search took {np.mean(seconds):.0f} s."


def _by_seed(rows: Sequence[Mapping[str, Any]], of: Callable[[Mapping[str, Any]], float]) -> list[float]:
    """The mean of a number over sites, for each seed."""
    seeds = dict.fromkeys(row["seed"] for row in rows)
    return [float(np.mean([of(row) for row in rows if row["seed"] == seed])) for seed in seeds]


def examples_table(runs: Path) -> str:
    """Accuracy by choice and number of images, and the gain over random images of the same pool."""
    rows = {row.method: row for row in summarise(recorded_runs(runs))}

    def cell(way: str, size: int) -> str:
        row, random = rows.get(label(way, size)), rows.get(label("random", size))
        if row is None or random is None:
            return "–"
        return _accuracy(row) + ("" if row is random else f" ({_paired(row, random).text(2)})")

    lines = [[way, *(cell(way, size) for size in SIZES)] for way in CHOICES]
    return table(["images chosen by", *(f"{size} images" for size in SIZES)], lines)


def _paired(one: Row, other: Row) -> Spread:
    """The differences of accuracy in points, paired by seed."""
    first, second = ({r.spec.seed: r.pruned.accuracy for r in row.records} for row in (one, other))
    return Spread.of([100 * (first[seed] - second[seed]) for seed in first.keys() & second.keys()])


def _accuracy(row: Row) -> str:
    return row.accuracy.text(row.digits)
