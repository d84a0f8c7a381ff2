"""Calibration by several real processes: the same plan as by one.

Batches are dealt out as Accelerate does: batch i goes to process i % size. Each process regroups what it has, so that
other examples share a batch, but what is sampled is sampled by the example's number, and sums are over all processes.

Some choices cannot agree, since they are defined by batches: `fresh_batches` decides each pick on one batch, "taylor"
squares the slope of each batch, and `Recalibrate` normalises by the statistics of each batch.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import selecting
from support.processes import together
from support.subjects import SUBJECTS, budget_for
from torch import distributed

from scionet import prune
from scionet.choices.methods import Forward, OutputImitation, Stochastic, TaskLoss
from scionet.choices.repair import Refit
from scionet.choices.resources import Resources
from scionet.choices.widths import Sensitivity
from scionet.errors import CalibrationError
from scionet.methods.registry import GivenMethod
from scionet.network.discovery.discover import discover
from scionet.network.plan import Plan

COUNT = 44
"""Seven batches of 6 examples and one of 2."""
FEW = Resources(positions=3, survey_examples=24, batch_size=16)
ROWS: dict[str, tuple[GivenMethod, dict[str, Any]]] = {
    "defaults": ("forward", {}),
    "error curves": ("forward", {"widths": "error_curves"}),
    "line search": (Forward("line_search"), {"widths": "uniform", "repair": []}),
    "second pass": (Forward(passes=2), {"widths": "uniform", "repair": [Refit(shrinkage="held_out")]}),
    "search": ("forward", {"widths": Sensitivity(examples=12, search=2)}),
    "l1": ("l1", {"widths": "error_curves"}),
    "labels": ("snip", {"widths": Sensitivity(examples=12)}),
    "task loss": (Forward(TaskLoss(repetition=True), Stochastic(sample_size=4)), {"repair": []}),
    "output imitation": (Forward(OutputImitation()), {"repair": []}),
}


def calibrate(process_index: int, size: int, folder: Path) -> None:
    """One of the processes: all rows on its share of the batches."""
    torch.set_num_threads(1)
    if size > 1:
        meeting = f"file://{folder}/meeting{size}"
        distributed.init_process_group("gloo", init_method=meeting, rank=process_index, world_size=size)
    subject = SUBJECTS["residual"]
    model = subject.network()
    sites = discover(model, subject.example())
    ((images, labels),) = subject.pairs(1, COUNT)
    batches = [*zip(images.split(6), labels.split(6), strict=True)][process_index::size]
    for name, (method, choices) in ROWS.items():
        plan = selecting.select(method, model, batches, sites, budget_for(sites, 0.6), resources=FEW, **choices)
        (folder / f"{name}-{size}-{process_index}.json").write_text(plan.to_json())
        save_file({"none": torch.zeros(1), **plan.tensors}, folder / f"{name}-{size}-{process_index}.safetensors")
    imitated = {"method": Forward("output_imitation"), "repair": []}
    for choices in list[dict[str, Any]]([{}, {"widths": "uniform"}, imitated]):
        data = iter(subject.batches(1) if process_index else [])
        with pytest.raises(CalibrationError, match="to every process"):
            prune(model, data, "macs<=60%", example_inputs=subject.example(), **choices)
    if size > 1:
        distributed.destroy_process_group()


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_make_the_plan_of_one(size: int, tmp_path: Path) -> None:
    calibrate(0, 1, tmp_path)
    together(calibrate, size, size, tmp_path)
    for name in ROWS:
        expected = Plan.from_json((tmp_path / f"{name}-1-0.json").read_text())
        tensors = load_file(tmp_path / f"{name}-1-0.safetensors")
        for process_index in (0, size - 1):
            plan = Plan.from_json((tmp_path / f"{name}-{size}-{process_index}.json").read_text())
            assert [c.order for c in plan.choices] == [c.order for c in expected.choices], (name, size)
            assert plan.widths == expected.widths
            for ours, theirs in zip(plan.choices, expected.choices, strict=True):
                assert ours.values == pytest.approx(theirs.values, rel=1e-5, abs=1e-9)
                assert ours.weights == pytest.approx(theirs.weights, rel=1e-5)
            found = load_file(tmp_path / f"{name}-{size}-{process_index}.safetensors")
            assert found.keys() == tensors.keys()
            for key, tensor in found.items():
                torch.testing.assert_close(tensor, tensors[key], rtol=1e-5, atol=1e-7)
        assert len({(tmp_path / f"{name}-{size}-{index}.json").read_bytes() for index in range(1, size)}) == 1
