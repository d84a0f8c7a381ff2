from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.pupils import QUICK, Execution, Noisy, Recipe, examples, learnt, network, plain

from scionet.errors import CheckpointError, InvalidSetting, PruneError
from scionet.files.atomic import clear_leftovers, whole_file
from scionet.files.safetensors_files import hash_tensors
from scionet.network.calling import state_of
from scionet.training.accuracy import Accuracy
from scionet.training.callbacks import Callback
from scionet.training.context import TrainingContext
from scionet.training.state import STATES, Epoch, TrainingState, best_epoch, load_state, save_state

RECIPE = replace(QUICK, average_decay=0.9, patience=3, optimiser="adamw")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "run.safetensors"


@dataclass
class Mixed(Callback):
    """Settings and state of every kind."""

    masks: dict[str, torch.Tensor] = field(default_factory=lambda: {"a": torch.ones(2, dtype=torch.bool)})
    sizes: tuple[float, ...] = (0.5, 2.0)
    seen: list[tuple[int, torch.Tensor]] = field(default_factory=list, init=False)

    def penalty(self, context: TrainingContext) -> torch.Tensor:
        self.seen.append((context.step, context.network[0].weight.detach().mean()))  # type: ignore[index, union-attr]
        return sum(parameter.square().sum() for parameter in context.network.parameters())  # type: ignore[return-value]


def begun(file: Path, recipe: Recipe = RECIPE, until: int = 1) -> None:
    learnt(network(), recipe, validation=examples(20, 2), state_file=file, until=until)


def test_a_state_comes_back_as_it_was(file: Path, tmp_path: Path) -> None:
    state = learnt(network(), RECIPE, validation=examples(20, 2), until=2, callbacks=[Mixed()]).state
    save_state(file, state)
    again = load_state(file)
    for part in fields(TrainingState):
        before, after = getattr(state, part.name), getattr(again, part.name)
        if part.name in ("network", "average", "best"):
            assert before
            assert hash_tensors(before) == hash_tensors(after)
        elif part.name == "memory":
            assert before.keys() == after.keys()
            assert all(hash_tensors(before[name]) == hash_tensors(after[name]) for name in before)
        elif part.name == "callbacks":
            assert [vars(each) | {"tensors": hash_tensors(each.tensors)} for each in before] == [
                vars(each) | {"tensors": hash_tensors(each.tensors)} for each in after
            ]
            assert before[0].tensors
        else:
            assert before == after
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("correct", "best"), [([], 0), ([None, None], 0), ([None, 5, 7, None, 7, 6], 3), ([0], 1)], ids=str
)
def test_the_best_epoch_is_the_first_of_equals_among_those_validated(correct: list[int | None], best: int) -> None:
    history = [
        Epoch(number, 4 * number, 1.0, 0.1, None if count is None else Accuracy(count, 10))
        for number, count in enumerate(correct, start=1)
    ]
    assert best_epoch(history) == best


def test_what_is_finished_is_not_done_again(file: Path) -> None:
    steps: list[int] = []

    class Watching(Callback):
        def after_step(self, context: TrainingContext) -> None:
            steps.append(context.step)

    model, again = network(), network()
    first = learnt(model, RECIPE, validation=examples(20, 2), state_file=file, callbacks=[Watching()])
    second = learnt(again, RECIPE, validation=examples(20, 2), state_file=file, callbacks=[Watching()])
    assert steps == list(range(1, 13))
    assert hash_tensors(state_of(model)) == hash_tensors(state_of(again))
    assert first.history == second.history
    assert first.status == second.status


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 1}, r"\(seed was 0, is 1\)"),
        (
            {"recipe": replace(RECIPE, learning_rate=0.2, epochs=4)},
            r"recipe\.epochs was 3, is 4; recipe\.learning_rate was 0\.1, is 0\.2",
        ),
        ({"recipe": replace(RECIPE, milestones=(0.5,))}, r"recipe\.milestones was \[0\.5, 0\.75\], is \[0\.5\]"),
        ({"data": examples(71)}, r"data\.examples was 70, is 71; .*data\.tensors\.0 was"),
        ({"data": examples(70, seed=8)}, r"data\.sampled was .*data\.tensors\.1 was"),
        ({"data": Noisy(70)}, r"data\.class was .*data\.sampled was"),
        ({"validation": examples(21, 2)}, r"validation\.examples was 20, is 21"),
        ({"execution": Execution(precision="bf16")}, "precision was no, is bf16"),
    ],
    ids=["seed", "recipe", "milestones", "more data", "other data", "other preparation", "validation", "precision"],
)
def test_other_settings_are_refused_and_listed(options: dict, message: str, file: Path) -> None:
    begun(file)
    content, model = file.read_bytes(), network()
    with pytest.raises(CheckpointError, match=message + r".*; give those, or delete .*run\.safetensors to start again"):
        learnt(model, **{"recipe": RECIPE, "validation": examples(20, 2), "state_file": file, **options})
    assert file.read_bytes() == content
    assert hash_tensors(state_of(model)) == hash_tensors(state_of(network()))


