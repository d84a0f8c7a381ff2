"""Latency in records: measured where an experiment asks for it, and nowhere else."""

import pytest
import torch
from support.bench_trials import TOML, make_workspace

from scionet.bench.records.store import load_all
from scionet.bench.runs.grid import run
from scionet.bench.runs.speed import latencies
from scionet.models.factory import build

ASKED = (
    TOML.replace("seeds = [0, 1]", "seeds = [0]\nlatency_batch = 2")
    .replace('competitors = ["l1", "random"]', 'competitors = ["l1"]')
    .replace('"fine-tuned", "scratch-b"]', '"uniform scratch-e", "late rewinding"]')
    .replace('["macs<=60%"]', '["macs<=60%", "weights<=50%"]')
    .replace("epochs = 1", "epochs = 2")
)


@pytest.mark.slow
def test_every_smaller_network_is_timed_beside_the_dense_one(tmp_path) -> None:
    workspace = make_workspace(tmp_path, ASKED)
    assert {each.state for each in run(workspace, backend="sequential", threads=1)} == {"done"}
    found = {record.spec.settings["arm"]: record for record in load_all(workspace.records)}
    for arm in ("as cut", "uniform scratch-e"):
        times = found[arm].dense.latency, found[arm].pruned.latency
        assert all(time is not None and time.batch_size == 2 and 0.01 < time.median_ms < 1000 for time in times)
        assert found[arm].spec.settings["latency_batch"] == 2
    assert found["late rewinding"].pruned.latency is None  # zeros save no time
    assert "latency_batch" not in found["late rewinding"].spec.settings


def test_what_takes_longer_is_measured_as_longer_and_left_as_it_was(tmp_path) -> None:
    workspace = make_workspace(tmp_path, ASKED)
    material, model = workspace.material(0), build("scionet:digits_cnn").train()
    wide = torch.nn.Sequential(torch.nn.Conv2d(1, 512, 3, padding=1), *[torch.nn.Conv2d(512, 512, 3, padding=1)] * 3)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    dense, other = latencies(workspace, material, model.eval(), wide)
    torch.set_num_threads(before)
    assert dense is not None
    assert other is not None
    assert other.median_ms > 2 * dense.median_ms
    assert wide.training


@pytest.mark.parametrize("asked", [False, True])
def test_nothing_is_measured_or_named_unless_asked(tmp_path, asked: bool) -> None:
    workspace = make_workspace(tmp_path, ASKED if asked else ASKED.replace("\nlatency_batch = 2", ""))
    material, model = workspace.material(0), build("scionet:digits_cnn").eval()
    assert all((time is not None) == asked for time in latencies(workspace, material, model, model))
    specs = [workspace.spec(trial) for trial in workspace.experiment.trials() if not trial.arm.masked]
    assert all(("latency_batch" in spec.settings) == asked for spec in specs)
