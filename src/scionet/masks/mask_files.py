"""Read and write masks as one sealed safetensors file. No pickle."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from scionet.files.safetensors_files import SealedFormat
from scionet.files.versioned import Format
from scionet.modes import plain_modes

MASKS = SealedFormat(
    "scionet_masks", "weight masks", "WeightMasks.save", Format(3, (), "Make the masks again, and save them")
)


@dataclass(frozen=True)
class MaskHeader:
    """File header: the names of the masks, in order."""

    names: tuple[str, ...]


def write_masks(path: str | Path, masks: Mapping[str, Tensor], overwrite: bool) -> Path:
    """Write boolean tensors by name, atomically.

    Raises:
        CheckpointError: If the file exists or cannot be written.
        InvalidSetting: If its name does not end in ``.safetensors``.
    """
    return MASKS.save(path, masks, MaskHeader(tuple(masks)), overwrite=overwrite)


@plain_modes()
def read_masks(path: str | Path) -> dict[str, Tensor]:
    """Read what `write_masks` wrote, onto the CPU.

    Raises:
        CheckpointError: If the file is missing, damaged, of another format version, or contains something else.
    """
    header, masks = MASKS.read(MaskHeader, path)
    if set(header.names) != masks.keys() or any(mask.dtype != torch.bool for mask in masks.values()):
        raise MASKS.damaged(path, "it holds other tensors than its masks")
    return {name: masks[name] for name in header.names}
