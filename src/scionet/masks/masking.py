"""mask_weights: single weights taken away by a score, in one call."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from scionet.errors import CalibrationError, CollapseWarning, InvalidSetting, UnreachableBudget, unknown
from scionet.masks.keeping import count
from scionet.masks.mask_report import MaskReport
from scionet.masks.mask_rule import MaskRule
from scionet.masks.rounds import ScoringTask, collapsed, patterned, rounds
from scionet.masks.scores import SCORES, WeightScore
from scionet.masks.weight_masks import WeightMasks
from scionet.masks.weights import maskable, wide
from scionet.network.calling import Batch, inputs_like, undisturbed
from scionet.network.discovery.discover import Ignored
from scionet.network.example_loss import labelled


@dataclass(frozen=True)
class MaskResult:
    """Masks and how they came about.

    Attributes:
        masks: Which weights stay.
        report: The numbers.
    """

    masks: WeightMasks
    report: MaskReport


def mask_weights(
    model: nn.Module,
    density: float | None = None,
    *,
    score: str | WeightScore = "magnitude",
    batches: Iterable[Any] = (),
    example_inputs: Batch | None = None,
    ignored_layers: Ignored = (),
    within: Mapping[str, Tensor] | None = None,
    **rule: Any,
) -> MaskResult:
    """Choose which single weights of a network stay, without training.

    Weights of linear maps and convolutions are masked; biases, normalisation layers and embeddings are left alone.
    Exactly the whole number nearest to density × weights stays; equal scores go to the lowest index.

    Args:
        model: The network, trained or fresh. It is left exactly as it was; see `WeightMasks.attach_` and
            `WeightMasks.applied` for what to do with the masks.
        density: Fraction of all maskable weights that stay, above 0 and at most 1.
        score: ``"magnitude"``, ``"random"``, ``"lamp"``, ``"synflow"``; with labels ``"snip"``, ``"grasp"``,
            ``"biased_loss"``, ``"gradient_preservation"``, ``"obd"``, ``"woodfisher"``, ``"mfac"``; or a `WeightScore`
            of your own.
        batches: For scores with labels: pairs of inputs and labels, all of them held in memory.
        example_inputs: What the model is called on, for ``"synflow"`` and for batches with more than inputs and labels;
            the first batch says it otherwise.
        ignored_layers: Layers that stay whole: names, globs, types or modules.
        within: Masks of an earlier round, of the same weights: what they remove does not come back. The density is
            still that of all maskable weights.
        **rule: See `scionet.masks.mask_rule.MaskRule`: ``scope="isomorphic"`` or ``"local"``,
            ``pattern="2:4"`` in place of a density, ``schedule=Schedule(rounds=100)``, ``min_per_layer``,
            ``resurrect``, ``on_collapse="raise"``, ``temperature``, ``seed``.

    Raises:
        UnsupportedModel: If there is nothing to mask, weights are integers, NaN or infinite, or the network does not
            run in the way that the score needs.
        CalibrationError: If labels are missing or do not fit, or the score is NaN or 0 throughout.
        UnreachableBudget: If the density leaves fewer weights than there are layers, so that some must be emptied,
            fewer than `min_per_layer` asks for, or more than `within` does.
        LayerCollapse: If a layer is emptied and `on_collapse` is ``"raise"``.
        InvalidSetting: If a name or a setting is not allowed.

    Warns:
        CollapseWarning: If a layer is emptied, or only the minimum has kept it from that.
    """
    if isinstance(score, str) and score not in SCORES:
        raise unknown("weight score", score, SCORES)
    name, chosen = (score, SCORES[score]) if isinstance(score, str) else ("own", score)
    try:
        asked = MaskRule(density=density, **rule)
    except TypeError as error:
        raise InvalidSetting(f"mask_weights: {error}; see scionet.masks.mask_rule.MaskRule") from error
    weights = wide(maskable(model, ignored_layers))
    refuse_emptying(weights, asked)
    if within is not None:
        _refuse_misfit(within, weights, asked)
    with undisturbed(model):
        pairs, example = _prepared(model, chosen, batches, example_inputs)
        task = ScoringTask(model, weights, name, chosen, asked, pairs, example, within)
        return _masked(task)


def _masked(task: ScoringTask) -> MaskResult:
    trace, protected, whole = [], (), ()
    if task.rule.density is None:
        masks, whole = patterned(task)
        trace.append(_size(masks))
    else:
        densities = (task.rule.schedule or task.score.schedule).densities(task.rule.density)
        masks: dict[str, Tensor] = {}
        for step in rounds(task, densities):
            masks, protected = step
            trace.append(_size(masks))
    kept = {name: (int(mask.count_nonzero()), mask.numel()) for name, mask in masks.items()}
    report = MaskReport(task.name, kept, tuple(trace), collapsed(masks), protected, whole)
    _tell(report, task.rule)
    return MaskResult(WeightMasks(masks), report)


def _size(masks: Mapping[str, Tensor]) -> int:
    return sum(int(mask.count_nonzero()) for mask in masks.values())


def _tell(report: MaskReport, rule: MaskRule) -> None:
    if rule.on_collapse == "allow":
        return
    if report.collapsed:
        warnings.warn(
            f"score {report.score!r} has emptied {', '.join(report.collapsed)} at density {report.density:.3g}: give "
            "min_per_layer=1, scope='local', a higher density, or score 'synflow'",
            CollapseWarning,
            stacklevel=4,
        )
    if report.protected:
        warnings.warn(
            f"min_per_layer={rule.min_per_layer} holds {', '.join(report.protected)}, where score {report.score!r} "
            "alone would keep fewer",
            CollapseWarning,
            stacklevel=4,
        )


def refuse_emptying(weights: Mapping[str, Tensor], rule: MaskRule) -> None:
    """Refuse densities that must empty a layer, unless that is allowed.

    Raises:
        UnreachableBudget: If the density is such.
    """
    total = sum(weight.numel() for weight in weights.values())
    n_kept = total if rule.density is None else count(rule.density, total)
    needed = max(rule.min_per_layer, 0 if rule.on_collapse == "allow" else 1)
    least = sum(min(needed, weight.numel()) for weight in weights.values())
    if n_kept < max(least, 1):
        raise UnreachableBudget(
            f"density {rule.density} keeps {n_kept} of {total:,} weights; {len(weights)} layers need {max(least, 1)} "
            f"for {max(needed, 1)} each: give a density of at least {max(least, 1) / total:.3g}"
            + ("" if rule.min_per_layer else ", or on_collapse='allow'")
        )


def _refuse_misfit(within: Mapping[str, Tensor], weights: Mapping[str, Tensor], rule: MaskRule) -> None:
    """Check that masks can be chosen within others.

    Raises:
        InvalidSetting: If those are of other weights, or the rule is a pattern.
        UnreachableBudget: If they keep too few.
    """
    if {name: mask.shape for name, mask in within.items()} != {name: weight.shape for name, weight in weights.items()}:
        raise InvalidSetting(
            f"within has masks of {', '.join(within) or 'nothing'}; weights to mask are {', '.join(weights)}: give the "
            "masks that were made for this network, with the same ignored_layers"
        )
    if rule.density is None:
        raise InvalidSetting("a pattern is made of all weights; leave out within, or give a density")
    n_kept = count(rule.density, sum(weight.numel() for weight in weights.values()))
    if n_kept > (left := sum(int(mask.count_nonzero()) for mask in within.values())):
        raise UnreachableBudget(
            f"density {rule.density} keeps {n_kept:,} weights, of which the masks within which they are chosen leave "
            f"{left:,}; give a lower density"
        )


def _prepared(
    model: nn.Module, score: WeightScore, batches: Iterable[Any], example: Batch | None
) -> tuple[list[Any], Batch | None]:
    """Batches as the score needs them, and the form of the inputs.

    Raises:
        CalibrationError: If labels are needed and missing, or do not fit.
    """
    if not score.uses_labels and not (score.uses_inputs and example is None):
        return [], example
    if isinstance(batches, Tensor | Mapping | str) or not isinstance(batches, Iterable):
        raise CalibrationError(
            f"batches must be an iterable of batches, such as a list or a data loader; given a "
            f"{type(batches).__name__}; wrap a single batch in a list"
        )
    if not score.uses_labels:
        first = next(iter(batches), None)
        return [], first[0] if isinstance(first, tuple | list) and first else first
    found = [labelled(batch if example is None else inputs_like(example, batch), model) for batch in batches]
    if not found:
        raise CalibrationError("this score needs labels: give batches of pairs (inputs, labels); there are none")
    return found, example
