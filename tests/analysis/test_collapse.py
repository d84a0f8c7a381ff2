"""Conservation of synaptic flow, and the compression up to which scores empty no layer."""

import itertools
import math

import numpy as np
import pytest
import torch
from support.subjects import SUBJECTS
from torch import nn

from scionet import discover, mask_weights
from scionet.analysis.collapse import collapse_curve, conservation, critical_compression
from scionet.errors import InvalidSetting
from scionet.files.safetensors_files import hash_tensors
from scionet.models.resnets import resnet20
from scionet.network.calling import state_of

GRID = [10 ** (quarter / 4) for quarter in range(18)]


@pytest.mark.parametrize("name", ["residual", "mlp", "flattened"])
@pytest.mark.parametrize("masked", [False, True])
def test_incoming_and_outgoing_flow_of_units_are_equal(name, masked) -> None:
    """Includes streams with several producers and consumers, and flattened feature maps."""
    model, x = SUBJECTS[name].network(), SUBJECTS[name].example()
    sites, before = discover(model, x), hash_tensors(state_of(model))
    masks = mask_weights(model, 0.5, score="random").masks if masked else None
    found = conservation(model, x, sites, masks)
    assert found.incoming.keys() == set(sites)
    assert found.flow > 0
    assert found.imbalance < 1e-12
    for site in sites:
        np.testing.assert_allclose(found.incoming[site], found.outgoing[site], rtol=1e-9, atol=1e-12 * found.flow)
    assert hash_tensors(state_of(model)) == before


def test_cuts_carry_the_flow_and_branches_less() -> None:
    torch.manual_seed(0)
    model, x = resnet20(), torch.zeros(1, 3, 16, 16)
    found = conservation(model, x, discover(model, x))
    assert found.layers["conv1.weight"] == pytest.approx(found.flow, rel=1e-12)
    assert found.layers["linear.weight"] == pytest.approx(found.flow, rel=1e-12)
    assert max(found.layers.values()) <= found.flow * (1 + 1e-12)
    assert found.imbalance < 1e-12


def test_signed_saliencies_are_conserved_and_absolute_ones_are_not() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Linear(6, 9, bias=False), nn.ReLU(), nn.Linear(9, 8, bias=False), nn.ReLU()), nn.Linear(8, 4, bias=False)
    ).double()
    x, y = torch.randn(30, 6, dtype=torch.float64), torch.arange(30) % 4
    nn.functional.cross_entropy(model(x), y).backward()
    sites = discover(model, x)
    signed = {name: weight.detach() * weight.grad for name, weight in model.named_parameters()}  # type: ignore[operator]
    found = conservation(model, x, sites, scores=signed)
    assert found.imbalance < 1e-12
    np.testing.assert_allclose(np.abs(list(found.layers.values())), found.flow, rtol=1e-12)
    absolute = conservation(model, x, sites, scores={name: score.abs() for name, score in signed.items()})
    assert absolute.imbalance > 0.01


@pytest.mark.parametrize(
    ("scores", "masks", "message"),
    [
        ({"0.weight": torch.ones(2, 2)}, False, r"given \{'0.weight': \(2, 2\)\}"),
        ({"head": torch.ones(2)}, False, "names and shapes of weights"),
        ({}, False, "names and shapes of weights"),
        ({"0.weight": torch.ones(8, 5)}, True, "masks belong to synaptic flow"),
    ],
)
def test_scores_that_do_not_fit_are_refused(scores: dict[str, torch.Tensor], masks: bool, message: str) -> None:
    model, x = SUBJECTS["mlp"].network(), SUBJECTS["mlp"].example()
    given = mask_weights(model, 0.5, score="random").masks if masks else None
    with pytest.raises(InvalidSetting, match=message):
        conservation(model, x, discover(model, x), given, scores)


def test_depthwise_convolutions_pass_units_on() -> None:
    model = nn.Sequential(
        *(nn.Conv2d(2, 6, 1), nn.ReLU6(), nn.Conv2d(6, 6, 3, groups=6), nn.ReLU6(), nn.Conv2d(6, 4, 1)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )
    x = torch.zeros(1, 2, 5, 5)
    found = conservation(model, x, discover(model, x))
    assert list(found.incoming) == ["0"]
    assert found.imbalance < 1e-12
    np.testing.assert_allclose(list(found.layers.values()), found.flow, rtol=1e-12)


def mlp() -> nn.Module:
    """MLP 784-100x5-10 with default initialisation."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = [784, 100, 100, 100, 100, 100, 10]
        layers = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    for layer in layers[::2]:
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers[:-1])


def test_critical_compressions_are_ordered_as_published() -> None:
    """On a grid of 10^0.25: magnitude collapses first, one-shot SNIP later; SynFlow reaches N / L = 19,900."""
    model, x = mlp(), torch.zeros(1, 784)
    rng = torch.Generator().manual_seed(0)
    data = [(torch.randn(100, 784, generator=rng), torch.randint(10, (100,), generator=rng))]
    found = {
        score: critical_compression(collapse_curve(model, score, GRID, example_inputs=x, batches=data))
        for score in ("magnitude", "snip", "random")
    }
    assert math.log10(found["magnitude"] or 0) == pytest.approx(0.5)
    assert math.log10(found["snip"] or 0) == pytest.approx(1.75)
    assert 2.75 <= math.log10(found["random"] or 0) + 1e-9 <= 3.0 + 2e-9
    points = collapse_curve(model, "synflow", [19_900.0, 119_400 / 5], example_inputs=x)
    assert critical_compression(points) == 19_900
    assert list(points[0].kept.values()) == [1] * 6
    assert points[0].connected
    assert len(points[1].collapsed) == 1
    assert not points[1].connected


def test_wrong_compressions_are_refused() -> None:
    with pytest.raises(InvalidSetting, match="1 or more"):
        collapse_curve(mlp(), "magnitude", [0.5], example_inputs=torch.zeros(1, 784))
    assert critical_compression([]) is None
