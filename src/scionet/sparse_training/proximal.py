"""Accelerated proximal gradient steps for factors that may become exact zeros."""

from torch import Tensor


def proximal_step(
    factors: Tensor, velocity: Tensor, gradient: Tensor, rate: float, l1_weight: float, momentum: float
) -> tuple[Tensor, Tensor]:
    """One step on a loss plus `l1_weight` times the sum of the factors, which stay at 0 or above.

    With soft thresholding S: z = λ - η g; p = S(z, η γ); v' = p - λ + μ v; λ' = max(0, p + μ v') (Huang and Wang,
    *Data-Driven Sparse Structure Selection for Deep Neural Networks*, ECCV 2018, official code).

    Args:
        factors: λ, any shape.
        velocity: v, of the same shape; 0 before the first step.
        gradient: g, the gradient of the loss with respect to the factors.
        rate: η, the learning rate.
        l1_weight: γ.
        momentum: μ.

    Returns:
        The next factors and their velocity.
    """
    moved = factors - rate * gradient
    shrunk = moved.sign() * (moved.abs() - rate * l1_weight).clamp_min(0)
    velocity = shrunk - factors + momentum * velocity
    return (shrunk + momentum * velocity).clamp_min(0), velocity
