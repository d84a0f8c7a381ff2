"""Reconstruction: the remaining weights are trained to match the dense network. Needs no labels."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count, islice

import torch
from torch import Tensor, nn

from scionet.choices.outputs import Outputs
from scionet.choices.repair import Reconstruct
from scionet.errors import CalibrationError, InvalidSetting
from scionet.methods.calibration.calibration import HELD_OUT
from scionet.methods.calibration.regrouping import pieces, shuffled
from scionet.methods.problem import Problem
from scionet.methods.repair.feature_matching import FeatureMatching, feature_matching
from scionet.methods.widths.output_distance import OutputDistance
from scionet.network.calling import Batch
from scionet.network.multiprocess import world
from scionet.network.network import Network
from scionet.network.plan import Plan
from scionet.network.surgery.cut import copied, cut, kept_entries, spread
from scionet.network.surgery.verification import verify
from scionet.progress import Progress
from scionet.seeds import seeded

STEP_EXAMPLES = 64
"""The most examples of one step."""
EVALUATIONS = 5
"""How many times the held-out examples are evaluated."""


def refuse_processes() -> None:
    """Refuse several processes: steps are not divided among them.

    Raises:
        InvalidSetting: If there are several.
    """
    if world()[1] > 1:
        raise InvalidSetting(
            f"Reconstruct runs in one process; here are {world()[1]}. Leave it out of the repair, or prune in one"
        )


@dataclass(frozen=True, eq=False)
class ReconstructionData:
    """The examples of a reconstruction, without labels.

    Attributes:
        fitted: Batches to fit on.
        judged: Held-out batches, on which nothing is fitted.
        seed: Root of the order of the batches.
    """

    fitted: Sequence[Batch]
    judged: Sequence[Batch]
    seed: int


def reconstruction_data(problem: Problem, seed: int) -> ReconstructionData:
    """The examples of a reconstruction: the calibration examples, and the held-out ones.

    Raises:
        CalibrationError: If there were too few examples to hold any out.
    """
    if problem.held_out is None:
        calibration = problem.calibration
        raise CalibrationError(
            f"reconstruction holds out one calibration example in {HELD_OUT}; given {calibration.count} examples in "
            f"{len(calibration.batches)} batches, too few for that: give {HELD_OUT} examples or more, or leave "
            "Reconstruct out of the repair"
        )
    return ReconstructionData(problem.calibration.inputs, problem.held_out.inputs, seed)


def reconstructed(
    network: Network, plan: Plan, data: ReconstructionData, step: Reconstruct, outputs: Outputs, progress: Progress
) -> Plan:
    """Train the cut network to match the dense one, and return the plan with its weights.

    The loss is the mean of relative squared errors: of each output, and behind every consumer that is called once. The
    optimiser is Adam, with a learning rate that falls to 0 along a cosine. BatchNorm keeps its statistics. Of all
    evaluated states, the start included, the one whose outputs are nearest on the held-out examples is kept.

    Args:
        network: The dense network.
        plan: The plan that the network is cut to.
        data: The examples.
        step: Number of steps, and learning rate.
        outputs: How the distance of outputs is measured.
        progress: Called with the stage, the steps done and the steps in total.

    Raises:
        VerificationError: If the cut network does not compute what the masked one does, before any step.
        CalibrationError: If its outputs are NaN or infinite at the start.
        UnsupportedModel: If outputs are missing, or a divergence asks for classes and there are none.
    """
    sites = network.sites
    student = cut(network.model, plan, sites)
    difference = verify(network.model, plan, sites, student, data.judged[0])
    devices = [device for device in [network.device] if device.type == "cuda"]
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        wide = torch.promote_types(network.dtype, torch.float32)  # steps are too small for half precision
        teacher = Network(copied(network.model).to(wide), sites)
        distance = OutputDistance.on(teacher, pieces(data.judged, STEP_EXAMPLES), outputs)
        pair = feature_matching(distance, student.to(wide), sites, plan)
        before, after = _descend(pair, data, step, progress)
    text = (
        f"reconstructed in {step.steps} steps after cut and masked network agreed to {difference:.1e}: "
        f"{distance.unit_name} on {distance.n_examples:,.0f} held-out examples {before:.3g} -> {after:.3g}"
    )
    return _with_weights(plan, network, student, text)


def _with_weights(plan: Plan, network: Network, student: nn.Module, text: str) -> Plan:
    """The plan with the same units and branches, and with the multipliers merged into the weights."""
    constants = {network.sites.branches[name].constant: (name, c) for name, c in plan.dropped.items() if c is not None}
    dense = {**network.state, **{name: constant.to(network.device) for name, (_, constant) in constants.items()}}
    keep = kept_entries(network.sites, plan)
    weights = {
        name: spread(parameter.detach().to(dense[name]), dense[name].detach(), keep.get(name, {}))
        for name, parameter in student.named_parameters()
        if parameter.is_floating_point()
    }
    trained = {name: weights.pop(constant) for constant, (name, _) in constants.items()}
    return replace(
        plan,
        choices=tuple(replace(choice, weights=(1.0,) * len(choice.kept)) for choice in plan.choices),
        tensors={**plan.tensors, **weights},
        dropped={**plan.dropped, **trained},
        status=f"{plan.status}; {text}",
    )


def _descend(
    pair: FeatureMatching, data: ReconstructionData, step: Reconstruct, progress: Progress
) -> tuple[float, float]:
    """Take the steps and leave the student in its best state.

    Returns:
        The distance of the outputs on the held-out examples, before and after.

    Raises:
        CalibrationError: If the distance before is NaN or infinite.
    """
    steps = step.steps
    learned = [p.requires_grad_() for p in pair.student.parameters() if p.is_floating_point()]
    optimiser = torch.optim.Adam(learned, step.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    before = pair.held_out_distance()
    best, kept = before, _values(learned)
    if not math.isfinite(before):
        raise CalibrationError("the pruned network gives NaN or infinite outputs; check the calibration data")
    evaluations = {round(steps * (each + 1) / EVALUATIONS) for each in range(EVALUATIONS)}
    for number, batch in enumerate(_in_turns(data, steps), 1):
        progress("reconstruct", number - 1, steps)
        optimiser.zero_grad()
        pair.loss(batch).backward()
        optimiser.step()
        schedule.step()
        if number in evaluations and (now := pair.held_out_distance()) < best:
            best, kept = now, _values(learned)
    with torch.no_grad():
        for parameter, value in zip(learned, kept, strict=True):
            parameter.copy_(value)
    progress("reconstruct", steps, steps)
    return before, best


def _in_turns(data: ReconstructionData, steps: int) -> Iterator[Batch]:
    """A batch for each step; every example is used once before any is used again."""
    parts, generators = pieces(data.fitted, STEP_EXAMPLES), seeded(data.seed)
    turns = (shuffled(parts, generators("reconstruct", turn)) for turn in count())
    return islice(chain.from_iterable(turns), steps)


def _values(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in parameters]
