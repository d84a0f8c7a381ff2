"""How a change of the network's outputs is measured, as data."""

from dataclasses import dataclass
from typing import Annotated, Literal

from scionet.choices.checking import Checked, Range

MetricName = Literal["kl", "squared"]
Dimension = Annotated[int, Range(-8, 8)]


@dataclass(frozen=True, repr=False)
class Output(Checked):
    """One output that is compared, where a network returns several. What is None here is taken from `Outputs`."""

    key: str
    """Its place in what the network returns: keys, attributes and positions, joined by dots, such as "logits", "1" or
    "aux.0"."""
    metric: MetricName | None = None
    """See `Outputs`."""
    classes: Dimension | None = None
    """See `Outputs`."""


@dataclass(frozen=True, repr=False)
class Outputs(Checked):
    """The distance between the outputs of the pruned and the dense network, added over all that are compared."""

    metric: MetricName | None = None
    """"kl": divergence of the softmax over the classes, in nats. "squared": squared error relative to the variance of
    that output. None takes the divergence for a sole output of shape (examples, classes) and for an output named
    "logits", if there are two or more classes, and the squared error for all others."""
    classes: Dimension | None = None
    """The dimension of the classes. None takes the last of three dimensions, else dimension 1."""
    of: tuple[str | Output, ...] = ()
    """The outputs that are compared, by their place in what the network returns, such as "logits" or "1", or as
    `Output`. All floating-point tensors by default."""
