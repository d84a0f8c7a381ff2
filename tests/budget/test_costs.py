"""Costs: measured against hand sums, predicted against networks that are really built narrower."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.handmade_sites import SIZE, Net, chain, mixed, separate, slot
from torch import Tensor, nn

from scionet.budget.costs import Cost, CostModel, measure
from scionet.errors import CalibrationError, InvalidSetting, UnsupportedModel
from scionet.files.safetensors_files import hash_tensors
from scionet.network.calling import state_of
from scionet.network.sites import Operation, Site, Sites

NETS = {"chain": chain([4, 6, 5]), "flattened": chain([4, 6, 5], flatten=True), "mixed": mixed()}


class SamePadding(nn.Conv2d):
    """A convolution that is not `nn.Conv2d` itself."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(nn.functional.pad(input, (1, 1, 1, 1)))


class Keywords(nn.Module):
    """Takes two inputs by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, *, a: Tensor, b: Tensor) -> Tensor:
        return self.linear(a + b)


HAND_SUMS = {
    # name: module, shape of one example, MACs (outputs x what each sums over), parameters
    "conv": (nn.Conv2d(3, 8, 3, padding=1), (3, 6, 5), 6 * 5 * 8 * 3 * 9, 8 * 3 * 9 + 8),
    "strided": (nn.Conv2d(3, 8, 3, stride=2, bias=False), (3, 7, 9), 3 * 4 * 8 * 3 * 9, 8 * 3 * 9),
    "depthwise": (nn.Conv2d(8, 8, 5, padding=2, groups=8), (8, 6, 6), 36 * 8 * 25, 8 * 25 + 8),
    "grouped": (nn.Conv2d(8, 12, 3, padding=1, groups=4), (8, 6, 6), 36 * 12 * 2 * 9, 12 * 2 * 9 + 12),
    "subclass": (SamePadding(3, 8, 3), (3, 6, 6), 36 * 8 * 3 * 9, 8 * 3 * 9 + 8),
    "transposed": (nn.ConvTranspose2d(4, 3, 2, stride=2), (4, 5, 5), 25 * 4 * 3 * 4, 4 * 3 * 4 + 3),
    "linear": (nn.Linear(7, 5), (7,), 35, 40),
    "linear on tokens": (nn.Linear(7, 5), (11, 7), 11 * 35, 40),
    "nothing to multiply": (nn.BatchNorm2d(4), (4, 3, 3), 0, 8),
}


@pytest.mark.parametrize("name", HAND_SUMS)
@pytest.mark.parametrize("examples", [1, 3])
def test_measure_equals_the_sum_by_hand(name: str, examples: int) -> None:
    module, shape, macs, params = HAND_SUMS[name]
    assert measure(module, torch.randn(examples, *shape)) == Cost(macs, params)


@pytest.mark.parametrize("whole", [False, True])
def test_attention_counts_both_of_its_products(whole: bool) -> None:
    width, tokens, hidden = 16, 5, 32
    attention = 4 * tokens * width**2 + 2 * tokens**2 * width
    if whole:
        layer: nn.Module = nn.TransformerEncoderLayer(width, 2, hidden, batch_first=True)
        assert measure(layer, torch.randn(3, tokens, width)).macs == attention + 2 * tokens * width * hidden
    else:
        layer = nn.MultiheadAttention(width, 2, batch_first=True)
        x = torch.randn(3, tokens, width)
        assert measure(layer, (x, x, x)).macs == attention


def test_tied_parameters_count_once_and_every_call_counts() -> None:
    linear = nn.Linear(6, 6)
    assert measure(nn.Sequential(linear, nn.ReLU(), linear), torch.randn(2, 6)) == Cost(72, 42)


def test_keyword_inputs_of_another_type() -> None:
    model = Keywords().double()
    assert measure(model, {"a": torch.randn(2, 4), "b": torch.randn(2, 4)}) == Cost(12, 15)


def test_frozen_and_half_precision_cost_the_same() -> None:
    module, shape, macs, params = HAND_SUMS["grouped"]
    frozen = nn.Conv2d(8, 12, 3, padding=1, groups=4).bfloat16().requires_grad_(False)
    assert measure(frozen, torch.randn(2, *shape)) == Cost(macs, params) == measure(module, torch.randn(2, *shape))


def test_measure_leaves_no_trace() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Dropout(0.5)).train()
    model[1].eval()
    before = hash_tensors(state_of(model)), [m.training for m in model.modules()], torch.get_rng_state()
    fast = torch.backends.mha.get_fastpath_enabled()
    measure(model, torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(0)))
    after = hash_tensors(state_of(model)), [m.training for m in model.modules()], torch.get_rng_state()
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert torch.is_grad_enabled()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_settings_are_restored_when_the_model_fails() -> None:
    model = nn.Sequential(nn.Linear(3, 3)).train()
    with pytest.raises(RuntimeError):
        measure(model, torch.randn(2, 4))
    assert model.training
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.is_grad_enabled()


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(CalibrationError, match="batch size 0"):
        measure(nn.Linear(3, 3), torch.randn(0, 3))


@pytest.mark.parametrize("name", NETS)
def test_the_dense_prediction_is_the_measurement(name: str) -> None:
    net = NETS[name]
    assert CostModel(net.sites).dense == measure(net.build({}), net.inputs)


@settings(max_examples=40)
@given(st.sampled_from(sorted(NETS)), st.data())
def test_predicted_cost_is_that_of_the_network_built_narrower(name: str, data: Any) -> None:
    net = NETS[name]
    kept = data.draw(st.fixed_dictionaries({}, optional={n: st.integers(1, s.width) for n, s in net.sites.items()}))
    assert CostModel(net.sites).cost(kept) == measure(net.build(kept), net.inputs)


def counted_from_shapes(sites: Sites, widths: dict[str, int]) -> Cost:
    """The definition: entries are crossed out one by one, and what is left is counted."""
    alive = {(t, d): np.ones(size, bool) for t, shape in sites.shapes.items() for d, size in enumerate(shape)}
    for name, width in widths.items():
        for cut in sites[name].slots:
            alive[cut.tensor, cut.dim][cut.index[width:].ravel()] = False
    left = {t: [int(alive[t, d].sum()) for d in range(len(shape))] for t, shape in sites.shapes.items()}
    macs = 0.0
    for operation in sites.operations:
        fractions = zip(left.get(operation.weight or "", ()), sites.shapes.get(operation.weight or "", ()), strict=True)
        macs += operation.macs * float(np.prod([a / b for a, b in list(fractions)[:2]]))
    return Cost(macs, sum(int(np.prod(left[p])) for p in sites.parameters))


@given(st.sampled_from(sorted(NETS)), st.data())
def test_predicted_cost_is_that_of_the_explicit_shapes(name: str, data: Any) -> None:
    sites = NETS[name].sites
    widths = {n: data.draw(st.integers(0, s.width)) for n, s in sites.items()}
    expected = counted_from_shapes(sites, widths)
    found = CostModel(sites).cost(widths)
    assert found.params == expected.params
    assert found.macs == pytest.approx(expected.macs, rel=1e-12)


@pytest.mark.parametrize("name", NETS)
def test_shifts_and_interactions_are_exact_differences(name: str) -> None:
    model = CostModel(NETS[name].sites)
    rng = np.random.default_rng(0)
    kept = rng.integers(1, model.full + 1)
    site = np.repeat(np.arange(len(kept)), 2)
    step = rng.integers(-kept[site], model.full[site] - kept[site] + 1)
    moved = kept + step[:, None] * (site[:, None] == np.arange(len(kept)))
    expected = np.stack([model.evaluate(w) - model.evaluate(kept) for w in moved], axis=1)
    np.testing.assert_array_equal(model.shifts(kept, site, step), expected)
    mixed_terms = model.interactions(kept, site, step, site, step)
    for a, b in product(range(len(site)), repeat=2):
        if site[a] != site[b]:
            both = model.evaluate(moved[a] + moved[b] - kept) - model.evaluate(kept)
            np.testing.assert_array_equal(mixed_terms[:, a, b], both - expected[:, a] - expected[:, b])


def test_macs_without_a_weight_stay_whatever_is_cut() -> None:
    sites = Sites({}, {}, (Operation(None, 7.5),), {}, ())
    assert CostModel(sites).dense == Cost(7.5, 0)


def test_buffers_are_no_parameters() -> None:
    net: Net = NETS["chain"]
    statistics = sum(np.prod(shape) for name, shape in net.sites.shapes.items() if name not in net.sites.parameters)
    everything = sum(np.prod(shape) for shape in net.sites.shapes.values())
    assert statistics > 0
    assert CostModel(net.sites).dense.params == everything - statistics


def test_unknown_sites_and_impossible_widths_are_refused() -> None:
    model = CostModel(NETS["chain"].sites)
    with pytest.raises(InvalidSetting, match=r"unknown site '0\.1'.*Did you mean '0\.0'"):
        model.cost({"0.1": 2})
    for width in (-1, 5):
        with pytest.raises(InvalidSetting, match=r"'0\.0' cannot keep -?\d units; allowed: 0\.\.4"):
            model.cost({"0.0": width})


def test_a_tensor_that_shrinks_in_three_dimensions_is_refused() -> None:
    sites = {str(d): Site(str(d), 3, (slot("w", d, 3),), (), ()) for d in range(3)}
    with pytest.raises(UnsupportedModel, match="3 dimensions"):
        _ = CostModel(Sites(sites, {}, (), {"w": (3, 3, 3)}, ("w",))).dense


def test_a_cost_reads_well() -> None:
    assert str(CostModel(separate([1000], [2000])).dense) == "2M MACs, 0.001M parameters"
    assert NETS["chain"].sites.operations[0].macs == SIZE * SIZE * 4 * 2 * 9
