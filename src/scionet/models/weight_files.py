"""Load weights from a file that may be damaged or hostile: nothing but tensors is unpickled, and no more is read."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from scionet.errors import CheckpointError, InvalidSetting
from scionet.escaping import beginning

_SHOWN = 4
_ZIP = b"PK\x03\x04"
_ADVICE = "give a .safetensors file, or one written by torch.save(model.state_dict(), path)"


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a state dict from a file into a model. If the file does not fit, the model is not modified.

    Args:
        model: The model, modified in place.
        path: A ``.safetensors`` file, or a file written by `torch.save` that contains the state dict, directly or under
            the key ``state_dict`` or ``model``. Only tensors are unpickled.

    Raises:
        CheckpointError: If the file cannot be read, contains more than tensors, or does not fit the model.
        InvalidSetting: If the model has tensors without memory.
    """
    load_tensors(model, _read(Path(path)), path)


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Load the tensors of a state dict into a model. If they do not fit, the model is not modified.

    Args:
        model: The model, modified in place.
        tensors: The tensors by name.
        path: The file that they are from, for the error message.

    Raises:
        CheckpointError: If names, shapes or types differ.
        InvalidSetting: If the model has tensors without memory.
    """
    expected = model.state_dict()
    if any(isinstance(tensor, Tensor) and (is_lazy(tensor) or tensor.is_meta) for tensor in expected.values()):
        raise InvalidSetting(
            "the model has tensors without memory (meta device or lazy layers); build it on a real device, and call a "
            "lazy one once, before its weights are loaded"
        )
    if found := _misfits(expected, tensors):
        raise CheckpointError(
            f"{path} does not fit {type(model).__name__} ({'; '.join(found)}); give a file with weights of this model"
        )
    model.load_state_dict(tensors)


def _misfits(expected: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> list[str]:
    """What the tensors of a file and those of a model differ in, in words."""
    both = [(key, expected[key], tensors[key]) for key in expected.keys() & tensors.keys()]
    pairs = [(key, old, new) for key, old, new in both if isinstance(old, Tensor)]
    faults = {
        "missing": expected.keys() - tensors.keys(),
        "unexpected": tensors.keys() - expected.keys(),
        "other shape": [key for key, old, new in pairs if old.shape != new.shape],
        "other type": [key for key, old, new in pairs if _kind(old) != _kind(new)],
    }
    return [f"{kind}: {_listed(keys)}" for kind, keys in faults.items() if keys]


def _kind(tensor: Tensor) -> tuple[bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex()


def _listed(names: Iterable[str]) -> str:
    """The first names in alphabetical order, as texts that can be printed."""
    return ", ".join(beginning(name) for name in sorted(names)[:_SHOWN])


def _read(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a file by name.

    Raises:
        CheckpointError: If the file cannot be read or contains anything else.
    """
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _unpickled(path)
    except Exception as error:  # what a damaged file raises is anyone's guess: KeyError, RuntimeError, UnicodeError ...
        reason = beginning(next(iter(str(error).splitlines()), "") or type(error).__name__)
        raise CheckpointError(f"cannot read weights from {path}: {reason}; {_ADVICE}") from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(map(_is_entry, content.keys(), content.values())):
        raise CheckpointError(f"{path} contains no state dict; save model.state_dict() and give that file")
    return dict(content)


def _is_entry(name: Any, value: Any) -> bool:
    """Whether this is a name and a tensor with numbers of its own: dense, not quantised, not on the meta device."""
    plain = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_nested
    return isinstance(name, str) and plain and not (value.is_quantized or value.is_meta)


def _unpickled(path: Path) -> Any:
    """The content of a file of `torch.save`, if that is tensors in plain containers.

    Raises:
        ValueError: If the file would unpack to more than its own size.
    """
    with path.open("rb") as file:
        archived = file.read(len(_ZIP)) == _ZIP  # what torch.load goes by; zipfile.is_zipfile goes by the end
    if archived:
        with ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > path.stat().st_size:
            raise ValueError("it is compressed, which torch.save never does, and may unpack to any size")
    return torch.load(path, map_location="cpu", weights_only=True)
