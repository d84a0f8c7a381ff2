"""The block inverse Fisher matrix, its scores and its update, against dense float64 matrices."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.mask_networks import pairs, sizes_mlp
from torch import Tensor, nn

from scionet import mask_weights
from scionet.errors import CalibrationError, InvalidSetting
from scionet.files.safetensors_files import hash_tensors
from scionet.masks.compensation import compensated, optimal_brain_surgeon
from scionet.masks.inverse_fisher import InverseProducts, Layout, inverse_blocks
from scionet.masks.scores import SCORES, WeightView, mfac, woodfisher
from scionet.masks.weights import maskable, upcast
from scionet.network.calling import state_of

NET = sizes_mlp(5, 7, 6, 4)
DATA = [pairs(6, 5), pairs(3, 5, seed=2)]
X, Y = torch.cat([x for x, _ in DATA]), torch.cat([y for _, y in DATA])


def view(masked: bool = False) -> WeightView:
    weights = upcast(maskable(NET))
    rng = torch.Generator().manual_seed(7)
    masks = {n: torch.rand(w.shape, generator=rng) > (0.3 if masked else -1) for n, w in weights.items()}
    return WeightView(NET, weights, masks, DATA, X, 1.0, np.random.default_rng(0))


def gradients_one_by_one(given: WeightView) -> dict[str, Tensor]:
    """Per-example gradients ``(examples, weights of the tensor)``, 0 at masked weights."""
    model = copy.deepcopy(NET)
    found: dict[str, list[Tensor]] = {name: [] for name in given.weights}
    with torch.no_grad():
        for name, weight in given.masked.items():
            model.get_parameter(name).copy_(weight)
    for x, y in zip(X, Y, strict=True):
        model.zero_grad()
        nn.functional.cross_entropy(model(x[None]), y[None]).backward()
        for name, rows in found.items():
            rows.append((model.get_parameter(name).grad * given.masks[name]).flatten())  # type: ignore[operator]
    return {name: torch.stack(rows) for name, rows in found.items()}


def dense_fisher(gradients: Tensor, damping: float) -> Tensor:
    return damping * torch.eye(gradients.shape[1]).double() + gradients.T @ gradients / len(gradients)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("block_size", [1, 6, 1000])
def test_woodfisher_is_the_diagonal_of_the_inverse_of_each_block(block_size, masked) -> None:
    """Includes blocks that do not divide a tensor, and blocks larger than a tensor."""
    given = view(masked)
    found = woodfisher(block_size, 0.01)(given)
    for name, rows in gradients_one_by_one(given).items():
        theta = given.weights[name].flatten()
        slow = [
            theta[part].square() / (2 * torch.linalg.inv(dense_fisher(rows[:, part], 0.01)).diagonal())
            for part in torch.arange(len(theta)).split(block_size)
        ]
        torch.testing.assert_close(found[name].flatten(), torch.cat(slow), rtol=1e-10, atol=0)


@pytest.mark.parametrize("block_size", [None, 6])
def test_mfac_is_that_of_one_block_of_all_weights_or_of_the_same_blocks(block_size) -> None:
    given = view(masked=True)
    found = torch.cat([score.flatten() for score in mfac(0.02, block_size)(given).values()])
    if block_size is None:
        rows = torch.cat([*gradients_one_by_one(given).values()], 1)
        theta = torch.cat([weight.flatten() for weight in given.weights.values()])
        slow = theta.square() / (2 * torch.linalg.inv(dense_fisher(rows, 0.02)).diagonal())
    else:
        slow = torch.cat([score.flatten() for score in woodfisher(block_size, 0.02)(given).values()])
    torch.testing.assert_close(found, slow, rtol=1e-10, atol=0)


def test_products_are_those_of_the_dense_inverse_in_any_order_of_the_gradients() -> None:
    rng = torch.Generator().manual_seed(0)
    rows, x = torch.randn(9, 2, 5, generator=rng).double(), torch.randn(2, 5, generator=rng).double()
    inverses = torch.stack([torch.linalg.inv(dense_fisher(rows[:, block], 1e-3)) for block in (0, 1)])
    slow = torch.einsum("bij,bj->bi", inverses, x)
    for order in (torch.arange(9), torch.randperm(9, generator=rng)):
        products = InverseProducts.from_gradients(rows[order], 1e-3)
        torch.testing.assert_close(products.times(x), slow, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(products.diagonal, inverses.diagonal(dim1=1, dim2=2), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(inverse_blocks(rows[order].split(4), 9, 1e-3), inverses, rtol=1e-8, atol=1e-8)


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 4)), min_size=1, max_size=3), st.integers(1, 9), st.data())
def test_layouts_lose_nothing(shapes, block_size, data) -> None:
    tensors = {str(i): torch.randn(*shape).double() for i, shape in enumerate(shapes)}
    layout = Layout.from_weights(tensors, data.draw(st.sampled_from([block_size, None])))
    back = layout.tensors(layout.rows(tensors))
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())
    two = layout.rows({name: torch.stack([tensor, 2 * tensor]) for name, tensor in tensors.items()})
    assert torch.equal(two[1], 2 * layout.rows(tensors))


def test_removing_one_weight_costs_its_saliency() -> None:
    """½ δᵀFδ = w² / (2 [F⁻¹]_qq), and δ = −(w / [F⁻¹]_qq) F⁻¹ e_q."""
    rng = torch.Generator().manual_seed(0)
    fisher = dense_fisher(torch.randn(4, 6, generator=rng).double(), 0.1)
    weights, inverse = torch.randn(6, generator=rng).double(), torch.linalg.inv(fisher)
    for q in range(6):
        kept = torch.ones(6).double().index_fill(0, torch.tensor(q), 0)
        delta = optimal_brain_surgeon(fisher[None], weights[None], kept[None])[0] - weights
        torch.testing.assert_close(delta, -weights[q] / inverse[q, q] * inverse[:, q])
        assert float(0.5 * delta @ fisher @ delta) == pytest.approx(float(weights[q] ** 2 / (2 * inverse[q, q])))


@pytest.mark.parametrize("block_size", [6, 1000])
def test_the_update_is_the_cheapest_that_zeroes_the_masked_weights(block_size) -> None:
    """Against the equations of constrained minimisation, block by block, and on the network's own tensors."""
    masks, before = mask_weights(NET, 0.4, score="obd", batches=DATA).masks, hash_tensors(state_of(NET))
    found = compensated(NET, masks, DATA, block_size=block_size, damping=0.01)
    assert hash_tensors(state_of(NET)) == before
    for name, rows in gradients_one_by_one(view()).items():
        old, new = NET.get_parameter(name).detach().flatten(), found.get_parameter(name).detach().flatten()
        gone = ~masks[name].flatten()
        assert not bool(new[gone].any())
        assert not torch.equal(new[~gone], old[~gone])
        for part in torch.arange(len(old)).split(block_size):
            n, q = len(part), int(gone[part].sum())
            pick = torch.eye(n).double()[gone[part]]
            system = torch.zeros(n + q, n + q).double()
            system[:n, :n], system[:n, n:], system[n:, :n] = dense_fisher(rows[:, part], 0.01), pick.T, pick
            target = torch.cat([torch.zeros(n).double(), -old[part][gone[part]]])
            torch.testing.assert_close((new - old)[part], torch.linalg.solve(system, target)[:n], rtol=1e-8, atol=1e-9)
    assert {n for n, p in found.named_parameters()} == {n for n, _ in NET.named_parameters()}


def test_wrong_blocks_and_missing_labels_are_refused() -> None:
    masks = mask_weights(NET, 0.5).masks
    for wrong in ({"block_size": 0}, {"damping": 0.0}, {"block_size": 2.5}, {"damping": float("nan")}):
        with pytest.raises(InvalidSetting, match="block_size must be a positive whole number"):
            woodfisher(**wrong)  # type: ignore[arg-type]
        with pytest.raises(InvalidSetting, match="block_size must be a positive whole number"):
            compensated(NET, masks, DATA, **wrong)  # type: ignore[arg-type]
    with pytest.raises(CalibrationError, match="no batches"):
        compensated(NET, masks, [])
    with pytest.raises(CalibrationError, match="labels"):
        mask_weights(NET, 0.5, score="mfac", batches=[])


def test_both_are_scores_by_name() -> None:
    for name in ("woodfisher", "mfac"):
        result = mask_weights(NET, 0.3, score=name, batches=DATA)
        assert result.report.score == name
        assert sum(result.masks.counts.values()) == round(0.3 * 101)
    assert SCORES["woodfisher"].uses_labels
