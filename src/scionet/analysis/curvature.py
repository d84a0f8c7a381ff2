"""The loss around a network: by batch, its gradient, products of Hessian and Gauss-Newton matrix with vectors."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scionet.errors import CalibrationError, InvalidSetting
from scionet.masks.gradients import LossFunctional
from scionet.masks.weights import upcast_state
from scionet.modes import at_work
from scionet.network.calling import undisturbed
from scionet.network.example_loss import labelled
from scionet.network.guard import guarded, untouched
from scionet.torch_internals import BatchNormBase
from scionet.typing import FloatArray


@dataclass(frozen=True, eq=False)
class Curvature:
    """The mean cross-entropy of all examples as a function of some parameters, at their present values.

    Vectors have one entry for each entry of these parameters, in the order of `names`; shape ``(size,)``. Every product
    is one of the same matrix: the examples, their batches and the mode of the network are fixed.

    Attributes:
        model: The network; not modified.
        loss: The loss.
        weights: The parameters, in the type of the computation.
    """

    model: nn.Module
    loss: LossFunctional
    weights: dict[str, Tensor]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters."""
        return tuple(self.weights)

    @property
    def size(self) -> int:
        """Number of entries of the parameters."""
        return sum(weight.numel() for weight in self.weights.values())

    @property
    def examples(self) -> int:
        """Number of examples."""
        return self.loss.examples

    @property
    def point(self) -> Tensor:
        """The parameters as a vector."""
        return self._joined(self.weights)

    def value(self, at: Tensor | None = None) -> float:
        """The loss at other parameters, by default at the present ones."""
        with self._working():
            return self.loss.value(self.weights if at is None else self._parts(at))

    def batch_losses(self) -> FloatArray:
        """The mean loss of each batch, in order, ``(batches,)``."""
        with self._working():
            return np.array(self.loss.batch_values(self.weights))

    def gradient(self, at: Tensor | None = None) -> Tensor:
        """The gradient at other parameters, by default at the present ones."""
        with self._working():
            return self._joined(self.loss.gradient(self.weights if at is None else self._parts(at)))

    def hessian(self, vector: Tensor) -> Tensor:
        """The product of the Hessian with a vector.

        Raises:
            InvalidSetting: If the vector has another shape.
        """
        with self._working():
            return self._joined(self.loss.hessian_product(self.weights, self._parts(vector)))

    def gauss_newton(self, vector: Tensor) -> Tensor:
        """The product of the Gauss-Newton matrix with a vector; see `LossFunctional.gauss_newton_product`.

        Raises:
            InvalidSetting: If the vector has another shape.
        """
        with self._working():
            return self._joined(self.loss.gauss_newton_product(self.weights, self._parts(vector)))

    @contextmanager
    def _working(self) -> Iterator[None]:
        with at_work(), untouched(self.model):
            yield

    def _joined(self, parts: dict[str, Tensor]) -> Tensor:
        return torch.cat([parts[name].flatten() for name in self.weights])

    def _parts(self, vector: Tensor) -> dict[str, Tensor]:
        """A vector in the shapes of the parameters.

        Raises:
            InvalidSetting: If it has another shape.
        """
        if vector.shape != (self.size,):
            raise InvalidSetting(
                f"a vector over {len(self.weights)} parameters has shape ({self.size},); given {tuple(vector.shape)}"
            )
        pieces = vector.split([weight.numel() for weight in self.weights.values()])
        return {n: p.to(w).view_as(w) for (n, w), p in zip(self.weights.items(), pieces, strict=True)}


@guarded
def curvature(
    model: nn.Module,
    batches: Iterable[Any],
    parameters: Sequence[str] | None = None,
    *,
    batch_norms: bool = False,
    dtype: torch.dtype = torch.float64,
) -> Curvature:
    """The loss of a network as a function of some of its parameters.

    Args:
        model: The network; not modified. It must not be trained as long as the result is in use.
        batches: Pairs of inputs and labels.
        parameters: Names of parameters, or patterns such as ``"layer4.*"``. By default all but those of BatchNorm.
        batch_norms: Whether BatchNorms use the statistics of each batch, as in training.
        dtype: Type of the computation; wider types of the network are kept.

    Raises:
        CalibrationError: If there are no batches, or labels are missing or do not match.
        InvalidSetting: If a pattern matches no parameter.
    """
    names = _chosen(model, parameters)
    with undisturbed(model):
        pairs = [labelled(batch, model) for batch in batches]
    if not pairs:
        raise CalibrationError("no batches given; pass at least one pair (inputs, labels)")
    base = {name: tensor.clone() for name, tensor in upcast_state(model, dtype).items()}
    weights = {name: base[name] for name in names}
    return Curvature(model, LossFunctional(model, base, pairs, batch_norms=batch_norms), weights)


def _chosen(model: nn.Module, patterns: Sequence[str] | None) -> list[str]:
    """Names of floating-point parameters, in the order of the network.

    Raises:
        InvalidSetting: If a pattern matches none, or there are none.
    """
    names = [name for name, parameter in model.named_parameters() if parameter.is_floating_point()]
    if patterns is None:
        normed = {id(p) for m in model.modules() if isinstance(m, BatchNormBase) for p in m.parameters(recurse=False)}
        found = [name for name in names if id(model.get_parameter(name)) not in normed]
    else:
        if missed := [each for each in patterns if not any(fnmatchcase(name, each) for name in names)]:
            raise InvalidSetting(
                f"no parameter is called {missed[0]!r}; the network has {', '.join(names[:6])}, ... Give names or "
                'patterns such as "layer4.*"'
            )
        found = [name for name in names if any(fnmatchcase(name, each) for each in patterns)]
    if not found:
        raise InvalidSetting("no parameters are chosen; give the names of some, or patterns such as '*.weight'")
    return found
