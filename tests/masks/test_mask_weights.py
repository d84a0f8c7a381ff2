"""`mask_weights`: exact counts, no side effects, no resurrection, and helpful errors."""

import copy
from typing import Any

import pytest
import torch
from support.mask_networks import pairs, sizes_mlp, small_vgg
from torch import Tensor, nn

from scionet import CollapseWarning, Schedule, mask_weights
from scionet.errors import CalibrationError, InvalidSetting, LayerCollapse, UnreachableBudget, UnsupportedModel
from scionet.files.safetensors_files import hash_tensors
from scionet.masks.mask_rule import MaskRule
from scionet.masks.rounds import ScoringTask, rounds
from scionet.masks.scores import SCORES, WeightScore
from scionet.masks.weights import isomorphic_groups, maskable
from scionet.network.calling import state_of

BATCHES = [pairs(6, 5), pairs(3, 5, seed=2)]


def traces(model: nn.Module) -> dict[str, Any]:
    return {
        "state": hash_tensors(state_of(model)),
        "objects": {name: (id(tensor), tensor.requires_grad, tensor.grad) for name, tensor in state_of(model).items()},
        "training": [module.training for module in model.modules()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "types": [type(module) for module in model.modules()],
        "random": torch.get_rng_state().tolist(),
        "grad": torch.is_grad_enabled(),
    }


@pytest.mark.parametrize("scope", ["global", "local"])
@pytest.mark.parametrize("name", SCORES)
def test_counts_are_exact_and_the_network_is_left_as_it_was(name, scope) -> None:
    model = small_vgg().double().train()
    model[4].weight.requires_grad_(False)  # type: ignore[union-attr]
    model[1].eval()
    before = traces(model)
    data = [pairs(4, 3, 32, 32, classes=10)]
    result = mask_weights(
        model, 0.3, score=name, scope=scope, batches=data, schedule=Schedule(2), on_collapse="allow", seed=1
    )
    assert traces(model) == before
    total = sum(w.numel() for w in maskable(model).values())
    assert sum(result.masks.counts.values()) == int(0.3 * total + 0.5)
    again = mask_weights(
        model, 0.3, score=name, scope=scope, batches=data, schedule=Schedule(2), on_collapse="allow", seed=1
    )
    assert all(torch.equal(result.masks[key], again.masks[key]) for key in again.masks)
    if scope == "local":
        assert all(abs(n - 0.3 * size) < 1 for n, size in result.report.kept.values())


def test_a_forward_that_raises_leaves_no_trace() -> None:
    class Broken(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            super().forward(x)
            raise RuntimeError("broken")

    model = Broken(nn.Linear(5, 4), nn.BatchNorm1d(4)).double().train()
    before = traces(model)
    with pytest.raises(UnsupportedModel, match="broken"):
        mask_weights(model, 0.5, score="synflow", example_inputs=torch.zeros(2, 5))
    assert traces(model) == before


@pytest.mark.parametrize("name", ["magnitude", "random", "snip", "lamp", "synflow"])
def test_masked_weights_stay_masked_over_the_rounds(name) -> None:
    model = sizes_mlp(5, 7, 6, 4)
    rule = MaskRule(0.2, schedule=Schedule(5), on_collapse="allow")
    task = ScoringTask(model, maskable(model), name, SCORES[name], rule, BATCHES, BATCHES[0][0])
    last = {key: torch.ones_like(w, dtype=torch.bool) for key, w in maskable(model).items()}
    total, densities = sum(mask.numel() for mask in last.values()), Schedule(5).densities(0.2)
    for (masks, _), density in zip(rounds(task, densities), densities, strict=True):
        assert all(not bool((masks[key] & ~last[key]).any()) for key in masks)
        assert sum(int(mask.sum()) for mask in masks.values()) == int(density * total + 0.5)
        last = masks


def test_masks_within_masks_are_nested_and_counted_of_all_weights() -> None:
    model = sizes_mlp(5, 7, 6, 4)
    with torch.no_grad():
        model[0].weight[:, :3] = 0  # type: ignore[union-attr]  ties among zeros, some of them masked
    first = mask_weights(model, 0.9, score="random", seed=3).masks
    total = sum(mask.numel() for mask in first.values())
    for density in (0.9, 0.85, 0.5, 0.1):
        found = mask_weights(model, density, within=first, on_collapse="allow").masks
        assert sum(found.counts.values()) == int(density * total + 0.5)
        assert not any(bool((found[name] & ~first[name]).any()) for name in first)
    assert all(torch.equal(mask_weights(model, 0.9, within=first).masks[name], first[name]) for name in first)
    with pytest.raises(UnreachableBudget, match=r"density 0\.95 keeps .* weights, but the masks .* use a lower"):
        mask_weights(model, 0.95, within=first)
    with pytest.raises(InvalidSetting, match="with the same ignored_layers"):
        mask_weights(model, 0.5, within=first, ignored_layers=["0"])
    with pytest.raises(InvalidSetting, match="cannot be combined with a pattern"):
        mask_weights(model, pattern="2:4", within=first)


def test_weights_return_if_requested() -> None:
    """A score whose sign is reversed in the second round."""
    calls: list[int] = []

    def turning(view: Any) -> dict[str, Tensor]:
        calls.append(1)
        return {n: w.abs() if len(calls) % 2 else 1 / w.abs() for n, w in view.weights.items()}

    model, schedule = sizes_mlp(5, 7, 4), Schedule(2)
    stay = mask_weights(model, 0.25, score=WeightScore(turning), schedule=schedule).masks
    back = mask_weights(model, 0.25, score=WeightScore(turning), schedule=schedule, resurrect=True).masks
    smallest = torch.cat([w.flatten() for w in maskable(model).values()]).abs().argmin()
    assert torch.cat([mask.flatten() for mask in back.values()])[smallest]
    assert not torch.cat([mask.flatten() for mask in stay.values()])[smallest]


def test_collapse_is_reported_warned_about_and_refused_on_request() -> None:
    model = sizes_mlp(5, 7, 4)
    with torch.no_grad():
        model[0].weight.mul_(1e-6)  # type: ignore[union-attr]
    with pytest.warns(CollapseWarning, match=r"has emptied 0\.weight"):
        result = mask_weights(model, 0.2)
    assert result.report.collapsed == ("0.weight",)
    assert "COLLAPSED" in str(result.report)
    with pytest.raises(LayerCollapse, match=r"'0\.weight'.*min_per_layer"):
        mask_weights(model, 0.2, on_collapse="raise")
    with pytest.warns(CollapseWarning, match=r"min_per_layer=2 applies to 0\.weight"):
        held = mask_weights(model, 0.2, min_per_layer=2)
    assert held.masks.counts == {"0.weight": 2, "2.weight": 11}
    assert held.report.protected == ("0.weight",)
    assert mask_weights(model, 0.2, score="lamp").report.collapsed == ()


def test_a_minimum_that_does_not_bind_changes_nothing() -> None:
    model = sizes_mlp(5, 7, 4)
    free, held = mask_weights(model, 0.5).masks, mask_weights(model, 0.5, min_per_layer=3).masks
    assert all(torch.equal(free[name], held[name]) for name in free)


def test_isomorphic_masks_compare_layers_of_one_role_and_shape_only() -> None:
    """Two repeated roles and a layer with other groups; scaling all layers of one role changes nothing."""
    convs = (nn.Conv1d(4, 8, 2, groups=2), nn.Conv1d(8, 4, 2), nn.Conv1d(4, 8, 2, groups=2), nn.Conv1d(8, 4, 2))
    torch.manual_seed(0)
    model = nn.Sequential(*convs, nn.Conv1d(4, 8, 2, groups=2), nn.Conv1d(2, 8, 2))
    names = [f"{i}.weight" for i in range(6)]
    assert isomorphic_groups(model, names) == [[names[0], names[2], names[4]], [names[1], names[3]], [names[5]]]
    found = mask_weights(model, 0.3, scope="isomorphic").masks
    weights = dict(model.named_parameters())
    for group, size, kept in (((0, 2, 4), 96, 29), ((1, 3), 128, 38), ((5,), 32, 10)):
        flat, mask = (torch.cat([t[names[i]].detach().flatten() for i in group]) for t in (weights, found))
        assert len(flat) == size
        assert int(mask.sum()) == kept
        assert float(flat[mask].abs().min()) >= float(flat[~mask].abs().max())
    with torch.no_grad():
        for i in (1, 3):
            convs[i].weight.mul_(100)
    again = mask_weights(model, 0.3, scope="isomorphic").masks
    assert all(torch.equal(again[name], found[name]) for name in names)


def test_local_masks_do_not_depend_on_the_scale_of_a_layer_but_global_masks_do() -> None:
    model = sizes_mlp(5, 7, 4)
    scaled = copy.deepcopy(model)
    with torch.no_grad():
        scaled[0].weight.mul_(-3)  # type: ignore[union-attr]
    local = [mask_weights(net, 0.5, scope="local").masks["0.weight"] for net in (model, scaled)]
    both = [mask_weights(net, 0.5).masks["0.weight"] for net in (model, scaled)]
    assert torch.equal(*local)
    assert not torch.equal(*both)


def test_ignored_layers_stay_whole() -> None:
    assert list(mask_weights(sizes_mlp(5, 7, 6, 4), 0.5, ignored_layers=["0"]).masks) == ["2.weight", "4.weight"]


class Detached(nn.Sequential):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class Packed(nn.Module):
    """Like a layer of a quantised network, it has no floating-point parameters."""


def dead() -> nn.Module:
    model = sizes_mlp(5, 7, 4)
    nn.init.zeros_(model[2].weight)  # type: ignore[arg-type, union-attr]
    nn.init.constant_(model[0].bias, -100.0)  # type: ignore[arg-type, union-attr]
    return model


def infinite() -> nn.Module:
    model = sizes_mlp(5, 7, 4)
    with torch.no_grad():
        model[0].weight[0, 0] = torch.inf  # type: ignore[index, union-attr]
    return model


NAN_SCORE = WeightScore(lambda view: {n: w * torch.nan for n, w in view.weights.items()})
SHORT_SCORE = WeightScore(lambda view: {n: w[:1] for n, w in view.weights.items()})
NET = sizes_mlp(5, 7, 4)


@pytest.mark.parametrize(
    ("model", "options", "error", "text"),
    [
        (NET, {"score": "snip"}, CalibrationError, "needs labels"),
        (NET, {"score": "snip", "batches": [BATCHES[0][0]]}, CalibrationError, "needs labels"),
        (NET, {"score": "snip", "batches": BATCHES[0][0]}, CalibrationError, "wrap a single batch"),
        (NET, {"score": "snip", "batches": [(BATCHES[0][0], BATCHES[0][1] + 9)]}, CalibrationError, "labels"),
        (NET, {"score": "synflow"}, CalibrationError, "example_inputs"),
        (NET, {"score": "synflw"}, InvalidSetting, "Did you mean 'synflow'"),
        (NET, {"score": NAN_SCORE}, CalibrationError, "NaN"),
        (NET, {"score": SHORT_SCORE}, InvalidSetting, r"shape \(7, 5\), but its score has \(1, 5\)"),
        (dead(), {"score": "snip", "batches": BATCHES}, CalibrationError, "0 throughout in round 1"),
        (infinite(), {}, UnsupportedModel, r"'0\.weight' contains NaN or infinite"),
        (Packed(), {}, UnsupportedModel, "quantised"),
        (Detached(*NET), {"score": "snip", "batches": BATCHES}, UnsupportedModel, "no_grad"),
        (NET, {"density": 0.01}, UnreachableBudget, r"keeps 1 of 63 weights; 2 layers need 2.*at least 0\.0317"),
        (NET, {"min_per_layer": 30}, UnreachableBudget, "at least"),
        (NET, {"density": None}, InvalidSetting, "either density or pattern"),
        (NET, {"density": 0}, InvalidSetting, r"density must lie in \(0, 1\]"),
        (NET, {"density": None, "pattern": "4:2"}, InvalidSetting, "N below M"),
        (NET, {"scop": "local"}, InvalidSetting, "scop"),
    ],
)
def test_wrong_inputs_are_refused(model, options, error, text) -> None:
    with pytest.raises(error, match=text):
        mask_weights(model, **{"density": 0.3, **options})
