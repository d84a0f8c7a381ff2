"""The folders and files of the benchmarks' records.

While a benchmark runs, it writes one file per run into a working folder that git ignores, such as results/untrained/.
At its end it packs them into the committed file beside the folder, such as results/untrained.jsonl. A run that is
recorded in either place is not run again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

from scionet.bench.records.archive import SUFFIX
from scionet.bench.records.record import RunRecord
from scionet.bench.records.store import Record, load_all, pack, read_records

Kind = TypeVar("Kind", bound=Record)


def packed_file(folder: Path) -> Path:
    """The committed file of a working folder."""
    return folder.with_name(folder.name + SUFFIX)


def recorded_runs(folder: Path) -> tuple[RunRecord, ...]:
    """The run records of a working folder and of its committed file, sorted by specification."""
    with _locked(folder):
        return load_all(*_places(folder))


def recorded(kind: type[Kind], folder: Path) -> list[Kind]:
    """The records of a working folder and of its committed file, sorted by file name."""
    with _locked(folder):
        return read_records(kind, *_places(folder))


def pack_folder(kind: type[Record], folder: Path) -> None:
    """Move the records of a working folder into its committed file."""
    with _locked(folder):
        if files := sorted(folder.glob("*.json")):
            pack(kind, files, packed_file(folder))
            for file in files:
                file.unlink()


def _places(folder: Path) -> list[Path]:
    return [place for place in (packed_file(folder), folder) if place.exists()]


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from moving the records of a folder; without a folder there is nothing to move."""
    if not folder.exists():
        yield
        return
    with FileLock(folder / ".lock"):
        yield
