"""Gradient-flow identities in both modes of BatchNorm, and measured effects of removals."""

import copy
from dataclasses import astuple

import numpy as np
import pytest
import torch
from support.subjects import SUBJECTS
from torch import nn

from scionet import discover
from scionet.analysis.gradient_flow import filter_sums, flow_rates, rank_correlation, removal_effects
from scionet.errors import CalibrationError, InvalidSetting
from scionet.files.safetensors_files import hash_tensors
from scionet.network.calling import state_of


@pytest.mark.parametrize("batch_norms", [False, True])
@pytest.mark.parametrize("name", ["residual", "mlp", "heads"])
def test_identities_hold(name, batch_norms) -> None:
    model, pairs = SUBJECTS[name].network().train(), SUBJECTS[name].pairs(2, 6)
    before = hash_tensors(state_of(model))
    rates = flow_rates(model, pairs, batch_norms=batch_norms)
    for field in ("norm", "norm_acceleration", "loss", "gradient_norm"):
        assert getattr(rates, field).error < 1e-6, field
    assert hash_tensors(state_of(model)) == before
    assert model.training


def test_rates_of_a_linear_model_match_a_hand_calculation() -> None:
    """Two classes with logits (w x, 0): L = log(1 + exp(−w x)) for label 0, whose derivatives are known."""
    model = nn.Linear(1, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.7], [0.0]]))
    x, s = 1.5, 1 / (1 + np.exp(0.7 * 1.5))
    rates = flow_rates(model, [(torch.tensor([[x]]).double(), torch.tensor([0]))])
    g, h = np.array([-s * x, s * x]), s * (1 - s) * x**2 * np.array([[1, -1], [-1, 1]])
    theta = np.array([0.7, 0])
    expected = [-2 * theta @ g, 2 * (g @ g + theta @ h @ g), -g @ g, -2 * g @ h @ g]
    assert [rate["predicted"] if isinstance(rate, dict) else rate[0] for rate in astuple(rates)] == pytest.approx(
        expected
    )


def test_filters_in_front_of_batch_statistics_have_no_scale() -> None:
    model, pairs = SUBJECTS["residual"].network(), SUBJECTS["residual"].pairs(1, 16)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-13
    found, plain = filter_sums(model, pairs, batch_norms=True), filter_sums(model, pairs)
    for name in ("stem.weight", "block1.conv1.weight", "block2.conv2.weight"):
        scale = found[name].gradient_norm.max()
        np.testing.assert_allclose(found[name].first, 0, atol=1e-12)
        np.testing.assert_allclose(found[name].second, -found[name].gradient_norm, rtol=1e-8, atol=1e-9 * scale)
        assert np.abs(plain[name].first).max() > 1e-4


def test_removal_effects_match_a_network_with_zeros() -> None:
    model, pairs = SUBJECTS["mlp"].network(), SUBJECTS["mlp"].pairs(2, 8)
    sites = discover(model, SUBJECTS["mlp"].example())
    found = removal_effects(model, pairs, sites)
    x, y = torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])
    for site, consumer in (("0", "2"), ("2", "4")):
        for unit in (0, sites[site].width - 1):
            other = copy.deepcopy(model)
            with torch.no_grad():
                other.get_parameter(f"{consumer}.weight")[:, unit] = 0
                lost = nn.functional.cross_entropy(other(x), y) - nn.functional.cross_entropy(model(x), y)
            assert found[site][unit] == pytest.approx(float(lost), rel=1e-9)


def test_rank_correlation_is_spearmans() -> None:
    scores = {"a": np.array([1.0, 2, 3, 4]), "b": np.array([1.0, 2, 3])}
    effects = {"a": np.array([0.1, -0.2, 0.3, 9]), "b": np.array([-3.0, 2, 1])}
    assert rank_correlation(scores, effects) == pytest.approx({"a": 1.0, "b": -1.0})
    with pytest.raises(InvalidSetting, match="same sites"):
        rank_correlation(scores, {"a": effects["a"]})


def test_missing_batches_and_wrong_steps_are_refused() -> None:
    with pytest.raises(CalibrationError, match="no batches"):
        flow_rates(SUBJECTS["mlp"].network(), [])
    with pytest.raises(InvalidSetting, match="step"):
        flow_rates(SUBJECTS["mlp"].network(), SUBJECTS["mlp"].pairs(), step=0)
