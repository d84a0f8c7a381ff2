"""Measured latency of the networks of a run, if the experiment has a `latency_batch`. It is not part of any budget."""

from copy import deepcopy

import torch
from torch import nn

from scionet.bench.runs.data import RunData
from scionet.bench.runs.workspace import Workspace
from scionet.budget.latency.durations import Latency
from scionet.budget.latency.timing import latency
from scionet.network.calling import first_of, place_of


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
