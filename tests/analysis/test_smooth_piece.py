"""Smooth pieces: derivatives are those of the network, and differences do not cross kinks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from scionet.analysis.gradient_flow import flow_rates
from scionet.analysis.smooth_piece import SmoothPiece
from scionet.errors import InvalidSetting

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "relu in place": lambda x: functional.relu(1 * x, inplace=True),
    "method": lambda x: x.relu(),
    "method in place": lambda x: (1 * x).relu_(),
    "torch": torch.relu,
    "relu6": nn.ReLU6(),
    "relu6 in place": lambda x: nn.ReLU6(inplace=True)(1 * x),
    "hardtanh": nn.Hardtanh(-0.5, 0.7),
    "leaky": nn.LeakyReLU(0.2),
    "leaky in place": lambda x: nn.LeakyReLU(0.2, inplace=True)(1 * x),
    "prelu": nn.PReLU(init=0.3).double(),
    "prelu of channels": nn.PReLU(4, init=0.3).double(),
    "threshold": nn.Threshold(0.1, 20),
    "hardsigmoid": nn.Hardsigmoid(),
    "hardswish": nn.Hardswish(),
    "hardswish in place": lambda x: nn.Hardswish(inplace=True)(1 * x),
    "abs": torch.abs,
    "clamp": lambda x: x.clamp(min=-0.2),
    "clamp with both": lambda x: torch.clamp(x, -0.2, 0.3),
    "pooling": nn.MaxPool2d(2),
    "pooling with padding": nn.MaxPool2d(3, stride=2, padding=1),
    "pooling of lines": lambda x: functional.max_pool1d(x.flatten(2), 3),
    "pooling of spaces": lambda x: functional.max_pool3d(x[:, :, None], (1, 2, 2)),
    "smooth": functional.gelu,
}


def values(shape: tuple[int, ...] = (2, 4, 6, 6), seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


@pytest.mark.parametrize("name", FUNCTIONS)
def test_value_and_derivative_at_the_point_are_those_of_the_function(name: str) -> None:
    function, piece = FUNCTIONS[name], SmoothPiece()
    x = values().requires_grad_()
    with piece:
        first = function(x)
    piece.hold()
    with piece:
        held = function(x)
    for found in (first, held):
        torch.testing.assert_close(found, function(x))
        for expected, got in zip(
            torch.autograd.grad(function(x).square().sum(), x),
            torch.autograd.grad(found.square().sum(), x),
            strict=True,
        ):
            torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("name", sorted(FUNCTIONS.keys() - {"smooth", "hardswish", "hardswish in place"}))
def test_held_pieces_are_affine_everywhere(name: str) -> None:
    function, piece = FUNCTIONS[name], SmoothPiece()
    with piece:
        function(values())
    piece.hold()
    with torch.no_grad(), piece:
        a, b, middle = (function(x) for x in (values(seed=1), values(seed=2), (values(seed=1) + values(seed=2)) / 2))
    torch.testing.assert_close(middle, (a + b) / 2)


def test_a_network_that_branches_on_its_weights_is_refused() -> None:
    piece = SmoothPiece()
    with piece:
        functional.relu(values((2, 3)))
    piece.hold()
    with piece, pytest.raises(InvalidSetting, match=r"had shape \(2, 3\), and now \(4, 3\)"):
        functional.relu(values((4, 3)))


@pytest.mark.parametrize("step", [1e-2, 1e-3])
def test_identities_hold_for_steps_across_kinks(step: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same steps without the piece: an error of some percent, since activations change sides."""
    torch.manual_seed(0)
    layers: list[Any] = [nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.LeakyReLU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(72, 5)).double()
    pairs = [(values((20, 3, 12, 12), seed), torch.arange(20) % 5) for seed in (1, 2)]
    held = flow_rates(model, pairs, step=step)
    monkeypatch.setattr(
        SmoothPiece, "__torch_function__", lambda self, func, types, args=(), kw=None: func(*args, **(kw or {}))
    )
    crossed = flow_rates(model, pairs, step=step)
    assert held.gradient_norm.predicted == pytest.approx(crossed.gradient_norm.predicted, rel=1e-9)
    assert held.gradient_norm.error < crossed.gradient_norm.error / 5
