"""Networks whose forward depends on their data: other paths on calibration data, and MACs that vary."""

import ast
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.network_cases import CASES
from support.small_networks import Net, conv, pooled
from torch import Tensor, nn

from scionet.budget.costs import CostModel, measure
from scionet.choices.limits import Limits
from scionet.errors import BudgetExceeded, CalibrationError
from scionet.network.calling import first_of
from scionet.network.discovery.data_dependence import Paths
from scionet.network.discovery.discover import discover
from scionet.network.discovery.provisional_cut import uneven_subset
from scionet.network.network import Network
from scionet.pruning import prune

relu = torch.relu
Branch = Callable[[Any, Tensor], Tensor]


def by_mean(taken: Branch, other: Branch = lambda m, h: h) -> Net:
    """A network that takes a branch where the mean of its input exceeds 1."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = relu(m.a(x))
        h = taken(m, h) if x.mean() > 1 else other(m, h)
        return m.head(pooled(relu(m.b(h))))

    torch.manual_seed(0)
    return Net(forward, a=conv(3, 8), b=conv(8, 8), c=conv(8, 8), d=conv(8, 8), head=nn.Linear(8, 3))


def stream(turns: Callable[[Tensor], int]) -> Net:
    """A residual block that runs as often as `turns` says."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.stem(x)
        for _ in range(turns(x)):
            h = h + m.b(relu(m.a(h)))
        return m.head(pooled(h))

    torch.manual_seed(0)
    return Net(forward, stem=conv(3, 8), a=conv(8, 8), b=conv(8, 8), head=nn.Linear(8, 3))


EXAMPLE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
DATA = [EXAMPLE, torch.cat([EXAMPLE + 5, EXAMPLE + 6])]

FATAL: dict[str, Branch] = {
    "reversed channels": lambda m, h: h.flip(1),
    "rolled channels": lambda m, h: h.roll(1, 1),
    "swapped halves": lambda m, h: torch.cat([h[:, 4:], h[:, :4]], 1),
    "shuffled channels": lambda m, h: h.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)[:, torch.arange(8)],
    "a size written into the forward": lambda m, h: h.view(-1, 8, 8, 8),
    "another convolution": lambda m, h: m.c(h),
    "a shortcut": lambda m, h: h + m.b(h),
    "a fixed number of channels": lambda m, h: h * torch.linspace(1, 2, 8).view(1, 8, 1, 1),
}
HARMLESS: dict[str, Branch] = {
    "a factor": lambda m, h: h * 2,
    "a mean over the image": lambda m, h: h - h.mean((2, 3), keepdim=True),
    "the number of channels as it is": lambda m, h: h.view(-1, h.shape[1], 8, 8),
}


@pytest.mark.parametrize("name", FATAL)
def test_a_path_on_which_the_cut_would_fail_is_refused_with_its_place_and_a_way_out(name: str) -> None:
    model = by_mean(FATAL[name])
    with pytest.raises(CalibrationError, match=r"another path on calibration data .* in ") as caught:
        prune(model, DATA, "macs<=60%", example_inputs=EXAMPLE)
    layers = ast.literal_eval(str(caught.value).rpartition("ignored_layers=")[2])
    outer = Net(lambda m, x: m.body(x + m.f(relu(m.e(x)))), body=model, e=conv(3, 8), f=conv(8, 3))
    ignored = Limits(ignored_layers=[f"body.{layer}" for layer in layers])
    data = [EXAMPLE, DATA[1] * 10]
    result = prune(outer, data, "params<=98%", example_inputs=EXAMPLE, limits=ignored)
    assert all(bool(torch.isfinite(result.model(batch)).all()) for batch in data)


@pytest.mark.parametrize("name", HARMLESS)
def test_a_path_on_which_the_cut_is_right_is_no_reason_to_refuse(name: str) -> None:
    result = prune(by_mean(HARMLESS[name]), DATA, "macs<=60%", example_inputs=EXAMPLE, method="l1")
    assert result.report.difference < 1e-4
    assert all(bool(torch.isfinite(result.model(batch)).all()) for batch in DATA)


