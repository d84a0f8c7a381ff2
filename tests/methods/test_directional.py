"""Directional scores: against explicit matrices, and against the explicit curvature of a small network."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.pupils import CLASSES
from torch import nn
from torch.func import functional_call, jacrev

from scionet import discover, prune
from scionet.errors import CalibrationError
from scionet.methods.calibration.calibration import read
from scionet.methods.criteria.directional import DirectionalRanker, flat_part
from scionet.network.network import Network


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(3, 12), st.integers(0, 5))
def test_the_flat_part_is_orthogonal_to_the_leading_eigenvectors(seed: int, size: int, directions: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    factor, vector = (torch.randn(*shape, generator=generator).double() for shape in ((size, size), (size,)))
    matrix = factor @ factor.T
    found = flat_part(vector, lambda x: matrix @ x, directions)
    leading = torch.linalg.eigh(matrix)[1][:, size - min(directions, size - 1) :]
    expected = vector - leading @ (leading.T @ vector)
    assert torch.allclose(found, expected, atol=1e-8)
    assert float(vector @ found) >= -1e-12  # the sum of all s_g


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.Tanh()),
        *(nn.Conv2d(4, 3, 3, padding=1), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, CLASSES)),
    )
    nn.init.uniform_(model[1].weight, 0.5, 2)
    nn.init.uniform_(model[1].bias, -1, 1)
    return model.eval()


@pytest.mark.parametrize("directions", [0, 1, 6])
def test_scores_are_those_of_the_explicit_gauss_newton_matrix(directions: int) -> None:
    model = network().double()
    images, labels = torch.randn(9, 2, 6, 6, dtype=torch.float64), torch.arange(9) % CLASSES
    net = Network(model, discover(model, images[:2]))
    found = DirectionalRanker(directions).measured(
        net, read(net, [(images, labels)], images[:2], labels=True, batch_size=9, memory_bytes=1e9)
    )
    names = ["1.weight", "1.bias", "3.weight", "3.bias"]
    weights = {name: model.get_parameter(name).detach() for name in names}
    jacobian = jacrev(lambda at: functional_call(model, at, (images,)))(weights)
    rows = torch.cat([jacobian[name].flatten(2) for name in names], 2)
    p = model(images).detach().softmax(1)
    rows = rows.detach()
    inner = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    matrix = torch.einsum("nci,ncd,ndj->ij", rows, inner, rows) / 9
    leading = torch.linalg.eigh(matrix)[1][:, len(matrix) - directions :]
    scales = [[u, 4 + u] for u in range(4)]
    filters = [[*range(8 + 36 * u, 8 + 36 * (u + 1)), 8 + 108 + u] for u in range(3)]
    point = torch.cat([weights[name].flatten() for name in names])
    direction = torch.zeros_like(point)
    for places in (*scales, *filters):
        direction[places] = point[places] / point[places].norm()
    flat = direction - leading @ (leading.T @ direction)
    expected = []
    for places in (*scales, *filters):
        share = float(direction[places] @ flat[places])
        expected.append(float(point[places].norm()) / share if share > 0 else 1e300)
    assert [*found["0"], *found["3"]] == pytest.approx(expected, rel=1e-6)


def test_without_directions_the_norm_of_what_the_function_sees_decides() -> None:
    model = network()
    images, labels = torch.randn(9, 2, 6, 6), torch.arange(9) % CLASSES
    result = prune(
        model,
        [(images, labels)],
        "macs<=60%",
        example_inputs=images[:2],
        method=DirectionalRanker(0),
        widths="uniform",
        repair=[],
    )
    norms = (model[1].weight.square() + model[1].bias.square()).detach()
    kept = result.plan.kept["0"]
    assert set(kept) == set(norms.argsort(descending=True)[: len(kept)].tolist())


def test_labels_are_needed() -> None:
    with pytest.raises(CalibrationError):
        prune(
            network(),
            [torch.randn(4, 2, 6, 6)],
            "macs<=60%",
            example_inputs=torch.zeros(2, 2, 6, 6),
            method="directional",
        )
