"""Budgets of single weights: densities, and the rounds that lead down to them."""

import re
from dataclasses import dataclass

from scionet.choices.checking import refuse
from scionet.errors import InvalidSetting

_BUDGET = re.compile(r"\s*weights\s*<=\s*(\d+\.?\d*|\.\d+)\s*%\s*")


@dataclass(frozen=True)
class Tickets:
    """How single weights are taken away, round after round.

    Attributes:
        round_density: What each round keeps of what is left (Frankle and Carbin, ICLR 2019: 0.8).
        rewind_epoch: The epoch of the dense training to whose end late rewinding goes back.
        ignored_layers: Layers that stay whole: names or globs.
        min_per_layer: Weights that stay in each layer at least; with 0, a layer that would be emptied is an error.
    """

    round_density: float = 0.8
    rewind_epoch: int = 1
    ignored_layers: tuple[str, ...] = ()
    min_per_layer: int = 0

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            InvalidSetting: If a value is out of range.
        """
        checks = {
            "round_density lies inside (0, 1)": 0 < self.round_density < 1,
            "rewind_epoch is 1 or more": self.rewind_epoch >= 1,
            "min_per_layer is 0 or more": self.min_per_layer >= 0,
        }
        refuse(self, checks)


def of_weights(budget: str) -> bool:
    """Whether a budget is about single weights."""
    return budget.lstrip().startswith("weights")


def density_of(budget: str) -> float:
    """The density that a budget such as ``"weights<=20%"`` allows, between 0 and 1.

    Raises:
        InvalidSetting: If it is malformed, or not between 0 and 100 %.
    """
    found = _BUDGET.fullmatch(budget)
    percent = float(found[1]) if found else 0.0
    if not 0 < percent < 100:
        raise InvalidSetting(
            f"a budget of single weights is above 0% and below 100%, as in 'weights<=20%'; given {budget!r}"
        )
    return percent / 100


def rounds(budget: str, round_density: float) -> tuple[str, ...]:
    """The budgets of all rounds that lead to a budget, itself included.

    Every round keeps the same share of what the one before has left; the last one what the budget allows. So narrower
    budgets begin with the rounds of wider ones, where those are powers of the share.

    Args:
        budget: The budget of the last round.
        round_density: What each round keeps of what is left.
    """
    target, found, left = density_of(budget), list[str](), round_density
    while left > target * (1 + 1e-9):
        found.append(_written(left))
        left *= round_density
    return (*found, _written(target))


def _written(density: float) -> str:
    return f"weights<={100 * density:.10g}%"
