"""The limit of pruning for a network: how many of its weights can be removed before its training loss must rise."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from scionet.analysis.curvature import Curvature, curvature
from scionet.analysis.limit.lanczos import Product, Quadrature, Trace, active_coordinates, hutchinson, quadratures
from scionet.analysis.limit.spectrum import Negatives, Spectrum
from scionet.analysis.limit.threshold import Limit, Requirement, limit, requirement
from scionet.analysis.limit.tolerance import Tolerance
from scionet.errors import AnalysisError, InvalidSetting, StationarityWarning, unknown
from scionet.masks.weights import maskable
from scionet.network.discovery.discover import Ignored
from scionet.network.guard import guarded

SpectrumName = Literal["lanczos", "exact", "trace"]
LARGEST_EXACT = 10_000
"""Most parameters whose Hessian is formed."""


@dataclass(frozen=True)
class Estimate:
    """The spectrum of the Hessian and how well it is known.

    Attributes:
        spectrum: Mean over random vectors, or all eigenvalues.
        spectra: One for each random vector; one if all eigenvalues are known.
        trace: Trace of the Hessian, with its sign.
        products: Products with the Hessian.
        residual: Bound on the distance of the largest node to an eigenvalue; None without Lanczos.
    """

    spectrum: Spectrum
    spectra: tuple[Spectrum, ...]
    trace: Trace
    products: int
    residual: float | None


@dataclass(frozen=True)
class PruningLimit:
    """The smallest density at which a network can keep its training loss up to a tolerance.

    Attributes:
        limit: From the whole spectrum: what is possible if the kept weights may move.
        trace_limit: From the trace alone. Not below `limit`.
        tolerance: ε, by which the loss may rise.
        loss: Mean cross-entropy of the network.
        gradient_norm: Norm of its gradient with respect to the parameters of the Hessian.
        reachable_drop: What one step along the gradient would gain, from the curvature along it; infinite if the loss
            does not curve upwards there. Far above ε, the network is not at a minimum.
        examples: Number of examples behind all numbers.
        parameters: Parameters that the Hessian covers.
        size: Number of their entries.
        estimate: The spectrum.
        requirement: The density that is needed at each density.
        standard_error: That of the limit's dimension, over random vectors; None for a single one.
    """

    limit: Limit
    trace_limit: Limit
    tolerance: float
    loss: float
    gradient_norm: float
    reachable_drop: float
    examples: int
    parameters: tuple[str, ...]
    size: int
    estimate: Estimate
    requirement: Requirement
    standard_error: float | None

    @property
    def density(self) -> float:
        """Fraction of the weights that must be kept."""
        return self.limit.density

    @property
    def stationary(self) -> bool:
        """Whether one step along the gradient would gain at most the tolerance."""
        return self.reachable_drop <= self.tolerance


@guarded
def pruning_limit(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    tolerance: float | str = "batch_std",
    parameters: Sequence[str] | None = None,
    ignored_layers: Ignored = (),
    spectrum: SpectrumName = "lanczos",
    steps: int = 128,
    probes: int = 1,
    negatives: Negatives = "absolute",
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    memory_gib: float = 8.0,
) -> PruningLimit:
    """Predict how many weights can be removed from a trained network, by the curvature of its loss.

    The network runs in evaluation mode, on the same batches in the same order. Give the training examples, unaugmented.
    `mask_weights(model, found.density)` removes the weights.

    Source: Zhang, Zhang, Sun, Liu, NeurIPS 2024; the dimension of a sublevel set as in Larsen et al., ICLR 2022.

    Args:
        model: A trained network; not modified.
        batches: Pairs of inputs and labels.
        tolerance: By how much the loss may rise: a number, ``"5%"`` of the loss, or ``"batch_std"``, the standard
            deviation of the loss over the batches.
        parameters: Names or patterns of the parameters that the Hessian covers. By default the weights that can be
            removed: those of linear maps and convolutions.
        ignored_layers: Layers whose weights are not removed.
        spectrum: ``"lanczos"``, ``"exact"`` (up to 10,000 parameters) or ``"trace"`` (the trace form alone).
        steps: Products with the Hessian for each random vector of ``"lanczos"``.
        probes: Random vectors, from 1.
        negatives: Negative eigenvalues count with their absolute value (a heuristic), or as flat directions.
        seed: Seed of the random vectors.
        dtype: torch.float64 or torch.float32.
        memory_gib: Largest memory of the vectors of ``"lanczos"``, in GiB.

    Raises:
        InvalidSetting: If a setting is out of range, or the vectors do not fit into the memory.
        CalibrationError: If there are no batches, labels are missing or do not match, or the loss is not finite.
        AnalysisError: If products with the Hessian are not finite.

    Warns:
        StationarityWarning: If the network is not at a minimum: one step along the gradient would gain more than ε.
    """
    if dtype not in (torch.float32, torch.float64):
        raise InvalidSetting(f"dtype must be torch.float32 or torch.float64; given {dtype}")
    rule = Tolerance.parse(tolerance)
    weights = maskable(model, ignored_layers)
    around = curvature(model, batches, list(weights) if parameters is None else parameters, dtype=dtype)
    flat = torch.cat([weight.flatten().double() for weight in weights.values()]).cpu().numpy()
    loss, losses = around.value(), around.batch_losses()
    allowed = rule.value(loss, losses)
    estimate = _estimate(around, spectrum, steps, probes, seed, memory_gib)
    found = limit(flat, estimate.spectrum, allowed, negatives)
    at_limit = [each.dimension(found.squared_radius, allowed, negatives) for each in estimate.spectra]
    gradient = around.gradient()
    result = PruningLimit(
        found,
        limit(flat, estimate.spectrum.averaged, allowed),
        allowed,
        loss,
        float(torch.linalg.vector_norm(gradient)),
        _drop(around, gradient),
        around.examples,
        around.names,
        around.size,
        estimate,
        requirement(flat, estimate.spectrum, allowed, negatives),
        Trace.of(at_limit).standard_error,
    )
    if not result.stationary:
        warnings.warn(
            f"the network is not at a minimum: its gradient has norm {result.gradient_norm:.3g}, and one step along it "
            f"would lower the loss by {result.reachable_drop:.3g}, more than the tolerance of {allowed:.3g}; train it "
            "longer, on the examples given here, for a limit that means something",
            StationarityWarning,
            stacklevel=3,
        )
    return result


def _estimate(around: Curvature, name: str, steps: int, probes: int, seed: int, memory_gib: float) -> Estimate:
    """The spectrum, in the way asked for.

    Raises:
        InvalidSetting: If the way is unknown, or needs too much memory.
        AnalysisError: If products are not finite.
    """
    product, like = _finite(around), around.point
    if name == "exact":
        return _exact(product, like)
    if name == "trace":
        trace = hutchinson(product, like, seed, probes)
        mean = Spectrum((trace.value / around.size,), (1.0,)).averaged
        return Estimate(mean, (mean,), trace, probes, None)
    if name != "lanczos":
        raise unknown("spectrum", name, get_args(SpectrumName))
    gib = around.size * like.element_size() / 2**30
    if min(steps, around.size) > (fitting := int(memory_gib / gib)):
        raise InvalidSetting(
            f"{steps} steps of Lanczos on {around.size:,} parameters take {gib * steps:.2g} GiB; {memory_gib:g} GiB "
            f"allow {fitting}: give steps={fitting}, dtype=torch.float32, more memory_gib, or spectrum='trace'"
        )
    active = active_coordinates(product, like, seed)
    found = quadratures(product, active, like, seed, steps, probes)
    return _of_quadratures(found, around.size)


def _of_quadratures(found: Sequence[Quadrature], size: int) -> Estimate:
    spectra = tuple(each.spectrum for each in found)
    trace = Trace.of([size * float(np.dot(each.values, each.shares)) for each in spectra])
    residual = max(each.residual for each in found)
    return Estimate(Spectrum.mean(spectra), spectra, trace, sum(each.steps for each in found), residual)


def _exact(product: Product, like: Tensor) -> Estimate:
    """All eigenvalues of the Hessian.

    Raises:
        InvalidSetting: If there are too many.
    """
    size = len(like)
    if size > LARGEST_EXACT:
        raise InvalidSetting(
            f"the exact spectrum needs {size:,} products and as many rows in memory, at most {LARGEST_EXACT:,}; use "
            "spectrum='lanczos', or fewer parameters"
        )
    rows = like.new_empty((size, size))
    for place in range(size):
        unit = torch.zeros_like(like)
        unit[place] = 1
        rows[place] = product(unit)
    matrix = ((rows + rows.T) / 2).double()
    values = torch.linalg.eigvalsh(matrix).cpu().numpy()
    zero = int((~rows.any(dim=1)).sum())  # rows of 0 are eigenvalues of exactly 0, which rounding would hide
    values[np.argsort(np.abs(values))[:zero]] = 0
    whole = Spectrum.of(values)
    return Estimate(whole, (whole,), Trace(float(matrix.trace()), None), size, None)


def _finite(around: Curvature) -> Product:
    """Products with the Hessian that raise where they are not finite.

    Raises:
        AnalysisError: On a call, naming the parameter.
    """

    def product(vector: Tensor) -> Tensor:
        found = around.hessian(vector)
        if not bool(torch.isfinite(found).all()):
            parts = found.split([weight.numel() for weight in around.weights.values()])
            bad = [n for n, p in zip(around.names, parts, strict=True) if not bool(torch.isfinite(p).all())]
            raise AnalysisError(
                f"the product with the Hessian is NaN or infinite at {bad[0]!r}; use dtype=torch.float64, and check "
                "that the loss is finite"
            )
        return found

    return product


def _drop(around: Curvature, gradient: Tensor) -> float:
    """The gain of the best step along the gradient in the quadratic model: ``‖g‖⁴ / 2 gᵀHg``."""
    square = float(gradient @ gradient)
    if square == 0:
        return 0.0
    along = float(gradient @ around.hessian(gradient))
    return square**2 / (2 * along) if along > 0 else float("inf")
