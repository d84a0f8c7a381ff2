"""The commands scionet bench run | status | report | pack."""

import shlex
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext

from rich.console import Console
from rich.markdown import Markdown

from scionet.bench.experiment.experiment import Experiment
from scionet.bench.records.archive import SUFFIX
from scionet.bench.records.record import RunRecord
from scionet.bench.records.record_files import RecordError, write_text
from scionet.bench.records.store import pack as pack_records
from scionet.bench.report.summary import summarise
from scionet.bench.report.tables import to_csv, to_markdown, to_matrix
from scionet.bench.runs.grid import Standing, standings
from scionet.bench.runs.grid import run as run_all
from scionet.bench.runs.workspace import Workspace
from scionet.commands.options import BenchPack, BenchReport, BenchRun, BenchStatus
from scionet.commands.show import advise, line, table, warn
from scionet.errors import PruneError
from scionet.progress import bars, silent
from scionet.training.execution import Execution


class IncompleteError(PruneError):
    """Some runs failed."""


def run(command: BenchRun) -> None:
    """Do all runs that are not done.

    Raises:
        PruneError: If the experiment or its folder is damaged, or a run failed.
    """
    workspace = _workspace(command, command.execution)
    with nullcontext(silent) if command.quiet else bars() as tell:
        found = run_all(
            workspace,
            jobs=command.jobs,
            threads=command.threads,
            backend=command.backend,
            retry=command.retry,
            progress=tell,
        )
    _show(command, found)
    failed = [each for each in found if each.state == "failed"]
    if failed:
        raise IncompleteError(f"{len(failed)} of {len(found)} runs failed; repair the cause and give --retry")
    words = [
        "scionet",
        "bench",
        "report",
        str(command.experiment),
        "--out",
        str(command.out),
        "--data",
        str(command.data),
        *_trust(command),
    ]
    advise(command, "continue with:", f"  {shlex.join(words)}")


def status(command: BenchStatus) -> None:
    """Show the state of every run.

    Raises:
        PruneError: If the experiment or a record is damaged.
    """
    _show(command, standings(_workspace(command, Execution())))


def report(command: BenchReport) -> None:
    """Write the page and the tables of all finished runs.

    Raises:
        RecordError: If no run has finished, or a file cannot be read or written.
        MissingExtra: If a package that the page needs is not installed.
    """
    from scionet.bench.report.page import write_html  # needs an extra that runs do not need

    workspace = _workspace(command, Execution())
    found = standings(workspace)
    records = [each.record for each in found if each.record is not None]
    if not records:
        raise RecordError(f"{command.out} holds no record of {command.experiment}; run it first (scionet bench run)")
    _warn_of_mixtures(command, [dict(record.provenance.versions) for record in records])
    failures = [each.failure for each in found if each.failure is not None]
    rows = summarise(records)
    page = command.out / "report.html"
    write_html(records, page, workspace.experiment.name, command.headline, failures)
    write_text(command.out / "table.md", to_markdown(rows) + "\n")
    write_text(command.out / "table.csv", to_csv(rows))
    if not command.quiet:
        Console().print(Markdown(to_matrix(rows)))
    line(f"{len(records)} of {len(found)} runs are done; report: {page}")


def pack(command: BenchPack) -> None:
    """Collect the records of a folder in one file.

    Raises:
        RecordError: If the folder has no record, a record is damaged, or the file cannot be written.
    """
    path = command.out or command.folder.with_name(command.folder.name + SUFFIX)
    line(f"{path} holds {pack_records(RunRecord, [command.folder], path)} records")


def _workspace(command: BenchRun | BenchStatus, execution: Execution) -> Workspace:
    flags = [*_rounding(execution), *_trust(command)]
    words = ["scionet", "bench", "run", command.experiment.name, "--out", command.out.name, *flags]
    experiment = Experiment.read(command.experiment, command.trust_factory)
    return Workspace(experiment, command.data.resolve(), command.out.resolve(), execution, shlex.join(words))


def _trust(command: BenchRun | BenchStatus) -> list[str]:
    return ["--trust-factory"] if command.trust_factory else []


def _rounding(execution: Execution) -> list[str]:
    """The flags that affect the rounding of results, to be recorded with the command."""
    flags = [] if execution.precision is None else ["--precision", execution.precision]
    flags += [] if execution.parts == 1 else ["--parts", str(execution.parts)]
    return flags + [f"--{name.replace('_', '-')}" for name in ("channels_last", "compile") if getattr(execution, name)]


def _show(command: BenchRun | BenchStatus, found: Sequence[Standing]) -> None:
    """Print the number of runs in each state, and the reasons of failures."""
    arms = list(dict.fromkeys(each.trial.arm.name for each in found))
    counts = Counter((each.trial.arm.name, each.state) for each in found)
    states = ("done", "running", "failed", "to do")
    rows = [(arm, *(str(counts[arm, state]) for state in states)) for arm in arms]
    rows.append(("all", *(str(sum(counts[arm, state] for arm in arms)) for state in states)))
    table(f"{command.experiment}, {len(found)} runs", states, rows)
    for each in found:
        if each.failure is not None:
            warn(f"{each.spec.method}, {each.spec.budget}, seed {each.spec.seed}: {each.failure.reason}")


def _warn_of_mixtures(command: BenchReport, versions: Sequence[dict[str, str]]) -> None:
    """Warn if the records were made by different versions of a package."""
    for package in sorted({name for each in versions for name in each}):
        several = sorted({each.get(package, "none") for each in versions})
        if len(several) > 1:
            warn(f"the records were made by several versions of {package}: {', '.join(several)}")
