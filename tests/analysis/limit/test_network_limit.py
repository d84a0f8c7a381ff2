"""The limit of pruning of a network: against its dense Hessian, dead units, tied weights and wrong input."""

import numpy as np
import pytest
import torch
from support.mask_networks import pairs, sizes_mlp
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from scionet.analysis.limit.lanczos import signs
from scionet.analysis.limit.measured import one_shot, reoptimised
from scionet.analysis.limit.network_limit import PruningLimit, pruning_limit
from scionet.analysis.limit.spectrum import Spectrum
from scionet.analysis.limit.threshold import limit
from scionet.errors import AnalysisError, CalibrationError, InvalidSetting, StationarityWarning
from scionet.files.safetensors_files import hash_tensors
from scionet.masks.masking import mask_weights
from scionet.network.calling import state_of

WEIGHTS = ["0.weight", "2.weight"]


def batches(count: int = 3) -> list[tuple[Tensor, Tensor]]:
    return [tuple(pairs(40 + number, 5, seed=number)) for number in range(count)]  # type: ignore[misc]


@pytest.fixture(scope="module")
def trained() -> nn.Sequential:
    """A network with smooth activations at a minimum of its loss on these batches, nearly; their labels are noise."""
    model, data = sizes_mlp(5, 6, 4), batches()
    model[1] = nn.Tanh()
    x, y = torch.cat([x for x, _ in data]), torch.cat([y for _, y in data])
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y) + 1e-4 * sum(p.square().sum() for p in model.parameters())
        loss.backward()
        return loss

    optimiser.step(closure)  # type: ignore[arg-type]
    return model.requires_grad_(False).eval()


def flat(model: nn.Module) -> np.ndarray:
    """The weights that can be removed."""
    return np.concatenate([model.get_parameter(name).detach().numpy().ravel() for name in WEIGHTS])


def dense(model: nn.Module, names: list[str], data: list[tuple[Tensor, Tensor]]) -> np.ndarray:
    """The Hessian of the mean cross-entropy, by automatic differentiation."""
    x, y = torch.cat([x for x, _ in data]), torch.cat([y for _, y in data])
    shapes = [model.get_parameter(name).shape for name in names]
    point = torch.cat([model.get_parameter(name).detach().flatten() for name in names])

    def loss(at: Tensor) -> Tensor:
        pieces = at.split([s.numel() for s in shapes])
        parts = {n: p.view(s) for n, p, s in zip(names, pieces, shapes, strict=True)}
        return nn.functional.cross_entropy(functional_call(model, parts, (x,)), y)

    return jacrev(jacrev(loss))(point).numpy()  # type: ignore[union-attr]


@pytest.mark.parametrize("tolerance", [0.01, "20%", "batch_std"])
def test_the_limit_is_that_of_the_dense_hessian(trained: nn.Module, tolerance) -> None:
    data = batches()
    before = hash_tensors(state_of(trained))
    found = pruning_limit(trained, data, spectrum="exact", tolerance=tolerance)
    matrix = dense(trained, WEIGHTS, data)
    losses = [float(nn.functional.cross_entropy(trained(x), y)) for x, y in data]
    mean = float(np.average(losses, weights=[len(y) for _, y in data]))
    allowed = {"20%": mean / 5, "batch_std": float(np.std(losses))}.get(str(tolerance), 0.01)
    assert found.tolerance == pytest.approx(allowed, rel=1e-9)
    assert found.loss == pytest.approx(mean, rel=1e-9)
    expected = limit(flat(trained), Spectrum.of(np.linalg.eigvalsh(matrix)), allowed)
    assert found.limit.removed == expected.removed
    assert (found.limit.weights, found.size, found.examples) == (54, 54, 123)
    assert found.estimate.trace.value == pytest.approx(np.trace(matrix), rel=1e-9)
    assert found.trace_limit.removed <= found.limit.removed
    assert hash_tensors(state_of(trained)) == before


