"""A toy problem for differentiable greedy selection: recover a hidden function from its greedy sets.

    python -m benchmarks.run.toy

A function with hidden weights chooses 5 of 30 items with 12 features: 400 sets are for training, 200 for testing. For
each seed, the record has

- the share of the hidden function's picks that is recovered: untrained, after training in each mode, and by a logistic
  regression on single items;
- on 64 other instances: how often selection with a softened mask finds the greedy set, for two masks and a range of
  temperatures.

The record is benchmarks/results/toy/toy.json and includes results of an independent implementation.
`python -m benchmarks.report.tables` writes the tables.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime

import torch
import tyro
from torch import Tensor
from torch.nn import functional

from benchmarks import RESULTS
from scionet.bench.records.provenance import Provenance
from scionet.bench.records.record_files import write_text
from scionet.differentiable.soft_greedy import Mode, SoftGreedy, fit

RECORD = RESULTS / "toy" / "toy.json"
SIZE, TRAIN = 5, 400
TRAININGS: Mapping[str, tuple[float, Mode]] = {
    "soft, tau 1": (1.0, "soft"),
    "soft, tau 0.3": (0.3, "soft"),
    "straight-through, tau 0.3": (0.3, "st"),
}
TEMPERATURES = (1.0, 0.1, 0.03, 0.01, 0.003, 0.001, 1e-4, 1e-5)
ELSEWHERE = {
    "precision": {
        "untrained": 0.531,
        "logistic regression": 0.781,
        "soft, tau 1": 0.809,
        "soft, tau 0.3": 0.878,
        "straight-through, tau 0.3": 0.896,
    },
    "agreeing": {
        "log(1 - a)": [52, 55, 58, 60, 59, 57, 47, 2],
        "-C a": [52, 55, 53, 11, 22, 49, 62, 64],
    },
}
"""Results of an independent implementation with one seed."""


def main(seeds: int = 10) -> None:
    """Measure and write the record.

    Args:
        seeds: Number of seeds, from 0 on.
    """
    precision: dict[str, list[float]] = {name: [] for name in ELSEWHERE["precision"]}
    agreeing: dict[str, list[list[int]]] = {name: [] for name in ELSEWHERE["agreeing"]}
    for seed in range(seeds):
        for name, share in precisions(seed):
            precision[name].append(round(share, 4))
        for name, counts in agreements(seed):
            agreeing[name].append(counts)
        print(f"seed {seed}: { ({name: shares[-1] for name, shares in precision.items()}) }", flush=True)
    provenance = Provenance.here(
        datetime.now(UTC).date().isoformat(), "python -m benchmarks.run.toy", torch.get_num_threads()
    )
    record = {"precision": precision, "temperatures": TEMPERATURES, "agreeing": agreeing, "elsewhere": ELSEWHERE}
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    write_text(RECORD, json.dumps({"provenance": vars(provenance), **record}, indent=1) + "\n")


def precisions(seed: int) -> Iterator[tuple[str, float]]:
    """The share of the hidden function's picks that each method recovers on the test instances."""
    items, order = hidden(seed)
    train, gold, test, wanted = list(items[:TRAIN]), order[:TRAIN], items[TRAIN:], order[TRAIN:]
    yield "untrained", found_by(SoftGreedy(12).double(), test, wanted)
    yield "logistic regression", hits(logistic(items, order).topk(SIZE, 1).indices[TRAIN:], wanted)
    for name, (tau, mode) in TRAININGS.items():
        layer = SoftGreedy(12).double()
        fit(layer, train, gold.tolist(), tau=tau, mode=mode)
        yield name, found_by(layer, test, wanted)


def hidden(seed: int) -> tuple[Tensor, Tensor]:
    """Sample sparse instances ``(B, 30, 12)``, and the picks ``(B, 5)`` of a function with hidden weights."""
    generator = torch.Generator().manual_seed(seed)
    items = _gamma(0.3, (600, 30, 12), generator)
    truth = with_weights(_gamma(0.5, (12,), generator))
    return items, truth(items, SIZE, mode="hard").order


def _gamma(shape: float, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    full = torch.full(size, shape, dtype=torch.float64)
    return torch._standard_gamma(full, generator)  # pyright: ignore[reportPrivateImportUsage]  takes a generator


def with_weights(weights: Tensor) -> SoftGreedy:
    """Build the layer with given weights."""
    layer = SoftGreedy(len(weights)).double()
    with torch.no_grad():
        layer.theta.copy_(torch.log(torch.expm1(weights)))
    return layer


def found_by(layer: SoftGreedy, items: Tensor, wanted: Tensor) -> float:
    """The share of the wanted picks that hard selection finds."""
    return hits(layer(items, SIZE, mode="hard").order, wanted)


def hits(found: Tensor, wanted: Tensor) -> float:
    """The share of the wanted items that are found."""
    return float((found[:, :, None] == wanted[:, None]).any(2).double().mean())


def logistic(items: Tensor, order: Tensor) -> Tensor:
    """Scores of a logistic regression of membership on single items, with the training set of the layers."""
    columns = torch.cat([items, torch.log1p(items)], 2)
    member = torch.zeros(items.shape[:2], dtype=torch.float64).scatter_(1, order, 1.0)[:TRAIN]
    slope, bias = (torch.zeros(n, dtype=torch.float64, requires_grad=True) for n in (24, 1))
    optimiser = torch.optim.Adam([slope, bias], lr=0.05)
    for _ in range(150):
        loss = functional.binary_cross_entropy_with_logits(columns[:TRAIN] @ slope + bias, member)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return (columns @ slope).detach()


def agreements(seed: int) -> Iterator[tuple[str, list[int]]]:
    """For each softened mask: on how many of 64 instances it finds the greedy set, by temperature."""
    generator = torch.Generator().manual_seed(seed)
    items = torch.rand(64, 12, 6, generator=generator, dtype=torch.float64)
    layer = with_weights(torch.rand(6, generator=generator, dtype=torch.float64))
    with torch.no_grad():
        greedy = layer(items, 4, mode="hard").order.sort(1).values
        for name, mask in (("log(1 - a)", _by_logarithm), ("-C a", _by_penalty)):
            sets = (softened(layer, items, tau, mask).topk(4, 1).indices.sort(1).values for tau in TEMPERATURES)
            yield name, [int((found == greedy).all(1).sum()) for found in sets]


def softened(layer: SoftGreedy, items: Tensor, tau: float, mask: Callable[[Tensor, Tensor, float], Tensor]) -> Tensor:
    """The amount of each item that four soft steps take, at any temperature; the layer itself refuses low ones."""
    level, taken = items.new_zeros(len(items), items.shape[2]), items.new_zeros(items.shape[:2])
    for _ in range(4):
        share = mask(layer.gains(level, items), taken, tau).softmax(1)
        level, taken = level + torch.einsum("bn,bnu->bu", share, items), taken + share
    return taken


def _by_logarithm(gains: Tensor, taken: Tensor, tau: float) -> Tensor:
    return gains / tau + torch.log((1 - taken).clamp_min(1e-12))


def _by_penalty(gains: Tensor, taken: Tensor, tau: float) -> Tensor:
    spread = gains.amax(1, keepdim=True) - gains.amin(1, keepdim=True)
    return (gains - 2 * spread * taken) / tau


if __name__ == "__main__":
    tyro.cli(main)
