"""Functions that a file names. They may be any code, so a file alone cannot have them called."""

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from scionet.errors import InvalidSetting

MODELS = ("timm", "torchvision", "scionet")
"""What stands before the colon in the name of a model that needs no trust."""
DATA = ("images", "idx", "csv", "torchvision", "huggingface")
"""The same for data."""
PLACES = MappingProxyType({"model": MODELS, "factory": MODELS, "source": DATA, "method": ()})
"""Keys of TOML files whose values may be ``package.module:function``, and what else stands before a colon there."""


def functions_in(value: Any, key: str = "", above: str = "") -> Iterator[str]:
    """All functions that a value of a TOML file names, at whatever depth.

    Args:
        value: The value.
        key: Its key.
        above: The key of the table that it stands in; a method may be a table with a name.
    """
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from functions_in(item, name, key)
    elif isinstance(value, list):
        for item in value:
            yield from functions_in(item, key, above)
    elif isinstance(value, str):
        known = PLACES.get("method" if (above, key) == ("method", "name") else key)
        if known is not None and ":" in value and value.partition(":")[0] not in known:
            yield value


def refuse_untrusted(functions: Iterable[str], where: object) -> None:
    """Refuse functions that a file names.

    Raises:
        InvalidSetting: If there are any.
    """
    if found := sorted(set(functions)):
        raise InvalidSetting(
            f"{where} names {', '.join(found)}, which may be any code; if you trust it, give --trust-factory on the "
            "command line (trust_factory=True in Python); a file cannot give this itself"
        )
