"""Gates: factors on the columns of consumer weights, one for each unit.

A *gate* multiplies the output of one unit at the input of every consumer. Consumers are linear, so this is a factor on
the matching columns of their weights, and a gated network is the same module called with other tensors
(`scionet.network.network.Network.masked`). The model is not changed, the output can be differentiated with respect to
the gates, and `torch.func.vmap` evaluates many gates at once.
"""

import torch
from torch import Tensor

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
