"""Budgets of single weights: densities, and the rounds in which they are reached."""

import re
from dataclasses import dataclass

from scionet.choices.checking import refuse
from scionet.errors import InvalidSetting

_BUDGET = re.compile(r"\s*weights\s*<=\s*(\d+\.?\d*|\.\d+)\s*%\s*")


@dataclass(frozen=True)
class Tickets:
    """How single weights are removed in rounds.

    Attributes:
        round_density: Fraction of the remaining weights that each round keeps (Frankle and Carbin, ICLR 2019: 0.8).
        rewind_epoch: Late rewinding goes back to the end of this epoch of the dense training.
        ignored_layers: Layers that stay whole: names or globs.
        min_per_layer: The fewest weights that each layer keeps. With 0, emptying a layer is an error.
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
    """Whether a budget limits single weights."""
    return budget.lstrip().startswith("weights")


def density_of(budget: str) -> float:
    """Return the density that a budget such as ``"weights<=20%"`` allows, between 0 and 1.

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
    """Return the budgets of all rounds that lead to a budget, itself included.

    Every round keeps the same fraction of the remaining weights, except the last, which keeps what the budget allows.
    If larger budgets are powers of that fraction, smaller budgets share their rounds.

    Args:
        budget: The budget of the last round.
        round_density: Fraction of the remaining weights that each round keeps.
    """
    target, found, left = density_of(budget), list[str](), round_density
    while left > target * (1 + 1e-9):
        found.append(_written(left))
        left *= round_density
    return (*found, _written(target))


def _written(density: float) -> str:
    return f"weights<={100 * density:.10g}%"
