"""Read and write sparse states as one sealed safetensors file. No pickle."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from scionet.files.safetensors_files import SealedFormat
from scionet.files.versioned import Format
from scionet.masks.sparse import no_beta_warning
from scionet.modes import plain_modes

SPARSE = SealedFormat(
    "scionet_sparse", "sparse state", "save_sparse", Format(3, (), "Make the sparse state again, and save it")
)
_SMALL = 2**31


@dataclass(frozen=True)
class SparseHeader:
    """File header: the shapes of the sparse tensors by name."""

    shapes: Mapping[str, tuple[int, ...]]


def save_sparse(path: str | Path, state: Mapping[str, Tensor], *, overwrite: bool = False) -> Path:
    """Save a state of `scionet.masks.sparse.sparse_state`, atomically.

    Indices are stored in 32 bits if they fit.

    Raises:
        CheckpointError: If the file exists or cannot be written.
        InvalidSetting: If its name does not end in ``.safetensors``.
    """
    tensors, shapes = dict[str, Tensor](), dict[str, tuple[int, ...]]()
    for name, tensor in state.items():
        if tensor.layout == torch.strided:
            tensors[name] = tensor
        else:
            shapes[name] = tuple(tensor.shape)
            tensors |= {f"{name}/{part}": value for part, value in _parts(tensor).items()}
    return SPARSE.save(path, tensors, SparseHeader(shapes), overwrite=overwrite)


@plain_modes()
def read_sparse(path: str | Path) -> dict[str, Tensor]:
    """Read what `save_sparse` wrote, onto the CPU.

    Raises:
        CheckpointError: If the file is missing, damaged, of another format version, or contains something else.
    """
    header, tensors = SPARSE.read(SparseHeader, path)
    try:
        sparse = {name: _assembled(name, shape, tensors) for name, shape in header.shapes.items()}
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise SPARSE.damaged(path, f"its sparse tensors do not fit ({error})") from error
    return tensors | sparse


def _parts(tensor: Tensor) -> dict[str, Tensor]:
    """Values and indices, on the CPU."""
    if tensor.layout == torch.sparse_coo:
        stored = tensor.coalesce()
        indices = {"indices": stored.indices()}
    else:
        stored, indices = tensor, {"crow": tensor.crow_indices(), "col": tensor.col_indices()}
    dtype = torch.int32 if tensor.shape.numel() < _SMALL else torch.int64
    found = {"values": stored.values().detach(), **{name: index.to(dtype) for name, index in indices.items()}}
    return {name: part.to("cpu").contiguous() for name, part in found.items()}


def _assembled(name: str, shape: tuple[int, ...], tensors: dict[str, Tensor]) -> Tensor:
    """Build a sparse tensor from its parts, which are removed from `tensors`, and check its indices."""
    values = tensors.pop(f"{name}/values")
    if f"{name}/indices" in tensors:
        indices = tensors.pop(f"{name}/indices").long()
        return torch.sparse_coo_tensor(indices, values, shape, is_coalesced=True, check_invariants=True)
    crow, col = (tensors.pop(f"{name}/{part}").long() for part in ("crow", "col"))
    with no_beta_warning():
        return torch.sparse_csr_tensor(crow, col, values, shape, check_invariants=True)
