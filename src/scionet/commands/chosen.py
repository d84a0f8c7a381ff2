"""The choices that the options of `scionet prune` stand for. Knows no torch."""

from collections.abc import Sequence
from typing import Any

from scionet.choices.checking import Checked, name_of
from scionet.choices.methods import CANDIDATES, OBJECTIVES, Exact, Forward, Score
from scionet.choices.repair import REPAIR, Recalibrate, RepairStep
from scionet.choices.widths import WIDTHS, WidthRule
from scionet.commands.options import Prune
from scionet.errors import InvalidSetting


def chosen_method(command: Prune) -> str | Forward | Score:
    """The method.

    Raises:
        InvalidSetting: If options of greedy forward selection are given to another method, or options of an objective
            that is not chosen.
    """
    forward = command.method == "forward"
    _refuse_unused(command, OBJECTIVES, [command.objective] if forward else [], "objective")
    _refuse_unused(
        command, {"stochastic": CANDIDATES["stochastic"]}, [command.candidates] if forward else [], "candidates"
    )
    if forward:
        candidates = Exact() if command.candidates == "exact" else command.stochastic
        return Forward(getattr(command, command.objective), candidates, command.passes)
    if (command.objective, command.candidates) != ("least_squares", "exact"):
        raise InvalidSetting(
            f"--objective and --candidates belong to method forward; given method {command.method!r}: leave them out"
        )
    return command.method if ":" in command.method else Score(command.method, command.passes)


def chosen_widths(command: Prune) -> WidthRule | None:
    """How the budget is divided; None for the default.

    Raises:
        InvalidSetting: If options of widths are given that are not chosen.
    """
    default = [] if command.widths is None else [command.widths]
    _refuse_unused(command, {"sensitivity": WIDTHS["sensitivity"]}, default or ["sensitivity"], "widths")
    if command.widths is None:
        return None if command.sensitivity == type(command.sensitivity)() else command.sensitivity
    return command.sensitivity if command.widths == "sensitivity" else WIDTHS[command.widths]()


def chosen_repair(command: Prune) -> list[RepairStep]:
    """The steps of the repair.

    Raises:
        InvalidSetting: If options of a step are given that is not chosen.
    """
    _refuse_unused(command, {name: REPAIR[name] for name in ("refit", "reconstruct")}, command.repair, "repair")
    return [Recalibrate() if name == "recalibrate" else getattr(command, name) for name in command.repair]


def _refuse_unused(command: Prune, kinds: dict[str, Any], chosen: Sequence[str], option: str) -> None:
    """Refuse options of what is not chosen: they would do nothing.

    Raises:
        InvalidSetting: If there are any.
    """
    for name, kind in kinds.items():
        given: Checked = getattr(command, name)
        if name not in chosen and given != kind():
            flag = name_of(kind).replace("_", "-")
            raise InvalidSetting(
                f"--{flag}.* options need --{option} {name}; given {given!r} with {option} {[*chosen]}"
            )
