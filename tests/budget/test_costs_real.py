"""Costs of real networks: predicted from the sites that `discover` finds, and measured after `cut`."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scionet.budget.allocation.allocate import uniform
from scionet.budget.budget import Budget
from scionet.budget.costs import CostModel, measure
from scionet.models.factory import build, resnet20
from scionet.network.discovery.discover import discover
from scionet.network.plan import Choice, Plan
from scionet.network.sites import Sites
from scionet.network.surgery.cut import cut


class Block(nn.Module):
    """An inverted residual: expand, depthwise, project, add."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(width, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6())
        self.depthwise = nn.Sequential(
            nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False), nn.BatchNorm2d(inner), nn.ReLU6()
        )
        self.project = nn.Sequential(nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(self.depthwise(self.expand(x)))


class Branches(nn.Module):
    """Two branches, one of grouped convolutions, concatenated and flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3)
        self.plain = nn.Conv2d(24, 30, 3, padding=1)
        self.grouped = nn.Conv2d(24, 24, 3, padding=1, groups=4)
        self.head = nn.Linear(54 * 36, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head(torch.cat([self.plain(x), self.grouped(x)], 1).relu().flatten(1))


def inverted() -> nn.Module:
    stem = nn.Sequential(nn.Conv2d(3, 12, 3, stride=2, bias=False), nn.BatchNorm2d(12), nn.ReLU())
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5))
    return nn.Sequential(stem, Block(12, 30), Block(12, 24), pool)


class Attention(nn.Module):
    """One head, whose value channels are pruned one by one, between two maps of pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(3, 12), nn.LayerNorm(12)
        self.query, self.key, self.value = nn.Linear(12, 6), nn.Linear(12, 6), nn.Linear(12, 40)
        self.out, self.head = nn.Linear(40, 30), nn.Linear(30, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.embed(x.flatten(2).transpose(1, 2)))
        weights = torch.softmax(self.query(x) @ self.key(x).transpose(1, 2), -1)
        return self.head(self.out(weights @ self.value(x)).relu().mean(1))


def transformer() -> nn.Module:
    """Four heads in every block."""
    settings = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5}
    return build("timm:vit_tiny_patch16_224", **settings)


def windows() -> nn.Module:
    """Attention in windows, whose number merges with that of the heads."""
    settings = {"img_size": 32, "window_size": 4, "depths": (2, 2), "num_heads": (2, 4), "embed_dim": 16}
    return build("timm:swin_tiny_patch4_window7_224", **settings, num_classes=5)


CASES: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "inverted residuals": (inverted, 9),
    "branches": (Branches, 8),
    "resnet20": (resnet20, 32),
    "one head": (Attention, 4),
    "transformer": (transformer, 32),
    "windows": (windows, 32),
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor, Sites]:
    build, size = CASES[request.param]
    model, inputs = build().eval(), torch.randn(2, 3, size, size)
    return model, inputs, discover(model, inputs)


def plan_with(sites: Sites, widths: dict[str, int], rng: np.random.Generator) -> Plan:
    """Random units, as many as the widths say."""
    chosen = {n: np.sort(rng.permutation(sites[n].width)[:w]).tolist() for n, w in widths.items()}
    return Plan(tuple(Choice(n, sites[n].width, tuple(kept), (1.0,) * len(kept)) for n, kept in chosen.items()))


def test_the_dense_prediction_is_the_measurement(case: tuple[nn.Module, Tensor, Sites]) -> None:
    model, inputs, sites = case
    assert CostModel(sites).dense == measure(model, inputs)


@pytest.mark.parametrize("seed", range(3))
def test_the_predicted_cost_is_measured_after_the_cut(case: tuple[nn.Module, Tensor, Sites], seed: int) -> None:
    model, inputs, sites = case
    rng = np.random.default_rng(seed)
    widths = {name: int(rng.integers(1, site.width + 1)) for name, site in sites.items()}
    smaller = cut(model, plan_with(sites, widths, rng), sites)
    assert CostModel(sites).cost(widths) == measure(smaller, inputs)


@pytest.mark.parametrize("budget", ["macs<=60%", "params<=50%, macs<=70%"])
def test_a_budget_is_met_by_the_cut_network(case: tuple[nn.Module, Tensor, Sites], budget: str) -> None:
    model, inputs, sites = case
    widths = uniform(CostModel(sites), budget)
    smaller = cut(model, plan_with(sites, widths, np.random.default_rng(0)), sites)
    assert 0 <= Budget(budget).slack(measure(smaller, inputs), measure(model, inputs)) <= 0.01
