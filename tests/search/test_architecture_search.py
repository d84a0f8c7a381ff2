"""The whole search: what it finds, how it resumes, and what it refuses."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.pupils import CLASSES, examples
from torch import Tensor, nn
from torch.nn import functional

from scionet import ArchitectureSearch, Callback, Recipe, SearchResult, TrainingContext, search_architecture
from scionet.budget.costs import measure
from scionet.errors import (
    BudgetExceeded,
    CheckpointError,
    InvalidSetting,
    TrainingError,
    UnreachableBudget,
    UnsupportedModel,
)
from scionet.models.resnets import Residual, projection
from scionet.search.baselines import (
    random_architectures,
    random_search,
    train_architectures,
    uniform_architecture,
)
from scionet.search.expected_cost import CostTerm, expected_macs
from scionet.search.figures import draw_macs, draw_probabilities, write_figures
from scionet.search.finding import divided
from scionet.search.relaxation import temperature
from scionet.search.space import SearchSpace
from scionet.search.steps import ArchitectureSteps
from scionet.search.supernet import Supernet
from scionet.seeds import root
from scionet.training.execution import Execution
from scionet.training.loss import divergence
from scionet.training.order import Order

X = torch.zeros(2, 2, 6, 6)
METHOD = ArchitectureSearch(learning_rate=0.1, tolerance_below=0.1)
SEARCH = Recipe(epochs=6, batch_size=7, learning_rate=0.05)
TRAINING = Recipe(epochs=2, batch_size=14, learning_rate=0.05, teacher_weight=0.9)


class Network(nn.Module):
    """A stem, a residual stage of two blocks, and one strided block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.one = nn.Sequential(*(Residual(6, 6, 1, nn.Identity()) for _ in range(2)))
        self.two = Residual(6, 8, 2, projection(6, 8, 2))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.stem(x)))
        return self.head(self.two(self.one(x)).mean((2, 3)))


def network() -> nn.Module:
    torch.manual_seed(0)
    return Network()


SPACE = SearchSpace.of(network(), X)
FULL = SPACE.macs(SPACE.full)


def found(budget: Any = "macs<=50%", model: nn.Module | None = None, **more: Any) -> SearchResult:
    given = {"method": METHOD, "recipe": SEARCH, "training": TRAINING, "example_inputs": X, **more}
    return search_architecture(network() if model is None else model, examples(70), budget, **given)


@pytest.fixture(scope="module")
def result() -> SearchResult:
    return found()


def test_a_search_keeps_its_contract() -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = found(model=model, validation=examples(20, seed=2))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not model.training or all(module.training for module in model.modules())
    assert 0.4 * FULL <= result.found.macs <= 0.5 * FULL == result.target_macs
    assert result.found.macs == SPACE.macs(result.architecture) == measure(result.model, X).macs
    assert result.estimated_macs == SPACE.estimated_macs(result.architecture)
    assert result.full.macs == FULL
    assert result.search is not None
    assert [row["epoch"] for row in result.trace] == [1, 2, 3, 4, 5, 6]
    assert [row["temperature"] for row in result.trace] == sorted(
        (r["temperature"] for r in result.trace), reverse=True
    )
    assert result.trace[0]["temperature"] == 5.0
    last = result.trace[-1]
    assert [len(each) for each in (*last["widths"], *last["depths"])] == [len(options) for options in SPACE.choices]
    assert all(sum(each) == pytest.approx(1, abs=1e-6) for each in (*last["widths"], *last["depths"]))
    assert result.training.history[-1].validation is not None
    assert "epoch" in result.status
    assert "% of" in repr(result)
    assert "\n" not in repr(result)


def test_the_same_seed_finds_the_same_and_another_one_something_else(result: SearchResult) -> None:
    one, other, third = result, found(), found(seed=1)
    assert one.architecture == other.architecture
    assert one.trace == other.trace != third.trace
    pairs = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@dataclass(eq=False)
class Interrupted(Callback):
    """Raises in one step."""

    step: int

    def settings(self) -> dict[str, Any]:
        return {}

    def after_step(self, context: TrainingContext) -> None:
        if context.step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("kind", ["plain", pytest.param("other", marks=pytest.mark.slow)])
