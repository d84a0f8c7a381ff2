"""Networks that shrink while they are trained: one contract for all methods, and what is particular to each."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.pupils import CLASSES, examples
from torch import nn
from torch.nn import functional

from scionet import Callback, Recipe, Widths, fit, load_pruned, prune, save_pruned
from scionet.choices.limits import Limits
from scionet.choices.shrinking import Directional, GReg1, GReg2, IncReg, Slimming, SoftFilters, SparseStructures
from scionet.errors import InvalidSetting, TrainingError, UnreachableBudget
from scionet.shrinking import ShrinkLoop, ShrinkResult, shrink
from scionet.training.context import TrainingContext
from scionet.training.order import Order

X = torch.zeros(2, 2, 6, 6)
RECIPE = Recipe(epochs=12, batch_size=14, learning_rate=0.05, schedule="constant", nesterov=False)
METHODS: dict[str, Any] = {
    "slimming": Slimming(l1_weight=0.1),
    "sparse_structures": SparseStructures(l1_weight=0.06),
    "soft_filters": SoftFilters(),
    "increg": IncReg(),
    "increg linear": IncReg(scheme="linear", members="inputs", every_steps=2),
    "increg all": IncReg(members="all"),
    "greg1": GReg1(every_steps=2),
    "greg2": GReg2(every_steps=2),
    "directional": Directional(c=2.7, mu=0.6),
}
EXACT = [name for name in METHODS if name not in ("slimming", "sparse_structures", "directional")]
"""Methods that must know how many units are to go."""


def slow(name: str) -> Any:
    return pytest.param(name, marks=pytest.mark.slow)


class Student(nn.Module):
    """Two convolutions with BatchNorm, the second in a residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.inner, self.inner_norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.outer, self.outer_norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.stem_norm(self.stem(x)))
        x = functional.relu(x + self.outer_norm(self.outer(functional.relu(self.inner_norm(self.inner(x))))))
        return self.head(x.mean((2, 3)))


def student() -> nn.Module:
    torch.manual_seed(0)
    return Student()


def recipe_of(name: str) -> Recipe:
    return replace(RECIPE, momentum=0.0, weight_decay=0.0, epochs=12) if name == "directional" else RECIPE


