"""State and settings of callbacks: saved, restored, and refused where they differ."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.pupils import QUICK, Execution, Noisy, learnt, network
from torch import Tensor, nn

from scionet.errors import TrainingError
from scionet.files.safetensors_files import hash_tensors
from scionet.network.calling import state_of
from scionet.sparse_training.rewind import HeldAtZero
from scionet.torch_internals import tree_flatten
from scionet.training.callback_state import CallbackState, decoded, described, encoded
from scionet.training.callbacks import Callback
from scionet.training.context import TrainingContext
from scionet.training.state import TrainingState, load_state, save_state


@dataclass
class Averaging(Callback):
    """Pulls weights towards their running mean, ever more strongly: what it has gathered decides the weights."""

    decay: float = 0.9
    steps: int = field(default=0, init=False)
    mean: dict[str, Tensor] = field(default_factory=dict, init=False)

    def on_start(self, context: TrainingContext) -> None:
        if not self.mean:
            self.mean = {name: p.detach().clone() for name, p in context.network.named_parameters()}

    @torch.no_grad()
    def after_step(self, context: TrainingContext) -> None:
        self.steps += 1
        for name, parameter in context.network.named_parameters():
            self.mean[name].lerp_(parameter, 1 - self.decay)
            parameter.lerp_(self.mean[name], min(0.5, 0.02 * self.steps))


@dataclass(frozen=True)
class Scaling(Callback):
    """Without state."""

    factor: float = 1.0

    def before_step(self, context: TrainingContext) -> None:
        for parameter in context.network.parameters():
            parameter.grad.mul_(self.factor)  # type: ignore[union-attr]


class Stop(Exception):
    """Ends a training in the middle."""


def stopping(at: int) -> Callback:
    """A callback that ends the training at a step, in every life of it the same."""

    class Stopping(Callback):
        def after_step(self, context: TrainingContext) -> None:
            if context.step == at:
                raise Stop

    return Stopping()


def broken_off(file: Path, callbacks: Sequence[Callback], at: int = 7) -> None:
    """A training that ends in the middle of an epoch, saved before."""
    with pytest.raises(Stop):
        learnt(network(), data=Noisy(70), state_file=file, callbacks=[*callbacks, stopping(at)], execution=SAVING)


SAVING = Execution(save_steps=3)


@pytest.mark.parametrize("at", [2, 5, 7, 8, 11])
def test_a_training_goes_on_with_the_state_of_its_callbacks(at: int, tmp_path: Path) -> None:
    unbroken, whole = network(), Averaging()
    learnt(unbroken, data=Noisy(70), callbacks=[whole, stopping(0)])
    file = tmp_path / "run.safetensors"
    broken_off(file, [Averaging()], at)
    assert load_state(file).step == max(step for step in (0, 3, 4, 6, 8, 9) if step < at)
    model, callback = network(), Averaging()
    learnt(model, data=Noisy(70), state_file=file, callbacks=[callback, stopping(0)], execution=SAVING)
    assert hash_tensors(state_of(model)) == hash_tensors(state_of(unbroken))
    assert callback.steps == whole.steps == 12
    assert hash_tensors(callback.mean) == hash_tensors(whole.mean)


def test_a_paused_training_goes_on_with_the_state_of_its_callbacks() -> None:
    unbroken, model = network(), network()
    learnt(unbroken, callbacks=[Averaging(), Scaling(0.5)])
    paused = learnt(model, callbacks=[Averaging(), Scaling(0.5)], until=1)
    learnt(model, callbacks=[Averaging(), Scaling(0.5)], start=paused.state)
    assert hash_tensors(state_of(model)) == hash_tensors(state_of(unbroken))


def test_the_state_is_a_copy() -> None:
    callback = Averaging()
    state = learnt(network(), callbacks=[callback], until=1).state
    before = [hash_tensors(each.tensors) for each in state.callbacks or ()]
    callback.mean["0.weight"].zero_()
    assert [hash_tensors(each.tensors) for each in state.callbacks or ()] == before


OTHERS: dict[str, tuple[Callable[[], list[Callback]], str]] = {
    "missing": (lambda: [Scaling(0.5)], r"other callbacks \(test_callback_state\.Averaging is missing\)"),
    "none": (list, r"\(test_callback_state\.Averaging is missing; test_callback_state\.Scaling is missing\)"),
    "extra": (lambda: [Averaging(), Scaling(0.5), Scaling(0.5)], r"\(test_callback_state\.Scaling is new\)"),
    "another": (
        lambda: [Averaging(), HeldAtZero({})],
        r"\(test_callback_state\.Scaling is missing; scionet\.sparse_training\.rewind\.HeldAtZero is new\)",
    ),
    "order": (
        lambda: [Scaling(0.5), Averaging()],
        r"\(the order was test_callback_state\.Averaging, test_callback_state\.Scaling, is",
    ),
    "settings": (
        lambda: [Averaging(0.8), Scaling(0.25)],
        r"\(Averaging\.decay was 0\.9, is 0\.8; Scaling\.factor was 0\.5, is 0\.25\)",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
@pytest.mark.parametrize("from_file", [True, False])
def test_other_callbacks_are_refused_with_what_differs(case: str, from_file: bool, tmp_path: Path) -> None:
    others, message = OTHERS[case]
    file, model = tmp_path / "run.safetensors", network(seed=5)
    begun = learnt(network(), state_file=file, callbacks=[Averaging(), Scaling(0.5)], until=1)
    content, weights = file.read_bytes(), hash_tensors(state_of(model))
    options: dict[str, Any] = {"state_file": file} if from_file else {"start": begun.state}
    advice = r"give those, or delete .*run\.safetensors" if from_file else r"start=state\.with_new_callbacks\(\)"
    with pytest.raises(TrainingError, match=f"{message}.*; .*{advice}"):
        learnt(model, callbacks=others(), **options)
    assert file.read_bytes() == content
    assert hash_tensors(state_of(model)) == weights


def test_masks_are_settings() -> None:
    masks = {"0.weight": torch.ones(6, 2, 3, 3, dtype=torch.bool)}
    paused = learnt(network(), callbacks=[HeldAtZero(masks)], until=1)
    learnt(network(), callbacks=[HeldAtZero({name: mask.clone() for name, mask in masks.items()})], start=paused.state)
    masks["0.weight"][0, 0, 0, 0] = False
    with pytest.raises(TrainingError, match=r"HeldAtZero\.masks\.0\.weight was bool \(6, 2, 3, 3\) \w+, is bool \(6,"):
        learnt(network(), callbacks=[HeldAtZero(masks)], start=paused.state)


def test_new_callbacks_start_from_the_beginning_where_that_is_said(tmp_path: Path) -> None:
    paused = learnt(network(), callbacks=[Averaging()], until=1)
    callback, file = Averaging(0.5), tmp_path / "run.safetensors"
    learnt(network(), callbacks=[callback], start=paused.state.with_new_callbacks(), state_file=file, until=2)
    assert callback.steps == 4
    with pytest.raises(TrainingError, match=r"Averaging\.decay was 0\.5, is 0\.9"):
        learnt(network(), callbacks=[Averaging()], state_file=file)


class Plain(Callback):
    """No dataclass."""

    def __init__(self) -> None:
        self.rate, self.count = 0.5, 0


class Late(Callback):
    """No dataclass, and what it holds comes later."""

    def after_step(self, context: TrainingContext) -> None:
        self.count = getattr(self, "count", 0) + 1


class Derived(Scaling):
    """A dataclass whose constructor takes something else."""

    def __init__(self, factors: list[float]) -> None:
        super().__init__()
        self.__dict__["factors"] = factors


@dataclass
class Hidden(Callback):
    """A setting that is in no field."""

    rate: InitVar[float] = 0.5
    count: int = field(default=0, init=False)


@dataclass
class Counting(Callback):
    """A setting that changes."""

    count: int = 0

    def after_step(self, context: TrainingContext) -> None:
        self.count += 1


@dataclass
class Holding(Callback):
    """Gathers something in the second step."""

    make: Callable[[nn.Module], Any]

    def settings(self) -> Mapping[str, Any]:
        return {}

    def state(self) -> Mapping[str, Any]:
        return {"held": getattr(self, "held", None)}

    def after_step(self, context: TrainingContext) -> None:
        if context.step == 2:
            self.held = self.make(context.network)


@dataclass
class Scheduled(Callback):
    """A setting that cannot be compared."""

    schedule: Callable[[int], float] = lambda step: 1 / step


class Phase(Enum):
    FIRST = 1


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (Plain(), r"the callback Plain holds rate, count, and does not say .* Make it a dataclass .*settings\(\)"),
        (Late(), r"the callback Late holds count, and does not say .* override settings\(\)"),
        (
            Derived([0.5]),
            r"the callback Derived holds factor, factors, and .* dataclass without a constructor of its own",
        ),
        (Hidden(), r"the callback Hidden holds count, and does not say"),
        (Counting(), r"settings of the callback Counting changed .*count was 0, is 4.* a field .* with init=False"),
        (Holding(lambda network: network[0]), r"Holding\.held is of type Conv2d, which a training state cannot hold"),
        (Holding(lambda network: [{"a": (1, Phase.FIRST)}]), r"Holding\.held\[0\]\['a'\]\[1\] is of type Phase"),
        (Holding(lambda network: {1: 2}), r"Holding\.held is of type dict, .* dicts \(with strings as keys\)"),
        (Holding(lambda network: network[0].weight.sum()), r"Holding\.held requires gradients.*Holding\.held\.detach"),
        (Holding(lambda network: torch.eye(2).to_sparse()), r"Holding\.held is a Tensor of layout torch\.sparse_coo"),
        (Scheduled(), r"Scheduled\.schedule is of type function, .* override settings\(\)"),
    ],
    ids=[
        "plain class",
        "late",
        "constructor",
        "argument",
        "mutable setting",
        "module",
        "enum",
        "keys",
        "graph",
        "sparse",
        "function",
    ],
)
@pytest.mark.parametrize("saved", [True, False])
def test_what_would_be_lost_is_refused_in_the_first_epoch(
    callback: Callback, message: str, saved: bool, tmp_path: Path
) -> None:
    callback = copy.copy(callback)
    file = tmp_path / "run.safetensors" if saved else None
    with pytest.raises(TrainingError, match=message):
        learnt(network(), replace(QUICK, epochs=100), callbacks=[callback], state_file=file)


def test_attributes_beside_the_fields_and_slots_are_state() -> None:
    @dataclass(slots=True)
    class Slotted(Callback):
        rate: float = 0.5
        count: int = field(default=3, init=False)

    slotted, averaging = Slotted(), Averaging()
    slotted.extra = "x"  # type: ignore[attr-defined]
    averaging.__dict__["extra"] = 2
    assert slotted.state() == {"count": 3, "extra": "x"}
    assert slotted.settings() == {"rate": 0.5}
    assert averaging.state() == {"steps": 0, "mean": {}, "extra": 2}
    assert averaging.settings() == {"decay": 0.9}
    slotted.load_state({"count": 5, "extra": "y"})
    assert slotted.state() == {"count": 5, "extra": "y"}


@dataclass(frozen=True)
class _Inner:
    steps: tuple[int, ...]


def test_settings_are_described() -> None:
    value = {"a": _Inner((1, 2)), "path": Path("x/y"), "t": torch.ones(2)}
    found = described(value, "here")
    assert found["a"] == {"class": "_Inner", "steps": [1, 2]}
    assert found["path"] == "x/y"
    assert found["t"] == described(torch.ones(2), "") != described(torch.ones(2, dtype=torch.int64), "")
    assert described(torch.ones(2), "") != described(torch.ones(1, 2), "") != described(2 * torch.ones(1, 2), "")


PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4)
TENSORS = st.tuples(st.lists(st.integers(0, 3), max_size=4), st.integers(0, 99)).map(
    lambda given: torch.randn(given[0], generator=torch.Generator().manual_seed(given[1]))
)
VALUES = st.recursive(
    PLAIN | TENSORS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
)


@given(st.dictionaries(st.text(min_size=1, max_size=4), VALUES, max_size=3))
def test_every_state_comes_back_from_a_file_as_it_was(tmp_path_factory: pytest.TempPathFactory, state: dict) -> None:
    values, tensors = encoded(state, "Callback")
    kept = through_file(CallbackState("kind", {}, values, tensors), tmp_path_factory.mktemp("state"))
    found = decoded(kept, torch.device("cpu"))
    (first, form), (second, other_form) = tree_flatten(state), tree_flatten(found)
    assert form == other_form
    for one, two in zip(first, second, strict=True):
        assert type(one) is type(two)
        assert torch.equal(one, two) and one.stride() == two.stride() if isinstance(one, Tensor) else one == two


def through_file(kept: CallbackState, folder: Path) -> CallbackState:
    save_state(folder / "x.safetensors", TrainingState(0, {}, {}, {}, {}, (), 0.0, {}, {}, {}, (kept,)))
    return (load_state(folder / "x.safetensors").callbacks or ())[0]


def test_tensors_keep_their_memory_format(tmp_path: Path) -> None:
    tensor = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    kept = through_file(CallbackState("kind", {}, *encoded({"mean": tensor}, "x")), tmp_path)
    found = decoded(kept, torch.device("cpu"))["mean"]
    assert torch.equal(found, tensor)
    assert found.stride() == tensor.stride()


@pytest.mark.parametrize(("on_cpu", "device"), [(True, "cpu"), (False, "meta")])
def test_tensors_go_to_the_device_where_they_were(on_cpu: bool, device: str) -> None:
    values, tensors = encoded({"mean": torch.ones(2)}, "x")
    assert values["mean"]["on_cpu"]
    values["mean"]["on_cpu"] = on_cpu
    assert decoded(CallbackState("", {}, values, tensors), torch.device("meta"))["mean"].device.type == device


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.complex64], ids=str)
def test_tensors_keep_their_type(dtype: torch.dtype) -> None:
    kept = CallbackState("kind", {}, *encoded({"seen": torch.tensor([1, 0, 1]).to(dtype)}, "x"))
    assert decoded(kept, torch.device("cpu"))["seen"].dtype == dtype
