"""What the result of a training depends on: each entry, changed alone, is refused and named."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.pupils import QUICK, Execution, Recipe, examples, learnt, network, plain, tensors
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from scionet.data.augmentation import Augmentation
from scionet.data.examples import ImageExamples, Pairs
from scionet.data.folders import ImageFolder
from scionet.data.images import Preprocessing
from scionet.errors import CheckpointError, PruneError
from scionet.files.safetensors_files import hash_tensors
from scionet.network.calling import state_of
from scionet.training.callbacks import Callback
from scionet.training.identity import of_examples, of_network
from scionet.training.loading import pairs
from scionet.training.outline import outline
from scionet.training.state import TrainingState, load_state

RECIPE = replace(QUICK, epochs=2, teacher_weight=0.5)


@dataclass(frozen=True)
class Scaling(Callback):
    """A callback with a setting."""

    factor: float = 1.0


class Slower(Recipe):
    """A schedule of its own."""

    def rate(self, step: int, per_epoch: int) -> float:
        return super().rate(step, per_epoch) / 2


class Rows(Dataset):
    """A data set of anybody's."""

    def __init__(self, labels: list[int], shift: float = 0.0, note: object = None) -> None:
        self.images, self.labels, self.shift, self.note = tensors(70)[0], labels, shift, note

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index] + self.shift * (index == 33), self.labels[index]


def changed(model: nn.Module, how: Callable[[Any], object]) -> nn.Module:
    how(model)
    return model


def rows(last: int = 0, **more: Any) -> Rows:
    return Rows([*tensors(70)[1].tolist()[:-1], last], **more)


def relabelled(seed: int) -> TensorDataset:
    images, labels = tensors(70, seed)
    return TensorDataset(images, torch.where(torch.arange(70) == 69, (labels + 1) % 5, labels))


def options(**changes: Any) -> dict[str, Any]:
    """The arguments of a training, with changes; networks are new each time."""
    model = changes.pop("model", None) or network()
    groups = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4, **changes.pop("sgd", {})}
    given = {
        "recipe": RECIPE,
        "data": examples(),
        "validation": examples(20, 2),
        "teacher": network(7),
        "callbacks": [Scaling(), Callback()],
        "optimizer": torch.optim.SGD(model.parameters(), **groups),
        "depends_on": {"plan": "a", "mask": torch.ones(3)},
        **changes,
    }
    return {"model": model, **given}


CASES: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "weights": (lambda: options(model=network(1)), r"weights was"),
    "one weight": (
        lambda: options(model=changed(network(), lambda m: m[6].weight.data[0, 0].add_(1e-3))),
        r"\(weights was",
    ),
    "a buffer": (
        lambda: options(model=changed(network(), lambda m: m[1].running_var.fill_(2))),
        r"\(weights was",
    ),
    "dropout": (
        lambda: options(model=changed(network(), lambda m: setattr(m[3], "p", 0.5))),
        r"\(network\.3\.p was 0\.2, is 0\.5",
    ),
    "another module": (
        lambda: options(model=changed(network(), lambda m: m.__setitem__(2, nn.ReLU6()))),
        r"network\.2\.class was torch\.nn\.modules\.activation\.ReLU, is torch.*ReLU6",
    ),
    "frozen": (
        lambda: options(model=changed(network(), lambda m: m[0].weight.requires_grad_(False))),
        r"\(parameters\.0\.weight was group 0, is group 0, frozen",
    ),
    "labels": (lambda: options(data=relabelled(1)), r"\(data\.sampled was .*; data\.tensors\.1 was"),
    "order of the data": (
        lambda: options(data=Subset(examples(), list(range(69, -1, -1)))),
        r"data\.indices was not there, is 70 entries",
    ),
    "validation labels": (
        lambda: options(validation=TensorDataset(tensors(20, 2)[0], 4 - tensors(20, 2)[1])),
        r"\(validation\.sampled was .*; validation\.tensors\.1 was",
    ),
    "no validation": (lambda: options(validation=None), r"validation was not there, is None"),
    "learning rate": (lambda: options(sgd={"lr": 0.2}), r"\(optimiser\.groups\.0\.lr was 0\.1, is 0\.2\)"),
    "momentum": (lambda: options(sgd={"momentum": 0.5}), r"\(optimiser\.groups\.0\.momentum was 0\.9, is 0\.5\)"),
    "weight decay": (lambda: options(sgd={"weight_decay": 0}), r"\(optimiser\.groups\.0\.weight_decay was 0\.0001"),
    "optimiser of the recipe": (
        lambda: options(optimizer=None),
        r"optimiser\.class was torch\.optim\.sgd\.SGD, is not",
    ),
    "schedule": (lambda: options(recipe=Slower(**vars(RECIPE))), r"\(schedule was"),
    "recipe": (lambda: options(recipe=replace(RECIPE, clip_norm=1.0)), r"\(recipe\.clip_norm was None, is 1\.0\)"),
    "seed": (lambda: options(seed=1), r"\(seed was 0, is 1\)"),
    "teacher": (lambda: options(teacher=network(8)), r"\(teacher\.weights was"),
    "dropout of the teacher": (
        lambda: options(teacher=changed(network(7), lambda m: setattr(m[3], "p", 0.5))),
        r"\(teacher\.modules\.3\.p was 0\.2, is 0\.5\)",
    ),
    "plan": (lambda: options(depends_on={"plan": "b", "mask": torch.ones(3)}), r"\(depends_on\.plan was a, is b\)"),
    "tensor": (lambda: options(depends_on={"plan": "a", "mask": torch.zeros(3)}), r"\(depends_on\.mask was"),
    "precision": (lambda: options(execution=Execution(precision="bf16")), r"\(precision was no, is bf16\)"),
    "no callbacks": (lambda: options(callbacks=[]), r"Scaling is missing; scionet\.training\.callbacks\.Callback is"),
    "a missing callback": (
        lambda: options(callbacks=[Scaling()]),
        r"\(scionet\.training\.callbacks\.Callback is missing",
    ),
    "settings of a callback": (
        lambda: options(callbacks=[Scaling(0.5), Callback()]),
        r"\(Scaling\.factor was 1\.0, is 0\.5\)",
    ),
    "a start": (
        lambda: options(start=replace(STATE[0], step=0, history=())),
        r"start was not there, is .*weights was",
    ),
}
STATE: list[TrainingState] = []


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("begun") / "run.safetensors"
    STATE.append(learnt(**options(), state_file=file, until=1).state)
    return file.read_bytes()


