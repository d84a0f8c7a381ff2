"""The command line: scionet demo | prune | finetune | shrink | search | mask | evaluate | export | analyze | bench."""

import argparse
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import tyro

import scionet
from scionet.commands import config
from scionet.commands.analysis_options import AnalyzeLimit, AnalyzeRates, AnalyzeValley
from scionet.commands.options import (
    AnalyzeCollapse,
    AnalyzeGradientFlow,
    BenchPack,
    BenchReport,
    BenchRun,
    BenchStatus,
    Common,
    Demo,
    Evaluate,
    Export,
    Finetune,
    Mask,
    Prune,
    Search,
    Shrink,
)
from scionet.commands.show import complain, line
from scionet.commands.tyro_rules import RefusedValue, registry
from scionet.errors import InvalidSetting, PruneError, unknown
from scionet.files.toml_files import read_toml
from scionet.training.recipes import RECIPES

KINDS: dict[str, type[Common]] = {
    "demo": Demo,
    "prune": Prune,
    "finetune": Finetune,
    "shrink": Shrink,
    "search": Search,
    "mask": Mask,
    "evaluate": Evaluate,
    "export": Export,
    "analyze collapse": AnalyzeCollapse,
    "analyze gradient-flow": AnalyzeGradientFlow,
    "analyze rates": AnalyzeRates,
    "analyze limit": AnalyzeLimit,
    "analyze valley": AnalyzeValley,
    "bench run": BenchRun,
    "bench status": BenchStatus,
    "bench report": BenchReport,
    "bench pack": BenchPack,
}
FAILED = 1
USAGE = 2
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
        PruneError: If the file cannot be read, has an unknown key or names a function that is not trusted, or the
            recipe is unknown.
        SystemExit: After a usage error or ``--help``.
    """
    said = _glance(args)
    table = read_toml(said.config, InvalidSetting) if said.config else {}
    recipe = str(said.recipe or table.get("recipe", "finetune"))
    if recipe not in RECIPES:
        raise unknown("recipe", recipe, RECIPES)
    words = 2 if args[:1] in (["bench"], ["analyze"]) else 1
    if (name := " ".join(args[:words])) in KINDS:
        args = [*args[:words], *config.arguments(table, KINDS[name], RECIPES[recipe], str(said.config)), *args[words:]]
    tuning = Annotated[Finetune[RECIPES[recipe]], tyro.conf.subcommand("finetune")]
    shrinking = Annotated[Shrink[RECIPES[recipe]], tyro.conf.subcommand("shrink")]
    searching = Annotated[Search[RECIPES[recipe]], tyro.conf.subcommand("search")]
    analyze = Annotated[
        Annotated[AnalyzeCollapse, tyro.conf.subcommand("collapse")]
        | Annotated[AnalyzeGradientFlow, tyro.conf.subcommand("gradient-flow")]
        | Annotated[AnalyzeRates, tyro.conf.subcommand("rates")]
        | Annotated[AnalyzeLimit, tyro.conf.subcommand("limit")]
        | Annotated[AnalyzeValley, tyro.conf.subcommand("valley")],
        tyro.conf.subcommand("analyze", description="Measure what theory predicts, on a network or on pictures."),
    ]
    bench = Annotated[
        Annotated[BenchRun, tyro.conf.subcommand("run")]
        | Annotated[BenchStatus, tyro.conf.subcommand("status")]
        | Annotated[BenchReport, tyro.conf.subcommand("report")]
        | Annotated[BenchPack, tyro.conf.subcommand("pack")],
        tyro.conf.subcommand(
            "bench", description="Run an experiment, show its progress, write its report, pack its records."
        ),
    ]
    choices: Any = Demo | Prune | tuning | shrinking | searching | Mask | Evaluate | Export | analyze | bench
    description = "Structured pruning of PyTorch networks by greedy forward selection. Its version: scionet --version."
    try:
        command = tyro.cli(choices, prog="scionet", description=description, args=args, registry=registry())
    except RefusedValue as error:
        complain(str(error))
        raise SystemExit(USAGE) from error
    config.refuse_functions(table, command, said.config)
    return command


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
        case Shrink():
            from scionet.commands import shrink

            shrink.run(command)
        case Search():
            from scionet.commands import search

            search.run(command)
        case Mask():
            from scionet.commands import mask

            mask.run(command)
        case Evaluate():
            from scionet.commands import evaluate

            evaluate.run(command)
        case Export():
            from scionet.commands import export

            export.run(command)
        case AnalyzeCollapse():
            from scionet.commands import analyze

            analyze.collapse(command)
        case AnalyzeGradientFlow():
            from scionet.commands import analyze

            analyze.gradient_flow(command)
        case AnalyzeRates():
            from scionet.commands.analyses import rates_command

            rates_command.run(command)
        case AnalyzeLimit():
            from scionet.commands.analyses import limit_command

            limit_command.run(command)
        case AnalyzeValley():
            from scionet.commands.analyses import valley_command

            valley_command.run(command)
        case BenchRun():
            from scionet.commands import bench

            bench.run(command)
        case BenchReport():
            from scionet.commands import bench

            bench.report(command)
        case BenchStatus():
            from scionet.commands import bench

            bench.status(command)
        case BenchPack():
            from scionet.commands import bench

            bench.pack(command)


def _glance(args: Sequence[str]) -> argparse.Namespace:
    """What decides how the rest is read: the TOML file and the recipe."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", nargs="?", type=Path)
    parser.add_argument("--recipe", nargs="?")
    return parser.parse_known_args(args)[0]
