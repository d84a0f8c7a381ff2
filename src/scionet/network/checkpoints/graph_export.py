"""Export of a network to ONNX or to a torch.export program, which is compared with the network before it is kept."""

import io
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from scionet.errors import PruneError
from scionet.extras import extra
from scionet.files.atomic import whole_file
from scionet.network.calling import (
    Batch,
    as_arguments,
    call,
    example_count,
    place_of,
    tensors_of,
    to_model,
    undisturbed,
)
from scionet.network.guard import guarded
from scionet.network.surgery.verification import TOLERANCES

Run = Callable[[Batch], list[Tensor]]
"""Calls an exported network on a batch."""


@dataclass(frozen=True)
class GraphFormat:
    """A file format: the suffix of its files, and functions to write and to run a program."""

    suffix: str
    write: Callable[[ExportedProgram, Path], None]
    runner: Callable[[Path], Run]


class ExportError(PruneError):
    """A network cannot be exported, or the exported program computes something else."""


@dataclass(frozen=True)
class ExportReport:
    """The result of an export.

    Attributes:
        path: The file.
        size_bytes: Its size.
        batch_sizes: The batch sizes at which it was compared with the network; empty if it was not compared.
        difference: Largest difference from the network's outputs, relative to the largest output; None if not compared.
    """

    path: Path
    size_bytes: int
    batch_sizes: tuple[int, ...]
    difference: float | None

    def __str__(self) -> str:
        """The report in one line of text."""
        sizes = " and ".join(map(str, self.batch_sizes))
        checked = "not compared" if self.difference is None else f"equal to {self.difference:.1e} at batch size {sizes}"
        return f"{self.path}: {self.size_bytes / 1e6:,.2f} MB; {checked}"


@guarded
def export_onnx(
    model: nn.Module,
    example_inputs: Batch,
    path: str | Path,
    *,
    dynamic_batch: bool = True,
    verify: bool = True,
    overwrite: bool = False,
) -> ExportReport:
    """Write a network in eval mode to one ONNX file. The model is left exactly as it was.

    Needs ``pip install 'scionet[export]'``.

    Args:
        model: The network, pruned or not.
        example_inputs: A tensor, a tuple of positional or a dict of keyword arguments.
        path: The file; its name ends in ``.onnx``.
        dynamic_batch: Whether the program takes batches of any size, or only of the size of the example.
        verify: Whether to run the file in onnxruntime and compare it with the network: on the example and, if the batch
            is dynamic, on a batch of another size.
        overwrite: Whether an existing file may be replaced.

    Raises:
        ExportError: If the network cannot be exported, the file cannot be written, or its outputs
            differ from the network's by more than `scionet.network.surgery.cut.TOLERANCES`. No file is written then.
        InvalidSetting: If `path` does not end in ``.onnx``.
        MissingExtra: If a package is not installed.
    """
    with extra("export"):
        for package in ("onnx", "onnxscript", *(["onnxruntime"] if verify else [])):
            import_module(package)
    return _export(
        GraphFormat(".onnx", _write_onnx, _onnx_runner), model, example_inputs, path, dynamic_batch, verify, overwrite
    )


@guarded
def export_program(
    model: nn.Module,
    example_inputs: Batch,
    path: str | Path,
    *,
    dynamic_batch: bool = True,
    verify: bool = True,
    overwrite: bool = False,
) -> ExportReport:
    """Write a network in eval mode as a `torch.export` program (``.pt2``). The model is left exactly as it was.

    Arguments and errors are those of `export_onnx`, except that the name of the file ends in ``.pt2``. No other package
    is needed: for the comparison, the file is loaded by `torch.export.load`.
    """
    return _export(
        GraphFormat(".pt2", _write_program, _program_runner),
        model,
        example_inputs,
        path,
        dynamic_batch,
        verify,
        overwrite,
    )


def _export(
    file_format: GraphFormat,
    model: nn.Module,
    example: Batch,
    path: str | Path,
    dynamic: bool,
    verify: bool,
    overwrite: bool,
) -> ExportReport:
    """Trace the network, write the file and compare it with the network."""
    sizes, difference = (), None
    with whole_file(path, file_format.suffix, overwrite=overwrite, error=ExportError) as file:
        example = to_model(example, model)
        with undisturbed(model), _quiet(), _explained(model, "exported", dynamic):
            file_format.write(_traced(model, example, dynamic), file)
        if verify:
            sizes = _checked_sizes(example_count(example), dynamic)
            with undisturbed(model), _quiet(), _explained(model, "run after the export", dynamic):
                difference = _largest_difference(
                    model, file_format.runner(file), [_resized(example, size) for size in sizes]
                )
            _refuse_difference(model, difference)
    return ExportReport(Path(path), Path(path).stat().st_size, sizes, difference)


def _traced(model: nn.Module, example: Batch, dynamic: bool) -> ExportedProgram:
    """The network as a program.

    A dynamic batch is traced with at least two examples, since torch.export treats a size of 1 as fixed.
    """
    batch = _resized(example, max(2, example_count(example))) if dynamic else example
    args, kwargs = as_arguments(batch)
    dims = _dynamic_dims(batch) if dynamic else None
    return torch.export.export(model, args, kwargs, dynamic_shapes=dims, strict=False)


