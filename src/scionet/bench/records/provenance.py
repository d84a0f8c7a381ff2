"""The provenance of a record: software, machine, date and command."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from scionet.machine import processor


@dataclass(frozen=True)
class Provenance:
    """The software, machine, date and command that made a record.

    Attributes:
        created: ISO date of the run.
        command: The command that reproduces the record.
        versions: Version by package name, including python.
        processor: Model of the processor.
        cores: Logical cores of the machine.
        threads: Number of threads used.
    """

    created: str
    command: str
    versions: Mapping[str, str] = field(hash=False)
    processor: str
    cores: int
    threads: int

    @classmethod
    def here(cls, created: str, command: str, threads: int) -> "Provenance":
        """Describe a run on this machine, without the names of host and user."""
        versions = {"python": platform.python_version()}
        versions |= {package: _version(package) for package in ("scionet", "torch", "numpy")}
        return cls(created, command, versions, processor(), os.cpu_count() or 1, threads)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed as a package"
