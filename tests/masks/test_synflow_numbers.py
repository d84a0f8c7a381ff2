"""Numbers of the SynFlow experiments that do not depend on training: flows at initialisation, prune sizes, collapse."""

import math
import warnings

import pytest
import torch
from support.mask_networks import sizes_mlp
from torch import Tensor, nn

from scionet import Schedule, mask_weights
from scionet.analysis.collapse import collapse_curve, critical_compression
from scionet.masks.gradients import gradients
from scionet.masks.mask_rule import MaskRule
from scionet.masks.rounds import ScoringTask, rounds
from scionet.masks.scores import SCORES
from scionet.masks.synaptic_flow import synaptic_flow
from scionet.masks.weights import maskable
from scionet.models.factory import build
from scionet.models.resnets import resnet20_projection

PICTURE = torch.zeros(1, 3, 32, 32)


def he(model: nn.Module, mode: str) -> nn.Module:
    """He's initialisation without biases, seed 0."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode=mode)  # type: ignore[arg-type]
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model.eval()


def flow_and_scores(model: nn.Module) -> tuple[float, dict[str, Tensor]]:
    flow = synaptic_flow(model, PICTURE)
    weights = {name: weight.double().abs() for name, weight in maskable(model).items()}
    return float(flow(weights)), {name: weights[name] * g for name, g in gradients(flow, weights).items()}


@pytest.mark.parametrize(
    ("name", "classes", "mode", "flow"),
    [
        ("vgg11", 100, "fan_in", 2.9e15),
        ("vgg16", 100, "fan_in", 3e23),
        pytest.param("vgg19", 100, "fan_in", 3e28, marks=pytest.mark.slow),
        ("resnet20", 10, "fan_out", 6e24),
        ("resnet32", 10, "fan_out", 9e39),
        pytest.param("resnet56", 10, "fan_out", 3e70, marks=pytest.mark.slow),
        pytest.param("resnet110", 10, "fan_out", 7e138, marks=pytest.mark.slow),
    ],
)
def test_flows_at_initialisation_need_float64_in_deep_residual_networks(
    name: str, classes: int, mode: str, flow: float
) -> None:
    """The weights are random, so the flow is known to within a quarter of a power of ten."""
    found, scores = flow_and_scores(he(build(f"scionet:{name}", classes=classes), mode))
    assert math.log10(found) == pytest.approx(math.log10(flow), abs=0.25)
    assert all(bool(torch.isfinite(score).all()) for score in scores.values())
    assert math.isinf(float(torch.tensor(found, dtype=torch.float32))) == (flow > 1e38)


@pytest.mark.parametrize("name", ["vgg11", "vgg16", pytest.param("vgg19", marks=pytest.mark.slow)])
def test_every_layer_of_a_vgg_carries_the_whole_flow(name: str) -> None:
    total, scores = flow_and_scores(he(build(f"scionet:{name}"), "fan_in"))
    assert all(float(score.sum()) == pytest.approx(total, rel=1e-12) for score in scores.values())


def test_stem_classifier_and_branch_with_projection_of_resnet20_carry_the_whole_flow() -> None:
    total, scores = flow_and_scores(he(resnet20_projection(), "fan_out"))
    shares = {name: float(score.sum()) / total for name, score in scores.items()}
    for stage in (2, 3):
        branch, way = shares[f"layer{stage}.0.conv2.weight"], shares.pop(f"layer{stage}.0.shortcut.0.weight")
        assert branch + way == pytest.approx(1, rel=1e-12)
    for name in ("conv1.weight", "linear.weight"):
        assert shares.pop(name) == pytest.approx(1, rel=1e-12)
    assert all(0.97 < share < 0.999 for share in shares.values())


def mlp(initialisation: str, seed: int) -> nn.Module:
    return sizes_mlp(784, *[100] * 5, 10, he=initialisation == "he", seed=seed).float()


def kept(model: nn.Module, count: int, n_rounds: int) -> list[int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"example_inputs": torch.zeros(1, 784), "schedule": Schedule(n_rounds), "on_collapse": "allow"}
        return [*mask_weights(model, count / 119_400, score="synflow", **options).masks.counts.values()]


DRAWS = [(initialisation, seed) for initialisation in ("default", "he") for seed in range(3)]
CASES = [pytest.param(*draw, marks=[pytest.mark.slow] if draw[1] else []) for draw in DRAWS]


@pytest.mark.parametrize(("initialisation", "seed"), CASES)
def test_one_round_leaves_the_last_layer_and_a_hundred_reach_the_last_weight(initialisation: str, seed: int) -> None:
    model = mlp(initialisation, seed)
    for count in (6, 7, 60, 378):
        assert kept(model, count, 1) == [0] * 5 + [count]
    assert kept(model, 6, 100) == [1] * 6
    assert sorted(kept(model, 7, 100)) == [1] * 5 + [2]


@pytest.mark.slow
def test_ten_rounds_hardly_ever_reach_the_last_weight() -> None:
    assert sum(0 in kept(mlp(initialisation, seed), 6, 10) for initialisation, seed in DRAWS) >= 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("initialisation", "expected"),
    [
        ("default", {"magnitude": 0.5, "snip": 1.75, "random": 2.75, "synflow 1": 0.5, "synflow 10": 2.5}),
        ("he", {"magnitude": 1.25, "snip": 1.75, "random": 2.75, "synflow 1": 0.5, "synflow 10": 3.5}),
    ],
)
def test_critical_compressions_are_those_of_the_grid(initialisation: str, expected: dict[str, float]) -> None:
    """Powers of ten, on a grid of 0.25; another draw of the weights moves one by a step."""
    model, grid = mlp(initialisation, 0), [10 ** (k / 4) for k in range(1, 16)]
    rng = torch.Generator().manual_seed(0)
    data = [(torch.randn(100, 784, generator=rng), torch.randint(10, (100,), generator=rng))]
    for name, power in expected.items():
        score, _, n_rounds = name.partition(" ")
        schedule = Schedule(int(n_rounds or 1))
        points = collapse_curve(model, score, grid, example_inputs=data[0][0][:1], batches=data, schedule=schedule)
        assert math.log10(critical_compression(points) or 1) == pytest.approx(power, abs=0.25 + 1e-9), name


@pytest.mark.parametrize(("initialisation", "seed"), CASES)
def test_prune_sizes_lie_below_a_cut_with_a_hundred_rounds_only(initialisation: str, seed: int) -> None:
    """Largest score mass that a round removes / what a layer carries: 0.49 to 0.69, above 1 and above 5."""
    model = mlp(initialisation, seed)
    assert 0.45 < largest_prune_size(model, 100) < 0.73
    assert largest_prune_size(model, 10) > 1
    assert largest_prune_size(model, 1) > 5


def largest_prune_size(model: nn.Module, n_rounds: int) -> float:
    """Against the smallest layer that is left: with collapse the network's flow is 0, and rounds end."""
    density, weights = 6 / 119_400, maskable(model)
    rule = MaskRule(density, schedule=Schedule(n_rounds), on_collapse="allow")
    task = ScoringTask(model, weights, "synflow", SCORES["synflow"], rule, [], torch.zeros(1, 784))
    masks, ratios = task.candidates, []
    for after, _ in rounds(task, Schedule(n_rounds).densities(density)):
        scores = task.scores(masks, 2)
        pruned = sum(float(score[masks[name] & ~after[name]].sum()) for name, score in scores.items())
        ratios.append(pruned / min(float(score.sum()) for score in scores.values()))
        if not all(bool(mask.any()) for mask in after.values()):
            break
        masks = after
    return max(ratios)
