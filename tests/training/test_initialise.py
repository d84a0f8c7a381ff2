"""New initial weights: their spread, what is forgotten, and what cannot be initialised."""

import copy

import pytest
import torch
from torch import nn

from scionet.errors import TrainingError
from scionet.models.resnets import resnet20
from scionet.training.initialise import initialise, sparse_kaiming_


def test_convolutions_have_the_spread_of_he_by_fan_out_of_their_group() -> None:
    model = nn.Sequential(nn.Conv2d(64, 128, 3), nn.Conv2d(128, 256, 3, groups=4, bias=False))
    initialise(model, 0)
    assert model[0].weight.var().item() == pytest.approx(2 / (9 * 128), rel=0.03)
    assert model[1].weight.var().item() == pytest.approx(2 / (9 * 64), rel=0.03)
    assert model[0].bias is not None
    assert not model[0].bias.any()


def test_nothing_is_left_of_the_old_weights_and_the_seed_decides() -> None:
    model = resnet20()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.fill_(7)
    one, same, other = copy.deepcopy(model), copy.deepcopy(model), copy.deepcopy(model)
    before = torch.get_rng_state()
    for network, seed in ((one, 1), (same, 1), (other, 2)):
        initialise(network, seed)
    assert torch.equal(before, torch.get_rng_state())
    states = [network.state_dict() for network in (one, same, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["conv1.weight"], states[2]["conv1.weight"])
    assert not any((tensor == 7).any() for tensor in states[0].values())
    assert one.bn1.running_var.eq(1).all()
    assert one.bn1.num_batches_tracked == 0


def test_a_parameter_that_nobody_can_initialise_is_named() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.zeros(3))

    with pytest.raises(TrainingError, match=r"1 \(Odd\) holds parameters itself and has no reset_parameters"):
        initialise(nn.Sequential(nn.Linear(2, 2), Odd()), 0)


def test_masked_weights_count_survivors_only() -> None:
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(64, 32, 3, 3, generator=generator) < 0.6
    weight = sparse_kaiming_(torch.full(mask.shape, 3.0), mask, generator)
    assert torch.equal(weight != 0, mask)
    assert weight[mask].var().item() == pytest.approx(2 * 32 / int(mask.sum()), rel=0.05)
    assert not sparse_kaiming_(torch.ones(2, 2), torch.zeros(2, 2, dtype=torch.bool)).any()
    with pytest.raises(TrainingError, match="one shape"):
        sparse_kaiming_(torch.ones(2, 2), torch.ones(3, 2, dtype=torch.bool))
