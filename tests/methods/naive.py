"""The walk through a network as one would write it down: plain forward hooks, unfolded images, lstsq."""

import copy
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
    hook = module.register_forward_hook(lambda _, args, out: calls.append((args[0], out)))
    with torch.no_grad():
        for batch in batches:
            model(batch)
    hook.remove()
    bias = 0 if module.bias is None else module.bias.detach().numpy()
    inputs = np.concatenate([_patches(module, x) for x, _ in calls])
    outputs = np.concatenate([rows(out) for _, out in calls]) - bias
    return Seen(inputs, outputs)


def _patches(module: nn.Module, x: Tensor) -> FloatArray:
    if isinstance(module, nn.Linear):
        return x.reshape(-1, module.in_features, 1).numpy()
    assert isinstance(module, nn.Conv2d)
    unfolded = nn.functional.unfold(x, module.kernel_size, module.dilation, module.padding, module.stride)  # type: ignore[arg-type]
    return unfolded.transpose(1, 2).reshape(-1, module.in_channels, np.prod(module.kernel_size)).numpy()


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


def ridge_regression(x: FloatArray, y: FloatArray, ridge: float, size: int) -> FloatArray:
    """argmin mean ||y - x b||^2 + ridge ||b||^2 by lstsq on stacked rows; `ridge` is absolute."""
    stacked = np.vstack([x / np.sqrt(len(x)), np.sqrt(ridge) * np.eye(x.shape[1])])
    return np.linalg.lstsq(stacked, np.vstack([y / np.sqrt(len(y)), np.zeros((size, y.shape[1]))]), rcond=1e-12)[0]


def refit(
    seen: FloatArray, target: FloatArray, kept: Sequence[int], ridge: float, centred: bool
) -> tuple[FloatArray, FloatArray]:
    """Weights (outputs, channels, taps), 0 for channels that are not kept, and the intercept."""
    x, y = seen.reshape(len(seen), -1), target
    x_mean, y_mean = (x.mean(0), y.mean(0)) if centred else (np.zeros(x.shape[1]), np.zeros(y.shape[1]))
    x, y = x - x_mean, y - y_mean
    absolute = ridge * np.mean(np.mean(x**2, axis=0))
    columns = np.arange(x.shape[1]).reshape(seen.shape[1:])[list(kept)].ravel()
    weight = np.zeros((x.shape[1], y.shape[1]))
    weight[columns] = ridge_regression(x[:, columns], y, absolute, len(columns))
    return weight.T.reshape(-1, *seen.shape[1:]), y_mean - weight.T @ x_mean


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
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None
    return (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach().numpy()
