"""Headers of sealed files, and forged files whose checksums are right."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from scionet.files.safetensors_files import hash_tensors

SEAL, TENSORS = "scionet_sha256", "scionet_tensors_sha256"


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def key_of(path: Path) -> str:
    """The key of the header."""
    (key,) = metadata_of(path).keys() - {SEAL, TENSORS}
    return key


def header_of(path: Path) -> str:
    """The JSON text of the header."""
    return metadata_of(path)[key_of(path)]


def reseal(path: Path, key: str, text: str, tensors: Mapping[str, Tensor] | None = None) -> None:
    """Give a file another header, and other tensors if some are given, with the checksums that fit."""
    stored = load_file(path) if tensors is None else dict(tensors)
    tensor_hash = hash_tensors(stored)
    seal = hashlib.sha256((tensor_hash + text).encode("utf-8", "surrogatepass")).hexdigest()
    save_file(stored, path, {key: text, TENSORS: tensor_hash, SEAL: seal})
