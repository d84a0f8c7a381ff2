from typing import Any

import pytest
import torch
from support.pupils import CLASSES, network, plain, tensors
from torch import nn
from torch.nn import functional

from scionet.errors import InvalidSetting, TrainingError
from scionet.training.loss import ClassifierLoss, divergence
from scionet.training.recipes import Recipe


def as_it_is(batch: Any) -> Any:
    return batch


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return tensors(12)


def test_without_a_teacher_it_is_smoothed_cross_entropy(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    model = plain()
    found = ClassifierLoss(Recipe(label_smoothing=0.2), model, None, as_it_is)(model, batch)
    log_probabilities = model(batch[0]).log_softmax(1)
    targets = 0.8 * functional.one_hot(batch[1], CLASSES) + 0.2 / CLASSES
    torch.testing.assert_close(found, -(targets * log_probabilities).sum(1).mean())


def test_divergence_is_that_of_the_definition() -> None:
    student, teacher = torch.randn(2, 7, 4, dtype=torch.float64).unbind()
    p, q = ((logits / 3).softmax(1) for logits in (teacher, student))
    expected = sum(float(p[i, c] * (p[i, c] / q[i, c]).log()) for i in range(7) for c in range(4)) / 7
    assert float(divergence(student, teacher, 3.0)) == pytest.approx(9 * expected)
    assert float(divergence(teacher, teacher, 3.0)) == pytest.approx(0, abs=1e-12)


def test_a_teacher_takes_its_share(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    model, teacher = plain(0), plain(1)
    recipe = Recipe(teacher_weight=0.3, temperature=2.0, features=("1",), feature_weight=0.5)
    objective = ClassifierLoss(recipe, model, teacher, as_it_is)
    found = objective(model, batch)
    ours, theirs = (net[1](net[0](batch[0])) for net in (model, teacher))  # type: ignore[index, operator]
    expected = (
        0.7 * functional.cross_entropy(model(batch[0]), batch[1])
        + 0.3 * divergence(model(batch[0]), teacher(batch[0]), 2.0)
        + 0.5 * ((ours - theirs) ** 2).sum() / (theirs**2).sum()
    )
    torch.testing.assert_close(found, expected)
    found.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad is not None for parameter in model.parameters())
    objective.close()
    assert not model[1]._forward_hooks
    assert not teacher[1]._forward_hooks


@pytest.mark.parametrize(("weight", "teacher"), [(0.5, None), (0.0, plain())], ids=["no teacher", "idle teacher"])
def test_teacher_and_recipe_go_together(weight: float, teacher: nn.Module | None) -> None:
    with pytest.raises(TrainingError, match="a teacher needs teacher_weight above 0"):
        ClassifierLoss(Recipe(teacher_weight=weight), plain(), teacher, as_it_is)


def test_unknown_and_pruned_features_are_refused(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    with pytest.raises(InvalidSetting, match="unknown feature of Sequential 'layer1'"):
        ClassifierLoss(Recipe(features=("layer1",)), plain(), plain(), as_it_is)
    narrow = nn.Sequential(nn.Flatten(), nn.Linear(72, 9), nn.Tanh(), nn.Linear(9, CLASSES))
    with pytest.raises(TrainingError, match=r"feature '1' is \(12, 9\) in the network and \(12, 16\)"):
        ClassifierLoss(Recipe(features=("1",)), narrow, plain(), as_it_is)(narrow, batch)


def test_a_teacher_of_other_classes_is_refused(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(72, CLASSES + 1))
    with pytest.raises(TrainingError, match=r"the teacher gives \(12, 6\)"):
        ClassifierLoss(Recipe(teacher_weight=1), plain(), teacher, as_it_is)(plain(), batch)


@pytest.mark.parametrize("label", [-1, CLASSES])
def test_labels_out_of_range_are_refused(label: int, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    model = network()
    batch[1][3] = label
    with pytest.raises(TrainingError, match=r"do not fit a network of 5 classes, whose labels are 0 to 4"):
        ClassifierLoss(Recipe(), model, None, as_it_is)(model, batch)


@pytest.mark.parametrize(
    ("model", "given"),
    [(nn.Conv2d(2, 5, 1), r"\(12, 5, 6, 6\)"), (nn.GRU(6, 4), "tuple")],
    ids=["map", "tuple"],
)
def test_what_is_no_classifier_is_refused(
    model: nn.Module, given: str, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    inputs = batch[0] if isinstance(model, nn.Conv2d) else batch[0][:, 0]
    with pytest.raises(TrainingError, match=rf"must give logits .* it gives {given}"):
        ClassifierLoss(Recipe(), model, None, as_it_is)(model, (inputs, batch[1]))
