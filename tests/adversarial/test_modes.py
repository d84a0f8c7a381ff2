"""A result does not depend on the modes of torch that surround a call: they are off meanwhile, or refused by name."""

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch._subclasses.functional_tensor import FunctionalTensorMode
from torch.nn.utils import parametrizations, parametrize
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from scionet.analysis.collapse import conservation
from scionet.analysis.gradient_flow import filter_sums
from scionet.budget.costs import measure
from scionet.choices.repair import Reconstruct
from scionet.coreset import select_examples
from scionet.errors import CheckpointError, PruneError, UnsupportedMode, UnsupportedModel
from scionet.files.safetensors_files import hash_tensors
from scionet.masks.compensation import compensated
from scionet.masks.masking import mask_weights
from scionet.masks.weight_masks import detach_masks_
from scionet.network.calling import state_of
from scionet.network.checkpoints.checkpoint import load_pruned, save_pruned
from scionet.network.checkpoints.graph_export import export_program
from scionet.network.discovery.discover import discover
from scionet.network.surgery.cut import cut
from scionet.network.surgery.verification import verify
from scionet.pruning import PruneResult, prune
from scionet.torch_internals import load_forward_mode
from scionet.training.accuracy import accuracy
from scionet.training.fit import fit
from scionet.training.recipes import Recipe


