"""mask_weights: score single weights and mask those with the lowest scores."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from scionet.errors import CalibrationError, CollapseWarning, InvalidSetting, UnreachableBudget, unknown
from scionet.masks.keeping import rounded_count
from scionet.masks.mask_report import MaskReport
from scionet.masks.mask_rule import MaskRule
from scionet.masks.rounds import ScoringTask, collapsed, pattern_masks, rounds
from scionet.masks.scores import SCORES, WeightScore
from scionet.masks.weight_masks import WeightMasks
from scionet.masks.weights import maskable, upcast
from scionet.network.calling import Batch, inputs_like, undisturbed
from scionet.network.discovery.discover import Ignored
from scionet.network.example_loss import labelled
from scionet.network.guard import guarded


@dataclass(frozen=True)
class MaskResult:
    """Result of `mask_weights`.

    Attributes:
        masks: Which weights are kept.
        report: Counts of kept weights, and layers that need attention.
    """

    masks: WeightMasks
    report: MaskReport


@guarded
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
    """Choose which single weights of a network to keep, without training.

    Weights of linear maps and convolutions are masked. Biases, normalisation layers and embeddings are left alone. The
    number of kept weights is exactly density × weights, rounded to the nearest whole number. Ties go to the lowest
    index.

    Args:
        model: The network, trained or not. It is not modified; use `WeightMasks.attach_` or `WeightMasks.applied` to
            apply the masks.
        density: Fraction of all maskable weights to keep, in (0, 1].
        score: ``"magnitude"``, ``"random"``, ``"lamp"`` or ``"synflow"``; with labels, ``"snip"``, ``"grasp"``,
            ``"biased_loss"``, ``"gradient_preservation"``, ``"obd"``, ``"woodfisher"`` or ``"mfac"``; or your own
            `WeightScore`.
        batches: Pairs of inputs and labels, for scores that use labels. All are kept in memory.
        example_inputs: Inputs of the model, for ``"synflow"`` and for batches that contain more than inputs and labels.
            Taken from the first batch by default.
        ignored_layers: Layers to leave whole: names, globs, types or modules.
        within: Masks of an earlier round for the same weights. Weights that they remove do not return. The density
            still refers to all maskable weights.
        **rule: Settings of `scionet.masks.mask_rule.MaskRule`: ``scope="isomorphic"`` or ``"local"``,
            ``pattern="2:4"`` in place of a density, ``schedule=Schedule(rounds=100)``, ``min_per_layer``,
            ``inverted``, ``resurrect``, ``on_collapse="raise"``, ``temperature``, ``seed``.

    Raises:
        UnsupportedModel: If there is nothing to mask, weights are integers, NaN or infinite, or the network does not
            run in the way that the score requires.
        CalibrationError: If labels are missing or do not match, or the score is NaN or 0 throughout.
        UnreachableBudget: If the density keeps fewer weights than there are layers, fewer than `min_per_layer`
            requires, or more than `within` allows.
        LayerCollapse: If a layer is emptied and `on_collapse` is ``"raise"``.
        InvalidSetting: If a name or a setting is not allowed.

    Warns:
        CollapseWarning: If a layer is emptied, or only `min_per_layer` prevents it.
    """
    if isinstance(score, str) and score not in SCORES:
        raise unknown("weight score", score, SCORES)
    name, chosen = (score, SCORES[score]) if isinstance(score, str) else ("own", score)
    try:
        settings = MaskRule(density=density, **rule)
    except TypeError as error:
        raise InvalidSetting(f"mask_weights: {error}; see scionet.masks.mask_rule.MaskRule") from error
    weights = upcast(maskable(model, ignored_layers))
    refuse_emptying(weights, settings)
    if within is not None:
        _refuse_misfit(within, weights, settings)
    with undisturbed(model):
        pairs, example = _prepared(model, chosen, batches, example_inputs)
        task = ScoringTask(model, weights, name, chosen, settings, pairs, example, within)
        return _masked(task)


def _masked(task: ScoringTask) -> MaskResult:
    counts, protected, whole = [], (), ()
    if task.rule.density is None:
        masks, whole = pattern_masks(task)
        counts.append(_n_kept(masks))
    else:
        densities = (task.rule.schedule or task.score.schedule).densities(task.rule.density)
        masks: dict[str, Tensor] = {}
        for step in rounds(task, densities):
            masks, protected = step
            counts.append(_n_kept(masks))
    kept = {name: (int(mask.count_nonzero()), mask.numel()) for name, mask in masks.items()}
    report = MaskReport(task.name, kept, tuple(counts), collapsed(masks), protected, whole)
    _warn(report, task.rule)
    return MaskResult(WeightMasks(masks), report)


def _n_kept(masks: Mapping[str, Tensor]) -> int:
    return sum(int(mask.count_nonzero()) for mask in masks.values())


def _warn(report: MaskReport, rule: MaskRule) -> None:
    if rule.on_collapse == "allow":
        return
    if report.collapsed:
        warnings.warn(
            f"score {report.score!r} has emptied {', '.join(report.collapsed)} at density {report.density:.3g}: use "
            "min_per_layer=1, scope='local', a higher density, or score 'synflow'",
            CollapseWarning,
            stacklevel=5,
        )
    if report.protected:
        warnings.warn(
            f"min_per_layer={rule.min_per_layer} applies to {', '.join(report.protected)}, of which score "
            f"{report.score!r} alone would keep fewer weights",
            CollapseWarning,
            stacklevel=5,
        )


def refuse_emptying(weights: Mapping[str, Tensor], rule: MaskRule) -> None:
    """Refuse densities that cannot leave weights in every layer, unless that is allowed.

    Raises:
        UnreachableBudget: If the density is too low.
    """
    total = sum(weight.numel() for weight in weights.values())
    n_kept = total if rule.density is None else rounded_count(rule.density, total)
    needed = max(rule.min_per_layer, 0 if rule.on_collapse == "allow" else 1)
    least = sum(min(needed, weight.numel()) for weight in weights.values())
    if n_kept < max(least, 1):
        raise UnreachableBudget(
            f"density {rule.density} keeps {n_kept} of {total:,} weights; {len(weights)} layers need {max(least, 1)} "
            f"for {max(needed, 1)} each: use a density of at least {max(least, 1) / total:.3g}"
            + ("" if rule.min_per_layer else ", or on_collapse='allow'")
        )


def _refuse_misfit(within: Mapping[str, Tensor], weights: Mapping[str, Tensor], rule: MaskRule) -> None:
    """Check that masks can be chosen within earlier ones.

    Raises:
        InvalidSetting: If the earlier masks are for other weights, or the rule is a pattern.
        UnreachableBudget: If the earlier masks keep too few weights.
    """
    if {name: mask.shape for name, mask in within.items()} != {name: weight.shape for name, weight in weights.items()}:
        raise InvalidSetting(
            f"within has masks for {', '.join(within) or 'nothing'}, but the weights to mask are {', '.join(weights)}: "
            "pass masks that were made for this network with the same ignored_layers"
        )
    if rule.density is None:
        raise InvalidSetting("within cannot be combined with a pattern; omit within, or give a density")
    n_kept = rounded_count(rule.density, sum(weight.numel() for weight in weights.values()))
    if n_kept > (left := sum(int(mask.count_nonzero()) for mask in within.values())):
        raise UnreachableBudget(
            f"density {rule.density} keeps {n_kept:,} weights, but the masks in within keep only {left:,}; use a lower "
            "density"
        )


def _prepared(
    model: nn.Module, score: WeightScore, batches: Iterable[Any], example: Batch | None
) -> tuple[list[Any], Batch | None]:
    """The batches and example inputs that the score needs.

    Raises:
        CalibrationError: If labels are needed and missing, or do not match.
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
        raise CalibrationError("this score needs labels, but no batches were given; pass pairs (inputs, labels)")
    return found, example
