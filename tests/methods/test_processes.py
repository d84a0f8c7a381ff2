"""Calibration by several real processes: the same plan as by one."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.subjects import SUBJECTS, budget_for
from torch import distributed, multiprocessing

from scionet.errors import CalibrationError
from scionet.methods.registry import build
from scionet.network.discovery.discover import discover
from scionet.network.plan import Plan

BATCHES = 8
ROWS = {
    "curves": ("forward", {"positions": 3, "survey_examples": 24}),
    "uniform": ("forward", {"positions": 3, "allocation": "uniform", "objective": "line_search", "refit": False}),
    "sweeps": ("forward", {"positions": 3, "allocation": "uniform", "sweeps": 2, "shrinkage": "held_out"}),
    "trials": ("forward", {"positions": 3, "measured_examples": 12, "survey_examples": 24, "width_trials": 3}),
    "l1": ("l1", {"positions": 3, "refit": True, "allocation": "curves"}),
    "loss": ("forward", {"objective": "loss", "refit": False, "repetition": True}),
    "output": ("forward", {"objective": "average", "imitation": "global", "scoring": "exact", "refit": False}),
}


def calibrate(rank: int, size: int, folder: Path) -> None:
    """One of the processes: all rows on its share of the batches."""
    torch.set_num_threads(1)
    if size > 1:
        meeting = f"file://{folder}/meeting{size}"
        distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size)
    subject = SUBJECTS["residual"]
    model = subject.network()
    sites = discover(model, subject.example())
    for name, (method, settings) in ROWS.items():
        chosen = build(method, **settings)
        data = (subject.pairs if chosen.uses_labels else subject.batches)(BATCHES, 6)
        plan = chosen.select(model, data[rank::size], sites, budget_for(sites, 0.6), 0)
        (folder / f"{name}-{size}-{rank}.json").write_text(plan.to_json())
        save_file({"none": torch.zeros(1), **plan.tensors}, folder / f"{name}-{size}-{rank}.safetensors")
    with pytest.raises(CalibrationError, match="to every process"):
        build("forward").select(model, subject.batches(1) if rank else [], sites, budget_for(sites, 0.6), 0)
    if size > 1:
        distributed.destroy_process_group()


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_make_the_plan_of_one(size: int, tmp_path: Path) -> None:
    calibrate(0, 1, tmp_path)
    multiprocessing.spawn(calibrate, (size, tmp_path), nprocs=size)
    for name in ROWS:
        expected = Plan.from_json((tmp_path / f"{name}-1-0.json").read_text())
        tensors = load_file(tmp_path / f"{name}-1-0.safetensors")
        for rank in (0, size - 1):
            plan = Plan.from_json((tmp_path / f"{name}-{size}-{rank}.json").read_text())
            assert [c.order for c in plan.choices] == [c.order for c in expected.choices]
            assert plan.widths == expected.widths
            for ours, theirs in zip(plan.choices, expected.choices, strict=True):
                assert ours.values == pytest.approx(theirs.values, rel=1e-5, abs=1e-9)
                assert ours.weights == pytest.approx(theirs.weights, rel=1e-5)
            found = load_file(tmp_path / f"{name}-{size}-{rank}.safetensors")
            assert found.keys() == tensors.keys()
            for key, tensor in found.items():
                torch.testing.assert_close(tensor, tensors[key], rtol=1e-5, atol=1e-7)
        assert len({(tmp_path / f"{name}-{size}-{rank}.json").read_bytes() for rank in range(1, size)}) == 1
