"""The inverse of the damped empirical Fisher matrix F = λ I + (1/N) Σ g gᵀ, in blocks on its diagonal, in float64.

g are the gradients of single examples. The Fisher matrix stands for the Hessian.
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
"""Where nothing else is said; the damping is that of M-FAC. WoodFisher's code takes 1e-3, which outweighs the gradients
of a network that has learned its examples; see docs/methods/masks.md."""


@dataclass(frozen=True, eq=False)
class Layout:
    """How the weights of a network lie in blocks.

    Attributes:
        shapes: Shape of each weight tensor by name.
        block_size: Consecutive entries of one tensor that make a block, its last one filled up with zeros; None makes
            one block of all weights of all tensors.
    """

    shapes: Mapping[str, torch.Size]
    block_size: int | None

    @classmethod
    def of(cls, weights: Weights, block_size: int | None) -> "Layout":
        """The layout of these weights."""
        return cls({name: weight.shape for name, weight in weights.items()}, block_size)

    def rows(self, tensors: Weights) -> Tensor:
        """Tensors ``(*batch, *shape)`` as blocks ``(*batch, blocks, size)``, float64."""
        parts = []
        for name, shape in self.shapes.items():
            tensor = tensors[name].double()
            flat = tensor.reshape(*tensor.shape[: tensor.ndim - len(shape)], shape.numel())
            filled = flat if self.block_size is None else nn.functional.pad(flat, (0, -shape.numel() % self.block_size))
            parts.append(filled)
        joined = torch.cat(parts, -1)
        return joined.unflatten(-1, (-1, self.block_size or joined.shape[-1]))

    def tensors(self, rows: Tensor) -> dict[str, Tensor]:
        """The inverse of `rows`, for ``(blocks, size)``."""
        step = self.block_size or 1
        lengths = [-(-shape.numel() // step) * step for shape in self.shapes.values()]
        parts = rows.flatten().split(lengths)
        return {n: p[: s.numel()].view(s) for (n, s), p in zip(self.shapes.items(), parts, strict=True)}


def examples_of_one_process(loss: LossFunctional, weights: Weights, layout: Layout) -> Iterator[Tensor]:
    """Gradients of the losses of single examples as blocks, some at a time, ``(examples, blocks, size)``.

    Raises:
        InvalidSetting: If there are several processes.
    """
    if world()[1] > 1:
        raise InvalidSetting("the Fisher matrix in blocks is made in one process; give all batches to one")
    for some in loss.single(weights):
        yield layout.rows(some)


def refuse_blocks(block_size: int | None, damping: float) -> None:
    """Check what blocks are made by.

    Raises:
        InvalidSetting: If it is out of range.
    """
    if not (block_size is None or (isinstance(block_size, int) and block_size >= 1)) or not 0 < damping < math.inf:
        raise InvalidSetting(
            f"block_size is a whole number of 1 or more, and damping a finite number above 0; given {block_size} and "
            f"{damping}"
        )


def inverse_blocks(gradients: Iterable[Tensor], count: int, damping: float) -> Tensor:
    """The inverse, block by block, by the formula of Sherman and Morrison.

    F⁻¹ ← F⁻¹ − u uᵀ / (N + gᵀu) with u = F⁻¹ g, from I/λ on.

    Source: Singh, Alistarh, *WoodFisher*, NeurIPS 2020.

    Args:
        gradients: Gradients of single examples, some at a time, ``(examples, blocks, size)``.
        count: N, how many there are.
        damping: λ.

    Returns:
        Shape ``(blocks, size, size)``.
    """
    inverse = torch.zeros(0)
    for some in gradients:
        for g in some:
            if not inverse.numel():
                inverse = (torch.eye(g.shape[1]).to(g) / damping).repeat(len(g), 1, 1)
            u = torch.einsum("bij,bj->bi", inverse, g)
            inverse.baddbmm_(u[:, :, None], (-u / (count + (g * u).sum(1, keepdim=True)))[:, None, :])
    return inverse


@dataclass(frozen=True, eq=False)
class InverseProducts:
    """The same inverse by N vectors of its size: it is multiplied with, and never made.

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
    def of(cls, gradients: Tensor, damping: float) -> "InverseProducts":
        """From the gradients of single examples, ``(examples, blocks, size)``.

        h_i = g_i/λ − Σ_{j<i} (h_jᵀg_i / d_j) h_j and d_i = N + g_iᵀh_i.
        """
        directions = torch.empty_like(gradients)
        denominators = gradients.new_empty(gradients.shape[:2])
        for i, g in enumerate(gradients):
            known = cls(directions[:i], denominators[:i], damping)
            directions[i] = known.times(g)
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
