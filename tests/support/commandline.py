import subprocess
import sys
import textwrap
from pathlib import Path

CLASSES, TRAIN, TEST = 10, 4, 2


def printed_by(code: str) -> str:
    """What a fresh interpreter prints that runs the given code."""
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def scionet(*args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scionet", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd)
