"""Trial cuts: what only shows when a network is really cut is refused."""

from typing import Any

import torch
from small import Net, conv, image, pooled
from torch import Tensor, nn
from torch.nn import functional

from scionet.network.discover import discover

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
    assert {r.site: r.operation for r in sites.refused} == {"b": "trial cut", "d": "output"}


def test_a_branch_that_is_switched_off_is_tried_all_the_same() -> None:
    """The width is in the values alone, behind a BatchNorm that starts at zero as in many residual networks."""

    def forward(m: Any, x: Tensor) -> Tensor:
        y = relu(m.a(x))
        return m.head(pooled(m.stem(x) + m.norm(m.b(y / y.shape[1]))))

    model = Net(
        forward, a=conv(3, 6), b=conv(6, 4, bias=False), stem=conv(3, 4), norm=nn.BatchNorm2d(4), head=nn.Linear(4, 2)
    )
    nn.init.zeros_(model.get_parameter("norm.weight"))
    sites = discover(model, image())
    assert list(sites) == ["stem"]
    assert "differs from the masked one" in next(r.advice for r in sites.refused if r.site == "a")
