"""What a report says of arms: panels, paired differences, the ledger, failures; from records alone."""

import re
from dataclasses import replace

import numpy as np
import pytest
from support import made_up_records as made_up

from scionet.bench.records.failures import Failure, load_failure, save_failure
from scionet.bench.records.ledger import Payment
from scionet.bench.records.record import RunRecord, Tried, decode_answers, encode_answers
from scionet.bench.records.record_files import RecordError
from scionet.bench.report.arm_plots import ArmPlots, arm_of, competitor_of, panel_of, protocol
from scionet.bench.report.page import html
from scionet.bench.report.pairs import pairs
from scionet.bench.report.study import studies
from scionet.bench.report.summary import summarise
from scionet.budget.latency.durations import Latency

ARMS = {"as cut": 300, "fine-tuned": 340, "scratch-e": 320}


def run_of(who: str, arm: str, seed: int, correct: int) -> RunRecord:
    plain = made_up.record(who if who in made_up.LOST else "random", seed=seed, correct=correct, sites={"stem": 16})
    method = who if arm == "as cut" else f"{who} + {arm}"
    right = np.arange(plain.pruned.seen) < correct
    ledger = (Payment("selection", 64, 5e9, 2.0), Payment("training", 1000, 3e9, 4.0 + seed))
    return replace(
        plain,
        spec=replace(plain.spec, method=method, settings={"arm": arm}),
        ledger=ledger,
        sweep=(Tried(0.01, 1, 90, 100), Tried(0.1, 1, 95, 100), Tried(0.2, 1, 95, 100)),
        answers=encode_answers(right),
    )


@pytest.fixture(scope="module")
def records() -> list[RunRecord]:
    found = [
        run_of(who, arm, seed, base + seed - 10 * (who == "l1"))
        for who in ("forward", "l1")
        for arm, base in ARMS.items()
        for seed in (0, 1)
    ]
    uniform = [replace(run_of("uniform", "scratch-e", seed, 310)) for seed in (0, 1)]
    uniform = [
        replace(r, spec=replace(r.spec, method="uniform scratch-e", settings={"arm": "uniform scratch-e"}))
        for r in uniform
    ]
    return [*found, *uniform]


@pytest.fixture(scope="module")
def shown(records: list[RunRecord]) -> ArmPlots:
    """What the page says of the arms."""
    found = protocol(studies(records)[0], "p")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def page(records: list[RunRecord]) -> str:
    return html(records, "arms", failures=[Failure(records[0].spec, "UnreachableBudget", "no plan <meets> the budget")])


def test_rows_know_their_arm_their_panel_and_whose_architecture_it_is(records: list[RunRecord]) -> None:
    [study] = studies(records)
    found = {row.method: (arm_of(row), panel_of(row), competitor_of(row)) for row in study.rows}
    assert found["forward"] == ("as cut", "as cut", "forward")
    assert found["l1 + scratch-e"] == ("scratch-e", "scratch-e", "l1")
    assert found["uniform scratch-e"] == ("uniform scratch-e", "scratch-e", "uniform")


def test_latency_is_an_axis_where_the_records_have_it_with_its_interval(
    records: list[RunRecord], shown: ArmPlots, page: str
) -> None:
    assert shown.timed
    name, figure = shown.figures[-1]
    assert name == "measured latency kept, % of dense"
    assert name in figure
    assert "Horizontal bars" in page

    def bare(record: RunRecord) -> RunRecord:
        return record.timed(None, None)

    untimed = protocol(studies([bare(record) for record in records])[0], "p")
    assert untimed is not None
    assert not untimed.timed
    assert len(untimed.figures) == 2
    tuned = [bare(r) if r.spec.settings["arm"] == "fine-tuned" else r for r in records]
    mixed = protocol(studies(tuned)[0], "p")
    assert mixed is not None
    assert mixed.timed
    assert ">fine-tuned</" not in mixed.figures[-1][1]
    one_missing = [bare(r) if r.spec.seed == 1 else r for r in records]
    assert not protocol(studies(one_missing)[0], "p").timed  # type: ignore[union-attr]


def test_a_share_of_latency_is_a_ratio_of_medians_between_the_ends_of_both_intervals() -> None:
    times = [(Latency(10, 8, 12, 1), Latency(5, 4, 6, 1)), (Latency(10, 10, 10, 1), Latency(8, 8, 8, 1))]
    runs = [run_of("l1", "as cut", seed, 300).timed(*pair) for seed, pair in enumerate(times)]
    [row] = [row for row in summarise(runs) if row.budget]
    assert row.latency is not None
    kept = (row.latency.mean, row.latency.low, row.latency.high)
    assert kept == pytest.approx((100 * (0.5 + 0.8) / 2, 100 * (4 / 12 + 0.8) / 2, 100 * (6 / 8 + 0.8) / 2))
    assert row.speedup is not None
    assert row.speedup.mean == pytest.approx((2 + 1.25) / 2)


def test_intervals_of_latency_are_drawn(records: list[RunRecord], shown: ArmPlots) -> None:
    def wider(record: RunRecord) -> RunRecord:
        pruned = record.pruned.latency
        assert pruned is not None
        return record.timed(record.dense.latency, replace(pruned, upper_ms=1.5 * pruned.upper_ms))

    known = shown, protocol(studies([*map(wider, records)])[0], "p")
    before, after = (dict(found.figures) for found in known if found is not None)
    changed = [name for name in before if before[name] != after[name]]
    assert changed == ["measured latency kept, % of dense"]


