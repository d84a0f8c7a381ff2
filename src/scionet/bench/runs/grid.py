"""Runs an experiment on one machine or many. Finished runs are not repeated; a failed run is recorded as a failure."""

import os
import shutil
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from scionet.backends import configured
from scionet.bench.experiment.parts import Trial
from scionet.bench.records.failures import Failure, load_failure, save_failure
from scionet.bench.records.record import RunRecord, RunSpec, save
from scionet.bench.records.record_files import RecordError, make_folder, write_text
from scionet.bench.runs.trial import run_trial
from scionet.bench.runs.workspace import Workspace
from scionet.choices.resources import BackendName
from scionet.extras import extra
from scionet.progress import Progress, silent


@dataclass(frozen=True)
class Standing:
    """The state of one run of an experiment.

    Attributes:
        trial: The run.
        spec: Its specification.
        state: ``done``, ``failed``, ``running`` or ``to do``.
        record: Its record, if it is done.
        failure: Why it failed, if it did.
    """

    trial: Trial
    spec: RunSpec
    state: str
    record: RunRecord | None = None
    failure: Failure | None = None


def standings(workspace: Workspace) -> tuple[Standing, ...]:
    """Return the state of every run.

    Raises:
        RecordError: If a record is damaged; the text names it.
    """
    return tuple(_standing(workspace, trial) for trial in workspace.experiment.trials())


def run(
    workspace: Workspace,
    *,
    jobs: int = 1,
    threads: int | None = None,
    backend: BackendName = "loky",
    retry: bool = False,
    progress: Progress = silent,
) -> tuple[Standing, ...]:
    """Do all runs that are neither done, nor failed, nor in progress in other processes.

    Args:
        workspace: The experiment and its folder, which all workers must see.
        jobs: Workers at a time.
        threads: Threads of each worker; by default the processors are shared evenly.
        backend: Backend of joblib. ``"ray"`` and ``"dask"`` use the connected cluster, or start a local one.
        retry: Whether to run failed runs again.
        progress: Called after every run.

    Returns:
        The state of every run afterwards.

    Raises:
        MissingExtra: If joblib or the backend is not installed.
        RecordError: If the folder cannot be written, or a record is damaged.
    """
    if jobs < 1 or (threads is not None and threads < 1):
        raise RecordError(f"jobs and threads are 1 or more; given {jobs} and {threads}")
    make_folder(workspace.out)
    found = standings(workspace)
    for each in found:
        if each.state == "to do" or (retry and each.state == "failed"):
            _forget(workspace, each.spec)
    crew = _Crew(workspace, jobs, threads or max(1, (os.cpu_count() or 1) // jobs), backend, progress, len(found))
    while todo := crew.left():
        try:
            crew.work(todo, jobs)
            break
        except _worker_death():
            crew.try_suspects()
    return standings(workspace)


@dataclass(frozen=True)
class _Crew:
    """The workers of one call of `run`, and their settings."""

    workspace: Workspace
    jobs: int
    threads: int
    backend: BackendName
    progress: Progress
    total: int

    def left(self) -> list[Trial]:
        """The trials that are neither done nor failed."""
        trials = self.workspace.experiment.trials()
        return [trial for trial in trials if _state(self.workspace, self.workspace.spec(trial)) in ("to do", "running")]

    def work(self, trials: Sequence[Trial], jobs: int) -> None:
        """Do the given runs, and report the progress after each."""
        lazily = "list" if self.backend in ("ray", "dask") else "generator_unordered"
        ended = self.total - len(self.left())
        self.progress("runs", ended, self.total)
        with configured(self.backend, jobs):
            with extra("workers"):
                from joblib import Parallel, delayed
            results = Parallel(return_as=lazily, pre_dispatch="n_jobs")(
                delayed(attempt)(self.workspace, trial, self.threads) for trial in trials
            )
            for number, _ in enumerate(results, ended + 1):
                self.progress("runs", number, self.total)

    def try_suspects(self) -> None:
        """After a worker died, repeat the runs in progress one by one. A run whose worker dies again has failed."""
        for trial in self.left():
            spec = self.workspace.spec(trial)
            if not _begun(self.workspace, spec).exists():
                continue
            try:
                self.work([trial], 2)  # joblib would do a single job in this process
            except _worker_death():
                reason = "its worker died twice (killed, or out of memory?); take a smaller batch_size, or more memory"
                save_failure(Failure(spec, "TerminatedWorkerError", reason), self.workspace.failures)


def attempt(workspace: Workspace, trial: Trial, threads: int) -> str:
    """Do one run, unless it is done or in progress in another process. Returns its state."""
    torch.set_num_threads(threads)
    spec = workspace.spec(trial)
    folder = workspace.work(spec.short_id)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder.with_suffix(".lock"), blocking=False):
            if workspace.is_recorded(spec):
                return "done"
            return _attempt_alone(workspace, trial, spec)
    except Timeout:
        return "running"


def _attempt_alone(workspace: Workspace, trial: Trial, spec: RunSpec) -> str:
    folder = workspace.work(spec.short_id)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(_begun(workspace, spec), "")
    try:
        record = run_trial(workspace, trial)
    except Exception as error:  # whatever a run raises is recorded as its failure
        save_failure(Failure(spec, type(error).__name__, str(error), traceback.format_exc()), workspace.failures)
        return "failed"
    save(record, workspace.records)
    shutil.rmtree(folder, ignore_errors=True)
    return "done"


def _standing(workspace: Workspace, trial: Trial) -> Standing:
    spec = workspace.spec(trial)
    state = _state(workspace, spec)
    if state == "done":
        return Standing(trial, spec, state, record=workspace.record(spec))
    if state == "failed":
        return Standing(trial, spec, state, failure=load_failure(workspace.failures / spec.file_name))
    return Standing(trial, spec, state)


def _state(workspace: Workspace, spec: RunSpec) -> str:
    """The state of a run, without reading its record."""
    if workspace.is_recorded(spec):
        return "done"
    if (workspace.failures / spec.file_name).exists():
        return "failed"
    return "running" if _locked(workspace, spec) else "to do"


def _locked(workspace: Workspace, spec: RunSpec) -> bool:
    """Whether a process is doing the run. The lock is released when that process ends, in whatever way."""
    path = workspace.work(spec.short_id).with_suffix(".lock")
    if not path.exists():
        return False
    try:
        with FileLock(path, blocking=False):
            return False
    except Timeout:
        return True


def _begun(workspace: Workspace, spec: RunSpec) -> Path:
    """The file that marks a run as begun; it is removed when the run ends."""
    return workspace.work(spec.short_id) / "begun.txt"


def _forget(workspace: Workspace, spec: RunSpec) -> None:
    """Remove the marks of a failure, and of a worker's death during the run."""
    (workspace.failures / spec.file_name).unlink(missing_ok=True)
    _begun(workspace, spec).unlink(missing_ok=True)


def _worker_death() -> type[BaseException]:
    with extra("workers"):
        from joblib.externals.loky.process_executor import TerminatedWorkerError

    return TerminatedWorkerError
