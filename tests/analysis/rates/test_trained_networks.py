"""T3, its reversal, T4 and the pre-training threshold, with the protocols and the figures of the theory's checks."""

from dataclasses import replace

import numpy as np
import pytest

from scionet.analysis.rates.curves import descent, slope
from scionet.analysis.rates.pretraining import Pretraining, pretraining_needed, reached
from scionet.analysis.rates.problems import Problem
from scionet.analysis.rates.scratch import LONGER, STANDARD, Protocol, compared, crossover, teacher_task
from scionet.analysis.rates.two_layer import Task, TwoLayer, taught
from scionet.analysis.rates.untrained import few_teachers, from_random_neurons
from scionet.errors import InvalidSetting
from scionet.selection.greedy import greedy as selected
from scionet.selection.quadratic import LeastSquaresObjective
from scionet.selection.terms import Term

QUICK = Protocol(steps=60, large=60, picks=60, sizes=(5, 10, 20, 40), runs=1, windows=((5, 40), (20, 60)))


def test_a_comparison_is_what_its_parts_are() -> None:
    task_of = teacher_task(8, 4)
    found = compared("small", task_of, (0, 1), QUICK)
    assert (found.label, found.examples, found.scratch.n) == ("small", 8, QUICK.sizes)
    assert [len(s) for s in (found.pruned_slopes, found.scratch.values)] == [2, 4]
    assert found.pruned_slopes[0].seeds == found.scratch_slope.seeds == 2
    again = compared("small", task_of, (0, 1), QUICK)
    assert again == found
    more = compared("small", task_of, (0, 1), replace(QUICK, runs=2))
    assert more.pruned == found.pruned
    assert more.scratch != found.scratch


def test_crossovers_lie_where_lines_cross() -> None:
    sizes = np.array([10, 100, 1000])
    assert crossover(sizes, 1.0 * sizes**-2.0, 0.01 * sizes**-1.0) == pytest.approx(100)
    assert crossover(sizes, 0.5 * sizes**-2.0, 0.01 * sizes**-1.0) == pytest.approx(50)
    assert crossover(sizes, 1.0 / sizes, 2.0 / sizes) is None
    assert crossover(sizes, 2.0 / sizes, 1.0 / sizes) is None
    assert crossover(sizes, np.array([1.0, 0.1]), np.array([0.5, 0.2, 0.1])) == pytest.approx(np.sqrt(1000))


@pytest.mark.parametrize("change", [{"steps": 0}, {"sizes": (3,)}, {"runs": 0}, {"windows": ((2, 90),)}])
def test_protocols_that_cannot_be_followed_are_refused(change) -> None:
    with pytest.raises(InvalidSetting):
        replace(QUICK, **change)


@pytest.mark.slow
def test_pruned_networks_beat_scratch_beyond_a_crossover() -> None:
    found = compared("teacher", teacher_task(100, 20), range(3))
    early, late = found.pruned_slopes
    assert early.value == pytest.approx(-1.79, abs=0.12)
    assert late.value == pytest.approx(-1.99, abs=0.12)
    assert found.scratch_slope.value == pytest.approx(-0.85, abs=0.2)
    assert found.crossover is not None
    assert 150 <= found.crossover <= 640
    assert found.pruned.values[-1] < found.dense
    assert found.geometry.distance.low == 0
    assert found.geometry.radius is not None
    assert found.geometry.radius.high > 0.01
    assert found.scratch.values[-2] == pytest.approx(found.dense, rel=0.5)


@pytest.mark.slow
def test_longer_training_reverses_the_result() -> None:
    found = compared("teacher, longer", teacher_task(100, 5), (0,), LONGER)
    assert found.pruned_ahead == 0
    assert found.scratch.values[-1] < 1e-7
    assert found.scratch_slope.value < -2
    at = dict(zip(found.pruned.n, found.pruned.values, strict=True))
    assert 1e-4 <= at[161] <= 4e-3


@pytest.mark.slow
def test_random_neurons_reach_no_fast_rate() -> None:
    """The slopes of one problem were −0.16, −0.39 and −0.82, and −1.40 for trained neurons (n = 20-640)."""
    three = from_random_neurons(few_teachers, range(3))
    *random, trained = (each.slope.value for each in three)
    assert random[0] > random[1] > random[2] > -1.2
    assert random[0] > -0.5
    assert random[1] > -0.85
    assert random[2] < -0.7
    assert trained < random[2]
    assert three[0].geometry.distance.low > 0.01 > three[2].geometry.distance.high
    slopes = []
    for seed in range(3):
        task = few_teachers(seed)
        net = TwoLayer.random(1000, 5, 1, np.random.default_rng(seed)).trained(task, 300, 0.5)
        squares = descent(Problem(net.atoms(task.inputs), task.target), 640).squares
        slopes.append(slope(np.arange(20, 641), squares[19:]))
    assert -1.6 <= min(slopes) <= max(slopes) <= -0.9