def shrunk(name: str, model: nn.Module | None = None, budget: Any = "macs<=60%", **more: Any) -> ShrinkResult:
    given = {"method": METHODS[name], "recipe": recipe_of(name), "example_inputs": X, **more}
    return shrink(student() if model is None else model, examples(70), budget, **given)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_the_contract(method: str) -> None:
    model = student()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = shrunk(method, model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert result.report.pruned.macs <= 0.6 * result.report.dense.macs
    assert result.report.difference < 1e-4
    assert result.training is not None
    assert len(result.trace) == len(result.training.history) == 12
    assert result.plan.settings["method"]["name"] == method.split()[0]
    for choice in result.plan.choices:
        assert len(choice.kept) >= 1
    # What was removed was near zero, and the rest learned something else than without the method.
    share = float(result.report.status.partition("that were removed had ")[2].split()[0])
    assert share < 0.05
    twin = student()
    fit(twin, examples(70), recipe_of(method))
    twins = prune(twin, (), example_inputs=X, method="l1", widths=Widths(result.plan.widths), repair=[])
    shapes = [tensor.shape for tensor in result.model.state_dict().values()]
    assert shapes == [tensor.shape for tensor in twins.model.state_dict().values()]
    ours, theirs = (torch.cat([p.flatten() for p in each.model.parameters()]) for each in (result, twins))
    assert not torch.allclose(ours, theirs, rtol=0.05)


@dataclass(eq=False)
class Interrupted(Callback):
    """Raises in one step, once."""

    steps: int
    _again: bool = field(default=False, init=False)

    def settings(self) -> dict[str, Any]:
        return {}

    def state(self) -> dict[str, Any]:
        return {}

    def after_step(self, context: TrainingContext) -> None:
        if context.step == self.steps:
            raise KeyboardInterrupt


@pytest.mark.parametrize("method", [slow(name) if " " in name else name for name in METHODS])
def test_an_interrupted_call_goes_on_and_ends_bit_for_bit_as_an_unbroken_one(method: str, tmp_path: Path) -> None:
    whole = shrunk(method, callbacks=[Interrupted(-1)])
    file = tmp_path / "state.safetensors"
    for step in (7, 31, 58):
        with pytest.raises(KeyboardInterrupt):
            shrunk(method, callbacks=[Interrupted(step)], state_file=file)
    again = shrunk(method, callbacks=[Interrupted(-1)], state_file=file)
    assert again.plan.kept == whole.plan.kept
    assert again.trace == whole.trace
    pairs = zip(whole.model.state_dict().values(), again.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_training_with_other_settings_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "state.safetensors"
    shrunk("increg", state_file=file)
    with pytest.raises(TrainingError, match=r"u was 0\.25, is 0\.3"):
        shrunk("increg", state_file=file, method=IncReg(u=0.3))
    with pytest.raises(TrainingError, match="units was"):
        shrunk("increg", budget="macs<=50%", state_file=file)


@pytest.mark.parametrize("method", METHODS)
def test_a_network_shrinks_towards_a_plan(method: str) -> None:
    model = student()
    plan = prune(model, (), "macs<=70%", example_inputs=X, method="random", seed=3).plan
    result = shrunk(method, model, None, towards=plan)
    assert result.plan.kept == plan.kept


def test_a_network_shrinks_towards_the_units_of_another_method() -> None:
    model = student()
    wanted = prune(model, (), "macs<=70%", example_inputs=X, method="fpgm", widths="uniform", repair=[]).plan
    result = shrunk("increg", model, "macs<=70%", towards="fpgm", widths="uniform")
    assert result.plan.kept == wanted.kept


def test_given_widths_take_the_place_of_a_budget() -> None:
    for method in METHODS:
        assert shrunk(method, budget=None, widths=Widths({"inner": 3})).plan.widths == {"inner": 3, "stem": 8}


def test_without_a_budget_what_ended_at_zero_is_removed() -> None:
    result = shrunk("sparse_structures", budget=None)
    removed = sum(choice.width - len(choice.kept) for choice in result.plan.choices)
    assert removed == result.trace[-1]["at_zero"] > 0
    assert result.report.difference < 1e-6


def test_factors_of_structures_are_those_of_a_network_that_multiplies_by_them() -> None:
    """One step with plain SGD against autograd through a network whose outputs are multiplied by factors."""
    recipe = Recipe(epochs=1, batch_size=70, learning_rate=0.1, momentum=0, nesterov=False, schedule="constant")
    choice = SparseStructures(l1_weight=0.01, momentum=0.5)
    model, data = student().double(), examples(70)
    images, labels = data.tensors[0].double(), data.tensors[1]
    loop = ShrinkLoop(model, None, method=choice, recipe=recipe, steps_per_epoch=1, example_inputs=X.double())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1e-2)
    reference = student().double()
    factor = torch.ones(16, dtype=torch.float64, requires_grad=True)
    velocity = torch.zeros(16, dtype=torch.float64)
    raw = torch.optim.SGD(reference.parameters(), lr=0.1, weight_decay=1e-2)
    units = loop.shrinker.units
    own = {name: slice(16 - 8, 16) if units.sites.index(name) else slice(0, 8) for name in units.sites}

    def multiplied(x: torch.Tensor) -> torch.Tensor:
        stem, inner = (factor[own[name]][:, None, None] for name in ("stem", "inner"))
        m: Any = reference
        x = functional.relu(stem * m.stem_norm(m.stem(x)))
        y = functional.relu(inner * m.inner_norm(m.inner(x)))
        return m.head(functional.relu(x + stem * m.outer_norm(m.outer(y))).mean((2, 3)))

    for _ in range(3):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(images), labels)
        (loss + loop.penalty(optimizer)).backward()
        loop.before_step(optimizer)
        optimizer.step()
        loop.after_step(optimizer)

        raw.zero_grad()
        factor.grad = None
        expected = functional.cross_entropy(multiplied(images), labels)
        expected.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
        raw.step()
        with torch.no_grad():
            assert factor.grad is not None
            moved = factor - 0.1 * factor.grad
            shrunken = moved.sign() * (moved.abs() - 0.1 * 0.01).clamp_min(0)
            velocity = shrunken - factor + 0.5 * velocity
            factor.copy_((shrunken + 0.5 * velocity).clamp_min(0))
    assert loop.shrinker.scores(model).double().tolist() == pytest.approx(factor.tolist(), rel=1e-5)


