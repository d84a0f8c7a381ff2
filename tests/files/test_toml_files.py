"""The limits of TOML files, to the byte and to the dot, and which reason goes with which file."""

from pathlib import Path

import pytest

from scionet.errors import CheckpointError
from scionet.files.toml_files import MAX_BYTES, MAX_DOTS, read_toml


def test_a_file_may_have_as_many_bytes_as_the_limit_says(tmp_path: Path) -> None:
    path, line = tmp_path / "c.toml", "a = 1\n#"
    path.write_text(line + "x" * (MAX_BYTES - len(line)))
    assert read_toml(path, CheckpointError) == {"a": 1}
    path.write_text(line + "x" * (MAX_BYTES - len(line) + 1))
    with pytest.raises(CheckpointError, match=rf"it has more than {MAX_BYTES:,} bytes"):
        read_toml(path, CheckpointError)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_each_line_may_have_as_many_dots_as_the_limit_says(end: str, tmp_path: Path) -> None:
    path, dots = tmp_path / "c.toml", "." * MAX_DOTS
    path.write_bytes(f'a = "{dots}"{end}b = "{dots}"{end}'.encode())
    assert read_toml(path, CheckpointError) == {"a": dots, "b": dots}
    path.write_bytes(f'a = 1{end}b = "{dots}."{end}'.encode())
    with pytest.raises(CheckpointError, match=rf"a line has more than {MAX_DOTS} dots"):
        read_toml(path, CheckpointError)


def test_what_cannot_be_read_is_told_from_what_is_no_toml(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("a = ")
    with pytest.raises(CheckpointError, match=r"c\.toml is no TOML file: Invalid value"):
        read_toml(tmp_path / "c.toml", CheckpointError)
    for path in (tmp_path, tmp_path / "none.toml"):
        with pytest.raises(CheckpointError, match=r"^cannot read .*; give an existing TOML file$"):
            read_toml(path, CheckpointError)
