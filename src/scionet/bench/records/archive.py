"""Packed files: many records in one file, one line of canonical JSON each, sorted and protected by a checksum."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scionet.bench.records.record_files import RecordError, read_text, write_text
from scionet.files.json_dataclasses import build, read, to_json
from scionet.files.parsing import parsed_json

SUFFIX = ".jsonl"
ARCHIVE_FORMAT = 1
"""Version of the packed format; raised when an older reader could misread a file."""
KIND = "scionet records"
_ADVICE = "restore the file from version control, or pack its records again with: scionet bench pack"


@dataclass(frozen=True)
class Header:
    """The first line of a packed file.

    Attributes:
        count: Number of records, and of lines after this one.
        format: Version of the packed format.
        kind: `KIND`, which tells a packed file from other JSON lines.
        sha256: SHA-256 of all lines after this one, hexadecimal.
    """

    count: int
    format: int
    kind: str
    sha256: str


def write_archive(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write records into one packed file, atomically; an existing file is replaced.

    The bytes depend on the set of records alone, not on their order. Equal records become one.

    Args:
        path: The file, whose name ends in ``.jsonl``.
        records: JSON objects, such as `read_archive` returns.

    Raises:
        RecordError: If the name ends differently, a record has no JSON form, or the file cannot be written.
    """
    if path.suffix != SUFFIX:
        raise RecordError(f"the name of a packed file ends in {SUFFIX}; given {path}")
    try:
        lines = sorted({to_json(record) for record in records})
        header = to_json(Header(len(lines), ARCHIVE_FORMAT, KIND, _checksum(lines)))
    except (TypeError, ValueError) as error:
        raise RecordError(f"cannot pack {path}: a record has no JSON form ({error}); make it again") from error
    write_text(path, "".join(f"{line}\n" for line in (header, *lines)))


def read_archive(path: Path) -> list[dict[str, Any]]:
    """The records of a packed file, after a check of their number and of the checksum.

    Args:
        path: A file written by `write_archive`.

    Raises:
        RecordError: If the file cannot be read, is no packed file, of a newer format, or damaged. The text names the
            file, the line where it is known, and what to do.
    """
    return [_object(line, source) for source, line in archive_lines(path)]


def archive_lines(path: Path) -> list[tuple[str, str]]:
    """The checked lines of a packed file, each with its place (file and line number) for error texts.

    Raises:
        RecordError: As `read_archive`, except that the lines are not parsed.
    """
    first, *lines = read_text(path).removesuffix("\n").split("\n")
    header = _header(first, path)
    if len(lines) != header.count:
        raise RecordError(
            f"{path} is damaged: line 1 announces {header.count} records, but {len(lines)} lines follow; {_ADVICE}"
        )
    if _checksum(lines) != header.sha256:
        raise RecordError(f"{path} is damaged: {_difference(lines)}; {_ADVICE}")
    return [(_place(path, index), line) for index, line in enumerate(lines)]


def _header(line: str, path: Path) -> Header:
    try:
        content = read(dict, line, "header")
    except ValueError as error:
        raise RecordError(f"{path}, line 1 is no header of a packed file: {error}; {_ADVICE}") from error
    if content.get("kind") != KIND:
        raise RecordError(f"{path}, line 1 has kind {content.get('kind')!r} instead of {KIND!r}; give a packed file")
    if content.get("format") != ARCHIVE_FORMAT:
        raise RecordError(
            f"{path}, line 1 has packed format {content.get('format')!r}; this scionet reads format {ARCHIVE_FORMAT}. "
            "Use the version of scionet that wrote the file"
        )
    try:
        return build(Header, content, "header")
    except ValueError as error:
        raise RecordError(f"{path}, line 1 is damaged: {error}; {_ADVICE}") from error


def _difference(lines: list[str]) -> str:
    """What is wrong with lines whose checksum differs: the first that cannot have been written, if there is one."""
    for index, line in enumerate(lines):
        if not _canonical(line):
            return f"line {index + 2} is not canonical JSON"
        if index and line <= lines[index - 1]:
            return f"line {index + 2} is out of order"
    return "the checksum of its records differs from the one in line 1"


def _canonical(line: str) -> bool:
    try:
        return to_json(parsed_json(line)) == line
    except ValueError:
        return False


def _object(line: str, source: str) -> dict[str, Any]:
    try:
        return read(dict, line)
    except ValueError as error:
        raise RecordError(f"{source} is no record: {error}; {_ADVICE}") from error


def _checksum(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(f"{line}\n".encode())
    return digest.hexdigest()


def _place(path: Path, index: int) -> str:
    return f"{path}, line {index + 2}"
