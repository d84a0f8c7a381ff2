"""Progress bars with the time left, for all long work."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

Progress = Callable[[str, int, int], None]
"""Called with the stage, the steps done and the steps in total."""


def silent(stage: str, done: int, total: int) -> None:
    """A `Progress` that shows nothing."""


def bars_where_wanted(wanted: bool | None) -> AbstractContextManager[Progress]:
    """Progress bars, or silence.

    Args:
        wanted: Whether to show them; None shows them where standard error is a terminal.
    """
    return bars() if (sys.stderr.isatty() if wanted is None else wanted) else nullcontext(silent)


@contextmanager
def bars() -> Iterator[Progress]:
    """A `Progress` that shows one bar for each stage on standard error."""
    from rich import progress
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:>12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True)) as display:
        tasks: dict[str, TaskID] = {}

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                # Steps done before do not count in the speed, as they would in an update from 0.
                tasks[stage] = display.add_task(stage, total=total, completed=done)
            display.update(tasks[stage], completed=done, total=total)

        yield tell
