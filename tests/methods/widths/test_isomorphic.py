"""Units that compete within sites of equal role: against sorting all of a group."""

from typing import Any

import numpy as np
import pytest
import torch
from support.subjects import SUBJECTS
from torch import nn

from scionet import discover, prune
from scionet.budget.allocation.ranked import by_scores
from scionet.budget.budget import Budget
from scionet.budget.costs import CostModel
from scionet.errors import InvalidSetting
from scionet.methods.widths.isomorphic import alike
from scionet.models.resnets import CifarResNet

X = torch.zeros(2, 3, 8, 8)


def test_sites_inside_residual_blocks_are_of_one_role_whatever_their_width() -> None:
    model = CifarResNet(1)
    assert alike(model, discover(model, X)) == [["conv1"], ["layer1.0.conv1", "layer2.0.conv1", "layer3.0.conv1"]]


def test_kinds_of_modules_and_heads_tell_roles_apart() -> None:
    model = nn.Sequential(*(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)))
    flat = nn.Sequential(model, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5), nn.Linear(5, 2))
    sites = discover(flat, X)
    assert alike(flat, sites) == [["0.0"], ["0.2"], ["0.3"], ["3"]]  # norm behind; conv, conv; conv, linear; linear


@pytest.mark.parametrize("percent", [30, 60, 80])
def test_the_best_of_each_group_stay_all_groups_at_one_density(percent) -> None:
    torch.manual_seed(0)
    convs = (nn.Conv2d(3, 50, 1), nn.ReLU(), nn.Conv2d(50, 80, 1), nn.ReLU(), nn.Conv2d(80, 40, 1), nn.ReLU())
    model = nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 4))
    result = prune(model, (), f"params<={percent}%", example_inputs=X, method="l2", widths="isomorphic")
    assert alike(model, result.sites) == [["0", "2"], ["4"]]
    norms = {name: model.get_parameter(f"{name}.weight").detach().flatten(1).norm(dim=1) for name in ("0", "2")}
    scores = torch.cat([norm / norm.mean() for norm in norms.values()])
    mask = torch.cat([torch.isin(torch.arange(len(norms[n])), torch.tensor(result.plan.kept[n])) for n in norms])
    assert float(scores[mask].min()) >= float(scores[~mask].max())
    assert abs(int(mask.sum()) / 130 - result.plan.widths["4"] / 40) <= 0.5 / 130 + 0.5 / 40
    assert 0 <= percent / 100 - result.report.pruned.params / result.report.dense.params <= 0.01
    uniform = prune(model, (), f"params<={percent}%", example_inputs=X, method="l2", widths="uniform")
    assert uniform.plan.widths != result.plan.widths


@pytest.mark.parametrize("percent", [30, 60, 80])
def test_global_widths_keep_the_best_units_of_the_whole_network(percent) -> None:
    torch.manual_seed(0)
    convs = (nn.Conv2d(3, 50, 1), nn.ReLU(), nn.Conv2d(50, 80, 1), nn.ReLU(), nn.Conv2d(80, 40, 1), nn.ReLU())
    model = nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 4))

    def first_weight(view: Any, _rng: object) -> torch.Tensor:
        return view.network.model.get_parameter(f"{view.site.name}.weight").detach()[:, 0, 0, 0]

    result = prune(model, (), f"params<={percent}%", example_inputs=X, method=first_weight, widths="global")
    scores = torch.cat([model.get_parameter(f"{name}.weight").detach()[:, 0, 0, 0] for name in result.sites])
    kept = [torch.isin(torch.arange(site.width), torch.tensor(result.plan.kept[n])) for n, site in result.sites.items()]
    assert float(scores[torch.cat(kept)].min()) >= float(scores[~torch.cat(kept)].max())
    assert 0 <= percent / 100 - result.report.pruned.params / result.report.dense.params <= 0.01


def test_methods_without_scores_and_scores_that_do_not_fit_are_refused() -> None:
    subject = SUBJECTS["residual"]
    model, pairs = subject.network(), subject.pairs(2, 8)
    images = [x for x, _ in pairs]
    with pytest.raises(InvalidSetting, match="choose a score, such as 'l1'"):
        prune(model, images, "macs<=60%", example_inputs=subject.example(), widths="isomorphic")
    costs = CostModel(discover(model, subject.example()))
    scores = {name: np.ones(width) for name, width in zip(costs.names, costs.full.tolist(), strict=True)}
    with pytest.raises(InvalidSetting, match="in one group"):
        by_scores(costs, Budget("macs<=60%"), scores, [[costs.names[0]]])
    with pytest.raises(InvalidSetting, match="every unit needs a score"):
        by_scores(costs, Budget("macs<=60%"), {**scores, costs.names[0]: np.ones(1)}, [[*costs.names]])