@pytest.mark.slow
def test_free_weights_matter_more_than_repetition() -> None:
    """Losses of a trained network's labels at equal numbers of distinct neurons (m = 100, N = 1,000)."""
    task = taught(100, 20, 0)
    net = TwoLayer.random(1000, 20, 1, np.random.default_rng(0)).trained(task, 300, STANDARD.rate)
    problem = Problem(net.atoms(task.inputs), task.target)
    repeated, once = descent(problem, 2000), descent(problem, 200, repetition=False)
    searched = descent(problem, 600, "line search")
    gram, cross = problem.atoms @ problem.atoms.T, problem.atoms @ problem.target[:, None]
    columns = np.arange(1000)[:, None]
    square = float(problem.target @ problem.target)
    term = Term(gram, cross, square, columns, np.zeros(0, dtype=np.int64), np.ones((1, 1000)))
    objective = LeastSquaresObjective([term], 1e-12)
    pursuit = -np.array(selected(objective, 80).values) * square / 2
    expected = {
        50: (4.3e-3, 3.7e-3, 1.7e-3),
        100: (1.22e-3, 1.10e-3, 3.3e-4),
        150: (4.3e-4, 5.7e-4, None),
        200: (1.8e-4, 2.6e-4, None),
    }
    for distinct, (with_repetition, without, line_search) in expected.items():
        assert repeated.squares[repeated.distinct == distinct][0] / 2 == pytest.approx(with_repetition, rel=0.6)
        assert once.squares[distinct - 1] / 2 == pytest.approx(without, rel=0.6)
        if line_search:
            assert searched.squares[searched.distinct == distinct][0] / 2 == pytest.approx(line_search, rel=0.8)
    assert pursuit[49] < 5e-4
    assert pursuit[79] < 1e-5
    assert np.all(pursuit[:80] <= once.squares[:80] / 2)


def test_thresholds_are_where_losses_fall_below_the_level_for_good() -> None:
    steps = (0, 1, 2, 4, 8)
    assert reached(steps, np.array([1, 0.8, 0.4, 0.2, 0.1]), 0.4) == pytest.approx(2)
    assert reached(steps, np.array([1, 0.8, 0.4, 0.2, 0.1]), 0.2 * np.sqrt(2)) == pytest.approx(2 * np.sqrt(2))
    assert reached(steps, np.array([1, 0.3, 0.8, 0.2, 0.1]), 0.4) == pytest.approx(2 * 2**0.5)
    assert reached(steps, np.array([0.2, 0.1, 0.1, 0.1, 0.1]), 0.4) == 0
    assert reached(steps, np.array([1, 0.8, 0.4, 0.2, 0.5]), 0.4) is None


def test_pretraining_is_measured_by_the_number_of_examples() -> None:
    rng = np.random.default_rng(0)
    task = Task(rng.standard_normal((64, 4)), np.eye(3)[rng.integers(3, size=64)] - 1 / 3)
    quick = Pretraining(neurons=40, picks=20, batch_size=8, last=64, level=0.6)
    assert quick.steps == (0, 1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64)
    found = pretraining_needed(task, (8, 16, 32), (0, 1), quick)
    assert [t.examples for t in found.thresholds] == [8, 16, 32]
    assert all(len(t.steps) == 2 for t in found.thresholds)
    assert all(t.pruned.n == quick.steps[1:] for t in found.thresholds)
    reachable = [steps for t in found.thresholds for steps in t.steps if steps]
    if found.logarithmic and found.power:
        x = np.log([t.examples for t in found.thresholds for steps in t.steps if steps])
        line = np.polyfit(x, reachable, 1)
        assert found.logarithmic.slope == pytest.approx(line[0])
        assert found.logarithmic.low < line[0] < found.logarithmic.high
        rest = np.array(reachable) - np.polyval(line, x)
        assert found.logarithmic.explained == pytest.approx(1 - rest.var() / np.var(reachable))
        assert found.power.slope == pytest.approx(np.polyfit(x, np.log(reachable), 1)[0])
    unreachable = pretraining_needed(task, (8, 16, 32), (0,), replace(quick, level=1e-6))
    assert [t.steps for t in unreachable.thresholds] == [(None,)] * 3
    assert unreachable.logarithmic is None


@pytest.mark.parametrize("counts", [(), (1,), (65,)])
def test_numbers_of_examples_that_there_are_not_are_refused(counts) -> None:
    task = Task(np.random.default_rng(0).standard_normal((64, 2)), np.ones((64, 1)))
    with pytest.raises(InvalidSetting, match="from 2 to 64"):
        pretraining_needed(task, counts, (0,))


@pytest.mark.parametrize("change", [{"neurons": 0}, {"level": 1.0}, {"last": 0}])
def test_pretraining_out_of_range_is_refused(change) -> None:
    with pytest.raises(InvalidSetting):
        Pretraining(**change)
