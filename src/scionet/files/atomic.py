"""Atomic writing of files: a file is either complete or unchanged. What killed processes left is removed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from secrets import token_hex

from scionet.errors import InvalidSetting, PruneError

try:
    import fcntl
except ModuleNotFoundError:  # Windows: what killed processes left stays there
    fcntl = None

_RANDOM_BYTES = 4


@contextmanager
def whole_file(path: str | Path, suffix: str, *, overwrite: bool, error: type[PruneError]) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` if the block succeeds, and is deleted if it fails.

    The temporary file is in the same folder, so that the last step is a rename. If `path` is a symbolic link, its
    target is replaced. Temporary files of processes that were killed while they wrote `path` are removed.

    Args:
        path: The file to write.
        suffix: Required suffix of its name, with the dot.
        overwrite: Whether the file may already exist.
        error: Type of the error to raise if the file cannot be written.

    Raises:
        InvalidSetting: If `path` does not end in `suffix`.
        PruneError: As `error`, if the file exists or cannot be written.
    """
    if Path(path).suffix != suffix:
        raise InvalidSetting(f"the name of the file must end in {suffix}; given {path}")
    target = Path(path).resolve()
    temporary = target.with_name(f".{token_hex(_RANDOM_BYTES)}.{target.name}")
    try:
        if target.is_dir():
            raise error(f"cannot write {path}: it is a folder; give the path of a file")
        if target.exists() and not overwrite:
            raise error(f"{path} exists; give another path, or overwrite=True to replace it")
        clear_leftovers(target)
        with _claimed(temporary):
            yield temporary
            with temporary.open("rb+") as written:
                os.fsync(written.fileno())
            temporary.replace(target)
    except OSError as reason:
        advice = "give a path in a writable folder with room"
        raise error(f"cannot write {path}: {reason.strerror or reason}; {advice}") from reason
    finally:
        with suppress(OSError):  # it may never have been created
            temporary.unlink()


@contextmanager
def _claimed(temporary: Path) -> Iterator[None]:
    """Make a file and lock it; the lock goes with this process, and tells others that it lives."""
    if fcntl is None:
        temporary.touch(exist_ok=False)
        yield
        return
    with temporary.open("xb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def clear_leftovers(path: str | Path) -> None:
    """Remove temporary files of processes that were killed while writing `path`, and of no other process."""
    target = Path(path).resolve()
    if fcntl is None:
        return
    for temporary in target.parent.glob(f".{'[0-9a-f]' * 2 * _RANDOM_BYTES}.{escape(target.name)}"):
        with suppress(OSError), temporary.open("rb") as left:  # another process may remove it, or hold its lock
            fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
            temporary.unlink()
