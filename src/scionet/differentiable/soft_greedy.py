"""Greedy selection as a differentiable layer, whose objective can be learned from example sets.

Source: Powers et al., *Differentiable Greedy Networks*, 2018 (arXiv 1810.12464). This is a reconstruction: the paper
does not give its feature map, loss and temperature, and there is no official code.
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

MIN_SOFT_TAU = 0.1
"""Smallest temperature of mode ``"soft"``. Below it, soft selection does not approximate greedy selection."""
_FLOOR = 1e-12
_OFFSET = 1e-3
_NEVER = -1e30


@dataclass(frozen=True, eq=False)
class SoftSelection:
    """A selection of k items from each of B instances.

    Attributes:
        probabilities: Probability of each item at each step, shape ``(B, k, n)``; rows are 0 if no item was left.
        mask: Selected fraction of each item, shape ``(B, n)``.
        order: The item picked at each step, shape ``(B, k)``; -1 if no item was left.
    """

    probabilities: Tensor
    mask: Tensor
    order: Tensor


class SoftGreedy(nn.Module):
    """k steps of greedy maximisation of ``f(A) = sum_u w_u h(sum_{v in A} phi_u(v))``, unrolled.

    phi is nonnegative, w is the softplus of a parameter, and h is concave with h(0) = 0. So f is monotone and
    submodular for any parameters, and the value of a hard selection is at least 1 - 1/e of the best one. Nothing is
    guaranteed about how f relates to the purpose of the selection.

    Attributes:
        theta: The weights before the softplus, shape ``(U,)``.
        feature_map: Maps items ``(..., d)`` to nonnegative features ``(..., U)``; None uses the items themselves.
    """

    def __init__(self, n_features: int, feature_map: nn.Module | None = None, concave: ConcaveName = "log1p") -> None:
        """Make the layer with equal weights.

        Args:
            n_features: Number of features U.
            feature_map: A small network with nonnegative output.
            concave: The function h: ``"log1p"`` or ``"sqrt"`` (with finite slope at 0).

        Raises:
            InvalidSetting: If `concave` is unknown.
        """
        super().__init__()
        if concave not in get_args(ConcaveName):
            raise InvalidSetting(f"concave must be one of {', '.join(get_args(ConcaveName))}; given {concave!r}")
        self.theta = nn.Parameter(torch.zeros(n_features))
        self.feature_map = feature_map
        self._concave: Callable[[Tensor], Tensor] = torch.log1p if concave == "log1p" else _shifted_root

    def value(self, items: Tensor, mask: Tensor) -> Tensor:
        """The value f of a selection.

        Args:
            items: Shape ``(B, n, d)``.
            mask: Selected fraction of each item, shape ``(B, n)``.

        Returns:
            Shape ``(B,)``.
        """
        level = torch.einsum("bn,bnu->bu", mask.to(items.dtype), self._features(items))
        return self._concave(level) @ self._weights(level)

    def gains(self, level: Tensor, features: Tensor) -> Tensor:
        """Gain of f by each item, shape ``(B, n)``.

        Args:
            level: Summed features of the selected items, shape ``(B, U)``.
            features: Features of all items, shape ``(B, n, U)``.
        """
        rise = self._concave(level[:, None] + features) - self._concave(level)[:, None]
        return rise @ self._weights(rise)

    def forward(
        self, items: Tensor, k: int, tau: float = 0.3, mode: Mode = "st", valid: Tensor | None = None
    ) -> SoftSelection:
        """Select k items of each instance.

        Args:
            items: Shape ``(B, n, d)``.
            k: Number of steps. Steps after the last item select nothing.
            tau: Temperature of the softmax over gains.
            mode: ``"st"``: greedy selection with the gradients of the softmax (straight-through). ``"hard"``: greedy
                selection without gradients. ``"soft"``: each item is weighted by its probability; for analysis, at
                temperatures of at least 0.1.
            valid: Which items are not padding, shape ``(B, n)``; all by default.

        Raises:
            InvalidSetting: If a setting is out of range, shapes do not match, or a feature is negative.
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
            soft = _softmax(logits, left)
            best = logits.masked_fill(~left, _NEVER).argmax(1)
            any_left = left.any(1)
            hard = functional.one_hot(best, left.shape[1]).to(soft) * any_left[:, None]
            step = {"st": hard + soft - soft.detach(), "soft": soft, "hard": hard}[mode]
            level = level + torch.einsum("bn,bnu->bu", step, features)
            taken = taken + step
            if mode != "soft":
                left = left & ~hard.bool()
            probabilities.append(soft)
            order.append(torch.where(any_left, best, -1))
        empty = features.new_zeros(len(items), 0, features.shape[1])
        return SoftSelection(
            torch.stack(probabilities, 1) if k else empty,
            taken,
            torch.stack(order, 1) if k else torch.zeros(len(items), 0, dtype=torch.long, device=items.device),
        )

    def _features(self, items: Tensor) -> Tensor:
        """Features phi of all items.

        Raises:
            InvalidSetting: If a feature is negative, or their number differs from that of the weights.
        """
        features = items if self.feature_map is None else self.feature_map(items)
        if features.shape[-1] != len(self.theta) or not bool((features >= 0).all()):
            least = float(features.detach().min()) if features.numel() else 0.0
            raise InvalidSetting(
                f"features must be {len(self.theta)} nonnegative numbers for each item (end the feature map with a "
                f"softplus); given {features.shape[-1]} with minimum {least:.3g}"
            )
        return features

    def _weights(self, like: Tensor) -> Tensor:
        return functional.softplus(self.theta).to(like)

    def _check(self, items: Tensor, k: int, tau: float, mode: str) -> None:
        if mode not in get_args(Mode):
            raise InvalidSetting(f"mode must be one of {', '.join(get_args(Mode))}; given {mode!r}")
        least = MIN_SOFT_TAU if mode == "soft" else 0.0
        if not tau > 0 or tau < least:
            raise InvalidSetting(
                f"tau must be above 0, and at least {MIN_SOFT_TAU} in mode 'soft', which does not approximate "
                f"greedy selection below that; given {tau} in mode {mode!r}"
            )
        if items.ndim != 3 or k < 0 or not items.shape[1]:
            raise InvalidSetting(
                f"items must be (instances, items, features) and k at least 0; given {tuple(items.shape)} and {k}"
            )


