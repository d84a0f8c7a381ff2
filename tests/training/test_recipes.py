import dataclasses
import math

import pytest
import torch
from torch import nn

from scionet.errors import InvalidSetting
from scionet.training.recipes import RECIPES, Recipe

PER_EPOCH = 7


def rates_of_torch(recipe: Recipe, make: object) -> list[float]:
    """The learning rate of every step, by a scheduler of torch."""
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    scheduler = make(optimizer)  # type: ignore[operator]
    rates = []
    for _ in range(recipe.steps(PER_EPOCH)):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def rates(recipe: Recipe) -> list[float]:
    return [recipe.rate(step, PER_EPOCH) for step in range(recipe.steps(PER_EPOCH))]


def test_cosine_is_that_of_torch() -> None:
    recipe = Recipe(epochs=6)
    expected = rates_of_torch(recipe, lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 42))
    assert rates(recipe) == pytest.approx(expected, abs=1e-12)


def test_steps_at_milestones_are_those_of_torch() -> None:
    recipe = Recipe(epochs=9, schedule="step", milestones=(0.5, 0.75), milestone_factor=0.2)
    expected = rates_of_torch(
        recipe, lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [4 * PER_EPOCH, 6 * PER_EPOCH], 0.2)
    )
    assert rates(recipe) == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["cosine", "step", "constant"])
def test_the_rate_rises_to_one_in_the_warmup(schedule: str) -> None:
    recipe = Recipe(epochs=4, warmup_epochs=2, schedule=schedule, milestones=(0.75,))  # type: ignore[arg-type]
    assert rates(recipe)[:14] == pytest.approx([(step + 1) / 14 for step in range(14)])
    assert rates(recipe)[14] == 1
    assert all(a >= b for a, b in zip(rates(recipe)[13:], rates(recipe)[14:], strict=False))


def test_cosine_ends_near_zero_and_reaches_it_after_the_last_step() -> None:
    recipe = Recipe(epochs=5)
    assert rates(recipe)[-1] == pytest.approx((1 - math.cos(math.pi / 35)) / 2)
    assert recipe.rate(recipe.steps(PER_EPOCH), PER_EPOCH) == 0


def test_a_fraction_of_an_epoch() -> None:
    assert Recipe(epochs=0.1).steps(100) == 10
    assert Recipe(epochs=0.001).steps(100) == 1
    assert Recipe(epochs=1.5).steps(PER_EPOCH) == round(1.5 * PER_EPOCH)


@pytest.mark.parametrize("epochs", [160, 90, 243, 178, 106, 7, 1])
@pytest.mark.parametrize("share", [0.5, 0.75])
def test_milestones_are_whole_epochs_as_in_the_papers_code(epochs: int, share: float) -> None:
    recipe = Recipe(epochs=epochs, schedule="step", milestones=(share,))
    falls = next((e for e in range(epochs) if recipe.rate(e * PER_EPOCH, PER_EPOCH) < 1), None)
    assert falls == (int(share * epochs) if epochs > 1 else 0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Sources: the code published with each paper.
        (
            "mobilenet_finetune",
            {"epochs": 150, "batch_size": 256, "learning_rate": 0.1, "weight_decay": 4e-5, "label_smoothing": 0.1}
            | {"schedule": "cosine", "nesterov": True, "momentum": 0.9, "decay_vectors": False, "warmup_epochs": 0}
            | {"augmentation": "zoom", "smallest_crop": 0.2},
        ),
        ("mobilenet_closing", {"epochs": 10, "learning_rate": 1e-5, "schedule": "constant", "augmentation": "none"}),
        (
            "rethinking_cifar",
            {"epochs": 160, "batch_size": 64, "learning_rate": 0.1, "weight_decay": 1e-4, "nesterov": False}
            | {"schedule": "step", "milestones": (0.5, 0.75), "momentum": 0.9, "augmentation": "shift", "padding": 4},
        ),
        ("rethinking_cifar_finetune", {"epochs": 40, "learning_rate": 1e-3, "schedule": "constant", "batch_size": 64}),
        ("rethinking_imagenet", {"epochs": 90, "batch_size": 256, "learning_rate": 0.1, "weight_decay": 1e-4}),
        ("rethinking_imagenet_finetune", {"epochs": 20, "learning_rate": 1e-3, "schedule": "constant"}),
    ],
)
def test_the_papers_recipes(name: str, expected: dict[str, object]) -> None:
    recipe = dataclasses.asdict(RECIPES[name]())
    assert {key: recipe[key] for key in expected} == expected


def test_imagenet_falls_every_thirty_epochs() -> None:
    recipe = RECIPES["rethinking_imagenet"]()
    assert [math.log10(recipe.rate(e, 1)) for e in (29, 30, 59, 60, 89)] == pytest.approx([0, -1, -1, -2, -2])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "epochs is above 0"),
        ({"epochs": math.nan}, "epochs is above 0"),
        ({"batch_size": 1.5}, "batch_size and patience are whole numbers"),
        ({"patience": 0}, "batch_size and patience are whole numbers"),
        ({"optimiser": "sdg"}, "optimiser is one of sgd, adam, "),
        ({"optimiser_settings": {"betas": "0.9"}}, "optimiser_settings map names to numbers"),
        ({"optimiser_settings": {1: 0.9}}, "optimiser_settings map names to numbers"),
        ({"optimiser_settings": [0.9]}, "optimiser_settings map names to numbers"),
        ({"l1_weight": -1e-4}, "l1_weight, .* are 0 or more"),
        ({"learning_rate": -0.1}, "above 0"),
        ({"momentum": 0.0}, "above 0 with nesterov"),
        ({"weight_decay": -1}, "0 or more"),
        ({"schedule": "linear"}, "schedule is"),
        ({"warmup_epochs": 11}, "between 0 and epochs"),
        ({"milestones": (0.75, 0.5)}, "milestones ascend"),
        ({"label_smoothing": 1.1}, "label_smoothing and teacher_weight"),
        ({"clip_norm": 0}, "clip_norm"),
        ({"average_decay": 1.0}, "average_decay"),
        ({"augmentation": "flip"}, "augmentation is"),
        ({"smallest_crop": 0}, "smallest_crop"),
    ],
    ids=str,
)
def test_nonsense_is_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        Recipe(**wrong)  # type: ignore[arg-type]


def test_all_problems_are_listed_at_once() -> None:
    with pytest.raises(InvalidSetting, match=r"epochs.*schedule.*clip_norm"):
        Recipe(epochs=-1, schedule="none", clip_norm=-1)  # type: ignore[arg-type]
