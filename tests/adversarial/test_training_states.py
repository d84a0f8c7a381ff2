"""Files of training states: damaged ones, and well-sealed ones with hostile contents, give an error of ours."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.pupils import QUICK, examples, learnt, plain
from support.sealed_files import SEAL, TENSORS, header_of, reseal
from torch import Tensor

from scionet.errors import CheckpointError, PruneError
from scionet.files.safetensors_files import hash_tensors
from scionet.network.calling import state_of
from scionet.training.callbacks import Callback
from scionet.training.context import TrainingContext
from scionet.training.state import Epoch, load_state

RECIPE = replace(QUICK, epochs=2, optimiser="adamw", average_decay=0.9, patience=2, batch_size=8)
KEY = "scionet_training"


@dataclass
class Gathering(Callback):
    """Has a state of every kind."""

    best: float = field(default=float("inf"), init=False)
    mean: dict[str, tuple[int, Tensor]] = field(default_factory=dict, init=False)
    numbers: list[int] = field(default_factory=lambda: [1, 2**70], init=False)

    def after_step(self, context: TrainingContext) -> None:
        self.mean = {name: (context.step, p.detach().clone().mul_(2)) for name, p in context.network.named_parameters()}


@dataclass
class Working(Callback):
    """Works with its state in every hook, as callbacks of users do."""

    rate: float = 0.5
    count: int = field(default=0, init=False)
    total: float = field(default=0.0, init=False)
    seen: dict[str, int] = field(default_factory=lambda: {"steps": 0}, init=False)
    lengths: list[int] = field(default_factory=list, init=False)
    pair: tuple[int, str] = field(default=(0, "a"), init=False)
    mean: Tensor | None = field(default=None, init=False)

    def on_start(self, context: TrainingContext) -> None:
        self.count += 1

    def penalty(self, context: TrainingContext) -> Tensor | None:
        weight = next(context.network.parameters())
        return None if self.mean is None else 1e-3 * (weight - self.mean).square().sum()

    def after_backward(self, context: TrainingContext) -> None:
        self.total += self.rate * self.seen["steps"]

    def before_step(self, context: TrainingContext) -> None:
        number, name = self.pair
        self.pair = (number + 1, name.upper())

    def after_step(self, context: TrainingContext) -> None:
        weight = next(context.network.parameters()).detach()
        self.mean = weight.clone() if self.mean is None else self.mean.mul_(0.9).add_(weight, alpha=0.1)
        self.seen["steps"] += 1

    def before_validation(self, context: TrainingContext) -> None:
        self.lengths.append(self.count)

    def after_epoch(self, context: TrainingContext, epoch: Epoch) -> None:
        self.total = float(f"{self.total + sum(self.lengths):.6g}")


def train(file: Path, until: int | None = None) -> str:
    model = plain()
    learnt(
        model,
        RECIPE,
        data=examples(16),
        validation=examples(8, 2),
        state_file=file,
        callbacks=[Gathering(), Working()],
        until=until,
    )
    return hash_tensors(state_of(model))


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a training that paused after its first epoch."""
    file = tmp_path_factory.mktemp("state") / "run.safetensors"
    train(file, until=1)
    return file.read_bytes()


def header_length(content: bytes) -> int:
    return int.from_bytes(content[:8], "little")


def test_one_changed_bit_anywhere_is_refused(state: bytes, tmp_path: Path, fuzz_cases: int) -> None:
    rng, file = random.Random(0), tmp_path / "run.safetensors"
    end = 8 + header_length(state)
    seals = [state.index(name.encode()) for name in (SEAL, TENSORS)]
    regions = [range(8), range(8, end), range(end, len(state)), range(end - 8, end + 8)]
    regions += [range(start, start + 90) for start in seals]
    for case in range(fuzz_cases):
        place, bit = rng.choice(regions[case % len(regions)]), rng.randrange(8)
        damaged = bytearray(state)
        damaged[place] ^= 1 << bit
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            load_state(file)


