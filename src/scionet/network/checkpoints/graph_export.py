"""A network as an ONNX file or a torch.export program, checked against the network itself before the file is there."""

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
from scionet.network.surgery.cut import TOLERANCES

Run = Callable[[Batch], list[Tensor]]
"""Calls an exported network on a batch."""


@dataclass(frozen=True)
class Format:
    """A kind of file: how its name ends, how a program is written to it, and how it is run."""

    suffix: str
    write: Callable[[ExportedProgram, Path], None]
    runner: Callable[[Path], Run]


class ExportError(PruneError):
    """A network cannot be exported, or what was exported computes something else."""


@dataclass(frozen=True)
class ExportReport:
    """What was exported.

    Attributes:
        path: The file.
        size_bytes: Its size.
        batch_sizes: The batch sizes on which it was compared with the network; empty if it was not.
        difference: Largest difference to the network's outputs, relative to the largest output; None if not compared.
    """

    path: Path
    size_bytes: int
    batch_sizes: tuple[int, ...]
    difference: float | None

    def __str__(self) -> str:
        """The report for a person to read."""
        sizes = " and ".join(map(str, self.batch_sizes))
        checked = "not compared" if self.difference is None else f"equal to {self.difference:.1e} at batch size {sizes}"
        return f"{self.path}: {self.size_bytes / 1e6:,.2f} MB; {checked}"


def export_onnx(
    model: nn.Module,
    example_inputs: Batch,
    path: str | Path,
    *,
    dynamic_batch: bool = True,
    verify: bool = True,
    overwrite: bool = False,
) -> ExportReport:
    """Write a network in eval mode as one ONNX file. The model is left exactly as it was.

    Needs ``pip install 'scionet[export]'``.

    Args:
        model: The network, pruned or not.
        example_inputs: A tensor, a tuple of positional or a dict of keyword arguments.
        path: The file; its name ends in ``.onnx``.
        dynamic_batch: Whether the file takes batches of any size; otherwise only of that of the example.
        verify: Whether to run the file in onnxruntime and compare it with the network, on the example and, if the batch
            is dynamic, on another batch size.
        overwrite: Whether an existing file may be replaced.

    Raises:
        ExportError: If the network cannot be exported, the file cannot be written, or what it computes differs from
            the network by more than `surgery.TOLERANCES`. Then no file is written.
        InvalidSetting: If `path` does not end in ``.onnx``.
        MissingExtra: If a package is not installed.
    """
    with extra("export"):
        for package in ("onnx", "onnxscript", *(["onnxruntime"] if verify else [])):
            import_module(package)
    return _export(
        Format(".onnx", _write_onnx, _onnx_runner), model, example_inputs, path, dynamic_batch, verify, overwrite
    )


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

    To compare it, the file is loaded again by `torch.export.load`. Arguments and errors are those of `export_onnx`, but
    that no other package is needed and the name of the file ends in ``.pt2``.
    """
    return _export(
        Format(".pt2", _write_program, _program_runner), model, example_inputs, path, dynamic_batch, verify, overwrite
    )


def _export(
    kind: Format, model: nn.Module, example: Batch, path: str | Path, dynamic: bool, verify: bool, overwrite: bool
) -> ExportReport:
    """Trace the network, write the file and compare it."""
    sizes, difference = (), None
    with whole_file(path, kind.suffix, overwrite=overwrite, error=ExportError) as file:
        example = to_model(example, model)
        with undisturbed(model), _quiet(), _explained(model, "exported", dynamic):
            kind.write(_traced(model, example, dynamic), file)
        if verify:
            sizes = _checked_sizes(example_count(example), dynamic)
            with undisturbed(model), _quiet(), _explained(model, "run after the export", dynamic):
                difference = _largest_difference(model, kind.runner(file), [_resized(example, size) for size in sizes])
            _refuse_difference(model, difference)
    return ExportReport(Path(path), Path(path).stat().st_size, sizes, difference)


def _traced(model: nn.Module, example: Batch, dynamic: bool) -> ExportedProgram:
    """The network as a program; of a dynamic batch, two examples are traced at least: one would be taken for fixed."""
    batch = _resized(example, max(2, example_count(example))) if dynamic else example
    args, kwargs = as_arguments(batch)
    dims = _dynamic_dims(batch) if dynamic else None
    return torch.export.export(model, args, kwargs, dynamic_shapes=dims, strict=False)


def _checked_sizes(count: int, dynamic: bool) -> tuple[int, ...]:
    """The batch size of the example, and one that was not traced."""
    return (count, max(2, count) + 1) if dynamic else (count,)


def _largest_difference(model: nn.Module, run: Run, batches: Iterable[Batch]) -> float:
    """Of all outputs on all batches; not a number where an output is not."""
    differences = [_difference(list(tensors_of(call(model, batch))), run(batch)) for batch in batches]
    return float(torch.stack(differences).max())  # the maximum of a tensor keeps NaN, Python's own does not


def _refuse_difference(model: nn.Module, difference: float) -> None:
    """Compare with the tolerance of the model's type.

    Raises:
        ExportError: If the difference is larger, or not a number.
    """
    # not below that of float32: ONNX has its attributes (the epsilon of BatchNorm) in float32
    allowed = max(TOLERANCES.get(place_of(model)[1], max(TOLERANCES.values())), TOLERANCES[torch.float32])
    if not difference <= allowed:
        raise ExportError(
            f"the exported network differs from {type(model).__name__} by {difference:.2e} (relative; allowed "
            f"{allowed:.0e}); nothing was written. Try a newer torch or onnxruntime, and report the model"
        )


def _write_onnx(program: ExportedProgram, file: Path) -> None:
    """One file, weights included.

    Raises:
        ExportError: If the exporter gives up without an error.
    """
    converted = torch.onnx.export(program, dynamo=True, verbose=False)
    if converted is None:
        raise ExportError("the exporter of this torch made no program; upgrade torch")
    converted.save(file, external_data=False)


def _onnx_runner(file: Path) -> Run:
    """Calls an ONNX file by onnxruntime, on the CPU."""
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
    """By way of memory, so that a full disk is an OSError."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    file.write_bytes(buffer.getvalue())


