"""The tables of docs/early.md, made from the records of early_pruning.py."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from benchmarks.report.columns import table
from benchmarks.run.early.early_record import DENSE, VALIDATED, EarlyRecord
from scionet.bench.records.record import decode_answers
from scionet.bench.report.intervals import differences, paired_interval
from scionet.bench.report.summary import Spread

BASE = "magnitude"
"""The method that all others are compared with."""
HEADS = (
    *("method", "test accuracy, %", f"ahead of {BASE}, points", "after the 1st epoch, %", "2nd, %", "3rd, %"),
    *("gradient norm, eval", "as in training", "MACs kept, %", "narrowest site, %"),
)

Runs = Sequence[EarlyRecord]


def to_markdown(records: Runs) -> str:
    """A table for each network and number of rounds."""
    cases = dict.fromkeys((run.network, run.rounds) for run in records if run.rounds)
    return "\n\n".join("\n".join(_case(records, network, rounds)) for network, rounds in cases)


def _case(records: Runs, network: str, rounds: int) -> Iterator[str]:
    found = [run for run in records if run.network == network and run.rounds == rounds]
    dense = [run for run in records if run.network == network and run.method == DENSE]
    whole = ", ".join(f"{100 * run.correct / run.seen:.2f}" for run in dense)
    times = "round" if rounds == 1 else "rounds"
    yield f"**{network}, {rounds} {times}, {found[0].density:.0%} of the filters** (dense: {whole} %)"
    yield ""
    base = [run for run in found if run.method == BASE]
    by_method = {name: [run for run in found if run.method == name] for name in {run.method for run in found}}
    best_first = sorted(by_method.values(), key=lambda runs: -_mean(runs, _test))
    yield table(HEADS, [list(_row(runs, base)) for runs in best_first])


def _row(runs: Runs, base: Runs) -> Iterator[str]:
    yield runs[0].method
    yield Spread.of([_test(run) for run in runs]).text(2)
    yield "" if runs[0].method == BASE else _ahead(runs, base)
    for later in range(3):
        yield f"{_mean(runs, lambda run, later=later: _after(run, later)):.1f}"
    for place in range(2):
        yield f"× {_factor(runs, place):.2f}"
    yield f"{_mean(runs, lambda run: 100 * run.macs[1] / run.macs[0]):.1f}"
    yield f"{_mean(runs, lambda run: 100 * min(kept / width for width, kept in run.widths.values())):.0f}"


def _ahead(runs: Runs, base: Runs) -> str:
    """Mean difference of the test accuracies and its interval over seeds and test images; bold if it excludes 0."""
    theirs = {run.seed: run for run in base}
    both = [(run, theirs[run.seed]) for run in runs if run.seed in theirs]
    right = [[decode_answers(run.answers, run.seen) for run in side] for side in zip(*both, strict=True)]
    ahead = differences(*right)
    text = f"{ahead.mean():+.2f}"
    if len(both) < 2:
        return text
    low, high = paired_interval(ahead)
    return f"{text if low <= 0 <= high else f'**{text}**'} ({low:+.2f} to {high:+.2f})"


def _test(run: EarlyRecord) -> float:
    return 100 * run.correct / run.seen


def _after(run: EarlyRecord, later: int) -> float:
    """Validation accuracy in percent; `later` counts epochs from the first one after the last round."""
    return 100 * run.validation[run.rounds + later] / VALIDATED


def _factor(runs: Runs, place: int) -> float:
    """The factor by which a round changes the gradient norm: geometric mean over rounds and seeds."""
    factors = [step.norms[2 + place] / step.norms[place] for run in runs for step in run.steps]
    return float(np.exp(np.mean(np.log(factors))))


def _mean(runs: Runs, of: Callable[[EarlyRecord], float]) -> float:
    return float(np.mean([of(run) for run in runs]))
