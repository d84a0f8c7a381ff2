"""Reconstruction: the weights that remain, fitted by gradient to what the dense network computes. Needs no labels."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count, islice

import torch
from torch import Tensor, nn

from scionet.errors import CalibrationError, InvalidSetting
from scionet.methods.calibration.holdout import pieces, shuffled
from scionet.methods.repair.feature_matching import Likeness, likeness
from scionet.methods.widths.sensitivity import OutputDistance
from scionet.network.calling import Batch, place_of, state_of
from scionet.network.multiprocess import world
from scionet.network.plan import Plan
from scionet.network.sites import Sites
from scionet.network.surgery.cut import copied, cut, kept_entries, spread, verify
from scionet.progress import Progress
from scionet.seeds import seeded
from scionet.settings import SweepSettings

STEP_EXAMPLES = 64
"""A step sees at most so many examples."""
EVALUATIONS = 5
"""How often the examples kept apart are looked at."""


def refuse_processes() -> None:
    """Steps are not shared out among processes.

    Raises:
        InvalidSetting: If there are several.
    """
    if world()[1] > 1:
        raise InvalidSetting(
            f"reconstruct_steps runs in one process; here are {world()[1]}. Set reconstruct_steps=0, or prune in one"
        )


@dataclass(frozen=True, eq=False)
class ReconstructionData:
    """What a reconstruction learns from, without labels.

    Attributes:
        fitted: Batches to fit on.
        judged: Batches that nothing was fitted on.
        seed: Root of the order in which batches are taken.
    """

    fitted: Sequence[Batch]
    judged: Sequence[Batch]
    seed: int


def reconstructed(
    model: nn.Module,
    sites: Sites,
    plan: Plan,
    material: ReconstructionData,
    settings: SweepSettings,
    progress: Progress,
) -> Plan:
    """The plan with the weights of the cut network after gradient steps towards the dense network.

    The loss is the mean of relative squared errors: of the output, and behind every consumer that is called once. Adam;
    the rate falls to 0 along a cosine.
    BatchNorm keeps its statistics. Of all states looked at, the start included, the one is kept whose outputs are
    nearest on the examples kept apart.

    Args:
        model: The dense network.
        sites: Its sites.
        plan: What stays of it.
        material: What to learn from.
        settings: Number of steps, rate and metric.
        progress: Is told what goes on.

    Raises:
        VerificationError: If the cut network does not compute what the masked one does, before any step.
        CalibrationError: If its outputs are NaN or infinite at the start.
        UnsupportedModel: If the metric asks for classes and there are none.
    """
    student = cut(model, plan, sites)
    difference = verify(model, plan, sites, student, material.judged[0])
    with torch.random.fork_rng(devices=[d for d in [place_of(model)[0]] if d.type == "cuda"]), torch.enable_grad():
        wide = torch.promote_types(place_of(model)[1], torch.float32)  # steps are too small for half precision
        distance = OutputDistance.of(copied(model).to(wide), pieces(material.judged, STEP_EXAMPLES), settings.metric)
        pair = likeness(distance, student.to(wide), sites, plan)
        before, after = _descend(pair, material, settings, progress)
    text = (
        f"reconstructed in {settings.reconstruct_steps} steps after cut and masked network agreed to {difference:.1e}: "
        f"{pair.unit} on {distance.n_examples:,.0f} examples kept apart {before:.3g} -> {after:.3g}"
    )
    return _with_weights(plan, model, sites, student, text)


def _with_weights(plan: Plan, model: nn.Module, sites: Sites, student: nn.Module, text: str) -> Plan:
    """The plan of the same units, with weights that make multipliers superfluous."""
    state, keep = state_of(model), kept_entries(sites, plan)
    weights = {
        name: spread(parameter.detach().to(state[name]), state[name].detach(), keep.get(name, {}))
        for name, parameter in student.named_parameters()
        if parameter.is_floating_point()
    }
    return replace(
        plan,
        choices=tuple(replace(choice, weights=(1.0,) * len(choice.kept)) for choice in plan.choices),
        tensors={**plan.tensors, **weights},
        status=f"{plan.status}; {text}",
    )


def _descend(
    pair: Likeness, material: ReconstructionData, settings: SweepSettings, progress: Progress
) -> tuple[float, float]:
    """Take the steps and leave the student in its best state.

    Returns:
        How far the outputs are apart on the judged examples, before and after.

    Raises:
        CalibrationError: If that is NaN or infinite before.
    """
    steps = settings.reconstruct_steps
    learned = [p.requires_grad_() for p in pair.student.parameters() if p.is_floating_point()]
    optimiser = torch.optim.Adam(learned, settings.reconstruct_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    before = pair.apart()
    best, kept = before, _values(learned)
    if not math.isfinite(before):
        raise CalibrationError("the pruned network gives NaN or infinite outputs; check the calibration data")
    evaluations = {round(steps * (look + 1) / EVALUATIONS) for look in range(EVALUATIONS)}
    for step, batch in enumerate(_in_turns(material, steps), 1):
        progress("reconstruct", step - 1, steps)
        optimiser.zero_grad()
        pair.loss(batch).backward()
        optimiser.step()
        schedule.step()
        if step in evaluations and (now := pair.apart()) < best:
            best, kept = now, _values(learned)
    with torch.no_grad():
        for parameter, value in zip(learned, kept, strict=True):
            parameter.copy_(value)
    progress("reconstruct", steps, steps)
    return before, best


def _in_turns(material: ReconstructionData, steps: int) -> Iterator[Batch]:
    """A batch for each step; every example is taken once before one is taken again."""
    parts, generators = pieces(material.fitted, STEP_EXAMPLES), seeded(material.seed)
    turns = (shuffled(parts, generators("reconstruct", turn)) for turn in count())
    return islice(chain.from_iterable(turns), steps)


def _values(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in parameters]
