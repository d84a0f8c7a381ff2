"""The command line: scionet demo | prune | finetune | evaluate | export | analyze | bench."""

import argparse
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import tyro

import scionet
from scionet.commands import config
from scionet.commands.options import (
    Analyze,
    BenchReport,
    BenchRun,
    BenchStatus,
    Common,
    Demo,
    Evaluate,
    Export,
    Finetune,
    Prune,
)
from scionet.commands.show import complain, line
from scionet.errors import PruneError, unknown
from scionet.settings import ForwardSettings, SweepSettings
from scionet.training.recipes import RECIPES

KINDS: dict[str, type[Common]] = {
    "demo": Demo,
    "prune": Prune,
    "finetune": Finetune,
    "evaluate": Evaluate,
    "export": Export,
    "analyze": Analyze,
    "bench run": BenchRun,
    "bench status": BenchStatus,
    "bench report": BenchReport,
}
FAILED = 1
INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""
INSIST_SECONDS = 3.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments; those of this process by default.

    Returns:
        The exit code: 0 if all went well, 1 after a `PruneError` or trouble with a file, 130 after Ctrl-C.

    Raises:
        SystemExit: With 2 after a usage error, with 0 after ``--help``.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if args == ["--version"]:
        line(f"scionet {scionet.__version__}")
        return 0
    try:
        with _insistent_interrupts():
            execute(parse(args))
    except (PruneError, OSError) as error:
        if "--debug" in args:
            traceback.print_exc()
        complain(str(error))
        return FAILED
    except KeyboardInterrupt:
        complain("interrupted; no file is left half written")
        return INTERRUPTED
    return 0


@contextmanager
def _insistent_interrupts() -> Iterator[None]:
    """Repeat Ctrl-C until it is heard: Python drops one that falls into a callback of the garbage collector."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    timers: list[threading.Timer] = []

    def interrupt(number: int, frame: object) -> None:
        timers.append(threading.Timer(INSIST_SECONDS, signal.raise_signal, (number,)))
        timers[-1].daemon = True
        timers[-1].start()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        for timer in timers:
            timer.cancel()


def parse(args: Sequence[str]) -> Common:
    """A command from its arguments and, where they name one, a TOML file; the arguments come last and win.

    Raises:
        PruneError: If the file cannot be read or has an unknown key, the method or the recipe is unknown, or the method
            lacks a setting.
        SystemExit: After a usage error or ``--help``.
    """
    said = _glance(args)
    table = config.read(said.config) if said.config else {}
    recipe = str(said.recipe or table.get("recipe", "finetune"))
    if recipe not in RECIPES:
        raise unknown("recipe", recipe, RECIPES)
    settings = _settings_of(str(said.method or table.get("method", "forward")), args)
    words = 2 if args[:1] == ["bench"] else 1
    if (name := " ".join(args[:words])) in KINDS:
        chosen = RECIPES[recipe] if name == "finetune" else settings
        args = [*args[:words], *config.arguments(table, KINDS[name], chosen, str(said.config)), *args[words:]]
    pruning = Annotated[Prune[settings], tyro.conf.subcommand("prune")]
    tuning = Annotated[Finetune[RECIPES[recipe]], tyro.conf.subcommand("finetune")]
    bench = Annotated[
        Annotated[BenchRun, tyro.conf.subcommand("run")]
        | Annotated[BenchStatus, tyro.conf.subcommand("status")]
        | Annotated[BenchReport, tyro.conf.subcommand("report")],
        tyro.conf.subcommand("bench", description="Run an experiment, see how far it is, write its report."),
    ]
    choices: Any = Demo | pruning | tuning | Evaluate | Export | Analyze | bench
    description = "Structured pruning of PyTorch networks by greedy forward selection. Its version: scionet --version."
    return tyro.cli(choices, prog="scionet", description=description, args=args, config=(tyro.conf.OmitArgPrefixes,))


def execute(command: Common) -> None:
    """Do what a command says. Here torch is imported, and not before."""
    if command.threads is not None:
        import torch

        torch.set_num_threads(command.threads)
    match command:
        case Demo():
            import webbrowser

            from scionet import demo

            page = demo.run(command.out, command.seed, command.quiet)
            if command.open_browser:
                webbrowser.open(page.resolve().as_uri())
        case Prune():
            from scionet.commands import prune

            prune.run(command)
        case Finetune():
            from scionet.commands import finetune

            finetune.run(command)
        case Evaluate():
            from scionet.commands import evaluate

            evaluate.run(command)
        case Export():
            from scionet.commands import export

            export.run(command)
        case Analyze():
            from scionet.commands import analyze

            analyze.run(command)
        case BenchRun():
            from scionet.commands import bench

            bench.run(command)
        case BenchReport():
            from scionet.commands import bench

            bench.report(command)
        case BenchStatus():
            from scionet.commands import bench

            bench.status(command)


def _glance(args: Sequence[str]) -> argparse.Namespace:
    """What decides how the rest is read: the TOML file, the method and the recipe."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", nargs="?", type=Path)
    parser.add_argument("--method", nargs="?")
    parser.add_argument("--recipe", nargs="?")
    return parser.parse_known_args(args)[0]


def _settings_of(method: str, args: Sequence[str]) -> type[SweepSettings]:
    """The settings of a method.

    Raises:
        InvalidSetting: If there is no such method, or the arguments have a setting that only other methods have.
    """
    if method == "forward":
        return ForwardSettings
    from scionet.methods.registry import METHODS  # imports torch, which the help must not wait for

    if method not in METHODS:
        raise unknown("method", method, METHODS)
    known = {field.name for field in fields(METHODS[method])}
    others = {field.name for kind in METHODS.values() for field in fields(kind)} - known
    for arg in args:
        name = arg.partition("=")[0].removeprefix("--").replace("-", "_")
        if arg.startswith("--") and name in others:
            raise unknown(f"setting of method {method!r}", name, known)
    return METHODS[method]
