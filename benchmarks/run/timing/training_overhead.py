"""The overhead of `fit` over a bare PyTorch loop, as a ratio of processor times of alternating blocks of steps.

    python -m benchmarks.run.timing.training_overhead

Both train the same network object, since the memory layout of two equal networks differs. Data set, batch size,
optimiser and schedule are equal. Writes benchmarks/results/speed/training_overhead.json.
"""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
import tyro
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import RESULTS
from scionet.bench.records.provenance import Provenance
from scionet.data.digits import digits
from scionet.models.factory import build
from scionet.training.callbacks import Callback
from scionet.training.context import TrainingContext
from scionet.training.fit import fit
from scionet.training.recipes import Recipe

RECORD = RESULTS / "speed" / "training_overhead.json"
BLOCK = 8
"""Consecutive steps of each loop. Alternating at every step would evict each other's memory from the caches."""
SKIPPED = 1
"""Blocks at the beginning that are not timed: they allocate memory and choose kernels."""
RESAMPLES = 10_000
"""Bootstrap samples for the 95 % interval of the median."""


def main(threads: int = 1, rounds: int = 10) -> None:
    """Measure and write the record.

    Args:
        threads: Threads to use.
        rounds: Number of timed epochs.
    """
    torch.set_num_threads(threads)
    images, labels, _, _ = digits()
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(2048, 3, 32, 32, generator=generator)
    classes = torch.randint(10, (2048,), generator=generator)
    cases = {
        "ResNet-20, batches of 128 pictures of 32 x 32": ("scionet:resnet20", TensorDataset(pictures, classes), 128),
        "digits network, batches of 64 digits of 8 x 8": ("scionet:digits_cnn", TensorDataset(images, labels), 64),
    }
    rows = [_compared(name, *case, rounds) for name, case in cases.items()]
    command = "python -m benchmarks.run.timing.training_overhead"
    provenance = Provenance.here(datetime.now(UTC).date().isoformat(), command, threads)
    RECORD.write_text(json.dumps({"provenance": vars(provenance), "rows": rows}, indent=1) + "\n")


def _compared(name: str, factory: str, data: TensorDataset, batch_size: int, rounds: int) -> dict[str, Any]:
    """The ratio and its interval."""
    recipe = Recipe(epochs=rounds, batch_size=batch_size)
    pairs = _Pairs(data, recipe)
    fit(build(factory), data, recipe, callbacks=[pairs])
    ours, theirs = np.array(pairs.seconds[SKIPPED:]).T
    ratios = ours / theirs
    resampled = np.random.default_rng(0).choice(ratios, (RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(resampled, axis=1), [0.025, 0.975]).tolist()
    ratio = float(np.median(ratios))
    print(f"{name}: {ratio:.4f} ({low:.4f} to {high:.4f})", flush=True)
    meaning = f"processor time of {BLOCK} steps of fit over that of a bare loop, {name}; median of {len(ratios)} pairs"
    return {"name": "fit / bare loop", "value": ratio, "lower": low, "upper": high, "unit": "×", "meaning": meaning}


class _Pairs(Callback):
    """Runs a block of the bare loop after every block of `fit`, so that both see the same machine load."""

    def __init__(self, data: TensorDataset, recipe: Recipe) -> None:
        self._data, self._recipe = data, recipe
        self._bare: Iterator[None] | None = None
        self._last = time.process_time()
        self.seconds: list[tuple[float, float]] = []

    def settings(self) -> dict[str, Any]:
        """Nothing that would be compared: the training never goes on."""
        return {}

    def state(self) -> dict[str, Any]:
        """Nothing that would be restored."""
        return {}

    def after_step(self, context: TrainingContext) -> None:
        """One pair of times, at the end of a block."""
        if context.step % BLOCK:
            return
        self._bare = self._bare or _bare(context.network, self._data, self._recipe)
        reached = time.process_time()
        for _ in range(BLOCK):
            next(self._bare)
        now = time.process_time()
        self.seconds.append((reached - self._last, now - reached))
        self._last = now


def _bare(network: nn.Module, data: TensorDataset, recipe: Recipe) -> Iterator[None]:
    """The usual training loop; yields after every step."""
    loader = DataLoader(data, recipe.batch_size, shuffle=True, drop_last=True)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=recipe.learning_rate, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps(len(loader)))
    network.train()
    for _ in range(round(recipe.epochs)):
        for inputs, labels in loader:
            loss = functional.cross_entropy(network(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            yield


if __name__ == "__main__":
    tyro.cli(main)
