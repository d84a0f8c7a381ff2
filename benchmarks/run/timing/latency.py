"""Latency of dense and pruned networks: eager, torch.compile and ONNX Runtime, one thread of the processor.

    python -m benchmarks.run.timing.latency

Each network is pruned to half its MACs, with widths that are multiples of 8 and with arbitrary widths. If a latency
table is quick to measure, the network is also pruned to 70 % of its latency. Weights are random and units are chosen by
their L1 norm, since neither affects the time. In every round, each network runs once in every engine; speed-ups are
ratios within a round. Each network and batch size has one record in benchmarks/results/latency, with medians and 95 %
confidence intervals.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import onnxruntime
import torch
import tyro
from torch import Tensor, nn

import benchmarks
from scionet.bench.records.provenance import Provenance
from scionet.budget.latency.durations import Latency, interval
from scionet.budget.latency.table import LatencyTable
from scionet.budget.latency.timing import clock_on, interleaved, stopwatch
from scionet.choices.limits import Limits
from scionet.errors import UnreachableBudget
from scionet.models.factory import build
from scionet.network.calling import tensors_of
from scionet.network.checkpoints.graph_export import export_onnx
from scionet.network.discovery.discover import discover
from scionet.pruning import prune
from scionet.torch_internals import TorchDispatchMode, flop_registry

RESULTS = benchmarks.RESULTS / "latency"
NETWORKS = {
    "resnet20": ("scionet:resnet20", 32),
    "resnet56": ("scionet:resnet56", 32),
    "resnet18": ("torchvision:resnet18", 224),
    "mobilenet_v2": ("torchvision:mobilenet_v2", 224),
    "efficientnet_lite0": ("scionet:efficientnet_lite0", 224),
}
VARIANTS = {
    "macs<=50%, round_to=8": ("macs<=50%", 8),
    "macs<=50%, round_to=1": ("macs<=50%", 1),
    "latency<=70%, round_to=8": ("latency<=70%", 8),
}
DENSE, ROUNDED = "dense", "macs<=50%, round_to=8"
TABLE_PIXELS = 224 * 224
"""Largest number of pixels in a batch for which a latency table is measured."""
NOTE = "The machine was shared with other programs; time is the processor time of the one thread."
Forward = Callable[[Tensor], Any]


def main(
    networks: tuple[str, ...] = tuple(NETWORKS),
    batches: tuple[int, ...] = (1, 32),
    engines: tuple[str, ...] = ("eager", "onnxruntime", "compile"),
    repeats: int = 15,
) -> None:
    """Measure and write the records.

    Args:
        networks: Networks to measure.
        batches: Batch sizes.
        engines: Engines that run the networks.
        repeats: Timed rounds.
    """
    torch.set_num_threads(1)
    for name in networks:
        for batch in batches:
            record = _record(name, batch, engines, repeats)
            RESULTS.mkdir(parents=True, exist_ok=True)
            short = json.loads(json.dumps(record), parse_float=lambda text: float(f"{float(text):.5g}"))
            (RESULTS / f"{name}-{batch}.json").write_text(json.dumps(short, indent=1) + "\n")
            print(f"{name}, batch {batch}: done", flush=True)


def _record(name: str, batch: int, engines: Sequence[str], repeats: int) -> dict[str, Any]:
    torch.manual_seed(0)
    factory, pixels = NETWORKS[name]
    model, x = build(factory).eval(), torch.randn(batch, 3, pixels, pixels)
    start = process_time()
    table = LatencyTable.measure(model, x, discover(model, x)) if batch * pixels**2 <= TABLE_PIXELS else None
    seconds = process_time() - start
    variants = dict(_variants(model, x, table))
    models = {DENSE: model, **{label: variant.model for label, variant in variants.items()}}
    load_before = os.getloadavg()
    with torch.no_grad():
        times, reasons = _times(models, x, engines, repeats)
        layers = _layers(model, models[ROUNDED], x, repeats)
    command = (
        f"python -m benchmarks.run.timing.latency --networks {name} --batches {batch} --engines {' '.join(engines)}"
    )
    provenance = Provenance.here(datetime.now(UTC).date().isoformat(), command, 1)
    return {
        "network": name,
        "batch": batch,
        "provenance": asdict(provenance),
        "clock": clock_on(torch.device("cpu")).__name__,
        "notes": [NOTE, f"Load average at the start: {load_before[0]:.1f} on {os.cpu_count()} cores."],
        "table": table
        and {
            "entries": sum(len(operation.median_ms) for operation in table.operations),
            "operations": len(table.operations),
            "processor_seconds": seconds,
            "error": table.error,
        },
        "variants": {label: asdict(v.numbers) for label, v in variants.items()},
        "times": [_row(times, engine, label, batch) for engine, label in times],
        "not run": reasons,
        "layers": layers,
    }


@dataclass(frozen=True)
class Numbers:
    """The fractions of MACs and, predicted from a table, of latency that a pruned network keeps."""

    macs: float
    latency: float | None


@dataclass(frozen=True, eq=False)
class Variant:
    """A pruned network and its costs."""

    model: nn.Module
    numbers: Numbers


def _variants(model: nn.Module, x: Tensor, table: LatencyTable | None) -> Iterator[tuple[str, Variant]]:
    """Every pruned network whose budget can be reached."""
    for label, (budget, round_to) in VARIANTS.items():
        if table is None and "latency" in budget:
            continue
        limits = Limits(round_to=round_to)
        try:
            result = prune(
                model, (), budget, example_inputs=x, method="l1", limits=limits, latency_table=table, progress=False
            )
        except UnreachableBudget as error:
            print(f"{label}: {error}", flush=True)
            continue
        timed = result.report.latency
        kept = None if timed is None else timed.predicted_pruned_ms / timed.predicted_dense_ms
        yield label, Variant(result.model, Numbers(result.report.pruned.macs / result.report.dense.macs, kept))


def _times(
    models: Mapping[str, nn.Module], x: Tensor, engines: Sequence[str], repeats: int
) -> tuple[dict[tuple[str, str], list[float]], dict[str, str]]:
    """Milliseconds of each round by engine and network, and the reasons why engines were not run."""
    made: dict[tuple[str, str], Forward] = {}
    reasons: dict[str, str] = {}
    for engine in engines:
        try:
            made |= {(engine, label): ENGINES[engine](model, x) for label, model in models.items()}
        except Exception as error:  # compilers raise errors of many classes
            reasons[engine] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
    time_ms = stopwatch(x.device)
    timed = {key: partial(time_ms, partial(forward, x)) for key, forward in made.items()}
    return interleaved(timed, repeats, 2), reasons


def _compiled(model: nn.Module, x: Tensor) -> Forward:
    torch.compiler.reset()
    compiled = torch.compile(model)
    compiled(x)
    return compiled


def _session(model: nn.Module, x: Tensor) -> Forward:
    """Load the network into ONNX Runtime, with one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        export_onnx(model, x, path, dynamic_batch=False, verify=False)
        session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda given: session.run(None, {name: given.numpy()})