def _program_runner(file: Path) -> Run:
    """Calls a program that was saved a moment ago."""
    module = torch.export.load(file).module()
    return lambda batch: list(tensors_of(call(module, batch)))


def _resized(batch: Batch, size: int) -> Batch:
    """The batch with another number of examples, by leaving out or repeating."""
    count = example_count(batch)
    rows = torch.arange(size) % count

    def resize(value: Any) -> Any:
        return value[rows.to(value.device)] if _has_batch(value, count) else value

    args, kwargs = as_arguments(batch)
    return {key: resize(value) for key, value in kwargs.items()} if kwargs else tuple(map(resize, args))


def _dynamic_dims(batch: Batch) -> Any:
    """The `dynamic_shapes` argument of torch.export: the first dimension of every tensor that has the batch there."""
    count, dim = example_count(batch), torch.export.Dim("batch")
    args, kwargs = as_arguments(batch)
    if kwargs:
        return {key: {0: dim} if _has_batch(value, count) else None for key, value in kwargs.items()}
    return tuple({0: dim} if _has_batch(value, count) else None for value in args)


def _has_batch(value: Any, count: int) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == count


def _difference(expected: list[Tensor], found: list[Tensor]) -> Tensor:
    """Largest difference of any output, relative to the largest entry of that output; infinite if shapes differ."""
    if [t.shape for t in expected] != [t.shape for t in found]:
        return torch.tensor(torch.inf, dtype=torch.float64)
    wide = [(a.cpu().to(torch.float64), b.cpu().to(torch.float64)) for a, b in zip(expected, found, strict=True)]
    tiny = torch.finfo(torch.float32).tiny
    return torch.stack([(a - b).abs().max() / a.abs().max().clamp_min(tiny) for a, b in wide]).max()


@contextmanager
def _quiet() -> Iterator[None]:
    """What the exporters print, log and warn about concerns their own developers."""
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
    """Errors of the exporters with what can be done about them.

    Raises:
        ExportError: For any error but those of writing, which tell what they are about themselves.
    """
    try:
        yield
    except (OSError, PruneError):
        raise
    except Exception as error:  # the exporters raise all kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        advice = "pass dynamic_batch=False if a batch size is written into it" if dynamic else "see the error above"
        raise ExportError(f"{type(model).__name__} cannot be {done}: {reason}; {advice}") from error