def test_the_module_that_takes_the_branch_is_named() -> None:
    inner = by_mean(FATAL["reversed channels"])
    outer = Net(lambda m, x: m.body(x), body=inner)
    with pytest.raises(CalibrationError, match=r"'flip' follows '_local_scalar_dense' in body\)"):
        prune(outer, DATA, "macs<=60%", example_inputs=EXAMPLE, method="l1")


@pytest.mark.parametrize(
    ("usual", "unusual"), [(1, 0), (1, 2), (2, 1), (0, 1)], ids=["skipped", "repeated", "once", "entered"]
)
def test_layers_that_run_more_or_less_often_on_calibration_data(usual: int, unusual: int) -> None:
    model = stream(lambda x: unusual if x.mean() > 1 else usual)
    with pytest.raises(CalibrationError, match="another path on calibration data"):
        prune(model, DATA, "macs<=60%", example_inputs=EXAMPLE)


def test_data_on_the_path_of_the_example_are_never_refused() -> None:
    model = by_mean(FATAL["another convolution"])
    high = prune(model, DATA[1:], "macs<=60%", example_inputs=EXAMPLE + 5, method="l1")
    assert high.model(DATA[1]).shape == (4, 3)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.sites])
def test_another_number_of_examples_is_no_other_path_and_no_operation_varies(name: str) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    model = case.make()
    sites = discover(model, case.batch)
    Paths(Network(model, sites), case.batch).see(first_of(case.batch, 1))
    assert not sites.uncounted


def test_examples_one_by_one_are_the_path_of_a_batch() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return torch.stack([m.head(pooled(each[None]))[0] for each in relu(m.b(relu(m.a(x))))])

    model = Net(forward, a=conv(3, 8), b=conv(8, 8), head=nn.Linear(8, 3))
    sites = discover(model, EXAMPLE, ["b"])
    paths = Paths(Network(model, sites), EXAMPLE)
    paths.see(torch.cat([EXAMPLE, EXAMPLE]))


