import subprocess
import sys
from pathlib import Path

CLASSES, TRAIN, TEST = 10, 4, 2


def scionet(*args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scionet", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd)
