"""Lottery tickets and their controls: rounds that remove the smallest weights and train the others again.

Each round removes the smallest remaining weights of the whole network. The others are rewound to an earlier step of the
dense training, or kept, and trained again (Frankle and Carbin, ICLR 2019; Frankle et al., 2019; Renda et al., ICLR
2020). After each round, the number of remaining weights is density times weights, rounded to the nearest whole number.
Rounding errors therefore do not add up.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from scionet.bench.experiment.arms import ARMS, TICKET
from scionet.bench.experiment.densities import density_of, rounds
from scionet.bench.experiment.parts import Trial
from scionet.bench.records.ledger import Payment
from scionet.bench.runs.data import RunData
from scionet.bench.runs.learning import Learnt, Trainer, Training, at_rate, choose
from scionet.bench.runs.rewinding import dense_path, early_training
from scionet.bench.runs.workspace import Dense, Workspace, alone, made
from scionet.masks.masking import mask_weights
from scionet.masks.weight_masks import WeightMasks
from scionet.seeds import root
from scionet.sparse_training.rewind import HeldAtZero, rewound
from scionet.training.averages import copies, tensors_of_network
from scionet.training.recipes import Recipe
from scionet.training.state import TrainingState


@dataclass(frozen=True, eq=False)
class MaskedTraining:
    """A trained network with masks.

    Attributes:
        learnt: The network of the chosen learning rate.
        masks: Its masks.
        paid: Costs of what came before its training.
    """

    learnt: Learnt
    masks: WeightMasks
    paid: tuple[Payment, ...] = ()


def draw(workspace: Workspace, trial: Trial, material: RunData, whole: Dense) -> MaskedTraining:
    """Do all rounds of a trial at every learning rate of the sweep. Rounds done for larger budgets are not repeated.

    A learning rate applies to all trainings, the dense one included, because it decides which weights are large. If
    the arm fine-tunes, it starts from the dense network of the experiment.

    Raises:
        LayerCollapse: If a layer is emptied.
        TrainingError: If a training fails.
    """
    trainer = Trainer(material, whole.note.outcome.macs, workspace.execution)
    ends = [
        _Rounds(workspace, trial, trainer, whole, factor).end()
        for factor in sorted(workspace.experiment.learning_rates)
    ]
    learnt = choose([training for training, _ in ends])
    masks = next(masks for training, masks in ends if training.model is learnt.model)
    return MaskedTraining(learnt, masks, whole.note.payments if trial.arm.training == "finetuning" else ())


@dataclass(frozen=True, eq=False)
class _Reached:
    """A trained network before a round, the masks of that round, and the cost of both."""

    model: nn.Module
    masks: WeightMasks
    payments: tuple[Payment, ...]


@dataclass(frozen=True, eq=False)
class _Rounds:
    """The rounds of one trial at one learning rate."""

    workspace: Workspace
    trial: Trial
    trainer: Trainer
    whole: Dense
    factor: float

    def end(self) -> tuple[Training, WeightMasks]:
        """The training after the last round, with the payments for all rounds, and its masks."""
        arm = self.trial.arm
        if arm.weights != "new" and not arm.shuffled:
            at = self._reached()
        else:
            at = replace(self, trial=replace(self.trial, arm=ARMS[TICKET]))._reached()
        if arm.shuffled:
            at = replace(at, masks=at.masks.shuffled(root(self.trial.seed, "shuffled")))
        training = self._trained(at, self._budgets[-1])
        return replace(training, payments=(*at.payments, *training.payments)), at.masks

    @property
    def _budgets(self) -> tuple[str, ...]:
        return rounds(self.trial.budget, self.workspace.experiment.tickets.round_density)

    def _reached(self) -> _Reached:
        """Do all trainings but the last."""
        model, payments = self._dense()
        at = _Reached(model, self._masks(model, None, self._budgets[0]), payments)
        for budget, following in zip(self._budgets, self._budgets[1:], strict=False):
            training = self._trained(at, budget)
            masks = self._masks(training.model, at.masks, following)
            at = _Reached(training.model, masks, (*at.payments, *_for_selection(training.payments)))
        return at

    def _dense(self) -> tuple[nn.Module, tuple[Payment, ...]]:
        """The dense network: that of the experiment, paid for elsewhere, or one trained at this learning rate."""
        if self.trial.arm.training == "finetuning":
            return self.whole.model, ()
        early, path = self._early(), dense_path(self.workspace, self.trial.seed, self.factor, "dense")
        with alone(path):
            training = self.trainer.train(self._made(), self._recipe, self.trial.seed, path, start=early.state)
        payments = (*early.payments, *training.payments)
        return training.model, tuple(replace(payment, stage="dense training") for payment in payments)

    def _early(self) -> Training:
        """The dense training up to the epoch of late rewinding."""
        return early_training(self.workspace, self.trainer, self.trial.seed, self.factor)

    def _masks(self, model: nn.Module, within: WeightMasks | None, budget: str) -> WeightMasks:
        """The largest weights, of those that are left."""
        path = self._path(budget, "masks")
        with alone(path):
            if not path.exists():
                settings = self.workspace.experiment.tickets
                found = mask_weights(
                    model,
                    density_of(budget),
                    within=within,
                    ignored_layers=settings.ignored_layers,
                    min_per_layer=settings.min_per_layer,
                    on_collapse="raise",
                )
                found.masks.save(path)
            return WeightMasks.load(path)

    def _trained(self, at: _Reached, budget: str) -> Training:
        """A network trained with masks."""
        arm, seed = self.trial.arm, self.trial.seed
        # Rewinding repeats the order of the data.
        order = root(seed, "round", budget) if arm.weights == "kept" else seed
        start = self._start(at, order)
        path, held = self._path(budget, "state"), HeldAtZero(at.masks)
        with alone(path):
            return self.trainer.train(self._made(), self._recipe, order, path, start=start, callbacks=(held,))

    def _start(self, at: _Reached, order: int) -> TrainingState:
        """The state that a training starts from, according to the weights of its arm."""
        weights = self.trial.arm.weights
        if weights == "early":
            return rewound(self._early().state, at.masks)
        first = self._made(root(self.trial.seed, "re-initialised") if weights == "new" else self.trial.seed)
        beginning = self.trainer.begin(first, self._recipe, order)
        if weights == "kept":
            final = replace(beginning, network=copies(tensors_of_network(at.model), "cpu"))
            return rewound(beginning, at.masks, final)
        return rewound(beginning, at.masks)

    def _made(self, seed: int | None = None) -> nn.Module:
        """The network with new weights; without a seed, the initial weights of the dense network."""
        return made(self.workspace.experiment.network, self.trial.seed if seed is None else seed)

    @property
    def _recipe(self) -> Recipe:
        return at_rate(self.workspace.experiment.recipe(self.trial.arm), self.factor)

    def _path(self, budget: str, part: str) -> Path:
        """A file of one round, named after the same trial with the budget of the round."""
        own = self.workspace.spec(replace(self.trial, budget=budget)).short_id
        return self.workspace.out / "tickets" / f"{own}-rate-{self.factor:g}-{part}.safetensors"


def _for_selection(payments: Sequence[Payment]) -> tuple[Payment, ...]:
    """Payments for a round before the last, whose training serves the selection of weights."""
    return tuple(replace(each, stage="selection") if each.stage == "training" else each for each in payments)
