"""Compensate for masked weights by updating the kept ones: the update of the Optimal Brain Surgeon."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from scionet.errors import CalibrationError
from scionet.masks.gradients import LossFunctional
from scionet.masks.inverse_fisher import BLOCK_SIZE, DAMPING, Layout, check_block_settings, example_gradient_blocks
from scionet.masks.weight_masks import WeightMasks
from scionet.masks.weights import maskable, upcast, upcast_state
from scionet.network.calling import undisturbed
from scionet.network.example_loss import labelled
from scionet.network.guard import guarded

AT_ONCE = 2**24
"""Maximum number of matrix entries in blocks that are solved together."""


@guarded
def compensated(
    model: nn.Module,
    masks: WeightMasks,
    batches: Iterable[Any],
    *,
    block_size: int = BLOCK_SIZE,
    damping: float = DAMPING,
) -> nn.Module:
    """Copy a network, set masked weights to zero and update the kept weights to compensate.

    In each block, the update δ minimises ½ δᵀFδ among all δ that set the masked weights to zero. F is that of
    `woodfisher`, at the current weights.

    Source: Hassibi, Stork, *Second order derivatives for network pruning: Optimal Brain Surgeon*, NIPS 1992, removing
    all weights at once. Singh and Alistarh, NeurIPS 2020, add up the updates for single weights instead.

    Args:
        model: The network; not modified.
        masks: Which weights are kept.
        batches: Pairs of inputs and labels. Each example contributes one gradient.
        block_size: Number of consecutive weights of one tensor that compensate for each other.
        damping: λ of F.

    Raises:
        CalibrationError: If there are no batches, or labels are missing or do not match.
        InvalidSetting: If masks do not fit the network, a setting is out of range, or there are several processes.
    """
    check_block_settings(block_size, damping)
    pruned = masks.applied(model)
    weights = {name: weight for name, weight in upcast(maskable(model)).items() if name in masks}
    layout = Layout.from_weights(weights, block_size)
    with undisturbed(model):
        pairs = [labelled(batch, model) for batch in batches]
        if not pairs:
            raise CalibrationError("no batches given; pass at least one pair (inputs, labels)")
        loss = LossFunctional(model, upcast_state(model), pairs)
        fisher = _fisher(loss, weights, layout, damping)
    kept = layout.rows({name: masks[name].to(weight.device) for name, weight in weights.items()})
    moved = layout.tensors(optimal_brain_surgeon(fisher, layout.rows(weights), kept))
    with torch.no_grad():
        for name, weight in moved.items():
            pruned.get_parameter(name).copy_(weight)
    return pruned


def optimal_brain_surgeon(fisher: Tensor, weights: Tensor, kept: Tensor) -> Tensor:
    """Remove weights and update the others so that ½ δᵀFδ is minimal.

    With K the kept and Q the removed weights: w_K + F_KK⁻¹ F_KQ w_Q, and 0 in Q.

    Args:
        fisher: F, ``(blocks, size, size)``, positive definite.
        weights: ``(blocks, size)``.
        kept: 1 for kept and 0 for removed weights, ``(blocks, size)``.
    """
    found = []
    for part in torch.arange(len(weights), device=weights.device).split(max(1, AT_ONCE // fisher[0].numel())):
        f, w, k = fisher[part], weights[part], kept[part]
        pull = k * torch.einsum("bij,bj->bi", f, (1 - k) * w)
        inner = k[:, :, None] * f * k[:, None, :] + torch.diag_embed(1 - k)
        found.append(k * (w + torch.linalg.solve(inner, pull)))
    return torch.cat(found)


def _fisher(loss: LossFunctional, weights: dict[str, Tensor], layout: Layout, damping: float) -> Tensor:
    rows, total = layout.rows(weights), 0
    fisher = torch.zeros(*rows.shape, rows.shape[1], dtype=torch.float64, device=rows.device)
    for chunk in example_gradient_blocks(loss, weights, layout):
        fisher += torch.einsum("nbi,nbj->bij", chunk, chunk)
        total += len(chunk)
    return fisher / total + damping * torch.eye(rows.shape[1]).to(rows)