@pytest.mark.parametrize(
    ("method", "arm", "panel", "who"),
    [
        ("l1 + guided scratch-b", "guided scratch-b", "scratch-b", "l1, guided"),
        ("thinet_50 + stock scratch-e", "stock scratch-e", "scratch-e", "thinet_50"),
        ("dense continued", "dense continued", "dense continued", "dense continued"),
        ("late rewinding", "late rewinding", "single weights", "late rewinding"),
        ("synflow + masked scratch-b", "masked scratch-b", "single weights", "synflow + masked scratch-b"),
    ],
)
def test_what_panels_and_legends_call_a_run(method: str, arm: str, panel: str, who: str) -> None:
    plain = run_of("l1", "as cut", 0, 300)
    record = replace(plain, spec=replace(plain.spec, method=method, settings={"arm": arm}))
    [row] = [row for row in summarise([record]) if row.budget]
    assert (panel_of(row), competitor_of(row)) == (panel, who)


def test_arms_of_single_weights_have_a_panel_of_parameters_of_their_own(
    records: list[RunRecord], shown: ArmPlots, page: str
) -> None:
    single = []
    for place, percent in enumerate((25, 12.5)):
        for arm in ("lottery ticket", "shuffled ticket"):
            plain = run_of("l1", "as cut", 0, 330 - 10 * place)
            spec = replace(plain.spec, method=arm, budget=f"weights<={percent}%", settings={"arm": arm})
            params = round(plain.dense.params * percent / 100)
            pruned = replace(plain.pruned, macs=plain.dense.macs, params=params)
            single.append(replace(plain, spec=spec, pruned=pruned, sites=()))
    found = protocol(studies(single)[0], "p")
    assert found is not None
    assert found.single
    assert [name for name, _ in found.figures] == ["single weights"]
    assert ">12.5</text>" in found.figures[0][1]
    assert "logarithmic" in found.figures[0][1]
    assert [budget for budget, _ in found.accounts] == ["weights<=25%", "weights<=12.5%"]
    both = protocol(studies([*records, *single])[0], "p")
    assert both is not None
    assert [name for name, _ in both.figures][3:] == ["single weights"]
    assert len(both.figures) == 4
    assert not shown.single
    assert "Arms of single weights" in html(single, "t")
    assert "Arms of single weights" not in page


def test_accounts_are_means_over_runs(shown: ArmPlots) -> None:
    [(_, accounts)] = shown.accounts
    account = next(a for a in accounts if a.row.method == "forward + fine-tuned")
    assert account.seconds == (0, 2.0, 0, 4.5, 0)
    assert account.images == 1064
    assert account.rates == (0.1,)
    assert account.passes == pytest.approx(8e9 / made_up.DENSE_MACS / 1e3)


def test_pairs_use_the_examples_where_the_records_have_them(records: list[RunRecord]) -> None:
    pair = next(p for p in pairs(records, "forward + fine-tuned") if p.other == "l1 + fine-tuned")
    assert pair.ahead == pytest.approx(100 * 10 / 360)
    assert pair.certain
    assert pair.low is not None
    assert 0 < pair.low < pair.ahead < (pair.high or 0)
    blank = [replace(record, answers="") for record in records]
    seeds_alone = next(p for p in pairs(blank, "forward + fine-tuned") if p.other == "l1 + fine-tuned")
    assert seeds_alone.low == pytest.approx(seeds_alone.ahead)  # the seeds agree, and nothing else is known


def test_the_page_shows_panels_differences_ledger_and_failures(page: str) -> None:
    text = re.sub(r"<[^>]+>", " ", page)
    for words in ("Inherited weights or training from scratch?", "Cost of each method", "Runs that failed", "+2.78"):
        assert words in text
    assert "no plan &lt;meets&gt; the budget" in page
    assert all(f">{arm}</text>" in page or arm in page for arm in ARMS)
    assert "<script" not in page


def test_a_page_without_arms_has_no_ledger() -> None:
    plain = html([made_up.record(method, sites={"stem": 16}) for method in ("forward", "l1")], "plain")
    assert "Cost of each method" not in plain
    assert "Runs that failed" not in plain


def test_answers_survive_and_damage_is_refused() -> None:
    right = np.random.default_rng(0).random(1003) < 0.5
    assert np.array_equal(decode_answers(encode_answers(right), 1003), right)
    with pytest.raises(RecordError, match="must hold answers to 2000 examples"):
        decode_answers(encode_answers(right), 2000)
    with pytest.raises(RecordError, match="answers are damaged"):
        decode_answers("§", 3)


def test_failures_survive_and_damage_is_refused(tmp_path) -> None:
    failure = Failure(made_up.spec(), "TrainingError", "the loss is NaN", "Traceback")
    path = save_failure(failure, tmp_path / "failures")
    assert load_failure(path) == failure
    path.write_text("{}")
    with pytest.raises(RecordError, match=r"Failure\.spec is missing"):
        load_failure(path)
