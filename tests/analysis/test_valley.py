"""The loss along a segment: against plain loops, on a network whose loss is known, and with a barrier."""

import pytest
import torch
from support.pupils import CLASSES, examples, learnt, network, plain
from torch import nn
from torch.nn import functional

from scionet import mask_weights
from scionet.analysis.valley import Valley, valley
from scionet.errors import CalibrationError, InvalidSetting


def pairs() -> list[tuple[torch.Tensor, torch.Tensor]]:
    images, labels = examples(40).tensors
    return [(images[:25], labels[:25]), (images[25:], labels[25:])]


def test_points_are_those_of_interpolated_networks() -> None:
    first, second = plain(0), plain(1)
    found = valley(first, second, pairs(), points=5)
    assert found.positions == (0, 0.25, 0.5, 0.75, 1)
    images, labels = examples(40).tensors
    for position, loss, rate in zip(found.positions, found.losses, found.accuracies, strict=True):
        middle = plain().double()
        states = zip(first.state_dict().items(), second.state_dict().values(), strict=True)
        middle.load_state_dict({n: (1 - position) * a.double() + position * b.double() for (n, a), b in states})
        logits = middle(images.double()).detach()
        assert loss == pytest.approx(functional.cross_entropy(logits, labels).item())
        assert rate == pytest.approx((logits.argmax(1) == labels).double().mean().item())


def test_the_loss_of_a_linear_network_is_convex_and_has_no_barrier() -> None:
    first, second = (nn.Sequential(nn.Flatten(), nn.Linear(72, CLASSES)) for _ in range(2))
    found = valley(first, second.state_dict(), pairs())
    assert found.barrier == found.rise == 0


def test_two_trainings_from_different_weights_have_a_barrier_and_a_network_and_itself_have_none() -> None:
    first, second = plain(0), plain(1)
    for model in (first, second):
        learnt(model)
    assert valley(first, second, pairs()).barrier > 0.05
    assert valley(first, first, pairs()).barrier == pytest.approx(0, abs=1e-12)


def test_heights_by_hand() -> None:
    found = Valley((0, 0.5, 1), (1.0, 3.0, 2.0), (0.9, 0.4, 0.7))
    assert (found.barrier, found.rise) == (1.5, 1.0)
    assert found.accuracy_barrier == pytest.approx(0.4)


def test_a_masked_network_can_be_compared_and_statistics_measured_again() -> None:
    model = network().eval()
    masked = mask_weights(model, 0.3).masks.applied(model)
    plainly, again = (valley(model, masked, pairs(), points=3, recalibrate=flag) for flag in (False, True))
    assert plainly.losses[0] == again.losses[0]
    assert plainly.losses[-1] == again.losses[-1]
    assert plainly.losses[1] != again.losses[1]


def test_bad_input_is_refused() -> None:
    with pytest.raises(InvalidSetting, match=r"differ in 2 tensors, such as '3.bias'"):
        valley(plain(), nn.Sequential(nn.Flatten(), nn.Linear(72, 16), nn.Tanh(), nn.Linear(16, 3)), pairs())
    with pytest.raises(InvalidSetting, match="points must be 2 or more"):
        valley(plain(), plain(), pairs(), points=1)
    with pytest.raises(CalibrationError, match="no batches"):
        valley(plain(), plain(), [])
