"""Second moments of a consumer's inputs and targets: all that a least-squares imitation of its output needs.

Each output position is a row: for a convolution the unfolded patch of the input at one output pixel, for a linear map
one input vector. Moments add up over batches, and their size does not depend on the number of images.

Products are taken about the mean of their own batch. Where inputs have a mean that is large beside their variation,
variances would otherwise be small differences of large numbers, which single precision loses. Batches are merged in
float64, with the differences of their means (Chan, Golub and LeVeque, 1979), so it makes no difference how examples
are divided among batches and processes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scionet.errors import CalibrationError
from scionet.network.multiprocess import summed
from scionet.network.passes.suspended import Stop
from scionet.network.phrases import counted
from scionet.seeds import coprime_step, hashed
from scionet.typing import FloatArray


@dataclass(frozen=True, eq=False, repr=False)
class Moments:
    """Means of rows of inputs x (D columns) and targets y (O outputs), and sums of products about these means.

    Attributes:
        count: Number of rows.
        x: Mean of inputs, shape ``(D,)``; 0 without rows.
        y: Mean of targets, shape ``(O,)``.
        xx: Sum of (x - mean) (x - mean)ᵀ, shape ``(D, D)``.
        xy: Sum of (x - mean) (y - mean)ᵀ, shape ``(D, O)``.
        yy: Sum of (y - mean)², shape ``(O,)``.
        held: The same of the rows that are held out, which are part of all rows; None if none are.
    """

    count: int
    x: Tensor
    y: Tensor
    xx: Tensor
    xy: Tensor
    yy: Tensor
    held: "Moments | None" = None

    def __repr__(self) -> str:
        """The moments in one line: their numbers of rows, inputs and targets."""
        held = "" if self.held is None else f", {self.held.count:,} held out"
        sizes = (counted(self.count, "row"), counted(len(self.x), "input"), counted(len(self.y), "target"))
        return f"Moments({', '.join(sizes)}{held})"

    @classmethod
    def of(cls, x: Tensor, y: Tensor, held: Tensor | None = None) -> "Moments":
        """Moments of rows: inputs ``(rows, D)`` and targets ``(rows, O)``; products in their type, sums in float64.

        Args:
            x: Inputs.
            y: Targets.
            held: Which rows are held out, boolean, shape ``(rows,)``.
        """
        count, x_centre, y_centre = len(x), _mean(x), _mean(y)
        dx, dy = x - x_centre, y - y_centre
        x_rest, y_rest = _mean(dx), _mean(dy)  # since the centres are rounded
        return cls(
            count,
            x_centre.double() + x_rest,
            y_centre.double() + y_rest,
            (dx.T @ dx).addr_(x_rest, x_rest, alpha=-count).double(),
            (dx.T @ dy).addr_(x_rest, y_rest, alpha=-count).double(),
            (dy.square().sum(0) - count * y_rest.square()).double(),
            None if held is None else cls.of(x[held], y[held]),
        )

    def __add__(self, other: "Moments") -> "Moments":
        """The moments of the rows of both."""
        held = None if self.held is None or other.held is None else self.held + other.held
        return self._merged(other, 1, held)

    @property
    def fitted(self) -> "Moments":
        """The moments of the rows that are not held out."""
        return self if self.held is None else self._merged(self.held, -1, None)

    def over_processes(self) -> "Moments":
        """The moments of the rows of all processes."""
        count = int(summed(torch.tensor(self.count, device=self.xx.device)))
        x, y = (summed(mean * self.count) / max(count, 1) for mean in (self.x, self.y))
        xx, xy, yy = map(summed, self._about(self.x - x, self.y - y, self.count))
        return Moments(count, x, y, xx, xy, yy, None if self.held is None else self.held.over_processes())

    def means(self, centred: bool) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Mean products ``xx (D, D)``, ``xy (D, O)`` and ``yy (O,)``: covariances if `centred`, else raw moments."""
        sums = (self.xx, self.xy, self.yy) if centred else self._about(self.x, self.y, self.count)
        xx, xy, yy = ((each / self.count).cpu().numpy() for each in sums)
        return xx, xy, yy.clip(0)

    def _merged(self, other: "Moments", sign: int, held: "Moments | None") -> "Moments":
        """The moments with the rows of others (`sign` 1), or without them (-1)."""
        count = self.count + sign * other.count
        share = sign * other.count / max(count, 1)
        dx, dy = other.x - self.x, other.y - self.y
        xx, xy, yy = self._about(dx, dy, self.count * share)
        for total, added in ((xx, other.xx), (xy, other.xy), (yy, other.yy)):
            total.add_(added, alpha=sign)
        return Moments(count, self.x + share * dx, self.y + share * dy, xx, xy, yy, held)

    def _about(self, dx: Tensor, dy: Tensor, factor: float) -> tuple[Tensor, Tensor, Tensor]:
        """Copies of the sums of products, with those of two differences of means added, times a factor."""
        xx, xy = (torch.addr(sums, dx, other, alpha=factor) for sums, other in ((self.xx, dx), (self.xy, dy)))
        return xx, xy, self.yy + factor * dy.square()

    def errors(self, weight: FloatArray, shift: FloatArray) -> FloatArray:
        """Mean squared error ``(O,)`` of the affine map ``weight (O, D)``, ``shift (O,)`` on these rows."""
        xx, xy, yy = self.means(centred=True)
        bias = self.shift(weight) - shift
        return yy - 2 * np.einsum("od,do->o", weight, xy) + np.einsum("od,od->o", weight @ xx, weight) + bias**2

    def shift(self, weight: FloatArray) -> FloatArray:
        """The intercept ``(O,)`` with which the map ``weight (O, D)`` has a mean error of 0."""
        return self.y.cpu().numpy() - weight @ self.x.cpu().numpy()


