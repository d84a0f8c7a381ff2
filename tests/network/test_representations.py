"""The repr of public objects of the network package is one line, without tensors and indices."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from support.small_networks import Net, chain, conv, image
from torch import Tensor, nn
from torch.nn import functional

from scionet.network.checkpoints.graph_export import ExportReport
from scionet.network.checkpoints.manifest import Manifest
from scionet.network.discovery import rules
from scionet.network.discovery.discover import discover
from scionet.network.discovery.trace_records import Call
from scionet.network.discovery.tracing import Trace, trace_forward
from scionet.network.lineage import Lineage, Pruning
from scionet.network.network import Network
from scionet.network.passes.dependence import Level
from scionet.network.passes.moments import Moments
from scionet.network.passes.program import Program
from scionet.network.passes.suspended import Stop, suspended_passes
from scionet.network.plan import Choice, Plan
from scionet.network.sites import Extent, Operation

LONGEST = 300


def assert_one_line(*objects: object) -> None:
    for each in objects:
        text = repr(each)
        assert "\n" not in text, text
        assert len(text) < LONGEST, text
        assert "tensor(" not in text, text
        assert "array(" not in text, text


def test_records_of_a_trace() -> None:
    calls: list[Call] = []

    def rule(trace: Trace, op: Call) -> None:
        calls.append(op)
        rules.apply(trace, op)

    def forward(m: Any, x: Tensor) -> Tensor:
        value, gate = m.a(x).chunk(2, 1)
        return m.b((value * gate).flatten(1))

    net = Net(forward, a=conv(3, 4), b=nn.Linear(128, 2))
    trace = trace_forward(Network(net), image(), rule)
    assert calls
    assert trace.grids
    assert trace.locks
    assert trace.contractions
    assert_one_line(trace, *calls, *trace.blocks, *trace.locks, *trace.grids, *trace.contractions)


def test_products_of_activations() -> None:
    assert_one_line(Operation(None, 8.0, (Extent(8, {"query": 2}), Extent(9, {}))))


def test_moments() -> None:
    x, y = torch.ones(5000, 300), torch.ones(5000, 1)
    assert repr(Moments.of(x, y)) == "Moments(5,000 rows, 300 inputs, 1 target)"
    assert repr(Moments.of(x, y, slice(0, 16))) == "Moments(5,000 rows, 300 inputs, 1 target, 16 held out)"


def test_stops_and_passes() -> None:
    model, stops = chain(), list[Stop]()
    weights = dict.fromkeys(discover(model, image()).consumers)
    with suspended_passes(Network(model), [image()], weights) as passes:
        passes.step(lambda now: [stop.output for stop in now], stops.extend)
        assert [repr(stop) for stop in stops] == ["Stop('b.weight', convolution, inputs of shape (2, 4, 8, 8))"]
        assert_one_line(passes)


def test_programs() -> None:
    def function(gate: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        return (functional.relu(gate * x).sum(1),)

    program = Program(function, torch.ones(3), [torch.ones(2, 3)])
    assert_one_line(program, program.parts(Level.EXAMPLE))


def test_manifests() -> None:
    plan = Plan((Choice("a", 1000, tuple(range(500)), (1.0,) * 500),), method="l1", settings={"ridge": np.pi})
    shapes = {f"layer{number}.weight": (1000, 1000) for number in range(50)}
    kept = {name: {0: tuple(range(500))} for name in shapes}
    lineage = Lineage((Pruning(plan, {}),), shapes, kept, "a" * 64)
    assert repr(lineage) == "Lineage(Plan(l1, 1 site, 500 of 1,000 units kept, seed 0))"
    manifest = Manifest(lineage, {}, "nets.Net", "timm:resnet18", {}, None, {}, {})
    assert_one_line(manifest)
    assert repr(manifest) == (
        "Manifest(nets.Net, 50 tensors, factory 'timm:resnet18', Plan(l1, 1 site, 500 of 1,000 units kept, seed 0))"
    )


def test_export_reports() -> None:
    assert_one_line(ExportReport(Path("net.onnx"), 1000, (2, 3), 1e-6))
