"""The speed of the exact task loss of all candidates, compared with one forward pass of the network per candidate."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.run.timing.measuring import processor_seconds
from benchmarks.run.untrained import TASKS, calibration, dense
from scionet.choices.resources import Resources
from scionet.methods.calibration.calibration import read
from scionet.methods.contract import SiteView
from scionet.methods.greedy.task_loss import TaskLossObjective
from scionet.network.discovery.discover import discover
from scionet.network.network import Network
from scionet.network.sites import Sites
from scionet.selection.greedy import greedy

SITES = ("layer1.4.conv1", "layer2.4.conv1", "layer3.4.conv1")
CHECKED = 4
"""Number of picks of the slow reference."""


def ratios(data: Path) -> Iterator[tuple[str, float, str]]:
    """Name, ratio of processor times per candidate, and meaning, for sites early and late in ResNet-56.

    Raises:
        SystemExit: If the two implementations pick different units.
    """
    task = TASKS["resnet56"]
    model, pairs = dense(task, data), calibration(task, data / task.archive, 0)[:2]
    sites = discover(model, torch.zeros(2, 3, task.side, task.side))
    meaning = (
        f"processor time of a candidate, one thread, half of the units picked on {sum(len(y) for _, y in pairs)} "
        f"images; the first {CHECKED} picks the same (one forward pass per candidate timed for these)"
    )
    for name in SITES:
        yield f"forward per candidate / exact task loss, resnet56 {name}", _ratio(model, sites, name, pairs), meaning


def _ratio(model: nn.Module, sites: Sites, name: str, pairs: Sequence[tuple[Any, Any]]) -> float:
    """The speed-up of the evaluation of a candidate at one site."""
    quick, slow = list[int](), list[int]()
    network, width = Network(model, sites), sites[name].width
    options = {"labels": True, "batch_size": Resources().batch_size, "memory_bytes": float("inf")}
    view = SiteView(sites[name], network, read(network, pairs, pairs[0][0], **options))
    fast_seconds = processor_seconds(lambda: quick.extend(greedy(TaskLossObjective(view), width // 2).order))
    slow_seconds = processor_seconds(lambda: slow.extend(_one_by_one(network, name, pairs)))
    if quick[:CHECKED] != slow:
        raise SystemExit(f"{name}: picks {quick[:CHECKED]}, one forward pass per candidate {slow}")
    return slow_seconds / _candidates(width, CHECKED) / (fast_seconds / _candidates(width, len(quick)))


def _candidates(width: int, picks: int) -> int:
    """The number of candidates that are evaluated."""
    return sum(width - done for done in range(picks))


def _one_by_one(network: Network, name: str, pairs: Sequence[tuple[Any, Any]]) -> list[int]:
    """The first picks by the task loss, with one forward pass of the whole network per candidate."""
    width, picked = network.sites[name].width, list[int]()
    while len(picked) < CHECKED:
        losses = {}
        for unit in set(range(width)) - {*picked}:
            gate = torch.zeros(width, dtype=torch.float64)
            gate[[*picked, unit]] = width / (len(picked) + 1)
            with torch.no_grad():
                tensors = network.masked({name: gate})
                outputs = [(network.class_scores(images, tensors), labels) for images, labels in pairs]
            losses[unit] = sum(float(cross_entropy(out, labels, reduction="sum")) for out, labels in outputs)
        picked.append(min(losses, key=losses.__getitem__))
    return picked
