"""scionet export: writes a pruned network for other runtimes."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scionet.commands import networks
from scionet.commands.options import Export
from scionet.commands.output_files import check_writable
from scionet.commands.scoring import count
from scionet.commands.show import line
from scionet.errors import InvalidSetting
from scionet.network.calling import Batch
from scionet.network.checkpoints.checkpoint import recorded_inputs
from scionet.network.checkpoints.graph_export import export_onnx, export_program

WRITERS = {".onnx": (export_onnx, "onnxruntime"), ".pt2": (export_program, "torch.export")}


def run(command: Export) -> None:
    """Export, compare with the network itself, and print what was compared.

    Raises:
        PruneError: If something is wrong with what was given, or the exported network computes something else.
    """
    check_writable(command.to, command.overwrite, tuple(WRITERS))
    example = _example(command)
    kwargs = networks.keywords(command.model_args)
    model = networks.pruned(command.pruned, command.model, kwargs, command.trust_factory)
    write, runtime = WRITERS[command.to.suffix]
    report = write(model, example, command.to, overwrite=command.overwrite)
    line(f"written to {report.path}, {count(report.size_bytes)}B, for batches of any size")
    sizes = " and ".join(map(str, report.batch_sizes))
    line(f"checked: {runtime} and the network agree to {report.difference:.0e} on random inputs (batches of {sizes})")


def _example(command: Export) -> Batch:
    """Return random inputs of the given or recorded shape; zeros would hide differences.

    Raises:
        InvalidSetting: If there is no shape, or a size is not positive.
    """
    generator = torch.Generator().manual_seed(command.seed)
    shape = command.input_shape
    if shape is not None:
        if not shape or min(shape) < 1:
            raise InvalidSetting(f"an input shape is channels, height, width, such as 3 224 224; given {shape}")
        return torch.randn(2, *shape, generator=generator)
    recorded = recorded_inputs(command.pruned)
    if recorded is None:
        raise InvalidSetting(f"{command.pruned} records no input shape; give it, such as --input-shape 3 224 224")
    if isinstance(recorded, Mapping):
        return {key: _random(value, generator) for key, value in recorded.items()}
    return tuple(_random(value, generator) for value in recorded)


def _random(value: Any, generator: torch.Generator) -> Any:
    """Random normal numbers for floating-point inputs; integers stay 0, which is always a valid index."""
    if not isinstance(value, Tensor):
        return value
    if value.is_floating_point():
        return torch.randn(value.shape, generator=generator).to(value.dtype)
    return torch.zeros(value.shape, dtype=value.dtype)
