"""Experiments run by real processes: once each, killed and gone on with, failing, and on a real Ray."""

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from support.bench_trials import TOML, make_workspace, written

from scionet.bench.records.record import RunRecord, decode_answers
from scionet.bench.records.record_files import RecordError
from scionet.bench.records.store import load_all, pack
from scionet.bench.runs.grid import attempt, run, standings
from scionet.bench.runs.workspace import Workspace

ONE = TOML.replace("seeds = [0, 1]", "seeds = [0]").replace('competitors = ["l1", "random"]', 'competitors = ["l1"]')


def told(record: RunRecord) -> tuple:
    """What must be equal however a run was done: everything but times."""
    ledger = [(payment.stage, payment.images) for payment in record.ledger]
    return record.spec, record.pruned, record.sites, record.sweep, record.answers, ledger, record.plan_hash


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Workspace:
    workspace = make_workspace(tmp_path_factory.mktemp("grid"), ONE)
    run(workspace, backend="sequential", threads=1)
    return workspace


def test_every_run_has_its_record_and_nothing_else_is_left(done: Workspace) -> None:
    found = standings(done)
    assert [each.state for each in found] == ["done"] * 3
    by_arm = {each.trial.arm.name: each.record for each in found}
    cut, tuned, scratch = (by_arm[name] for name in ("as cut", "fine-tuned", "scratch-b"))
    assert cut.pruned.macs == tuned.pruned.macs == scratch.pruned.macs <= 0.6 * cut.dense.macs
    assert [len(record.sweep) for record in (cut, tuned, scratch)] == [0, 2, 2]
    assert [tried.learning_rate for tried in tuned.sweep] == [0.005, 0.01]
    assert {tried.epochs for tried in tuned.sweep} == {1}
    assert {tried.epochs for tried in scratch.sweep} == {1}
    assert decode_answers(tuned.answers, 360).sum() == tuned.pruned.correct
    assert [p.stage for p in tuned.ledger] == [
        *("dense training", "dense training", "selection", "tuning", "training", "validation", "validation")
    ]
    training = next(payment for payment in tuned.ledger if payment.stage == "training")
    assert training.images == 192
    assert training.macs == 3 * tuned.pruned.macs * 192
    assert not any(path.is_dir() for path in (done.out / "work").iterdir())


def test_what_is_done_is_not_done_again(done: Workspace) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.records.iterdir()}
    assert {each.state for each in run(done, backend="sequential")} == {"done"}
    assert before == {path: path.stat().st_mtime_ns for path in done.records.iterdir()}


COMMAND = (sys.executable, "-m", "scionet", "bench", "run", "small.toml", "--out", "out", "--quiet", "--threads", "1")


def started(folder: Path, *more: str, **environment: str) -> subprocess.Popen:
    alone = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen((*COMMAND, *more), cwd=folder, env=alone, stdout=subprocess.DEVNULL, start_new_session=True)


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_as_without_a_break(done: Workspace, tmp_path) -> None:
    written(tmp_path, ONE)
    for patience in (6.0, 8.0):
        process = started(tmp_path, "--backend", "sequential")
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert started(tmp_path, "--backend", "sequential").wait() == 0
    assert [told(r) for r in load_all(tmp_path / "out" / "records")] == [told(r) for r in load_all(done.records)]


@pytest.mark.slow
def test_two_runners_share_the_work(done: Workspace, tmp_path) -> None:
    shutil.copytree(done.out / "dense", tmp_path / "out" / "dense")
    written(tmp_path, ONE)
    runners = [started(tmp_path, "--backend", "sequential") for _ in range(2)]
    assert [runner.wait() for runner in runners] == [0, 0]
    workspace = make_workspace(tmp_path, ONE)
    assert Counter(each.state for each in standings(workspace))["done"] == 3
    assert [told(r) for r in load_all(workspace.records)] == [told(r) for r in load_all(done.records)]


def test_a_run_that_another_process_is_at_is_left_to_it(done: Workspace, tmp_path) -> None:
    from filelock import FileLock

    workspace = make_workspace(tmp_path, ONE)
    trial = workspace.experiment.trials()[0]
    spec = workspace.spec(trial)
    workspace.work("").mkdir(parents=True)
    with FileLock(workspace.work(f"{spec.short_id}.lock")):
        assert attempt(workspace, trial, 1) == "running"
        assert standings(workspace)[0].state == "running"
    assert standings(workspace)[0].state == "to do"