def test_an_interrupted_search_goes_on_and_ends_bit_for_bit_as_an_unbroken_one(kind: str, tmp_path: Path) -> None:
    more: dict[str, Any] = {} if kind == "plain" else {"method": replace(METHOD, candidates=3, inherit=True)}
    more |= {"execution": Execution(save_steps=2)}
    whole = found(callbacks=[Interrupted(-1)], **more)
    file = tmp_path / "state.safetensors"
    for step in (3, 11, 20):
        with pytest.raises(KeyboardInterrupt):
            found(callbacks=[Interrupted(step)], state_file=file, **more)
    again = found(callbacks=[Interrupted(-1)], state_file=file, **more)
    assert again.trace == whole.trace
    assert again.architecture == whole.architecture
    for name in ("model", "supernet"):
        pairs = zip(getattr(whole, name).state_dict().values(), getattr(again, name).state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_a_search_with_other_settings_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "state.safetensors"
    found(state_file=file)
    with pytest.raises(TrainingError, match="candidates was 2, is 3"):
        found(state_file=file, method=replace(METHOD, candidates=3))
    with pytest.raises(TrainingError, match="target was"):
        found(state_file=file, budget="macs<=60%")
    with pytest.raises(CheckpointError, match="seed"):
        found(state_file=file, seed=1)


def test_a_budget_that_allows_everything_gives_the_full_network_without_a_search() -> None:
    result = found("macs<=100%", training=replace(TRAINING, epochs=1))
    assert result.architecture == SPACE.full
    assert (result.search, result.supernet, result.trace) == (None, None, ())
    with pytest.raises(InvalidSetting, match="nothing was searched"):
        draw_macs(result.trace, 1, 1, 0.05)


@pytest.mark.slow
def test_within_the_tolerance_logits_follow_the_loss_alone() -> None:
    wide = replace(METHOD, tolerance_below=1.0, tolerance_above=1.0)
    with_cost, without = found(method=wide), found(method=replace(wide, cost_weight=0.0))
    assert with_cost.trace == without.trace


def test_the_best_validation_may_be_chosen() -> None:
    result = found(method=replace(METHOD, choose="best"), validation=examples(20, seed=2))
    within = [row for row in result.trace if 0.4 * FULL <= row["macs"] <= 0.5 * FULL]
    best = max(within, key=lambda row: (row["validation"], -row["epoch"]))
    assert result.architecture.xchannels == tuple(best["xchannels"])
    with pytest.raises(InvalidSetting, match="give validation="):
        found(method=replace(METHOD, choose="best"))


def test_a_search_that_never_meets_its_budget_says_so() -> None:
    with pytest.raises(BudgetExceeded, match=r"after 1 epochs .* raise learning_rate"):
        found("macs<=20%", method=replace(METHOD, learning_rate=1e-6), recipe=replace(SEARCH, epochs=1))


def test_a_search_that_ends_below_its_tolerance_warns() -> None:
    result = found("macs<=99%", method=replace(METHOD, learning_rate=1e-6), recipe=replace(SEARCH, epochs=1))
    assert "warning: no epoch was within the tolerance" in result.status


def test_weights_of_the_search_may_be_inherited() -> None:
    short = replace(TRAINING, epochs=1, learning_rate=1e-12)
    fresh, kept = (found(method=replace(METHOD, inherit=inherit), training=short) for inherit in (False, True))
    assert fresh.architecture == kept.architecture
    width = kept.architecture.xchannels[1]
    weight = kept.supernet.network.stem.conv.weight[:width]  # type: ignore[union-attr]
    assert torch.allclose(kept.model.stem.weight, weight, atol=1e-6)  # type: ignore[union-attr,arg-type]
    assert not torch.allclose(fresh.model.stem.weight, weight, atol=1e-2)  # type: ignore[union-attr,arg-type]


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"budget": "macs<=2%"}, UnreachableBudget, "cheapest architecture"),
        ({"budget": "params<=50%"}, InvalidSetting, "limits MACs alone"),
        ({"model": nn.Sequential(nn.Flatten(), nn.Linear(72, 5))}, UnsupportedModel, "supported are chains"),
        ({"recipe": replace(SEARCH, average_decay=0.9)}, InvalidSetting, "average_decay"),
        ({"recipe": replace(SEARCH, patience=2)}, InvalidSetting, "patience"),
        ({"recipe": TRAINING}, InvalidSetting, "without a teacher"),
        ({"method": replace(METHOD, weights_share=0.01)}, TrainingError, "too few for the two parts"),
    ],
)
def test_wrong_input_is_refused(more: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        found(**more)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("candidates", 0), ("learning_rate", 0.0), ("coldest", 9.0), ("choose", "first"), ("weights_share", 1.0)],
)
def test_wrong_settings_are_refused(setting: str, value: object) -> None:
    with pytest.raises(InvalidSetting, match=setting):
        ArchitectureSearch(**{setting: value})  # type: ignore[arg-type]


def test_examples_are_divided_by_class() -> None:
    data = examples(70)
    first, second = divided(data, 0.5, 0)
    parts: Any = [part.indices for part in (first, second)]  # type: ignore[attr-defined]
    assert sorted([*parts[0], *parts[1]]) == list(range(70))
    labels = data.tensors[1]
    for label in range(CLASSES):
        counts = [int((labels[part] == label).sum()) for part in parts]
        assert abs(counts[0] - counts[1]) <= 1
    assert divided(data, 0.5, 1)[0].indices != parts[0]  # type: ignore[attr-defined]


