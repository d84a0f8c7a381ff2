"""Latency tables: what is timed, what they predict of networks that are really cut, and their files."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.clocks import ORIGIN, Counting, counting, handmade, ms_of
from support.handmade_sites import chain, mixed
from torch import Tensor, nn
from torch.nn import functional

from scionet.budget.costs import CostModel
from scionet.budget.latency.table import LatencyTable, OperationTimes
from scionet.budget.latency.timed_operations import Axis, Use, operations
from scionet.errors import CalibrationError, InvalidSetting
from scionet.files.safetensors_files import hash_tensors
from scionet.network.calling import state_of
from scionet.network.discovery.discover import discover
from scionet.network.network import Network
from scionet.network.plan import Choice, Plan
from scionet.network.sites import Sites
from scionet.network.surgery.cut import cut
from scionet.network.surgery.stand_ins import Skipped


class Squeezed(nn.Module):
    """Depthwise convolution, squeeze and excitation, a concatenation of three, tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24)
        self.depthwise = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.squeeze, self.excite = nn.Conv2d(24, 16, 1), nn.Conv2d(16, 24, 1)
        self.left, self.right = nn.Conv2d(24, 32, 1), nn.Conv2d(24, 16, 1)
        self.up, self.down = nn.Linear(72, 40), nn.Linear(40, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.stem(x)))
        x = self.depthwise(x)
        x = x * torch.sigmoid(self.excite(functional.silu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        x = torch.cat([x, self.left(x), self.right(x)], 1).flatten(2).transpose(1, 2)
        return self.down(functional.gelu(self.up(x)))


def wide() -> tuple[nn.Module, Tensor]:
    net = chain([16, 40, 24])
    return net.build({}).eval(), net.inputs


def flat() -> tuple[nn.Module, Tensor]:
    net = chain([16, 24], flatten=True)
    return net.build({}).eval(), net.inputs


def coupled() -> tuple[nn.Module, Tensor]:
    net = mixed(24, 40, 20, 16, 16)
    return net.build({}).eval(), net.inputs


def squeezed() -> tuple[nn.Module, Tensor]:
    return Squeezed().eval(), torch.zeros(2, 2, 5, 5)


CASES: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {f.__name__: f for f in (wide, flat, coupled, squeezed)}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor, Sites, LatencyTable]:
    """A network, an input, its sites, and its table by the counting timer."""
    model, inputs = CASES[request.param]()
    sites = discover(model, inputs)
    return model, inputs, sites, LatencyTable.measure(model, inputs, sites, repeats=1, warmup=0, watch=counting)


def cut_to(model: nn.Module, sites: Sites, widths: dict[str, int]) -> nn.Module:
    choices = (Choice(n, sites[n].width, tuple(range(w)), (1.0,) * w) for n, w in widths.items())
    return cut(model, Plan(tuple(choices)), sites)


@pytest.mark.parametrize("seed", range(4))
def test_predicted_is_what_the_cut_network_takes(
    case: tuple[nn.Module, Tensor, Sites, LatencyTable], seed: int
) -> None:
    model, inputs, sites, table = case
    rng = np.random.default_rng(seed)
    widths = {name: int(rng.integers(min(8, site.width), site.width + 1)) for name, site in sites.items()}
    predicted = CostModel(sites, table).cost(widths).latency_ms
    # Not exact: a concatenation's parts shrink in the mean, and six digits are kept.
    assert predicted == pytest.approx(ms_of(cut_to(model, sites, widths), inputs), rel=1e-3)


def test_whole_networks_are_predicted_as_measured(case: tuple[nn.Module, Tensor, Sites, LatencyTable]) -> None:
    model, inputs, sites, table = case
    assert CostModel(sites, table).dense.latency_ms == pytest.approx(ms_of(model, inputs), rel=1e-4)
    assert table.error < 1e-3
    assert f"{table.error:.1%}" in str(table)
    assert str(table.origin) in str(table)


class Blocks(nn.Module):
    """A stem, two bottlenecks with BatchNorm, and two token-wise networks between normalisations."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 24, 3, padding=1)
        self.bodies = nn.ModuleList(
            nn.Sequential(nn.Conv2d(24, n, 3, padding=1), nn.BatchNorm2d(n), nn.ReLU(), nn.Conv2d(n, 24, 1))
            for n in (16, 32)
        )
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(24), nn.Linear(24, n), nn.GELU(), nn.Linear(n, 24), nn.LayerNorm(24))
            for n in (16, 40)
        )
        self.head = nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for body in self.bodies:
            x = x + body(x)
        x = x.flatten(2).transpose(1, 2)
        for mlp in self.mlps:
            x = x + mlp(x)
        return self.head(x)


def ms_in_stand_ins(model: nn.Module, inputs: Tensor) -> float:
    """What the counting timer says of the modules that stand in for dropped branches."""
    total = 0.0
    with Counting() as counted, torch.no_grad():

        def before(_module: nn.Module, _args: object) -> None:
            nonlocal total
            total -= counted.ms

        def after(_module: nn.Module, _args: object, _out: object) -> None:
            nonlocal total
            total += counted.ms

        for module in model.modules():
            if isinstance(module, Skipped):
                module.register_forward_pre_hook(before)
                module.register_forward_hook(after)
        model(inputs)
    return total


@pytest.mark.parametrize("names", [["bodies.0"], ["mlps.1"], ["bodies.1", "mlps.0", "mlps.1"]], ids=str)
def test_what_goes_with_a_dropped_branch_takes_no_time(names: list[str]) -> None:
    torch.manual_seed(0)
    model, inputs = Blocks().eval(), torch.zeros(2, 2, 5, 5)
    sites = discover(model, inputs)
    assert list(sites.branches) == ["bodies.0", "bodies.1", "mlps.0", "mlps.1"]
    table = LatencyTable.measure(model, inputs, sites, repeats=1, warmup=0, watch=counting)
    costs = CostModel(sites, table).without(dict.fromkeys(names))
    pruned = cut(model, Plan((), dropped=dict.fromkeys(names)), sites)
    found = ms_of(pruned, inputs) - ms_in_stand_ins(cut(model, Plan((), dropped=dict.fromkeys(names)), sites), inputs)
    assert costs.cost({}).latency_ms == pytest.approx(found, rel=1e-3)
    assert costs.dense.latency_ms == pytest.approx(ms_of(model, inputs), rel=1e-3)
    half = {name: max(1, site.width // 2) for name, site in costs.sites.items()}
    choices = tuple(Choice(n, sites[n].width, tuple(range(w)), (1.0,) * w) for n, w in half.items())
    pruned = cut(model, Plan(choices, dropped=dict.fromkeys(names)), sites)
    expected = ms_of(pruned, inputs) - ms_in_stand_ins(
        cut(model, Plan(choices, dropped=dict.fromkeys(names)), sites), inputs
    )
    assert costs.cost(half).latency_ms == pytest.approx(expected, rel=5e-3)


def test_each_shape_is_timed_once_and_every_call_counts() -> None:
    model = nn.Sequential(*(nn.Conv2d(16, 16, 3, padding=1) for _ in range(5)), nn.Flatten(), nn.Linear(400, 3)).eval()
    inputs = torch.zeros(1, 16, 5, 5)
    uses = operations(Network(model, discover(model, inputs)), inputs)
    kernels = {kernel.name: len(calls) for kernel, calls in uses.items()}
    # The first convolution reads what cannot shrink, and so is another operation than the four that follow.
    assert kernels == {"convolution 1x16x5x5 16x16x3x3 16": 1, "addmm 3 1x400 400x3": 1} | {
        name: calls for name, calls in kernels.items() if calls == 4
    }
    assert sorted(len(calls) for calls in uses.values()) == [1, 1, 4]


def test_narrow_dimensions_are_measured_at_every_eighth_channel_and_wide_ones_at_a_few() -> None:
    model = nn.Sequential(nn.Conv2d(2, 40, 1), nn.Conv2d(40, 512, 1), nn.Conv2d(512, 3, 1)).eval()
    inputs = torch.zeros(1, 2, 4, 4)
    knots = [kernel.knots for kernel in operations(Network(model, discover(model, inputs)), inputs)]
    assert knots[0] == ((0.2, 0.4, 0.6, 0.8, 1.0),)
    assert knots[1][0] == (0.2, 0.4, 0.6, 0.8, 1.0)
    assert len(knots[1][1]) == 8
    assert knots[1][1][0] == 8 / 512
    assert knots[1][1][-1] == 1
    assert all(512 * fraction % 8 == 0 for fraction in knots[1][1])


def test_groups_are_cut_as_a_whole() -> None:
    model, inputs = coupled()
    grouped = [k for k in operations(Network(model, discover(model, inputs)), inputs) if "60x2x3x3" in k.name]
    assert len(grouped) == 1
    for fractions in grouped[0].points:
        args = grouped[0].at(fractions, torch.device("cpu")).args
        groups = args[-1]
        assert (args[0].shape[1], args[1].shape[0]) == (2 * groups, 3 * groups)


def test_types_and_memory_format_are_those_of_the_network() -> None:
    model = nn.Sequential(nn.Conv2d(4, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 4, 1)).eval().bfloat16()
    model = model.to(memory_format=torch.channels_last)
    inputs = torch.zeros(2, 4, 9, 9, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    sites = discover(model, inputs)
    for kernel in operations(Network(model, sites), inputs):
        image, weight = kernel.at(kernel.points[0], inputs.device).args[:2]
        assert image.dtype == weight.dtype == torch.bfloat16
        assert image.is_contiguous(memory_format=torch.channels_last)
    table = LatencyTable.measure(model, inputs, sites, repeats=1, warmup=0, watch=counting)
    assert (table.origin.inputs, table.origin.dtype) == ("bfloat16 2x4x9x9 channels_last", "bfloat16")


def test_operations_with_a_dense_size_among_their_arguments_count_as_constant() -> None:
    class Repeated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 16), nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            return self.last(torch.ops.aten._unsafe_view(y * 2, [1, *y.shape]))

    model, inputs = Repeated().eval(), torch.zeros(3, 4)
    names = [kernel.name.split()[0] for kernel in operations(Network(model, discover(model, inputs)), inputs)]
    assert names == ["addmm", "mul", "addmm"]


def test_measuring_leaves_no_trace_and_tells_its_rounds() -> None:
    model, inputs = wide()
    model.train()
    before, told = hash_tensors(state_of(model)), []
    LatencyTable.measure(model, inputs, discover(model, inputs), repeats=2, progress=lambda *args: told.append(args))
    assert hash_tensors(state_of(model)) == before
    assert model.training
    assert told == [("latency", n, 3) for n in (1, 2, 3)]


def test_real_times_of_a_small_network() -> None:
    model, inputs = wide()
    sites = discover(model, inputs)
    table = LatencyTable.measure(model, inputs, sites, repeats=7)
    for operation in table.operations:
        assert all(
            0 < low <= middle <= high
            for low, middle, high in zip(operation.lower_ms, operation.median_ms, operation.upper_ms, strict=True)
        )
    assert [network.kept for network in table.networks] == [(16, 40, 24), (16, 32, 16), (8, 16, 16), (8, 8, 8)]
    assert table.networks[0].time.batch_size == 2
    costs = CostModel(sites, table)
    assert costs.cost(dict.fromkeys(sites, 8)).latency_ms <= costs.dense.latency_ms


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_real_times_on_a_gpu() -> None:
    model, inputs = wide()
    model, inputs = model.cuda(), inputs.cuda()
    sites = discover(model, inputs)
    table = LatencyTable.measure(model, inputs, sites)
    assert table.origin.device == f"cuda {torch.cuda.get_device_name()}"
    assert CostModel(sites, table).dense.latency_ms == pytest.approx(table.networks[0].time.median_ms, rel=0.5)


# -- files -----------------------------------------------------------------------------------------------------------


def test_a_table_is_saved_and_loaded(case: tuple[nn.Module, Tensor, Sites, LatencyTable], tmp_path: Path) -> None:
    model, inputs, sites, table = case
    path = tmp_path / "table.json"
    table.save(path)
    loaded = LatencyTable.load(path)
    assert loaded == table
    assert CostModel(sites, loaded).dense == CostModel(sites, table).dense
    loaded.check_serves(model, inputs, sites)
    with pytest.raises(InvalidSetting, match="exists"):
        table.save(path)
    table.save(path, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["table.json"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.pop("origin"), "table.origin is missing"),
        (lambda c: c.update(extra=1), "table.extra is unknown"),
        (lambda c: c.update(format=99), "has format 99; this scionet reads formats up to 2"),
        (lambda c: c["operations"][0].update(median_ms=[1.0]), "are no table"),
        (
            lambda c: c["operations"][0]["median_ms"].__setitem__(0, math.nan),
            r"median_ms\[0\] is nan; numbers must be finite",
        ),
        (lambda c: c["operations"][0]["knots"][0].reverse(), "are no table"),
        (lambda c: c["networks"][0]["time"].update(lower_ms=-1.0), "lower <= median <= upper"),
        (lambda c: c.update(networks=[]), "time of a whole network"),
        (lambda c: c["origin"].update(threads="one"), "table.origin.threads must be of type int"),
    ],
)
def test_damaged_tables_are_refused(change: Callable[[dict[str, Any]], Any], said: str, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    handmade(chain([4, 6]).sites, 0).save(path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InvalidSetting, match=said) as caught:
        LatencyTable.load(path)
    assert str(path) in str(caught.value)


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    for name, content in (("text", b"no table"), ("list", b"[]"), ("bytes", b"\xff\xfe\x00")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InvalidSetting, match="damaged or no latency table"):
            LatencyTable.load(tmp_path / name)
    with pytest.raises(InvalidSetting, match="cannot read the latency table"):
        LatencyTable.load(tmp_path / "missing")
    with pytest.raises(InvalidSetting, match=r"must end in \.json"):
        handmade(chain([4]).sites, 0).save(tmp_path / "table.txt")


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"network": "x"}, "another network x, now network"),
        ({"inputs": "float32 32x2x5x5"}, r"another inputs float32 32x2x5x5, now float32 2x2x5x5"),
        (
            {"dtype": "bfloat16", "device": "cuda A"},
            "another dtype bfloat16, now float32; another device cuda A, now cpu",
        ),
    ],
)
def test_a_table_of_something_else_is_refused(changes: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidSetting, match=f"{said}.*same ignored_layers, batch and device"):
        replace(ORIGIN, **changes).check_serves(ORIGIN)


def test_a_table_of_another_machine_or_version_says_so_and_serves() -> None:
    other = replace(ORIGIN, machine="Another CPU", threads=4, torch="2.7.0")
    other.check_serves(ORIGIN)
    assert str(other) == "float32 2x2x5x5 on cpu, Another CPU, 4 threads, perf_counter, torch 2.7.0"


def test_other_sites_or_another_batch_are_told_apart() -> None:
    model, inputs = wide()
    table = LatencyTable.measure(model, inputs, discover(model, inputs), repeats=1, warmup=0, watch=counting)
    table.check_serves(model, inputs, discover(model, inputs))
    with pytest.raises(InvalidSetting, match="another network"):
        table.check_serves(model, inputs, discover(model, inputs, ["0.*"]))
    with pytest.raises(InvalidSetting, match="another inputs float32 2x2x5x5, now float32 4x2x5x5"):
        table.check_serves(model, torch.zeros(4, 2, 5, 5), discover(model, inputs))


def test_without_examples_or_rounds_nothing_is_measured() -> None:
    model, inputs = wide()
    sites = discover(model, inputs)
    with pytest.raises(CalibrationError, match="batch size of at least one"):
        LatencyTable.measure(model, inputs[:0], sites)
    with pytest.raises(InvalidSetting, match="repeats >= 1"):
        LatencyTable.measure(model, inputs, sites, repeats=0)


@pytest.mark.parametrize("knots", [((),), ((0.5, 0.5, 1.0),), ((0.5, 0.9),), ((1.0,), (1.0,), (1.0,)), ()], ids=str)
def test_impossible_tables_are_refused(knots: tuple[tuple[float, ...], ...]) -> None:
    ms = (1.0,) * math.prod(map(len, knots))
    with pytest.raises(InvalidSetting, match="are no table"):
        OperationTimes("op", knots, ms, ms, ms, (Use((Axis(()),) * max(1, len(knots))),))
