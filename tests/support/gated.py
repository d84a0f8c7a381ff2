"""Networks with gates on the inputs of consumers, the slow and obvious way."""

import numpy as np
from support.naive import FloatArray, after, gated
from torch import Tensor, nn

from scionet.network.sites import Sites


def with_gates(model: nn.Module, sites: Sites, gates: dict[str, FloatArray]) -> nn.Module:
    """A copy with the input channels of all consumers of the named sites multiplied."""
    tensors: dict[str, Tensor] = {}
    for name, gate in gates.items():
        for consumer in sites[name].consumers:
            weight = tensors[consumer] if consumer in tensors else model.state_dict()[consumer]
            factors = np.ones(weight.shape[1])
            for unit, columns in enumerate(sites[name].slot(consumer, 1).index):
                factors[columns] = gate[unit]
            tensors[consumer] = gated(weight, factors)
    return after(model, tensors)
