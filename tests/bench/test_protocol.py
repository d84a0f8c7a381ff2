"""What a report says of arms: panels, paired differences, the ledger, failures; from records alone."""

import re
from dataclasses import replace

import examples
import numpy as np
import pytest

from scionet.bench.failures import Failure, load_failure, save_failure
from scionet.bench.files import RecordError
from scionet.bench.ledger import Payment
from scionet.bench.pairs import pairs
from scionet.bench.protocol import arm_of, contestant_of, panel_of, protocol
from scionet.bench.record import RunRecord, Tried, packed, unpacked
from scionet.bench.report import html
from scionet.bench.study import studies

ARMS = {"as cut": 300, "fine-tuned": 340, "scratch-e": 320}


def run_of(who: str, arm: str, seed: int, correct: int) -> RunRecord:
    plain = examples.record(who if who in examples.LOST else "random", seed=seed, correct=correct)
    method = who if arm == "as cut" else f"{who} + {arm}"
    right = np.arange(plain.pruned.seen) < correct
    ledger = (Payment("selection", 64, 5e9, 2.0), Payment("training", 1000, 3e9, 4.0 + seed))
    return replace(
        plain,
        spec=replace(plain.spec, method=method, settings={"arm": arm}),
        ledger=ledger,
        sweep=(Tried(0.01, 1, 90, 100), Tried(0.1, 1, 95, 100), Tried(0.2, 1, 95, 100)),
        answers=packed(right),
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


def test_rows_know_their_arm_their_panel_and_whose_architecture_it_is(records: list[RunRecord]) -> None:
    [study] = studies(records)
    found = {row.method: (arm_of(row), panel_of(row), contestant_of(row)) for row in study.rows}
    assert found["forward"] == ("as cut", "as cut", "forward")
    assert found["l1 + scratch-e"] == ("scratch-e", "scratch-e", "l1")
    assert found["uniform scratch-e"] == ("uniform scratch-e", "scratch-e", "uniform")


def test_accounts_are_means_over_runs(records: list[RunRecord]) -> None:
    [study] = studies(records)
    found = protocol(study, "p")
    assert found is not None
    [(_, accounts)] = found.accounts
    account = next(a for a in accounts if a.row.method == "forward + fine-tuned")
    assert account.seconds == (0, 2.0, 0, 4.5, 0) and account.images == 1064 and account.rates == (0.1,)
    assert account.passes == pytest.approx(8e9 / examples.DENSE_MACS / 1e3)


def test_pairs_use_the_examples_where_the_records_have_them(records: list[RunRecord]) -> None:
    pair = next(p for p in pairs(records, "forward + fine-tuned") if p.other == "l1 + fine-tuned")
    assert pair.ahead == pytest.approx(100 * 10 / 360)
    assert pair.certain and pair.low is not None and 0 < pair.low < pair.ahead < (pair.high or 0)
    blank = [replace(record, answers="") for record in records]
    seeds_alone = next(p for p in pairs(blank, "forward + fine-tuned") if p.other == "l1 + fine-tuned")
    assert seeds_alone.low == pytest.approx(seeds_alone.ahead)  # the seeds agree, and nothing else is known


def test_the_page_shows_panels_differences_ledger_and_failures(records: list[RunRecord]) -> None:
    failure = Failure(records[0].spec, "UnreachableBudget", "no plan <meets> the budget")
    page = html(records, "arms", failures=[failure])
    text = re.sub(r"<[^>]+>", " ", page)
    for words in ("Inherit the weights, or begin anew?", "What each has paid", "Runs that failed", "+2.78"):
        assert words in text
    assert "no plan &lt;meets&gt; the budget" in page
    assert all(f">{arm}</text>" in page or arm in page for arm in ARMS)
    assert "<script" not in page


def test_a_page_without_arms_has_no_ledger() -> None:
    plain = html([examples.record("forward"), examples.record("l1")], "plain")
    assert "What each has paid" not in plain and "Runs that failed" not in plain


def test_answers_survive_and_damage_is_refused() -> None:
    right = np.random.default_rng(0).random(1003) < 0.5
    assert np.array_equal(unpacked(packed(right), 1003), right)
    with pytest.raises(RecordError, match="answers to 2000 examples are asked for"):
        unpacked(packed(right), 2000)
    with pytest.raises(RecordError, match="answers are damaged"):
        unpacked("§", 3)


def test_failures_survive_and_damage_is_refused(tmp_path) -> None:
    failure = Failure(examples.spec(), "TrainingError", "the loss is NaN", "Traceback")
    path = save_failure(failure, tmp_path / "failures")
    assert load_failure(path) == failure
    path.write_text("{}")
    with pytest.raises(RecordError, match=r"Failure\.spec is missing"):
        load_failure(path)
