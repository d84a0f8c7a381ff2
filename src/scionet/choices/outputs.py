"""How a change of the network's output is measured, as data."""

from dataclasses import dataclass
from typing import Literal

from scionet.choices.checking import Checked

MetricName = Literal["kl", "squared"]


@dataclass(frozen=True, repr=False)
class Outputs(Checked):
    """The distance between the outputs of the pruned and the dense network."""

    metric: MetricName | None = None
    """"kl": divergence of the softmax over dimension 1, in nats. "squared": squared error relative to the mean
    square. None takes the divergence where dimension 1 has two or more classes."""
