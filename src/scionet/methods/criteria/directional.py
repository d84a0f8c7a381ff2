"""Directional scores: the size of a unit, corrected by how flat the loss is along the way on which it shrinks.

Derived from Li et al., *Structured Directional Pruning via Perturbation Orthogonal Projection*, arXiv 2107.05328, and
Chao et al., *Directional Pruning of Deep Neural Networks*, NeurIPS 2020.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scionet.errors import CalibrationError
from scionet.masks.gradients import LossFunctional
from scionet.masks.weights import upcast_state
from scionet.methods.calibration.calibration import Calibration
from scionet.methods.criteria.unit_scores import MeasuredRanker
from scionet.methods.units import Units
from scionet.network.example_loss import labelled
from scionet.network.network import Network
from scionet.typing import FloatArray

_STAYS = 1e300
"""Score of a unit that never dies: its weights grow along the flat directions."""


@dataclass(frozen=True)
class DirectionalRanker(MeasuredRanker):
    """Ranks units by the point at which they die on the way along flat directions of the loss.

    With u the weights of all units, each divided by its unit's norm, and P the projection on directions that the loss
    does not see, a unit g dies at ‖w_g‖ / s_g with s_g = ⟨u_g, (P u)_g⟩; units with s_g of 0 or less never do. P is
    approximated by leaving out the `directions` leading eigenvectors of the Gauss-Newton matrix.

    Source: derived from Li et al., arXiv 2107.05328, whose code was never published. The weights of a unit are the
    scale and shift of the BatchNorm behind it, or its filter and bias.

    Attributes:
        directions: Number of eigenvectors that P leaves out; 0 ranks by the norm alone.
    """

    directions: int = 32

    @property
    def name(self) -> str:
        """Name in plans and records."""
        return "directional"

    @property
    def described(self) -> dict[str, object]:
        """Its settings."""
        return {"name": self.name, "directions": self.directions}

    @property
    def uses_labels(self) -> bool:
        """Always: so that the classes are known."""
        return True

    def measured(self, network: Network, calibration: Calibration) -> dict[str, FloatArray]:
        """The scores of all units.

        Raises:
            CalibrationError: If there are no labelled examples, or the loss is not finite.
        """
        units = Units.of(network.model, network.sites)
        seen = units.produced.seen
        base = upcast_state(network.model)
        weights = {name: base[name] for name in seen.parameters}
        with network.evaluating():
            pairs = [labelled(pair, network.model, network.outputs) for pair in calibration.pairs]
            if not pairs:
                raise CalibrationError("there are no calibration batches; give at least one pair (inputs, labels)")
            loss = LossFunctional(network.model, base, pairs, outputs=network.outputs)
            norms = seen.squared_norms(weights).double().sqrt()
            outside = {name: torch.ones_like(weight) for name, weight in weights.items()}
            seen.scale_(outside, torch.zeros_like(norms))
            inside = {name: 1 - mask for name, mask in outside.items()}
            direction = {name: weight * inside[name] for name, weight in weights.items()}
            seen.scale_(direction, torch.where(norms > 0, 1 / norms, 0.0))

            def product(vector: Tensor) -> Tensor:
                return _joined(loss.gauss_newton_product(weights, _parts(vector, weights))) * _joined(inside)

            flat = flat_part(_joined(direction), product, self.directions)
        shares = seen.dots(direction, _parts(flat, weights)).double()
        scores = torch.where(shares > 0, norms / shares.clamp_min(1e-300), _STAYS).clamp_max(_STAYS)
        return {name: part.cpu().numpy() for name, part in units.by_site(scores).items()}


def flat_part(vector: Tensor, product: Callable[[Tensor], Tensor], directions: int) -> Tensor:
    """The part of a vector that is orthogonal to the leading eigenvectors of a symmetric, positive semidefinite matrix.

    Args:
        vector: Shape ``(size,)``, float64.
        product: Multiplies the matrix with a vector.
        directions: Number of eigenvectors, found by Lanczos iterations (ARPACK).

    Raises:
        CalibrationError: If a product is NaN or infinite, or the iterations do not converge.
    """
    size = len(vector)
    count = min(directions, size - 1)
    if count < 1:
        return vector
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh  # slow to import

    def multiplied(values: FloatArray) -> FloatArray:
        found = product(torch.from_numpy(np.ascontiguousarray(values).reshape(size)).to(vector)).cpu().numpy()
        if not np.isfinite(found).all():
            raise CalibrationError("the curvature of the loss is NaN or infinite; look for these in data and weights")
        return found

    operator = LinearOperator((size, size), matvec=multiplied, dtype=np.float64)  # type: ignore[call-overload]
    start = np.random.default_rng(0).standard_normal(size)
    try:
        vectors = eigsh(operator, count, which="LA", v0=start)[1]
    except ArpackError as error:
        raise CalibrationError(f"the {count} leading eigenvectors were not found: {error}; ask for fewer") from error
    basis = torch.from_numpy(vectors).to(vector)
    return vector - basis @ (basis.T @ vector)


def _joined(parts: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in parts.values()])


def _parts(vector: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    pieces = vector.split([each.numel() for each in like.values()])
    return {name: piece.view_as(each).to(each) for (name, each), piece in zip(like.items(), pieces, strict=True)}