def set_loss(probabilities: Tensor, gold: Tensor) -> Tensor:
    """Negative log-likelihood of picking items of the given sets, in any order.

    ``- log sum_{v in gold} p_t(v)``, averaged over the first ``|gold|`` steps of all instances. Instances without gold
    items and steps after the last item are excluded.

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
    """Train a layer to imitate given sets, with Adam on full batches.

    Args:
        layer: The layer, trained in place.
        instances: Items of each instance, shape ``(n_i, d)``.
        gold: Indices of the items in each instance's set.
        steps: Number of updates.
        learning_rate: Learning rate of Adam.
        tau: Temperature.
        mode: ``"st"`` or ``"soft"``.

    Returns:
        The loss before each update.

    Raises:
        InvalidSetting: If there are no instances, or the sets do not match them.
    """
    items, valid = padded(instances)
    chosen = torch.zeros(valid.shape, dtype=torch.bool, device=items.device)
    if len(gold) != len(instances):
        raise InvalidSetting(f"there must be one set per instance; given {len(gold)} sets, {len(instances)} instances")
    for row, (members, instance) in enumerate(zip(gold, instances, strict=True)):
        if any(not 0 <= item < len(instance) for item in members):
            raise InvalidSetting(f"set {row} contains items outside 0..{len(instance) - 1}; given {list(members)}")
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
    """Pad instances of different sizes to one tensor ``(B, n, d)``, with a mask of the real items ``(B, n)``.

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
    """Softmax over the remaining items; rows are 0 if none remain."""
    return logits.masked_fill(~left, _NEVER).softmax(1) * left


def _shifted_root(x: Tensor) -> Tensor:
    return torch.sqrt(x + _OFFSET) - _OFFSET**0.5
