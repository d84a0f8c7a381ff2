"""Pictures in a zip file that may be hostile. Nothing is extracted; what a name or a header claims is checked first."""

import re
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from scionet.data.images import MAX_FILE_BYTES
from scionet.errors import CalibrationError, InvalidSetting

_ERRORS = (OSError, EOFError, ValueError, RuntimeError, KeyError, OverflowError, struct.error, zlib.error, BadZipFile)
"""What `zipfile` raises for damaged and odd files."""
_ENCRYPTED = 1
_DRIVE = re.compile(r"[A-Za-z]:")


def open_archive(path: Path) -> ZipFile:
    """Open a zip file.

    Raises:
        InvalidSetting: If it is missing, damaged or of a kind that `zipfile` does not read.
    """
    try:
        return ZipFile(path)
    except FileNotFoundError as error:
        raise InvalidSetting(f"there is no file {path}; give an existing zip file") from error
    except _ERRORS as error:
        raise InvalidSetting(f"{path} is a damaged zip file: {error}; pack it again") from error


def is_archive(path: Path) -> bool:
    """Whether a file looks like a zip file."""
    return path.is_file() and zipfile.is_zipfile(path)


def refuse_odd(path: Path, entries: Iterable[ZipInfo]) -> None:
    """Check entries before any of them is read.

    Raises:
        InvalidSetting: If an entry is no plain file below the top of the archive, occurs twice, is encrypted, too
            large, or compressed in a way that cannot be unpacked in bounded memory.
    """
    entries = list(entries)
    counts = Counter(entry.filename for entry in entries)
    for entry in entries:
        if fault := _fault(entry, counts[entry.filename]):
            raise InvalidSetting(f"{path} is refused, since {entry.filename} {fault}; remove it, or pack it again")


def read_entry(archive: ZipFile, name: str) -> bytes:
    """Read one entry, and never more bytes than its header says.

    Raises:
        CalibrationError: If it is damaged, or is not what was listed.
    """
    try:
        info = archive.getinfo(name)
        refuse_odd(Path(archive.filename or ""), [info])
        with archive.open(info) as entry:
            content = entry.read(info.file_size)
    except _ERRORS as error:
        raise CalibrationError(str(error) or type(error).__name__) from error
    if len(content) != info.file_size:
        raise CalibrationError(f"it has {len(content):,} bytes, where the archive says {info.file_size:,}")
    return content


def _fault(entry: ZipInfo, count: int) -> str:
    """What is wrong with an entry; empty if nothing is."""
    parts = re.split(r"[/\\]", entry.filename)
    faults = {
        "is not a relative path without '..', with / between its folders": not {"", ".", ".."}.isdisjoint(parts)
        or "\\" in entry.filename
        or bool(_DRIVE.match(entry.filename)),
        "occurs more than once": count > 1,
        "is a link or a device": stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG),
        "is encrypted": bool(entry.flag_bits & _ENCRYPTED),
        "is neither stored nor deflated": entry.compress_type not in (ZIP_STORED, ZIP_DEFLATED),
        f"has {entry.file_size:,} bytes, more than {MAX_FILE_BYTES:,}": entry.file_size > MAX_FILE_BYTES,
    }
    return next((fault for fault, found in faults.items() if found), "")
