"""Verifying a cut: the cut and the masked network must compute the same, up to rounding."""

import copy
import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scionet.errors import VerificationError
from scionet.network.calling import Batch, tensors_of
from scionet.network.guard import guarded
from scionet.network.network import Network
from scionet.network.plan import Plan
from scionet.network.sites import Sites
from scionet.network.surgery.cut import copied, refuse_other_weights

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest relative difference between masked and cut network, by floating-point type."""
_SAFETY = 10.0
"""The cut network may differ by this many times what one rounding of each weight changes."""
_LOOSEST = 1e-6
"""The tolerance in float64 of a network that magnifies rounding, at most. A wrong cut changes outputs by far more."""


@guarded
def verify(
    model: nn.Module, plan: Plan, sites: Sites, pruned: nn.Module, batch: Batch, tolerance: float | None = None
) -> float:
    """Compare the masked and the cut network on `batch` and return their largest relative difference, of all outputs.

    A network that magnifies rounding errors (such as one with dead channels in front of BatchNorm) can exceed the
    tolerance although the cut is right. The two are then compared in float64, where only a wrong cut shows. The
    tolerance there is 1e-10, or what the network makes of rounding in float64 if that is more.

    Args:
        model: The dense network.
        plan: The plan.
        sites: The dense network's sites.
        pruned: The network that `cut` returned.
        batch: Inputs.
        tolerance: Largest difference that is accepted, relative to the largest output; by default 1e-10 in float64,
            1e-4 in float32, 2e-2 in float16, 1e-1 in bfloat16.

    Raises:
        InvalidSetting: If the plan was made for other weights.
        VerificationError: If the two differ by more, an output is NaN or infinite, or the cut network does not run.
    """
    refuse_other_weights(plan, model)
    return verify_unchecked(Network(model, sites), plan, pruned, [batch], tolerance)


def verify_unchecked(
    network: Network, plan: Plan, pruned: nn.Module, batches: Iterable[Batch], tolerance: float | None = None
) -> float:
    """The same as `verify` on several batches, with a plan that may have been made for other weights."""
    shrunk, tensors = Network(pruned), network.masked_by(plan)
    return max(_verified(network, tensors, shrunk, batch, tolerance) for batch in batches)


def _verified(
    network: Network, tensors: Mapping[str, Tensor], shrunk: Network, batch: Batch, tolerance: float | None
) -> float:
    """The difference of the masked and the cut network on one batch.

    Raises:
        VerificationError: As `verify` does.
    """
    difference = _network_difference(network, tensors, shrunk, batch)
    allowed = TOLERANCES.get(network.dtype, max(TOLERANCES.values())) if tolerance is None else tolerance
    if difference <= allowed:
        return difference
    exact, limit = difference, TOLERANCES[torch.float64]
    if not math.isnan(difference):
        exact, limit = _in_float64(network, tensors, shrunk, batch)
    if not exact <= limit:
        raise VerificationError(
            f"the cut network differs from the masked one by {difference:.2e} (relative; allowed {allowed:.0e}), and "
            f"by {exact:.2e} in float64 (allowed {limit:.0e}); do not use it. Exclude the layers concerned with "
            "ignored_layers, and report the model"
        )
    return difference


def rounding_error(
    network: Network, batch: Batch, tensors: Mapping[str, Tensor] = MappingProxyType({})
) -> tuple[float, float]:
    """What a network makes of rounding, in its own floating-point type.

    Args:
        network: The network.
        batch: Its inputs.
        tensors: Tensors that take the place of its own.

    Returns:
        The largest relative change of an output when the last binary digit of every parameter changes at random, and
        this change as a multiple of the change of the parameters.
    """
    batch, eps = network.placed(batch), torch.finfo(network.dtype).eps
    with network.evaluating():
        outputs, changed = (
            list(tensors_of(network.returned(copy.deepcopy(batch), each)))
            for each in (tensors, {**tensors, **_rounded(network, tensors)})
        )
    error = _largest_difference(outputs, changed)
    return error, error / eps


def _rounded(network: Network, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters of a network with another last digit."""
    generator, parameters = torch.Generator().manual_seed(0), dict(network.model.named_parameters())
    found = {}
    for name in network.names_by_address.values():
        tensor = tensors.get(name, network.state[name]).detach()
        if name in parameters and tensor.is_floating_point():
            signs = 2 * torch.randint(2, tensor.shape, generator=generator) - 1
            found[name] = tensor * (1 + torch.finfo(tensor.dtype).eps * signs.to(tensor))
    return found


def _network_difference(network: Network, tensors: Mapping[str, Tensor], pruned: Network, batch: Batch) -> float:
    """Largest relative difference between a network called with `tensors` and the cut one; NaN if an output is.

    Raises:
        VerificationError: If the cut network does not run.
    """
    batch = network.placed(batch)
    with network.evaluating():  # on copies of the inputs, since a network may write into them
        expected = list(tensors_of(network.returned(copy.deepcopy(batch), tensors)))
    with pruned.evaluating():
        found = list(tensors_of(_called(pruned, copy.deepcopy(batch))))
    return _largest_difference(expected, found)


def _called(pruned: Network, batch: Batch) -> Any:
    """What the cut network returns.

    Raises:
        VerificationError: If it does not run.
    """
    try:
        return pruned.returned(batch)
    except Exception as error:  # the forward of a user's module can raise anything
        raise VerificationError(
            f"{next(iter(str(error).strip().splitlines()), type(error).__name__)}: the cut network does not run on "
            "inputs that the dense one runs on; exclude the layers concerned with ignored_layers"
        ) from error


def _in_float64(network: Network, tensors: Mapping[str, Tensor], pruned: Network, batch: Batch) -> tuple[float, float]:
    """The difference in float64, and how much is allowed; infinite if the networks do not run in float64."""
    wide = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    masked, least = Network(copied(network.model).double()), TOLERANCES[torch.float64]
    try:
        difference = _network_difference(masked, wide, Network(copied(pruned.model).double()), batch)
        if difference <= least or not difference <= _LOOSEST:
            return difference, least
        return difference, min(max(least, _SAFETY * rounding_error(masked, batch, wide)[0]), _LOOSEST)
    except (RuntimeError, TypeError, VerificationError):  # a forward with a fixed type, or a device without float64
        return math.inf, least


def _largest_difference(expected: list[Tensor], found: list[Tensor]) -> float:
    """Largest relative difference of outputs; NaN if one is, infinite if their numbers or shapes differ."""
    if len(expected) != len(found):
        return math.inf
    differences = [_difference(a, b) for a, b in zip(expected, found, strict=True)]
    return float(np.max(differences, initial=0.0))  # np.max propagates NaN; the built-in max does not


def _difference(expected: Tensor, found: Tensor) -> float:
    """Largest difference of two tensors, relative to the largest entry of the first; infinite if shapes differ."""
    if expected.shape != found.shape:
        return float("inf")
    if not (expected.is_floating_point() or expected.is_complex()) or not expected.numel():
        return float(not torch.equal(expected, found))
    wide = torch.promote_types(expected.dtype, torch.float64)
    difference = (expected.to(wide) - found.to(wide)).abs().max()
    return float(difference / expected.to(wide).abs().max().clamp_min(torch.finfo(torch.float32).tiny))
