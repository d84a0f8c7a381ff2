"""Save and load a network that was found: one sealed safetensors file with its architecture. No pickle."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from scionet.errors import CheckpointError, InvalidSetting
from scionet.files.safetensors_files import SealedFormat
from scionet.files.versioned import Format
from scionet.models.factory import FACTORIES
from scionet.models.untrusted import build_untrusted
from scionet.modes import plain_modes
from scionet.network.calling import state_of
from scionet.search.architecture import Architecture
from scionet.search.derived import derived
from scionet.training.averages import overwrite as overwrite_tensors

FOUND = SealedFormat(
    "scionet_searched", "searched network", "save_searched", Format(1, (), "Search the network again, and save it")
)


@dataclass(frozen=True)
class FoundHeader:
    """File header.

    Attributes:
        xchannels: See `Architecture`.
        xblocks: See `Architecture`.
        factory: Factory of the full network.
        arguments: Its arguments.
    """

    xchannels: tuple[int, ...]
    xblocks: tuple[int, ...]
    factory: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


def save_searched(
    path: str | Path,
    model: nn.Module,
    architecture: Architecture,
    factory: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    overwrite: bool = False,
) -> Path:
    """Save a network that was found, atomically.

    Args:
        path: The file; its name ends in ``.safetensors``.
        model: The network, such as `SearchResult.model`.
        architecture: Its widths and depths.
        factory: Factory of the full network, such as ``scionet:resnet20_projection``.
        arguments: Its arguments.
        overwrite: Whether an existing file may be replaced.

    Raises:
        CheckpointError: If the file exists or cannot be written.
        InvalidSetting: If its name does not end in ``.safetensors``.
    """
    header = FoundHeader(architecture.xchannels, architecture.xblocks, factory, arguments or {})
    return FOUND.save(path, state_of(model), header, overwrite=overwrite)


@plain_modes()
def load_searched(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """Load what `save_searched` wrote, onto the CPU.

    Args:
        path: The file.
        model: The full network, with any weights; it is not changed. Needed where it is of no factory of scionet: the
            file is not trusted to call others.

    Raises:
        CheckpointError: If the file is missing, damaged, of another format version, contains something else, or does
            not fit the network.
    """
    header, tensors = FOUND.read(FoundHeader, path)
    architecture = Architecture(header.xchannels, header.xblocks)
    source, _, name = header.factory.partition(":")

    def check(found: nn.Module) -> None:
        shapes = {key: tuple(tensor.shape) for key, tensor in state_of(found).items()}
        if shapes != {key: tuple(tensor.shape) for key, tensor in tensors.items()}:
            raise CheckpointError(f"the tensors in {path} are not those of its architecture; it is damaged")

    if model is not None:
        found = _narrowed(path, model, architecture)
    elif source == "scionet" and name in FACTORIES:
        arguments = {**header.arguments, "network": name, **architecture.arguments()}
        found = build_untrusted("scionet:searched", arguments, [tuple(t.shape) for t in tensors.values()], check)
    else:
        raise CheckpointError(
            f"{path} is of the factory {header.factory:.80}, which is none of scionet's; give model=, the full network"
        )
    check(found)
    overwrite_tensors(found, tensors)
    return found.eval()


def _narrowed(path: str | Path, model: nn.Module, architecture: Architecture) -> nn.Module:
    """The network of an architecture.

    Raises:
        CheckpointError: If it does not fit.
    """
    try:
        return derived(model, architecture)
    except InvalidSetting as error:
        raise CheckpointError(f"{path} is of another full network: {error}") from error