def test_a_failure_is_a_row_and_the_rest_is_done(done: Workspace, tmp_path) -> None:
    shutil.copytree(done.out / "dense", tmp_path / "out" / "dense")
    text = ONE.replace('arms = ["as cut", "fine-tuned", "scratch-b"]', 'arms = ["as cut"]')
    workspace = make_workspace(
        tmp_path, text + '\n[[custom_competitors]]\nlabel = "odd"\nmethod = "support.bench_trials:make_broken"\n'
    )
    found = {each.spec.method: each for each in run(workspace, jobs=2, threads=1)}
    assert found["l1"].state == "done"
    assert found["odd"].failure.kind == "InvalidSetting"
    assert "Traceback" in found["odd"].failure.trace
    path = next((workspace.out / "failures").iterdir())
    written_at = path.stat().st_mtime_ns
    run(workspace, backend="sequential", threads=1)
    assert path.stat().st_mtime_ns == written_at  # not tried again
    run(workspace, backend="sequential", threads=1, retry=True)
    assert path.stat().st_mtime_ns > written_at


MORTAL = """
import os, signal

def network():
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_worker_that_dies_is_a_row(done: Workspace, tmp_path) -> None:
    shutil.copytree(done.out / "dense", tmp_path / "out" / "dense")
    (tmp_path / "mortal.py").write_text(MORTAL)
    text = ONE.replace('["as cut", "fine-tuned", "scratch-b"]', '["stock scratch-e", "as cut"]')
    text += '\n[[stock]]\nfactory = "mortal:network"\n'
    workspace = make_workspace(tmp_path, text)
    process = started(tmp_path, "--jobs", "2", PYTHONPATH=str(tmp_path))
    assert process.wait() == 1
    found = {each.spec.method: each for each in standings(workspace)}
    assert found["l1"].state == "done"
    assert found["network + stock scratch-e"].failure.kind == "TerminatedWorkerError"


def test_records_in_the_packed_file_are_done(done: Workspace, tmp_path) -> None:
    shutil.copytree(done.out / "dense", tmp_path / "out" / "dense")
    workspace = make_workspace(tmp_path, ONE)
    runs = load_all(done.records)
    pack(RunRecord, [done.records / run.file_name for run in runs[:2]], workspace.out / "records.jsonl")
    assert Counter(each.state for each in standings(workspace)) == {"done": 2, "to do": 1}
    found = run(make_workspace(tmp_path, ONE), backend="sequential", threads=1)
    assert {each.state for each in found} == {"done"}
    assert [path.name for path in workspace.records.iterdir()] == [runs[2].file_name]
    assert [told(each.record) for each in found if each.record] == [told(each.record) for each in standings(done)]


def test_a_damaged_packed_file_is_named(done: Workspace, tmp_path) -> None:
    workspace = make_workspace(tmp_path, ONE)
    workspace.out.mkdir()
    pack(RunRecord, [done.records], packed := workspace.out / "records.jsonl")
    packed.write_text(packed.read_text()[:-100])
    with pytest.raises(RecordError, match=r"records\.jsonl is damaged"):
        standings(workspace)


def test_a_damaged_record_is_named(done: Workspace, tmp_path) -> None:
    shutil.copytree(done.out, tmp_path / "out")
    workspace = make_workspace(tmp_path, ONE)
    path = sorted(workspace.records.iterdir())[0]
    path.write_text(path.read_text()[:-100])
    with pytest.raises(RecordError, match=path.name):
        standings(workspace)


@pytest.mark.slow
def test_a_real_ray_gives_the_same(done: Workspace, tmp_path) -> None:
    ray = pytest.importorskip("ray")
    shutil.copytree(done.out / "dense", tmp_path / "out" / "dense")
    workspace = make_workspace(tmp_path, ONE)
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": path}}, log_to_driver=False)
    try:
        assert {each.state for each in run(workspace, jobs=2, threads=1, backend="ray")} == {"done"}
    finally:
        ray.shutdown()
    assert [told(r) for r in load_all(workspace.records)] == [told(r) for r in load_all(done.records)]
