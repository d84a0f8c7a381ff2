"""The steps of a search: a callback that learns widths and depths between the steps in which `fit` learns weights."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch.nn import functional
from torch.optim import Adam

from scionet.choices.checking import described
from scionet.choices.search import ArchitectureSearch
from scionet.network.calling import tensors_to_model
from scionet.search.expected_cost import CostTerm, expected_macs
from scionet.search.relaxation import temperature
from scionet.search.supernet import Supernet
from scionet.seeds import root
from scionet.training.callbacks import Callback
from scionet.training.context import TrainingContext
from scionet.training.loading import Examples, Pair, load, pairs
from scionet.training.order import Order
from scionet.training.randomness import reseed
from scionet.training.recipes import Recipe
from scionet.training.state import Epoch


@dataclass(eq=False)
class ArchitectureSteps(Callback):
    """After each step of the weights, a step of the logits on other examples: cross-entropy + weight × cost.

    Attributes:
        choice: The settings of the search.
        term: The cost.
        data: The examples that widths and depths are learnt from.
        recipe: The recipe of the weights, which says how long the search is and how large its batches.
        workers: Processes that read the examples.
        trace: What was observed after each epoch, as JSON values.
        memory: State of Adam that the search goes on from, for each logit vector by its number.
    """

    choice: ArchitectureSearch
    term: CostTerm
    data: Examples
    recipe: Recipe
    workers: int = 0
    trace: list[dict[str, Any]] = field(default_factory=list, init=False)
    memory: dict[str, dict[str, Any]] = field(default_factory=dict, init=False)
    _adam: Adam = field(init=False)
    _batches: Iterator[Pair] = field(init=False)

    def settings(self) -> Mapping[str, Any]:
        """The settings of the search and the target; the examples belong to the identity of the training."""
        return {"method": described(self.choice), "cost": asdict(self.term)}

    def state(self) -> Mapping[str, Any]:
        """The trace, and the state of Adam."""
        memory = self._adam.state_dict()["state"]
        return {"trace": self.trace, "memory": {str(number): dict(kept) for number, kept in memory.items()}}

    def on_start(self, context: TrainingContext) -> None:
        """Set the temperature, and go on with Adam and the examples where they were."""
        supernet, choice = _supernet(context), self.choice
        self._set_temperature(supernet, context.epoch)
        decays = (choice.gradient_decay, choice.square_decay)
        self._adam = Adam(supernet.logits(), choice.learning_rate, decays, weight_decay=choice.weight_decay)
        if self.memory:
            groups = self._adam.state_dict()["param_groups"]
            state = {int(number): kept for number, kept in self.memory.items()}
            self._adam.load_state_dict({"state": state, "param_groups": groups})
        size = min(self.recipe.batch_size, len(self.data))
        order = Order(len(self.data), size, root(context.seed, "architecture"))
        steps = self.recipe.steps(context.steps_per_epoch)
        self._batches = load(self.data, order.batches(context.step, steps), pairs, self.workers)

    def after_step(self, context: TrainingContext) -> None:
        """Learn widths and depths from one batch."""
        supernet = _supernet(context)
        images, labels = tensors_to_model(next(self._batches), supernet)
        reseed(root(context.seed, "architecture", context.step), context.device)
        logits = supernet.logits()
        try:
            for each in logits:
                each.requires_grad_(True)
            loss = functional.cross_entropy(supernet(images), labels) + self.choice.cost_weight * self._cost(supernet)
            for each, gradient in zip(logits, torch.autograd.grad(loss, logits), strict=True):
                each.grad = gradient
            self._adam.step()
        finally:
            for each in logits:
                each.grad = None
                each.requires_grad_(False)

    def _cost(self, supernet: Supernet) -> torch.Tensor:
        expected = expected_macs(supernet.space, *supernet.probabilities())
        return self.term(expected, supernet.space.macs(supernet.architecture))

    @torch.no_grad()
    def after_epoch(self, context: TrainingContext, epoch: Epoch) -> None:
        """Note what there is to see, and cool down."""
        supernet = _supernet(context)
        widths, depths = supernet.probabilities()
        architecture = supernet.architecture
        self.trace.append(
            {
                "epoch": epoch.number,
                "temperature": supernet.temperature,
                "macs": supernet.space.macs(architecture),
                "expected_macs": expected_macs(supernet.space, widths, depths).item(),
                "validation": None if epoch.validation is None else epoch.validation.value,
                **architecture.arguments(),
                "widths": [each.tolist() for each in widths],
                "depths": [each.tolist() for each in depths],
            }
        )
        self._set_temperature(supernet, epoch.number + 1)

    def _set_temperature(self, supernet: Supernet, epoch: int) -> None:
        choice = self.choice
        supernet.temperature = temperature(epoch - 1, self.recipe.epochs, choice.warmest, choice.coldest)


def _supernet(context: TrainingContext) -> Supernet:
    assert isinstance(context.network, Supernet), "the callback is one of a supernet's training"
    return context.network
