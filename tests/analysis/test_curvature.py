"""Products with the Hessian and the Gauss-Newton matrix, against dense matrices by automatic differentiation."""

import copy

import numpy as np
import pytest
import torch
from support.mask_networks import pairs, sizes_mlp
from support.subjects import SUBJECTS
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from scionet.analysis.curvature import Curvature, curvature
from scionet.errors import CalibrationError, InvalidSetting, UnsupportedModel
from scionet.files.safetensors_files import hash_tensors
from scionet.network.calling import state_of


def smooth(seed: int = 0) -> nn.Sequential:
    model = sizes_mlp(5, 6, 4, seed=seed)
    model[1] = nn.Tanh()
    return model


def batches(count: int = 2) -> list[tuple[Tensor, Tensor]]:
    return [tuple(pairs(7 + 3 * number, 5, seed=number)) for number in range(count)]  # type: ignore[misc]


def flat(model: nn.Module, names: tuple[str, ...]) -> Tensor:
    return torch.cat([model.get_parameter(name).detach().flatten() for name in names])


def logits(model: nn.Module, names: tuple[str, ...], point: Tensor, x: Tensor) -> Tensor:
    """The outputs at other parameters, given as a vector."""
    shapes = [model.get_parameter(name).shape for name in names]
    parts = [p.view(s) for p, s in zip(point.split([s.numel() for s in shapes]), shapes, strict=True)]
    return functional_call(model, dict(zip(names, parts, strict=True)), (x,))


def dense(model: nn.Module, names: tuple[str, ...], data: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The Hessian, and the Gauss-Newton matrix from explicit Jacobians."""
    point, count = flat(model, names), sum(len(y) for _, y in data)

    def loss(at: Tensor) -> Tensor:
        return (
            sum(nn.functional.cross_entropy(logits(model, names, at, x), y, reduction="sum") for x, y in data) / count
        )  # type: ignore[return-value]

    gauss_newton = torch.zeros(len(point), len(point), dtype=torch.float64)
    for x, _ in data:
        jacobian = jacrev(lambda at, x=x: logits(model, names, at, x))(point)
        for row, p in zip(jacobian, logits(model, names, point, x).softmax(1), strict=True):
            gauss_newton += row.T @ (torch.diag(p) - torch.outer(p, p)) @ row / count
    return jacrev(jacrev(loss))(point), gauss_newton  # type: ignore[return-value]


@pytest.mark.parametrize("chosen", [None, ["0.*"], ["*.bias"], ["2.weight", "0.bias"]])
def test_products_are_those_of_the_dense_matrices(chosen) -> None:
    model, data = smooth(), batches()
    found = curvature(model, data, chosen)
    exact, gauss_newton = dense(model, found.names, data)
    identity = torch.eye(found.size, dtype=torch.float64)
    torch.testing.assert_close(torch.stack([found.hessian(v) for v in identity]), exact, rtol=0, atol=1e-10)
    rows = torch.stack([found.gauss_newton(v) for v in identity])
    torch.testing.assert_close(rows, gauss_newton, rtol=0, atol=1e-10)
    assert torch.linalg.eigvalsh(rows).min() > -1e-12


@pytest.mark.parametrize("name", ["residual", "branched", "heads"])
def test_products_are_symmetric_and_linear(name) -> None:
    model, data = SUBJECTS[name].network(), SUBJECTS[name].pairs(2, 4)
    before = hash_tensors(state_of(model))
    found = curvature(model, data)
    rng = torch.Generator().manual_seed(0)
    u, v = torch.randn(2, found.size, generator=rng, dtype=torch.float64)
    for product in (found.hessian, found.gauss_newton):
        pu, pv = product(u), product(v)
        assert float(u @ pv) == pytest.approx(float(v @ pu), rel=1e-9, abs=1e-10)
        torch.testing.assert_close(product(2 * u - 3 * v), 2 * pu - 3 * pv, rtol=1e-9, atol=1e-10)
    assert hash_tensors(state_of(model)) == before


def test_products_are_differences_of_gradients() -> None:
    found = curvature(smooth(1), batches())
    v = torch.randn(found.size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    step = 1e-5
    measured = (found.gradient(found.point + step * v) - found.gradient(found.point - step * v)) / (2 * step)
    torch.testing.assert_close(found.hessian(v), measured, rtol=1e-6, atol=1e-8)
    slope = (found.value(found.point + step * v) - found.value(found.point - step * v)) / (2 * step)
    assert slope == pytest.approx(float(found.gradient() @ v), rel=1e-7)


def test_losses_of_batches_are_means_over_their_examples() -> None:
    model, data = smooth(), batches(3)
    expected = [nn.functional.cross_entropy(model(x), y).item() for x, y in data]
    found = curvature(model, data)
    np.testing.assert_allclose(found.batch_losses(), expected, rtol=1e-12)
    sizes = [len(y) for _, y in data]
    assert found.value() == pytest.approx(np.average(expected, weights=sizes), rel=1e-12)


def test_a_dead_unit_has_no_curvature() -> None:
    """Its incoming weights, its bias and its outgoing weights."""
    model = sizes_mlp(5, 6, 4)
    with torch.no_grad():
        model[0].weight[2], model[0].bias[2] = 0, -1  # type: ignore[index]
    found = curvature(model, batches())
    rows = torch.stack([found.hessian(v) for v in torch.eye(found.size, dtype=torch.float64)])
    dead = torch.cat(
        [
            *(torch.zeros(6, 5).index_fill(0, torch.tensor([2]), 1).flatten(), torch.eye(6)[2]),
            *(torch.zeros(4, 6).index_fill(1, torch.tensor([2]), 1).flatten(), torch.zeros(4)),
        ]
    ).bool()
    assert not rows[dead].any()
    assert not rows[:, dead].any()
    assert all(bool(row.any()) for row in rows[~dead])


def test_batch_norms_are_left_out_unless_named() -> None:
    model, data = SUBJECTS["residual"].network(), SUBJECTS["residual"].pairs(1, 4)
    norms = {n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert not {name.rpartition(".")[0] for name in curvature(model, data).names} & norms
    everything = curvature(model, data, ["*"])
    assert everything.names == tuple(name for name, _ in model.named_parameters())


def test_the_statistics_of_batches_are_an_option() -> None:
    model, data = SUBJECTS["residual"].network(), SUBJECTS["residual"].pairs(1, 8)
    trained = copy.deepcopy(model).train()
    expected = nn.functional.cross_entropy(trained(data[0][0]), data[0][1]).item()
    assert curvature(model, data, batch_norms=True).value() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: curvature(smooth(), []), CalibrationError, "no batches"),
        (lambda: curvature(smooth(), batches(), ["3.*"]), InvalidSetting, r"no parameter is called '3\.\*'"),
        (lambda: curvature(smooth(), batches(), []), InvalidSetting, "no parameters are chosen"),
        (lambda: curvature(nn.BatchNorm1d(4), [(torch.randn(3, 4), torch.arange(3))]), InvalidSetting, "no param"),
        (lambda: curvature(smooth(), batches()).hessian(torch.zeros(3)), InvalidSetting, r"has shape \(64,\)"),
    ],
)
def test_what_is_wrong_is_said(make, error, message) -> None:
    with pytest.raises(error, match=message):
        make()


class Detached(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()


@pytest.mark.parametrize("product", [Curvature.hessian, Curvature.gauss_newton])
def test_a_forward_without_gradients_is_named(product) -> None:
    found = curvature(Detached(5, 4).double(), batches())
    with pytest.raises(UnsupportedModel, match="no dependence"):
        product(found, found.point)
