import subprocess
import sys
import textwrap
from collections.abc import Callable

import pytest
from hypothesis import settings

# No deadline: the machines that run the tests are shared. The same examples each time: a failure can be repeated.
settings.register_profile("scionet", deadline=None, derandomize=True)
settings.load_profile("scionet")


@pytest.fixture
def run_python() -> Callable[[str], str]:
    """What a fresh interpreter prints that runs the given code."""

    def run(code: str) -> str:
        command = [sys.executable, "-c", textwrap.dedent(code)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