@pytest.mark.parametrize("execution", [Execution(workers=1), Execution(save_steps=1), Execution(parts=2)], ids=str)
def test_how_the_work_is_done_may_change(execution: Execution, file: Path) -> None:
    begun(file)
    result = learnt(network(), RECIPE, validation=examples(20, 2), state_file=file, execution=execution)
    assert result.status.startswith("finished")


def test_another_network_is_refused(file: Path) -> None:
    learnt(network(), QUICK, state_file=file, until=1)
    model = plain()
    with pytest.raises(CheckpointError, match=r"run\.safetensors is of another network: .* '0\.weight'"):
        learnt(model, QUICK, state_file=file)
    assert hash_tensors(state_of(model)) == hash_tensors(state_of(plain()))


@pytest.mark.parametrize("damage", ["truncated", "changed", "text", "foreign"])
def test_a_damaged_file_is_refused(damage: str, file: Path) -> None:
    begun(file)
    content = bytearray(file.read_bytes())
    if damage == "changed":
        content[content.index(b"history") + 20] ^= 1
    if damage == "foreign":
        save_file({"a": torch.zeros(1)}, file)
    else:
        file.write_bytes({"truncated": content[:-50], "changed": content, "text": b"no training"}[damage])
    with pytest.raises(CheckpointError, match=r"run\.safetensors (is truncated|is damaged|contains no training state)"):
        begun(file)


@pytest.mark.parametrize(
    ("here", "advice"), [(3, ".*pip install -U scionet"), (5, "Delete the file to start the training")]
)
def test_another_format_is_refused(here: int, advice: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun(file)
    monkeypatch.setattr("scionet.training.state.STATES", replace(STATES, format=replace(STATES.format, version=here)))
    with pytest.raises(CheckpointError, match=rf"format version 4; this scionet reads {here}\. {advice}"):
        begun(file)


def test_only_what_killed_writers_of_the_same_file_left_is_swept_away(file: Path, tmp_path: Path) -> None:
    others = [tmp_path / name for name in (".0123abcd.other.safetensors", ".hidden.run.safetensors", "x")]
    for path in (*others, tmp_path / ".0123abcd.run.safetensors"):
        path.touch()
    with whole_file(file, ".safetensors", overwrite=True, error=PruneError) as temporary:
        temporary.write_bytes(b"whole")
        assert sorted(tmp_path.iterdir()) == sorted([*others, temporary])
        clear_leftovers(file)  # as another process does that writes the same file
    assert file.read_bytes() == b"whole"
    assert sorted(tmp_path.iterdir()) == sorted([*others, file])


@pytest.mark.parametrize("stage", ["begin", "step"])
def test_one_training_at_a_time_writes_a_state(stage: str, file: Path) -> None:
    class Second(Callback):
        """Starts another training with the same file."""

        def on_start(self, context: TrainingContext) -> None:
            if stage == "begin":
                self._start()

        def after_step(self, context: TrainingContext) -> None:
            if context.step == 5:
                self._start()

        def _start(self) -> None:
            with pytest.raises(
                CheckpointError, match=r"another process is at a training that writes .*run\.safetensors"
            ):
                learnt(network(), QUICK, state_file=file)

    learnt(network(), QUICK, state_file=file, callbacks=[Second()])
    assert list(file.parent.iterdir()) == [file]


def test_states_are_saved_when_told(file: Path) -> None:
    @dataclass
    class Seen(Callback):
        steps: list[int] = field(default_factory=list, init=False)

        def after_step(self, context: TrainingContext) -> None:
            self.steps.append(load_state(file).step)

    seen = Seen()
    learnt(network(), QUICK, state_file=file, callbacks=[seen], execution=Execution(save_steps=3))
    assert seen.steps == [0, 0, 0, 3, 4, 4, 6, 6, 8, 9, 9, 9]
    assert load_state(file).step == 12


def test_a_path_that_cannot_be_written_is_refused_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises((CheckpointError, InvalidSetting)):
        learnt(network(), QUICK, state_file=tmp_path)