def test_truncated_and_longer_files_are_refused(state: bytes, tmp_path: Path, fuzz_cases: int) -> None:
    rng, file = random.Random(1), tmp_path / "run.safetensors"
    lengths = [*range(12), header_length(state) + 8, len(state) - 1, *(rng.randrange(len(state)) for _ in range(40))]
    for content in [*(state[:length] for length in lengths), state + b"\0", state * 2, state[::-1]]:
        file.write_bytes(content)
        with pytest.raises(CheckpointError):
            load_state(file)


def test_the_same_state_gives_the_same_bytes(state: bytes, tmp_path: Path) -> None:
    for number in range(3):
        file = tmp_path / f"{number}.safetensors"
        train(file, until=1)
        assert file.read_bytes() == state


VALUES: list[Callable[[], Any]] = [
    lambda: None,
    lambda: True,
    lambda: -1,
    lambda: 10**30,
    lambda: 2**62,
    lambda: 0,
    lambda: 1e308,
    lambda: float("nan"),
    lambda: "",
    lambda: "x" * 5000,
    lambda: "\ud800",
    lambda: [],
    lambda: {},
    lambda: [[]] * 3,
    lambda: {"tensor": "0", "strides": [2**40], "on_cpu": True},
    lambda: {"tuple": 5},
    lambda: {"int": "zz"},
    lambda: json.loads("[" * 200 + "]" * 200),
]


def mutated(record: Any, rng: random.Random) -> Any:
    """A copy of JSON with one entry replaced, removed, added, renamed or doubled."""
    record = copy.deepcopy(record)
    places: list[tuple[Any, Any]] = []

    def collect(value: Any) -> None:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            places.append((value, key))
            if isinstance(item, dict | list):
                collect(item)

    # settings and origin are long, and are only compared
    collect({key: value for key, value in record.items() if key not in ("settings", "origin") or rng.random() < 0.2})
    owner, key = rng.choice(places)
    owner = record if key in record and owner.keys() <= record.keys() else owner
    kind = rng.randrange(5)
    if kind == 0:
        del owner[key]
    elif kind == 1 and isinstance(owner, list):
        owner.append(owner[key])
    elif kind == 1:
        owner[f"{key}x"] = owner.pop(key)
    elif kind == 2 and type(owner[key]) in (int, float):
        owner[key] = owner[key] * rng.choice([-1, 2, 1.5, 1000]) + rng.choice([0, 1])
    else:
        owner[key] = rng.choice(VALUES)()
    return record


def test_well_sealed_states_of_other_contents_give_an_error_of_ours_or_go_on(
    state: bytes, tmp_path: Path, fuzz_cases: int
) -> None:
    rng, file = random.Random(2), tmp_path / "run.safetensors"
    file.write_bytes(state)
    record = json.loads(header_of(file))
    tensors, refused = load_file(file), 0
    cases = fuzz_cases // 2
    for _ in range(cases):
        changed = mutated(record, rng)
        reseal(file, KEY, json.dumps(changed), tensors)
        try:
            load_state(file)
            train(file)
        except PruneError:
            refused += 1
        except Exception as error:
            pytest.fail(f"{error!r} for {json.dumps(changed)[:3000]}")
    assert refused > cases / 2


def train_adam(file: Path, until: int | None = None) -> None:
    """A training with an optimiser of the user's own."""
    model = plain()
    optimizer = torch.optim.NAdam(model.parameters(), lr=0.01)
    learnt(model, QUICK, data=examples(32), state_file=file, optimizer=optimizer, callbacks=[Working()], until=until)


NAMES = ("after_step", "state", "settings", "name", "__dict__", "__class__", "rate", "count", "", "new")


