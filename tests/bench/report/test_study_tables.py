"""Tables of the studies of early pruning, collapse and compensation, from records made by hand."""

from typing import Any

import numpy as np

from benchmarks.report import collapse_tables, early_tables, sections
from benchmarks.run.early import early_record
from scionet.bench.records.provenance import Provenance
from scionet.bench.records.record import encode_answers

PROVENANCE = Provenance("2026-01-01", "none", {}, "none", 1, 1)


def early(method: str, seed: int, right: int, first: int, norms: tuple[float, ...]) -> Any:
    answers = np.arange(100) < right
    rounds = 0 if method == "dense" else 1
    return early_record.EarlyRecord(
        **{"network": "net", "method": method, "rounds": rounds, "seed": seed, "density": 0.5},
        **{"steps": (early_record.Round(1, 8, norms),) if rounds else (), "widths": {"a": (8, 2), "b": (8, 6)}},
        **{"macs": (200, 50), "params": (20, 5), "losses": (1.0,) * 4, "validation": (0, first, 2000, 2250)},
        **{"correct": right, "seen": 100, "answers": encode_answers(answers), "seconds": 1.0, "provenance": PROVENANCE},
    )


def test_the_table_of_early_pruning_says_who_is_ahead_after_which_epoch() -> None:
    runs = [early("dense", 0, 95, 0, ())]
    for seed in (0, 1):
        runs.append(early("magnitude", seed, 50 + seed, 1250, (1.0, 2.0, 2.0, 2.0)))
        runs.append(early("random", seed, 90 + seed, 1000, (1.0, 1.0, (1.0, 16.0)[seed], 0.5)))
    text = early_tables.to_markdown(runs).splitlines()
    assert text[0] == "**net, 1 round, 50% of the filters** (dense: 95.00 %)"
    first, second = ([cell.strip() for cell in line.strip("|").split("|")] for line in text[4:])
    assert first[:3][0::2] == ["random", first[2]]
    assert first[2].startswith("**+40.00** (+")
    assert first[1] == "90.50 ± 0.71"
    assert first[3:] == ["40.0", "80.0", "90.0", "× 4.00", "× 0.50", "25.0", "25"]
    assert second[0] == "magnitude"
    assert second[2] == ""
    assert second[6:8] == ["× 2.00", "× 1.00"]


def test_the_table_of_collapse_says_how_far_scores_reach(tmp_path) -> None:
    def entry(power: float, empty: int, connected: bool) -> dict[str, Any]:
        names = [f"layer{i}" for i in range(empty)]
        return {"compression": 10**power, "kept": 9, "least": 0, "empty": names, "connected": connected}

    def record(seed: int, first: int) -> dict[str, Any]:
        curves = {
            "random": [entry(1, 0, True), entry(2, 0, False), entry(3, 2, False), entry(4, 4, False)],
            "magnitude": [entry(1, first, True), entry(2, 0, True), entry(3, 3, False), entry(4, 4, False)],
            "snip": [entry(1, 0, True), entry(2, 0, True), entry(3, 1, True), entry(4, 1, True)],
        }
        curves["synflow"] = [entry(power, 0, True) for power in (1, 2, 3, 4)]
        return {"network": "net", "seed": seed, "layers": 5, "weights": 50_000, "curves": curves}

    records = [record(0, 1), record(1, 0)]
    lines = [line.split(" | ")[1:] for line in collapse_tables.to_markdown(records).splitlines()[2:]]
    assert [[cell.rstrip(" |") for cell in line] for line in lines] == [
        ["random", "2.00", "1.00", "0", "2", "4"],
        ["magnitude", "0.00–2.00", "2.00", "0", "3", "4"],
        ["snip", "2.00", "4.00", "0", "1", "1"],
        ["synflow", "4.00", "4.00", "0", "0", "0"],
    ]
    collapse_tables.plot(records, tmp_path / "collapse.svg")
    assert (tmp_path / "collapse.svg").read_text().count("share of layers") == 1


def test_the_table_of_compensation_has_a_column_for_each_damping() -> None:
    rows = [
        {"seed": s, "density": 0.2, "score": "obd", "dense": 1, "plain": 0.5 + s / 10, "moved": {"1e-05": 0.75}}
        for s in (0, 1)
    ]
    assert sections.compensation_table(rows).splitlines() == [
        "| density | score | masked | moved, λ = 1e-05 |",
        "| :-- | :-- | --: | --: |",
        "| 0.2 | `obd` | 55.0 ± 7.1 | 75.0 ± 0.0 |",
    ]
