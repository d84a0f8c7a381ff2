"""Converts TOML files to command-line arguments, so that one parser reads and checks both."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import tyro

from scionet.choices.trust import functions_in, refuse_untrusted
from scionet.commands.named_values import texts_of
from scionet.errors import InvalidSetting, unknown

_TRUST = "trust_factory"


def arguments(table: Mapping[str, Any], kind: type, recipe: type, where: str, prefix: str = "") -> Iterator[str]:
    """Return command-line arguments with the same meaning as a table.

    Args:
        table: The table. Keys are names of fields; a field that is a dataclass is a table of its own.
        kind: The command's dataclass.
        recipe: The dataclass that replaces its type variable, if it has one.
        where: The file, and the table in it, for error texts.
        prefix: Prefix of the flags of this table.

    Raises:
        InvalidSetting: If a key is unknown, or a value is not a text, number, truth value or list of these.
    """
    hints = get_type_hints(kind, include_extras=True)
    known = {field.name for field in fields(kind)} - {"config", "debug", _TRUST}  # these are given before the file
    for key, value in table.items():
        if key == _TRUST:
            raise InvalidSetting(
                f"{key} in {where}: a file cannot trust itself; give --trust-factory on the command line"
            )
        if key not in known:
            raise unknown(f"key in {where}", key, known)
        bare = tyro.conf.OmitArgPrefixes in getattr(hints[key], "__metadata__", ())
        inner = get_args(hints[key])[0] if get_origin(hints[key]) is Annotated else hints[key]
        inner = recipe if isinstance(inner, TypeVar) else inner
        if get_origin(inner) is Mapping and isinstance(value, Mapping):
            yield from _argument(key, texts_of(value), where, prefix)
        elif not is_dataclass(inner):
            yield from _argument(key, value, where, prefix)
        elif isinstance(value, Mapping) and isinstance(inner, type):
            below = prefix if bare else f"{prefix}{key.replace('_', '-')}."
            yield from arguments(value, inner, recipe, f"{where} [{key}]", below)
        else:
            raise InvalidSetting(
                f"{key} in {where} must be a table: write [{key}] and its keys below; given {value!r:.80}"
            )


def _argument(key: str, value: Any, where: str, prefix: str) -> Iterator[str]:
    """Return the arguments of one key.

    Raises:
        InvalidSetting: If the value cannot be written on the command line.
    """
    flag = key.replace("_", "-")
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str | int | float) for item in items):
        raise InvalidSetting(
            f"{key} in {where} must be a text, a number, true or false, or a list; given {value!r:.80}"
        )
    if isinstance(value, list):
        if flags := [item for item in value if isinstance(item, str) and item.startswith("-")]:
            raise InvalidSetting(
                f"{key} in {where} is a list of values, and {flags[0]!r:.80} would be an option; remove it"
            )
        yield from (f"--{prefix}{flag}", *map(str, value))
    elif isinstance(value, bool):
        yield f"--{prefix}{flag}" if value else f"--{prefix}no-{flag}"
    else:
        yield f"--{prefix}{flag}={value}"


def refuse_functions(table: Mapping[str, Any], command: Any, where: object) -> None:
    """Refuse a function that a file names, unless the command line trusts it or names another one.

    Raises:
        InvalidSetting: If there is one.
    """
    if not command.trust_factory:
        used = {key: value for key, value in table.items() if getattr(command, key, None) == value}
        refuse_untrusted(functions_in(used), where)
