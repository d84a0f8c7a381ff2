"""Aggregation against numbers worked out by hand, and the forms a table can take."""

import csv
import dataclasses
import io
import random
from pathlib import Path

import pytest
from rich.console import Console
from support import made_up_records as made_up

from scionet.bench.records.record import Outcome, RunRecord
from scionet.bench.records.record_files import RecordError
from scionet.bench.report.study import base, spoken, studies
from scionet.bench.report.summary import Row, Spread, summarise
from scionet.bench.report.tables import replace_between, to_csv, to_markdown, to_matrix, to_rich


def by_hand() -> list[RunRecord]:
    """Three runs with 90, 92 and 97 of 100 correct, half the MACs and a quarter of the parameters."""
    dense = Outcome(2000.0, 400, 98, 100, made_up.latency(4.0))
    return [
        dataclasses.replace(
            made_up.record("forward", seed=seed),
            dense=dense,
            pruned=Outcome(1000.0, 100, correct, 100, made_up.latency(ms)),
            seconds=1.0 + seed,
        )
        for seed, (correct, ms) in enumerate([(90, 2.0), (92, 4.0), (97, 1.0)])
    ]


def test_rows_agree_with_a_computation_by_hand() -> None:
    dense, row = summarise(by_hand())
    assert (dense.method, dense.runs, dense.accuracy, dense.macs) == ("dense", 1, Spread(98.0), Spread(100.0))
    assert row.runs == 3
    assert row.accuracy.mean == pytest.approx(93.0)
    assert row.accuracy.deviation == pytest.approx(13**0.5)  # (9 + 1 + 16) / (3 - 1)
    assert row.drop is not None
    assert row.drop.mean == pytest.approx(5.0)
    assert row.macs == Spread(50.0, 0.0)
    assert row.params == Spread(25.0, 0.0)
    assert row.seconds is not None
    assert (row.seconds.mean, row.seconds.deviation) == (2.0, 1.0)
    assert row.speedup is not None
    assert row.speedup.mean == pytest.approx((2 + 1 + 4) / 3)


def test_one_run_has_no_deviation_in_any_form() -> None:
    rows = summarise(by_hand()[:1])
    console = Console(file=io.StringIO(), width=200)
    console.print(to_rich(rows))
    assert isinstance(console.file, io.StringIO)
    forms = [to_markdown(rows), to_matrix(rows), console.file.getvalue()]
    assert all("90.0" in form and "±" not in form for form in forms)
    found = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert found[1]["accuracy_mean"] == "90.0"
    assert found[1]["accuracy_sd"] == ""


def test_a_run_given_twice_is_refused_because_its_deviation_would_be_a_lie() -> None:
    with pytest.raises(RecordError, match=r"forward.*seed0.* is given twice"):
        summarise([*by_hand(), by_hand()[0]])


def test_nothing_to_report_is_an_error() -> None:
    with pytest.raises(RecordError, match="no records"):
        summarise([])


def test_speedup_needs_both_latencies_in_every_run() -> None:
    runs = by_hand()
    runs[1] = dataclasses.replace(runs[1], dense=dataclasses.replace(runs[1].dense, latency=None))
    assert summarise(runs)[1].speedup is None


def test_rows_are_ordered_by_network_then_budget_then_accuracy_whatever_the_input() -> None:
    runs = [*made_up.all_records(2, "b-net"), *made_up.all_records(2, "a-net")]
    rows = summarise(runs)
    random.Random(0).shuffle(runs)
    assert [_key(row) for row in summarise(runs)] == [_key(row) for row in rows]
    assert len(rows) == 2 * (1 + len(made_up.LOST) * len(made_up.BUDGETS))
    assert [row.network for row in rows if row.method == "dense"] == ["a-net", "b-net"]
    assert list(dict.fromkeys(row.budget for row in rows if row.budget)) == list(made_up.BUDGETS)
    for budget in made_up.BUDGETS:
        means = [row.accuracy.mean for row in rows if row.network == "a-net" and row.budget == budget]
        assert means == sorted(means, reverse=True)


def _key(row: Row) -> tuple[str, str, str, Spread]:
    return row.network, row.budget, row.method, row.accuracy


def test_other_settings_make_another_row_that_says_so() -> None:
    runs = by_hand()
    settings = {**runs[0].spec.settings, "ridge": 0.1}
    runs[2] = dataclasses.replace(runs[2], spec=dataclasses.replace(runs[2].spec, settings=settings))
    assert [(r.method, r.runs) for r in summarise(runs)[1:]] == [
        ("forward (ridge=0.1)", 1),
        ("forward (ridge=0.0001)", 2),
    ]


def test_different_dense_networks_are_spread_over_too() -> None:
    runs = by_hand()
    other = dataclasses.replace(runs[1].dense, correct=96)
    runs[1] = dataclasses.replace(runs[1], dense=other, dense_hash="other")
    dense = summarise(runs)[0]
    assert dense.runs == 2
    assert dense.accuracy.mean == pytest.approx(97.0)
    assert dense.accuracy.deviation == pytest.approx(2**0.5)