def test_lanczos_with_all_steps_has_the_spectral_measure_of_its_vectors(trained: nn.Module) -> None:
    data = batches()
    found = pruning_limit(trained, data, tolerance=0.02, probes=2, seed=3)
    values, vectors = np.linalg.eigh(dense(trained, WEIGHTS, data))
    like = torch.zeros(54, dtype=torch.float64)
    shares = np.mean([(signs(like, 3, probe).numpy() @ vectors) ** 2 / 54 for probe in range(2)], axis=0)
    expected = limit(flat(trained), Spectrum.of(values, shares), 0.02)
    assert found.limit.removed == expected.removed
    assert found.limit.dimension == pytest.approx(expected.dimension, rel=1e-6)
    assert 54 < found.estimate.products <= 108
    assert found.standard_error is not None
    assert 0 < found.standard_error < 0.2


def test_the_hessian_may_cover_other_parameters_than_are_removed(trained: nn.Module) -> None:
    data = batches()
    found = pruning_limit(trained, data, spectrum="exact", parameters=["*"], tolerance=0.02, ignored_layers=["0"])
    matrix = dense(trained, list(found.parameters), data)
    weights = trained.get_parameter("2.weight").numpy()
    assert found.parameters == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert found.limit.removed == limit(weights, Spectrum.of(np.linalg.eigvalsh(matrix)), 0.02).removed
    assert found.limit.weights == 24


def test_the_trace_alone(trained: nn.Module) -> None:
    exact = pruning_limit(trained, batches(), spectrum="exact", tolerance=0.02)
    found = pruning_limit(trained, batches(), spectrum="trace", tolerance=0.02, probes=60)
    error = found.estimate.trace.standard_error
    assert error is not None
    assert abs(found.estimate.trace.value - exact.estimate.trace.value) < 4 * error
    assert found.limit.removed == found.trace_limit.removed <= exact.limit.removed
    assert found.standard_error is None


def test_a_dead_unit_is_flat() -> None:
    """Its incoming weights, its bias and its outgoing weights: nothing else."""
    model, data = sizes_mlp(5, 6, 4), batches()
    with torch.no_grad():
        model[0].weight[2], model[0].bias[2] = 0, -1  # type: ignore[index]
    for spectrum in ("exact", "lanczos"):
        with pytest.warns(StationarityWarning):
            found = pruning_limit(model, data, parameters=["*"], spectrum=spectrum, tolerance=1e-6)
        assert round(found.estimate.spectrum.zero_share * found.size) == 5 + 1 + 4
        assert found.estimate.spectrum.zero_share * found.size == pytest.approx(10)


def test_tied_weights_count_once() -> None:
    layer = nn.Linear(4, 4).double()
    tied = nn.Sequential(layer, nn.Tanh(), layer).eval()
    data = [tuple(pairs(9, 4, seed=s)) for s in (0, 1)]
    with pytest.warns(StationarityWarning):
        found = pruning_limit(tied, data, tolerance=1e-6)
    assert (found.size, found.limit.weights) == (16, 16)


def test_batch_norm_and_dropout_are_fixed() -> None:
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(), nn.Linear(6, 4)).double()
    with pytest.warns(StationarityWarning):
        found = [pruning_limit(model, batches(), tolerance=1e-4) for _ in range(2)]
    assert found[0] == found[1]
    assert found[0].parameters == ("0.weight", "4.weight")
    assert model.training


def test_a_network_away_from_a_minimum_is_warned_about(trained: nn.Module) -> None:
    with pytest.warns(StationarityWarning, match="gradient has norm"):
        found = pruning_limit(sizes_mlp(5, 6, 4), batches(), tolerance=1e-3)
    assert not found.stationary
    assert found.gradient_norm > 0.01
    assert pruning_limit(trained, batches(), tolerance=0.05).stationary


