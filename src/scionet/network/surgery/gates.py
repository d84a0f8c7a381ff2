"""A plan as parameters: scaled, zeroed or refitted consumer weights, without touching the model.

A *gate* multiplies what one unit gives to every consumer. By linearity that is a factor on the matching columns of the
consumers' weights, so a gated network is the same module called with other tensors: it leaves no trace, can be
differentiated with respect to the gates, and can be evaluated for many gates at once by `torch.func.vmap`.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from scionet.errors import InvalidSetting
from scionet.network.calling import Batch, as_arguments, state_of
from scionet.network.plan import Plan
from scionet.network.sites import Site, Sites


def plan_gates(sites: Sites, plan: Plan) -> dict[str, Tensor]:
    """The gates of a plan: per site a float64 vector of shape ``(width,)``, 0 for removed units.

    Raises:
        InvalidSetting: If the plan names a site that the network does not have, or one of another width.
    """
    gates = {}
    for choice in plan.choices:
        if choice.site not in sites or sites[choice.site].width != choice.width:
            raise InvalidSetting(
                f"the plan chooses among {choice.width} units of site {choice.site!r}; this network has "
                + (f"{sites[choice.site].width} there" if choice.site in sites else "no such site")
                + "; use the plan with the network it was made for"
            )
        gate = torch.zeros(choice.width, dtype=torch.float64)
        gate[list(choice.kept)] = torch.tensor(choice.weights, dtype=torch.float64)
        gates[choice.site] = gate
    return gates


def column_factors(site: Site, consumer: str, gate: Tensor, columns: int) -> Tensor:
    """Factor of every input column of one consumer, shape ``(columns,)``; 1 where the site has none."""
    unit_of = torch.full((columns,), site.width, device=gate.device)
    index = torch.as_tensor(site.slot(consumer, 1).index, device=gate.device)
    unit_of[index] = torch.arange(site.width, device=gate.device)[:, None]
    return torch.cat([gate, torch.ones(1, dtype=gate.dtype, device=gate.device)])[unit_of]


def gated_tensors(
    model: nn.Module, sites: Sites, gates: Mapping[str, Tensor], tensors: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Tensors that make `model` the gated network when it is called with them.

    Args:
        model: The dense network.
        sites: Its sites.
        gates: Per site the gates, shape ``(width,)``; sites without gates stay whole.
        tensors: Replacement tensors in dense shapes, to which the gates are applied (refitted weights).

    Returns:
        Replacement tensors by name: those given, and every consumer weight of a gated site.
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
    """Tensors that make `model` the masked network of a plan: refits applied, removed units silenced."""
    return gated_tensors(model, sites, plan_gates(sites, plan), plan.tensors)


def call_with(model: nn.Module, tensors: Mapping[str, Tensor], batch: Batch) -> Any:
    """Call `model` on `batch` as if `tensors` were its parameters and buffers."""
    args, kwargs = as_arguments(batch)
    return functional_call(model, dict(tensors), args, kwargs)