ENGINES: Mapping[str, Callable[[nn.Module, Tensor], Forward]] = {
    "eager": lambda model, x: model,
    "onnxruntime": _session,
    "compile": _compiled,
}


def _row(times: Mapping[tuple[str, str], Sequence[float]], engine: str, label: str, batch: int) -> dict[str, Any]:
    own, dense = times[engine, label], times[engine, DENSE]
    ratios = [before / after for before, after in zip(dense, own, strict=True)]
    lower, upper = interval(ratios)
    return {
        "engine": engine,
        "variant": label,
        "latency": asdict(Latency.of(own, batch)),
        "speedup": {"median": median(ratios), "lower": lower, "upper": upper},
    }


class _PerOperation(TorchDispatchMode):
    """Time and MACs of every operation of one forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[str, float, float]] = []
        self._now = clock_on(torch.device("cpu"))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        start = self._now()
        out = func(*args, **(kwargs or {}))
        elapsed_ms = 1e3 * (self._now() - start)
        count = flop_registry.get(func.overloadpacket)
        macs = count(*args, **(kwargs or {}), out_val=out) / 2 if count else 0.0
        shapes = " ".join("x".join(map(str, t.shape)) for t in list(tensors_of(args))[:2])
        self.rows.append((f"{func.overloadpacket.__name__} {shapes}", elapsed_ms, macs))
        return out


def _layers(dense: nn.Module, pruned: nn.Module, x: Tensor, repeats: int) -> list[dict[str, Any]]:
    """Calls, milliseconds and MACs before and after pruning, with operations of equal dense shapes added up."""
    runs: dict[str, list[list[tuple[str, float, float]]]] = {"dense": [], "pruned": []}
    for _ in range(repeats):
        for which, model in (("dense", dense), ("pruned", pruned)):
            with _PerOperation() as seen:
                model(x)
            runs[which].append(seen.rows)
    medians = {which: [median(r[i][1] for r in rows) for i in range(len(rows[0]))] for which, rows in runs.items()}
    found: dict[str, dict[str, Any]] = {}
    for i, ((name, _, before), (_, _, after)) in enumerate(zip(runs["dense"][0], runs["pruned"][0], strict=True)):
        row = found.setdefault(name, {"name": name, "calls": 0, "dense_ms": 0.0, "pruned_ms": 0.0, "macs": [0.0, 0.0]})
        row["calls"] += 1
        row["dense_ms"] += medians["dense"][i]
        row["pruned_ms"] += medians["pruned"][i]
        row["macs"] = [row["macs"][0] + before, row["macs"][1] + after]
    return sorted(found.values(), key=lambda row: -row["dense_ms"])


if __name__ == "__main__":
    tyro.cli(main)
