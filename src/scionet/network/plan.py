"""Plan: the units of a network that are kept, and how they were chosen."""

import hashlib
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scionet.errors import InvalidSetting, unknown
from scionet.files.json_dataclasses import optional
from scionet.files.safetensors_files import hash_tensors
from scionet.files.versioned import Format
from scionet.network.phrases import counted

if TYPE_CHECKING:
    from scionet.network.sites import Sites

DROPPED_BRANCHES = "dropped_branches"
"""Feature of plans, and of files of networks, without some residual branches."""
FORMAT = Format(version=1, features=(DROPPED_BRANCHES,), advice="Make the plan again")
"""The format of `Plan.to_json`."""
_MOST_CHANNELS = 2**20


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
        """Check that the indices are a non-empty, ascending subset of the site's units; convert numbers to Python's.

        Raises:
            InvalidSetting: If they are not, the order lists other units, there is not one weight for each kept unit, or
                a weight or value is NaN or infinite.
        """
        try:
            for name in ("kept", "order"):  # json cannot write NumPy's numbers
                object.__setattr__(self, name, tuple(operator.index(unit) for unit in getattr(self, name)))
            for name in ("weights", "values"):
                object.__setattr__(self, name, tuple(float(number) for number in getattr(self, name)))
        except (TypeError, ValueError) as error:
            raise InvalidSetting(
                f"site {self.site!r}: units must be whole numbers, weights and values numbers; {error}"
            ) from error
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
        if outside := [unit for unit in self.order if not 0 <= unit < self.width]:
            raise InvalidSetting(
                f"site {self.site!r}: the order must list units of 0..{self.width - 1}; given {outside[0]}"
            )
        if not all(map(math.isfinite, (*self.weights, *self.values))):
            raise InvalidSetting(f"site {self.site!r}: weights and values must be finite; one is NaN or infinite")

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
        dropped: Residual branches that are dropped, by name. A constant for each channel of the dense branch's output,
            shape ``(channels,)``, takes the branch's place; with None nothing does.
    """

    choices: tuple[Choice, ...]
    tensors: Mapping[str, Tensor] = field(default_factory=lambda: MappingProxyType({}))
    method: str = ""
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    seed: int = 0
    dense_hash: str = ""
    status: str = ""
    dropped: Mapping[str, Tensor | None] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        """Check that every site has at most one choice, and that constants are vectors.

        Raises:
            InvalidSetting: If a site has more, or what takes a branch's place is no finite vector.
        """
        names = [choice.site for choice in self.choices]
        if len(set(names)) != len(names):
            raise InvalidSetting(f"a plan must have one choice per site; given {names}")
        for name, constant in self.dropped.items():
            if constant is not None and not (constant.ndim == 1 and bool(constant.isfinite().all())):
                raise InvalidSetting(
                    f"a dropped branch is replaced by one finite number for each channel, or by None; given a tensor "
                    f"of shape {tuple(constant.shape)} for {name!r}"
                )

    def __repr__(self) -> str:
        """The plan in one line: its method, sites, units and seed."""
        kept, width = sum(self.widths.values()), sum(choice.width for choice in self.choices)
        parts = [self.method] if self.method else []
        parts += [counted(len(self.choices), "site"), f"{kept:,} of {counted(width, 'unit')} kept"]
        parts += [f"{len(self.dropped)} dropped"] if self.dropped else []
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

    def refuse_other_sites(self, sites: "Sites") -> None:
        """Refuse the sites of another network.

        Raises:
            InvalidSetting: If a site or branch of the plan is missing there, or has another width; if a branch lies in
                another that is dropped, too; or if a site has a choice of which dropped branches leave nothing.
        """
        self._refuse_other_branches(sites)
        for choice in self.choices:
            if choice.site not in sites or sites[choice.site].width != choice.width:
                raise InvalidSetting(
                    f"the plan is for a network with {choice.width} units at site {choice.site!r}; this network has "
                    + (f"{sites[choice.site].width} units there" if choice.site in sites else "no such site")
                    + "; use the plan with the network that it was made for"
                )

    def _refuse_other_branches(self, sites: "Sites") -> None:
        sites.refuse_clash(self.dropped)
        for name, constant in self.dropped.items():
            branch = sites.branches[name]
            if constant is not None and len(constant) != branch.channels:
                raise InvalidSetting(
                    f"branch {name!r} has {branch.channels} channels; given a constant of {len(constant)}"
                )
        gone = {tensor for name in self.dropped for tensor in sites.branches[name].tensors}
        for choice in self.choices if gone else ():
            site = sites.get(choice.site)
            if site is not None and (gone.issuperset(site.producers) or gone.issuperset(site.consumers)):
                raise InvalidSetting(
                    f"site {choice.site!r} has no units to choose: without the dropped branches, nothing makes or reads"
                    " them"
                )

    def rebased(self, sites: "Sites") -> "Plan":
        """The same units for the same network with other weights; nothing replaces those.

        The constants of dropped branches are those of the other weights, so they become 0.

        Args:
            sites: What `discover` finds in the network as it is now.

        Raises:
            InvalidSetting: If the sites are of another network.
        """
        self.refuse_other_sites(sites)
        return replace(self.without_tensors, dense_hash=sites.dense_hash)

    @property
    def without_tensors(self) -> "Plan":
        """The plan without replacement tensors, and with constants of 0."""
        zeros = {name: None if each is None else torch.zeros_like(each) for name, each in self.dropped.items()}
        return replace(self, tensors=MappingProxyType({}), dropped=zeros)

    @property
    def record(self) -> "PlanRecord":
        """The plan without its tensors."""
        sizes = {name: None if constant is None else len(constant) for name, constant in self.dropped.items()}
        return PlanRecord(self.choices, self.method, self.settings, self.seed, self.dense_hash, self.status, sizes)

    def to_json(self) -> str:
        """The plan without its tensors, as canonical JSON.

        Raises:
            InvalidSetting: If its settings have no JSON form.
        """
        try:
            return FORMAT.write(self.record, [DROPPED_BRANCHES] if self.dropped else [])
        except ValueError as error:
            raise InvalidSetting(f"the plan of {self.method!r} cannot be written as JSON: {error}") from error

    @classmethod
    def from_json(
        cls,
        text: str,
        tensors: Mapping[str, Tensor] | None = None,
        constants: Mapping[str, Tensor] | None = None,
    ) -> "Plan":
        """The inverse of `to_json`.

        Args:
            text: What `to_json` returned.
            tensors: The replacement tensors, which are no part of the JSON.
            constants: The constants of dropped branches by name, which are no part of it either; 0 where one is needed
                and not given.

        Raises:
            InvalidSetting: If the text is not a plan, or of another format version, or a constant does not fit.
        """
        try:
            return FORMAT.read(PlanRecord, text, "plan").plan(tensors, constants)
        except ValueError as error:
            raise InvalidSetting(f"the text is not a plan: {error}; give what Plan.to_json() returned") from error

    @property
    def identity(self) -> str:
        """SHA-256 of the plan and its tensors. Equal plans have equal hashes on every machine."""
        constants = {name: constant for name, constant in self.dropped.items() if constant is not None}
        parts = [self.to_json(), hash_tensors(self.tensors), *([hash_tensors(constants)] if constants else [])]
        return hashlib.sha256("".join(parts).encode()).hexdigest()


@dataclass(frozen=True)
class PlanRecord:
    """A plan as it stands in files; the attributes are those of `Plan`."""

    choices: tuple[Choice, ...]
    method: str
    settings: Mapping[str, Any]
    seed: int
    dense_hash: str
    status: str
    dropped: Mapping[str, int | None] = optional(dict)
    """The number of entries of the constant, or None, by name of the branch."""

    def plan(self, tensors: Mapping[str, Tensor] | None = None, constants: Mapping[str, Tensor] | None = None) -> Plan:
        """The plan, with these replacement tensors and constants.

        Raises:
            InvalidSetting: If a constant is of no dropped branch, or has another size.
        """
        given, taken = dict(constants or {}), dict[str, Tensor | None]()
        for name, size in self.dropped.items():
            constant = None if size is None else given.pop(name, torch.zeros(_checked_size(name, size)))
            if constant is not None and constant.shape != (size,):
                raise InvalidSetting(f"the constant of branch {name!r} must have {size} entries")
            taken[name] = constant
        if given:
            raise unknown("dropped branch with a constant", next(iter(given)), self.dropped)
        return Plan(
            self.choices,
            dict(tensors or {}),
            self.method,
            self.settings,
            self.seed,
            self.dense_hash,
            self.status,
            taken,
        )


def _checked_size(name: str, size: int) -> int:
    """The size of a constant.

    Raises:
        InvalidSetting: If it is out of range.
    """
    if not 1 <= size <= _MOST_CHANNELS:
        raise InvalidSetting(f"the constant of branch {name!r} must have 1 to {_MOST_CHANNELS:,} entries; given {size}")
    return size
