"""Plan: the units of a network that are kept, and how they were chosen."""

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
from scionet.network.phrases import counted


@dataclass(frozen=True, repr=False)
class Choice:
    """The kept units of one site, and the order in which they were picked.

    Attributes:
        site: Name of the site.
        width: Number of units of the dense site.
        kept: Indices of the kept units, ascending.
        weights: Multiplier of each kept unit at every consumer (1 where nothing is re-weighted).
        order: Units in the order of their picks; a unit that was picked twice is listed twice. It can be longer than
            ``kept`` if the method ordered more units than it kept.
        values: The objective's value after each pick; empty for methods without an objective.
        status: Why the selection stopped.
    """

    site: str
    width: int
    kept: tuple[int, ...]
    weights: tuple[float, ...]
    order: tuple[int, ...] = ()
    values: tuple[float, ...] = ()
    status: str = ""

    def __post_init__(self) -> None:
        """Check that the indices are a non-empty, ascending subset of the site's units; convert them to integers.

        Raises:
            InvalidSetting: If they are not, or the number of weights differs from that of kept units.
        """
        try:
            for name in ("kept", "order"):  # json cannot write NumPy's integers
                object.__setattr__(self, name, tuple(operator.index(unit) for unit in getattr(self, name)))
        except TypeError as error:
            raise InvalidSetting(f"site {self.site!r}: units must be whole numbers; {error}") from error
        ascending = all(a < b for a, b in zip(self.kept, self.kept[1:], strict=False))
        if not self.kept or not ascending or self.kept[0] < 0 or self.kept[-1] >= self.width:
            raise InvalidSetting(
                f"site {self.site!r}: kept units must be an ascending, non-empty subset of 0..{self.width - 1}; given "
                f"{self.kept[:8]}{'...' if len(self.kept) > 8 else ''}"
            )
        if len(self.weights) != len(self.kept):
            raise InvalidSetting(
                f"site {self.site!r}: {len(self.weights)} weights for {len(self.kept)} kept units; give one for each"
            )

    def __repr__(self) -> str:
        """The choice in one line, without its indices."""
        return f"Choice({self.site!r}, {len(self.kept):,} of {counted(self.width, 'unit')} kept)"

    @property
    def density(self) -> float:
        """Fraction of units kept."""
        return len(self.kept) / self.width


@dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """The kept units of a network: the result of every method.

    Attributes:
        choices: One entry per pruned site. Sites without an entry stay whole.
        tensors: Replacement parameters and buffers in the shapes of the *dense* network (refitted consumer weights,
            shifted biases); entries of removed units are ignored.
        method: Registry name of the method.
        settings: The method's settings, JSON-able.
        seed: The seed of the run.
        dense_hash: Hash of the state of the dense network that the plan was made for.
        status: A readable summary of the run.
    """

    choices: tuple[Choice, ...]
    tensors: Mapping[str, Tensor] = field(default_factory=lambda: MappingProxyType({}))
    method: str = ""
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    seed: int = 0
    dense_hash: str = ""
    status: str = ""

    def __post_init__(self) -> None:
        """Check that every site has at most one choice.

        Raises:
            InvalidSetting: If a site has more.
        """
        names = [choice.site for choice in self.choices]
        if len(set(names)) != len(names):
            raise InvalidSetting(f"a plan must have one choice per site; given {names}")

    def __repr__(self) -> str:
        """The plan in one line: its method, sites, units and seed."""
        kept, width = sum(self.widths.values()), sum(choice.width for choice in self.choices)
        parts = [self.method] if self.method else []
        parts += [counted(len(self.choices), "site"), f"{kept:,} of {counted(width, 'unit')} kept"]
        parts += [counted(len(self.tensors), "replacement tensor")] if self.tensors else []
        return f"Plan({', '.join(parts)}, seed {self.seed})"

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
        """The inverse of `to_json`.

        Args:
            text: What `to_json` returned.
            tensors: The replacement tensors, which are no part of the JSON.

        Raises:
            InvalidSetting: If the text is not a plan.
        """
        try:
            record = json.loads(text)
            choices = tuple(_choice(entry) for entry in record.pop("choices"))
            return cls(choices=choices, tensors=dict(tensors or {}), **record)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise InvalidSetting(f"the text is not a plan ({error!r}); give what Plan.to_json() returned") from error

    @property
    def identity(self) -> str:
        """SHA-256 of the plan and its tensors. Equal plans have equal hashes on every machine."""
        return hashlib.sha256((self.to_json() + hash_tensors(self.tensors)).encode()).hexdigest()


def _choice(entry: dict[str, Any]) -> Choice:
    """A choice from its JSON form, which has lists in place of tuples."""
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
    return Choice(**fields)
