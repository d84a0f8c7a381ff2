"""The loss of a classifier: cross-entropy, and distillation from a teacher."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from scionet.errors import TrainingError, unknown
from scionet.network.calling import Batch, call
from scionet.training.given_loss import Place
from scionet.training.loading import Pair
from scionet.training.recipes import Recipe


class ClassifierLoss:
    """(1 − α) cross-entropy + α τ² KL(teacher ‖ student, both at temperature τ) + β relative squared error of features.

    Hinton, Vinyals, Dean, *Distilling the Knowledge in a Neural Network*, 2015: α is `teacher_weight`, τ `temperature`,
    β `feature_weight`. The divergence is averaged over examples. A feature's error is ‖s − t‖² / ‖t‖² over the batch,
    averaged over features.
    """

    def __init__(self, recipe: Recipe, student: nn.Module, teacher: nn.Module | None, place: Place) -> None:
        """Register hooks that record features.

        Args:
            recipe: The recipe, which sets the weights of the terms.
            student: The network that learns.
            teacher: The teacher, if there is one.
            place: Moves inputs to the student.

        Raises:
            TrainingError: If the recipe needs a teacher and there is none, or the other way round.
            InvalidSetting: If the student or the teacher has no module of a feature's name.
        """
        if recipe.needs_teacher != (teacher is not None):
            raise TrainingError(
                "a teacher needs teacher_weight above 0 or features, and these need a teacher; given "
                f"{'a' if teacher else 'no'} teacher, teacher_weight {recipe.teacher_weight}, {recipe.features}"
            )
        self._recipe, self._teacher, self._place = recipe, teacher, place
        self._outputs: list[dict[str, Tensor]] = []
        self._hooks: list[RemovableHandle] = []
        for network in (student, teacher) if recipe.features and teacher else ():
            self._record_features(network)

    def _record_features(self, network: nn.Module) -> None:
        """Keep the latest output of every module that is a feature."""
        modules, outputs = dict(network.named_modules()), {}
        self._outputs.append(outputs)
        for name in self._recipe.features:
            if name not in modules:
                raise unknown(f"feature of {type(network).__name__}", name, modules)

            def keep(_module: nn.Module, _args: object, output: Tensor, name: str = name) -> None:
                outputs[name] = output

            self._hooks.append(modules[name].register_forward_hook(keep))

    def close(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()

    def __call__(self, shell: nn.Module, batch: Pair) -> Tensor:
        """The loss, averaged over the batch.

        Args:
            shell: The student, or a module that wraps it.
            batch: Inputs, and their labels on the CPU, int64 ``(batch,)``.

        Raises:
            TrainingError: If outputs, labels or features do not fit.
        """
        recipe = self._recipe
        inputs, labels = self._place(batch[0]), batch[1]
        logits = call(shell, inputs)
        _refuse_misfit(logits, labels)
        targets = labels.to(logits.device, non_blocking=True)
        loss = functional.cross_entropy(logits, targets, label_smoothing=recipe.label_smoothing)
        if self._teacher is None:
            return loss
        return (1 - recipe.teacher_weight) * loss + self._of_teacher(self._teacher, inputs, logits)

    def _of_teacher(self, teacher: nn.Module, inputs: Batch, logits: Tensor) -> Tensor:
        recipe = self._recipe
        with torch.no_grad():
            targets = call(teacher, inputs)
        if targets.shape != logits.shape:
            raise TrainingError(
                f"the teacher gives {tuple(targets.shape)}, the network {tuple(logits.shape)}; give a teacher with the "
                "same classes"
            )
        loss = recipe.teacher_weight * divergence(logits, targets, recipe.temperature)
        if recipe.features:
            ours, theirs = self._outputs
            gaps = [_relative_error(name, ours[name], theirs[name]) for name in recipe.features]
            loss = loss + recipe.feature_weight * torch.stack(gaps).mean()
        return loss


def divergence(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """τ² KL(softmax(targets / τ) ‖ softmax(logits / τ)), averaged over the batch; both ``(batch, classes)``."""
    student, teacher = ((values / temperature).log_softmax(1) for values in (logits, targets))
    return temperature**2 * functional.kl_div(student, teacher, reduction="batchmean", log_target=True)


def _relative_error(name: str, student: Tensor, teacher: Tensor) -> Tensor:
    if student.shape != teacher.shape:
        raise TrainingError(
            f"feature {name!r} is {tuple(student.shape)} in the network and {tuple(teacher.shape)} in its teacher; "
            "choose modules whose outputs were not pruned"
        )
    return (student - teacher).square().sum() / teacher.square().sum().clamp_min(1e-12)


def _refuse_misfit(logits: object, labels: Tensor) -> None:
    """Check outputs and labels. On a GPU, a wrong label would otherwise abort the process.

    Raises:
        TrainingError: If the output is no tensor of logits, or a label is not one of their classes.
    """
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(labels):
        given = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise TrainingError(f"the network must give logits (batch, classes) for {len(labels)} labels; it gives {given}")
    lowest, highest = (int(value) for value in torch.aminmax(labels))
    if lowest < 0 or highest >= logits.shape[1]:
        raise TrainingError(
            f"labels {lowest} to {highest} do not fit a network of {logits.shape[1]} classes, whose labels are 0 to "
            f"{logits.shape[1] - 1}; give data and network of the same classes"
        )
