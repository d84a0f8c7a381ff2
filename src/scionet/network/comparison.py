"""Comparison: how one output of a changed network is compared with that of the dense one."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scionet.choices.outputs import MetricName, Output, Outputs
from scionet.errors import UnsupportedModel
from scionet.network.multiprocess import largest, summed
from scionet.network.named_outputs import named_outputs, shown

_ROUNDING = 10.0
"""An output varies if its variation exceeds this many units in the last place of its size."""

DEFAULT = Outputs()
"""The outputs and metrics where the user chooses none."""


@dataclass(frozen=True)
class OutputComparison:
    """How one output is compared.

    Attributes:
        name: Name of the output; see `scionet.network.named_outputs.named_outputs`.
        metric: ``"kl"``: divergence of the softmax over the classes, dense from changed, in nats; the mean over the
            positions of an example. ``"squared"``: squared error relative to the variance.
        classes: The dimension of the classes, for ``"kl"``; 0 for ``"squared"``.
        variance: Squared difference of an example's output from the mean over examples, summed over entries.
    """

    name: str
    metric: MetricName
    classes: int = 0
    variance: float = 1.0

    def distances(self, changed: Tensor, dense: Tensor, count: int) -> Tensor:
        """The distance of each of `count` examples, float64, shape ``(count,)``."""
        if self.metric == "squared":
            return self.errors(changed, dense, count)
        self._refuse_other_shape(changed, dense)
        before, after = (wide(output).log_softmax(self.classes) for output in (dense, changed))
        return rows((before.exp() * (before - after)).sum(self.classes), count).mean(1).double()

    def errors(self, changed: Tensor, dense: Tensor, count: int) -> Tensor:
        """The squared error of each of `count` examples relative to the variance, float64, shape ``(count,)``."""
        self._refuse_other_shape(changed, dense)
        return rows((wide(changed) - wide(dense)).square(), count).sum(1).double() / self.variance

    def effects(self, output: Tensor, derivatives: Tensor) -> Tensor:
        """Derivatives ``(N, examples, ...)`` in coordinates whose squared length is the distance, to second order."""
        if self.metric == "squared":
            return derivatives / self.variance**0.5
        share = output.softmax(self.classes)
        centred = derivatives - (share * derivatives).sum(self.classes + 1, keepdim=True)
        positions = max(1, output[:1].numel() // output.shape[self.classes])
        return (share / (2 * positions)).sqrt() * centred

    def __str__(self) -> str:
        """The output and how it is compared, as a phrase."""
        measure = f"by divergence over dimension {self.classes}" if self.metric == "kl" else "by squared error"
        return f"{shown(self.name)} {measure}"

    def _refuse_other_shape(self, changed: Tensor, dense: Tensor) -> None:
        """Refuse outputs whose shape depends on the weights, such as lists of found objects.

        Raises:
            UnsupportedModel: If the shapes differ.
        """
        if changed.shape != dense.shape:
            raise UnsupportedModel(
                f"{shown(self.name)} has the shape {tuple(dense.shape)} in the dense network and "
                f"{tuple(changed.shape)} in the pruned one, so the two cannot be compared; name outputs of fixed shape "
                "by outputs=Outputs(of=[...]), prune the part of the network that returns them, or choose "
                "widths='uniform'"
            )


def comparisons_for(outputs: Mapping[str, Tensor], choice: Outputs) -> tuple[OutputComparison, ...]:
    """How each output is compared, before its variance is known.

    Args:
        outputs: All floating-point outputs of one call.
        choice: What the user chose.

    Raises:
        UnsupportedModel: If there is no output, a chosen one is missing, or one has no classes for a divergence.
    """
    chosen = [each if isinstance(each, Output) else Output(each) for each in choice.of or outputs]
    if not outputs:
        raise UnsupportedModel("the network returns no floating-point tensor, so its outputs cannot be compared")
    if missing := [each.key for each in chosen if each.key not in outputs]:
        raise UnsupportedModel(
            f"outputs names {', '.join(map(repr, missing))}; the floating-point outputs of this network are "
            f"{', '.join(map(repr, outputs))}"
        )
    return tuple(_comparison(each, outputs[each.key], choice, sole=len(outputs) == 1) for each in chosen)


def class_scores(returned: Any, choice: Outputs = DEFAULT) -> Tensor:
    """The output whose labels are known, of what a network returns: the sole one, or the one with classes.

    Args:
        returned: What the network returns.
        choice: What the user chose.

    Raises:
        UnsupportedModel: If several outputs, or none, are compared as class scores.
    """
    outputs = named_outputs(returned)
    compared = comparisons_for(outputs, choice)
    found = compared if len(compared) == 1 else [each for each in compared if each.metric == "kl"]
    if len(found) != 1:
        names = ", ".join(map(shown, outputs))
        raise UnsupportedModel(
            f"a loss with labels needs one output of class scores, and the network returns {names}, of which "
            f"{len(found)} are compared as class scores; name the right one by outputs=Outputs(of=['...']), or return "
            "it under the name 'logits'"
        )
    return outputs[found[0].name]


def _comparison(output: Output, tensor: Tensor, choice: Outputs, sole: bool) -> OutputComparison:
    """How one output is compared.

    Raises:
        UnsupportedModel: If a divergence was chosen and there are no classes.
    """
    given = choice.classes if output.classes is None else output.classes
    dimension = (-1 if tensor.ndim == 3 else 1) if given is None else given
    has_classes = (
        -tensor.ndim <= dimension < tensor.ndim and dimension % tensor.ndim > 0 and tensor.shape[dimension] > 1
    )
    metric = output.metric or choice.metric or ("kl" if given is not None else None)
    if metric is None:
        named = output.key.rpartition(".")[2] == "logits" and tensor.ndim in (2, 3, 4)
        metric = "kl" if has_classes and (named or (sole and tensor.ndim == 2)) else "squared"
    if metric == "kl" and not has_classes:
        raise UnsupportedModel(
            f"outputs='kl' needs two or more classes along dimension {dimension}; {shown(output.key)} has the shape "
            f"{tuple(tensor.shape)}; choose outputs='squared', or Outputs(classes=...)"
        )
    return OutputComparison(output.key, metric, dimension % tensor.ndim if metric == "kl" else 0)


def variance_of(outputs: Sequence[Tensor], device: torch.device) -> float:
    """The squared difference of an example's output from the mean over all examples, summed over entries.

    Where an output does not vary beyond rounding, its squared size takes the place of the variance. All processes must
    call this together.

    Args:
        outputs: Outputs as rows, ``(examples, entries)``; those of fewer entries are compared with the first entries.
        device: Where sums over processes are computed.
    """
    size = largest(max((output.shape[1] for output in outputs), default=0), device)
    totals = torch.zeros(2, size, dtype=torch.float64, device=device)
    for output in outputs:
        totals[0, : output.shape[1]] += output.double().sum(0)
        totals[1, : output.shape[1]] += len(output)
    total, count = summed(totals)
    mean = total / count.clamp_min(1)
    varied = _total((output.double() - mean[: output.shape[1]]).square().sum() for output in outputs)
    square = _total(output.double().square().sum() for output in outputs)
    sums = torch.tensor([varied, square, sum(map(len, outputs))], dtype=torch.float64, device=device)
    varied, square, examples = summed(sums).tolist()
    least = max((_ROUNDING * torch.finfo(output.dtype).eps for output in outputs), default=0.0)
    found = varied if varied > least**2 * square else square
    return max(found, torch.finfo(torch.float64).tiny) / max(examples, 1)


def rows(output: Tensor, count: int) -> Tensor:
    """An output as ``(count, entries)``; one that is not made of examples counts in full for each."""
    if output.ndim and len(output) == count:
        return output.flatten(1) if output.ndim > 1 else output[:, None]
    return output.flatten()[None].expand(count, -1)


def wide(output: Tensor) -> Tensor:
    """An output in at least single precision."""
    return output if output.dtype == torch.float64 else output.float()


def _total(numbers: Iterable[Tensor]) -> float:
    return sum(float(number) for number in numbers)
