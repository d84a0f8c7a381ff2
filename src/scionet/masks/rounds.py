"""Rounds of scoring and masking."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scionet.errors import CalibrationError, InvalidSetting, LayerCollapse
from scionet.masks.keeping import count, keep_groups, keep_pattern
from scionet.masks.mask_rule import MaskRule
from scionet.masks.scores import WeightScore, WeightView
from scionet.masks.weights import alike
from scionet.network.calling import Batch
from scionet.seeds import seeded

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class ScoringTask:
    """A network, a score, and what is asked for.

    Attributes:
        model: The network.
        weights: Its weights in float32 or wider.
        name: Name of the score.
        score: The score.
        rule: What is asked for.
        batches: What the score sees.
        example_inputs: What the network is called on, if that is known.
        within: Masks of an earlier round; what they remove does not come back. None for all weights.
    """

    model: nn.Module
    weights: Tensors
    name: str
    score: WeightScore
    rule: MaskRule
    batches: Sequence[Any]
    example_inputs: Batch | None
    within: Tensors | None = None

    @property
    def candidates(self) -> Tensors:
        """Weights that may stay, by booleans of their shapes."""
        if self.within is None:
            return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in self.weights.items()}
        return {name: self.within[name].to(weight.device) for name, weight in self.weights.items()}

    @property
    def groups(self) -> list[list[str]]:
        """Names of the weights that compete with one another."""
        if self.rule.scope == "isomorphic":
            return alike(self.model, self.weights)
        return [[*self.weights]] if self.rule.scope == "global" else [[name] for name in self.weights]

    def scores(self, masks: Tensors, number: int) -> Tensors:
        """Scores of round `number`, known to say something of the weights that are left.

        Raises:
            CalibrationError: If they do not.
            InvalidSetting: If they are not of the weights' shapes.
        """
        temperature = self.rule.temperature or self.score.temperature
        rng = seeded(self.rule.seed)("weights", self.name, number)
        view = WeightView(self.model, self.weights, masks, self.batches, self.example_inputs, temperature, rng)
        given = self.score(view)
        self._refuse_misfit(given)
        found = {name: given[name].detach() for name in self.weights}
        self._refuse_useless(found, masks, number)
        return found

    def _refuse_misfit(self, found: Tensors) -> None:
        expected = {name: tuple(weight.shape) for name, weight in self.weights.items()}
        given = {name: tuple(score.shape) for name, score in found.items()}
        if wrong := [name for name in expected if given.get(name) != expected[name]]:
            raise InvalidSetting(
                f"score {self.name!r} must give a number for each weight: {wrong[0]!r} has shape {expected[wrong[0]]}, "
                f"the score {given.get(wrong[0], 'nothing there')}"
            )

    def _refuse_useless(self, found: Tensors, masks: Tensors, number: int) -> None:
        wrong = [name for name, score in found.items() if not bool(torch.isfinite(score).all())]
        if wrong:
            raise CalibrationError(
                f"score {self.name!r} is NaN or infinite in {', '.join(map(repr, wrong[:4]))} in round {number}; look "
                "for such values in data and weights, or choose another score, such as 'magnitude'"
            )
        silent = not any(bool(score[masks[name]].any()) for name, score in found.items())
        if silent and (number == 1 or self.rule.on_collapse != "allow"):
            cause, advice = (
                ("all weights are alike to it", "give other examples or weights, or another score")
                if number == 1
                else ("nothing reaches the output any more", "give a higher density, min_per_layer=1, or another score")
            )
            raise CalibrationError(f"score {self.name!r} is 0 throughout in round {number}: {cause}; {advice}")


def rounds(task: ScoringTask, densities: Sequence[float]) -> Iterator[tuple[dict[str, Tensor], tuple[str, ...]]]:
    """Masks after each round, and the parameters that the minimum has protected in it.

    Raises:
        LayerCollapse: If a layer is emptied and the rule forbids it.
    """
    everything = task.candidates
    masks, total = everything, sum(weight.numel() for weight in task.weights.values())
    for number, density in enumerate(densities, 1):
        scores = task.scores(masks, number)
        candidates = everything if task.rule.resurrect else masks
        n_kept = max(count(density, total), count(densities[-1], total), 1)
        masks, protected = _kept(task, scores, candidates, n_kept)
        if task.rule.on_collapse == "raise" and (names := collapsed(masks)):
            raise LayerCollapse(
                f"score {task.name!r} empties {', '.join(map(repr, names))} in round {number} of {len(densities)}, at "
                f"density {density:.3g}; give min_per_layer=1, scope='local', a higher density, or score 'synflow'"
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


def patterned(task: ScoringTask) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Masks of the rule's pattern, and the parameters that it does not fit, which stay whole."""
    n, m = task.rule.of
    everything = task.candidates
    scores = task.scores(everything, 1)
    whole = tuple(name for name, weight in task.weights.items() if weight.ndim < 2 or weight.shape[1] % m)
    return {
        name: mask if name in whole else keep_pattern(scores[name], n, m) for name, mask in everything.items()
    }, whole


def collapsed(masks: Tensors) -> tuple[str, ...]:
    """Parameters that keep no weight, while others do."""
    empty = tuple(name for name, mask in masks.items() if not bool(mask.any()))
    return empty if len(empty) < len(masks) else ()
