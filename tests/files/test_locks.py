"""One holder at a time: who comes second is refused at once, and a lock leaves nothing behind."""

from contextlib import ExitStack
from pathlib import Path

import pytest
from filelock import FileLock

from scionet.errors import CheckpointError
from scionet.files.locks import held

BUSY = r"another process is at a training that writes .*run\.safetensors; wait for it, stop it, or give another path"


def test_a_second_holder_is_refused_at_once_and_comes_in_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    for _ in range(2):
        with held(path, "a training"):
            with pytest.raises(CheckpointError, match=BUSY), held(path, "a training"):
                pass
            with held(tmp_path / "other.safetensors", "a training"):
                pass
        assert not list(tmp_path.iterdir())


def test_a_lock_is_released_if_the_work_fails(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    with pytest.raises(ZeroDivisionError), held(path, "a training"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    with held(path, "a training"):
        pass


def test_names_of_one_file_have_one_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("link.safetensors").symlink_to("folder/run.safetensors")
    with held("folder/run.safetensors", "a training"):
        for name in ("link.safetensors", "folder/../folder/run.safetensors", tmp_path / "folder" / "run.safetensors"):
            with pytest.raises(CheckpointError, match="another process is at a training"), held(name, "a training"):
                pass


def test_a_lock_that_its_last_holder_has_just_removed_excludes_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other holder lets go between our opening of the file and our locking of it: what we hold has no name."""
    path, acquire, times = tmp_path / "run.safetensors", FileLock.acquire, []

    def late(lock: FileLock, timeout: float) -> object:
        times.append(timeout)
        found = acquire(lock, timeout=timeout)
        if len(times) == 1:
            Path(lock.lock_file).unlink()
        return found

    monkeypatch.setattr(FileLock, "acquire", late)
    with held(path, "a training"):
        assert times == [0, 0]
        assert (tmp_path / ".run.safetensors.lock").exists()
        with pytest.raises(CheckpointError, match=BUSY), held(path, "a training"):
            pass


def test_a_next_holder_that_comes_in_at_once_keeps_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, release, next_holder = tmp_path / "run.safetensors", FileLock.release, ExitStack()

    def observed(lock: FileLock, force: bool = False) -> None:
        monkeypatch.undo()
        release(lock, force)
        next_holder.enter_context(held(path, "a training"))

    with held(path, "a training"):
        monkeypatch.setattr(FileLock, "release", observed)
    with next_holder, pytest.raises(CheckpointError, match=BUSY), held(path, "a training"):
        pass


def test_where_no_lock_can_be_made_the_reason_is_given(tmp_path: Path) -> None:
    with (
        pytest.raises(CheckpointError, match=r"cannot write .*: there is no folder .*none; make it first"),
        held(tmp_path / "none" / "run.safetensors", "a training"),
    ):
        pass
    (tmp_path / ".run.safetensors.lock").mkdir()
    with (
        pytest.raises(CheckpointError, match=r"cannot write .*run\.safetensors: .*; give a path in a writable folder"),
        held(tmp_path / "run.safetensors", "a training"),
    ):
        pass
