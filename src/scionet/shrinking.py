"""shrink: train a network so that it shrinks, and cut it. ShrinkLoop: the same in a training loop of your own."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from scionet.budget.allocation.explicit import explicit
from scionet.budget.allocation.reach import refuse_unreachable
from scionet.budget.budget import Budget
from scionet.budget.costs import CostModel
from scionet.choices.checking import described
from scionet.choices.depth import DropBranches
from scionet.choices.limits import Limits
from scionet.choices.repair import Refit
from scionet.choices.resources import Resources
from scionet.choices.settings import GivenRepair, GivenWidths, widths_from
from scionet.choices.widths import Global, Uniform, Whole, Widths
from scionet.errors import InvalidSetting, UnreachableBudget
from scionet.methods.contract import SiteView
from scionet.methods.criteria.unit_scores import ScoreRanker
from scionet.methods.registry import GivenMethod
from scionet.methods.units import Units
from scionet.network.calling import Batch
from scionet.network.discovery.discover import discover
from scionet.network.plan import Plan
from scionet.network.surgery.cut import copied
from scionet.pruning import PruneResult, prune
from scionet.seeds import seeded
from scionet.selection.greedy import Selection
from scionet.sparse_training.registry import SHRINKERS, GivenShrinking, name_of_shrinking, shrinking_from
from scionet.sparse_training.shrinker import Shrinker, Targets
from scionet.training.callbacks import Callback
from scionet.training.context import TrainingContext
from scionet.training.execution import Execution
from scionet.training.fit import FitResult, fit
from scionet.training.given_loss import Loss
from scionet.training.loading import Collate, Examples, load, pairs, tree
from scionet.training.order import Order
from scionet.training.recipes import Recipe
from scionet.training.state import Epoch

_LIMITS, _RESOURCES = Limits(), Resources()
_CALIBRATION_EXAMPLES = 1024
"""Training examples, at most, on which `shrink` measures what removed units still contributed."""
_MEANS = (Refit(shrinkage=1.0),)
"""The default repair: consumers keep their weights, and their biases take up the mean of what is removed."""

GivenBudget = Budget | str | Mapping[str, object] | None


@dataclass(frozen=True)
class ShrinkResult(PruneResult):
    """A network that shrank while it was trained.

    Attributes:
        training: The result of the training; None in a training loop of your own.
        trace: What the method noted after each epoch, such as quantiles of its factors.
    """

    training: FitResult | None = field(default=None)
    trace: tuple[Mapping[str, Any], ...] = field(default=())


class ShrinkLoop:
    """A network that shrinks in a training loop of your own.

    Call the hooks in this order, in every step: `penalty` (add it to the loss), `before_step` between ``backward`` and
    the optimiser's step, `after_step` after it; and `after_epoch` at the end of every epoch. `finish` then cuts the
    network.

    Attributes:
        shrinker: The method's callback, for `fit`.
        sites: The sites of the network.
    """

    def __init__(
        self,
        model: nn.Module,
        budget: GivenBudget = None,
        *,
        method: GivenShrinking,
        recipe: Recipe,
        steps_per_epoch: int,
        example_inputs: Batch,
        data: Iterable[Any] = (),
        widths: GivenWidths | None = None,
        towards: GivenMethod | Plan | None = None,
        limits: Limits = _LIMITS,
        resources: Resources = _RESOURCES,
        seed: int = 0,
    ) -> None:
        """Find the units of a network, and decide which or how many of them are to go.

        Args:
            model: The network; it is trained in place by your loop.
            budget: Limits on the cut network, as for `scionet.prune`.
            method: How the network shrinks: a name, such as ``"increg"``, or its class with settings.
            recipe: The length of the training, its learning rate and weight decay. Your loop does what it says.
            steps_per_epoch: Steps of an epoch.
            example_inputs: Inputs of the model.
            data: Batches of inputs, if `towards` or `widths` measure anything.
            widths: How the budget is divided among the layers, or `Widths` in place of a budget.
            towards: The units to keep: a plan, or a method of `scionet.prune` that chooses them before the training.
                By default the method's own ranking.
            limits: Multiples and minima of widths, and layers that stay whole.
            resources: Memory, workers, and samples.
            seed: Root of all randomness.

        Raises:
            PruneError: As `shrink` does.
        """
        choice = shrinking_from(method)
        if widths is not None and isinstance(widths_from(widths), Whole):
            raise InvalidSetting(
                "widths 'whole' leave all units, and shrinking removes some; give other widths, such as 'uniform', or "
                "drop branches afterwards with prune(..., depth=...)"
            )
        self._model, self._inputs, self._budget = model, example_inputs, budget
        self._limits, self._resources, self._seed = limits, resources, seed
        self.sites = discover(model, example_inputs, limits.ignored_layers)
        kind = SHRINKERS[type(choice)]
        units = kind.units_of(choice, model, self.sites)
        self._choice = choice
        self._widths: GivenWidths | None = widths
        if kind.drops_branches(choice):
            self._refuse_no_branches(widths, towards)
            targets = Targets()
        else:
            targets = self._targets(kind, units, towards, data)
        steps = recipe.steps(steps_per_epoch)
        self.shrinker: Shrinker = kind(choice, units, targets, recipe, steps)
        self._per_epoch, self._step, self._started = steps_per_epoch, 0, False

    def optimizer(self) -> Optimizer | None:
        """The optimiser that the method needs; None if it works with any."""
        return self.shrinker.optimizer(self._model)

    def penalty(self, optimizer: Optimizer) -> Tensor:
        """What to add to the loss of this step."""
        found = self.shrinker.penalty(self._context(optimizer, self._step + 1))
        return torch.zeros(()) if found is None else found

    def before_step(self, optimizer: Optimizer) -> None:
        """The gradients are complete; change them."""
        self._step += 1
        self.shrinker.before_step(self._context(optimizer, self._step))

    def after_step(self, optimizer: Optimizer) -> None:
        """The optimiser has changed the weights; hold removed units at zero."""
        self.shrinker.after_step(self._context(optimizer, self._step))

    def after_epoch(self, optimizer: Optimizer, loss: float = math.nan) -> None:
        """An epoch is done."""
        context = self._context(optimizer, self._step)
        self.shrinker.after_epoch(context, Epoch(context.epoch, self._step, loss, context.learning_rate))

    def finish(
        self, data: Iterable[Any] = (), *, repair: GivenRepair | None = None, progress: bool | None = None
    ) -> ShrinkResult:
        """Cut the network.

        Args:
            data: Batches of inputs to measure on what removed units still contributed; without them nothing makes up
                for it.
            repair: Steps that repair the weights. By default biases take up the mean of what is removed.
            progress: Show progress bars on standard error; by default where that is a terminal.

        Raises:
            PruneError: As `scionet.prune` does.
        """
        shrinker, model = self.shrinker, self._model
        shrinker.conclude(model)
        scores = shrinker.final_scores(model)
        batches = list(data)
        if shrinker.drops_branches(self._choice):
            return self._without_branches(scores, batches, repair, progress)
        result = prune(
            model,
            batches,
            None if shrinker.targets.counts is not None else self._budget,
            example_inputs=self._inputs,
            method=_Shrunk.of(shrinker, scores),
            widths=self._final_widths(scores),
            repair=(_MEANS if batches else ()) if repair is None else repair,
            limits=replace(self._limits, round_to=1) if shrinker.targets.counts is not None else self._limits,
            resources=self._resources,
            seed=self._seed,
            progress=progress,
        )
        return self._finished(result, result.plan.kept)

    def _finished(self, result: PruneResult, kept: Mapping[str, tuple[int, ...]]) -> ShrinkResult:
        """The result of pruning, with what was observed in the training."""
        note = self.shrinker.told(self._model, kept)
        report = replace(result.report, status=f"{result.report.status}; {note}")
        found = {name: getattr(result, name) for name in ("model", "plan", "sites", "latency_table")}
        return ShrinkResult(**found, report=report, trace=tuple(self.shrinker.trace))

    def _without_branches(
        self,
        scores: Mapping[str, Tensor],
        batches: list[Any],
        repair: GivenRepair | None,
        progress: bool | None,
    ) -> ShrinkResult:
        """Drop the branches whose factors ended at zero, and those of the lowest factors, down to the budget.

        Raises:
            InvalidSetting: If no branch ended at zero, and there is no budget.
        """
        costs, order = CostModel(self.sites), sorted(scores, key=lambda name: float(scores[name]))
        gone = [name for name in order if float(scores[name]) == 0]
        budget = None if self._budget is None else Budget.of(self._budget)
        while budget is not None and not budget.met(costs.without(dict.fromkeys(gone)).cost({}), costs.dense):
            gone.append(order[len(gone)])
        if not gone:
            raise InvalidSetting(
                f"no factor of a branch ended at zero; the smallest is {float(scores[order[0]]):.2g}. Raise l1_weight, "
                "train longer, or give a budget"
            )
        result = prune(
            self._model,
            batches,
            example_inputs=self._inputs,
            method=_Shrunk.of(self.shrinker, {name: torch.ones(site.width) for name, site in self.sites.items()}),
            depth=DropBranches(tuple(gone), constants=bool(batches)),
            widths=Widths({}),
            repair=() if repair is None else repair,
            limits=self._limits,
            resources=self._resources,
            seed=self._seed,
            progress=progress,
        )
        return self._finished(result, dict.fromkeys(gone, ()))

    def _context(self, optimizer: Optimizer, step: int) -> TrainingContext:
        epoch = (max(step, 1) - 1) // self._per_epoch + 1
        context = TrainingContext(self._model, optimizer, step, epoch, self._per_epoch, self._seed)
        if not self._started:
            self._started = True
            self.shrinker.on_start(context)
        return context

    def _targets(
        self, kind: type[Shrinker], units: Units, towards: GivenMethod | Plan | None, data: Iterable[Any]
    ) -> Targets:
        """What is to go.

        Raises:
            InvalidSetting: If budget, widths and plan do not fit together.
        """
        if isinstance(towards, Plan):
            if self._budget is not None or self._widths is not None:
                raise InvalidSetting("towards=Plan says what remains; leave out budget and widths")
            towards.refuse_other_sites(self.sites)
            return _targets_of(towards, units)
        if isinstance(self._widths, Widths) and towards is None:
            kept = explicit(CostModel(self.sites), self._widths.units, **self._bounds)
            return Targets(tuple(site.width - kept[name] for name, site in self.sites.items()))
        if towards is None and not kind.needs_counts:
            if self._budget is not None:
                refuse_unreachable(CostModel(self.sites), Budget.of(self._budget), **self._bounds)
            return Targets()
        if self._budget is None and not isinstance(self._widths, Widths):
            raise InvalidSetting(
                f"{type(self._choice).__name__} must know how much is to remain: give a budget, such as 'macs<=50%', "
                "widths=Widths(...), or towards=plan"
            )
        plan = prune(
            self._model,
            data if towards is not None else (),
            self._budget,
            example_inputs=self._inputs,
            method="l1" if towards is None else towards,
            widths=self._widths or (Uniform() if towards is None else None),
            repair=(),
            limits=self._limits,
            resources=self._resources,
            seed=self._seed,
            progress=False,
        ).plan
        found = _targets_of(plan, units)
        return found if towards is not None else Targets(found.counts)

    def _refuse_no_branches(self, widths: GivenWidths | None, towards: GivenMethod | Plan | None) -> None:
        """Refuse what branches do not go with, and budgets out of reach.

        Raises:
            InvalidSetting: If widths or a ranking are given, or branches lie in one another.
            UnreachableBudget: If the network without all branches exceeds the budget.
        """
        if widths is not None or towards is not None:
            raise InvalidSetting("structures='branches' drops whole branches; leave out widths and towards")
        self.sites.refuse_clash(self.sites.branches)
        least, budget = CostModel(self.sites).without(dict.fromkeys(self.sites.branches)), self._budget
        if budget is not None and not Budget.of(budget).met(cost := least.cost({}), least.dense):
            raise UnreachableBudget(
                f"the budget {budget} cannot be reached by dropping branches: without all {len(self.sites.branches)}, "
                f"{cost} remain; raise the budget, or choose structures='units'"
            )

    @property
    def _bounds(self) -> dict[str, int]:
        return {"round_to": self._limits.round_to, "min_units": self._limits.min_units}

    def _final_widths(self, scores: Mapping[str, Tensor]) -> GivenWidths:
        """How many units each site keeps."""
        counts = self.shrinker.targets.counts
        if counts is not None:
            return Widths({n: s.width - count for (n, s), count in zip(self.sites.items(), counts, strict=True)})
        if self._budget is None:
            alive = {name: max(self._limits.min_units, int((score > 0).sum())) for name, score in scores.items()}
            return Widths(alive)
        return self._widths or Global()


def shrink(
    model: nn.Module,
    train: Examples,
    budget: GivenBudget = None,
    *,
    method: GivenShrinking,
    recipe: Recipe | None = None,
    example_inputs: Batch,
    validation: Examples | None = None,
    widths: GivenWidths | None = None,
    towards: GivenMethod | Plan | None = None,
    repair: GivenRepair | None = None,
    limits: Limits = _LIMITS,
    resources: Resources = _RESOURCES,
    teacher: nn.Module | None = None,
    loss: Loss | None = None,
    state_file: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    execution: Execution | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> ShrinkResult:
    """Train a copy of a network so that it shrinks, and cut it.

    With a `state_file`, an interrupted call goes on where it was, and ends with the same network.

    Args:
        model: The network, trained or not. It is not changed.
        train: Training examples: a map-style data set of pairs of an input and a label, as for `scionet.fit`.
        budget: Limits on the cut network, as for `scionet.prune`. With ``slimming``, ``sparse_structures`` and
            ``directional`` it may be left out: what ended at zero is then removed.
        method: How the network shrinks: ``"slimming"``, ``"sparse_structures"``, ``"soft_filters"``, ``"increg"``,
            ``"greg1"``, ``"greg2"`` or ``"directional"``, or the classes of these names, such as ``IncReg(u=0.25)``.
        recipe: How to train; by default ten epochs. What an average of the weights or the best epoch would give did not
            shrink as far, so `average_decay` and `patience` are refused.
        example_inputs: Inputs of the model.
        validation: Examples on which the accuracy is measured after every epoch.
        widths: How the budget is divided among the layers: by default one density for all, or one threshold for all
            units where the method finds the widths itself. ``Widths({...})`` in place of a budget.
        towards: The units to keep: a plan, or a method of `scionet.prune` (``"forward"``), which chooses them before
            the training. By default the method's own ranking.
        repair: Steps that repair the weights after the training. By default biases take up the mean of what is removed.
        limits: Multiples and minima of widths, and layers that stay whole.
        resources: Memory, workers, and samples.
        teacher: The teacher, if the recipe uses distillation.
        loss: The loss, as for `scionet.fit`; by default cross-entropy.
        state_file: A ``.safetensors`` file for the state of the training.
        callbacks: Further callbacks, which run after the method's own.
        execution: How the training is done: workers, precision, memory, logging.
        seed: Root of all randomness.
        progress: Show progress bars on standard error; by default where that is a terminal.

    Raises:
        InvalidSetting: If a setting is not allowed or they do not fit together; if the method needs BatchNorms that the
            network does not have.
        UnreachableBudget: If even the narrowest network exceeds the budget; this is found before the training.
        TrainingError: As `scionet.fit` does.
        CheckpointError: If the state is of another training: what differs is listed.
        PruneError: As `scionet.prune` does.
    """
    recipe = recipe or Recipe()
    _refuse_other_weights(recipe)
    trained = copied(model)
    order = Order(len(train), recipe.batch_size, seed)
    sample = _sample(train, seed, pairs if loss is None else tree)
    loop = ShrinkLoop(
        trained,
        budget,
        method=method,
        recipe=recipe,
        steps_per_epoch=order.steps_per_epoch,
        example_inputs=example_inputs,
        data=sample,
        widths=widths,
        towards=towards,
        limits=limits,
        resources=resources,
        seed=seed,
    )
    training = fit(
        trained,
        train,
        recipe,
        validation=validation,
        teacher=teacher,
        loss=loss,
        seed=seed,
        state_file=state_file,
        execution=execution,
        optimizer=loop.optimizer(),
        callbacks=[loop.shrinker, *callbacks],
        progress=progress,
    )
    return replace(loop.finish(sample, repair=repair, progress=progress), training=training)


@dataclass(frozen=True)
class _Shrunk(ScoreRanker):
    """Ranks units by what they were worth when the training ended.

    Attributes:
        settings: The method and its settings as JSON.
        any_width: Whether the method finds the widths, so that units at zero go even if the budget has room for them.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    any_width: bool = False

    @property
    def described(self) -> Mapping[str, Any]:
        """The method and its settings."""
        return self.settings

    def rank(self, view: SiteView, n_units: int, rng: np.random.Generator) -> Selection:
        """The units of highest score."""
        alive = max(1, int(np.count_nonzero(self.scores(view, rng))))
        return super().rank(view, min(n_units, alive) if self.any_width else n_units, rng)

    @property
    def why_fewer(self) -> str:
        """The reason for which a budget is met from further below."""
        return "all other units ended at zero"

    @classmethod
    def of(cls, shrinker: Shrinker, scores: Mapping[str, Tensor]) -> "_Shrunk":
        """The ranking of a training that is over."""
        name = name_of_shrinking(shrinker.choice)
        kept = {site: score.double().cpu().numpy() for site, score in scores.items()}
        settings = {**described(shrinker.choice), "name": name}
        any_width = shrinker.targets.counts is None
        return cls(lambda view, _rng: kept[view.site.name], name, settings=settings, any_width=any_width)


