"""Gradients ∂R/∂θ of a scalar functional; the task loss as such a functional, with products of its Hessian."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from scionet.choices.outputs import Outputs
from scionet.errors import UnsupportedModel
from scionet.network.calling import Batch, attention_unfused, example_count
from scionet.network.comparison import DEFAULT, class_scores
from scionet.network.example_loss import cross_entropies
from scionet.network.multiprocess import summed
from scionet.network.network import Network
from scionet.torch_internals import BatchNormBase, tree_map

Weights = Mapping[str, Tensor]
Functional = Callable[[Weights], Tensor]
"""Maps weights to a scalar R."""
Pairs = Sequence[tuple[Batch, Tensor]]

AT_ONCE = 2**24
"""Maximum number of entries in per-example gradients that are computed together."""


def gradients(functional: Functional, weights: Weights) -> dict[str, Tensor]:
    """∂R/∂θ for each weight; 0 if R does not depend on it.

    Raises:
        UnsupportedModel: If autograd finds no dependence of R on any weight.
    """
    leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
    with torch.enable_grad():
        value = _dependent(functional(leaves))
        found = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
    return dict(zip(weights, found, strict=True))


def _dependent(value: Tensor) -> Tensor:
    """Return the value.

    Raises:
        UnsupportedModel: If it does not depend on the weights.
    """
    if not value.requires_grad:
        raise UnsupportedModel(
            "autograd finds no dependence of the network's output on its weights: its forward uses no_grad or "
            "detach; remove these, or use a score without gradients, such as 'magnitude'"
        )
    return value


class LossFunctional:
    """Mean cross-entropy over all examples of all processes, as a function of the weights.

    The network is called functionally with other tensors, in their dtype. Its own tensors are not modified.
    """

    def __init__(
        self,
        model: nn.Module,
        base: Weights,
        pairs: Pairs,
        temperature: float = 1.0,
        batch_norms: bool = False,
        outputs: Outputs = DEFAULT,
    ) -> None:
        """Make the functional.

        Args:
            model: The network.
            base: Its tensors. The weights of a call override them.
            pairs: Inputs and labels on the network's device.
            temperature: Divisor of the logits.
            batch_norms: Whether BatchNorms use the statistics of each batch, as in training, instead of the running
                statistics.
            outputs: Which output has the classes; see `class_scores`.
        """
        self._network, self._base, self._pairs, self._temperature = Network(model), base, pairs, temperature
        self._batch_norms, self._outputs = batch_norms, outputs
        self._dtype = next(tensor.dtype for tensor in base.values() if tensor.is_floating_point())
        seen = float(sum(len(labels) for _, labels in pairs))
        self._examples = float(summed(torch.tensor(seen, device=self._network.device)))

    @property
    def examples(self) -> int:
        """Number of examples, over all processes."""
        return int(self._examples)

    def value(self, weights: Weights) -> float:
        """The loss."""
        with self._running():
            total = torch.stack([loss(weights) for loss in self._losses()]).sum()
            return float(summed(total)) / self._examples

    def gradient(self, weights: Weights) -> dict[str, Tensor]:
        """The gradient g."""
        with self._running():
            return self._summed([gradients(loss, weights) for loss in self._losses()], weights)

    def batch_values(self, weights: Weights) -> list[float]:
        """The mean loss of each batch of this process, in order."""
        with self._running(), torch.no_grad():
            pairs = zip(self._losses(), self._pairs, strict=True)
            return [float(loss(weights)) / len(labels) for loss, (_, labels) in pairs]

    def hessian_gradient(self, weights: Weights) -> dict[str, Tensor]:
        """H g."""
        return self.hessian_product(weights, self.gradient(weights))

    def hessian_product(self, weights: Weights, vector: Weights) -> dict[str, Tensor]:
        """H v, computed as the gradient of g · v by double backward.

        Args:
            weights: Where H is taken; H is with respect to these weights alone.
            vector: v, in the shapes of the weights.
        """
        with self._running(), attention_unfused():  # fused kernels have no second derivative
            found = [gradients(_along(loss, vector), weights) for loss in self._losses()]
        return self._summed(found, weights)

    def gauss_newton_product(self, weights: Weights, vector: Weights) -> dict[str, Tensor]:
        """G v with G = Jᵀ S J: J is the Jacobian of the logits, S the Hessian of the loss with respect to them.

        G is positive semidefinite, and the Fisher matrix of the predicted classes. Arguments as for `hessian_product`.
        """
        with self._running(), attention_unfused():
            logits = [partial(self._batch_logits, inputs=inputs) for inputs, _ in self._pairs]
            found = [gradients(_gauss_newton(function, vector), weights) for function in logits]
        return self._summed(found, weights)

    def squared_gradients(self, weights: Weights) -> dict[str, Tensor]:
        """Mean of the squared per-example gradients: the diagonal of the empirical Fisher matrix."""
        total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        for chunk in self.example_gradients(weights):
            for name, gradient in chunk.items():
                total[name] += gradient.square().sum(0)
        return self._summed([total], weights)

    def example_gradients(self, weights: Weights) -> Iterator[dict[str, Tensor]]:
        """Per-example gradients of this process in chunks, ``(examples, *weight)``."""
        chunk_size = max(1, AT_ONCE // sum(weight.numel() for weight in weights.values()))
        with self._running(), attention_unfused():
            for inputs, labels in self._pairs:
                for rows in _slices(example_count(inputs), chunk_size):
                    yield self._batch_gradients(weights, _rows(inputs, rows), labels[rows])

    def _batch_gradients(self, weights: Weights, inputs: Batch, labels: Tensor) -> dict[str, Tensor]:
        """Per-example gradients of a batch, ``(examples, *weight)``."""

        def example_loss(at: Weights, example: Batch, label: Tensor) -> Tensor:
            single = tree_map(lambda leaf: leaf.unsqueeze(0) if isinstance(leaf, Tensor) else leaf, example)
            return self._batch_loss(at, single, label[None])

        with torch.enable_grad():
            return vmap(grad(example_loss), in_dims=(None, _in_dims(inputs), 0))(dict(weights), inputs, labels)

    def _losses(self) -> list[Functional]:
        """For each batch, the sum of its examples' losses."""
        return [partial(self._batch_loss, inputs=inputs, labels=labels) for inputs, labels in self._pairs]

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Run in eval mode, with BatchNorms in train mode if requested. Modes are restored afterwards."""
        with self._network.evaluating():
            for module in self._network.model.modules():
                if self._batch_norms and isinstance(module, BatchNormBase):
                    module.training = True
            yield

    def _batch_loss(self, weights: Weights, inputs: Batch, labels: Tensor) -> Tensor:
        return cross_entropies(self._batch_logits(weights, inputs), labels).sum()

    def _batch_logits(self, weights: Weights, inputs: Batch) -> Tensor:
        returned = self._network.returned(_cast(inputs, self._dtype), {**self._base, **weights})
        return class_scores(returned, self._outputs) / self._temperature

    def _summed(self, parts: Sequence[Weights], weights: Weights) -> dict[str, Tensor]:
        zero = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        return {
            name: summed(torch.stack([part[name] for part in parts]).sum(0) if parts else zero[name]) / self._examples
            for name in weights
        }


def _along(functional: Functional, direction: Weights) -> Functional:
    """The derivative of R along a fixed direction, as a function of the weights."""

    def derivative(weights: Weights) -> Tensor:
        found = torch.autograd.grad(
            _dependent(functional(weights)), list(weights.values()), create_graph=True, materialize_grads=True
        )
        return _dot(dict(zip(weights, found, strict=True)), direction)

    return derivative


def _gauss_newton(logits: Functional, vector: Weights) -> Functional:
    """A functional whose gradient is Jᵀ S J v, where S = diag(p) − p pᵀ for predicted probabilities p."""

    def functional(weights: Weights) -> Tensor:
        z = _dependent(logits(weights).double())
        u = torch.zeros_like(z).requires_grad_()
        pulled = torch.autograd.grad(z, list(weights.values()), u, create_graph=True, materialize_grads=True)
        along = torch.autograd.grad(_dot(dict(zip(weights, pulled, strict=True)), vector), u)[0]
        p = z.detach().softmax(1)
        return (z * (p * along - p * (p * along).sum(1, keepdim=True))).sum()

    return functional


def _dot(first: Weights, second: Weights) -> Tensor:
    return torch.stack([(first[name] * second[name]).sum() for name in first]).sum()


def _cast(inputs: Batch, dtype: torch.dtype) -> Batch:
    """Convert floating-point inputs to another dtype."""
    return tree_map(
        lambda leaf: leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf, inputs
    )


def _slices(size: int, chunk_size: int) -> Iterator[slice]:
    return (slice(start, start + chunk_size) for start in range(0, size, chunk_size))


def _rows(inputs: Batch, rows: slice) -> Batch:
    return tree_map(lambda leaf: leaf[rows] if isinstance(leaf, Tensor) else leaf, inputs)


def _in_dims(inputs: Batch) -> Any:
    return tree_map(lambda leaf: 0 if isinstance(leaf, Tensor) else None, inputs)
