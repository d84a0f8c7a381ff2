"""How densely a network is masked after each round: schedules as data."""

from dataclasses import dataclass
from typing import Literal

from scionet.choices.checking import refuse

Shape = Literal["exponential", "polynomial", "telescoping"]


@dataclass(frozen=True)
class Schedule:
    """Rounds of scoring and masking.

    With target density d, after round k of n: *exponential* d^(k/n); *polynomial* d + (1 − d)(1 − k/n)^power, linear
    for power 1, cubic for 3; *telescoping* n d / (n d + k (1 − d)), which removes most in the first rounds.

    Sources: exponential, Tanaka et al., NeurIPS 2020, algorithm 1; polynomial, Zhu and Gupta, *To prune, or not to
    prune*, 2017, with power 3; telescoping, Lubana and Dick, ICLR 2021, with densities instead of fractions removed.
    """

    rounds: int = 1
    """How often weights are scored; 1 masks in one shot."""
    shape: Shape = "exponential"
    """How density falls."""
    power: float = 3.0
    """Polynomial shape: its exponent."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            InvalidSetting: If a value is out of range.
        """
        checks = {
            "rounds is a whole number of 1 or more": isinstance(self.rounds, int) and self.rounds >= 1,
            "shape is 'exponential', 'polynomial' or 'telescoping'": self.shape
            in ("exponential", "polynomial", "telescoping"),
            "power is above 0": self.power > 0,
        }
        refuse(self, checks)

    def densities(self, target: float) -> tuple[float, ...]:
        """The density after each round; the last is the target itself."""
        return (*(self._density(target, k / self.rounds) for k in range(1, self.rounds)), target)

    def _density(self, target: float, done: float) -> float:
        if self.shape == "exponential":
            return target**done
        if self.shape == "polynomial":
            return target + (1 - target) * (1 - done) ** self.power
        return target / (target + done * (1 - target))


ONE_SHOT = Schedule()
