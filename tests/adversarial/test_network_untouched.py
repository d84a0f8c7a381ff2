"""Whatever is done with a network, and however it ends, the network is bit for bit what it was."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from scionet.analysis.collapse import collapse_curve, conservation
from scionet.analysis.gradient_flow import filter_sums, flow_rates, removal_effects
from scionet.budget.costs import measure
from scionet.budget.latency.table import LatencyTable
from scionet.coreset import select_examples
from scionet.errors import PruneError
from scionet.masks.compensation import compensated
from scionet.masks.masking import mask_weights
from scionet.network.checkpoints.checkpoint import load_pruned, save_pruned
from scionet.network.checkpoints.graph_export import export_program
from scionet.network.discovery.discover import discover
from scionet.network.surgery.cut import cut
from scionet.network.surgery.verification import verify
from scionet.pruning import prune
from scionet.torch_internals import tree_leaves
from scionet.training.accuracy import accuracy
from scionet.training.fit import fit
from scionet.training.recipes import Recipe

WIDTH = 6


class Piece(nn.Module):
    """A part of a network, from `WIDTH` values to as many."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 8), nn.Linear(8, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(x)))


class Shared(Piece):
    """A module under two names, one of them inside another module."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.second = nn.Sequential(nn.Linear(WIDTH, 9), nn.ReLU(), nn.Linear(9, WIDTH))
        self.group = nn.ModuleList([self.first, self.down])

    def forward(self, x: Tensor) -> Tensor:
        return self.second(super().forward(self.first(x)))


class SharedParameter(Piece):
    """One parameter under three names, in two modules."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(WIDTH, 8)
        self.other.weight = self.up.weight
        self.alias = self.up.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.other(x) + x @ self.alias.t()))