def _mean(rows: Tensor) -> Tensor:
    """The mean of rows, rounded to their type; 0 without rows."""
    return rows.sum(0) / max(len(rows), 1)


def sample_positions(stop: Stop, limit: int, numbers: NDArray[np.int64], key: int) -> Tensor | None:
    """Output pixels of a convolution to take rows from, ``(examples, limit)``, ascending; None for all of them.

    Each example has pixels of its own, spread evenly from a random one on. They depend on the key and on the number of
    the example alone, so that examples may come in any batches.

    Args:
        stop: The consumer.
        limit: Pixels of each example.
        numbers: The number of each example among all, ``(examples,)``.
        key: Root of the randomness at this consumer.
    """
    shape = stop.output.shape
    pixels = int(np.prod(shape[2:])) if stop.operation == "convolution" else 1
    if pixels <= limit:
        return None
    own = spread_numbers(numbers, shape[0])
    first = (hashed(key, own) % np.uint64(pixels)).astype(np.int64)
    places = (first[:, None] + coprime_step(pixels) * np.arange(limit)) % pixels
    return torch.from_numpy(np.sort(places, axis=1))


def spread_numbers(numbers: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Numbers of `count` rows that examples are made of, the rows of each example one behind the other."""
    if len(numbers) == count:
        return numbers
    each = -(-count // max(1, len(numbers)))
    return (numbers[:, None] * each + np.arange(each)).ravel()[:count]


def input_rows(stop: Stop, positions: Tensor | None) -> Tensor:
    """The consumer's input as rows ``(rows, D)``, with columns in the order of `flatten_weight`.

    Args:
        stop: The consumer.
        positions: The output pixels to use, as `sample_positions` returns them.

    Raises:
        CalibrationError: If the input holds NaN or infinite values.
    """
    x = stop.inputs
    if stop.operation == "convolution":
        x = _patches(x, stop, positions)
    x = _wide_enough(x)
    if not bool(torch.isfinite(x.sum())):
        raise CalibrationError(
            f"the input of {stop.weight!r} has NaN or infinite values on the calibration data; check the data and the "
            "layers before it (a half-precision network may overflow: calibrate it in float32)"
        )
    return x


def output_rows(tensor: Tensor, positions: Tensor | None) -> Tensor:
    """An output of the consumer, or another tensor of that shape, as rows ``(rows, O)``."""
    if tensor.ndim > 2:
        pixels = tensor.movedim(1, -1).flatten(1, -2)
        tensor = pixels if positions is None else _rows_at(pixels, positions.to(tensor.device))
    return _wide_enough(tensor.flatten(0, -2))


def flatten_weight(weight: Tensor) -> Tensor:
    """A weight ``(O, channels, ...)`` as a matrix ``(O, kernel * channels)``, with the channels as the inner index."""
    return weight.movedim(1, -1).flatten(1)


def unflatten_weight(matrix: Tensor, shape: Sequence[int]) -> Tensor:
    """The inverse of `flatten_weight`, for a weight of the given shape."""
    return matrix.view(shape[0], *shape[2:], shape[1]).movedim(-1, 1).contiguous()


def _wide_enough(rows: Tensor) -> Tensor:
    """Half-precision rows in float32, since sums of products can exceed the range of float16."""
    return rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows


def _patches(x: Tensor, stop: Stop, positions: Tensor | None) -> Tensor:
    """Unfolded patches at the given output pixels as rows ``(batch * positions, kernel * channels)``.

    They are gathered by index. `torch.nn.functional.unfold` would compute the patches of all output pixels first.
    """
    weight, (stride, padding, dilation) = stop.args[1], stop.args[3:6]
    kernel = weight.shape[2:]
    sizes = x.shape[2:]
    padding = padding * len(sizes) if len(padding) == 1 else padding  # one number stands for all dimensions
    out = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(sizes, padding, dilation, kernel, stride, strict=True)
    ]
    chosen = torch.arange(int(np.prod(out)))[None] if positions is None else positions
    offsets = torch.meshgrid(*map(torch.arange, kernel), indexing="ij")
    pixel = torch.zeros(*chosen.shape, int(np.prod(kernel)), dtype=torch.long)
    outside = torch.zeros_like(pixel, dtype=torch.bool)
    for axis, (corner, offset) in enumerate(zip(torch.unravel_index(chosen, out), offsets, strict=True)):
        place = corner[..., None] * stride[axis] + offset.reshape(1, 1, -1) * dilation[axis] - padding[axis]
        outside |= (place < 0) | (place >= sizes[axis])
        pixel = pixel * sizes[axis] + place.clamp(0, sizes[axis] - 1)
    pixels = x.movedim(1, -1).flatten(1, -2)
    gathered = _rows_at(pixels, pixel.flatten(1).to(x.device))
    if bool(outside.any()):  # zero padding, without a padded copy of the whole input
        gathered[outside.flatten(1).to(x.device).expand(gathered.shape[:2])] = 0
    return gathered.reshape(x.shape[0] * chosen.shape[1], -1)


def _rows_at(pixels: Tensor, places: Tensor) -> Tensor:
    """Entries of ``(examples, pixels, channels)`` at places ``(1 or examples, n)``: ``(examples, n, channels)``."""
    if len(places) == 1:
        return pixels[:, places[0]]
    start = torch.arange(len(pixels), device=pixels.device)[:, None] * pixels.shape[1]
    return pixels.flatten(0, 1)[(start + places).flatten()].view(*places.shape, -1)
