"""Measured speed: the latency of the networks of a run, which is not part of any budget, and the rate of a pass."""

from copy import deepcopy
from typing import Any

import torch
from torch import nn

from scionet.bench.runs.data import RunData
from scionet.bench.runs.workspace import Dense, Workspace
from scionet.budget.latency.durations import Latency
from scionet.budget.latency.timing import latency, stopwatch
from scionet.network.calling import call, example_count, first_of, place_of, to_model, undisturbed

_TIMED_RUNS = 3


def latencies(
    workspace: Workspace, material: RunData, dense: nn.Module, model: nn.Module
) -> tuple[Latency, Latency] | tuple[None, None]:
    """Measure the dense network and another one on a batch of `latency_batch` calibration examples.

    The two alternate on the device of the dense network, with the number of threads that torch is set to.

    Args:
        workspace: The experiment.
        material: Its data.
        dense: The dense network.
        model: The other one, on any device.

    Returns:
        Both times; None for both if the experiment has no `latency_batch`.
    """
    count = workspace.experiment.latency_batch
    if count is None:
        return None, None
    networks = {"dense": dense, "other": deepcopy(model).to(place_of(dense)[0])}
    found = latency(networks, first_of(material.calibration[0][0], count), threads=torch.get_num_threads())
    return found["dense"], found["other"]


def macs_per_second(dense: Dense, batch: Any) -> float:
    """Measure how many MACs per second a forward pass of the dense network achieves on this machine."""
    time_ms = stopwatch(place_of(dense.model)[0])
    with undisturbed(dense.model):
        moved = to_model(batch, dense.model)
        best = min(time_ms(lambda: call(dense.model, moved)) for _ in range(_TIMED_RUNS))
    return dense.note.outcome.macs * example_count(batch) / (best / 1e3)
