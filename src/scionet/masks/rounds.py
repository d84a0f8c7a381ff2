"""Rounds of scoring and masking."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scionet.choices.outputs import Outputs
from scionet.errors import CalibrationError, InvalidSetting, LayerCollapse
from scionet.masks.keeping import keep_groups, keep_pattern, rounded_count
from scionet.masks.mask_rule import MaskRule
from scionet.masks.scores import WeightScore, WeightView
from scionet.masks.weights import isomorphic_groups
from scionet.network.calling import Batch
from scionet.network.comparison import DEFAULT
from scionet.seeds import seeded

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class ScoringTask:
    """A network, a score and the settings of a masking run.

    Attributes:
        model: The network.
        weights: Its weights in float32 or wider.
        name: Name of the score.
        score: The score.
        rule: The settings.
        batches: Batches for the score.
        example_inputs: Inputs of the network, if known.
        within: Masks of an earlier run. Weights that they remove do not return. None for all weights.
        outputs: Which output has the classes, for scores with labels.
    """

    model: nn.Module
    weights: Tensors
    name: str
    score: WeightScore
    rule: MaskRule
    batches: Sequence[Any]
    example_inputs: Batch | None
    within: Tensors | None = None
    outputs: Outputs = DEFAULT

    @property
    def candidates(self) -> Tensors:
        """Which weights may be kept, as booleans of the weights' shapes."""
        if self.within is None:
            return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in self.weights.items()}
        return {name: self.within[name].to(weight.device) for name, weight in self.weights.items()}

    @property
    def groups(self) -> list[list[str]]:
        """Groups of weights, by name, that compete with each other."""
        if self.rule.scope == "isomorphic":
            return isomorphic_groups(self.model, self.weights)
        return [[*self.weights]] if self.rule.scope == "global" else [[name] for name in self.weights]

    def scores(self, masks: Tensors, number: int) -> Tensors:
        """Compute and check the scores of round `number`; the highest are kept, also where the rule inverts them.

        Raises:
            CalibrationError: If scores are NaN, infinite or 0 throughout.
            InvalidSetting: If scores do not have the weights' shapes.
        """
        temperature = self.rule.temperature or self.score.temperature
        rng = seeded(self.rule.seed)("weights", self.name, number)
        view = WeightView(
            self.model, self.weights, masks, self.batches, self.example_inputs, temperature, rng, self.outputs
        )
        given = self.score(view)
        self._refuse_misfit(given)
        found = {name: given[name].detach() for name in self.weights}
        self._refuse_useless(found, masks, number)
        return {name: -score for name, score in found.items()} if self.rule.inverted else found

    def _refuse_misfit(self, found: Tensors) -> None:
        expected = {name: tuple(weight.shape) for name, weight in self.weights.items()}
        given = {name: tuple(score.shape) for name, score in found.items()}
        if wrong := [name for name in expected if given.get(name) != expected[name]]:
            raise InvalidSetting(
                f"score {self.name!r} must return one number per weight: {wrong[0]!r} has shape {expected[wrong[0]]}, "
                f"but its score has {given.get(wrong[0], 'no entry')}"
            )

    def _refuse_useless(self, found: Tensors, masks: Tensors, number: int) -> None:
        wrong = [name for name, score in found.items() if not bool(torch.isfinite(score).all())]
        if wrong:
            raise CalibrationError(
                f"score {self.name!r} is NaN or infinite in {', '.join(map(repr, wrong[:4]))} in round {number}; "
                "check data and weights for such values, or use another score, such as 'magnitude'"
            )
        all_zero = not any(bool(score[masks[name]].any()) for name, score in found.items())
        if all_zero and (number == 1 or self.rule.on_collapse != "allow"):
            cause, advice = (
                ("it cannot distinguish the weights", "use other examples or weights, or another score")
                if number == 1
                else ("no path to the output is left", "use a higher density, min_per_layer=1, or another score")
            )
            raise CalibrationError(f"score {self.name!r} is 0 throughout in round {number}: {cause}; {advice}")


def rounds(task: ScoringTask, densities: Sequence[float]) -> Iterator[tuple[dict[str, Tensor], tuple[str, ...]]]:
    """The masks after each round, and the parameters that `min_per_layer` protected in it.

    Raises:
        LayerCollapse: If a layer is emptied and the rule forbids it.
    """
    initial = task.candidates
    masks, total = initial, sum(weight.numel() for weight in task.weights.values())
    for number, density in enumerate(densities, 1):
        scores = task.scores(masks, number)
        candidates = initial if task.rule.resurrect else masks
        n_kept = max(rounded_count(density, total), rounded_count(densities[-1], total), 1)
        masks, protected = _kept(task, scores, candidates, n_kept)
        if task.rule.on_collapse == "raise" and (names := collapsed(masks)):
            raise LayerCollapse(
                f"score {task.name!r} empties {', '.join(map(repr, names))} in round {number} of {len(densities)}, at "
                f"density {density:.3g}; use min_per_layer=1, scope='local', a higher density, or score 'synflow'"
            )
        yield masks, protected


def _kept(
    task: ScoringTask, scores: Tensors, candidates: Tensors, n_kept: int
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    groups, minimum = task.groups, task.rule.min_per_layer
    masks = keep_groups(scores, candidates, n_kept, groups, minimum)
    if not minimum:
        return masks, ()
    free = {name: int(mask.count_nonzero()) for name, mask in keep_groups(scores, candidates, n_kept, groups).items()}
    return masks, tuple(name for name, mask in masks.items() if int(mask.count_nonzero()) > free[name])


def pattern_masks(task: ScoringTask) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Masks with the rule's N:M pattern, and the parameters that it does not fit, which are left whole."""
    n, m = task.rule.pattern_sizes
    initial = task.candidates
    scores = task.scores(initial, 1)
    whole = tuple(name for name, weight in task.weights.items() if weight.ndim < 2 or weight.shape[1] % m)
    return {name: mask if name in whole else keep_pattern(scores[name], n, m) for name, mask in initial.items()}, whole


def collapsed(masks: Tensors) -> tuple[str, ...]:
    """Parameters that keep no weights, while others do."""
    empty = tuple(name for name, mask in masks.items() if not bool(mask.any()))
    return empty if len(empty) < len(masks) else ()
