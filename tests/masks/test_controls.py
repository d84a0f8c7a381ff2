"""Controls of scores: inverted scores, and masks that are shuffled within layers."""

from itertools import pairwise

import pytest
import torch
from support.mask_networks import pairs, sizes_mlp

from scionet import Schedule, mask_weights
from scionet.masks.mask_rule import MaskRule
from scionet.masks.rounds import ScoringTask, rounds
from scionet.masks.scores import SCORES
from scionet.masks.weights import maskable

NET = sizes_mlp(6, 9, 8, 4)
DATA = [pairs(12, 6)]
TOTAL = sum(weight.numel() for weight in maskable(NET).values())


@pytest.mark.parametrize("score", ["magnitude", "snip", "grasp", "synflow", "random"])
def test_inverted_scores_keep_what_the_score_removes(score: str) -> None:
    """With one round, the lowest of 158 scores: the complement of the highest others."""
    options = {"score": score, "batches": DATA, "schedule": Schedule(1), "on_collapse": "allow"}
    upper = mask_weights(NET, 100 / TOTAL, **options)
    lower = mask_weights(NET, (TOTAL - 100) / TOTAL, inverted=True, **options)
    assert sum(lower.masks.counts.values()) == TOTAL - 100
    assert all(torch.equal(upper.masks[name], ~lower.masks[name]) for name in upper.masks)


def test_inverted_magnitude_is_the_bottom_of_a_sort_and_takes_zeros_first() -> None:
    model = sizes_mlp(6, 9, 4)
    with torch.no_grad():
        model[0].weight[:2] = 0  # type: ignore[index]
    masks = mask_weights(model, 0.3, inverted=True).masks
    sizes = torch.cat([weight.abs().flatten() for weight in maskable(model).values()])
    count = int(0.3 * len(sizes) + 0.5)
    kept = torch.cat([mask.flatten() for mask in masks.values()])
    assert int(kept.sum()) == count
    assert torch.equal(sizes[kept].sort().values, sizes.sort().values[:count])
    assert bool(masks["0.weight"][:2].all())


@pytest.mark.parametrize("score", ["synflow", "snip"])
def test_removed_weights_do_not_return_though_their_scores_are_the_lowest(score: str) -> None:
    schedule = Schedule(8)
    rule = MaskRule(0.1, schedule=schedule, inverted=True, on_collapse="allow")
    weights = maskable(NET)
    task = ScoringTask(NET, weights, score, SCORES[score], rule, DATA, DATA[0][0])
    found = [masks for masks, _ in rounds(task, schedule.densities(0.1))]
    for before, after in pairwise(found):
        assert not any(bool((after[name] & ~before[name]).any()) for name in weights)
    assert sum(int(mask.sum()) for mask in found[-1].values()) == int(0.1 * TOTAL + 0.5)


@pytest.mark.parametrize("seed", range(3))
def test_shuffled_masks_keep_the_number_of_each_layer_at_other_places(seed: int) -> None:
    masks = mask_weights(NET, 0.4, score="synflow", batches=DATA).masks
    shuffled = masks.shuffled(seed)
    assert shuffled.counts == masks.counts
    assert any(not torch.equal(shuffled[name], masks[name]) for name in masks)
