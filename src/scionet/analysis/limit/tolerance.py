"""By how much the loss may rise."""

import math
from dataclasses import dataclass
from typing import Literal

from scionet.errors import InvalidSetting
from scionet.typing import FloatArray


@dataclass(frozen=True)
class Tolerance:
    """A rule for the tolerance ε.

    Attributes:
        kind: ``"batch_std"``: the population standard deviation of the loss over batches. ``"relative"``: a multiple of
            the loss. ``"absolute"``: a number.
        amount: The multiple or the number.
    """

    kind: Literal["batch_std", "relative", "absolute"]
    amount: float = 0.0

    @classmethod
    def parse(cls, given: float | str) -> "Tolerance":
        """A rule from a number, ``"0.01"``, ``"5%"`` or ``"batch_std"``.

        Raises:
            InvalidSetting: If it is something else, negative or not finite.
        """
        if given == "batch_std":
            return cls("batch_std")
        text = str(given).strip()
        try:
            amount = float(text.removesuffix("%"))
        except ValueError:
            amount = math.nan
        if not 0 <= amount < math.inf:
            raise InvalidSetting(
                "a tolerance is a number of 0 or more, such as 0.01, a part of the loss, such as '5%', or "
                f"'batch_std'; given {given!r}"
            )
        return cls("relative", amount / 100) if text.endswith("%") else cls("absolute", amount)

    def value(self, loss: float, batch_losses: FloatArray) -> float:
        """ε.

        Args:
            loss: Loss of the network.
            batch_losses: Mean loss of each batch.

        Raises:
            InvalidSetting: If the spread over batches is asked for, and there is only one batch.
        """
        if self.kind == "relative":
            return self.amount * loss
        if self.kind == "absolute":
            return self.amount
        if len(batch_losses) < 2:
            raise InvalidSetting("tolerance 'batch_std' needs two batches or more; give smaller batches, or a number")
        return float(batch_losses.std())
