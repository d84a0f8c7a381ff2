"""Select the weights to keep from their scores, with exact counts. Ties go to the lowest index."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]


def rounded_count(density: float, total: int) -> int:
    """`density` × `total`, rounded to the nearest whole number; halves are rounded up."""
    return int(density * total + 0.5)


def keep_largest(scores: Tensor, candidates: Tensor, n_kept: int) -> Tensor:
    """Mask of the `n_kept` candidates with the highest scores; ties go to the lowest index.

    Args:
        scores: Finite numbers, shape ``(N,)``.
        candidates: Booleans ``(N,)``, at least `n_kept` of them true.
        n_kept: Number of candidates to keep.

    Returns:
        Booleans ``(N,)``.
    """
    if not n_kept:
        return torch.zeros_like(candidates)
    values = scores[candidates]
    threshold = values.kthvalue(len(values) - n_kept + 1).values
    kept = (scores > threshold) & candidates
    equal = ((scores == threshold) & candidates).nonzero()[:, 0]
    kept[equal[: n_kept - int(kept.count_nonzero())]] = True
    return kept


def apportion(capacities: Sequence[int], sizes: Sequence[int], total: int) -> list[int]:
    """Divide `total` among layers in proportion to their sizes, up to their capacities.

    Uses largest remainders; ties go to the first layer. What exceeds a layer's capacity goes to the other layers.
    """
    counts = [0] * len(sizes)
    while (rest := total - sum(counts)) > 0:
        not_full = [i for i in range(len(sizes)) if counts[i] < capacities[i]]
        weight = sum(sizes[i] for i in not_full)
        parts = {i: divmod(rest * sizes[i], weight) for i in not_full}
        spare = rest - sum(whole for whole, _ in parts.values())
        rounded_up = sorted(not_full, key=lambda i: (-parts[i][1], i))[:spare]
        for i in not_full:
            counts[i] = min(capacities[i], counts[i] + parts[i][0] + (i in rounded_up))
    return counts


def apportion_with_floors(
    floors: Sequence[int], capacities: Sequence[int], sizes: Sequence[int], total: int
) -> list[int]:
    """As `apportion`, but each layer gets at least its floor, at the expense of the others."""
    at_floor: set[int] = set()
    while True:
        room = [0 if i in at_floor else capacity for i, capacity in enumerate(capacities)]
        counts = apportion(room, sizes, total - sum(floors[i] for i in at_floor))
        below = {i for i, n in enumerate(counts) if i not in at_floor and n < floors[i]}
        if not below:
            return [floors[i] if i in at_floor else n for i, n in enumerate(counts)]
        at_floor |= below


def keep_global(scores: Tensors, candidates: Tensors, n_kept: int, minimum: int = 0) -> dict[str, Tensor]:
    """Keep the weights with the highest scores in the whole network, and at least `minimum` per layer."""
    reserved = {
        n: keep_largest(scores[n].flatten(), candidates[n].flatten(), _floor(candidates[n], minimum)) for n in scores
    }
    flat = torch.cat([scores[name].flatten() for name in scores])
    floor, allowed = torch.cat(list(reserved.values())), torch.cat([candidates[name].flatten() for name in scores])
    kept = floor | keep_largest(flat, allowed & ~floor, n_kept - int(floor.count_nonzero()))
    parts = kept.split([scores[name].numel() for name in scores])
    return {name: part.view(scores[name].shape) for name, part in zip(scores, parts, strict=True)}


def keep_groups(
    scores: Tensors, candidates: Tensors, n_kept: int, groups: Sequence[Sequence[str]], minimum: int = 0
) -> dict[str, Tensor]:
    """Keep the weights with the highest scores in each group of layers, and at least `minimum` per layer.

    All groups have the same density, up to rounding and the minimum.

    Args:
        scores: Finite numbers by layer.
        candidates: Booleans of the same shapes.
        n_kept: Total number of weights to keep, apportioned to groups by largest remainders.
        groups: Names of the layers in each group. Every layer is in exactly one group.
        minimum: Minimum number of weights to keep per layer.

    Returns:
        Booleans by layer.
    """
    floors = [sum(_floor(candidates[name], minimum) for name in group) for group in groups]
    sizes = [sum(scores[name].numel() for name in group) for group in groups]
    room = [sum(int(candidates[name].count_nonzero()) for name in group) for group in groups]
    found: dict[str, Tensor] = {}
    for group, n in zip(groups, apportion_with_floors(floors, room, sizes, n_kept), strict=True):
        parts = ({name: tensors[name] for name in group} for tensors in (scores, candidates))
        found |= keep_global(*parts, n_kept=n, minimum=minimum)
    return {name: found[name] for name in scores}


def keep_pattern(scores: Tensor, n: int, m: int) -> Tensor:
    """Keep the `n` highest of every `m` consecutive inputs; ties go to the first.

    Inputs are dimension 1. In a convolution, each kernel position has its own groups, as in hardware layouts.
    """
    rows = scores.movedim(1, -1)
    groups = rows.reshape(-1, m)
    best = groups.argsort(dim=1, descending=True, stable=True)[:, :n]
    kept = torch.zeros_like(groups, dtype=torch.bool).scatter_(1, best, True)
    return kept.view(rows.shape).movedim(-1, 1).contiguous()


def _floor(candidates: Tensor, minimum: int) -> int:
    return min(minimum, int(candidates.count_nonzero())) if minimum else 0
