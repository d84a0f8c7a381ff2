"""Synaptic flow: closed form, conservation laws, and the compression up to which no layer is emptied."""

import copy
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from support.mask_networks import pairs, sizes_mlp, small_vgg
from torch import Tensor, nn

from scionet import Schedule, mask_weights
from scionet.errors import UnsupportedModel
from scionet.masks.gradients import gradients
from scionet.masks.mask_rule import MaskRule
from scionet.masks.rounds import ScoringTask, rounds
from scionet.masks.scores import SCORES
from scionet.masks.synaptic_flow import synaptic_flow
from scionet.masks.weights import maskable
from scionet.models.resnets import digits_cnn, resnet20, resnet56


def flows(model: nn.Module, x: Tensor) -> tuple[float, dict[str, Tensor]]:
    """R and the scores."""
    flow = synaptic_flow(model, x)
    weights = {name: w.double().abs() for name, w in maskable(model).items()}
    return float(flow(weights)), {name: weights[name] * s for name, s in gradients(flow, weights).items()}


def trained(model: nn.Module, seed: int = 0) -> nn.Module:
    """Set BatchNorm statistics, scales, shifts and biases as after training."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and tensor.ndim == 1:
                drawn = torch.rand(tensor.shape, generator=rng) + 0.5
                tensor.copy_(drawn if "var" in name else drawn * torch.randn(tensor.shape, generator=rng))
    return model.eval()


def test_scores_equal_the_closed_form() -> None:
    model = sizes_mlp(5, 7, 6, 4)
    first, second, third = (np.abs(w.numpy()) for w in maskable(model).values())
    reached = [np.ones(5), first @ np.ones(5), second @ first @ np.ones(5)]
    ahead = [np.ones(4) @ third @ second, np.ones(4) @ third, np.ones(4)]
    total, found = flows(model, torch.zeros(3, 5))
    for weight, score, into, out in zip((first, second, third), found.values(), reached, ahead, strict=True):
        np.testing.assert_allclose(score, out[:, None] * weight * into[None], rtol=1e-12)
    assert total == pytest.approx(float(np.ones(4) @ third @ reached[2]), rel=1e-12)


def test_layers_of_a_trained_network_carry_the_whole_flow() -> None:
    total, found = flows(trained(small_vgg()), torch.zeros(1, 3, 32, 32))
    np.testing.assert_allclose([float(score.sum()) for score in found.values()], total, rtol=1e-12)


def test_incoming_and_outgoing_flow_of_a_neuron_are_equal() -> None:
    _, found = flows(trained(small_vgg()), torch.zeros(1, 3, 32, 32))
    scores = list(found.values())
    for before, after in pairwise(scores):
        into = before.sum(tuple(range(1, before.ndim)))
        out = after.sum((0, *range(2, after.ndim)))
        np.testing.assert_allclose(into, out, rtol=1e-12)


def test_cuts_of_a_residual_network_carry_the_whole_flow_and_branches_less() -> None:
    total, found = flows(trained(digits_cnn()), torch.zeros(1, 1, 8, 8))
    sums = {name: float(score.sum()) for name, score in found.items()}
    assert sums["conv1.weight"] == pytest.approx(total, rel=1e-12)
    assert sums["linear.weight"] == pytest.approx(total, rel=1e-12)
    for block in ("block2", "block3"):
        assert sums[f"{block}.conv2.weight"] + sums[f"{block}.shortcut.0.weight"] == pytest.approx(total, rel=1e-12)
    assert max(sums.values()) <= total * (1 + 1e-12)


def test_flow_is_the_output_of_a_network_with_absolute_weights_without_shifts() -> None:
    model, x = trained(small_vgg()), torch.zeros(1, 3, 32, 32)
    plain = copy.deepcopy(model).double()
    with torch.no_grad():
        for name, tensor in plain.state_dict().items():
            if tensor.is_floating_point():
                tensor.zero_() if name.endswith(("bias", "mean")) else tensor.abs_()
        expected = float(plain(torch.ones(1, 3, 32, 32, dtype=torch.float64)).sum())
    assert flows(model, x)[0] == pytest.approx(expected, rel=1e-12)


class Smooth(nn.Module):
    """Inhomogeneous functions, called as functions and as modules."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)
        self.norm, self.act = nn.LayerNorm(6), nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.second(nn.functional.silu(self.act(self.norm(self.first(x))))).sigmoid())


