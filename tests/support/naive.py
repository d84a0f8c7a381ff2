"""The walk through a network as one would write it down: plain forward hooks, unfolded images, lstsq."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Seen:
    """What a layer sees and gives, over all batches.

    Attributes:
        inputs: Rows (positions, channels, taps): one unfolded patch each; one tap for a linear map.
        outputs: Rows (positions, outputs), without the layer's own bias.
    """

    inputs: FloatArray
    outputs: FloatArray


def seen_at(model: nn.Module, layer: str, batches: Sequence[Tensor]) -> Seen:
    module = model.get_submodule(layer)
    calls: list[tuple[Tensor, Tensor]] = []
    hook = module.register_forward_hook(lambda _, args, out: calls.append((args[0], out)))  # type: ignore[arg-type]
    with torch.no_grad():
        for batch in batches:
            model(batch)
    hook.remove()
    bias = dict(module.named_parameters()).get("bias", torch.zeros(1)).detach().numpy()
    inputs = np.concatenate([_patches(module, x) for x, _ in calls])
    outputs = np.concatenate([rows(out) for _, out in calls]) - bias
    return Seen(inputs, outputs)


def _patches(module: nn.Module, x: Tensor) -> FloatArray:
    if isinstance(module, nn.Linear):
        return x.reshape(-1, module.in_features, 1).numpy()
    assert isinstance(module, nn.Conv2d)
    unfolded = nn.functional.unfold(x, module.kernel_size, module.dilation, module.padding, module.stride)  # type: ignore[arg-type]
    return unfolded.transpose(1, 2).reshape(-1, module.in_channels, math.prod(module.kernel_size)).numpy()


def rows(value: Tensor) -> FloatArray:
    """(positions, outputs) of pictures (batch, channels, height, width) or vectors (..., channels)."""
    last = value.detach().permute(0, 2, 3, 1) if value.ndim == 4 else value.detach()
    return last.reshape(-1, last.shape[-1]).numpy()


def input_of(model: nn.Module, module: str, batches: Sequence[Tensor]) -> FloatArray:
    """Rows of the first argument of a module."""
    found: list[FloatArray] = []
    hook = model.get_submodule(module).register_forward_pre_hook(lambda _, args: found.append(rows(args[0])))
    with torch.no_grad():
        for batch in batches:
            model(batch)
    hook.remove()
    return np.concatenate(found)


@dataclass(frozen=True, eq=False)
class Regression:
    """Rows of which a refit is the plain ridge regression.

    Attributes:
        x: (rows, channels, taps).
        y: (rows, outputs).
        ridge: Absolute ridge.
    """

    x: FloatArray
    y: FloatArray
    ridge: float

    def error(self, channels: Sequence[int]) -> float:
        """Smallest squared error with the inputs of some channels, relative to giving nothing."""
        weight = self.solve(channels)
        residual = self.y - np.einsum("rct,oct->ro", self.x, weight)
        return float(((residual**2).sum() + self.ridge * (weight**2).sum()) / (self.y**2).sum())

    def solve(self, channels: Sequence[int]) -> FloatArray:
        """Weights (outputs, channels, taps), 0 for other channels."""
        used = self.x[:, list(channels)].reshape(len(self.x), -1)
        x = np.vstack([used, np.sqrt(self.ridge) * np.eye(used.shape[1])])
        y = np.vstack([self.y, np.zeros((used.shape[1], self.y.shape[1]))])
        weight = np.zeros((self.y.shape[1], *self.x.shape[1:]))
        found = np.linalg.lstsq(x, y, rcond=1e-13)[0]
        weight[:, list(channels)] = found.T.reshape(len(weight), len(channels), -1)
        return weight


def regression(
    seen: FloatArray, target: FloatArray, dense: Tensor, *, centred: bool, share: float, scale: FloatArray | float = 1.0
) -> Regression:
    """The data, and one row more for each input that pulls its weights to the dense ones, as strong as it varies."""
    x, y = seen.reshape(len(seen), -1), target
    if centred:
        x, y = x - x.mean(0), y - y.mean(0)
    spread = np.sqrt(share * np.mean(x**2, axis=0))
    root = np.sqrt((1 - share) / len(x))
    pull = spread[:, None] * dense.detach().flatten(1).numpy().T
    rows = np.vstack([root * x, np.diag(spread)]).reshape(-1, *seen.shape[1:])
    return Regression(rows, np.vstack([root * y, pull]) * scale, 1e-6 * float(np.mean(x**2)))


def refit(
    seen: FloatArray, target: FloatArray, kept: Sequence[int], dense: Tensor, centred: bool = True
) -> tuple[FloatArray, FloatArray]:
    """Weights in the layout of the dense ones, 0 for channels that are not kept, and the intercept."""
    inputs = seen[0].size
    share = inputs / (inputs + len(seen))
    weight = regression(seen, target, dense, centred=centred, share=share).solve(kept)
    return weight.reshape(dense.shape), target.mean(0) - np.einsum("ct,oct->o", seen.mean(0), weight)


def after(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the network with other tensors."""
    changed = copy.deepcopy(model)
    changed.load_state_dict({**model.state_dict(), **tensors})
    return changed


def gated(weight: Tensor, gates: FloatArray) -> Tensor:
    """A consumer's weight with its input channels multiplied."""
    return weight * torch.from_numpy(gates).reshape(1, -1, *[1] * (weight.ndim - 2))


def scale_of(norm: nn.Module | None) -> FloatArray | float:
    """gamma / sigma."""
    if norm is None:
        return 1.0
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None
    return (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach().numpy()
