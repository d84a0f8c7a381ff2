"""Reading all records of an experiment from single files and packed files, and packing single files into one."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, Self, TypeVar

from scionet.bench.records.archive import SUFFIX, archive_lines, write_archive
from scionet.bench.records.record import RunRecord
from scionet.bench.records.record_files import RecordError, read_text
from scionet.files.parsing import parsed_json


class Record(Protocol):
    """What can be stored: a value with a file name of its own and a JSON form."""

    @property
    def file_name(self) -> str:
        """Name of the run's own file; equal for two records of the same run."""
        ...

    @classmethod
    def from_json(cls, text: str, source: str = "text") -> Self:
        """The record from its JSON text; `source` names the place in error texts."""
        ...


Kind = TypeVar("Kind", bound=Record)


@dataclass(frozen=True)
class _Found(Generic[Kind]):
    """A record, its JSON text as it was read, and where it was read."""

    record: Kind
    text: str
    source: str


def load_all(*places: Path) -> tuple[RunRecord, ...]:
    """All run records of some places, sorted by specification; a run recorded in several places is given once.

    Args:
        places: Folders of single files (``*.json``), packed files (``*.jsonl``), or single files.

    Raises:
        RecordError: If a place does not exist, one of its files is damaged, or two places have different results of
            the same run.
    """
    return tuple(sorted(read_records(RunRecord, *places), key=_rank))


def read_records(kind: type[Kind], *places: Path) -> list[Kind]:
    """All records of some places, sorted by file name; as `load_all`, but for records of any kind.

    Raises:
        RecordError: As `load_all`.
    """
    return [found.record for found in _merged(kind, places)]


def pack(kind: type[Kind], places: Iterable[Path], path: Path) -> int:
    """Add records to a packed file, which is made if it does not exist. Equal sets of records give equal bytes.

    Args:
        kind: The kind of all records.
        places: As for `load_all`.
        path: The packed file, whose name ends in ``.jsonl``. Records that it has already stay in it.

    Returns:
        The number of records that the file has now.

    Raises:
        RecordError: If there is no record, one is damaged, the file has a different result of the same run, or it
            cannot be written. The file stays as it was then.
    """
    found = _merged(kind, [*([path] if path.exists() else []), *places])
    if not found:
        raise RecordError(f"no record (*.json) to pack into {path}; give a folder that has some")
    write_archive(path, [parsed_json(each.text) for each in found])
    return len(found)


def _merged(kind: type[Kind], places: Iterable[Path]) -> list[_Found[Kind]]:
    """What the places have, each run once, sorted by file name.

    Raises:
        RecordError: If two places have different results of the same run.
    """
    merged: dict[str, _Found[Kind]] = {}
    for source, text in (entry for place in places for entry in _entries(place)):
        found = _Found(kind.from_json(text, source), text, source)
        known = merged.setdefault(found.record.file_name, found)
        if known.record != found.record:
            raise RecordError(f"{known.source} and {source} have different results of the same run; remove one of them")
    return [merged[name] for name in sorted(merged)]


def _entries(place: Path) -> Iterator[tuple[str, str]]:
    """Source and text of each record of a place."""
    if place.is_dir():
        yield from ((str(path), read_text(path)) for path in sorted(place.glob("*.json")))
    elif not place.exists():
        raise RecordError(f"no folder or file {place}; give a folder of records (*.json) or a packed file (*{SUFFIX})")
    elif place.suffix == SUFFIX:
        yield from archive_lines(place)
    else:
        yield str(place), read_text(place)


def _rank(record: RunRecord) -> tuple[str | int, ...]:
    spec = record.spec
    return spec.experiment, spec.network, spec.dataset, spec.method, spec.budget, spec.seed, spec.run_id