def one_by_one(layer: str) -> Net:
    """A network that runs a layer on one example at a time."""

    def looped(run: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
        return torch.cat([run(each[None]) for each in h])

    def forward(m: Any, x: Tensor) -> Tensor:
        h = relu(m.a(x))
        h = relu(looped(m.b, h) if layer == "b" else m.b(h))
        return looped(m.head, pooled(h)) if layer == "head" else m.head(pooled(h))

    torch.manual_seed(0)
    return Net(forward, a=conv(3, 8), b=conv(8, 8), head=nn.Linear(8, 3)).double()


@pytest.mark.parametrize("n_examples", [1, 3])
@pytest.mark.parametrize("layer", ["b", "head"])
@pytest.mark.parametrize(
    "method", ["forward", *(pytest.param(name, marks=pytest.mark.slow) for name in ("l1", "taylor"))]
)
def test_a_forward_that_loops_over_examples_is_pruned_on_batches_like_the_example(
    method: str, layer: str, n_examples: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 3, 8, 8, generator=generator, dtype=torch.float64)
    data = [*zip(x.split(16), torch.randint(3, (50,), generator=generator).split(16), strict=True)]
    model, example = one_by_one(layer), x[:n_examples]
    result = prune(model, data, "macs<=50%", example_inputs=example, method=method)
    assert result.report.difference < 1e-9
    assert "held-out examples: predicted" in result.report.status
    torch.testing.assert_close(result.model(x), torch.cat([result.model(each[None]) for each in x]))
    bare = {"method": "l1", "widths": "uniform", "repair": []}
    plain = prune(one_by_one("none"), data, "macs<=50%", example_inputs=example, **bare)
    assert prune(model, data, "macs<=50%", example_inputs=example, **bare).plan.kept == plain.plan.kept


def test_a_forward_that_fails_on_odd_numbers_of_examples_gets_as_many_as_the_example_has() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        if len(x) % 2:
            raise RuntimeError("odd")
        return m.head(pooled(relu(m.b(relu(m.a(x))))))

    torch.manual_seed(0)
    model = Net(forward, a=conv(3, 8), b=conv(8, 8), head=nn.Linear(8, 3))
    data = torch.randn(100, 3, 8, 8).split(6)
    result = prune(model, data[:-1], "macs<=50%", example_inputs=data[0])
    assert "on 12 held-out examples: predicted" in result.report.status


def test_a_loop_over_examples_needs_as_many_as_the_example_has() -> None:
    x = torch.randn(6, 3, 8, 8, dtype=torch.float64)
    with pytest.raises(CalibrationError, match=r"called on 6 at a time, .* given 4 examples"):
        prune(one_by_one("b"), [x[:4]], "macs<=60%", example_inputs=x)


# -- MACs that depend on the data --------------------------------------------------------------------------------------


def detector(threshold: float) -> Net:
    """Proposals: the positions whose score exceeds a threshold. Each goes through a head of its own."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = relu(m.b(relu(m.a(x))))
        pixels = h.permute(0, 2, 3, 1)
        proposals = pixels[m.score(h)[:, 0] > threshold]
        return m.last(relu(m.first(proposals)))

    torch.manual_seed(0)
    layers = {"a": conv(3, 16), "b": conv(16, 16), "score": conv(16, 1), "first": nn.Linear(16, 256)}
    return Net(forward, **layers, last=nn.Linear(256, 4))


def fixed_macs(model: nn.Module) -> float:
    return measure(model, EXAMPLE, {"first.weight", "last.weight"}).macs


@pytest.mark.parametrize("threshold", [-0.2, 0.0, 0.05])
@pytest.mark.parametrize("density", [30, 50, 70])
def test_what_does_not_depend_on_the_data_meets_the_budget(threshold: float, density: int) -> None:
    model = detector(threshold)
    result = prune(model, (), f"macs<={density}%", example_inputs=EXAMPLE, method="l1")
    assert result.report.pruned.macs <= density / 100 * result.report.dense.macs
    if "depend on the data" in result.report.status:
        assert fixed_macs(result.model) <= density / 100 * fixed_macs(model)
        assert result.report.dense.macs == fixed_macs(model)
        assert "first.weight" in result.report.status
    else:
        assert measure(model, EXAMPLE).macs == result.report.dense.macs


def test_varying_operations_are_marked() -> None:
    sites = discover(detector(0.0), EXAMPLE)
    assert sites.uncounted == {"first.weight", "last.weight"}
    assert CostModel(sites).dense.macs == fixed_macs(detector(0.0))


@pytest.mark.parametrize("density", [50, 70])
def test_where_the_plan_reveals_that_macs_vary_the_budget_is_divided_again(density: int) -> None:
    tried = {16, 1, *(len(uneven_subset(16, number)) for number in range(6))}

    def forward(m: Any, x: Tensor) -> Tensor:
        h = relu(m.a(x))
        some = 8 if round(float(m.count(h).mean())) in tried else 2  # its value is the number of units that are left
        return m.head(pooled(relu(m.b(h[..., :some]))))

    layers = {"a": conv(3, 16), "count": conv(16, 1, kernel=1), "b": conv(16, 16), "head": nn.Linear(16, 3)}
    model = Net(forward, **layers)
    with torch.no_grad():
        for name, value in {"a.weight": 0, "a.bias": 1, "count.weight": 1, "count.bias": 0}.items():
            model.get_parameter(name).fill_(value)
    assert not discover(model, EXAMPLE).uncounted
    result = prune(model, (), f"macs<={density}%", example_inputs=EXAMPLE, method="l1")
    assert "the budget was divided twice" in result.report.status
    assert "b.weight depend on the data" in result.report.status
    dense, pruned = (measure(each, EXAMPLE, {"b.weight"}).macs for each in (model, result.model))
    assert (result.report.dense.macs, result.report.pruned.macs) == (dense, pruned)
    assert pruned <= density / 100 * dense


def test_a_budget_that_the_cut_network_exceeds_is_an_error() -> None:
    """A forward whose cost grows as its width shrinks: no prediction from shapes can know."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = relu(m.a(x))
        for _ in range(17 - h.shape[1]):
            x = x + 0 * m.same(x)
        return m.head(pooled(relu(m.b(h)))) + x.mean()

    layers = {"a": conv(3, 16), "b": conv(16, 16), "same": conv(3, 3, kernel=9), "head": nn.Linear(16, 3)}
    with pytest.raises(BudgetExceeded, match=r"exceeds the budget macs<=60%: counted after the cut, it has macs \d+"):
        prune(Net(forward, **layers), (), "macs<=60%", example_inputs=EXAMPLE, method="l1")