class Parametrized(Piece):
    """Weights that are computed: by a norm and a direction, and orthogonal ones."""

    def __init__(self) -> None:
        super().__init__()
        parametrizations.weight_norm(self.up)
        self.turn = parametrizations.orthogonal(nn.Linear(WIDTH, WIDTH, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.turn(x))


class Growing(Piece):
    """Buffers: one replaced by a longer one, one written in place, one new, one an expanded view."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1, WIDTH), persistent=False)
        self.register_buffer("calls", torch.tensor(0))
        self.register_buffer("scale", torch.tensor([0.5]).expand(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        self.seen = torch.cat([self.seen, x.detach().mean(0, keepdim=True)])
        self.calls += 1
        self.register_buffer("late", torch.ones(2))
        return super().forward(x) * self.scale


class Remembering(Piece):
    """Tensors in attributes: in place, replaced, new, in a list and in a dict. And a count of calls, which is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.total, self.last = 0, torch.zeros(WIDTH), torch.zeros(())
        self.all: list[Tensor] = []
        self.found: dict[str, Any] = {"mean": None}

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.total.add_(1)
        self.last = self.found["mean"] = self.late = x.detach().mean()
        self.all.append(self.last)
        return super().forward(x)


class Writing(Piece):
    """Weights that the forward pass itself changes, in two ways, and a table that torch renormalises."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(3, WIDTH, max_norm=0.5)
        self.bias = nn.Parameter(torch.randn(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.down.bias.mul_(0.99)
            self.bias.data = self.bias.data * 0.99
        return super().forward(x) + self.bias + self.table(torch.zeros(len(x), dtype=torch.long))


class Hooked(Piece):
    """Hooks of the caller's, one of which registers another."""

    def __init__(self) -> None:
        super().__init__()
        self.up.register_forward_hook(lambda module, _, out: (module.register_forward_hook(lambda *_: None), out)[1])
        self.down.register_forward_pre_hook(lambda _, given: given)


class Moody(Piece):
    """Frozen parameters, a gradient, modules in different modes, statistics and random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(8), nn.Dropout()
        self.up.requires_grad_(False)
        self.norm.eval()
        self.down.weight.grad = torch.ones_like(self.down.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.drop(torch.relu(self.norm(self.up(x)))))


class Recurrent(Piece):
    """A recurrent layer, which keeps its weights in a list, too."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.lstm(x[:, None])[0][:, 0])


class Failing(Piece):
    """Fails after it has written, where the batch is of an odd size."""

    def forward(self, x: Tensor) -> Tensor:
        self.register_buffer("late", torch.ones(2))
        if len(x) % 2:
            raise RuntimeError("odd")
        return super().forward(x)


PIECES = (
    Piece,
    Shared,
    SharedParameter,
    Parametrized,
    Growing,
    Remembering,
    Writing,
    Hooked,
    Moody,
    Recurrent,
    Failing,
)


def network(pieces: list[type[Piece]]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(piece() for piece in pieces), nn.Linear(WIDTH, 3))


X = torch.randn(12, WIDTH, generator=torch.Generator().manual_seed(1))
Y = torch.arange(12) % 3
PAIRS = [(X[:8], Y[:8]), (X[8:], Y[8:])]
EXAMPLE = X[:4]
RECIPE = Recipe(epochs=1, batch_size=4, teacher_weight=0.5)


class Examples:
    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return X[index], int(Y[index])


def pruned_with(**choices: Any) -> Callable[[nn.Module, Path], Any]:
    return lambda m, _: prune(m, PAIRS, "macs<=70%", example_inputs=EXAMPLE, progress=False, **choices)


def cut_and_verified(model: nn.Module, folder: Path) -> None:
    result = prune(model, (), "macs<=70%", example_inputs=EXAMPLE, method="l1", progress=False)
    pruned = cut(model, result.plan, result.sites)
    before = portrait(pruned)
    verify(model, result.plan, result.sites, pruned, EXAMPLE)
    path = save_pruned(folder / "net.safetensors", pruned, result.plan, result.sites)
    assert portrait(pruned) == before
    load_pruned(path, lambda: network([type(piece) for piece in model.children() if isinstance(piece, Piece)]))


def bad_data(model: nn.Module, _: Path) -> None:
    data = (part for part in [(X[:8], Y[:8]), (X[8:] * float("nan"), Y[8:])])
    prune(model, data, "macs<=70%", example_inputs=EXAMPLE, progress=False)


def odd_data(model: nn.Module, _: Path) -> None:
    prune(model, [X[:3], X[:8]], "macs<=70%", example_inputs=EXAMPLE, progress=False)


def taught(model: nn.Module, _: Path) -> None:
    fit(nn.Linear(WIDTH, 3), Examples(), RECIPE, teacher=model, progress=False)


ENTRIES: dict[str, Callable[[nn.Module, Path], Any]] = {
    "discover": lambda m, _: discover(m, EXAMPLE),
    "discover a bad input": lambda m, _: discover(m, X[:, :2]),
    "prune": pruned_with(),
    "prune by l1": pruned_with(method="l1", widths="uniform", repair=[]),
    "prune by taylor": pruned_with(method="taylor"),
    "prune and reconstruct": pruned_with(method="l2", repair=["refit", "recalibrate"]),
    "prune on NaN": bad_data,
    "prune on odd batches": odd_data,
    "cut, verify, save, load": cut_and_verified,
    "cost": lambda m, _: measure(m, EXAMPLE),
    "accuracy": lambda m, _: accuracy(m, PAIRS),
    "teacher": taught,
    "synflow": lambda m, _: mask_weights(m, 0.5, score="synflow", example_inputs=EXAMPLE),
    "snip": lambda m, _: mask_weights(m, 0.5, score="snip", batches=PAIRS),
    "woodfisher": lambda m, _: mask_weights(m, 0.5, score="woodfisher", batches=PAIRS),
    "compensated": lambda m, _: compensated(m, mask_weights(m, 0.5).masks, PAIRS),
    "conservation": lambda m, _: conservation(m, EXAMPLE, discover(m, EXAMPLE)),
    "collapse": lambda m, _: collapse_curve(m, "magnitude", [2.0], example_inputs=EXAMPLE),
    "flow rates": lambda m, _: flow_rates(m, PAIRS, batch_norms=True),
    "filter sums": lambda m, _: filter_sums(m, PAIRS),
    "removal": lambda m, _: removal_effects(m, PAIRS, discover(m, EXAMPLE)),
    "examples": lambda m, _: select_examples(m, [X], 3, example_inputs=EXAMPLE),
    "latency": lambda m, _: LatencyTable.measure(m, EXAMPLE, discover(m, EXAMPLE), repeats=1),
    "export": lambda m, folder: export_program(m, EXAMPLE, folder / "net.pt2"),
}
QUICK = [name for name in ENTRIES if name not in ("export", "latency")]


OWN = set(vars(nn.Module()))


def portrait(model: nn.Module) -> list[Any]:
    """Of each module, what torch gives it and what holds tensors; of these identity, place, type, flags and bytes."""
    return [
        part
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if key in OWN or any(isinstance(leaf, Tensor) for leaf in tree_leaves(value))
        for part in (name, type(module), key, *_held(value))
    ]


def _held(value: Any) -> Iterator[Any]:
    if isinstance(value, Tensor):
        yield id(value), value.data_ptr(), value.dtype, tuple(value.shape), value.stride(), value.requires_grad
        yield value.detach().clone().numpy().tobytes(), None if value.grad is None else value.grad.numpy().tobytes()
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _held(item)
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from _held(item)
    else:
        yield value if isinstance(value, int | float | str | None) else id(value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


def check(pieces: list[type[Piece]], entry: str, folder: Path, allowed: type[Exception]) -> None:
    model = network(pieces)
    before, keys, generator = portrait(model), list(model.state_dict()), torch.get_rng_state()
    for file in folder.iterdir():
        file.unlink()
    with suppress(allowed):
        ENTRIES[entry](model, folder)
    assert list(model.state_dict()) == keys
    assert portrait(model) == before
    if entry not in ("cut, verify, save, load", "teacher"):  # which build a network here
        assert torch.equal(torch.get_rng_state(), generator)


def test_a_network_may_count_its_calls() -> None:
    model = network([Remembering])
    measure(model, EXAMPLE)
    assert model[0].calls == 1


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("entry", ["discover", "prune by l1", "cost"])
def test_each_kind_of_module(piece: type[Piece], entry: str, folder: Path) -> None:
    check([piece], entry, folder, PruneError)


@pytest.mark.parametrize("entry", ENTRIES)
def test_each_function(entry: str, folder: Path) -> None:
    check([Shared, Moody], entry, folder, PruneError)


@given(pieces=st.lists(st.sampled_from(PIECES), min_size=1, max_size=3), entry=st.sampled_from(QUICK))
@settings(max_examples=40)
def test_trees_of_modules(folder: Path, pieces: list[type[Piece]], entry: str) -> None:
    check(pieces, entry, folder, Exception)  # a network that writes into itself need not run everywhere


LAZY = {
    "linear": lambda: nn.Sequential(nn.Linear(WIDTH, 8), nn.LazyLinear(3)),
    "norm": lambda: nn.Sequential(nn.Linear(WIDTH, 8), nn.LazyBatchNorm1d(), nn.Linear(8, 3)),
    "within": lambda: nn.Sequential(nn.Sequential(nn.LazyLinear(8)), nn.Linear(8, 3)),
}


@pytest.mark.parametrize("make", LAZY.values(), ids=LAZY)
@pytest.mark.parametrize("entry", QUICK)
def test_a_lazy_module_that_never_ran_is_refused_by_name(
    make: Callable[[], nn.Module], entry: str, folder: Path
) -> None:
    model = make()
    kinds = [type(module) for module in model.modules()]
    with pytest.raises(PruneError, match=r"of Lazy\w+ has no shape yet.*call the network once on its inputs"):
        ENTRIES[entry](model, folder)
    assert [type(module) for module in model.modules()] == kinds


def test_a_teacher_that_shares_the_network_s_weights_does_not_undo_its_training() -> None:
    torch.manual_seed(0)
    body, head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
    model, teacher = nn.Sequential(body, head), nn.Sequential(body, nn.Linear(WIDTH, 3))
    before, own = body.weight.detach().clone(), portrait(teacher[1])
    fit(model, Examples(), RECIPE, teacher=teacher, progress=False)
    assert not torch.equal(body.weight, before)
    assert portrait(teacher[1]) == own
