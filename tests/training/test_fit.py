import copy
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import GeneralTracker
from support.pupils import QUICK, Execution, Noisy, Recipe, examples, learnt, network, plain, tensors
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from scionet.errors import CheckpointError, InvalidSetting, TrainingError
from scionet.files.safetensors_files import hash_tensors
from scionet.network.calling import state_of
from scionet.training.accuracy import Accuracy, accuracy
from scionet.training.callbacks import Callback
from scionet.training.context import TrainingContext
from scionet.training.fit import fit
from scionet.training.order import Order
from scionet.training.state import Epoch


def weights(model: nn.Module) -> str:
    return hash_tensors(state_of(model))


def naive(model: nn.Module, recipe: Recipe, seed: int = 0) -> nn.Module:
    """The loop that everybody writes, on the examples in the order that is promised."""
    images, labels = tensors(70)
    order = Order(70, recipe.batch_size, seed)
    vectors = [p for p in model.parameters() if p.ndim == 1]
    matrices = [p for p in model.parameters() if p.ndim > 1]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": recipe.weight_decay if recipe.decay_vectors else 0.0},
    ]
    if recipe.optimiser == "adamw":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate)
    else:
        optimizer = torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.nesterov)
    mean = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    model.train()
    for step, batch in enumerate(order.batches(0, recipe.steps(70 // recipe.batch_size))):
        chosen = [index for index, _ in batch]
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * recipe.rate(step, 70 // recipe.batch_size)
        loss = functional.cross_entropy(model(images[chosen]), labels[chosen], label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        if recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        decay = min(recipe.average_decay or 0, (2 + step) / (11 + step))
        for name, tensor in model.state_dict().items():
            mean[name] = decay * mean[name] + (1 - decay) * tensor if tensor.is_floating_point() else tensor.clone()
    if recipe.average_decay is not None:
        model.load_state_dict(mean)
    return model


def quiet_network() -> nn.Module:
    """Convolution and BatchNorm without dropout."""
    model = network()
    model[3] = nn.Identity()  # type: ignore[index, operator]
    return model


@pytest.mark.parametrize(
    "recipe",
    [
        QUICK,
        replace(QUICK, epochs=2.5, schedule="step", nesterov=False, decay_vectors=False, weight_decay=0.1),
        replace(QUICK, optimiser="adamw", learning_rate=0.01, label_smoothing=0.1, clip_norm=0.5, warmup_epochs=1),
        replace(QUICK, average_decay=0.9),
    ],
    ids=["sgd", "steps", "adamw", "average"],
)
def test_it_is_the_loop_that_everybody_writes(recipe: Recipe) -> None:
    model, expected = quiet_network(), naive(quiet_network(), recipe)
    before = copy.deepcopy(model)
    result = learnt(model, recipe)
    assert result.status.startswith("finished")
    for (name, tensor), other in zip(state_of(model).items(), state_of(expected).values(), strict=True):
        torch.testing.assert_close(tensor, other, msg=name)
    assert not torch.allclose(model[0].weight, before[0].weight, atol=1e-3)  # type: ignore[index, arg-type]


@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_parts_of_a_batch_give_the_gradient_of_the_whole(clip_norm: float | None) -> None:
    model, other = plain(), plain()
    learnt(model, replace(QUICK, clip_norm=clip_norm))
    learnt(other, replace(QUICK, clip_norm=clip_norm), execution=Execution(parts=4))
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two)


def test_workers_change_nothing() -> None:
    model, other = network(), network()
    learnt(model, data=Noisy(70))
    learnt(other, data=Noisy(70), execution=Execution(workers=2))
    assert weights(model) == weights(other)


def test_channels_last_changes_rounding_only() -> None:
    model, other, formats = quiet_network(), quiet_network(), []
    other[0].register_forward_hook(lambda _m, inputs, _o: formats.append(inputs[0].stride()))  # type: ignore[index, union-attr]
    learnt(model)
    learnt(other, execution=Execution(channels_last=True))
    assert set(formats) == {(72, 1, 12, 2)}
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


def test_the_seed_decides() -> None:
    models = [network() for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        torch.manual_seed(random.randrange(1000))  # must not matter
        learnt(model, seed=seed, data=Noisy(70))
    assert weights(models[0]) == weights(models[1]) != weights(models[2])


def test_random_numbers_modes_and_the_network_are_left_alone() -> None:
    model, teacher = network().eval(), plain().train()
    before = dict(vars(model)), random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]  # noqa: NPY002
    learnt(model, replace(QUICK, teacher_weight=0.5), teacher=teacher, data=Noisy(70))
    after = dict(vars(model)), random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]  # noqa: NPY002
    assert after[:3] == before[:3]
    assert torch.equal(after[3], before[3])
    assert not any(module.training for module in model.modules())
    assert teacher.training
    assert type(model) is nn.Sequential
    assert not model._forward_hooks
    assert weights(teacher) == weights(plain())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_history_says_what_happened() -> None:
    model, seen = network(), []

    class Losses(Callback):
        def after_epoch(self, context: TrainingContext, epoch: Epoch) -> None:
            context.network.eval()
            seen.append((epoch, accuracy(context.network, [tensors(30, 2)])))
            context.network.train()

    result = learnt(model, validation=examples(30, 2), callbacks=[Losses()])
    assert [epoch.number for epoch in result.history] == [1, 2, 3]
    assert [epoch.step for epoch in result.history] == [4, 8, 12]
    assert [(epoch, epoch.validation) for epoch in result.history] == seen
    assert result.history[-1].learning_rate == QUICK.learning_rate * QUICK.rate(11, 4)
    assert result.history[-1].loss < result.history[0].loss
    assert result.history[-1].validation.seen == 30  # type: ignore[union-attr]


def test_the_loss_of_an_epoch_is_the_mean_of_its_steps() -> None:
    model, recipe = plain(), replace(QUICK, epochs=1, schedule="constant", learning_rate=1e-12)
    images, labels = tensors(70)
    chosen = [index for batch in Order(70, 16, 0).batches(0, 4) for index, _ in batch]
    expected = functional.cross_entropy(model(images[chosen]), labels[chosen]).item()
    assert learnt(model, recipe).history[0].loss == pytest.approx(expected, rel=1e-5)


class Counting(nn.Module):
    """Its parameter counts epochs; in each it is right for as many of ten examples as the list says."""

    def __init__(self, right: list[int]) -> None:
        super().__init__()
        self.count, self.right = nn.Parameter(torch.zeros(())), right

    def forward(self, x: Tensor) -> Tensor:
        wanted = self.right[min(round(float(self.count)), len(self.right)) - 1] if not self.training else 0
        good = (x[:, 0] < wanted).float()
        return torch.stack([1 - good, good], 1) + 0 * self.count


def counted(right: list[int], patience: int | None) -> tuple[Counting, list[Epoch], str]:
    class PerEpoch(Callback):
        def after_step(self, context: TrainingContext) -> None:
            context.network.count.data.fill_(-(-context.step // 4))  # type: ignore[union-attr]

    model = Counting(right)
    validation = TensorDataset(torch.arange(10.0)[:, None], torch.ones(10, dtype=torch.long))
    data = TensorDataset(torch.zeros(8, 1), torch.zeros(8, dtype=torch.long))
    result = fit(
        model,
        data,
        Recipe(epochs=len(right), batch_size=2, patience=patience),
        validation=validation,
        callbacks=[PerEpoch()],
    )
    return model, list(result.history), result.status


@pytest.mark.parametrize(
    ("right", "patience", "epochs", "best"),
    [
        ([3, 5, 4, 5, 4, 9], 3, 5, 2),
        ([3, 5, 4, 5, 4, 9], 4, 6, 6),
        ([3, 2, 9], 1, 2, 1),
        ([1, 2, 3], 1, 3, 3),
        ([3, 5, 4, 4], None, 4, 4),
    ],
)
def test_it_stops_when_patience_is_exhausted(right: list[int], patience: int | None, epochs: int, best: int) -> None:
    model, history, status = counted(right, patience)
    assert [epoch.validation for epoch in history] == [Accuracy(n, 10) for n in right[:epochs]]
    assert float(model.count.detach()) == best
    assert status.startswith("stopped early" if epochs < len(right) else "finished")


def test_averaged_weights_are_validated_and_given() -> None:
    model = network()
    result = learnt(model, replace(QUICK, average_decay=0.9), validation=examples(40, 2))
    assert result.history[-1].validation == accuracy(model, [tensors(40, 2)])
    assert hash_tensors(result.state.average) == weights(model) != hash_tensors(result.state.network)


def test_pause_and_go_on() -> None:
    unbroken, broken = network(), network()
    recipe = replace(QUICK, average_decay=0.9)
    whole = learnt(unbroken, recipe, data=Noisy(70))
    paused = learnt(broken, recipe, data=Noisy(70), until=1)
    assert paused.status == "paused: 4 of 12 steps, epoch 1"
    fresh = network(seed=5)
    result = learnt(fresh, recipe, data=Noisy(70), start=paused.state)
    assert weights(fresh) == weights(unbroken)
    assert result.history == whole.history


def test_an_optimiser_of_ones_own() -> None:
    model, expected = plain(), plain()
    recipe = replace(QUICK, schedule="constant")
    learnt(model, recipe, optimizer=torch.optim.RMSprop(model.parameters(), lr=0.002))
    theirs = torch.optim.RMSprop(expected.parameters(), lr=0.002)
    images, labels = tensors(70)
    for batch in Order(70, 16, 0).batches(0, 12):
        chosen = [index for index, _ in batch]
        theirs.zero_grad()
        functional.cross_entropy(expected(images[chosen]), labels[chosen]).backward()
        theirs.step()
    for one, two in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, two)
    with pytest.raises(TrainingError, match="stale optimiser"):
        learnt(model, optimizer=torch.optim.SGD(copy.deepcopy(model).parameters(), lr=0.1))


def test_a_teacher_teaches() -> None:
    teacher, pupil, alone = network(), network(1), network(1)
    learnt(teacher, replace(QUICK, epochs=8))
    noise = TensorDataset(tensors(70)[0], torch.zeros(70, dtype=torch.long))  # labels say nothing
    recipe = replace(QUICK, epochs=8, teacher_weight=1.0)
    learnt(pupil, recipe, data=noise, teacher=teacher)
    learnt(alone, replace(recipe, teacher_weight=0.0), data=noise)
    test = [tensors(100, 3)]
    assert accuracy(pupil, test).rate > 0.5 > 0.3 > accuracy(alone, test).rate


@pytest.mark.parametrize("precision", ["bf16", "no", pytest.param("bf16", id="bf16 again"), None])
def test_mixed_precision_may_change_between_trainings(precision: str | None) -> None:
    model, kinds = plain(), []
    model[1].register_forward_hook(lambda _m, _i, output: kinds.append(output.dtype))  # type: ignore[index, union-attr]
    learnt(model, execution=Execution(precision=precision), validation=examples(20, 2))  # type: ignore[arg-type]
    assert set(kinds) == {torch.bfloat16 if precision == "bf16" else torch.float32}
    kinds.clear()
    model(torch.zeros(1, 72))
    assert kinds == [torch.float32]
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []

    def compile_(model: nn.Module) -> object:
        compiled.append(model)
        return torch._dynamo.optimize("eager")(model)

    monkeypatch.setattr(torch, "compile", compile_)
    model, expected = plain(), plain()
    learnt(model, execution=Execution(compile=True), validation=examples(20, 2))
    learnt(expected, validation=examples(20, 2))
    assert compiled == [model]
    for one, two in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, two)


class Notebook(GeneralTracker):
    """A tracker that keeps what it is told."""

    name = "notebook"
    requires_logging_directory = False

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[int, dict[str, float]]] = []
        self.finished = False

    @property
    def tracker(self) -> None:
        return None

    def store_init_configuration(self, values: dict) -> None:
        pass

    def log(self, values: dict, step: int | None = None, **_: object) -> None:
        self.told.append((step or 0, values))

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def notebook() -> Iterator[Notebook]:
    yield Notebook()
    AcceleratorState._reset_state()


def test_trackers_are_told(notebook: Notebook) -> None:
    machine = Accelerator(log_with=notebook)
    result = learnt(network(), validation=examples(20, 2), accelerator=machine)
    losses = [values["loss"] for _, values in notebook.told if "loss" in values]
    rates = [values["validation_accuracy"] for _, values in notebook.told if "validation_accuracy" in values]
    assert [step for step, _ in notebook.told] == [4, 4, 8, 8, 12, 12]
    assert rates == [epoch.validation.rate for epoch in result.history if epoch.validation]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    assert notebook.finished
    assert not machine.trackers


def test_progress_is_shown_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    learnt(network(), progress=True)
    shown = capsys.readouterr()
    assert "train" in shown.err
    assert "12/12" in shown.err
    assert shown.out == ""


@pytest.mark.parametrize("bad_step", [1, 7, 12])
def test_a_loss_that_is_nan_names_its_step(bad_step: int) -> None:
    class Spoiler(Callback):
        def after_step(self, context: TrainingContext) -> None:
            if context.step == bad_step - 1:
                context.network[6].bias.data[0] = torch.nan  # type: ignore[index]

    images, labels = tensors(70)
    if bad_step == 1:
        images[:] = torch.inf
    with pytest.raises(TrainingError, match=rf"NaN or infinite at step {bad_step} of 12; lower learning_rate \(0.1\)"):
        learnt(network(), data=TensorDataset(images, labels), callbacks=[Spoiler()])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"data": examples(15)}, TrainingError, "15 training examples do not fill a batch of 16"),
        ({"data": TensorDataset(torch.zeros(0, 2, 6, 6), torch.zeros(0))}, TrainingError, "training data are empty"),
        ({"data": DataLoader(examples())}, TrainingError, r"given a DataLoader.*loader\.dataset"),
        ({"data": iter([])}, TrainingError, "must be a map-style data set"),
        ({"validation": TensorDataset(torch.zeros(0, 1))}, TrainingError, "validation data are empty"),
        ({"recipe": replace(QUICK, patience=2)}, TrainingError, "patience needs validation data"),
        ({"recipe": replace(QUICK, teacher_weight=0.5)}, TrainingError, "a teacher needs"),
        ({"execution": Execution(parts=3)}, TrainingError, "a multiple of 3"),
        ({"state_file": "x.pt"}, InvalidSetting, r"must end in \.safetensors"),
        ({"state_file": "missing/x.safetensors"}, CheckpointError, "cannot write missing"),
        ({"execution": Execution(precision="fp16")}, InvalidSetting, "fp16"),
        ({"execution": Execution(trackers=("no such",))}, InvalidSetting, "no such"),
        ({"execution": Execution(trackers=("comet_ml",))}, InvalidSetting, "comet_ml are not installed"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else str(value),
)
def test_what_does_not_do_is_refused_at_once(
    options: dict, error: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    class Forbidden(Callback):
        def after_backward(self, context: TrainingContext) -> None:
            raise AssertionError("a step was begun")

    model = network()
    with pytest.raises(error, match=message):
        learnt(model, callbacks=[Forbidden()], **options)
    assert weights(model) == weights(network())
    assert model.training


def test_processes_that_accelerate_does_not_see_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scionet.network.multiprocess.world", lambda: (0, 2))
    with pytest.raises(InvalidSetting, match="has 2 processes, of which Accelerate sees 1; start them by"):
        learnt(network())


def test_training_data_are_no_validation_data() -> None:
    data = examples()
    with pytest.raises(TrainingError, match="the validation data are the training data"):
        learnt(network(), data=data, validation=data)


@pytest.mark.parametrize(
    "wrong", [{"parts": 0}, {"workers": -1}, {"save_steps": 0}, {"precision": "fp8"}, {"workers": 1.0}], ids=str
)
def test_executions_are_checked(wrong: dict) -> None:
    with pytest.raises(InvalidSetting, match=next(iter(wrong))):
        Execution(**wrong)