def forged_callbacks(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """States whose last callback has another value in every place, and other names."""
    other = {"tensor": "0", "strides": [1], "on_cpu": True}, {"dict": []}, {"tuple": []}, {"dict": [["steps", None]]}
    values = record["progress"]["callbacks"][-1]["values"]
    for place, (name, value) in enumerate(values):
        pairs = [(name, make()) for make in VALUES] + [(name, each) for each in other] + [(n, value) for n in NAMES]
        pairs += [(n, {"dict": [["a", 1]]}) for n in NAMES]
        for pair in pairs:
            changed = copy.deepcopy(record)
            changed["progress"]["callbacks"][-1]["values"][place] = [*pair]
            yield changed


@pytest.mark.parametrize("train", [train, train_adam])
def test_forged_states_of_callbacks_give_an_error_of_ours_or_go_on(
    train: Callable[..., Any], tmp_path: Path, fuzz_cases: int
) -> None:
    file = tmp_path / "run.safetensors"
    train(file, until=1)
    record, tensors, refused = json.loads(header_of(file)), load_file(file), 0
    cases = [*forged_callbacks(record)]
    for changed in random.Random(3).sample(cases, min(len(cases), fuzz_cases // 2)):
        reseal(file, KEY, json.dumps(changed), tensors)
        refused += is_refused(train, file, changed["progress"]["callbacks"][-1]["values"])
    assert refused > 20


def is_refused(train: Callable[..., Any], file: Path, what: object) -> bool:
    """Whether a training is refused by an error of ours; every other error is a failure."""
    try:
        train(file)
    except PruneError:
        return True
    except Exception as error:
        pytest.fail(f"{error!r} for {what}")
    return False


def other_forms(tensor: Tensor) -> Iterator[Tensor]:
    """A tensor in other shapes and types."""
    yield from (tensor.reshape(-1)[:0], tensor.reshape(1, -1), torch.zeros(()), torch.ones(3), torch.full((), -1.0))
    for dtype in (torch.bool, torch.int32, torch.float64, torch.float16, torch.bfloat16, torch.complex64):
        yield tensor.to(dtype)
    yield from (torch.full_like(tensor, value) for value in (float("nan"), -1, 0) if tensor.is_floating_point())


@pytest.mark.parametrize("train", [train, train_adam])
def test_tensors_of_other_shapes_types_and_values_give_an_error_of_ours_or_go_on(
    train: Callable[..., Any], tmp_path: Path, fuzz_cases: int
) -> None:
    file = tmp_path / "run.safetensors"
    train(file, until=1)
    text, tensors, refused = header_of(file), load_file(file), 0
    cases = [(name, other) for name, tensor in tensors.items() for other in other_forms(tensor)]
    for name, other in random.Random(4).sample(cases, min(len(cases), fuzz_cases // 3)):
        reseal(file, KEY, text, {**tensors, name: other})
        refused += is_refused(train, file, (name, other.shape, other.dtype))
    assert refused > 20


def test_errors_that_are_meant_stay_as_they_are(tmp_path: Path) -> None:
    class Enough(Exception):
        pass

    @dataclass
    class Stopping(Callback):
        kind: str = "meant"

        def after_epoch(self, context: TrainingContext, epoch: Epoch) -> None:
            if epoch.number == 2:
                raise Enough if self.kind == "meant" else RuntimeError("by accident")

    for kind, resumed, fresh in (("meant", Enough, Enough), ("accident", CheckpointError, RuntimeError)):
        file = tmp_path / f"{kind}.safetensors"
        learnt(plain(), QUICK, state_file=file, callbacks=[Stopping(kind)], until=1)
        with pytest.raises(
            resumed, match=None if kind == "meant" else r"after_epoch\(\) of the callback Stopping fails"
        ):
            learnt(plain(), QUICK, state_file=file, callbacks=[Stopping(kind)])
        with pytest.raises(fresh):
            learnt(plain(), QUICK, callbacks=[Stopping(kind)])


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "{}", "[" * 100_000, '{"format_version": 4}', '{"format_version": 1e400}', "\x00", "NaN"]
)
def test_other_texts_are_refused(text: str, tmp_path: Path) -> None:
    reseal(tmp_path / "x.safetensors", KEY, text, {"network/a": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"x\.safetensors is damaged"):
        load_state(tmp_path / "x.safetensors")


def test_tensors_of_other_names_and_shapes_are_refused(state: bytes, tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    file.write_bytes(state)
    text = header_of(file)
    tensors = load_file(file)
    for name, tensor in tensors.items():
        others = {**tensors, name: tensor.reshape(-1)[:0]}, {key: t for key, t in tensors.items() if key != name}
        for other in (*others, {**tensors, f"{name}x": tensor.clone()}, {**others[1], f"other/{name}": tensor}):
            reseal(file, KEY, text, other)
            try:
                train(file)
            except PruneError:
                continue
