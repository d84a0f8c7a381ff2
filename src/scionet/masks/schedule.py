"""Schedules: the density of the masks after each round."""

from dataclasses import dataclass
from typing import Literal

from scionet.choices.checking import refuse

Shape = Literal["exponential", "polynomial", "telescoping"]


@dataclass(frozen=True)
class Schedule:
    """Rounds of scoring and masking.

    The density after round k of n, for a target density d:

    - *exponential*: d^(k/n);
    - *polynomial*: d + (1 − d)(1 − k/n)^power, linear for power 1, cubic for 3;
    - *telescoping*: n d / (n d + k (1 − d)), which removes most in the first rounds.

    Sources: exponential, Tanaka et al., NeurIPS 2020, algorithm 1; polynomial, Zhu and Gupta, *To prune, or not to
    prune*, 2017, with power 3; telescoping, Lubana and Dick, ICLR 2021, with densities instead of fractions removed.
    """

    rounds: int = 1
    """Number of rounds; 1 masks in one shot."""
    shape: Shape = "exponential"
    """How the density decreases."""
    power: float = 3.0
    """Exponent of the polynomial shape."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            InvalidSetting: If a value is out of range.
        """
        checks = {
            "rounds must be a whole number of at least 1": isinstance(self.rounds, int) and self.rounds >= 1,
            "shape must be 'exponential', 'polynomial' or 'telescoping'": self.shape
            in ("exponential", "polynomial", "telescoping"),
            "power must be above 0": self.power > 0,
        }
        refuse(self, checks)

    @property
    def words(self) -> str:
        """The schedule in words, for names in tables."""
        if self.rounds == 1:
            return "one round"
        power = f" of power {self.power:g}" if self.shape == "polynomial" else ""
        return f"{self.rounds} {self.shape} rounds{power}"

    def densities(self, target: float) -> tuple[float, ...]:
        """The density after each round; the last one is the target."""
        return (*(self._density(target, k / self.rounds) for k in range(1, self.rounds)), target)

    def _density(self, target: float, done: float) -> float:
        if self.shape == "exponential":
            return target**done
        if self.shape == "polynomial":
            return target + (1 - target) * (1 - done) ** self.power
        return target / (target + done * (1 - target))


ONE_SHOT = Schedule()
