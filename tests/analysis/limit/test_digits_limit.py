"""The limit of pruning predicted and measured on scikit-learn's digits, with and without an L1 penalty."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from scionet.analysis.curvature import curvature
from scionet.analysis.limit.measured import GRID, Measured, one_shot, reoptimised
from scionet.analysis.limit.network_limit import PruningLimit, pruning_limit
from scionet.analysis.limit.spectrum import Spectrum
from scionet.analysis.limit.threshold import limit
from scionet.masks.masking import mask_weights
from scionet.masks.weights import maskable

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Case:
    model: nn.Module
    found: PruningLimit
    once: Measured
    again: Measured

    @property
    def weights(self) -> np.ndarray:
        return torch.cat([w.flatten() for w in maskable(self.model).values()]).numpy()

    @property
    def signed_trace_density(self) -> float:
        mean = self.found.estimate.trace.value / self.found.size
        return limit(self.weights, Spectrum((mean,), (1.0,)), self.found.tolerance).density


def pictures(test: bool = False) -> tuple[Tensor, Tensor]:
    x, y = load_digits(return_X_y=True)
    parts = train_test_split(x / 16, y, test_size=500, stratify=y, random_state=0)
    return torch.from_numpy(parts[test]), torch.from_numpy(parts[2 + test])


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float((model(x).argmax(1) == y).double().mean())


def masked(model: nn.Module, density: float) -> nn.Module:
    return mask_weights(model, density, on_collapse="allow").masks.applied(model)


def trained(x: Tensor, y: Tensor, l1: float) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        wide = torch.float64
        model = nn.Sequential(nn.Linear(64, 24, dtype=wide), nn.ReLU(), nn.Linear(24, 10, dtype=wide))
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 150)
        for _ in range(150):
            for chosen in torch.randperm(len(x)).split(128):
                optimiser.zero_grad()
                loss = nn.functional.cross_entropy(model(x[chosen]), y[chosen])
                (loss + l1 * sum(p.abs().sum() for p in model.parameters())).backward()
                optimiser.step()
            schedule.step()
    return model.eval()


@pytest.fixture(scope="module")
def cases() -> dict[float, Case]:
    """The Hessian covers all 1,810 parameters; the density counts the 1,776 weights."""
    x, y = pictures()
    assert len(x) == 1297
    batches = list(zip(x.split(128), y.split(128), strict=True))
    found = {}
    for l1 in (0.0, 5e-4):
        model = trained(x, y, l1)
        whole, tolerance = [(x, y)], float(curvature(model, batches).batch_losses().std())
        predicted = pruning_limit(model, whole, parameters=["*"], spectrum="exact", tolerance=tolerance)
        level = predicted.loss + tolerance
        found[l1] = Case(model, predicted, one_shot(model, whole, level), reoptimised(model, whole, level))
    return found


def test_the_whole_spectrum_predicts_what_kept_weights_can_reach_when_they_move(cases: dict[float, Case]) -> None:
    for case in cases.values():
        assert (case.found.size, case.found.limit.weights, case.found.examples) == (1810, 1776, 1297)
        assert case.again.lowest is not None
        assert abs(case.found.density - case.again.lowest) <= 0.1


def test_the_trace_predicts_pruning_at_once(cases: dict[float, Case]) -> None:
    for case in cases.values():
        assert case.once.lowest is not None
        assert abs(case.signed_trace_density - case.once.lowest) <= 0.05
        assert abs(case.signed_trace_density - case.found.trace_limit.density) < 0.02


def test_an_l1_penalty_lowers_the_limit_also_at_one_tolerance(cases: dict[float, Case]) -> None:
    plain, penalised = cases[0.0], cases[5e-4]
    assert penalised.found.density < plain.found.density
    at_one = limit(penalised.weights, penalised.found.estimate.spectrum, plain.found.tolerance)
    assert at_one.density < plain.found.density


@pytest.mark.parametrize(
    ("l1", "loss", "tolerance", "smallest", "largest", "flat", "density", "trace", "clamped"),
    [
        (0.0, 0.0106, 0.0044, -0.0022, 1.00, 0.37, 0.21, 0.52, 0.18),
        (5e-4, 0.0340, 0.0125, -0.0049, 1.88, 0.34, 0.14, 0.22, 0.13),
    ],
)
def test_the_figures_are_those_of_the_reference_run(
    cases: dict[float, Case], l1, loss, tolerance, smallest, largest, flat, density, trace, clamped
) -> None:
    case = cases[l1]
    values = np.array(case.found.estimate.spectrum.values)
    assert case.found.loss == pytest.approx(loss, abs=5e-4)
    assert case.found.tolerance == pytest.approx(tolerance, abs=5e-4)
    assert values.min() == pytest.approx(smallest, abs=5e-4)
    assert values.max() == pytest.approx(largest, abs=0.02)
    assert np.mean(np.abs(values) < 1e-7) == pytest.approx(flat, abs=0.01)
    assert case.found.density == pytest.approx(density, abs=0.01)
    assert case.signed_trace_density == pytest.approx(trace, abs=0.01)
    flat_form = limit(case.weights, case.found.estimate.spectrum, case.found.tolerance, "flat").density
    assert flat_form == pytest.approx(clamped, abs=0.01)
    assert flat_form < case.found.density
    if l1:
        assert case.found.estimate.trace.value == pytest.approx(10.50, abs=0.1)
        norm = sum(float(p.detach().square().sum()) for p in case.model.parameters()) ** 0.5
        assert norm == pytest.approx(14.22, abs=0.05)


@pytest.mark.parametrize(("l1", "once", "again", "accurate"), [(0.0, 0.51, 0.25, 0.47), (5e-4, 0.22, 0.15, 0.22)])
def test_measured_densities_are_those_of_the_reference_run(cases: dict[float, Case], l1, once, again, accurate) -> None:
    """Of the densities at which kept weights move, the next one is allowed."""
    case = cases[l1]
    assert case.once.lowest == pytest.approx(once, abs=0.01)
    assert case.again.lowest == pytest.approx(again, abs=0.051)
    x, y = pictures(test=True)
    rate = accuracy(case.model, x, y)
    if l1:
        assert rate == pytest.approx(0.970, abs=0.002)
    within = [d for d in GRID if accuracy(masked(case.model, d), x, y) >= rate - 0.005 - 1e-9]
    assert min(within) == pytest.approx(accurate, abs=0.02)


def test_lanczos_comes_close_to_the_exact_limit(cases: dict[float, Case]) -> None:
    for case in cases.values():
        found = pruning_limit(case.model, [pictures()], parameters=["*"], probes=8, tolerance=case.found.tolerance)
        assert found.density == pytest.approx(case.found.density, abs=0.03)
        error = found.estimate.trace.standard_error
        assert error is not None
        assert abs(found.estimate.trace.value - case.found.estimate.trace.value) < 4 * error
