"""One routine for ∂R/∂θ, and the R of the task loss: gradients, Hessian times gradient, squares over examples."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from scionet.errors import UnsupportedModel
from scionet.network.calling import (
    Batch,
    as_arguments,
    attention_unfused,
    example_count,
    place_of,
    tensors_of,
    undisturbed,
)
from scionet.network.example_loss import cross_entropies
from scionet.network.multiprocess import summed
from scionet.torch_internals import BatchNormBase, tree_map

Weights = Mapping[str, Tensor]
Functional = Callable[[Weights], Tensor]
"""A scalar R of the weights."""
Pairs = Sequence[tuple[Batch, Tensor]]

AT_ONCE = 2**24
"""Numbers in the gradients of single examples that are computed together."""


def slopes(functional: Functional, weights: Weights) -> dict[str, Tensor]:
    """∂R/∂θ for each weight, 0 where R does not depend on it.

    Raises:
        UnsupportedModel: If R depends on none as far as torch.autograd sees.
    """
    leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
    with torch.enable_grad():
        value = functional(leaves)
        if not value.requires_grad:
            raise UnsupportedModel(
                "the network's output does not depend on its weights as far as torch.autograd sees: its forward runs "
                "under no_grad, or detaches; take that away, or choose a score without gradients, such as 'magnitude'"
            )
        found = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
    return dict(zip(weights, found, strict=True))


class LossFunctional:
    """The mean cross-entropy of all examples of all processes, as a function of the weights.

    The network is called with other tensors, in their type; it keeps its own.
    """

    def __init__(
        self, model: nn.Module, base: Weights, pairs: Pairs, temperature: float = 1.0, batch_norms: bool = False
    ) -> None:
        """Prepare.

        Args:
            model: The network.
            base: Its tensors; the weights of a call take the place of theirs.
            pairs: Inputs and labels on its device.
            temperature: Logits are divided by it.
            batch_norms: Whether BatchNorms take the statistics of each batch, as in training, and not their own.
        """
        self._model, self._base, self._pairs, self._temperature = model, base, pairs, temperature
        self._batch_norms = batch_norms
        self._dtype = next(tensor.dtype for tensor in base.values() if tensor.is_floating_point())
        seen = float(sum(len(labels) for _, labels in pairs))
        self._examples = float(summed(torch.tensor(seen, device=place_of(model)[0])))

    def value(self, weights: Weights) -> float:
        """The loss."""
        with self._running():
            total = torch.stack([loss(weights) for loss in self._losses()]).sum()
            return float(summed(total)) / self._examples

    def slopes(self, weights: Weights) -> dict[str, Tensor]:
        """The gradient g."""
        with self._running():
            return self._summed([slopes(loss, weights) for loss in self._losses()], weights)

    def curvature(self, weights: Weights) -> dict[str, Tensor]:
        """H g: the gradient of g · stopgrad(g), by double backward."""
        gradient = self.slopes(weights)
        with self._running(), attention_unfused():  # fused kernels have no second derivative
            found = [slopes(_along(loss, gradient), weights) for loss in self._losses()]
        return self._summed(found, weights)

    def squares(self, weights: Weights) -> dict[str, Tensor]:
        """Mean over examples of the squared gradient of each: the diagonal of the empirical Fisher matrix."""
        total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        for some in self.single(weights):
            for name, each in some.items():
                total[name] += each.square().sum(0)
        return self._summed([total], weights)

    def single(self, weights: Weights) -> Iterator[dict[str, Tensor]]:
        """Gradients of the losses of single examples of this process, some at a time, ``(examples, *weight)``."""
        few = max(1, AT_ONCE // sum(weight.numel() for weight in weights.values()))
        with self._running(), attention_unfused():
            for inputs, labels in self._pairs:
                for rows in (slice(start, start + few) for start in range(0, example_count(inputs), few)):
                    yield self._of_each(weights, _rows(inputs, rows), labels[rows])

    def _of_each(self, weights: Weights, inputs: Batch, labels: Tensor) -> dict[str, Tensor]:
        """Gradients of single examples, ``(examples, *weight)``."""

        def lost(at: Weights, example: Batch, label: Tensor) -> Tensor:
            single = tree_map(lambda leaf: leaf.unsqueeze(0) if isinstance(leaf, Tensor) else leaf, example)
            return self._lost(at, single, label[None])

        with torch.enable_grad():
            return vmap(grad(lost), in_dims=(None, _in_dims(inputs), 0))(dict(weights), inputs, labels)

    def _losses(self) -> list[Functional]:
        """The sum of the losses of each batch's examples."""
        return [partial(self._lost, inputs=inputs, labels=labels) for inputs, labels in self._pairs]

    @contextmanager
    def _running(self) -> Iterator[None]:
        """The mode in which the network runs; it is as before afterwards."""
        with undisturbed(self._model):
            for module in self._model.modules():
                if self._batch_norms and isinstance(module, BatchNormBase):
                    module.training = True
            yield

    def _lost(self, weights: Weights, inputs: Batch, labels: Tensor) -> Tensor:
        args, kwargs = as_arguments(_cast(inputs, self._dtype))
        outputs = functional_call(self._model, {**self._base, **weights}, args, kwargs)
        return cross_entropies(next(tensors_of(outputs)) / self._temperature, labels).sum()

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
            functional(weights), list(weights.values()), create_graph=True, materialize_grads=True
        )
        return torch.stack([(g * direction[name]).sum() for name, g in zip(weights, found, strict=True)]).sum()

    return derivative


def _cast(inputs: Batch, dtype: torch.dtype) -> Batch:
    """Floating-point inputs in another type."""
    return tree_map(
        lambda leaf: leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf, inputs
    )


def _rows(inputs: Batch, rows: slice) -> Batch:
    return tree_map(lambda leaf: leaf[rows] if isinstance(leaf, Tensor) else leaf, inputs)


def _in_dims(inputs: Batch) -> Any:
    return tree_map(lambda leaf: 0 if isinstance(leaf, Tensor) else None, inputs)