def test_the_masks_of_the_limit_remove_exactly_that_many(trained: nn.Module) -> None:
    found = pruning_limit(trained, batches(), tolerance=0.5)
    assert 0 < found.limit.removed < 54
    masks = mask_weights(trained, found.density, on_collapse="allow").masks
    assert 54 - sum(masks.counts.values()) == found.limit.removed
    removed = sum(float((trained.get_parameter(n)[~m] ** 2).sum()) for n, m in masks.items())
    assert removed == pytest.approx(found.limit.squared_radius)


def test_what_one_shot_measures_is_the_loss_of_the_masked_network(trained: nn.Module) -> None:
    data = batches()
    found = one_shot(trained, data, 1.0, (1.0, 0.5, 0.3))
    x, y = torch.cat([x for x, _ in data]), torch.cat([y for _, y in data])
    for density, loss in zip(found.densities, found.losses, strict=True):
        masked = mask_weights(trained, density, on_collapse="allow").masks.applied(trained)
        assert loss == pytest.approx(float(nn.functional.cross_entropy(masked(x), y)), rel=1e-9)
    lower = reoptimised(trained, data, 0.0, (0.5,))
    assert all(a < b for a, b in zip(lower.losses, found.losses[1:2], strict=True))
    reached = reoptimised(trained, data, 5.0, (0.5,))
    assert reached.losses[0] == pytest.approx(found.losses[1])  # the level is reached before the first step
    assert reached.lowest == 0.5
    assert one_shot(trained, data, -1.0, (0.5,)).lowest is None


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"tolerance": "much"}, InvalidSetting, "given 'much'"),
        ({"spectrum": "full"}, InvalidSetting, "unknown spectrum 'full'"),
        ({"dtype": torch.float16}, InvalidSetting, "float32 or torch.float64"),
        ({"memory_gib": 1e-6}, InvalidSetting, "allow 2: give steps=2"),
        ({"parameters": ["9.*"]}, InvalidSetting, "no parameter is called"),
        ({"steps": 0}, InvalidSetting, "a step or more"),
        ({"probes": 0}, InvalidSetting, "a random vector or more"),
    ],
)
def test_wrong_settings_are_refused(trained: nn.Module, settings, error, message: str) -> None:
    with pytest.raises(error, match=message):
        pruning_limit(trained, batches(), **settings)


def test_wrong_data_are_refused(trained: nn.Module) -> None:
    with pytest.raises(CalibrationError, match="no batches"):
        pruning_limit(trained, [])
    with pytest.raises(InvalidSetting, match="two batches or more"):
        pruning_limit(trained, batches(1))
    with pytest.raises(CalibrationError, match="is nan"):
        pruning_limit(trained, [(torch.full((3, 5), torch.nan, dtype=torch.float64), torch.zeros(3, dtype=torch.long))])
    with pytest.raises(InvalidSetting, match="densities lie between 0 and 1"):
        one_shot(trained, batches(), 1.0, (1.5,))


class Rooted(nn.Linear):
    """Finite at 0, with a second derivative that is not."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).abs().pow(1.5)


def test_products_that_are_not_finite_name_the_parameter() -> None:
    model = Rooted(5, 4).double()
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    with pytest.raises(AnalysisError, match="infinite at 'weight'"):
        pruning_limit(model, batches(), tolerance=0.1)


def test_large_exact_spectra_are_refused() -> None:
    with pytest.raises(InvalidSetting, match="use spectrum='lanczos'"):
        pruning_limit(nn.Linear(5, 2400).double(), batches(), spectrum="exact", tolerance=0.1)


def test_results_are_values(trained: nn.Module) -> None:
    found = pruning_limit(trained, batches(), tolerance=0.1)
    assert isinstance(found, PruningLimit)
    assert found == pruning_limit(trained, batches(), tolerance=0.1)
    assert found != pruning_limit(trained, batches(), tolerance=0.1, seed=1)
