"""Patterns: densities of stages, from one network to another."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.handmade_sites import chain, mixed

from scionet.budget.allocation.allocate import in_proportion, uniform
from scionet.budget.costs import CostModel
from scionet.budget.patterns import Pattern, stages
from scionet.errors import InvalidSetting
from scionet.models.factory import build
from scionet.network.discovery.discover import discover
from scionet.network.sites import Sites

RESNETS = {
    name: discover(build(f"scionet:{name}").eval(), torch.zeros(2, 3, 32, 32)) for name in ("resnet20", "resnet32")
}
STAGED = CostModel(RESNETS["resnet20"])


def test_stages_are_the_sizes_of_the_feature_maps() -> None:
    """Blocks of layer1 see 32 x 32 pixels, those of layer2 16 x 16, those of layer3 8 x 8."""
    for sites in RESNETS.values():
        for name, stage in stages(sites).items():
            part = next((n for n in (1, 2, 3) if name.startswith(f"layer{n}")), 1)
            assert stage == part - 1, name
    digits = discover(build("scionet:digits_cnn").eval(), torch.zeros(2, 1, 8, 8))
    assert {name: stage for name, stage in stages(digits).items() if "block" in name} == {
        name: int(name.startswith("block3")) for name in digits if "block" in name
    }


def test_a_pattern_is_units_kept_over_units_there_were() -> None:
    sites = RESNETS["resnet20"]
    inner = [name for name in sites if name.startswith("layer2") and "conv1" in name]
    found = Pattern.of(sites, {inner[0]: 8, inner[1]: 16})
    second = [site.width for name, site in sites.items() if stages(sites)[name] == 1]
    assert found.densities == (1.0, (sum(second) - 24 - 16) / sum(second), 1.0)


@given(st.lists(st.integers(1, 16), min_size=3, max_size=3))
def test_applied_to_its_own_source_it_gives_the_same_widths(sixteenths: list[int]) -> None:
    """Networks in which every stage has one density are what patterns can say; all widths are multiples of 16."""
    sites = RESNETS["resnet20"]
    widths = {
        name: sixteenths[stage] * site.width // 16
        for (name, stage), site in zip(stages(sites).items(), sites.values(), strict=True)
    }
    pattern = Pattern.of(sites, widths)
    assert pattern.densities == tuple(n / 16 for n in sixteenths)
    assert pattern.widths(sites).units == widths
    cost = STAGED.cost(widths)
    if cost.macs < STAGED.dense.macs:  # at the cost of its source as the budget, too
        assert in_proportion(STAGED, f"macs<={round(cost.macs)}", pattern.shares(sites)) == widths


def test_a_uniform_pattern_gives_a_uniform_network() -> None:
    sites = RESNETS["resnet32"]
    half = Pattern((0.5, 0.5, 0.5))
    assert all(kept == sites[name].width // 2 for name, kept in half.widths(sites).units.items())
    costs = CostModel(sites)
    for budget in ("macs<=50%", "params<=30%"):
        assert in_proportion(costs, budget, half.shares(sites)) == uniform(costs, budget)


def test_another_architecture_gets_the_proportions_within_the_budget() -> None:
    sites = RESNETS["resnet32"]
    costs, pattern = CostModel(sites), Pattern((0.9, 0.6, 0.3))
    found = in_proportion(costs, "macs<=40%", pattern.shares(sites))
    assert 0.39 < costs.cost(found).macs / costs.dense.macs <= 0.4
    achieved = Pattern.of(sites, found).densities
    scale = np.array(achieved) / pattern.densities
    assert scale.max() / scale.min() < 1.1
    wide = in_proportion(costs, "macs<=95%", pattern.shares(sites))  # some stages are whole by then
    assert Pattern.of(sites, wide).densities[0] == 1


@pytest.mark.parametrize("densities", [(), (0.0, 0.5), (1.2,), (float("nan"),)])
def test_nonsense_is_refused(densities: tuple[float, ...]) -> None:
    with pytest.raises(InvalidSetting, match="a density in"):
        Pattern(densities)


def test_other_numbers_of_stages_and_wrong_shares_are_refused() -> None:
    other: Sites = chain([24, 40]).sites
    with pytest.raises(InvalidSetting, match="the pattern has 3 stages, the network 1"):
        Pattern((0.5, 0.5, 0.5)).shares(other)
    model = CostModel(mixed().sites)
    for wrong in ({"nowhere": 1.0}, {model.names[0]: 0.0}):
        with pytest.raises(InvalidSetting, match="shares are numbers above 0, by names of sites"):
            in_proportion(model, "macs<=50%", wrong)
