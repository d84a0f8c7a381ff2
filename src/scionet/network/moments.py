"""Second moments of what a consumer sees and what it should give: all that local imitation needs.

Rows are output positions: for a convolution the unfolded patch of the input at one output pixel, for a linear map one
input vector. Sums are kept in float64, add up over batches, and do not grow with the number of images.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scionet.errors import CalibrationError
from scionet.network.lockstep import Stop

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over rows of inputs x (D columns), targets y (O outputs) and their products.

    Attributes:
        count: Number of rows.
        x: Sum of inputs, shape ``(D,)``.
        y: Sum of targets, shape ``(O,)``.
        xx: Sum of x xᵀ, shape ``(D, D)``.
        xy: Sum of x yᵀ, shape ``(D, O)``.
        yy: Sum of squared targets, shape ``(O,)``.
    """

    count: int
    x: Tensor
    y: Tensor
    xx: Tensor
    xy: Tensor
    yy: Tensor

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> "Moments":
        """Moments of rows: inputs ``(rows, D)`` and targets ``(rows, O)``; products in their type, sums in float64."""
        wide = torch.float64
        return cls(
            count=x.shape[0],
            x=x.sum(0, dtype=wide),
            y=y.sum(0, dtype=wide),
            xx=(x.T @ x).to(wide),
            xy=(x.T @ y).to(wide),
            yy=y.square().sum(0, dtype=wide),
        )

    def __add__(self, other: "Moments") -> "Moments":
        """Moments of all rows of both."""
        return Moments(
            self.count + other.count,
            self.x + other.x,
            self.y + other.y,
            self.xx + other.xx,
            self.xy + other.xy,
            self.yy + other.yy,
        )

    def means(self, centred: bool) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Mean products ``xx (D, D)``, ``xy (D, O)``, ``yy (O,)``: covariances if `centred`, else raw moments."""
        x, y = self.x / self.count, self.y / self.count
        xx, xy, yy = self.xx / self.count, self.xy / self.count, self.yy / self.count
        if centred:
            xx, xy, yy = xx - torch.outer(x, x), xy - torch.outer(x, y), (yy - y.square()).clamp_min(0)
        return xx.cpu().numpy(), xy.cpu().numpy(), yy.cpu().numpy()

    def shift(self, weight: FloatArray) -> FloatArray:
        """The intercept ``(O,)`` that makes ``weight (O, D)`` exact in the mean."""
        return (self.y.cpu().numpy() - weight @ self.x.cpu().numpy()) / self.count


def sample_positions(stop: Stop, out_shape: torch.Size, limit: int, rng: np.random.Generator) -> Tensor | None:
    """Output pixels of a convolution to take rows from, ascending; None for all of them."""
    pixels = int(np.prod(out_shape[2:])) if stop.operation == "convolution" else 1
    if pixels <= limit:
        return None
    return torch.from_numpy(np.sort(rng.choice(pixels, limit, replace=False)))


def input_rows(stop: Stop, positions: Tensor | None) -> Tensor:
    """The consumer's input as rows ``(rows, D)``; columns in the order of the flattened weight.

    Raises:
        CalibrationError: If the input holds NaN or infinite values.
    """
    x = stop.inputs
    if stop.operation == "convolution":
        x = _patches(x, stop, positions)
    if not bool(torch.isfinite(x.sum(dtype=torch.float64))):
        raise CalibrationError(
            f"the input of {stop.weight!r} has NaN or infinite values on the calibration data; look for them in the "
            "data and in the layers before it (a half-precision network may overflow: calibrate it in float32)"
        )
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def output_rows(tensor: Tensor, positions: Tensor | None) -> Tensor:
    """An output of the consumer, or a tensor of its shape, as rows ``(rows, O)``."""
    if tensor.ndim > 2:
        tensor = tensor.flatten(2)
        if positions is not None:
            tensor = tensor[:, :, positions.to(tensor.device)]
        tensor = tensor.transpose(1, 2).flatten(0, 1)
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _patches(x: Tensor, stop: Stop, positions: Tensor | None) -> Tensor:
    """Rows of unfolded patches ``(batch * positions, channels * taps)`` at the given output pixels."""
    weight, (stride, padding, dilation) = stop.args[1], stop.args[3:6]
    taps = weight.shape[2:]
    x = torch.nn.functional.pad(x, [p for size in reversed(padding) for p in (size, size)])
    out = [(n - d * (k - 1) - 1) // s + 1 for n, d, k, s in zip(x.shape[2:], dilation, taps, stride, strict=True)]
    chosen = torch.arange(int(np.prod(out))) if positions is None else positions
    corners = torch.unravel_index(chosen, out)
    flat = torch.zeros(len(chosen), int(np.prod(taps)), dtype=torch.long)
    for axis, (corner, tap) in enumerate(zip(corners, torch.meshgrid(*map(torch.arange, taps), indexing="ij"), strict=True)):
        flat = flat * x.shape[2 + axis] + corner[:, None] * stride[axis] + tap.reshape(1, -1) * dilation[axis]
    gathered = x.flatten(2)[:, :, flat.flatten().to(x.device)]
    rows = gathered.view(*x.shape[:2], *flat.shape).permute(0, 2, 1, 3)
    return rows.reshape(x.shape[0] * len(chosen), -1)
