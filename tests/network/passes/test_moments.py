"""Rows of consumers against torch's own unfolding and the definition of a convolution; moments against NumPy."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.small_networks import Net
from torch import Tensor, nn
from torch.nn import functional

from scionet.errors import CalibrationError
from scionet.network.network import Network
from scionet.network.passes.moments import (
    Moments,
    flatten_weight,
    input_rows,
    output_rows,
    sample_positions,
    unflatten_weight,
)
from scionet.network.passes.suspended import Stop, suspended_passes

WIDE = torch.float64


def stop_at(layer: nn.Module, x: Tensor) -> Stop:
    """The forward pass of one layer, stopped there."""
    stops: list[Stop] = []
    model = Net(lambda m, x: m.layer(x), layer=layer).eval()
    with suspended_passes(Network(model), [x], {"layer.weight": None}) as passes:
        passes.step(lambda present: [present[0].output], lambda present: stops.extend(present))
    return stops[0]


# -- rows ------------------------------------------------------------------------------------------------------------

SETTINGS: Mapping[str, dict[str, Any]] = {
    "plain": {"kernel_size": 3},
    "point": {"kernel_size": 1},
    "stride": {"kernel_size": 3, "stride": (2, 1)},
    "padding": {"kernel_size": (3, 2), "padding": (1, 2)},
    "dilation": {"kernel_size": 3, "padding": 2, "dilation": (1, 2)},
    "all": {"kernel_size": (2, 3), "stride": (1, 2), "padding": (0, 2), "dilation": (2, 1)},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_patches_are_those_of_unfold(name: str) -> None:
    layer = nn.Conv2d(3, 4, dtype=WIDE, **SETTINGS[name])
    x = torch.randn(2, 3, 7, 9, dtype=WIDE)
    columns = functional.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # pyright: ignore
    kernel = int(np.prod(layer.kernel_size))
    by_channel = columns.unflatten(1, (3, kernel))  # (batch, channels, kernel, positions)
    expected = by_channel.permute(0, 3, 2, 1).flatten(2).flatten(0, 1)
    assert torch.equal(input_rows(stop_at(layer, x), None), expected)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        *((nn.Conv2d(3, 4, dtype=WIDE, **given), (2, 3, 7, 9)) for given in SETTINGS.values()),
        (nn.Conv2d(3, 4, 3, padding="same", dilation=2, dtype=WIDE), (2, 3, 7, 9)),
        (nn.Conv2d(3, 4, 3, padding="valid", dtype=WIDE), (2, 3, 7, 9)),
        (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect", dtype=WIDE), (2, 3, 7, 9)),
        (nn.Conv2d(3, 4, (4, 2), padding="same", bias=False, dtype=WIDE), (2, 3, 7, 9)),
        (nn.Conv1d(3, 4, 3, stride=2, padding=1, dtype=WIDE), (2, 3, 8)),
        (nn.Conv3d(3, 4, (1, 2, 3), stride=(1, 2, 1), padding=(0, 1, 2), dtype=WIDE), (2, 3, 4, 5, 6)),
        (nn.Linear(3, 4, dtype=WIDE), (7, 3)),
        (nn.Linear(3, 4, bias=False, dtype=WIDE), (2, 5, 3)),
        (nn.Linear(3, 4, dtype=WIDE), (2, 5, 6, 3)),
    ],
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_rows_times_the_weight_are_the_outputs(layer: nn.Module, shape: tuple[int, ...]) -> None:
    """The definition that everything built on moments needs, at all positions and at some of them."""
    x = torch.randn(shape, dtype=WIDE)
    stop = stop_at(layer, x)
    assert isinstance(layer.weight, Tensor)
    weight = flatten_weight(layer.weight.detach())
    every = output_rows(stop.output_without_bias, None)
    torch.testing.assert_close(input_rows(stop, None) @ weight.T, every, rtol=1e-12, atol=1e-12)

    positions = sample_positions(stop, 3, np.arange(len(x)), key=5)
    some = output_rows(stop.output_without_bias, positions)
    torch.testing.assert_close(input_rows(stop, positions) @ weight.T, some, rtol=1e-12, atol=1e-12)
    if positions is not None:
        examples = zip(every.unflatten(0, (len(x), -1)), positions, strict=True)
        assert torch.equal(some, torch.cat([pixels[places] for pixels, places in examples]))


def test_outputs_without_bias_are_outputs_without_bias() -> None:
    layer, x = nn.Conv2d(3, 4, 3, dtype=WIDE), torch.randn(2, 3, 5, 5, dtype=WIDE)
    expected = functional.conv2d(x, layer.weight, None)
    torch.testing.assert_close(stop_at(layer, x).output_without_bias, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2), (4, 3, 2, 5), (4, 3, 2, 1, 3)])
def test_a_weight_as_a_matrix_and_back(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape)
    matrix = flatten_weight(weight)
    assert matrix.shape == (4, weight[0].numel())
    assert torch.equal(unflatten_weight(matrix, shape), weight)


def test_positions() -> None:
    stop = stop_at(nn.Conv2d(3, 4, 3), torch.randn(2, 3, 10, 12))
    positions = sample_positions(stop, 20, np.arange(2), key=5)
    assert positions is not None
    assert positions.shape == (2, 20)
    for places in positions.tolist():
        assert len(set(places)) == 20
        assert places == sorted(places)
        assert places[0] >= 0
        assert places[-1] < 8 * 10
    assert sample_positions(stop, 80, np.arange(2), key=5) is None
    linear = stop_at(nn.Linear(3, 4), torch.randn(50, 3))
    assert sample_positions(linear, 20, np.arange(50), key=5) is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_single(dtype: torch.dtype) -> None:
    layer, x = nn.Conv2d(3, 4, 3, dtype=dtype), torch.randn(2, 3, 5, 5, dtype=dtype)
    stop = stop_at(layer, x)
    assert input_rows(stop, None).dtype == torch.float32
    assert output_rows(stop.output, None).dtype == torch.float32


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(("layer", "shape"), [(nn.Conv2d(3, 4, 3), (2, 3, 5, 5)), (nn.Linear(3, 4), (7, 3))])
def test_values_that_are_not_finite_name_the_layer(layer: nn.Module, shape: tuple[int, ...], value: float) -> None:
    x = torch.randn(shape)
    x.view(-1)[7] = value
    with pytest.raises(CalibrationError, match=r"the input of 'layer\.weight' has NaN or infinite values"):
        input_rows(stop_at(layer, x), None)


# -- moments ---------------------------------------------------------------------------------------------------------


def rows(seed: int, count: int, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, inputs, generator=generator, dtype=WIDE) + 2
    return x, torch.randn(count, outputs, generator=generator, dtype=WIDE) - 1


@given(st.integers(0, 1000), st.integers(1, 4), st.integers(1, 3), st.lists(st.integers(1, 6), min_size=1, max_size=4))
@settings(max_examples=50)
def test_moments_add_up_over_batches(seed: int, inputs: int, outputs: int, parts: list[int]) -> None:
    x, y = rows(seed, sum(parts), inputs, outputs)
    batches = [Moments.of(a, b) for a, b in zip(x.split(parts), y.split(parts), strict=True)]
    total = batches[0]
    for moments in batches[1:]:
        total = total + moments
    whole = Moments.of(x, y)
    assert total.count == whole.count == sum(parts)
    for name in ("x", "y", "xx", "xy", "yy"):
        torch.testing.assert_close(getattr(total, name), getattr(whole, name), rtol=1e-12, atol=1e-12)


@given(
    st.integers(0, 1000),
    st.floats(0, 1000),
    st.lists(st.integers(0, 40), min_size=1, max_size=5),
    st.sampled_from([torch.float32, WIDE]),
)
@settings(max_examples=60)
def test_variances_survive_a_mean_however_the_rows_are_divided(
    seed: int, ratio: float, parts: list[int], dtype: torch.dtype
) -> None:
    """Against float64, for means of 0 to 1,000 standard deviations; held-out rows and the rest as well."""
    parts = [*parts, 30]
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(sum(parts), 4, generator=generator, dtype=WIDE) * torch.tensor([1.0, 1e-3, 1e3, 1.0])
    x = x + ratio * torch.tensor([1.0, -1e-3, 1e3, 0.0])
    y = x @ torch.randn(4, 3, generator=generator, dtype=WIDE) + ratio
    held = torch.rand(sum(parts), generator=generator) < 0.3
    x, y = x.to(dtype), y.to(dtype)
    total = None
    for a, b, out in zip(x.split(parts), y.split(parts), held.split(parts), strict=True):
        moments = Moments.of(a, b, out)
        total = moments if total is None else total + moments
    assert total is not None
    for found, which in ((total, torch.ones_like(held)), (total.held, held), (total.fitted, ~held)):
        assert found is not None
        if int(which.sum()) < 2:
            continue
        exact = np.cov(torch.cat([x, y], 1)[which].double().numpy(), rowvar=False, bias=True)
        size = np.sqrt(np.outer(np.diag(exact), np.diag(exact)))
        xx, xy, yy = found.means(centred=True)
        assert np.abs((xx - exact[:4, :4]) / size[:4, :4]).max() < 1e-5
        assert np.abs((xy - exact[:4, 4:]) / size[:4, 4:]).max() < 1e-5
        assert np.abs(yy / np.diag(exact)[4:] - 1).max() < 1e-5
        raw = x[which].double().T @ x[which].double() / int(which.sum())
        np.testing.assert_allclose(found.means(centred=False)[0], raw, rtol=1e-5, atol=1e-5 * size[:4, :4].max())


def test_moments_are_those_of_numpy() -> None:
    x, y = rows(0, 50, 4, 3)
    moments = Moments.of(x, y)
    together = np.cov(np.hstack([x, y]), rowvar=False, bias=True)
    xx, xy, yy = moments.means(centred=True)
    np.testing.assert_allclose(xx, together[:4, :4], rtol=1e-10)
    np.testing.assert_allclose(xy, together[:4, 4:], rtol=1e-10)
    np.testing.assert_allclose(yy, np.diag(together)[4:], rtol=1e-10)
    xx, xy, yy = moments.means(centred=False)
    np.testing.assert_allclose(xx, np.mean([np.outer(row, row) for row in x.numpy()], 0), rtol=1e-12)
    np.testing.assert_allclose(xy, np.einsum("ni,no->io", x, y) / 50, rtol=1e-12)
    np.testing.assert_allclose(yy, (y.numpy() ** 2).mean(0), rtol=1e-12)


def test_the_shift_makes_a_weight_exact_in_the_mean() -> None:
    x, y = rows(1, 40, 4, 3)
    weight = np.random.default_rng(0).normal(size=(3, 4))
    shift = Moments.of(x, y).shift(weight)
    np.testing.assert_allclose((x.numpy() @ weight.T + shift).mean(0), y.numpy().mean(0), rtol=1e-12)


def test_sums_are_kept_in_double_precision() -> None:
    x, y = rows(2, 10, 3, 2)
    moments = Moments.of(x.float(), y.float())
    assert {t.dtype for t in (moments.x, moments.y, moments.xx, moments.xy, moments.yy)} == {WIDE}


def test_a_constant_target_has_no_negative_variance() -> None:
    x, _ = rows(3, 1000, 2, 1)
    _, _, yy = Moments.of(x, torch.full((1000, 1), 1e3 + 1e-3, dtype=WIDE)).means(centred=True)
    assert yy.min() >= 0


def test_held_rows_are_counted_by_themselves_and_can_be_taken_out() -> None:
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, 4, generator=rng, dtype=WIDE), torch.randn(50, 3, generator=rng, dtype=WIDE)
    both = Moments.of(x[:20], y[:20], slice(3, 8)) + Moments.of(x[20:], y[20:], slice(0, 4))
    held = torch.zeros(50, dtype=torch.bool)
    held[3:8] = held[20:24] = True
    for found, rows in ((both, torch.ones_like(held)), (both.held, held), (both.fitted, ~held)):
        assert found is not None
        assert found.count == int(rows.sum())
        for one, other in zip(found.means(True), Moments.of(x[rows], y[rows]).means(True), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-12)


def test_errors_are_those_of_the_affine_map_on_the_rows() -> None:
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, 4, generator=rng, dtype=WIDE) + 2, torch.randn(50, 3, generator=rng, dtype=WIDE) - 1
    weight, shift = np.arange(12.0).reshape(3, 4) / 9, np.array([0.5, -1.0, 2.0])
    expected = ((y.numpy() - x.numpy() @ weight.T - shift) ** 2).mean(0)
    np.testing.assert_allclose(Moments.of(x, y).errors(weight, shift), expected, rtol=1e-12)
