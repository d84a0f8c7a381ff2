"""Greedy selection as a differentiable layer: the function that is maximised can be learned from chosen sets.

Source: Powers et al., *Differentiable Greedy Networks*, 2018 (arXiv 1810.12464). This is a reconstruction: the paper's
feature map, loss and temperature are not published, and there is no official code.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from scionet.errors import InvalidSetting

Mode = Literal["st", "soft", "hard"]
ConcaveName = Literal["log1p", "sqrt"]

SOFTEST = 0.1
"""Below this temperature purely soft selection is no relaxation of greedy selection, and is refused."""
_FLOOR = 1e-12
_OFFSET = 1e-3
_NEVER = -1e30


@dataclass(frozen=True, eq=False)
class SoftSelection:
    """What a selection of k items from each of B instances gave.

    Attributes:
        probabilities: Of each item in each step, shape ``(B, k, n)``; rows are 0 where no item was left.
        mask: How much of each item is selected, shape ``(B, n)``.
        order: The item of each step, shape ``(B, k)``; -1 where none was left.
    """

    probabilities: Tensor
    mask: Tensor
    order: Tensor


class SoftGreedy(nn.Module):
    """k steps of greedy maximisation of ``f(A) = sum_u w_u h(sum_{v in A} phi_u(v))``, unrolled.

    phi is not negative, the weights are the softplus of a parameter, and h is concave with h(0) = 0: f is monotone and
    submodular whatever the parameters are, so the value of a hard selection is at least 1 - 1/e of the best one.
    Nothing is claimed of how f relates to what the items are chosen for.

    Attributes:
        theta: The weights before the softplus, shape ``(U,)``.
        feature_map: From items ``(..., d)`` to features ``(..., U)`` of at least 0; None: as they are.
    """

    def __init__(self, n_features: int, feature_map: nn.Module | None = None, concave: ConcaveName = "log1p") -> None:
        """Make the layer, with all weights alike.

        Args:
            n_features: Number U of features.
            feature_map: A small network; its output must not be negative.
            concave: h: ``"log1p"``, or ``"sqrt"`` (with finite slope at 0).

        Raises:
            InvalidSetting: If there is no such h.
        """
        super().__init__()
        if concave not in get_args(ConcaveName):
            raise InvalidSetting(f"concave must be one of {', '.join(get_args(ConcaveName))}; given {concave!r}")
        self.theta = nn.Parameter(torch.zeros(n_features))
        self.feature_map = feature_map
        self._concave: Callable[[Tensor], Tensor] = torch.log1p if concave == "log1p" else _shifted_root

    def value(self, items: Tensor, mask: Tensor) -> Tensor:
        """F of the selection.

        Args:
            items: Shape ``(B, n, d)``.
            mask: How much of each item is selected, shape ``(B, n)``.

        Returns:
            Shape ``(B,)``.
        """
        level = torch.einsum("bn,bnu->bu", mask.to(items.dtype), self._features(items))
        return self._concave(level) @ self._weights(level)

    def gains(self, level: Tensor, features: Tensor) -> Tensor:
        """What each item adds to f, shape ``(B, n)``.

        Args:
            level: Summed features of what is selected, shape ``(B, U)``.
            features: Of all items, shape ``(B, n, U)``.
        """
        rise = self._concave(level[:, None] + features) - self._concave(level)[:, None]
        return rise @ self._weights(rise)

    def forward(
        self, items: Tensor, k: int, tau: float = 0.3, mode: Mode = "st", valid: Tensor | None = None
    ) -> SoftSelection:
        """Select k items of each instance.

        Args:
            items: Shape ``(B, n, d)``.
            k: Number of steps; those after the last item select nothing.
            tau: Temperature of the softmax over gains.
            mode: ``"st"``: the best item is taken whole, gradients are those of the softmax (straight-through), so the
                selection is that of greedy at every temperature; ``"hard"``: without gradients; ``"soft"``: each item
                by its probability, for analysis, at temperatures of 0.1 or more.
            valid: Which items are none of the padding, shape ``(B, n)``; all if not given.

        Raises:
            InvalidSetting: If a setting is out of range, shapes do not fit, or a feature is negative.
        """
        self._check(items, k, tau, mode)
        features = self._features(items)
        left = torch.ones(items.shape[:2], dtype=torch.bool, device=items.device) if valid is None else valid.clone()
        level = features.new_zeros(len(items), features.shape[2])
        taken = features.new_zeros(items.shape[:2])
        probabilities, order = [], []
        for _ in range(k):
            logits = self.gains(level, features) / tau
            if mode == "soft":
                logits = logits + torch.log((1 - taken).clamp_min(_FLOOR))
            share = _softmax(logits, left)
            best = logits.masked_fill(~left, _NEVER).argmax(1)
            some = left.any(1)
            whole = functional.one_hot(best, left.shape[1]).to(share) * some[:, None]
            step = {"st": whole + share - share.detach(), "soft": share, "hard": whole}[mode]
            level = level + torch.einsum("bn,bnu->bu", step, features)
            taken = taken + step
            if mode != "soft":
                left = left & ~whole.bool()
            probabilities.append(share)
            order.append(torch.where(some, best, -1))
        empty = features.new_zeros(len(items), 0, features.shape[1])
        return SoftSelection(
            torch.stack(probabilities, 1) if k else empty,
            taken,
            torch.stack(order, 1) if k else torch.zeros(len(items), 0, dtype=torch.long, device=items.device),
        )

    def _features(self, items: Tensor) -> Tensor:
        """Phi of all items.

        Raises:
            InvalidSetting: If one is negative, or they are not as many as the weights.
        """
        features = items if self.feature_map is None else self.feature_map(items)
        if features.shape[-1] != len(self.theta) or not bool((features >= 0).all()):
            least = float(features.detach().min()) if features.numel() else 0.0
            raise InvalidSetting(
                f"features must be {len(self.theta)} numbers of at least 0 for each item (end the feature map in a "
                f"softplus); given {features.shape[-1]}, the least {least:.3g}"
            )
        return features

    def _weights(self, like: Tensor) -> Tensor:
        return functional.softplus(self.theta).to(like)

    def _check(self, items: Tensor, k: int, tau: float, mode: str) -> None:
        if mode not in get_args(Mode):
            raise InvalidSetting(f"mode must be one of {', '.join(get_args(Mode))}; given {mode!r}")
        least = SOFTEST if mode == "soft" else 0.0
        if not tau > 0 or tau < least:
            raise InvalidSetting(
                f"tau must be above 0, and at least {SOFTEST} in mode 'soft', which below that is no relaxation of "
                f"greedy selection; given {tau} in mode {mode!r}"
            )
        if items.ndim != 3 or k < 0 or not items.shape[1]:
            raise InvalidSetting(
                f"items must be (instances, items, features) and k at least 0; given {items.shape}, {k}"
            )


def set_loss(probabilities: Tensor, gold: Tensor) -> Tensor:
    """How unlikely the steps make the items of the given sets, whatever their order.

    ``- log sum_{v in gold} p_t(v)``, averaged over the first ``|gold|`` steps of all instances; instances without gold
    items, and steps after the last item, do not count.

    Args:
        probabilities: Shape ``(B, k, n)``.
        gold: Which items belong to the set, shape ``(B, n)``.
    """
    hit = (probabilities * gold[:, None].to(probabilities)).sum(2)
    steps = torch.arange(probabilities.shape[1], device=gold.device)
    counts = (steps < gold.sum(1, keepdim=True)) & (probabilities.detach().sum(2) > 0.5)
    losses = -torch.log(hit.clamp_min(_FLOOR)) * counts
    return losses.sum() / counts.sum().clamp_min(1)


def fit(
    layer: SoftGreedy,
    instances: Sequence[Tensor],
    gold: Sequence[Sequence[int]],
    *,
    steps: int = 150,
    learning_rate: float = 0.05,
    tau: float = 0.3,
    mode: Mode = "st",
) -> list[float]:
    """Learn from sets that somebody chose: full batches, Adam.

    Args:
        layer: Is trained in place.
        instances: Items of each instance, shape ``(n_i, d)``.
        gold: The items that were chosen from each.
        steps: Number of updates.
        learning_rate: Of Adam.
        tau: Temperature.
        mode: ``"st"`` or ``"soft"``.

    Returns:
        The loss before each update.

    Raises:
        InvalidSetting: If there are no instances, or sets do not fit them.
    """
    items, valid = padded(instances)
    chosen = torch.zeros(valid.shape, dtype=torch.bool, device=items.device)
    if len(gold) != len(instances):
        raise InvalidSetting(f"there must be one set per instance; given {len(gold)} and {len(instances)}")
    for row, (members, instance) in enumerate(zip(gold, instances, strict=True)):
        if any(not 0 <= item < len(instance) for item in members):
            raise InvalidSetting(f"set {row} names items outside 0..{len(instance) - 1}; given {list(members)}")
        chosen[row, list(members)] = True
    k = int(chosen.sum(1).max())
    optimiser = torch.optim.Adam(layer.parameters(), lr=learning_rate)
    history = []
    for _ in range(steps):
        loss = set_loss(layer(items, k, tau, mode, valid).probabilities, chosen)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(float(loss.detach()))
    return history


def padded(instances: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Instances of different sizes as one tensor ``(B, n, d)``, and which of its items are real ``(B, n)``.

    Raises:
        InvalidSetting: If there are none, or they differ in their number of features.
    """
    if not instances or len({instance.shape[1:] for instance in instances}) != 1 or instances[0].ndim != 2:
        shapes = sorted({tuple(instance.shape) for instance in instances})
        raise InvalidSetting(f"instances must be tensors (items, features) with the same features; given {shapes[:5]}")
    items = nn.utils.rnn.pad_sequence(list(instances), batch_first=True)
    counts = torch.tensor([len(instance) for instance in instances], device=items.device)
    return items, torch.arange(items.shape[1], device=items.device) < counts[:, None]


def _softmax(logits: Tensor, left: Tensor) -> Tensor:
    """The softmax over the items that are left; rows of zeros where none is."""
    return logits.masked_fill(~left, _NEVER).softmax(1) * left


def _shifted_root(x: Tensor) -> Tensor:
    return torch.sqrt(x + _OFFSET) - _OFFSET**0.5
