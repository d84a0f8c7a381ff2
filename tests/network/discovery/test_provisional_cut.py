"""Provisional cuts: sites whose problem shows only when the network is cut are refused."""

from typing import Any
from weakref import WeakSet

import pytest
import torch
from support.small_networks import Net, conv, image, pooled
from torch import Tensor, nn
from torch.nn import functional

from scionet.errors import UnsupportedModel
from scionet.network.discovery.discover import discover

relu = functional.relu


def test_one_of_two_sites_that_only_fail_together_is_refused() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        a, b = relu(m.a(x)), relu(m.b(x))
        if a.shape[1] < 6 and b.shape[1] < 6:
            raise RuntimeError("one of both must be whole")
        return m.d(relu(m.c(torch.cat([a, b], 1))))

    model = Net(forward, a=conv(3, 6), b=conv(3, 6), c=conv(12, 5), d=conv(5, 2))
    sites = discover(model, image())
    assert list(sites) == ["a", "c"]
    assert {r.site: r.operation for r in sites.refused} == {"b": "provisional cut", "d": "output"}


def test_a_branch_behind_a_zero_scale_is_cut_provisionally_too() -> None:
    """A wrong width changes the values only, behind a BatchNorm that starts at zero as in many residual networks."""

    def forward(m: Any, x: Tensor) -> Tensor:
        y = relu(m.a(x))
        return m.head(pooled(m.stem(x) + m.norm(m.b(y / y.shape[1]))))

    model = Net(
        forward, a=conv(3, 6), b=conv(6, 4, bias=False), stem=conv(3, 4), norm=nn.BatchNorm2d(4), head=nn.Linear(4, 2)
    )
    nn.init.zeros_(model.get_parameter("norm.weight"))
    sites = discover(model, image())
    assert list(sites) == ["stem"]
    assert list(sites.consumers) == ["head.weight"]
    assert "differs from the masked one" in next(r.advice for r in sites.refused if r.site == "a")


def test_failed_copies_are_released() -> None:
    """An error refers to its frames, and they refer to the copy: no error may be kept, or memory runs out."""
    alive, most = WeakSet[nn.Module](), 0

    class Counted(nn.Module):
        def __new__(cls, *_: object) -> "Counted":
            alive.add(instance := super().__new__(cls))
            return instance

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = (nn.ModuleList(nn.Linear(8, 8) for _ in range(6)) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            nonlocal most
            most = max(most, len(alive))
            for first, second in zip(self.first, self.second, strict=True):
                x = second(relu(first(x)).view(-1, 8)) + x
            return x

    with pytest.raises(UnsupportedModel, match="provisional cut"):
        discover(Counted(), torch.randn(2, 8))
    assert most <= 3
