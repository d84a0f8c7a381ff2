"""Proximal steps: their fixed point, exact zeros, and the plain formula."""

import torch

from scionet.sparse_training.proximal import proximal_step


def test_the_fixed_point_is_the_shifted_target_and_zeros_are_exact() -> None:
    target = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    factors, velocity = torch.ones_like(target), torch.zeros_like(target)
    for _ in range(4000):
        factors, velocity = proximal_step(factors, velocity, factors - target, 0.1, 0.05, 0.9)
    assert float((factors - (target - 0.05).clamp_min(0)).abs().max()) < 1e-13
    assert torch.equal(factors == 0, target <= 0.05)


def test_one_step_by_hand() -> None:
    factors, velocity = torch.tensor([1.0, 0.1, 0.0]), torch.tensor([-0.2, 0.0, 0.1])
    found, speed = proximal_step(factors, velocity, torch.tensor([0.5, 2.0, -1.0]), 0.1, 0.5, 0.9)
    # z = .95, -.1, .1; shrunk by .05: .9, -.05, .05; v = -.1 - .18, -.15, .05 + .09
    assert torch.allclose(speed, torch.tensor([-0.28, -0.15, 0.14]))
    assert torch.allclose(found, torch.tensor([0.9 - 0.252, 0.0, 0.05 + 0.126]))
