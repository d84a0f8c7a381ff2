"""Lottery tickets of whole units: what a method kept, with the weights of an early step of the dense training.

Source: Liu et al., ICLR 2019, section 6, who choose filters by their L1 norm. The units are those that the method chose
in the experiment's dense network, so that the arm ``scratch-e`` has the same architecture with new weights.
"""

from dataclasses import replace

from torch import nn

from scionet.bench.experiment.parts import Trial
from scionet.bench.records.ledger import Payment
from scionet.bench.runs.cuts import Cut
from scionet.bench.runs.data import RunData
from scionet.bench.runs.learning import Learnt, Trainer, Training, at_rate, choose, state_of_rate
from scionet.bench.runs.rewinding import early_training
from scionet.bench.runs.workspace import Dense, Workspace, made
from scionet.network.calling import Batch
from scionet.network.discovery.discover import discover
from scionet.network.plan import Plan
from scionet.network.surgery.cut import cut
from scionet.sparse_training.optimizer_surgery import cut_state
from scionet.training.averages import overwrite
from scionet.training.state import TrainingState


def filter_ticket(workspace: Workspace, trial: Trial, found: Cut, material: RunData, whole: Dense) -> Learnt:
    """Train the units of a pruned network from an early step, at every learning rate of the sweep.

    A learning rate also applies to the epochs before that step.

    Args:
        workspace: The experiment.
        trial: The trial.
        found: The pruned network, whose units are taken.
        material: The data.
        whole: The dense network.

    Raises:
        TrainingError: If a training fails.
    """
    small = Trainer(material, found.record.pruned.macs, workspace.execution)
    dense = Trainer(material, whole.note.outcome.macs, workspace.execution)
    folder = workspace.work(workspace.spec(trial).short_id)
    trainings = list[Training]()
    for factor in sorted(workspace.experiment.learning_rates):
        early, before = _early(workspace, trial, dense, factor)
        model, start = _cut(workspace, trial, found.plan, early, whole.example)
        recipe, path = at_rate(workspace.experiment.recipe(trial.arm), factor), state_of_rate(folder, factor)
        training = small.train(model, recipe, trial.seed, path, start=start)
        trainings.append(replace(training, payments=(*before, *training.payments)))
    return choose(trainings)


def _early(
    workspace: Workspace, trial: Trial, trainer: Trainer, factor: float
) -> tuple[TrainingState, tuple[Payment, ...]]:
    """The dense training at the step to go back to, and its cost if it is not a part of the dense network's."""
    if trial.arm.weights == "first":
        recipe = at_rate(workspace.experiment.recipe(trial.arm), factor)
        return trainer.begin(made(workspace.experiment.network, trial.seed), recipe, trial.seed), ()
    early = early_training(workspace, trainer, trial.seed, factor)
    paid = () if factor == 1 else tuple(replace(payment, stage="dense training") for payment in early.payments)
    return early.state.with_new_callbacks(), paid


def _cut(
    workspace: Workspace, trial: Trial, plan: Plan, state: TrainingState, example: Batch
) -> tuple[nn.Module, TrainingState]:
    """The small network with the weights of a state of the dense training, and that state without the other units."""
    model = made(workspace.experiment.network, trial.seed).eval()
    overwrite(model, state.network)
    sites = discover(model, example)
    own = _units_only(plan).rebased(sites)
    return cut(model, own, sites), cut_state(state, model, own, sites)


def _units_only(plan: Plan) -> Plan:
    """The plan without weights of units: they were fitted to other weights."""
    choices = tuple(replace(choice, weights=(1.0,) * len(choice.kept)) for choice in plan.choices)
    return replace(plan, choices=choices)