def test_accuracy_has_as_many_decimals_as_its_examples_can_bear() -> None:
    run = by_hand()[0]
    large = dataclasses.replace(run, pruned=Outcome(1000.0, 100, 9123, 10_000))
    assert summarise([run])[1].digits == 1
    assert to_markdown(summarise([large])).count("91.23") == 1


def test_markdown_is_one_table_with_all_numbers() -> None:
    lines = to_markdown(summarise(by_hand())).splitlines()
    assert len(lines) == 4
    assert {line.count("|") for line in lines} == {12}
    assert [cell.strip() for cell in lines[3].split("|")[1:-1]] == [
        *("small-resnet", "digits", "macs<=50%", "forward", "93.0 ± 3.6", "5.0 ± 3.6"),
        *("50.0 ± 0.0", "25.0 ± 0.0", "2.33 ± 1.53", "2.0 ± 1.0", "3"),
    ]


def test_columns_that_are_empty_everywhere_are_left_out() -> None:
    runs = [dataclasses.replace(r, pruned=dataclasses.replace(r.pruned, latency=None)) for r in by_hand()]
    assert "speed-up" not in to_markdown(summarise(runs))


def test_bars_in_names_do_not_break_markdown() -> None:
    run = by_hand()[0]
    odd = dataclasses.replace(run, spec=dataclasses.replace(run.spec, method="a|b"))
    assert "a\\|b" in to_markdown(summarise([odd]))


def test_matrix_has_methods_down_and_budgets_across() -> None:
    runs = [made_up.record("l1", "macs<=70%", correct=350), made_up.record("l1", correct=300), *by_hand()]
    runs = [dataclasses.replace(r, dense=runs[0].dense, dense_hash="") for r in runs]
    assert to_matrix(summarise(runs)).splitlines() == [
        "| method | macs<=70% | macs<=50% |",
        "| :-- | --: | --: |",
        "| dense | 98.6 | 98.6 |",
        "| l1 | 97.2 | 83.3 |",
        "| forward | – | 93.0 ± 3.6 |",
    ]


def test_matrix_of_several_networks_names_them() -> None:
    head = to_matrix(summarise([made_up.record(network="one"), made_up.record(network="two")])).splitlines()[0]
    assert head == "| method | one macs<=50% | two macs<=50% |"


def test_matrix_of_several_experiments_is_refused() -> None:
    run = by_hand()[0]
    other = dataclasses.replace(run, spec=dataclasses.replace(run.spec, experiment="other"))
    with pytest.raises(RecordError, match="one experiment"):
        to_matrix(summarise([run, other]))


def test_csv_gives_numbers_back_in_full() -> None:
    rows = summarise(made_up.all_records())
    found = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert [float(line["accuracy_mean"]) for line in found] == [row.accuracy.mean for row in rows]
    assert [line["method"] for line in found] == [row.method for row in rows]


def test_study_brings_out_greedy_and_its_best_rival() -> None:
    (study,) = studies(made_up.all_records())
    assert study.headline == study.methods[0] == "forward"
    assert study.focus == "macs<=50%"
    assert study.best.budget == "macs<=50%"
    others = [row for row in study.at("macs<=50%") if not row.method.startswith("forward")]
    assert study.rival is not None
    assert study.rival == max(others, key=lambda row: row.accuracy.mean)
    assert studies(made_up.all_records(), "l1")[0].headline == "l1"
    with pytest.raises(RecordError, match=r"no run of small-resnet has the method 'L1'; there are: bn_scale"):
        studies(made_up.all_records(), "L1")


def test_names_are_split_and_budgets_are_spoken() -> None:
    assert base("l1 + refit") == "l1"
    assert spoken("macs<=50%") == "MACs ≤ 50\N{NO-BREAK SPACE}%"
    assert spoken("params <= 1.2M") == "parameters ≤ 1.2M"


def test_generated_parts_are_replaced_and_the_rest_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("a\n<!-- begin:T -->\nold\n<!-- end:T -->\nb <!-- begin:U --><!-- end:U --> c\n")
    assert replace_between(path, "T", r"| \1 | new |")
    wanted = "a\n<!-- begin:T -->\n| \\1 | new |\n<!-- end:T -->\nb <!-- begin:U --><!-- end:U --> c\n"
    assert path.read_text() == wanted
    assert not replace_between(path, "T", r"| \1 | new |")
    assert path.read_text() == wanted


@pytest.mark.parametrize(
    "text",
    [
        "none",
        "<!-- begin:T -->",
        "<!-- end:T --> <!-- begin:T -->",
        "<!-- begin:T --> <!-- end:T --> <!-- begin:T --> <!-- end:T -->",
        "<!-- begin:T2 --> <!-- end:T2 -->",
    ],
)
def test_missing_or_repeated_markers_change_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(RecordError, match=r"README\.md must have <!-- begin:T --> once"):
        replace_between(path, "T", "new")
    assert path.read_text() == text
