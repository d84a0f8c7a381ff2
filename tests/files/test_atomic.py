"""Files are written completely or not at all, also where the system has no locks of its own."""

from collections.abc import Callable
from pathlib import Path


def test_files_are_written_without_locks_of_the_system(run_python: Callable[[str], str], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    (tmp_path / ".0123abcd.a.txt").write_text("of a process that was killed")
    printed = run_python(f"""
        import sys

        sys.modules["fcntl"] = None  # as on Windows
        from pathlib import Path

        from scionet.errors import CheckpointError
        from scionet.files.atomic import whole_file

        folder = Path({str(tmp_path)!r})
        with whole_file(folder / "a.txt", ".txt", overwrite=True, error=CheckpointError) as temporary:
            temporary.write_text("new")
        try:
            with whole_file(folder / "a.txt", ".txt", overwrite=True, error=CheckpointError) as temporary:
                temporary.write_text("half")
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            print((folder / "a.txt").read_text())
    """)
    assert printed == "new\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".0123abcd.a.txt", "a.txt"]
