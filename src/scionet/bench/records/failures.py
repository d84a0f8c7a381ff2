"""Runs that failed: a file with the reason for each, and a row in every report."""

from dataclasses import dataclass
from pathlib import Path

from scionet.bench.records.record import RunSpec
from scionet.bench.records.record_files import make_folder, read_value, write_text
from scionet.files.json_dataclasses import to_json


@dataclass(frozen=True)
class Failure:
    """A run that did not come to its end.

    Attributes:
        spec: What was to be run.
        kind: Class of the error.
        reason: Its text.
        trace: Where it was raised.
    """

    spec: RunSpec
    kind: str
    reason: str
    trace: str = ""


def save_failure(failure: Failure, folder: Path) -> Path:
    """Write a failure into a folder, which is made if need be.

    Raises:
        RecordError: If it cannot be written.
    """
    make_folder(folder)
    path = folder / failure.spec.file_name
    write_text(path, to_json(failure) + "\n")
    return path


def load_failure(path: Path) -> Failure:
    """Read a failure.

    Raises:
        RecordError: If the file is damaged.
    """
    return read_value(Failure, path)