def _checked_sizes(count: int, dynamic: bool) -> tuple[int, ...]:
    """The batch size of the example and, if the batch is dynamic, a size that was not traced."""
    return (count, max(2, count) + 1) if dynamic else (count,)


def _largest_difference(model: nn.Module, run: Run, batches: Iterable[Batch]) -> float:
    """The largest relative difference of all outputs on all batches; NaN if an output is."""
    differences = [_difference(list(tensors_of(call(model, batch))), run(batch)) for batch in batches]
    return float(torch.stack(differences).max())  # Tensor.max propagates NaN; the built-in max does not


def _refuse_difference(model: nn.Module, difference: float) -> None:
    """Compare a difference with the tolerance of the model's type.

    Raises:
        ExportError: If the difference is larger, or NaN.
    """
    # At least the tolerance of float32: ONNX stores attributes (such as the epsilon of BatchNorm) in float32.
    allowed = max(TOLERANCES.get(place_of(model)[1], max(TOLERANCES.values())), TOLERANCES[torch.float32])
    if not difference <= allowed:
        raise ExportError(
            f"the exported network differs from {type(model).__name__} by {difference:.2e} (relative; allowed "
            f"{allowed:.0e}); nothing was written. Try a newer torch or onnxruntime, and report the model"
        )


def _write_onnx(program: ExportedProgram, file: Path) -> None:
    """Write an ONNX file that includes the weights.

    Raises:
        ExportError: If the exporter returns nothing.
    """
    converted = torch.onnx.export(program, dynamo=True, verbose=False)
    if converted is None:
        raise ExportError("the ONNX exporter of this version of torch returned no program; upgrade torch")
    converted.save(file, external_data=False)


def _onnx_runner(file: Path) -> Run:
    """A function that runs an ONNX file in onnxruntime on the CPU."""
    with extra("export"):
        runtime = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors only
    session = runtime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(batch: Batch) -> list[Tensor]:
        args, kwargs = as_arguments(batch)
        given = [kwargs[name] for name in names] if kwargs.keys() >= set(names) else tensors_of((args, kwargs))
        feed = {name: value.cpu().numpy() for name, value in zip(names, given, strict=True)}
        return [torch.from_numpy(found) for found in session.run(None, feed)]

    return run


def _write_program(program: ExportedProgram, file: Path) -> None:
    """Write a torch.export program. It is serialised in memory first, so that a full disk raises an OSError."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    file.write_bytes(buffer.getvalue())


def _program_runner(file: Path) -> Run:
    """A function that runs a saved torch.export program."""
    module = torch.export.load(file).module()
    return lambda batch: list(tensors_of(call(module, batch)))


def _resized(batch: Batch, size: int) -> Batch:
    """The batch with another number of examples, some of them left out or repeated."""
    count = example_count(batch)
    rows = torch.arange(size) % count

    def resize(value: Any) -> Any:
        return value[rows.to(value.device)] if _has_batch(value, count) else value

    args, kwargs = as_arguments(batch)
    return {key: resize(value) for key, value in kwargs.items()} if kwargs else tuple(map(resize, args))


def _dynamic_dims(batch: Batch) -> Any:
    """The `dynamic_shapes` of torch.export: dimension 0 of every tensor whose size there is the batch size."""
    count, dim = example_count(batch), torch.export.Dim("batch")
    args, kwargs = as_arguments(batch)
    if kwargs:
        return {key: {0: dim} if _has_batch(value, count) else None for key, value in kwargs.items()}
    return tuple({0: dim} if _has_batch(value, count) else None for value in args)


def _has_batch(value: Any, count: int) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == count


def _difference(expected: list[Tensor], found: list[Tensor]) -> Tensor:
    """The largest difference of any output, relative to the largest entry of that output; infinite if shapes differ."""
    if [t.shape for t in expected] != [t.shape for t in found]:
        return torch.tensor(torch.inf, dtype=torch.float64)
    wide = [(a.cpu().to(torch.float64), b.cpu().to(torch.float64)) for a, b in zip(expected, found, strict=True)]
    tiny = torch.finfo(torch.float32).tiny
    return torch.stack([(a - b).abs().max() / a.abs().max().clamp_min(tiny) for a, b in wide]).max()


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the output, logs and warnings of the exporters, which are meant for their developers."""
    disabled = logging.root.manager.disable
    logging.disable(max(disabled, logging.WARNING))
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextmanager
def _explained(model: nn.Module, done: str, dynamic: bool) -> Iterator[None]:
    """Turn errors of the exporters into errors that say what to do.

    Raises:
        ExportError: For any error except `OSError` and `PruneError`, whose messages are clear already.
    """
    try:
        yield
    except (OSError, PruneError):
        raise
    except Exception as error:  # the exporters raise errors of any type
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        advice = (
            "pass dynamic_batch=False if a batch size is written into its forward" if dynamic else "see the error above"
        )
        raise ExportError(f"{type(model).__name__} cannot be {done}: {reason}; {advice}") from error
