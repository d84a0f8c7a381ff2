"""Synthetic but plausible run records, made from nothing but a seed."""

import math

import numpy as np

from scionet.bench.records.provenance import Provenance
from scionet.bench.records.record import Outcome, RunRecord, RunSpec, SiteRecord, thin
from scionet.budget.latency.durations import Latency

LOST = {
    "forward": (0.1, 0.5, 2.2),
    "forward average": (1.6, 6.5, 24.0),
    "forward line search": (1.1, 4.2, 17.0),
    "forward task loss": (0.9, 3.9, 15.0),
    "random": (9.0, 38.0, 76.0),
    "l1": (4.1, 21.0, 66.0),
    "bn_scale": (3.0, 18.0, 61.0),
    "random + refit": (0.8, 2.6, 8.5),
    "l1 + refit": (0.3, 1.3, 5.1),
    "bn_scale + refit": (0.3, 1.1, 4.6),
}
"""Accuracy points that each method loses at 70, 50 and 30 % of the MACs."""

SUMMARIES = {
    "forward": "Greedy forward selection; consumer weights refitted by least squares at every pick.",
    "forward average": "Greedy forward selection; kept units weighted by how often they were picked.",
    "forward line search": "Greedy forward selection; each pick moves the weights by an exact step.",
    "forward task loss": "Greedy forward selection on the network's own loss over labelled images.",
    "random": "A random subset of units.",
    "l1": "Units whose producing weights have the largest L1 norm.",
    "bn_scale": "Units with the largest BatchNorm scale.",
    "random + refit": "A random subset, then consumer weights refitted by least squares.",
    "l1 + refit": "Largest L1 norm, then consumer weights refitted by least squares.",
    "bn_scale + refit": "Largest BatchNorm scale, then weights refitted by least squares.",
}
BUDGETS = {"macs<=70%": 0.70, "macs<=50%": 0.50, "macs<=30%": 0.30}
SITES = {
    "stem": 16,
    "stage1.0.conv1": 16,
    "stage1.1.conv1": 16,
    "stage2.0.conv1": 32,
    "stage2.stream": 32,
    "stage2.1.conv1": 32,
    "stage3.0.conv1": 64,
    "stage3.stream": 64,
    "stage3.1.conv1": 64,
}
DENSE_MACS, DENSE_PARAMS, SEEN = 1_940_000.0, 78_330, 360


def provenance() -> Provenance:
    """The same machine for every record."""
    versions = {"scionet": "0.1.0", "torch": "2.13.0", "numpy": "2.4.6", "python": "3.11.2"}
    return Provenance("2025-11-23", "scionet demo --seeds 3 --output demo", versions, "Example CPU @ 2.40GHz", 2, 2)


def spec(method: str = "forward", budget: str = "macs<=50%", seed: int = 0, network: str = "small-resnet") -> RunSpec:
    """The specification of one run."""
    return RunSpec("demo", network, "digits", method, budget, seed, {"ridge": 1e-4, "images": 512})


def record(
    method: str = "forward",
    budget: str = "macs<=50%",
    seed: int = 0,
    network: str = "small-resnet",
    correct: int | None = None,
    sites: dict[str, int] | None = None,
) -> RunRecord:
    """One run, its noise drawn from its specification; `correct` fixes the number of right answers."""
    run = spec(method, budget, seed, network)
    rng = np.random.default_rng(int(run.run_id[:8], 16))
    density = BUDGETS[budget]
    lost = LOST[method][list(BUDGETS).index(budget)] * rng.lognormal(0, 0.35)
    dense_correct = 355
    right = max(36, dense_correct - round(lost / 100 * SEEN)) if correct is None else correct
    macs = DENSE_MACS * (density - rng.uniform(0, 0.006))
    return RunRecord(
        spec=run,
        dense=Outcome(DENSE_MACS, DENSE_PARAMS, dense_correct, SEEN, latency(3.1)),
        pruned=Outcome(macs, round(DENSE_PARAMS * density * 0.97), right, SEEN, latency(3.1 * (0.25 + 0.75 * density))),
        seconds=2.4 if method.startswith("forward") else 0.3,
        sites=tuple(site(name, width, method, density, rng) for name, width in (sites or SITES).items()),
        provenance=provenance(),
        max_relative_difference=3.1e-15,
        dense_hash="6f1c" * 16,
        plan_hash=run.run_id[::-1],
        summary=SUMMARIES[method],
        notes=("Calibrated on 512 unlabelled images.",),
    )


def latency(median_ms: float) -> Latency:
    """An interval of a few percent around a median."""
    return Latency(median_ms, 0.97 * median_ms, 1.06 * median_ms, batch_size=64)


def site(name: str, width: int, method: str, density: float, rng: np.random.Generator) -> SiteRecord:
    """A site whose error decays geometrically in the units kept, for the methods that know their error."""
    kept = int(np.clip(round(width * math.sqrt(density) * rng.uniform(0.75, 1.2)), 1, width))
    rates = {"forward": 5.0, "forward average": 1.6, "forward line search": 2.3, "random + refit": 3.2}
    if method not in rates:
        return SiteRecord(name, width, kept)
    decay = rates[method] * rng.uniform(0.8, 1.2)
    curve = [(n, math.exp(-decay * n / width) * (1 - 0.98 * (n / width) ** 6)) for n in range(1, width + 1)]
    return SiteRecord(name, width, kept, thin(curve))


def all_records(seeds: int = 3, network: str = "small-resnet") -> list[RunRecord]:
    """Every method at every budget with several seeds."""
    return [record(m, b, s, network) for m in LOST for b in BUDGETS for s in range(seeds)]