class Net(nn.Module):
    """Convolutions, a norm, a parametrized weight and a linear map."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Conv2d(6, 8, 3)
        self.c = parametrizations.weight_norm(nn.Linear(8, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.b(torch.relu(self.norm(self.a(x)))))
        return self.head(torch.relu(self.c(x.mean((2, 3)))))


def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Net()


X = torch.randn(16, 2, 5, 5, generator=torch.Generator().manual_seed(0))
Y = torch.arange(16) % 3
PAIRS = [(X[:8], Y[:8]), (X[8:], Y[8:])]
EXAMPLE = X[:2]
MODEL = net()
SAVED: PruneResult = prune(MODEL, (), "macs<=60%", example_inputs=EXAMPLE, method="l1", progress=False)


class Examples:
    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return X[index], int(Y[index])


def digest(model: nn.Module) -> str:
    assert not any(tensor.is_inference() for tensor in state_of(model).values())
    return hash_tensors(state_of(model))


def pruned(**choices: Any) -> Callable[[nn.Module, Path], Any]:
    def run(m: nn.Module, _: Path) -> Any:
        result = prune(m, PAIRS, "macs<=60%", example_inputs=EXAMPLE, progress=False, **choices)
        return result.plan.identity, digest(result.model), result.report.pruned

    return run


def masked(m: nn.Module, _: Path) -> str:
    mask_weights(m, 0.5).masks.attach_(m)
    assert not any(buffer.is_inference() for buffer in m.buffers())
    detach_masks_(m)
    return digest(m)


def trained(m: nn.Module, _: Path) -> str:
    fit(m, Examples(), Recipe(epochs=1, batch_size=8, teacher_weight=0.5), teacher=MODEL, progress=False)
    return digest(m)


def loaded(_: nn.Module, folder: Path) -> str:
    path = folder / "net.safetensors"
    save_pruned(path, SAVED.model, SAVED.plan, SAVED.sites, overwrite=True)
    return digest(load_pruned(path, net))


ENTRIES: dict[str, Callable[[nn.Module, Path], Any]] = {
    "discover": lambda m, _: discover(m, EXAMPLE).dense_hash,
    "prune": pruned(),
    "l1": pruned(method="l1"),
    "random": pruned(method="random", widths="uniform", repair=[]),
    "taylor": pruned(method="taylor", repair=["recalibrate"]),
    "error curves": pruned(method="energy", widths="error_curves"),
    "line search": pruned(method="forward", widths="uniform", repair=[], outputs="squared"),
    "reconstruct": pruned(method="l2", repair=[Reconstruct(steps=3)]),
    "hrank": pruned(method="hrank"),
    "cut": lambda m, _: digest(cut(m, SAVED.plan, SAVED.sites)),
    "verify": lambda m, _: verify(m, SAVED.plan, SAVED.sites, SAVED.model, EXAMPLE),
    "cost": lambda m, _: measure(m, EXAMPLE),
    "accuracy": lambda m, _: accuracy(m, PAIRS),
    "snip": lambda m, _: hash_tensors(dict(mask_weights(m, 0.3, score="snip", batches=PAIRS).masks)),
    "synflow": lambda m, _: hash_tensors(dict(mask_weights(m, 0.3, score="synflow", example_inputs=EXAMPLE).masks)),
    "random masks": lambda m, _: hash_tensors(dict(mask_weights(m, 0.3, score="random").masks)),
    "compensated": lambda m, _: digest(compensated(m, mask_weights(m, 0.5).masks, PAIRS)),
    "masked": masked,
    "conservation": lambda m, _: conservation(m, EXAMPLE, SAVED.sites).layers,
    "filter sums": lambda m, _: {n: s.first.tolist() for n, s in filter_sums(m, PAIRS).items()},
    "examples": lambda m, _: select_examples(m, [X], 4, example_inputs=EXAMPLE).tolist(),
    "fit": trained,
    "load": loaded,
}
PLAIN: dict[str, Any] = {}
"""What each gives without a mode around it, computed once."""


@contextmanager
def default_device(name: str) -> Iterator[None]:
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def cached(model: nn.Module) -> Iterator[None]:
    """A cache of parametrized weights that has become stale."""
    with parametrize.cached():
        weight, right = (
            model.c.parametrizations.weight.original1,
            model.c.parametrizations.weight.original1.detach() + 0,
        )
        with torch.no_grad():
            weight.zero_()
            model.c.weight  # noqa: B018  computes the weight, which the cache keeps
            weight.copy_(right)
        yield


OFF: dict[str, Callable[[nn.Module], AbstractContextManager[Any]]] = {
    "autocast": lambda _: torch.autocast("cpu", torch.bfloat16),
    "inference mode": lambda _: torch.inference_mode(),
    "no grad": lambda _: torch.no_grad(),
    "default device meta": lambda _: default_device("meta"),
    "device context meta": lambda _: torch.device("meta"),
    "default float64": lambda _: default_dtype(torch.float64),
    "default bfloat16": lambda _: default_dtype(torch.bfloat16),
    "deterministic": lambda _: deterministic(),
    "cached parametrizations": cached,
    "errors of NumPy": lambda _: np.errstate(all="raise"),
}


FURTHER = (
    "l1",
    "random",
    "error curves",
    "line search",
    "reconstruct",
    "hrank",
    "random masks",
    "masked",
    "filter sums",
)
"""Entries that share their way through the library with another one."""


@pytest.mark.parametrize("mode", OFF)
@pytest.mark.parametrize(
    "entry", [pytest.param(name, marks=[pytest.mark.slow] * (name in FURTHER)) for name in ENTRIES]
)
def test_results_do_not_depend_on_a_mode(mode: str, entry: str, tmp_path: Path) -> None:
    run, model = ENTRIES[entry], copy.deepcopy(MODEL)
    if entry not in PLAIN:
        PLAIN[entry] = run(copy.deepcopy(MODEL), tmp_path)
    with OFF[mode](model):
        before = ambient()
        found = run(model, tmp_path)
        assert ambient() == before
    assert found == PLAIN[entry]


def ambient() -> tuple[Any, ...]:
    """The modes that are on."""
    return (
        torch.is_autocast_enabled("cpu"),
        torch.is_inference_mode_enabled(),
        torch.is_grad_enabled(),
        torch.get_default_device(),
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
        parametrize._cache_enabled,
        np.geterr(),
    )


class Own(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


REFUSED: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "FakeTensorMode": FakeTensorMode,
    "FunctionalTensorMode": FunctionalTensorMode,
    "FlopCounterMode": lambda: FlopCounterMode(display=False),
    "Own": Own,
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("entry", ENTRIES)
def test_other_modes_are_refused_by_name(name: str, entry: str, tmp_path: Path) -> None:
    model = copy.deepcopy(MODEL)
    with REFUSED[name](), pytest.raises(UnsupportedMode, match=name):
        ENTRIES[entry](model, tmp_path)


@pytest.mark.parametrize("transform", ["vmap", "grad", "functionalize", "jvp"])
@pytest.mark.parametrize("entry", ["discover", "prune", "cost", "snip"])
def test_transforms_are_refused_by_name(transform: str, entry: str, tmp_path: Path) -> None:
    def inside(x: Tensor) -> Tensor:
        with pytest.raises(UnsupportedMode, match=rf"torch\.func\.{transform}"):
            ENTRIES[entry](MODEL, tmp_path)
        return x.sum()

    given = torch.ones(2)
    if transform == "jvp":
        load_forward_mode()
        torch.func.jvp(inside, (given,), (given,))
    else:
        getattr(torch.func, transform)(inside)(given)


def test_inputs_made_in_inference_mode_are_taken() -> None:
    with torch.inference_mode():
        pairs = [(x.clone(), y.clone()) for x, y in PAIRS]
        example = EXAMPLE.clone()
    for method in ("forward", "taylor"):
        choices = {"method": method, "repair": ["refit", Reconstruct(steps=3)], "progress": False}
        found = prune(MODEL, pairs, "macs<=60%", example_inputs=example, **choices).plan.identity
        assert found == prune(MODEL, PAIRS, "macs<=60%", example_inputs=EXAMPLE, **choices).plan.identity
    assert dict(mask_weights(MODEL, 0.3, score="snip", batches=pairs).report.kept)


@pytest.mark.parametrize("entry", ["discover", "prune", "cost", "fit", "load"])
def test_a_network_made_in_inference_mode_is_refused_with_true_advice(entry: str, tmp_path: Path) -> None:
    with torch.inference_mode():
        model = net()
    work: dict[str, Callable[[nn.Module], Any]] = {
        "discover": lambda m: discover(m, EXAMPLE),
        "prune": lambda m: prune(m, PAIRS, "macs<=60%", example_inputs=EXAMPLE, progress=False),
        "cost": lambda m: measure(m, EXAMPLE),
        "fit": lambda m: fit(m, Examples(), Recipe(epochs=1, batch_size=8), progress=False),
        "load": lambda m: load_pruned(save_pruned(tmp_path / "a.safetensors", SAVED.model, SAVED.plan, SAVED.sites), m),
    }
    with pytest.raises(PruneError, match=re.escape("copy.deepcopy(model)")):
        work[entry](model)
    (tmp_path / "a.safetensors").unlink(missing_ok=True)
    work[entry](copy.deepcopy(model))


def test_a_network_with_memory_within_the_meta_device() -> None:
    with torch.device("meta"):
        assert discover(MODEL, EXAMPLE).dense_hash == SAVED.sites.dense_hash
        model = net()
    with pytest.raises(UnsupportedModel, match="meta"):
        prune(model, PAIRS, "macs<=60%", example_inputs=EXAMPLE, progress=False)


FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.mark.parametrize("file", FLOATS)
@pytest.mark.parametrize("instance", FLOATS)
def test_a_converted_instance_keeps_its_type_or_is_refused(
    file: torch.dtype, instance: torch.dtype, tmp_path: Path
) -> None:
    model = net().to(file)
    result = prune(model, (), "macs<=60%", example_inputs=EXAMPLE, method="l1", progress=False)
    path = save_pruned(tmp_path / "net.safetensors", result.model, result.plan, result.sites)
    fresh = net().to(instance)
    before = digest(fresh)
    if instance in (file, torch.get_default_dtype()):  # in the default type, an instance is as it was built
        assert digest(load_pruned(path, fresh)) == digest(result.model)
        return
    with pytest.raises(CheckpointError, match=f"{instance}.*{file}.*{re.escape('.to(')}"):
        load_pruned(path, fresh)
    assert digest(fresh) == before


def test_exports_within_modes(tmp_path: Path) -> None:
    plain = export_program(SAVED.model, EXAMPLE, tmp_path / "plain.pt2").difference
    for number, mode in enumerate(("autocast", "inference mode", "default device meta")):
        with OFF[mode](SAVED.model):
            assert export_program(SAVED.model, EXAMPLE, tmp_path / f"{number}.pt2").difference == plain