def _targets_of(plan: Plan, units: Units) -> Targets:
    """The units that a plan removes, those that it picked last ranking above those that it never picked."""
    going, order = [], []
    kept = plan.kept
    orders = {choice.site: choice.order for choice in plan.choices}
    for name, width in zip(units.sites, units.widths, strict=True):
        staying = set(kept.get(name, range(width)))
        first = list(dict.fromkeys(unit for unit in orders.get(name, ()) if unit in staying))
        rest = sorted(staying - set(first))
        ranks = {unit: width - place for place, unit in enumerate([*first, *rest])}
        going += [unit not in staying for unit in range(width)]
        order += [ranks.get(unit, 0) for unit in range(width)]
    flags = torch.tensor(going)
    counts = tuple(int(part.sum()) for part in flags.split(units.widths))
    return Targets(counts, flags, torch.tensor(order, dtype=torch.float64))


def _sample(train: Examples, seed: int, collate: Collate[Any]) -> list[Any]:
    """Batches of training examples, drawn at random."""
    count = min(len(train), _CALIBRATION_EXAMPLES)
    indices = np.sort(seeded(seed)("shrink").permutation(len(train))[:count]).tolist()
    tickets = [(index, seed + index) for index in indices]
    return list(load(train, [tickets[first : first + 128] for first in range(0, count, 128)], collate))


def _refuse_other_weights(recipe: Recipe) -> None:
    """Refuse recipes that end with other weights than those of the last step.

    Raises:
        InvalidSetting: If the recipe is one of these.
    """
    if recipe.average_decay is not None or recipe.patience is not None:
        raise InvalidSetting(
            "shrink needs the weights of the last step, which have shrunk the furthest; leave out average_decay "
            f"({recipe.average_decay}) and patience ({recipe.patience}) of the recipe"
        )
