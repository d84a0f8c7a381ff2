"""From scores to what is kept: exact counts, ties to the lowest index."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]


def count(density: float, total: int) -> int:
    """The whole number nearest to `density` × `total`, halves upwards."""
    return int(density * total + 0.5)


def largest(scores: Tensor, candidates: Tensor, n_kept: int) -> Tensor:
    """The `n_kept` candidates of highest score, of equal ones those of lowest index.

    Args:
        scores: Finite numbers, shape ``(N,)``.
        candidates: Booleans ``(N,)``, at least `n_kept` of them true.
        n_kept: How many.

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


def shares(capacities: Sequence[int], sizes: Sequence[int], total: int) -> list[int]:
    """A whole number for each layer, in proportion to its size and at most its capacity; they add up to `total`.

    Largest remainders, of equal ones the first. What a layer has no room for goes to the others.
    """
    given = [0] * len(sizes)
    while (rest := total - sum(given)) > 0:
        roomy = [i for i in range(len(sizes)) if given[i] < capacities[i]]
        weight = sum(sizes[i] for i in roomy)
        parts = {i: divmod(rest * sizes[i], weight) for i in roomy}
        spare = rest - sum(whole for whole, _ in parts.values())
        lucky = sorted(roomy, key=lambda i: (-parts[i][1], i))[:spare]
        for i in roomy:
            given[i] = min(capacities[i], given[i] + parts[i][0] + (i in lucky))
    return given


def shares_above(floors: Sequence[int], capacities: Sequence[int], sizes: Sequence[int], total: int) -> list[int]:
    """As `shares`, but a layer whose share is below its floor gets that, at the expense of the others."""
    fixed: set[int] = set()
    while True:
        room = [0 if i in fixed else capacity for i, capacity in enumerate(capacities)]
        given = shares(room, sizes, total - sum(floors[i] for i in fixed))
        low = {i for i, n in enumerate(given) if i not in fixed and n < floors[i]}
        if not low:
            return [floors[i] if i in fixed else n for i, n in enumerate(given)]
        fixed |= low


def keep_global(scores: Tensors, candidates: Tensors, n_kept: int, minimum: int = 0) -> dict[str, Tensor]:
    """The weights of highest score in the whole network; at least `minimum` in each layer."""
    reserved = {
        n: largest(scores[n].flatten(), candidates[n].flatten(), _floor(candidates[n], minimum)) for n in scores
    }
    flat = torch.cat([scores[name].flatten() for name in scores])
    taken, allowed = torch.cat(list(reserved.values())), torch.cat([candidates[name].flatten() for name in scores])
    kept = taken | largest(flat, allowed & ~taken, n_kept - int(taken.count_nonzero()))
    parts = kept.split([scores[name].numel() for name in scores])
    return {name: part.view(scores[name].shape) for name, part in zip(scores, parts, strict=True)}


def keep_groups(
    scores: Tensors, candidates: Tensors, n_kept: int, groups: Sequence[Sequence[str]], minimum: int = 0
) -> dict[str, Tensor]:
    """The weights of highest score in each group of layers, all at one density; at least `minimum` in each layer.

    Args:
        scores: Finite numbers by layer.
        candidates: Booleans in their shapes.
        n_kept: How many stay; shared among groups by largest remainders.
        groups: Names of the layers of each group; every layer stands in one.
        minimum: How many stay in each layer at least.

    Returns:
        Booleans by layer.
    """
    floors = [sum(_floor(candidates[name], minimum) for name in group) for group in groups]
    sizes = [sum(scores[name].numel() for name in group) for group in groups]
    room = [sum(int(candidates[name].count_nonzero()) for name in group) for group in groups]
    found: dict[str, Tensor] = {}
    for group, n in zip(groups, shares_above(floors, room, sizes, n_kept), strict=True):
        parts = ({name: tensors[name] for name in group} for tensors in (scores, candidates))
        found |= keep_global(*parts, n_kept=n, minimum=minimum)
    return {name: found[name] for name in scores}


def keep_pattern(scores: Tensor, n: int, m: int) -> Tensor:
    """The `n` highest of every `m` consecutive inputs, of equal ones the first.

    Inputs are dimension 1; of a convolution, each pixel of the kernel has its own groups, as hardware lays them out.
    """
    rows = scores.movedim(1, -1)
    groups = rows.reshape(-1, m)
    best = groups.argsort(dim=1, descending=True, stable=True)[:, :n]
    kept = torch.zeros_like(groups, dtype=torch.bool).scatter_(1, best, True)
    return kept.view(rows.shape).movedim(-1, 1).contiguous()


def _floor(candidates: Tensor, minimum: int) -> int:
    return min(minimum, int(candidates.count_nonzero())) if minimum else 0
