"""Converts the options of `scionet prune` and `scionet shrink` to choices of the library. Does not import torch."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from scionet.choices.checking import chosen
from scionet.choices.depth import DEPTH, DepthRule, DropBranches
from scionet.choices.methods import OBJECTIVES, Exact, Forward, Score
from scionet.choices.repair import Recalibrate, RepairStep
from scionet.choices.shrinking import SHRINKING, Shrinking
from scionet.choices.widths import WIDTHS, WidthRule, Widths
from scionet.commands.options import Prune, Shrink
from scionet.errors import InvalidSetting, unknown
from scionet.files.parsing import parsed_json


def chosen_method(command: Prune) -> str | Forward | Score:
    """Return the method.

    Raises:
        InvalidSetting: If there are options of greedy forward selection with another method, options of an objective
            that is not chosen, or passes with a function.
    """
    if command.method != "forward":
        _refuse_forward_options(command)
        if ":" not in command.method:
            return Score(command.method, command.passes)
        if command.passes > 1:
            raise InvalidSetting(f"--passes is no option of {command.method}, which decides by itself: leave it out")
        return command.method
    for name in OBJECTIVES:
        _refuse_unused(command, name, f"--objective {name}", name == command.objective)
    _refuse_unused(command, "stochastic", "--candidates stochastic", command.candidates == "stochastic")
    candidates = Exact() if command.candidates == "exact" else command.stochastic
    return Forward(getattr(command, command.objective), candidates, command.passes)


def refuse_no_stop(command: Prune) -> None:
    """Refuse a command without a stop rule, before anything is read.

    Raises:
        InvalidSetting: If it has neither a budget nor a tolerance, or both.
    """
    own = ":" in command.method  # may have a stop rule of its own
    stops = (command.task_loss.tolerance is not None) + isinstance(command.widths, Path)
    if not own and (command.budget is not None) + stops != 1:
        raise InvalidSetting(
            'give one of three: --budget, such as --budget "macs<=50%"; --widths FILE.json; or --objective task_loss '
            "with --task-loss.tolerance"
        )


def chosen_widths(command: Prune) -> WidthRule | None:
    """Return how the budget is divided; None for the default.

    Raises:
        InvalidSetting: If there are options of widths that are not chosen, or a file has no widths.
    """
    if command.widths is None:
        return command.sensitivity if _given(command, "sensitivity") else None
    _refuse_unused(command, "sensitivity", "--widths sensitivity", command.widths == "sensitivity")
    if isinstance(command.widths, Path):
        return _widths_in(command.widths)
    return command.sensitivity if command.widths == "sensitivity" else chosen(command.widths, WIDTHS, "widths")


def chosen_depth(command: Prune) -> DepthRule | None:
    """Return which residual branches are dropped; None for none.

    Raises:
        InvalidSetting: If there are options of a rule that is not chosen, or a rule beside names.
    """
    given = command.depth
    rules = DEPTH.keys() - {"drop_branches"}
    for name in rules:
        _refuse_unused(command, name, f"--depth {name}", given == (name,))
    if len(given) == 1 and given[0] in rules:
        return getattr(command, given[0])
    if both := rules & {*given}:
        raise InvalidSetting(f"--depth takes names of branches, or {min(both)} alone; given {' '.join(given)}")
    return DropBranches(given) if given else None


def chosen_shrinking(command: Shrink[Any]) -> Shrinking:
    """Return the method that shrinks a network.

    Raises:
        InvalidSetting: If there are options of a method that is not chosen.
    """
    for name in SHRINKING:
        _refuse_unused(command, name, f"--method {name}", name == command.method)
    return getattr(command, command.method)


def shrinking_widths(command: Shrink[Any]) -> WidthRule | None:
    """Return how the budget is divided when a network shrinks; None for the default.

    Raises:
        InvalidSetting: If a file has no widths.
    """
    if command.widths is None or not isinstance(command.widths, Path):
        return None if command.widths is None else chosen(command.widths, WIDTHS, "widths")
    return _widths_in(command.widths)


def _widths_in(path: Path) -> Widths:
    """The widths in a JSON file.

    Raises:
        InvalidSetting: If the file cannot be read, or is not JSON with a number of units for each name.
    """
    if path.suffix != ".json":
        raise unknown("widths", str(path), [*WIDTHS.keys() - {"widths"}, "FILE.json"])
    try:
        return Widths(parsed_json(path.read_text(encoding="utf-8"), "widths"))
    except OSError as error:
        raise InvalidSetting(f"cannot read the widths {path}: {error.strerror}; give an existing file") from error
    except ValueError as error:
        raise InvalidSetting(f"{path} has no widths: {error}") from error


def chosen_repair(command: Prune) -> list[RepairStep]:
    """Return the steps of the repair.

    Raises:
        InvalidSetting: If there are options of a step that is not chosen.
    """
    steps = " ".join(command.repair)
    _refuse_unused(command, "refit", f"--repair refit {steps}".rstrip(), "refit" in command.repair)
    _refuse_unused(command, "reconstruct", f"--repair {steps} reconstruct", "reconstruct" in command.repair)
    return [Recalibrate() if name == "recalibrate" else getattr(command, name) for name in command.repair]


def _refuse_forward_options(command: Prune) -> None:
    """Refuse options of greedy forward selection.

    Raises:
        InvalidSetting: If there are any.
    """
    kinds = [*OBJECTIVES, "stochastic"]
    given = [flag for name in kinds for flag in _given(command, name)]
    given += ["--objective"] if command.objective != "least_squares" else []
    given += ["--candidates"] if command.candidates != "exact" else []
    if given:
        raise InvalidSetting(_unused(given, "--method forward") + f"; given --method {command.method}")


def _refuse_unused(command: Prune | Shrink[Any], name: str, needed: str, chosen: bool) -> None:
    """Refuse options of something that is not chosen, because they would have no consequence.

    Raises:
        InvalidSetting: If there are any.
    """
    if not chosen and (given := _given(command, name)):
        raise InvalidSetting(_unused(given, needed))


def _given(command: Prune | Shrink[Any], name: str) -> list[str]:
    """The options of a choice that differ from their defaults."""
    choice = getattr(command, name)
    default = type(choice)()
    changed = [each.name for each in fields(choice) if getattr(choice, each.name) != getattr(default, each.name)]
    return [f"--{name}.{option}".replace("_", "-") for option in changed]


def _unused(given: Sequence[str], needed: str) -> str:
    return f"{', '.join(given)} would do nothing without {needed}: give {needed}, or leave {', '.join(given)} out"
