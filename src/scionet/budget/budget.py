"""Budgets: upper limits on the MACs, parameters or latency of a pruned network."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from numbers import Real
from typing import TYPE_CHECKING

from scionet.errors import InvalidSetting, unknown

if TYPE_CHECKING:
    from scionet.budget.costs import Cost

QUANTITIES = {"macs": "macs", "params": "params", "latency": "latency_ms"}
"""The quantities that a budget may limit, and the fields of `Cost` that hold them."""
EXAMPLES = 'write for example "macs<=50%", "params<=1.2M", "latency<=5ms" or "macs<=2.0G, latency<=60%"'
SUFFIXES = {"K": 3, "M": 6, "G": 9}
"""Suffixes of numbers, and their powers of ten."""
TIMES = {"us": -3, "ms": 0, "s": 3}
"""Units of time, as powers of ten of a millisecond."""

_LIMIT = re.compile(
    r"\s*(?P<quantity>\w+)\s*(?P<relation>[<>=!≤≥]+)"
    r"\s*(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?)\s*(?P<unit>%|[A-Za-z]*)\s*"
)


@dataclass(frozen=True)
class Limit:
    """An upper limit on one quantity.

    Attributes:
        quantity: ``"macs"`` (of one forward pass per example), ``"params"``, or ``"latency"`` (of one forward pass of
            the batch that a latency table was measured on).
        at_most: A fraction of the dense network's cost in (0, 1], or an absolute number: 1 or more, or milliseconds.
        relative: Whether it is a fraction.
    """

    quantity: str
    at_most: float
    relative: bool

    def __post_init__(self) -> None:
        """Check quantity and range.

        Raises:
            InvalidSetting: If the quantity is unknown or the number is out of range.
        """
        if self.quantity not in QUANTITIES:
            raise unknown("quantity of a budget", self.quantity, QUANTITIES)
        if self.relative and not 0 < self.at_most <= 1:
            raise InvalidSetting(
                f"a relative limit must be above 0% and at most 100%; given {_percent(self.at_most)}; {EXAMPLES}"
            )
        if self.relative:
            return
        if self.quantity == "latency":
            if not 0 < self.at_most < math.inf:
                raise InvalidSetting(f"a latency must be finite and above 0; given {self.at_most:g} ms; {EXAMPLES}")
        elif not 1 <= self.at_most < math.inf:
            raise InvalidSetting(
                f"an absolute limit must be a finite number of 1 or more; given {self.quantity}<={self.at_most:g}; a "
                f"fraction of the dense network is written with %: {EXAMPLES}"
            )

    def __str__(self) -> str:
        """The canonical text; `Budget` reads it back to an equal limit."""
        if self.relative:
            return f"{self.quantity}<={_percent(self.at_most)}"
        return f"{self.quantity}<={_milliseconds(self.at_most) if self.quantity == 'latency' else _short(self.at_most)}"

    def cap(self, dense: "Cost") -> float:
        """The limit as an absolute number."""
        if not self.relative:
            return float(self.at_most)
        # In exact decimals, because 0.29 * 100 < 29 in floating point.
        return float(Fraction(repr(float(self.at_most))) * Fraction(_amount(dense, self.quantity)))


@dataclass(frozen=True)
class Caps:
    """Absolute upper limits; infinite where a quantity is not limited."""

    macs: float = math.inf
    params: float = math.inf
    latency_ms: float = math.inf


@dataclass(frozen=True, init=False)
class Budget:
    """Upper limits that hold together: ``Budget("macs<=50%")``, ``Budget("macs<=2.0G, latency<=60%")``.

    Percentages are of the dense network. Absolute numbers may end in K, M or G (10^3, 10^6, 10^9); a latency must end
    in us, ms or s. Limits are separated by commas, ``&`` or ``and``.

    Attributes:
        limits: The limits, ordered by quantity, absolute before relative.
    """

    limits: tuple[Limit, ...]

    def __init__(self, *limits: Limit | str) -> None:
        """Read texts, and collect limits.

        Raises:
            InvalidSetting: If a text is malformed, a number out of range, a limit given twice, or none is given.
        """
        parts = [p for given in limits for p in ([given] if isinstance(given, Limit) else _parse(given))]
        kinds = {(limit.quantity, limit.relative) for limit in parts}
        if not parts or len(kinds) < len(parts):
            given = ", ".join(str(limit) for limit in parts) or "nothing"
            raise InvalidSetting(f"a budget needs one limit or more, each of its own kind; given {given}; {EXAMPLES}")
        ordered = tuple(sorted(parts, key=lambda limit: (limit.quantity, limit.relative)))
        object.__setattr__(self, "limits", ordered)

    @classmethod
    def of(cls, value: "str | Budget | Mapping[str, object]") -> "Budget":
        """Return the budget for a text, a budget, or a mapping such as ``{"macs": "50%", "params": 1_200_000}``.

        Raises:
            InvalidSetting: If the value is something else, or malformed. A fraction or a percentage alone is not a
                budget; the error suggests the intended one.
        """
        if isinstance(value, Budget):
            return value
        if (meant := _bare_fraction(value)) is not None:
            raise InvalidSetting(
                f'a budget must say what is limited; given {value!r}; did you mean "macs<={_percent(meant)}"? '
                f"Otherwise {EXAMPLES}"
            )
        if isinstance(value, str):
            return cls(value)
        if isinstance(value, Mapping):
            return cls(*(f"{quantity}<={amount}" for quantity, amount in value.items()))
        raise InvalidSetting(f"a budget is a text or a mapping; given {value!r}; {EXAMPLES}")

    def __str__(self) -> str:
        """The canonical text; ``Budget(str(budget)) == budget``."""
        return ", ".join(str(limit) for limit in self.limits)

    def absolute(self, dense: "Cost") -> Caps:
        """The limits in absolute numbers, the tightest of each quantity."""
        return Caps(
            **{
                field: min((limit.cap(dense) for limit in self.limits if limit.quantity == quantity), default=math.inf)
                for quantity, field in QUANTITIES.items()
            }
        )

    @property
    def quantities(self) -> frozenset[str]:
        """The limited quantities."""
        return frozenset(limit.quantity for limit in self.limits)

    def met(self, cost: "Cost", dense: "Cost") -> bool:
        """Whether a cost is within all limits."""
        return all(_amount(cost, limit.quantity) <= limit.cap(dense) for limit in self.limits)

    def slack(self, cost: "Cost", dense: "Cost") -> float:
        """What a cost leaves below its tightest limit, as a fraction of the dense cost; negative beyond it."""
        return min(
            (limit.cap(dense) - _amount(cost, limit.quantity)) / (_amount(dense, limit.quantity) or 1)
            for limit in self.limits
        )


def _bare_fraction(value: object) -> float | None:
    """The fraction that a number below 1 or a percentage alone means; None for anything else."""
    if not isinstance(value, str | Real):
        return None
    match = re.fullmatch(r"\s*(\d*\.?\d+)\s*(%?)\s*", str(value))
    if match is None:
        return None
    fraction = float(Decimal(match[1]) / (100 if match[2] else 1))
    return fraction if 0 < fraction < 1 or (fraction == 1 and match[2]) else None


def _amount(cost: "Cost", quantity: str) -> float:
    """The amount of a quantity in a cost.

    Raises:
        InvalidSetting: If it is a latency, and none was measured.
    """
    amount = getattr(cost, QUANTITIES[quantity])
    if amount is None:
        raise InvalidSetting(
            "a limit on latency needs a latency table: prune measures one; elsewhere build the CostModel with "
            "the table that LatencyTable.measure returns"
        )
    return amount


def _percent(fraction: float) -> str:
    return f"{(Decimal(repr(float(fraction))) * 100).normalize():f}%"


def _short(number: float) -> str:
    exact = Decimal(repr(float(number)))
    for suffix, power in sorted(SUFFIXES.items(), key=lambda item: -item[1]):
        if number >= 10**power:
            return f"{exact.scaleb(-power).normalize():f}{suffix}"
    return f"{exact.normalize():f}"


def _milliseconds(number: float) -> str:
    return f"{Decimal(repr(float(number))).normalize():f}ms"


def _parse(text: str) -> list[Limit]:
    """The limits that a text lists; all problems are reported at once."""
    limits, problems = [], []
    for part in re.split(r",|&|\band\b", text):
        try:
            limits.append(_parse_one(part))
        except InvalidSetting as error:
            problems.append(str(error))
    if problems:
        raise InvalidSetting(f"budget {text!r}: " + "; and: ".join(problems))
    return limits


def _parse_one(part: str) -> Limit:
    match = _LIMIT.fullmatch(part)
    if match is None:
        raise InvalidSetting(f"{part.strip()!r} is not a limit; {EXAMPLES}")
    quantity, relation, number, unit = match.group("quantity", "relation", "number", "unit")
    if relation != "<=":
        raise InvalidSetting(f"a limit is written with '<='; given {part.strip()!r}; {EXAMPLES}")
    if quantity not in QUANTITIES:
        raise unknown("quantity of a budget", quantity, QUANTITIES)
    if unit == "%":
        return Limit(quantity, float(Decimal(number) / 100), relative=True)
    powers = TIMES if quantity == "latency" else {"": 0} | {k: p for s, p in SUFFIXES.items() for k in (s, s.lower())}
    if unit not in powers:
        given = f"unknown unit {unit!r}" if unit else "a unit of time is missing"
        allowed = ", ".join(TIMES) if quantity == "latency" else f"{', '.join(SUFFIXES)}, or none"
        raise InvalidSetting(f"{given} in {part.strip()!r}; allowed: %, {allowed}")
    return Limit(quantity, float(Decimal(number).scaleb(powers[unit])), relative=False)
