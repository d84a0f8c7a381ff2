"""All runs of an experiment, on one machine or many. What is done is not done again; what fails becomes a row."""

import os
import shutil
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from scionet.backends import configured
from scionet.bench.failures import Failure, load_failure, save_failure
from scionet.bench.files import RecordError, make_folder, write_text
from scionet.bench.parts import Trial
from scionet.bench.record import RunRecord, RunSpec, load, save
from scionet.bench.trial import run_trial
from scionet.bench.workshop import Workshop
from scionet.progress import Progress, silent
from scionet.settings import BackendName


@dataclass(frozen=True)
class Standing:
    """Where one run of an experiment stands.

    Attributes:
        trial: The run.
        spec: Its specification.
        state: ``done``, ``failed``, ``running`` or ``to do``.
        record: What came out, if it is done.
        failure: Why it failed, if it did.
    """

    trial: Trial
    spec: RunSpec
    state: str
    record: RunRecord | None = None
    failure: Failure | None = None


def standings(shop: Workshop) -> tuple[Standing, ...]:
    """Where every run stands.

    Raises:
        RecordError: If a record is damaged; the text names it.
    """
    return tuple(_standing(shop, trial) for trial in shop.experiment.trials())


def run(
    shop: Workshop,
    *,
    jobs: int = 1,
    threads: int | None = None,
    backend: BackendName = "loky",
    retry: bool = False,
    progress: Progress = silent,
) -> tuple[Standing, ...]:
    """Do all runs that are neither done nor failed nor being done by others.

    Args:
        shop: The experiment and its folder, which all workers must see.
        jobs: Workers at a time.
        threads: Threads of each; the processors shared evenly by default.
        backend: Of joblib; ``"ray"`` and ``"dask"`` use the cluster that was connected before, or a local one.
        retry: Whether to try failed runs once more.
        progress: Told of every run that ends.

    Returns:
        Where every run stands now.

    Raises:
        InvalidSetting: If the backend is not installed.
        RecordError: If the folder cannot be written, or a record is damaged.
    """
    if jobs < 1 or (threads is not None and threads < 1):
        raise RecordError(f"jobs and threads are 1 or more; given {jobs} and {threads}")
    make_folder(shop.out)
    found = standings(shop)
    for each in found:
        if each.state == "to do" or (retry and each.state == "failed"):
            _forget(shop, each.spec)
    crew = _Crew(shop, jobs, threads or max(1, (os.cpu_count() or 1) // jobs), backend, progress, len(found))
    while todo := crew.left():
        try:
            crew.work(todo, jobs)
            break
        except _worker_death():
            crew.try_suspects()
    return standings(shop)


@dataclass(frozen=True)
class _Crew:
    """Workers, and what they are at."""

    shop: Workshop
    jobs: int
    threads: int
    backend: BackendName
    progress: Progress
    total: int

    def left(self) -> list[Trial]:
        """What is neither done nor failed."""
        trials = self.shop.experiment.trials()
        return [trial for trial in trials if _state(self.shop, self.shop.spec(trial)) in ("to do", "running")]

    def work(self, trials: Sequence[Trial], jobs: int) -> None:
        """Do runs, and tell of each that ends."""
        from joblib import Parallel, delayed

        lazily = "list" if self.backend in ("ray", "dask") else "generator_unordered"
        ended = self.total - len(self.left())
        self.progress("runs", ended, self.total)
        with configured(self.backend, jobs):
            results = Parallel(return_as=lazily, pre_dispatch="n_jobs")(
                delayed(attempt)(self.shop, trial, self.threads) for trial in trials
            )
            for number, _ in enumerate(results, ended + 1):
                self.progress("runs", number, self.total)

    def try_suspects(self) -> None:
        """After a worker died: do what was begun one by one. A run whose worker dies again has failed."""
        for trial in self.left():
            spec = self.shop.spec(trial)
            if not _begun(self.shop, spec).exists():
                continue
            try:
                self.work([trial], 2)  # joblib would do a single job in this process
            except _worker_death():
                reason = "its worker died twice (killed, or out of memory?); take a smaller batch_size, or more memory"
                save_failure(Failure(spec, "TerminatedWorkerError", reason), self.shop.failures)


def attempt(shop: Workshop, trial: Trial, threads: int) -> str:
    """Do one run, unless it is done or another process is at it. The state in which it then is."""
    torch.set_num_threads(threads)
    spec = shop.spec(trial)
    folder = shop.work(spec.short_id)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder.with_suffix(".lock"), blocking=False):
            if (shop.records / spec.file_name).exists():
                return "done"
            return _attempt_alone(shop, trial, spec)
    except Timeout:
        return "running"


def _attempt_alone(shop: Workshop, trial: Trial, spec: RunSpec) -> str:
    folder = shop.work(spec.short_id)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(_begun(shop, spec), "")
    try:
        record = run_trial(shop, trial)
    except Exception as error:  # whatever a run raises is its reason
        save_failure(Failure(spec, type(error).__name__, str(error), traceback.format_exc()), shop.failures)
        return "failed"
    save(record, shop.records)
    shutil.rmtree(folder, ignore_errors=True)
    return "done"


def _standing(shop: Workshop, trial: Trial) -> Standing:
    spec = shop.spec(trial)
    state = _state(shop, spec)
    if state == "done":
        return Standing(trial, spec, state, record=load(shop.records / spec.file_name))
    if state == "failed":
        return Standing(trial, spec, state, failure=load_failure(shop.failures / spec.file_name))
    return Standing(trial, spec, state)


def _state(shop: Workshop, spec: RunSpec) -> str:
    """Where a run stands, without reading what came of it."""
    if (shop.records / spec.file_name).exists():
        return "done"
    if (shop.failures / spec.file_name).exists():
        return "failed"
    return "running" if _locked(shop, spec) else "to do"


def _locked(shop: Workshop, spec: RunSpec) -> bool:
    """Whether a process is at it. A lock goes with its process, however that ends."""
    path = shop.work(spec.short_id).with_suffix(".lock")
    if not path.exists():
        return False
    try:
        with FileLock(path, blocking=False):
            return False
    except Timeout:
        return True


def _begun(shop: Workshop, spec: RunSpec) -> Path:
    """A file that says that a run was begun, and that goes when it ends."""
    return shop.work(spec.short_id) / "begun.txt"


def _forget(shop: Workshop, spec: RunSpec) -> None:
    """Remove what says that a run failed, or that a worker died over it."""
    (shop.failures / spec.file_name).unlink(missing_ok=True)
    _begun(shop, spec).unlink(missing_ok=True)


def _worker_death() -> type[BaseException]:
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    return TerminatedWorkerError