@pytest.mark.parametrize("method", ["increg", "slimming", "soft_filters", "sparse_structures"])
def test_a_loop_of_ones_own_ends_as_shrink_does(method: str) -> None:
    whole = shrunk(method)
    model, data = student(), examples(70)
    order = Order(70, 14, 0)
    loop = ShrinkLoop(model, "macs<=60%", method=METHODS[method], recipe=RECIPE, steps_per_epoch=5, example_inputs=X)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    for epoch in range(12):
        for batch in order.batches(epoch * 5, epoch * 5 + 5):
            images, labels = (torch.stack([t[i] for i, _ in batch]) for t in data.tensors)
            loss = functional.cross_entropy(model(images), labels)
            (loss + loop.penalty(optimizer)).backward()
            loop.before_step(optimizer)
            optimizer.step()
            optimizer.zero_grad()
            loop.after_step(optimizer)
        loop.after_epoch(optimizer)
    result = loop.finish()
    assert result.plan.kept == whole.plan.kept
    ours = torch.cat([p.flatten() for p in model.parameters()])
    assert torch.isfinite(ours).all()
    assert [row["at_zero"] for row in result.trace] == [row["at_zero"] for row in whole.trace]


def test_directional_pruning_refuses_momentum_and_zero_units_stay_zero() -> None:
    with pytest.raises(InvalidSetting, match="without momentum"):
        shrunk("directional", recipe=RECIPE)
    result = shrunk("directional", budget=None)
    assert result.trace[-1]["at_zero"] > 0
    assert result.report.difference < 1e-6


def test_a_loss_of_ones_own_is_trained_with() -> None:
    def half(outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        return functional.cross_entropy(outputs, batch[1]) / 2

    result = shrunk("increg", loss=half)
    assert result.training is not None
    assert result.training.history[0].loss < 0.7 * shrunk("increg").training.history[0].loss  # type: ignore[union-attr]


def test_filters_that_were_set_to_zero_come_back_unless_scale_and_shift_are_zero_too() -> None:
    result = shrunk("soft_filters", method=SoftFilters(every_epochs=12))
    assert result.plan.widths
    grown = {}
    for absorbing in (False, True):
        model = student()
        with torch.no_grad():
            model.inner.weight[0], model.inner.bias[0], model.inner_norm.bias[0] = 0.0, 0.0, 0.5
            if absorbing:
                model.inner_norm.weight[0], model.inner_norm.bias[0] = 0.0, 0.0
        images, labels = examples(70).tensors
        functional.cross_entropy(model(images), labels).backward()
        grown[absorbing] = bool(model.inner.weight.grad[0].any())
    assert grown == {False: True, True: False}


@pytest.mark.parametrize("method", EXACT)
def test_a_method_that_must_know_how_much_is_to_remain_says_so(method: str) -> None:
    with pytest.raises(InvalidSetting, match="must know how much is to remain"):
        shrunk(method, budget=None)


def test_bad_input_is_refused_before_the_training() -> None:
    with pytest.raises(UnreachableBudget):
        shrunk("slimming", budget="macs<=0.1%")
    with pytest.raises(UnreachableBudget):
        shrunk("increg", budget="macs<=0.1%")
    with pytest.raises(InvalidSetting, match="average_decay"):
        shrunk("increg", recipe=Recipe(average_decay=0.9))
    with pytest.raises(InvalidSetting, match=r"unknown method of shrink 'incregg'.*increg"):
        shrunk("increg", method="incregg")
    for method in ("slimming", "increg"):
        with pytest.raises(InvalidSetting, match="widths 'whole' leave all units, and shrinking removes some"):
            shrunk(method, widths="whole")
    with pytest.raises(InvalidSetting, match="'u' of IncReg must be a float in"):
        IncReg(u=1.5)
    plain = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES))
    with pytest.raises(InvalidSetting, match="no BatchNorm with a scale"):
        shrunk("slimming", plain)
    with pytest.raises(InvalidSetting, match="leave out budget and widths"):
        shrunk("increg", towards=prune(student(), (), "macs<=70%", example_inputs=X, method="l1").plan)


