"""Inverse of the damped empirical Fisher matrix F = λ I + (1/N) Σ g gᵀ, block-diagonal, in float64.

g are per-example gradients. The Fisher matrix approximates the Hessian.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scionet.errors import InvalidSetting
from scionet.masks.gradients import LossFunctional, Weights
from scionet.network.multiprocess import world

BLOCK_SIZE, DAMPING = 64, 1e-5
"""Defaults. The damping is that of M-FAC. WoodFisher's code uses 1e-3, which dominates the small gradients of a
well-trained network; see docs/methods/masks.md."""


@dataclass(frozen=True, eq=False)
class Layout:
    """How the weights of a network are arranged in blocks.

    Attributes:
        shapes: Shape of each weight tensor by name.
        block_size: Number of consecutive entries of one tensor in a block; the last block is padded with zeros. None
            puts all weights of all tensors into one block.
    """

    shapes: Mapping[str, torch.Size]
    block_size: int | None

    @classmethod
    def from_weights(cls, weights: Weights, block_size: int | None) -> "Layout":
        """The layout of these weights."""
        return cls({name: weight.shape for name, weight in weights.items()}, block_size)

    def rows(self, tensors: Weights) -> Tensor:
        """Tensors ``(*batch, *shape)`` as blocks ``(*batch, blocks, size)``, float64."""
        parts = []
        for name, shape in self.shapes.items():
            tensor = tensors[name].double()
            flat = tensor.reshape(*tensor.shape[: tensor.ndim - len(shape)], shape.numel())
            padded = flat if self.block_size is None else nn.functional.pad(flat, (0, -shape.numel() % self.block_size))
            parts.append(padded)
        joined = torch.cat(parts, -1)
        return joined.unflatten(-1, (-1, self.block_size or joined.shape[-1]))

    def tensors(self, rows: Tensor) -> dict[str, Tensor]:
        """The inverse of `rows`, for ``(blocks, size)``."""
        step = self.block_size or 1
        lengths = [-(-shape.numel() // step) * step for shape in self.shapes.values()]
        parts = rows.flatten().split(lengths)
        return {n: p[: s.numel()].view(s) for (n, s), p in zip(self.shapes.items(), parts, strict=True)}


def example_gradient_blocks(loss: LossFunctional, weights: Weights, layout: Layout) -> Iterator[Tensor]:
    """Per-example gradients as blocks, in chunks of ``(examples, blocks, size)``.

    Raises:
        InvalidSetting: If there are several processes.
    """
    if world()[1] > 1:
        raise InvalidSetting("the block Fisher matrix is not supported with several processes; run it in one")
    for chunk in loss.example_gradients(weights):
        yield layout.rows(chunk)


def check_block_settings(block_size: int | None, damping: float) -> None:
    """Check block size and damping.

    Raises:
        InvalidSetting: If one is out of range.
    """
    if not (block_size is None or (isinstance(block_size, int) and block_size >= 1)) or not 0 < damping < math.inf:
        raise InvalidSetting(
            f"block_size must be a positive whole number or None, and damping a finite number above 0; given "
            f"{block_size} and {damping}"
        )


def inverse_blocks(gradients: Iterable[Tensor], count: int, damping: float) -> Tensor:
    """Compute the inverse of each block with the Sherman-Morrison formula.

    F⁻¹ ← F⁻¹ − u uᵀ / (N + gᵀu) with u = F⁻¹ g, starting from I/λ.

    Source: Singh, Alistarh, *WoodFisher*, NeurIPS 2020.

    Args:
        gradients: Per-example gradients in chunks of ``(examples, blocks, size)``.
        count: Number of examples N.
        damping: λ.

    Returns:
        Shape ``(blocks, size, size)``.
    """
    inverse = torch.zeros(0)
    for chunk in gradients:
        for g in chunk:
            if not inverse.numel():
                inverse = (torch.eye(g.shape[1]).to(g) / damping).repeat(len(g), 1, 1)
            u = torch.einsum("bij,bj->bi", inverse, g)
            inverse.baddbmm_(u[:, :, None], (-u / (count + (g * u).sum(1, keepdim=True)))[:, None, :])
    return inverse


@dataclass(frozen=True, eq=False)
class InverseProducts:
    """The same inverse in matrix-free form: N vectors give its products with vectors and its diagonal.

    F⁻¹ x = x/λ − Σ_j (h_jᵀx / d_j) h_j.

    Source: Frantar, Kurtic, Alistarh, *M-FAC: Efficient Matrix-Free Approximations of Second-Order Information*,
    NeurIPS 2021.

    Attributes:
        directions: h, ``(examples, blocks, size)``.
        denominators: d, ``(examples, blocks)``.
        damping: λ.
    """

    directions: Tensor
    denominators: Tensor
    damping: float

    @classmethod
    def from_gradients(cls, gradients: Tensor, damping: float) -> "InverseProducts":
        """Compute h and d from per-example gradients, ``(examples, blocks, size)``.

        h_i = g_i/λ − Σ_{j<i} (h_jᵀg_i / d_j) h_j and d_i = N + g_iᵀh_i.
        """
        directions = torch.empty_like(gradients)
        denominators = gradients.new_empty(gradients.shape[:2])
        for i, g in enumerate(gradients):
            previous = cls(directions[:i], denominators[:i], damping)
            directions[i] = previous.times(g)
            denominators[i] = len(gradients) + (g * directions[i]).sum(1)
        return cls(directions, denominators, damping)

    def times(self, vector: Tensor) -> Tensor:
        """F⁻¹ times a vector ``(blocks, size)``."""
        shares = torch.einsum("nbi,bi->nb", self.directions, vector) / self.denominators
        return vector / self.damping - torch.einsum("nb,nbi->bi", shares, self.directions)

    @property
    def diagonal(self) -> Tensor:
        """The diagonal of F⁻¹, ``(blocks, size)``."""
        squares = torch.einsum("nbi,nb->bi", self.directions.square(), 1 / self.denominators)
        return 1 / self.damping - squares
