"""The arithmetic of the search: noisy choices, interpolation of channels, temperatures."""

import math

import torch
from torch import Tensor
from torch.nn import functional

_FLOOR = 1e-7
"""Added to probabilities before candidates are sampled, so that there are always enough."""
_ABSENT = 1e-30
"""Weight of what is no choice, which is sampled only where all choices are."""


def perturbed(logits: Tensor, temperature: float) -> Tensor:
    """(log softmax(logits) + Gumbel noise) / temperature, whose softmax is the Gumbel-softmax; ``(..., choices)``.

    Choices that do not exist have the logit -inf, and keep it.
    """
    noise = -torch.empty_like(logits).exponential_().log()  # -log(-log u) of a uniform u
    return (logits.log_softmax(-1) + noise) / temperature


def sampled(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Sample candidates without replacement from softmax(scores).

    Args:
        scores: Scores of the choices, ``(layers, choices)``; -inf where there is no choice.
        count: Candidates per layer; a layer with fewer choices takes all of its own.

    Returns:
        Indices of the candidates ``(layers, count)``, and their probabilities renormalised, through which gradients
        flow. What is no candidate has probability 0.
    """
    exists = scores.isfinite()
    weights = (scores.detach().softmax(-1) + _FLOOR).where(exists, _ABSENT)
    picked = torch.multinomial(weights, min(count, scores.shape[-1]))
    return picked, scores.gather(-1, picked).softmax(-1)


def interpolated(x: Tensor, channels: int) -> Tensor:
    """Channel-wise interpolation: adaptive average pooling along the channels, ``(batch, channels, height, width)``."""
    if x.shape[1] == channels:
        return x
    pooled = functional.adaptive_avg_pool1d(x.flatten(2).transpose(1, 2), channels)
    return pooled.transpose(1, 2).unflatten(2, x.shape[2:])


def padded(x: Tensor, channels: int) -> Tensor:
    """Zero channels behind those of ``(batch, channels, ...)``."""
    missing = channels - x.shape[1]
    return functional.pad(x, (*(0, 0) * (x.ndim - 2), 0, missing)) if missing else x


def temperature(epoch: int, epochs: float, warmest: float, coldest: float) -> float:
    """The temperature of an epoch (from 0): a cosine from `warmest`, which would reach `coldest` after the last one."""
    return coldest + (warmest - coldest) * (1 + math.cos(math.pi * epoch / epochs)) / 2
