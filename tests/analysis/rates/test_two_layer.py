"""Two-layer networks: gradients by differences, atoms that add up to the network, tasks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scionet.analysis.rates.pictures import picture_task, two_groups
from scionet.analysis.rates.two_layer import Task, TwoLayer, taught
from scionet.errors import InvalidSetting

PARTS = ("weights", "offsets", "outputs")


def network(seed: int, size: int = 5, inputs: int = 3, outputs: int = 2) -> TwoLayer:
    return TwoLayer.random(size, inputs, outputs, np.random.default_rng(seed))


def task(seed: int, count: int = 7, inputs: int = 3, outputs: int = 2) -> Task:
    rng = np.random.default_rng(seed)
    return Task(rng.standard_normal((count, inputs)), rng.standard_normal((count, outputs)))


@given(st.integers(0, 100))
def test_a_step_goes_along_the_mean_field_gradient(seed) -> None:
    net, given = network(seed), task(seed)
    moved = net.stepped(given, 0.1)
    step = 1e-6
    for name in PARTS:
        values = getattr(net, name)
        for place in np.ndindex(values.shape):
            change = np.zeros_like(values)
            change[place] = step
            losses = [TwoLayer(**{**vars(net), name: values + sign * change}).loss(given) for sign in (1, -1)]
            slope = 5 * (losses[0] - losses[1]) / (2 * step)  # times n
            assert (values - getattr(moved, name))[place] == pytest.approx(0.1 * slope, rel=1e-5, abs=1e-8)


def test_the_network_is_the_mean_of_its_atoms() -> None:
    net, given = network(0), task(1)
    atoms = net.atoms(given.inputs)
    np.testing.assert_allclose(atoms.mean(axis=0) * np.sqrt(7), net.predictions(given.inputs).ravel(), rtol=1e-12)
    assert 2 * net.loss(given) == pytest.approx(((atoms.mean(axis=0) - given.target) ** 2).sum())


def test_training_lowers_the_loss_and_batches_are_followed() -> None:
    net, given = network(0, 40), task(1)
    assert net.trained(given, 200, 0.5).loss(given) < 0.2 * net.loss(given)
    training = net.training(given, 0.5)
    assert [next(training).loss(given) for _ in range(4)] == [net.trained(given, k, 0.5).loss(given) for k in range(4)]
    some = net.training(given, 0.5, lambda: np.array([2, 4]))
    next(some)
    part = Task(given.inputs[[2, 4]], given.targets[[2, 4]])
    assert np.array_equal(next(some).weights, net.stepped(part, 0.5).weights)


def test_teachers_are_those_of_the_protocol() -> None:
    found = taught(4000, 20, 0)
    assert found.inputs.std() == pytest.approx(2 / np.sqrt(20), rel=0.01)
    assert 0.3 < found.targets.var() < 1.2
    assert taught(10, 5, 1, 6, 1.0).inputs.shape == (10, 5)
    assert taught(10, 5, 1).part(4).inputs.shape == (4, 5)


def test_pictures_become_inputs_of_a_common_scale_and_indicators() -> None:
    rng = np.random.default_rng(0)
    pictures, labels = rng.uniform(0, 1, (50, 1, 4, 4)), np.repeat([3, 5, 8, 9, 11], 10)
    found = picture_task(pictures, labels)
    np.testing.assert_allclose(found.inputs.mean(axis=0), 0, atol=1e-12)
    assert (found.inputs**2).sum(axis=1).mean() == pytest.approx(4)
    np.testing.assert_allclose(found.targets.sum(axis=0), 0, atol=1e-12)
    assert np.array_equal(found.targets.argmax(axis=1), np.repeat(range(5), 10))
    groups = two_groups(found)
    assert groups.targets.sum() == pytest.approx(0)
    assert [len(set(np.round(groups.targets[k : k + 10, 0], 9))) for k in range(0, 50, 10)] == [1] * 5
    assert np.array_equal(groups.targets[:, 0] > 0, labels < 8)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Task(np.zeros((3, 2)), np.zeros((2, 1))),
        lambda: Task(np.zeros((0, 2)), np.zeros((0, 1))),
        lambda: Task(np.zeros(3), np.zeros(3)),
        lambda: TwoLayer.random(0, 1, 1, np.random.default_rng(0)),
        lambda: picture_task(np.random.default_rng(0).random((4, 2)), np.zeros(4, dtype=np.int64)),
        lambda: picture_task(np.ones((4, 2)), np.arange(4)),
    ],
)
def test_what_cannot_be_learnt_is_refused(make) -> None:
    with pytest.raises(InvalidSetting):
        make()
