"""gRDA: SGD on a hidden copy of the weights, and a soft threshold that grows with time, for weights or for groups.

S.-K. Chao, Z. Wang, Y. Xing, G. Cheng, *Directional Pruning of Deep Neural Networks*, NeurIPS 2020. The form for groups
is derived from the abstract of Y. Li et al., arXiv 2107.05328, whose code was never published. Written from the papers.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from scionet.errors import InvalidSetting, TrainingError

DUAL = "dual"
"""Key of v in the optimiser's state."""
CHECK_STEPS = 50
"""Weights are checked every 50 steps: reading waits for the device."""


class GRDA(Optimizer):
    """Elementwise gRDA.

    With v = w and T = 0 at the beginning, step n with learning rate γ does::

        v ← v − γ ∇f(w)
        T ← T + c γ^(μ + 1/2) (n^μ − (n − 1)^μ)
        w ← sign(v) max(|v| − T, 0)

    At a constant learning rate, T = c √γ (n γ)^μ. With c = 0 this is SGD. It differs from proximal SGD, which shrinks
    again in every step: v keeps what the gradients sum up to, and a weight that is zero can come back.

    Flat directions of the loss are shrunk like t^μ with t = n γ, curved ones like t^(μ−1). The theory is that of SGD
    without momentum and without weight decay, at a constant learning rate. Parameters of a group of the optimiser with
    ``"c": 0`` are not shrunk. Every step sets the weights from v, and undoes other changes of them.
    """

    def __init__(self, params: Any, lr: float, c: float, mu: float, weight_decay: float = 0.0) -> None:
        """Check the hyperparameters, which groups of the optimiser may have each for itself.

        Args:
            params: The parameters, or groups of them, as for every optimiser of torch.
            lr: Learning rate γ.
            c: Factor of the threshold, 0 or more. The papers fix μ, and take the largest c that keeps the accuracy.
            mu: Exponent μ of its growth, inside (0, 1). The papers use 0.4 to 0.7, mostly just above 1/2.
            weight_decay: Weight decay, added to the gradient; a warning says that the theory is without it.

        Raises:
            InvalidSetting: If one is out of range.
        """
        super().__init__(params, {"lr": lr, "c": c, "mu": mu, "weight_decay": weight_decay})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters with hyperparameters of its own.

        Raises:
            InvalidSetting: If one is out of range.
        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if not (group["lr"] >= 0 and 0 <= group["c"] < math.inf and 0 < group["mu"] < 1 and group["weight_decay"] >= 0):
            given = {key: group[key] for key in ("lr", "c", "mu", "weight_decay")}
            raise InvalidSetting(f"lr, c and weight_decay are 0 or more, mu lies inside (0, 1); given {given}")
        if group["weight_decay"] and group["c"]:
            warnings.warn(
                f"gRDA's theory is without weight decay, which also shrinks what the loss needs; set weight_decay to 0 "
                f"(it is {group['weight_decay']:g})",
                stacklevel=3,
            )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step.

        Args:
            closure: Computes the loss and its gradients again, if given.

        Raises:
            TrainingError: If weights are NaN or infinite, or all are zero; checked every 50 steps.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._learn(group)
        self._shrink()
        self._refuse_divergence()
        return loss

    def _learn(self, group: dict[str, Any]) -> None:
        """Use the gradients of a group of parameters."""
        for parameter in group["params"]:
            if parameter.grad is not None:
                self._accumulate(parameter, group)

    def _accumulate(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        """Step v, and T with it."""
        state, rate, mu = self.state[parameter], float(group["lr"]), group["mu"]
        if (
            not state
        ):  # Python's numbers keep their digits in a state dict; torch rounds tensors to the parameter's type
            state.update({DUAL: parameter.detach().clone(), "step": 0, "threshold": 0.0})
        descend(state[DUAL], parameter, rate, group["weight_decay"])
        done = int(state["step"])
        growth = group["c"] * rate ** (mu + 0.5) * ((done + 1) ** mu - done**mu)
        state["step"], state["threshold"] = done + 1, float(state["threshold"]) + growth

    def _shrink(self) -> None:
        """Set every weight from its v and T."""
        for parameter, state in self.state.items():
            threshold = float(state["threshold"])
            parameter.copy_(state[DUAL] - state[DUAL].clamp(-threshold, threshold))

    def _refuse_divergence(self) -> None:
        """Look at the weights now and then.

        Raises:
            TrainingError: If one is NaN or infinite, or all that are shrunk are zero.
        """
        shrunk = [p for p, state in self.state.items() if state["threshold"] and p.numel()]
        step = int(self.state[shrunk[0]]["step"]) if shrunk else 0
        if not shrunk or step % CHECK_STEPS:
            return
        largest = float(torch.stack([parameter.abs().amax().float() for parameter in shrunk]).max())
        if not math.isfinite(largest) or not largest:
            problem = "all weights are zero" if largest == 0 else "weights are NaN or infinite"
            raise TrainingError(f"{problem} after {step:,} steps of gRDA; {smaller_steps(self)}lower the learning rate")


def smaller_steps(optimizer: Optimizer) -> str:
    """What to change where a training with an optimiser diverges, if that is gRDA."""
    if not isinstance(optimizer, GRDA):
        return ""
    group = max(optimizer.param_groups, key=lambda group: group["c"])
    return f"lower c ({group['c']:g}) or mu ({group['mu']:g}), "


def descend(weights: Tensor, parameter: nn.Parameter, rate: float, weight_decay: float) -> None:
    """The step of SGD, with the gradient at the parameter; none if it has no gradient."""
    gradient = parameter.grad
    if gradient is None:
        return
    if weight_decay:
        gradient = gradient.add(parameter, alpha=weight_decay)
    weights.add_(gradient, alpha=-rate)
