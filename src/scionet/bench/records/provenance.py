"""Where a record comes from: software, machine, date and command."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from scionet.machine import processor


@dataclass(frozen=True)
class Provenance:
    """Where a record comes from.

    Attributes:
        created: ISO date of the run.
        command: The command that makes the record again.
        versions: Version by package name, python included.
        processor: Model of the processor.
        cores: Logical cores of the machine.
        threads: Threads that were used.
    """

    created: str
    command: str
    versions: Mapping[str, str] = field(hash=False)
    processor: str
    cores: int
    threads: int

    @classmethod
    def here(cls, created: str, command: str, threads: int) -> "Provenance":
        """The provenance of a run on this machine. Names no host and no user."""
        versions = {"python": platform.python_version()}
        versions |= {package: _version(package) for package in ("scionet", "torch", "numpy")}
        return cls(created, command, versions, processor(), os.cpu_count() or 1, threads)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed as a package"
