"""Values by name on the command line: NAME=VALUE, with the value in JSON."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from scionet.errors import InvalidSetting
from scionet.files.parsing import parsed_json


def named_values(texts: Sequence[str], kind: str, example: str) -> dict[str, Any]:
    """Convert ``NAME=VALUE`` to values by name; a value that is not JSON is a text.

    Args:
        texts: The texts.
        kind: What a name stands for, for the error.
        example: An example, for the error.

    Raises:
        InvalidSetting: If a text has no name or no value.
    """
    found = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not (sign and name.isidentifier()):
            raise InvalidSetting(f"{kind} is written NAME=VALUE, such as {example}; given {text!r:.80}")
        try:
            found[name] = parsed_json(value)
        except ValueError:
            found[name] = value
    return found


def texts_of(values: Mapping[str, Any]) -> list[str]:
    """The inverse of `named_values`."""
    return [f"{name}={json.dumps(value)}" for name, value in values.items()]
