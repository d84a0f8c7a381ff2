"""Regression problems of local imitation, from the moments of a consumer."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from scionet.network.network import Network
from scionet.network.passes.moments import Moments, flatten_weight
from scionet.network.sites import Consumer, Site, Sites
from scionet.selection.terms import Term
from scionet.typing import FloatArray, IntArray


def norm_scale(network: Network, consumer: Consumer) -> FloatArray | None:
    """The factor gamma / sigma of the BatchNorm behind a consumer, shape ``(O,)``; None if there is none."""
    state = network.state
    variance = state.get(f"{consumer.norm}.running_var") if consumer.norm is not None else None
    if variance is None:
        return None
    module = network.model.get_submodule(consumer.norm or "")
    eps = float(getattr(module, "eps", 0.0))
    gamma = state.get(f"{consumer.norm}.weight")
    sigma = np.sqrt(_array(variance) + eps)
    return (np.ones_like(sigma) if gamma is None else _array(gamma)) / sigma


def shift_target(consumer: Consumer, shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, float] | None:
    """The tensor that takes the intercept of a refit, by name, and its sign; None if there is none."""
    if consumer.bias is not None:
        return consumer.bias, 1.0
    mean = f"{consumer.norm}.running_mean"
    return (mean, -1.0) if consumer.norm is not None and mean in shapes else None


def flat_columns(channels: IntArray, weight: Tensor) -> IntArray:
    """Columns of the flattened weight that belong to input channels: ``(..., n)`` to ``(..., n * taps)``."""
    taps = int(np.prod(weight.shape[2:], dtype=int))
    return (channels[..., None] + np.arange(taps) * weight.shape[1]).reshape(*channels.shape[:-1], -1)


def per_column(gates: FloatArray, weight: Tensor) -> FloatArray:
    """Gates ``(I,)`` of a consumer's input channels as factors of its flattened weight's columns; 1 where one is 0."""
    return np.tile(np.where(gates == 0, 1.0, gates), int(np.prod(weight.shape[2:], dtype=int)))


def channel_gates(sites: Sites, consumer: str, gates: Mapping[str, Tensor], without: str | None = None) -> FloatArray:
    """Gate of each input channel of a consumer, shape ``(I,)``; 0 for those of the site `without`."""
    factors = np.ones(sites.shapes[consumer][1])
    for site in sites.values():
        if consumer in site.consumers:
            index = site.slot(consumer, 1).index
            if site.name == without:
                factors[index] = 0
            elif site.name in gates:
                factors[index] = gates[site.name].numpy()[:, None]
    return factors


def output_gates(sites: Sites, consumer: str, gates: Mapping[str, Tensor]) -> FloatArray:
    """The gate of each output of a consumer, shape ``(O,)``: that of its unit where it is decided, 1 elsewhere."""
    factors = np.ones(sites.shapes[consumer][0])
    for name, site in sites.items():
        if name in gates and consumer in site.producers:
            factors[site.slot(consumer, 0).index] *= gates[name].numpy()[:, None]
    return factors


def shrunk(
    moments: Moments, centred: bool, weight: Tensor, shrinkage: float | None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Shrink mean products towards uncorrelated inputs of the same variances, for which the dense weights are exact.

    A refit on few images overfits them. With shrunk products, it stays near the dense weights unless the images
    contradict them: ``xx`` moves towards its diagonal, ``xy`` towards ``diag(xx) Wᵀ``.

    Args:
        moments: Moments of the consumer.
        centred: Whether to use covariances.
        weight: The dense weight, shape ``(O, I, ...)``.
        shrinkage: From 0 (the moments as they are) to 1; None takes ``D / (D + rows)``.
    """
    xx, xy, yy = moments.means(centred)
    share = len(xx) / (len(xx) + moments.count) if shrinkage is None else shrinkage
    flat, squares = _array(flatten_weight(weight)), np.diag(xx).copy()
    xx = (1 - share) * xx
    xx[np.diag_indices_from(xx)] += share * squares
    return xx, (1 - share) * xy + share * squares[:, None] * flat.T, (1 - share) * yy + share * flat**2 @ squares


def make_term(
    site: Site,
    consumer: str,
    weight: Tensor,
    moments: Moments,
    others: FloatArray,
    scale: FloatArray,
    centred: bool,
    shrinkage: float | None,
) -> Term:
    """Return the problem of choosing among a site's units for one consumer.

    Args:
        site: The site.
        consumer: The consumer's name.
        weight: Its dense weight, shape ``(O, I, ...)``.
        moments: Moments of its inputs and targets.
        others: Gates of the input channels that do not depend on the choice, 0 elsewhere, shape ``(I,)``.
        scale: Factor of each output in which errors are measured, shape ``(O,)``.
        centred: Whether an intercept makes up for the means.
        shrinkage: See `shrunk`.
    """
    xx, xy, yy = shrunk(moments, centred, weight, shrinkage)
    flat = _array(flatten_weight(weight)) * per_column(others, weight)
    xy, yy, flat = xy * scale, yy * scale**2, flat * scale[:, None]
    columns = flat_columns(site.slot(consumer, 1).index, weight)
    return Term(xx, xy, float(yy.sum()), columns, flat_columns(np.flatnonzero(others), weight), flat)


def _array(tensor: Tensor) -> FloatArray:
    return tensor.detach().to("cpu", torch.float64).numpy()
