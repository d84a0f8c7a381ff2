"""JSON files with a format version and a list of required features; see docs/file_formats.md."""

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from scionet.files.json_dataclasses import build, plain, to_json
from scionet.files.parsing import parsed_json

Kind = TypeVar("Kind")
_NEWER = "written by a newer scionet: pip install -U scionet"


@dataclass(frozen=True)
class Format:
    """A file format as this version of scionet writes and reads it.

    Attributes:
        version: Its version; raised when a reader of the version before would misread a file.
        features: Names of the features that a file may require of its reader.
        advice: What to do with a file of an older version.
    """

    version: int
    features: tuple[str, ...]
    advice: str

    def write(self, value: Any, requires: Collection[str] = ()) -> str:
        """A dataclass as JSON.

        Args:
            value: The dataclass.
            requires: The features without which a reader would misread it.

        Raises:
            ValueError: If a value has no JSON form.
        """
        return to_json({"format_version": self.version, "requires": sorted(requires), **plain(value)})

    def read(self, kind: type[Kind], text: str, where: str) -> Kind:
        """The inverse of `write`.

        Args:
            kind: The dataclass.
            text: What `write` returned.
            where: What the text is, for error messages.

        Raises:
            ValueError: If the text is of another version, requires an unknown feature, has an unknown section, or is
                damaged.
        """
        record = build(dict, parsed_json(text, where), where)
        version = build(int, record.pop("format_version", None), f"{where}.format_version")
        if version > self.version:
            raise ValueError(
                f"{where} has format version {version}; this scionet reads {self.version}. It was {_NEWER}"
            )
        if version < self.version:
            raise ValueError(f"{where} has format version {version}; this scionet reads {self.version}. {self.advice}")
        required = build(tuple[str, ...], record.pop("requires", None), f"{where}.requires")
        unknown = [*(set(required) - set(self.features)), *(record.keys() - {field.name for field in fields(kind)})]  # type: ignore[arg-type]
        if unknown:
            names = ", ".join(f"{name!r:.40}" for name in sorted(unknown)[:4])
            raise ValueError(f"{where} has features that this scionet does not know ({names}). It was {_NEWER}")
        return build(kind, record, where)
