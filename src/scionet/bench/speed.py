"""How long a forward pass takes, where an experiment asks for it: measured, not counted, and no part of any budget."""

from copy import deepcopy

import torch
from torch import nn

from scionet.bench.material import Material
from scionet.bench.workshop import Workshop
from scionet.budget.durations import Latency
from scionet.budget.timing import latency
from scionet.network.running import first_of, place_of


def latencies(
    shop: Workshop, material: Material, dense: nn.Module, model: nn.Module
) -> tuple[Latency, Latency] | tuple[None, None]:
    """Times of the dense network and of another one on a batch of `latency_batch` calibration examples.

    The two take turns on the device of the dense network, with as many threads as torch may use now.

    Args:
        shop: The experiment.
        material: Its data.
        dense: The dense network.
        model: The other one, on any device.

    Returns:
        Both times; None for both where the experiment asks for none.
    """
    count = shop.experiment.latency_batch
    if count is None:
        return None, None
    networks = {"dense": dense, "other": deepcopy(model).to(place_of(dense)[0])}
    found = latency(networks, first_of(material.calibration[0][0], count), threads=torch.get_num_threads())
    return found["dense"], found["other"]
