"""The output of README's first example, written below it."""

import contextlib
import io
import os
import re
import tempfile
from pathlib import Path

import torch

from scionet.bench.report.tables import replace_between
from scionet.models.factory import import_torchvision


def write_output(page: Path) -> None:
    """Run the first example of a page and write what it prints below it."""
    replace_between(page, "report", f"```\n{output_of(page).rstrip()}\n```")


def output_of(page: Path) -> str:
    """What the first Python block of a page prints, with random numbers from seed 0, in a folder of its own."""
    code = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)[0]
    import_torchvision()  # timm needs it, and not every build of torch can import it as it is
    printed = io.StringIO()
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(), contextlib.redirect_stdout(printed):
        torch.manual_seed(0)
        os.chdir(folder)
        try:
            exec(compile(code, str(page), "exec"), {})
        finally:
            os.chdir(here)
    return printed.getvalue()
