"""New initial weights: their spread, what is forgotten, and what cannot be initialised."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from scionet.errors import TrainingError
from scionet.models.resnets import resnet20
from scionet.training.initialise import initialise


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


def masks_of(model: nn.Module, density: float) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.rand(weight.shape, generator=generator) < density
        for name, weight in model.named_parameters()
        if weight.ndim > 1
    }


def test_masked_weights_count_survivors_only() -> None:
    """Variance 2 C_in / kept for convolutions, as in the official code of Liu et al."""
    model = nn.Sequential(nn.Conv2d(32, 64, 3, bias=False), nn.Conv2d(64, 256, 3, groups=2), nn.Linear(400, 300))
    masks = masks_of(model, 0.6)
    initialise(model, 7, masks)
    spreads = {name: model.get_parameter(name)[mask].var().item() for name, mask in masks.items()}
    for name, mask in masks.items():
        assert int(mask.sum()) >= 10_000
        assert torch.equal(model.get_parameter(name) != 0, mask)
    assert spreads["0.weight"] == pytest.approx(2 * 32 / int(masks["0.weight"].sum()), rel=0.05)
    assert spreads["1.weight"] == pytest.approx(2 * 64 / int(masks["1.weight"].sum()), rel=0.05)
    assert spreads["2.weight"] == pytest.approx(1 / (3 * int(masks["2.weight"].sum()) / 300), rel=0.05)


@given(density=st.floats(0.05, 1))
def test_sums_over_kept_inputs_spread_as_those_over_all_of_them(density: float) -> None:
    dense, thin = nn.Linear(2000, 400, bias=False), nn.Linear(2000, 400, bias=False)
    initialise(dense, 1)
    initialise(thin, 2, masks_of(thin, density))
    x = torch.randn(2000, generator=torch.Generator().manual_seed(3))
    assert thin(x).std().item() == pytest.approx(dense(x).std().item(), rel=0.25)


def test_whole_and_empty_masks_are_the_ends_of_the_range() -> None:
    plain, whole, empty = resnet20(), resnet20(), resnet20()
    initialise(plain, 4)
    initialise(whole, 4, {name: torch.ones_like(m) for name, m in masks_of(whole, 1).items()})
    initialise(empty, 4, {"conv1.weight": torch.zeros(16, 3, 3, 3, dtype=torch.bool)})
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in plain.state_dict().items())
    assert not empty.conv1.weight.any()
    assert torch.equal(empty.linear.weight, plain.linear.weight)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("conv1.weight", (16, 3, 3), "shape \\(16, 3, 3\\), the network has \\(16, 3, 3, 3\\)"),
        ("conv9", (1,), "no such"),
    ],
)
def test_masks_of_another_network_are_refused(name: str, shape: tuple[int, ...], message: str) -> None:
    model = resnet20()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(TrainingError, match=message):
        initialise(model, 0, {name: torch.ones(shape, dtype=torch.bool)})
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
