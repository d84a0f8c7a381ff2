"""The compression at which a score removes all weights of a layer of an untrained network.

    python -m benchmarks.run.collapse

VGG-16 for 32 x 32 pixels and ResNet-56 get new weights and are masked to compressions (weights per weight kept) that
are powers of 10^0.25. SynFlow takes 100 rounds, so it is measured at powers of 10^0.5, and on VGG-16 at powers of 10
for the first seed only. SNIP uses 100 random inputs and labels; no data are needed. Each network and seed has one
record in benchmarks/results/collapse and is not measured again. `python -m benchmarks.report.tables` writes the table
and the figure.

Source: Tanaka et al., *Pruning neural networks without any data by iteratively conserving synaptic flow*, NeurIPS 2020.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from time import process_time
from typing import Any

import torch
import tyro
from torch import nn

import benchmarks
from scionet.analysis.collapse import Point, collapse_curve
from scionet.bench.records.provenance import Provenance
from scionet.bench.records.record_files import make_folder, write_text
from scionet.masks.weights import maskable
from scionet.models.predefined import vgg16_cifar
from scionet.models.resnets import resnet56
from scionet.training.initialise import initialise

RESULTS = benchmarks.RESULTS / "collapse"
NETWORKS = {"VGG-16": vgg16_cifar, "ResNet-56": resnet56}
LARGEST = {"VGG-16": 6, "ResNet-56": 4}
"""The largest power of ten that leaves one weight per layer."""
QUICK = {"random": 4, "magnitude": 4, "snip": 4}
STEPS = {"VGG-16": {**QUICK, "synflow": 1}, "ResNet-56": {**QUICK, "synflow": 2}}
"""Compressions per power of ten."""
EXAMPLE = torch.zeros(1, 3, 32, 32)


def main(networks: tuple[str, ...] = (*NETWORKS,), seeds: tuple[int, ...] = (0, 1, 2)) -> None:
    """Measure the networks and seeds that have no record yet.

    Args:
        networks: Networks to measure.
        seeds: Seeds of weights, of the inputs and labels of SNIP, and of random scores.
    """
    torch.set_num_threads(1)
    make_folder(RESULTS)
    for seed in seeds:
        for network in networks:
            path = RESULTS / f"{network.lower()}_seed{seed}.json"
            if not path.exists():
                write_text(path, json.dumps(_record(network, seed), separators=(",", ":")) + "\n")


def _record(network: str, seed: int) -> dict[str, Any]:
    start, model = process_time(), NETWORKS[network]().eval()
    initialise(model, seed)
    sizes = {name: weight.numel() for name, weight in maskable(model).items()}
    scores = [score for score in STEPS[network] if not (score == "synflow" and network == "VGG-16" and seed)]
    curves = {score: [_entry(point) for point in _curve(model, network, score, seed)] for score in scores}
    today = datetime.now(UTC).date().isoformat()
    return {
        "network": network,
        "seed": seed,
        "layers": len(sizes),
        "weights": sum(sizes.values()),
        "curves": curves,
        "seconds": round(process_time() - start),
        "provenance": vars(Provenance.here(today, "python -m benchmarks.run.collapse", 1)),
    }


def _curve(model: nn.Module, network: str, score: str, seed: int) -> Iterator[Point]:
    rng = torch.Generator().manual_seed(seed)
    pair = torch.randn(100, 3, 32, 32, generator=rng), torch.randint(10, (100,), generator=rng)
    steps = STEPS[network][score]
    for number in range(1, steps * LARGEST[network] + 1):
        compression = 10 ** (number / steps)
        (point,) = collapse_curve(model, score, [compression], example_inputs=EXAMPLE, batches=[pair], seed=seed)
        print(f"{network}, seed {seed}, {score}, {compression:.4g}: {len(point.collapsed)} layers empty", flush=True)
        yield point


def _entry(point: Point) -> Mapping[str, Any]:
    """Convert a point to JSON, with the names of empty layers only."""
    kept = [*point.kept.values()]
    return {
        "compression": round(point.compression, 4),
        "kept": sum(kept),
        "least": min(kept),
        "empty": [*point.collapsed],
        "connected": point.connected,
    }


if __name__ == "__main__":
    tyro.cli(main)
