"""Refuses paths that cannot be written before the long work starts."""

import tempfile
from pathlib import Path

from scionet.errors import InvalidSetting


def check_writable(path: Path, overwrite: bool, suffixes: tuple[str, ...]) -> None:
    """Check that a file can be written, without leaving one.

    Args:
        path: The file.
        overwrite: Whether it may exist.
        suffixes: What its name may end in.

    Raises:
        InvalidSetting: If it cannot be written; the error says why and what to do.
    """
    if path.suffix not in suffixes:
        raise InvalidSetting(f"cannot write {path}: give a name that ends in {' or '.join(suffixes)}")
    if path.is_dir():
        raise InvalidSetting(f"cannot write {path}: it is a folder; give a file in it")
    if path.exists() and not overwrite:
        raise InvalidSetting(f"{path} exists; give another name, or --overwrite to replace it")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InvalidSetting(
            f"cannot write {path}: {error.strerror} ({path.parent}); give a file in an existing, writable folder"
        ) from error
