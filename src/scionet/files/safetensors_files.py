"""Sealed safetensors files: tensors and a JSON header, both under a checksum. Nothing is pickled.

All files of ours that hold tensors are of this kind. Equal contents give equal bytes. One changed bit anywhere is
refused when the file is read.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from scionet.errors import CheckpointError
from scionet.files.atomic import whole_file
from scionet.files.versioned import Format, OtherFormat

H = TypeVar("H")

_SEAL, _TENSORS = "scionet_sha256", "scionet_tensors_sha256"
"""Keys of the checksums in the metadata: of the header and the checksum of the tensors, and of the tensors."""
_LENGTH = 8
"""Bytes at the beginning of a safetensors file that say how long its own header is, and what that is padded to."""


@dataclass(frozen=True)
class SealedFormat:
    """A kind of file.

    Attributes:
        key: Where the metadata hold the JSON header; no other kind of file has it.
        contents: What such a file contains, without an article, for error messages.
        writer: Name of the function that writes such files, for error messages.
        format: Version and features of the header, and what to do with a damaged or an older file.
        title: What the header is called in error messages.
    """

    key: str
    contents: str
    writer: str
    format: Format
    title: str = "header"

    def save(
        self,
        path: str | Path,
        tensors: Mapping[str, Tensor],
        header: Any,
        *,
        overwrite: bool,
        requires: Collection[str] = (),
    ) -> Path:
        """Write a file, completely or not at all.

        Args:
            path: The file; its name ends in ``.safetensors``.
            tensors: Dense tensors by name, on any device.
            header: A dataclass.
            overwrite: Whether an existing file may be replaced.
            requires: The features without which a reader would misread the header.

        Raises:
            CheckpointError: If the file exists or cannot be written, or contents cannot be stored.
            InvalidSetting: If the name of the file does not end in ``.safetensors``.
        """
        with whole_file(path, ".safetensors", overwrite=overwrite, error=CheckpointError) as temporary:
            stored = _separate(tensors)
            try:
                text = self.format.write(header, requires)
                content = save(stored, self._metadata(text, hash_tensors(stored)))
            except (KeyError, TypeError, ValueError, SafetensorError) as error:
                raise CheckpointError(
                    f"{path} cannot hold the {self.contents}: {error}; convert it, then save"
                ) from error
            with temporary.open("wb") as file:
                file.writelines(_canonical(content))
        return Path(path)

    def recognises(self, path: str | Path) -> bool:
        """Whether a file is of this kind, sound or not.

        Raises:
            CheckpointError: If it is missing, or no safetensors file.
        """
        with opened(path, self.writer) as file:
            return self.key in (file.metadata() or {})

    def header(self, kind: type[H], path: str | Path) -> H:
        """Read the header of a file, without its tensors.

        Args:
            kind: The dataclass of the header.
            path: The file.

        Raises:
            CheckpointError: If the file is missing, damaged, of another format version, or contains something else.
        """
        with opened(path, self.writer) as file:
            return self._header(kind, path, file.metadata() or {})

    def read(self, kind: type[H], path: str | Path, *, changed: bool = False) -> tuple[H, dict[str, Tensor]]:
        """Read a file: its header, and its tensors by name, on the CPU in memory of their own.

        Args:
            kind: The dataclass of the header.
            path: The file.
            changed: Whether the tensors may be others than those that were saved with the header.

        Raises:
            CheckpointError: If the file is missing, damaged, of another format version, or contains something else.
        """
        with opened(path, self.writer) as file:
            metadata = file.metadata() or {}
            header = self._header(kind, path, metadata)
            # Views have the bytes of the file; in a copy, every Boolean that is not 0 becomes 1.
            views = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  a file, not a dict
            if not changed and hash_tensors(views) != metadata[_TENSORS]:
                raise self.damaged(path, "its tensors do not match their checksum")
            return header, {name: view.clone() for name, view in views.items()}

    def damaged(self, path: str | Path, reason: object) -> CheckpointError:
        """The error for a file whose contents do not fit together."""
        return CheckpointError(f"{path} is damaged: {reason}. {self.format.advice}")

    def _metadata(self, text: str, tensors: str) -> dict[str, str]:
        return {self.key: text, _TENSORS: tensors, _SEAL: hashlib.sha256((tensors + text).encode()).hexdigest()}

    def _header(self, kind: type[H], path: str | Path, metadata: Mapping[str, str]) -> H:
        if self.key not in metadata:
            raise CheckpointError(
                f"{path} contains no {self.contents}, or is damaged; give a file that {self.writer} of this version "
                "wrote"
            )
        text = metadata[self.key]
        try:
            record = self.format.parsed(text, self.title)  # before the seal, which may differ in other versions
            if metadata != self._metadata(text, metadata.get(_TENSORS, "")):
                raise ValueError(f"its {self.title} does not match its checksum")
            return self.format.built(kind, record, self.title)
        except OtherFormat as error:
            raise CheckpointError(f"{path}: {error}") from error
        except ValueError as error:
            raise self.damaged(path, error) from error


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the names, types, shapes and bytes of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().to("cpu").contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def opened(path: str | Path, writer: str) -> Iterator[Any]:
    """Open a safetensors file for reading.

    Args:
        path: The file.
        writer: Name of the function that writes such files, for the error message.

    Raises:
        CheckpointError: If the file is missing, unreadable or damaged.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"there is no file {path}; give the path of a file that {writer} wrote")
    try:
        with safe_open(str(path), framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is truncated, unreadable or not a safetensors file ({error}); copy or save it again"
        ) from error


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU, none of which shares memory with another: safetensors refuses those."""
    found: dict[str, Tensor] = {}
    storages = set[int]()
    for name, tensor in tensors.items():
        stored = tensor.detach().to("cpu").contiguous()
        address = stored.untyped_storage().data_ptr()
        found[name] = stored.clone() if address in storages else stored
        storages.add(address)
    return found


def _canonical(content: bytes) -> list[bytes | memoryview]:
    """The parts of a safetensors file with its header in canonical JSON: safetensors writes metadata in any order."""
    end = _LENGTH + int.from_bytes(content[:_LENGTH], "little")
    entries = json.loads(content[_LENGTH:end])
    header = json.dumps(entries, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    header = header[:-1] + b" " * (-len(header) % _LENGTH) + b"}"  # readers ignore whatever follows the last brace
    return [len(header).to_bytes(_LENGTH, "little"), header, memoryview(content)[end:]]
