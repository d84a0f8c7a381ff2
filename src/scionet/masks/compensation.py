"""What is left of a masked network moves to where the loss rises least: the update of the Optimal Brain Surgeon."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from scionet.errors import CalibrationError
from scionet.masks.gradients import LossFunctional
from scionet.masks.inverse_fisher import BLOCK_SIZE, DAMPING, Layout, examples_of_one_process, refuse_blocks
from scionet.masks.weight_masks import WeightMasks
from scionet.masks.weights import maskable, wide, wide_state
from scionet.network.calling import undisturbed
from scionet.network.example_loss import labelled

AT_ONCE = 2**24
"""Entries of blocks that are solved together."""


def compensated(
    model: nn.Module,
    masks: WeightMasks,
    batches: Iterable[Any],
    *,
    block_size: int = BLOCK_SIZE,
    damping: float = DAMPING,
) -> nn.Module:
    """A copy of a network with plain zeros in place of masked weights, for which the others make up.

    In each block, ½ δᵀFδ is the least of all δ that take the masked weights away, with F as in `woodfisher`, at the
    weights of the network as it is.

    Source: Hassibi, Stork, *Second order derivatives for network pruning: Optimal Brain Surgeon*, NIPS 1992, for all
    weights that go at once. Differs from Singh and Alistarh, NeurIPS 2020, who add up the updates for single weights.

    Args:
        model: The network; it is left as it was.
        masks: Which of its weights stay.
        batches: Pairs of inputs and labels; every example is one gradient.
        block_size: Consecutive weights of one tensor that make up for one another.
        damping: λ of F.

    Raises:
        CalibrationError: If there are no batches, or labels are missing or do not fit.
        InvalidSetting: If masks do not fit the network, a setting is out of range, or there are several processes.
    """
    refuse_blocks(block_size, damping)
    pruned = masks.applied(model)
    weights = {name: weight for name, weight in wide(maskable(model)).items() if name in masks}
    layout = Layout.of(weights, block_size)
    with undisturbed(model):
        pairs = [labelled(batch, model) for batch in batches]
        if not pairs:
            raise CalibrationError("there are no batches; give at least one pair (inputs, labels)")
        loss = LossFunctional(model, wide_state(model), pairs)
        fisher = _fisher(loss, weights, layout, damping)
    kept = layout.rows({name: masks[name].to(weight.device) for name, weight in weights.items()})
    moved = layout.tensors(without(fisher, layout.rows(weights), kept))
    with torch.no_grad():
        for name, weight in moved.items():
            pruned.get_parameter(name).copy_(weight)
    return pruned


def without(fisher: Tensor, weights: Tensor, kept: Tensor) -> Tensor:
    """Weights without those that go, the others moved so that ½ δᵀFδ is least.

    With K what stays and Q what goes: w_K + F_KK⁻¹ F_KQ w_Q, and 0 in Q.

    Args:
        fisher: F, ``(blocks, size, size)``, positive definite.
        weights: ``(blocks, size)``.
        kept: 1 where a weight stays and 0 where it goes, ``(blocks, size)``.
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
    for some in examples_of_one_process(loss, weights, layout):
        fisher += torch.einsum("nbi,nbj->bij", some, some)
        total += len(some)
    return fisher / total + damping * torch.eye(rows.shape[1]).to(rows)