def test_inhomogeneous_functions_become_the_identity() -> None:
    model = Smooth()
    total, found = flows(model, torch.zeros(1, 4))
    np.testing.assert_allclose([float(score.sum()) for score in found.values()], total, rtol=1e-12)
    first, second = (w.double().abs() for w in maskable(model).values())
    assert total == pytest.approx(float((second @ first).sum()))


class Attention(nn.Module):
    """Three implementations of attention, each after its own linear map."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(5, 8), nn.Linear(8, 4)
        self.torch = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        self.fused, self.plain = nn.Linear(8, 24), nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        x = self.torch(self.embed(x))
        x = x + nn.functional.scaled_dot_product_attention(*self.fused(x).chunk(3, -1))
        query, key, value = self.plain(x).chunk(3, -1)
        x = x + (query @ key.mT).softmax(-1) @ value
        return self.head(x.mean(1)).softmax(1)


@pytest.mark.parametrize("grad", [True, False])
def test_attention_of_every_kind_is_the_mean_of_its_values(grad) -> None:
    model = Attention().eval()
    with torch.set_grad_enabled(grad):
        total, found = flows(model, torch.zeros(1, 3, 5))
    for name in ("embed.weight", "head.weight"):
        assert float(found[name].sum()) == pytest.approx(total, rel=1e-12)
    for name in ("torch.self_attn.in_proj_weight", "fused.weight", "plain.weight"):
        assert not bool(found[name][:16].any())
        assert bool((found[name][16:] > 0).all())
    w = {name: weight.double().abs() for name, weight in maskable(model).items()}
    layer, ones = "torch.self_attn", torch.ones(5, dtype=torch.float64)
    x = w["embed.weight"] @ ones
    x = x + w[f"{layer}.out_proj.weight"] @ w[f"{layer}.in_proj_weight"][16:] @ x
    x = x + w["torch.linear2.weight"] @ w["torch.linear1.weight"] @ x
    for name in ("fused.weight", "plain.weight"):
        x = x + w[name][16:] @ x
    assert total == pytest.approx(float((w["head.weight"] @ x).sum()), rel=1e-12)


def test_deep_networks_stay_in_range_and_overflow_is_refused() -> None:
    torch.manual_seed(0)
    total, _ = flows(resnet56().eval(), torch.zeros(1, 3, 8, 8))
    assert 1e38 < total < 1e300
    model = sizes_mlp(*[8] * 12, bias=False)
    for weight in model.parameters():
        nn.init.constant_(weight, 1e30)
    with pytest.raises(UnsupportedModel, match="range of float64"):
        flows(model, torch.zeros(1, 8))


def kept(model: nn.Module, n_kept: int, **options: object) -> list[int]:
    total = sum(w.numel() for w in maskable(model).values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = mask_weights(model, n_kept / total, on_collapse="allow", **options)  # type: ignore[arg-type]
    assert sum(result.masks.counts.values()) == n_kept
    return list(result.masks.counts.values())


@pytest.mark.parametrize("he", [False, True])
def test_a_hundred_rounds_reach_the_last_weight_of_each_layer(he) -> None:
    """MLP 784-100x5-10: one weight per layer is left; with one round or ten, layers are emptied."""
    model = sizes_mlp(784, *[100] * 5, 10, he=he).float()
    x = torch.zeros(1, 784)
    assert kept(model, 6, score="synflow", example_inputs=x) == [1] * 6
    assert sorted(kept(model, 7, score="synflow", example_inputs=x)) == [1] * 5 + [2]
    for n_rounds in (1, 10):
        assert 0 in kept(model, 6, score="synflow", example_inputs=x, schedule=Schedule(n_rounds))
    assert kept(model, 378, score="synflow", example_inputs=x, schedule=Schedule(1))[:5] == [0] * 5


def test_weights_that_are_summed_have_separate_scores() -> None:
    """Their gradients are equal, and autograd returns the same tensor for both."""

    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(4, 3, bias=False), nn.Linear(4, 3, bias=False)
            self.last = nn.Linear(3, 2, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(nn.functional.linear(x, self.one.weight + self.other.weight))

    model, x = Added(), torch.zeros(1, 4)
    task = ScoringTask(model, maskable(model), "synflow", SCORES["synflow"], MaskRule(0.5), [], x)
    found = task.scores({name: torch.ones_like(w, dtype=torch.bool) for name, w in task.weights.items()}, 1)
    ahead = model.last.weight.detach().double().abs().sum(0)[:, None]
    for name in ("one.weight", "other.weight"):
        torch.testing.assert_close(found[name], task.weights[name].double().abs() * ahead)


def test_no_round_removes_as_much_score_as_a_cut_carries() -> None:
    """Theorem 3: with 100 rounds, no round removes as much score as a layer carries; with one round, it does."""
    model, x = sizes_mlp(784, *[100] * 5, 10).float(), torch.zeros(1, 784)
    weights, flow = maskable(model), synaptic_flow(model, x)
    largest = {}
    for n_rounds in (1, 100):
        schedule = Schedule(n_rounds)
        rule = MaskRule(6 / 119_400, schedule=schedule, on_collapse="allow")
        task = ScoringTask(model, weights, "synflow", SCORES["synflow"], rule, [], x)
        masks = {name: torch.ones_like(w, dtype=torch.bool) for name, w in weights.items()}
        ratios, reached = [], []
        for after, _ in rounds(task, schedule.densities(6 / 119_400)):
            scores = task.scores(masks, 2)
            pruned = sum(float(score[masks[name] & ~after[name]].sum()) for name, score in scores.items())
            ratios.append(pruned / min(float(score.sum()) for score in scores.values()))
            reached.append(float(flow({name: w.abs() * masks[name] for name, w in weights.items()})))
            masks = after
        assert all(b <= a for a, b in pairwise(reached))
        largest[n_rounds] = max(ratios)
    assert 0.4 < largest[100] < 0.8
    assert largest[1] > 0.99


def test_synflow_does_not_empty_layers_at_a_thousandth_where_others_do() -> None:
    model, x = small_vgg(), torch.zeros(1, 3, 32, 32)
    data = [pairs(20, 3, 32, 32, classes=10, dtype=torch.float32)]
    total = sum(w.numel() for w in maskable(model).values())
    assert min(kept(model, total // 1000, score="synflow", example_inputs=x)) > 0
    assert 0 in kept(model, total // 1000, score="magnitude")
    assert kept(model, 6, score="synflow", example_inputs=x) == [1] * 6
    for score in ("magnitude", "random", "snip"):
        assert 0 in kept(model, 12, score=score, batches=data)


def test_a_residual_network_stays_connected_at_a_thousandth_though_branches_are_emptied() -> None:
    """Identity shortcuts carry the flow past branches, so only the stem and the classifier must keep weights."""
    torch.manual_seed(0)
    model, x = resnet20().eval(), torch.zeros(1, 3, 16, 16)
    result = mask_weights(model, 1e-3, score="synflow", example_inputs=x, on_collapse="allow")
    masked = {name: w.abs() * result.masks[name] for name, w in maskable(model).items()}
    assert float(synaptic_flow(model, x)(masked)) > 0
    assert "conv1.weight" not in result.report.collapsed
    assert "linear.weight" not in result.report.collapsed
    assert set(result.report.collapsed) <= {n for n in masked if n.startswith(("layer2", "layer3"))}


def test_masks_are_the_same_for_other_signs_scales_biases_and_data() -> None:
    model, x = sizes_mlp(8, 12, 10, 5), torch.zeros(1, 8)
    plain = mask_weights(model, 0.1, score="synflow", example_inputs=x).masks
    with torch.no_grad():
        model[0].weight.mul_(-1)  # type: ignore[union-attr]
        model[2].weight.mul_(1024)  # type: ignore[union-attr]
        model[2].bias.add_(3)  # type: ignore[union-attr]
    other = mask_weights(model, 0.1, score="synflow", example_inputs=x + 5).masks
    assert all(torch.equal(plain[name], other[name]) for name in plain)
