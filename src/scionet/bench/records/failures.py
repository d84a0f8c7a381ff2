"""Records of failed runs, with the reason; every report lists them."""

from dataclasses import dataclass
from pathlib import Path

from scionet.bench.records.record import RunSpec
from scionet.bench.records.record_files import make_folder, read_value, write_text
from scionet.files.json_dataclasses import to_json


@dataclass(frozen=True)
class Failure:
    """A run that ended with an error.

    Attributes:
        spec: Specification of the run.
        kind: Class name of the error.
        reason: Message of the error.
        trace: Traceback of the error. What is not Unicode in a text, as in the name of a file, is escaped.
    """

    spec: RunSpec
    kind: str
    reason: str
    trace: str = ""

    def __post_init__(self) -> None:
        """Escape what no file can hold, since every failure is to be recorded."""
        for name in ("reason", "trace"):
            object.__setattr__(self, name, getattr(self, name).encode(errors="backslashreplace").decode())


def save_failure(failure: Failure, folder: Path) -> Path:
    """Write a failure into a folder, which is made if it does not exist.

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
