"""Rules for tyro: paragraphs as docstrings of options, scionet's own error texts, and mappings as NAME=VALUE."""

from collections.abc import Callable, Mapping
from dataclasses import is_dataclass, replace
from typing import Any

from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from scionet.commands.named_values import named_values, texts_of
from scionet.errors import PruneError


class RefusedValue(Exception):
    """A dataclass refused a value. Not a `ValueError`, because tyro shows these under its own names."""


def registry() -> ConstructorRegistry:
    """Rules that join the lines of each option's docstring and raise `RefusedValue` for a `PruneError`."""
    found, asked = ConstructorRegistry(), set[object]()

    def adapted(info: StructTypeInfo) -> StructConstructorSpec | None:
        if not is_dataclass(info.type) or info.type in asked:
            return None
        asked.add(info.type)  # so that tyro's own rule applies
        spec = ConstructorRegistry.get_struct_spec(info)
        asked.remove(info.type)
        if not isinstance(spec, StructConstructorSpec):
            return None
        return StructConstructorSpec(_refusing(spec.instantiate), tuple(map(_joined, spec.fields)))

    found.struct_rule(adapted)
    found.primitive_rule(_mapping)
    return found


def _mapping(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Values by name, such as ``betas=[0.9,0.95] eps=1e-6``."""
    if info.type_origin is not Mapping:
        return None
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="NAME=VALUE",
        instance_from_str=_refusing(lambda texts: named_values(texts, "a value by name", "eps=1e-6")),
        is_instance=lambda value: isinstance(value, Mapping),
        str_from_instance=texts_of,
    )


def _refusing(instantiate: Callable[..., Any]) -> Callable[..., Any]:
    def make(*args: Any, **kwargs: Any) -> Any:
        try:
            return instantiate(*args, **kwargs)
        except PruneError as error:
            raise RefusedValue(str(error)) from error

    return make


def _joined(field: StructFieldSpec) -> StructFieldSpec:
    """The field with its docstring in one line; tyro breaks lines where a docstring does."""
    given = field.helptext

    def text() -> str | None:
        found = given() if callable(given) else given
        return found and " ".join(found.split())

    return replace(field, helptext=text)
