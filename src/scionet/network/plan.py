"""Plan: what stays of a network, and how it was chosen."""

import hashlib
import json
import operator
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

from torch import Tensor

from scionet.errors import InvalidSetting
from scionet.network.calling import hash_tensors


@dataclass(frozen=True)
class Choice:
    """What stays of one site, and the path that led there.

    Attributes:
        site: Name of the site.
        width: Number of units of the dense site.
        kept: Indices of the units that stay, ascending.
        weights: Multiplier of each kept unit at every consumer (1 where nothing is re-weighted).
        order: Units in the order in which they were picked; a unit that was picked twice stands twice. May be longer
            than ``kept``: the whole path from empty to full.
        values: The objective's value after each pick; empty where the method has no objective.
        status: Why the path ended as it did.
    """

    site: str
    width: int
    kept: tuple[int, ...]
    weights: tuple[float, ...]
    order: tuple[int, ...] = ()
    values: tuple[float, ...] = ()
    status: str = ""

    def __post_init__(self) -> None:
        """Check that the indices are a non-empty, ascending subset of the site's units, and make them plain integers.

        Raises:
            InvalidSetting: If they are not, or if there is not one weight for each.
        """
        try:
            for name in ("kept", "order"):  # NumPy's integers have no place in JSON
                object.__setattr__(self, name, tuple(operator.index(unit) for unit in getattr(self, name)))
        except TypeError as error:
            raise InvalidSetting(f"site {self.site!r}: units are whole numbers; {error}") from error
        ascending = all(a < b for a, b in zip(self.kept, self.kept[1:], strict=False))
        if not self.kept or not ascending or self.kept[0] < 0 or self.kept[-1] >= self.width:
            raise InvalidSetting(
                f"site {self.site!r}: kept units {self.kept[:8]}... are no ascending, non-empty subset of "
                f"0..{self.width - 1}"
            )
        if len(self.weights) != len(self.kept):
            raise InvalidSetting(f"site {self.site!r}: {len(self.weights)} weights for {len(self.kept)} kept units")

    @property
    def density(self) -> float:
        """Fraction of units kept."""
        return len(self.kept) / self.width


@dataclass(frozen=True, eq=False)
class Plan:
    """What stays of a network: the one result of every method.

    Attributes:
        choices: One entry per pruned site. Sites without an entry stay whole.
        tensors: Replacement parameters and buffers in the shapes of the *dense* network (refitted consumer weights,
            shifted biases); entries of removed units are ignored.
        method: Registry name of the method.
        settings: The method's settings, JSON-able.
        seed: The seed of the run.
        dense_hash: Hash of the dense network's state, so that a plan is never applied to other weights unnoticed.
        status: What happened, for a person to read.
    """

    choices: tuple[Choice, ...]
    tensors: Mapping[str, Tensor] = field(default_factory=lambda: MappingProxyType({}))
    method: str = ""
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    seed: int = 0
    dense_hash: str = ""
    status: str = ""

    def __post_init__(self) -> None:
        """Check that no site is chosen twice.

        Raises:
            InvalidSetting: If one is.
        """
        names = [choice.site for choice in self.choices]
        if len(set(names)) != len(names):
            raise InvalidSetting(f"a plan must have one choice per site; given {names}")

    @property
    def kept(self) -> dict[str, tuple[int, ...]]:
        """Kept units by site."""
        return {choice.site: choice.kept for choice in self.choices}

    @property
    def widths(self) -> dict[str, int]:
        """Number of kept units by site."""
        return {choice.site: len(choice.kept) for choice in self.choices}

    def to_json(self) -> str:
        """The plan without its tensors, as canonical JSON."""
        record = {
            "choices": [asdict(choice) for choice in self.choices],
            "method": self.method,
            "settings": dict(self.settings),
            "seed": self.seed,
            "dense_hash": self.dense_hash,
            "status": self.status,
        }
        return json.dumps(record, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, tensors: Mapping[str, Tensor] | None = None) -> "Plan":
        """The inverse of `to_json`; `tensors` are the replacement tensors, if there are any.

        Raises:
            InvalidSetting: If the text is not a plan.
        """
        try:
            record = json.loads(text)
            choices = tuple(_choice(entry) for entry in record.pop("choices"))
            return cls(choices=choices, tensors=dict(tensors or {}), **record)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise InvalidSetting(f"not a plan: {error!r}") from error

    @property
    def identity(self) -> str:
        """SHA-256 of the plan and its tensors: equal for equal plans, on every machine."""
        return hashlib.sha256((self.to_json() + hash_tensors(self.tensors)).encode()).hexdigest()


def _choice(entry: dict[str, Any]) -> Choice:
    """A choice from its JSON form, in which tuples are lists."""
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
    return Choice(**fields)
