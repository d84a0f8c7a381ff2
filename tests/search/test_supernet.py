"""The supernet: its parts, its sampling, and the networks that it contains."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from scionet.models.resnets import CifarResNet, Residual, digits_cnn, projection
from scionet.models.vgg import small_vgg
from scionet.search.derived import derived
from scionet.search.relaxation import interpolated, padded
from scionet.search.space import SearchSpace
from scionet.search.supernet import Picked, SearchedConv, SearchedStage, Supernet

X = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Small(nn.Module):
    """A stem and two residual stages, of three blocks and of one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 10, 3, padding=1, bias=False), nn.BatchNorm2d(10)
        self.one = nn.Sequential(*(Residual(10, 10, 1, nn.Identity()) for _ in range(3)))
        self.two = Residual(10, 20, 2, projection(10, 20, 2))
        self.head = nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.conv(x)))
        return self.head(self.two(self.one(x)).mean((2, 3)))


def supernet(model: nn.Module, candidates: int = 2, seed: int = 0) -> Supernet:
    return Supernet(model, SearchSpace.of(model, X), candidates, seed)


def trained(model: nn.Module) -> Supernet:
    """A supernet whose BatchNorms have statistics."""
    found = supernet(model)
    torch.manual_seed(0)
    for _ in range(40):
        found(torch.randn(8, 1, 8, 8))
    return found


def prefer(found: Supernet, positions: list[int]) -> None:
    for logits, position in zip(found.logits(), positions, strict=True):
        logits.zero_()
        logits[position] = 50.0


EQUAL: dict[str, tuple[Any, list[list[int]]]] = {
    # stem, three blocks, one block; depths. Equal widths within a stage: no block gains a shortcut.
    "residual": (
        Small,
        [[3, *(1, 3), *(0, 3), *(2, 3), *(5, 4), 1, 0], [7, *(1, 7), *(2, 7), *(3, 7), *(7, 7), 2, 0]],
    ),
    "chain": (lambda: small_vgg(channels=1), [[0, 3, 2, 7, 4, 5], [7] * 6]),
}


@pytest.mark.parametrize("name", EQUAL)
def test_the_most_probable_path_computes_what_its_network_computes(name: str) -> None:
    make, cases = EQUAL[name]
    model = make()
    found = trained(model)
    for positions in cases:
        prefer(found, positions)
        assert found.architecture == found.space.at(positions)
        network = derived(model, found.architecture, 1, found).eval().double()
        path = found.eval().double()
        assert torch.allclose(network(X.double()), path(X.double()), atol=1e-12)
        found.float().train()


def test_where_a_shortcut_is_inserted_the_path_adds_into_leading_channels_instead() -> None:
    model = Small()
    found = trained(model)
    prefer(found, [3, *(1, 5), *(0, 3), *(2, 3), *(5, 4), 2, 0])
    network = derived(model, found.architecture, 1, found).eval()
    assert isinstance(network.one[0].shortcut, nn.Sequential)  # type: ignore[index]
    assert not torch.allclose(network(X), found.eval()(X), atol=1e-3)


def test_a_searched_convolution_is_the_weighted_sum_of_its_candidates() -> None:
    torch.manual_seed(0)
    conv = SearchedConv(nn.Conv2d(5, 10, 3), nn.BatchNorm2d(10), (3, 7, 10)).eval()
    for norm in conv.norms:
        norm.running_mean.normal_()  # type: ignore[union-attr,operator]
    x = torch.randn(2, 4, 6, 6)
    conv.picked = Picked((1, 0), torch.tensor([0.3, 0.7]))
    seven = conv.norms[1](functional.conv2d(x, conv.conv.weight[:7, :4], conv.conv.bias[:7]))  # type: ignore[index]
    three = conv.norms[0](functional.conv2d(x, conv.conv.weight[:3, :4], conv.conv.bias[:3]))  # type: ignore[index]
    assert torch.allclose(conv(x), 0.3 * seven + 0.7 * interpolated(three, 7), atol=1e-6)


def test_a_stage_is_the_weighted_sum_over_its_depths() -> None:
    stage = SearchedStage([nn.Conv2d(2, 3, 1), nn.Conv2d(3, 5, 1), nn.Conv2d(5, 4, 1)], (1, 3))
    x = torch.randn(2, 2, 3, 3)
    first = stage.blocks[0](x)
    third = stage.blocks[2](stage.blocks[1](first))
    stage.picked = Picked((0, 1), torch.tensor([0.4, 0.6]))
    assert torch.allclose(stage(x), 0.4 * interpolated(first, 4) + 0.6 * third, atol=1e-6)
    stage.picked = Picked((0,))
    assert torch.equal(stage(x), first)


@pytest.mark.parametrize("candidates", [1, 2, 3, 9])
def test_as_many_widths_are_sampled_as_asked_for(candidates: int) -> None:
    found = supernet(Small(), candidates)
    seen: list[Picked] = []
    found.convs[0].register_forward_hook(lambda module, *_: seen.append(module.picked))
    torch.manual_seed(0)
    for _ in range(20):
        assert found(X).shape == (6, 10)
    count = min(candidates, len(found.convs[0].choices))
    assert all(len(set(picked.indices)) == count for picked in seen)
    assert all(float(picked.weights.sum()) == pytest.approx(1) for picked in seen)  # type: ignore[union-attr]
    assert len({picked.indices for picked in seen}) > 1


def test_logits_are_no_weights_and_get_gradients_where_asked() -> None:
    found = supernet(Small())
    assert not any("logits" in name for name, _ in found.named_parameters())
    assert [len(logits) for logits in found.logits()] == [len(options) for options in found.space.choices]
    assert max(float(logits.abs().max()) for logits in found.logits()) < 0.06
    assert len({float(logits[0]) for logits in found.logits()}) == len(found.logits())
    logits = [each.requires_grad_() for each in found.logits()]
    torch.manual_seed(0)
    gradients = torch.autograd.grad(functional.cross_entropy(found(X), torch.arange(6)), logits)
    assert sum(float(each.abs().sum()) > 0 for each in gradients) >= len(gradients) - 1  # one stage has one depth


def test_nothing_is_sampled_in_eval_mode() -> None:
    found = trained(digits_cnn()).eval()
    assert torch.equal(found(X), found(X))


def test_the_model_is_not_changed_and_a_seed_gives_the_same_supernet() -> None:
    model = CifarResNet(1, 10, projection)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    space = SearchSpace.of(model, torch.zeros(1, 3, 8, 8))
    one, other, third = (Supernet(model, space, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(one["network.conv1.conv.weight"], third["network.conv1.conv.weight"])
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_unequal_summands_are_added_into_leading_channels() -> None:
    x, y = torch.ones(1, 2, 1, 1), torch.ones(1, 3, 1, 1)
    assert (padded(x, 3) + padded(y, 3)).flatten().tolist() == [2, 2, 1]
