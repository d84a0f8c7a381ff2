"""How an architecture is searched, as data."""

from dataclasses import dataclass
from typing import Annotated, Literal

from scionet.choices.checking import Checked, Count, Range, refuse

Positive = Annotated[float, Range(0, inside=True)]
NotNegative = Annotated[float, Range(0)]
Decay = Annotated[float, Range(0, 0.999999)]
Tolerance = Annotated[float, Range(0, 1)]


@dataclass(frozen=True, repr=False)
class ArchitectureSearch(Checked):
    """Transformable architecture search: widths and depths by gradient, towards a budget of MACs.

    Dong and Yang, NeurIPS 2019. The defaults are those of the official code.
    """

    candidates: Count = 2
    """Widths of each convolution that run in a step, sampled without replacement."""
    cost_weight: NotNegative = 2.0
    """Weight of the cost in the loss of widths and depths."""
    tolerance_below: Tolerance = 0.05
    """How far below the budget the MACs may lie, as a fraction of the full network's."""
    tolerance_above: Tolerance = 0.0
    """How far above it they may lie before the search makes the network cheaper. What is found meets the budget."""
    warmest: Positive = 5.0
    """Temperature of the first epoch; it falls along a cosine."""
    coldest: Positive = 0.1
    """Temperature that it falls to."""
    learning_rate: Positive = 1e-3
    """Learning rate of widths and depths, for Adam."""
    gradient_decay: Decay = 0.5
    """Decay of Adam's mean of gradients."""
    square_decay: Decay = 0.999
    """Decay of Adam's mean of squared gradients."""
    weight_decay: NotNegative = 1e-3
    """Weight decay of widths and depths."""
    weights_share: Annotated[float, Range(0, 1, inside=True)] = 0.5
    """Fraction of the training examples of each class from which weights are learned; widths and depths learn from the
    others."""
    choose: Literal["last", "best"] = "last"
    """Among the epochs whose architecture is within the tolerance: the last one, or that of the best validation."""
    inherit: bool = False
    """Start the training of what was found from the weights of the search, not from new ones."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InvalidSetting: If a value is not allowed.
        """
        super().__post_init__()
        refuse(self, {"warmest is coldest or more": self.warmest >= self.coldest})
