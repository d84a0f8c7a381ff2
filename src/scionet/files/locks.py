"""Locks on files that one process at a time may work on. They go with their process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from scionet.errors import CheckpointError


@contextmanager
def held(path: str | Path, work: str) -> Iterator[None]:
    """Hold the lock of a file against all other processes and threads, or refuse at once.

    The lock is a hidden file beside it, which is removed at the end.

    Args:
        path: The file; it need not exist, but its folder must.
        work: What writes it, for the error message, such as "a training".

    Raises:
        CheckpointError: If another process holds the lock, or it cannot be made.
    """
    target = Path(path).resolve()
    if not target.parent.is_dir():
        raise CheckpointError(f"cannot write {path}: there is no folder {target.parent}; make it first")
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    _acquire(lock, path, work)
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _acquire(lock: FileLock, path: str | Path, work: str) -> None:
    """Acquire a lock, or refuse at once.

    Raises:
        CheckpointError: If another process holds it, or it cannot be made.
    """
    try:
        lock.acquire(timeout=0)
        while not Path(lock.lock_file).exists():  # its last holder has just removed it: it excludes nobody
            lock.release()
            lock.acquire(timeout=0)
    except Timeout as error:
        raise CheckpointError(
            f"another process is at {work} that writes {path}; wait for it, stop it, or give another path"
        ) from error
    except OSError as error:
        raise CheckpointError(
            f"cannot write {path}: {error.strerror or error}; give a path in a writable folder"
        ) from error
