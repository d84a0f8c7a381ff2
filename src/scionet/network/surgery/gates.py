"""A plan as other tensors for the same model: scaled, zeroed or refitted consumer weights.

A *gate* multiplies the output of one unit at the input of every consumer. Consumers are linear, so this is a factor on
the matching columns of their weights, and a gated network is the same module called with other tensors. The model is
not changed, the output can be differentiated with respect to the gates, and `torch.func.vmap` evaluates many gates at
once.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from scionet.network.calling import Batch, call, replaced, state_of
from scionet.network.plan import Plan
from scionet.network.sites import Site, Sites


def plan_gates(sites: Sites, plan: Plan) -> dict[str, Tensor]:
    """The gates of a plan: per site a float64 vector of shape ``(width,)``, with 0 for removed units.

    Raises:
        InvalidSetting: If the plan names a site that the network does not have, or that has another width.
    """
    plan.refuse_other_sites(sites)
    gates = {}
    for choice in plan.choices:
        gate = torch.zeros(choice.width, dtype=torch.float64)
        gate[list(choice.kept)] = torch.tensor(choice.weights, dtype=torch.float64)
        gates[choice.site] = gate
    return gates


def column_factors(site: Site, consumer: str, gate: Tensor, columns: int) -> Tensor:
    """The factor of every input column of one consumer, shape ``(columns,)``: the gate of its unit.

    Args:
        site: The gated site.
        consumer: Name of the consumer's weight.
        gate: The gates of the site, shape ``(width,)``.
        columns: Number of input columns of the consumer; those that belong to no unit of the site get 1.
    """
    unit_of = torch.full((columns,), site.width, device=gate.device)
    index = torch.as_tensor(site.slot(consumer, 1).index, device=gate.device)
    unit_of[index] = torch.arange(site.width, device=gate.device)[:, None]
    return torch.cat([gate, torch.ones(1, dtype=gate.dtype, device=gate.device)])[unit_of]


def gated_tensors(
    model: nn.Module, sites: Sites, gates: Mapping[str, Tensor], tensors: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The tensors with which `model` computes the gated network.

    Args:
        model: The dense network.
        sites: Its sites.
        gates: Per site the gates, shape ``(width,)``; sites without gates stay whole.
        tensors: Replacement tensors in dense shapes (refitted weights), to which the gates are applied.

    Returns:
        Replacement tensors by name: the given ones, and every consumer weight of a gated site.
    """
    state = state_of(model)
    changed = {name: tensor.to(state[name]) for name, tensor in (tensors or {}).items()}
    for name, gate in gates.items():
        for consumer in sites[name].consumers:
            weight = changed.get(consumer, state[consumer])
            factors = column_factors(sites[name], consumer, gate.to(weight), weight.shape[1])
            changed[consumer] = weight * factors.view(1, -1, *[1] * (weight.ndim - 2))
    return changed


def masked_tensors(model: nn.Module, sites: Sites, plan: Plan) -> dict[str, Tensor]:
    """The tensors with which `model` computes the masked network of a plan: refitted, with removed units at zero."""
    return gated_tensors(model, sites, plan_gates(sites, plan), plan.tensors)


def call_with(model: nn.Module, tensors: Mapping[str, Tensor], batch: Batch) -> Any:
    """Call `model` on `batch` as if `tensors` were its parameters and buffers."""
    with replaced(model, tensors):
        return call(model, batch)