def test_a_target_beyond_what_the_learning_rate_allows_is_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"learning rate x target is 0.05 x 100 = 5"):
        ShrinkLoop(
            student(),
            "macs<=60%",
            method=IncReg(target=100.0),
            recipe=RECIPE,
            steps_per_epoch=5,
            example_inputs=X,
        )


def test_limits_hold_and_a_full_density_changes_nothing() -> None:
    result = shrunk("increg", limits=Limits(round_to=4, ignored_layers=("inner",)))
    assert set(result.plan.widths) == {"stem"}
    assert result.plan.widths["stem"] % 4 == 0
    whole = shrunk("increg", budget=None, widths=Widths({}))
    twin = student()
    fit(twin, examples(70), RECIPE)
    pairs = zip(whole.model.state_dict().values(), twin.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_result_verifies_and_saves(tmp_path: Path) -> None:
    result = shrunk("greg2")
    save_pruned(tmp_path / "small.safetensors", result.model, result.plan, result.sites)
    loaded = load_pruned(tmp_path / "small.safetensors", student())
    x = torch.randn(3, 2, 6, 6)
    assert torch.equal(result.model.eval()(x), loaded.eval()(x))


BRANCHES = SparseStructures(l1_weight=0.02, structures="branches")


class Deep(nn.Module):
    """Three residual blocks, one of which has no BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1)
        layers = [nn.Conv2d(8, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1)]
        self.one, self.two = (
            nn.Sequential(*layers, nn.BatchNorm2d(8)),
            nn.Sequential(nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 1)),
        )
        self.three = nn.Sequential(nn.Conv2d(8, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.stem(x))
        for branch in (self.one, self.two, self.three):
            x = functional.relu(x + branch(x))
        return self.head(x.mean((2, 3)))


def deep() -> nn.Module:
    torch.manual_seed(0)
    return Deep()


def without_branches(budget: Any = None, **more: Any) -> ShrinkResult:
    given = {"method": BRANCHES, "recipe": RECIPE, "example_inputs": X, **more}
    return shrink(deep(), examples(70), budget, **given)


def test_branches_end_at_zero_and_are_dropped() -> None:
    result = without_branches()
    dropped = [*result.plan.dropped]
    assert dropped
    assert result.trace[-1]["at_zero"] == len(dropped)
    assert f"the {len(dropped)} of 3 branches that were removed had 0 of the weights before" in result.report.status
    assert all(value is None or not value.any() for value in result.plan.dropped.values())
    assert result.report.pruned.macs < result.report.dense.macs
    assert result.plan.widths == {name: site.width for name, site in result.sites.items() if name in result.plan.widths}


def test_the_lowest_factors_go_down_to_the_budget() -> None:
    weak = replace(BRANCHES, l1_weight=1e-4)
    with pytest.raises(InvalidSetting, match=r"no factor of a branch ended at zero; the smallest is 0\.\d"):
        without_branches(method=weak)
    result = without_branches("macs<=60%", method=weak)
    assert result.report.pruned.macs <= 0.6 * result.report.dense.macs
    assert 0 < len(result.plan.dropped) < 3
    assert re.search(r"branches that were removed had 0\.\d+ of the weights before", result.report.status)


def test_a_training_that_drops_branches_goes_on_where_it_was(tmp_path: Path) -> None:
    whole, file = without_branches(callbacks=[Interrupted(-1)]), tmp_path / "state.safetensors"
    for step in (7, 40):
        with pytest.raises(KeyboardInterrupt):
            without_branches(callbacks=[Interrupted(step)], state_file=file)
    again = without_branches(callbacks=[Interrupted(-1)], state_file=file)
    assert again.plan.identity == whole.plan.identity
    pairs = zip(whole.model.state_dict().values(), again.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("choices", "error", "message"),
    [
        ({"widths": "uniform"}, InvalidSetting, "leave out widths and towards"),
        ({"towards": "l1"}, InvalidSetting, "leave out widths and towards"),
        ({"budget": "macs<=5%"}, UnreachableBudget, "cannot be reached by dropping branches: without all 3"),
    ],
)
def test_what_does_not_go_with_branches_is_refused(choices: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        without_branches(**choices)


def test_a_chain_has_no_branches() -> None:
    chain = nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(16, CLASSES))
    with pytest.raises(InvalidSetting, match="Sequential has no residual branches"):
        shrink(chain, examples(70), method=BRANCHES, recipe=RECIPE, example_inputs=X)
