"""Storage of tensors: in memory up to a limit, in memory-mapped temporary files beyond it."""

import shutil
import tempfile
import weakref
from pathlib import Path

import torch
from torch import Tensor


class Storage:
    """Keeps tensors. Beyond a limit, they are mapped from files, so that the system can free their memory."""

    def __init__(self, memory_bytes: float) -> None:
        """Start empty.

        Args:
            memory_bytes: The most bytes to hold in memory.
        """
        self._left = memory_bytes
        self._folder: Path | None = None
        self._count = 0

    def keep(self, tensor: Tensor) -> Tensor:
        """The tensor itself, or a copy of it that is mapped from a file."""
        if tensor.nbytes <= self._left:
            self._left -= tensor.nbytes
            return tensor
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="scionet-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._count += 1
        path = self._folder / str(self._count)
        mapped = torch.from_file(str(path), shared=True, size=tensor.numel(), dtype=tensor.dtype)
        mapped = mapped.view(tensor.shape)
        return mapped.copy_(tensor)