def test_one_step_of_the_logits_is_one_of_adam_on_loss_and_cost() -> None:
    data, recipe = examples(7), replace(SEARCH, batch_size=7)
    supernet, twin = (Supernet(network(), SPACE, 2, seed=5).train() for _ in range(2))
    term = CostTerm(0.1 * FULL, 0.05 * FULL, 0.0)
    steps = ArchitectureSteps(METHOD, term, data, recipe)
    context = TrainingContext(supernet, torch.optim.SGD(supernet.parameters(), 0.1), 0, 1, 4, seed=9)
    steps.on_start(context)
    steps.after_step(replace(context, step=1))

    order = [index for index, _ in next(Order(7, 7, root(9, "architecture")).batches(0, 1))]
    images, labels = (tensor[order] for tensor in data.tensors)
    torch.manual_seed(root(9, "architecture", 1))
    twin.temperature = temperature(0, 6, 5.0, 0.1)
    logits = [each.requires_grad_() for each in twin.logits()]
    expected = expected_macs(SPACE, *twin.probabilities())
    loss = functional.cross_entropy(twin(images), labels) + 2 * (expected / 1e6).log()  # far too expensive
    for own, gradient, after in zip(logits, torch.autograd.grad(loss, logits), supernet.logits(), strict=True):
        pull = gradient + 1e-3 * own.detach()
        assert torch.allclose(own.detach() - 0.1 * pull / (pull.abs() + 1e-8), after, atol=1e-6)
        assert not after.requires_grad
    weights = zip(supernet.parameters(), twin.parameters(), strict=True)
    assert all(torch.equal(a, b) and a.grad is None for a, b in weights)


def test_random_architectures_meet_the_budget_and_differ() -> None:
    for budget, share in (("macs<=25%", 0.25), ("macs<=50%", 0.5), ("macs<=80%", 0.8)):
        chosen = random_architectures(SPACE, budget, 20, seed=3)
        assert len(set(chosen)) == 20
        assert all((share - 0.05) * FULL <= SPACE.macs(each) <= share * FULL for each in chosen)
        assert chosen == random_architectures(SPACE, budget, 20, seed=3)
        assert chosen != random_architectures(SPACE, budget, 20, seed=4)
    with pytest.raises(InvalidSetting, match=r"only \d+ of 20 different architectures"):
        random_architectures(SPACE, "macs<=50%", 20, tolerance=1e-9)


def test_uniform_widths_are_the_widest_that_meet_the_budget() -> None:
    for share in (0.2, 0.5, 0.9):
        uniform = uniform_architecture(SPACE, f"macs<={share:.0%}")
        assert uniform.xblocks == SPACE.full.xblocks
        candidates = {
            SPACE.macs(
                replace(SPACE.full, xchannels=(2, *(max(1, int(c * r / 1000)) for c in SPACE.full.xchannels[1:])))
            )
            for r in range(1, 1001)
        }
        assert SPACE.macs(uniform) == max(macs for macs in candidates if macs <= share * FULL)
    assert uniform_architecture(SPACE, "macs<=100%") == SPACE.full


def test_random_search_trains_each_and_puts_the_best_first() -> None:
    recipe = Recipe(epochs=1, batch_size=14, learning_rate=0.05)
    given = {"example_inputs": X, "validation": examples(20, seed=2)}
    trained = random_search(network(), examples(70), "macs<=50%", recipe, count=3, **given)
    assert [each.validation for each in trained] == sorted((each.validation for each in trained), reverse=True)
    assert {each.architecture for each in trained} == set(random_architectures(SPACE, "macs<=50%", 3))
    uniform = uniform_architecture(SPACE, "macs<=50%")
    (alone,) = train_architectures(network(), examples(70), [uniform], recipe, **given)
    assert alone.macs == SPACE.macs(uniform) == measure(alone.model, X).macs


def test_figures_show_every_choice(result: SearchResult, tmp_path: Path) -> None:
    figure = draw_probabilities(SPACE, result.trace)
    shown = [axis for axis in figure.axes if axis.get_visible()]
    assert len(shown) == sum(len(options) > 1 for options in SPACE.choices)
    paths = write_figures(tmp_path / "figures", SPACE, result.trace, result.target_macs, 0.1)
    texts = [path.read_text() for path in paths]
    assert "convolution 1: 1 to 6" in texts[0]
    assert "stage 1: 1 to 2" in texts[0]
    assert "target and tolerance" in texts[1]
    write_figures(tmp_path / "again", SPACE, result.trace, result.target_macs, 0.1)
    assert [(tmp_path / "again" / path.name).read_text() for path in paths] == texts


def test_distillation_has_the_properties_of_its_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(6, 4, dtype=torch.float64, generator=generator) for _ in range(2))
    assert float(divergence(teacher, teacher, 1.0)) == pytest.approx(0, abs=1e-15)
    by_hand = (teacher / 3).softmax(1) * ((teacher / 3).log_softmax(1) - (student / 3).log_softmax(1))
    assert float(divergence(student, teacher, 3.0)) == pytest.approx(9 * float(by_hand.sum()) / 6)
    assert float(divergence(3 * student, 3 * teacher, 3.0)) == pytest.approx(
        9 * float(divergence(student, teacher, 1.0))
    )
    assert torch.autograd.gradcheck(lambda s: divergence(s, teacher, 4.0), student.requires_grad_())