@pytest.mark.parametrize("case", CASES)
def test_what_differs_is_refused_and_named(case: str, begun: bytes, tmp_path: Path) -> None:
    make, message = CASES[case]
    file = tmp_path / "run.safetensors"
    file.write_bytes(begun)
    given = make()
    before = hash_tensors(state_of(given["model"]))
    with pytest.raises(PruneError, match=message + r".*; give those, or delete .*run\.safetensors to start again"):
        learnt(**given, state_file=file)
    assert file.read_bytes() == begun
    assert hash_tensors(state_of(given["model"])) == before
    assert list(tmp_path.iterdir()) == [file]


def test_the_same_goes_on(begun: bytes, tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    file.write_bytes(begun)
    assert learnt(**options(), state_file=file).status.startswith("finished")


def test_a_network_as_the_training_left_it_goes_on(tmp_path: Path) -> None:
    file, model, whole = tmp_path / "run.safetensors", network(), network()
    recipe = replace(QUICK, epochs=3, average_decay=0.9)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for until in (1, 2, 3, 3):
        learnt(model, recipe, state_file=file, until=until, optimizer=optimizer)
    learnt(whole, recipe, optimizer=torch.optim.Adam(whole.parameters(), lr=0.01))
    assert hash_tensors(state_of(model)) == hash_tensors(state_of(whole))


def test_an_optimiser_with_another_past_is_refused(tmp_path: Path) -> None:
    def begun() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = plain()
        return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    file, (model, optimizer) = tmp_path / "run.safetensors", begun()
    learnt(model, optimizer=optimizer, state_file=file, until=1)
    model, optimizer = begun()
    optimizer.state[model[1].weight]["momentum_buffer"] = torch.ones(16, 72)  # type: ignore[index]
    with pytest.raises(CheckpointError, match=r"\(optimiser_state was"):
        learnt(model, optimizer=optimizer, state_file=file)


def test_a_training_from_a_state_goes_on_from_that_state_only(tmp_path: Path) -> None:
    first = [learnt(network(), QUICK, until=1, seed=seed).state for seed in (0, 0)]
    file = tmp_path / "run.safetensors"
    other = replace(first[0], network={name: tensor + 0 for name, tensor in first[0].network.items()})
    changed_state = replace(first[0], network={name: tensor * 2 for name, tensor in first[0].network.items()})
    learnt(network(), QUICK, start=first[0], state_file=file, until=2)
    with pytest.raises(CheckpointError, match=r"\(start was .{60}\.\.\., is"):
        learnt(network(), QUICK, start=changed_state, state_file=file)
    with pytest.raises(CheckpointError, match=r"start was .* is not there"):
        learnt(network(), QUICK, state_file=file)
    model = network(5)  # its weights come from the state
    learnt(model, QUICK, start=other, state_file=file)
    whole = network()
    learnt(whole, QUICK)
    assert hash_tensors(state_of(model)) == hash_tensors(state_of(whole))


@pytest.fixture
def album(tmp_path: Path) -> Path:
    for label in "ab":
        (tmp_path / "album" / label).mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (6, 6), (number, 0, 9)).save(tmp_path / "album" / label / f"{number:02}.png")
    return tmp_path / "album"


