"""All choices of a user except the method, with names resolved to classes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scionet.choices.checking import described, from_description
from scionet.choices.depth import DEPTH, DepthName, DepthRule, DropBranches
from scionet.choices.limits import Limits
from scionet.choices.outputs import MetricName, Outputs
from scionet.choices.repair import REPAIR, Refit, RepairName, RepairStep
from scionet.choices.resources import Resources
from scionet.choices.widths import WIDTHS, Sensitivity, WidthRule, WidthsName
from scionet.errors import InvalidSetting, unknown

GivenRepair = Iterable[RepairName | RepairStep]
GivenOutputs = MetricName | Outputs
GivenWidths = WidthsName | WidthRule
GivenDepth = DepthName | DepthRule | Sequence[str]


@dataclass(frozen=True)
class Settings:
    """How the budget is divided, how weights are repaired, and what must be respected.

    Attributes:
        widths: How the budget is divided among the sites; None where the data decide.
        repair: Steps of the repair, in order; a refit comes first.
        outputs: How a change of the output is measured.
        limits: Bounds on the widths.
        resources: Memory, workers and samples.
        depth: Which residual branches are dropped; None for none.
    """

    widths: WidthRule | None = None
    repair: tuple[RepairStep, ...] = ()
    outputs: Outputs = field(default_factory=Outputs)
    limits: Limits = field(default_factory=Limits)
    resources: Resources = field(default_factory=Resources)
    depth: DepthRule | None = None

    def __post_init__(self) -> None:
        """Check the order of the repair.

        Raises:
            InvalidSetting: If a step occurs twice, or a refit is not the first.
        """
        kinds = [type(step) for step in self.repair]
        if len(set(kinds)) < len(kinds) or Refit in kinds[1:]:
            raise InvalidSetting(
                f"repair takes each step once, and Refit first, since it is part of the walk; given {[*self.repair]}"
            )

    @property
    def refit(self) -> Refit | None:
        """The refit, if there is one."""
        first = self.repair[0] if self.repair else None
        return first if isinstance(first, Refit) else None

    @property
    def further_repair(self) -> tuple[RepairStep, ...]:
        """The steps after the walk."""
        return tuple(step for step in self.repair if not isinstance(step, Refit))

    @property
    def judged_examples(self) -> int:
        """The most examples on which a change of the output is measured."""
        return (self.widths if isinstance(self.widths, Sensitivity) else Sensitivity()).examples

    def described(self) -> dict[str, Any]:
        """The settings as JSON; what does not change the result is left out."""
        found = {name: described(value) for name, value in vars(self).items() if name != "depth" or value is not None}
        for name in ("memory_gib", "workers", "backend"):
            found["resources"].pop(name)
        return found


def widths_from(value: object) -> WidthRule:
    """Return the widths for a name, a table of a TOML file, or an instance.

    Raises:
        InvalidSetting: If the value is something else.
    """
    return from_description(value, WIDTHS, "widths")


def depth_from(value: object) -> DepthRule | None:
    """Return which branches are dropped, for a list of their names, the name of a rule, a TOML table, or an instance.

    None stands for none.

    Raises:
        InvalidSetting: If the value is something else.
    """
    if value is None:
        return None
    if isinstance(value, Sequence) and not isinstance(value, str):
        return DropBranches(tuple(value))
    return from_description(value, DEPTH, "depth")


def repair_from(value: object) -> tuple[RepairStep, ...]:
    """Return the steps of a repair from a list of names, tables of a TOML file, or instances.

    Raises:
        InvalidSetting: If the value is something else.
    """
    if isinstance(value, str | RepairStep) or not isinstance(value, Iterable):
        raise InvalidSetting(f"repair must be a list of steps, such as ['refit', 'recalibrate']; given {value!r:.80}")
    return tuple(from_description(step, REPAIR, "repair step") for step in value)


def outputs_from(value: object) -> Outputs:
    """Return the measure of the outputs' change for a name, a TOML table or an instance; None gives the default.

    Raises:
        InvalidSetting: If the value is none of these.
    """
    if isinstance(value, Outputs):
        return value
    if value is None or isinstance(value, str):
        return Outputs(metric=value)  # type: ignore[arg-type]  checked there
    if isinstance(value, Mapping):
        return from_description({"name": "outputs", **value}, {"outputs": Outputs}, "outputs")
    raise InvalidSetting(f"outputs must be 'kl', 'squared' or Outputs(...); given {value!r:.80}")


def keywords_from(table: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of `scionet.prune` from a table of a TOML file.

    Raises:
        InvalidSetting: If a key or a value is not allowed.
    """
    readers: dict[str, Callable[[Any], Any]] = {
        "widths": widths_from,
        "depth": depth_from,
        "repair": repair_from,
        "outputs": outputs_from,
        "limits": lambda value: _table_from(value, "limits", Limits),
        "resources": lambda value: _table_from(value, "resources", Resources),
    }
    for key in table:
        if key not in readers:
            raise unknown("setting", str(key), readers)
    return {key: readers[key](value) for key, value in table.items()}


def _table_from(value: Any, name: str, kind: type[Any]) -> Any:
    """A choice that has no alternatives, from its table.

    Raises:
        InvalidSetting: If it is no table, or a key or a value is not allowed.
    """
    if not isinstance(value, Mapping):
        raise InvalidSetting(f"{name} must be a table; given {value!r:.80}")
    return from_description({**value, "name": name}, {name: kind}, name)
