"""Masks of single weights: attach them to a network, detach, save and load them."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from scionet.errors import InvalidSetting
from scionet.masks.mask_files import read_masks, write_masks
from scionet.masks.weights import maskable
from scionet.modes import at_work
from scionet.seeds import seeded
from scionet.torch_internals import own_parameters


class Masked(nn.Module):
    """Parametrization that replaces masked weights by 0.

    Training updates the underlying weight, whose masked entries get no gradient. The mask is a buffer: it is part of
    the state dict, moves with the network and is copied with it.
    """

    mask: Tensor

    def __init__(self, mask: Tensor, order: tuple[str, ...]) -> None:
        """Keep entries where `mask` is true; `order` is the parameter order that detaching restores."""
        super().__init__()
        self.order = order
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        """The masked weight."""
        return torch.where(self.mask, weight, torch.zeros((), dtype=weight.dtype, device=weight.device))

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The value that an assignment to the weight stores: all of it."""
        return weight


@dataclass(frozen=True, eq=False)
class WeightMasks(Mapping[str, Tensor]):
    """Which weights are kept: booleans by parameter name, in the parameters' shapes.

    Attributes:
        masks: True where a weight is kept.
    """

    masks: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        """Check that all masks are boolean.

        Raises:
            InvalidSetting: If one is not.
        """
        wrong = {name: str(mask.dtype) for name, mask in self.masks.items() if mask.dtype != torch.bool}
        if wrong:
            raise InvalidSetting(f"masks must be boolean tensors; given {wrong}; convert them with tensor.bool()")

    def __getitem__(self, name: str) -> Tensor:
        """The mask of one parameter."""
        return self.masks[name]

    def __iter__(self) -> Iterator[str]:
        """Parameter names."""
        return iter(self.masks)

    def __len__(self) -> int:
        """Number of masked parameters."""
        return len(self.masks)

    @property
    def counts(self) -> dict[str, int]:
        """Number of kept weights, by parameter."""
        return {name: int(mask.count_nonzero()) for name, mask in self.masks.items()}

    @property
    def density(self) -> float:
        """Fraction of weights kept."""
        return sum(self.counts.values()) / sum(mask.numel() for mask in self.masks.values())

    def refuse_misfit(self, model: nn.Module) -> None:
        """Check that the masks fit a network's weights.

        Raises:
            InvalidSetting: If the network does not have these weights, or they are already masked.
        """
        weights = maskable(model)
        problems = [
            f"{name!r} {tuple(mask.shape)}: the network has "
            + (f"{tuple(weights[name].shape)} there" if name in weights else "no such weight to mask")
            for name, mask in self.masks.items()
            if name not in weights or weights[name].shape != mask.shape
        ]
        if problems:
            raise InvalidSetting(f"masks do not fit: {'; '.join(problems[:8])}; use masks made for this network")

    @at_work()
    def attach_(self, model: nn.Module) -> None:
        """Mask a network in place. Masked weights read as 0, also after training steps.

        The underlying weights keep their values until `detach_masks_` replaces them by plain zeros. Tied weights are
        masked everywhere. Parameters stay the same objects, so the optimiser may be created before or after.

        Raises:
            InvalidSetting: If the network does not have these weights, or they are already masked. The network is then
                not modified.
        """
        self.refuse_misfit(model)
        parameters = dict(model.named_parameters())
        names = {id(parameters[name]): name for name in self.masks}
        places = [*_places(model, names)]
        orders = {module: tuple(own_parameters(module)) for module, _, _ in places}
        for module, key, name in places:
            mask = self.masks[name].to(parameters[name].device, copy=True)
            parametrize.register_parametrization(module, key, Masked(mask, orders[module]))

    @at_work()
    def applied(self, model: nn.Module) -> nn.Module:
        """A copy of the network with plain zeros in place of masked weights.

        Raises:
            InvalidSetting: As `attach_` does.
        """
        masked = copy.deepcopy(model)
        self.attach_(masked)
        detach_masks_(masked)
        return masked

    def shuffled(self, seed: int) -> "WeightMasks":
        """Random masks with the same number of kept weights per parameter: the control that a score must beat.

        Source: Frankle et al., *Pruning Neural Networks at Initialization: Why Are We Missing the Mark?*, ICLR 2021.
        """
        generators = seeded(seed)
        orders = {
            name: torch.from_numpy(generators("shuffled", name).permutation(m.numel())) for name, m in self.items()
        }
        return WeightMasks({n: m.flatten()[orders[n].to(m.device)].view(m.shape) for n, m in self.items()})

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Save as one ``.safetensors`` file with a JSON header, atomically.

        Raises:
            CheckpointError: If the file exists or cannot be written.
            InvalidSetting: If its name does not end in ``.safetensors``.
        """
        return write_masks(path, self.masks, overwrite)

    @classmethod
    def load(cls, path: str | Path) -> "WeightMasks":
        """Load masks that `save` wrote, onto the CPU.

        Raises:
            CheckpointError: If the file is missing, damaged, of a newer format, or contains something else.
        """
        return cls(read_masks(path))


@at_work()
def detach_masks_(model: nn.Module) -> None:
    """Remove masks in place and set masked weights to plain zeros; parameters stay the same objects.

    Raises:
        InvalidSetting: If the network has no masks.
    """
    masked = [
        (module, key, link.order)
        for module in model.modules()
        if parametrize.is_parametrized(module)
        for key, chain in module.parametrizations.items()  # type: ignore[union-attr]
        for link in chain
        if isinstance(link, Masked)
    ]
    if not masked:
        raise InvalidSetting("the network has no masks to detach; WeightMasks.attach_ attaches them")
    for module, key, order in masked:
        parametrize.remove_parametrizations(module, key, leave_parametrized=True)
        for name in [name for name in order if name in own_parameters(module)]:
            own_parameters(module)[name] = own_parameters(module).pop(name)


def _places(model: nn.Module, names: Mapping[int, str]) -> Iterator[tuple[nn.Module, str, str]]:
    """Modules and attribute names of these parameters, and their full names."""
    for module in model.modules():
        for key, parameter in own_parameters(module).items():
            if id(parameter) in names:
                yield module, key, names[id(parameter)]
