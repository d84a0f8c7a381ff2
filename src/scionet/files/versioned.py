"""JSON with a format version and a list of required features; see docs/file_formats.md."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from scionet.files.json_dataclasses import build, plain, to_json
from scionet.files.parsing import parsed_json

Kind = TypeVar("Kind")
_NEWER = "written by a newer scionet: pip install -U scionet"


class OtherFormat(ValueError):
    """A text of another format version, or with features that this scionet does not know. It is not damaged."""


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
            OtherFormat: If the text is of another version, requires an unknown feature, or has an unknown section.
            ValueError: If it is damaged.
        """
        return self.built(kind, self.parsed(text, where), where)

    def parsed(self, text: str, where: str) -> dict[str, Any]:
        """The entries of a text of this version. `built` checks the others.

        Raises:
            OtherFormat: If it is of another version.
            ValueError: If it is no JSON object with a version.
        """
        record = build(dict, parsed_json(text, where), where)
        version = build(int, record.pop("format_version", None), f"{where}.format_version")
        if version != self.version:
            advice = f"It was {_NEWER}" if version > self.version else self.advice
            raise OtherFormat(f"{where} has format version {version}; this scionet reads {self.version}. {advice}")
        return record

    def built(self, kind: type[Kind], record: Mapping[str, Any], where: str) -> Kind:
        """The dataclass of what `parsed` returned.

        Raises:
            OtherFormat: If it requires an unknown feature, or has an unknown section.
            ValueError: If it is damaged.
        """
        sections = {key: value for key, value in record.items() if key != "requires"}
        required = build(tuple[str, ...], record.get("requires"), f"{where}.requires")
        unknown = [*(set(required) - set(self.features)), *(sections.keys() - {field.name for field in fields(kind)})]  # type: ignore[arg-type]
        if unknown:
            names = ", ".join(f"{name!r:.40}" for name in sorted(unknown)[:4])
            raise OtherFormat(f"{where} has features that this scionet does not know ({names}). It was {_NEWER}")
        return build(kind, sections, where)
