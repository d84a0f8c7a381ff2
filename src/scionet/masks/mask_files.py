"""Read and write masks as one safetensors file with a JSON header. No pickle."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from scionet.errors import CheckpointError
from scionet.files.atomic import whole_file
from scionet.files.json_dataclasses import to_json
from scionet.files.safetensors_files import header_in, opened, tensors_in
from scionet.modes import plain_modes

FORMAT_VERSION = 1
_KEY, _WRITER = "scionet_masks", "WeightMasks.save"


@dataclass(frozen=True)
class MaskHeader:
    """File header: the format version, and the number of kept weights per mask."""

    format_version: int
    counts: Mapping[str, int]


def write_masks(path: str | Path, masks: Mapping[str, Tensor], overwrite: bool) -> Path:
    """Write boolean tensors by name, atomically.

    Raises:
        CheckpointError: If the file exists or cannot be written.
        InvalidSetting: If its name does not end in ``.safetensors``.
    """
    tensors = {n: m.detach().to("cpu").clone(memory_format=torch.contiguous_format) for n, m in masks.items()}
    header = to_json(MaskHeader(FORMAT_VERSION, {name: int(mask.count_nonzero()) for name, mask in tensors.items()}))
    with whole_file(path, ".safetensors", overwrite=overwrite, error=CheckpointError) as temporary:
        temporary.write_bytes(save(tensors, {_KEY: header}))
    return Path(path)


@plain_modes()
def read_masks(path: str | Path) -> dict[str, Tensor]:
    """Read what `write_masks` wrote, onto the CPU.

    Raises:
        CheckpointError: If the file is missing, damaged, of a newer format, or contains something else.
    """
    with opened(path, _WRITER) as file:
        header = header_in(
            path, file.metadata(), MaskHeader, key=_KEY, contents="weight masks", writer=_WRITER, newest=FORMAT_VERSION
        )
    tensors = tensors_in(path, _WRITER)
    found = {name: int(mask.count_nonzero()) for name, mask in tensors.items() if mask.dtype == torch.bool}
    if found != dict(header.counts):
        raise CheckpointError(f"{path}: the masks differ from those that were saved; copy or save the file again")
    return {name: tensors[name] for name in header.counts}