def of_folder(album: Path, preparation: Preprocessing | None = None, **more: Any) -> dict[str, Any]:
    return of_examples(ImageExamples(ImageFolder(album), preparation or Preprocessing(), **more), pairs)


@pytest.mark.parametrize(
    ("change", "entry"),
    [
        (lambda album: (album / "a" / "07.png").rename(album / "a" / "07x.png"), {"files"}),
        (lambda album: Image.new("RGB", (6, 7)).save(album / "a" / "07.png"), {"sizes"}),
        (lambda album: (album / "b" / "00.png").rename(album / "a" / "99.png"), {"files", "labels"}),
        (lambda album: (album / "b").rename(album / "0"), {"files"}),
    ],
    ids=["name", "size", "label", "class"],
)
def test_every_file_of_a_folder_counts(change: Callable[[Path], object], entry: set[str], album: Path) -> None:
    before, again = of_folder(album), of_folder(album)
    change(album)
    after = of_folder(album)
    assert before == again
    assert {key for key in before if before[key] != after[key]} >= entry


def test_the_preparation_of_pictures_counts(album: Path) -> None:
    found = [
        of_folder(album),
        of_folder(album, Preprocessing(size=7)),
        of_folder(album, augmentation=Augmentation("shift")),
        of_folder(album, augmentation=Augmentation("shift", padding=2)),
        of_folder(album, indices=range(39)),
        of_folder(album, indices=[*range(38), 39, 38]),
    ]
    assert all(one != other for place, one in enumerate(found) for other in found[:place])


def shifted(image: Tensor, by: float) -> Tensor:
    return image + by


DIFFERENT: list[tuple[str, Callable[[], Any], Callable[[], Any]]] = [
    ("labels in a list", rows, lambda: rows(last=3)),
    ("an attribute", rows, lambda: rows(shift=1.0)),
    ("subset", lambda: Subset(examples(), range(40)), lambda: Subset(examples(), [*range(33), 34, 33, *range(35, 40)])),
    ("parts", lambda: ConcatDataset([examples(), rows()]), lambda: ConcatDataset([examples(), rows(last=4)])),
    (
        "transform",
        lambda: Pairs(examples(), transform=functools.partial(shifted, by=1)),
        lambda: Pairs(examples(), transform=functools.partial(shifted, by=2)),
    ),
    ("closure", lambda: rows(note=closure(1)), lambda: rows(note=closure(2))),
    ("array", lambda: rows(note=np.arange(40)), lambda: rows(note=np.arange(40)[::-1])),
    ("picture", lambda: rows(note=Image.new("L", (2, 2))), lambda: rows(note=Image.new("L", (2, 2), 1))),
    ("set", lambda: rows(note={"a", "b"}), lambda: rows(note={"a", "c"})),
    ("pairs in a list", lambda: listed(rows()), lambda: listed(rows(last=2))),
]


def listed(data: Rows) -> list[tuple[Tensor, int]]:
    return [data[index] for index in range(len(data))]


def closure(shift: int) -> Callable[[int], int]:
    return lambda value: value + shift


@pytest.mark.parametrize(("one", "other"), [case[1:] for case in DIFFERENT], ids=[case[0] for case in DIFFERENT])
def test_other_data_have_another_identity(one: Callable[[], Any], other: Callable[[], Any]) -> None:
    assert of_examples(one(), pairs) == of_examples(one(), pairs)
    assert of_examples(one(), pairs) != of_examples(other(), pairs)


def test_cycles_and_what_cannot_be_described_end() -> None:
    data = rows(note=torch.Generator())
    data.note = [
        data,
        object(),
        open,
        torch,
        float("nan"),
        {1: data},
        np.random.default_rng(0),
        torch.eye(2).to_sparse(),
    ]
    deep: list[Any] = []
    for _ in range(500):
        deep = [deep]
    assert outline(data) == outline(data)
    assert "0x" not in str(outline(data))
    assert outline(deep) == outline(deep)


def test_public_plain_attributes_identify_a_network() -> None:
    model, before = network(), of_network(network())
    model.eval()
    model[3]._calls, model[3].table = 7, {"a": 1}  # type: ignore[index, union-attr]
    assert of_network(model) == before
    model[3].sizes = [1, (2, None)]  # type: ignore[index, union-attr]
    assert of_network(model) == {**before, "3": {**before["3"], "sizes": {"0": 1, "1": {"0": 2, "1": None}}}}


def test_a_state_says_what_it_depends_on(begun: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(begun)
    state = load_state(tmp_path / "x.safetensors")
    assert state.settings["data"]["examples"] == 70
    assert state.origin["weights"] == hash_tensors(state_of(network()))
