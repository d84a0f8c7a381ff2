"""Many forward passes, walked side by side and stopped at every consumer.

A network is pruned from input to output, and each consumer is solved on what *all* calibration images give there. So
that the images need not be passed anew for every consumer, each batch's forward pass runs in a thread of its own and
is suspended at each consumer until all batches are there; only one thread runs at a time. What the caller answers goes
on as the consumer's output. Activations of suspended passes beyond a limit wait on disk.
"""

import ctypes
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scionet.errors import CalibrationError, UnsupportedModel
from scionet.network.calling import (
    Batch,
    attention_unfused,
    call,
    data_addresses,
    place_of,
    tensors_of,
    to_model,
    undisturbed,
)
from scionet.network.multiprocess import everywhere
from scionet.network.sites import Address
from scionet.torch_internals import TorchDispatchMode, WeakTensorKeyDictionary, tree_map

_WEIGHT_ARGUMENT = {"convolution": 1, "addmm": 2, "mm": 1}
_BIAS_ARGUMENT = {"convolution": 2, "addmm": 0}


@dataclass(frozen=True, eq=False)
class Stop:
    """A consumer at which a forward pass waits.

    Attributes:
        weight: Name of the consumer's weight.
        operation: Name of the tensor operation.
        func: The operator.
        args: Its arguments, as the network called it.
        shortcut: What will be added to the (normalised) output, where that is known.
    """

    weight: str
    operation: str
    func: Any
    args: tuple[Any, ...]
    shortcut: Tensor | None = None

    @property
    def inputs(self) -> Tensor:
        """The consumer's input: ``(batch, channels, ...)`` of a convolution, ``(rows, channels)`` of a linear map."""
        return self.args[1] if self.operation == "addmm" else self.args[0]

    def run(self, weight: Tensor | None = None) -> Tensor:
        """The consumer's output, with another weight (in the stored layout) if one is given."""
        if weight is None:
            return self.func(*self.args)
        position = _WEIGHT_ARGUMENT[self.operation]
        args = list(self.args)
        args[position] = weight if self.operation == "convolution" else weight.t()
        return self.func(*args)

    @cached_property
    def output(self) -> Tensor:
        """The consumer's own output."""
        return self.run()

    @property
    def output_without_bias(self) -> Tensor:
        """The consumer's own output less the bias that the operation itself adds."""
        position = _BIAS_ARGUMENT.get(self.operation)
        bias = None if position is None else self.args[position]
        return (
            self.output
            if bias is None
            else self.output - bias.view([-1 if d == 1 else 1 for d in range(self.output.ndim)])
        )


class _Abandoned(BaseException):
    """Ends a suspended pass from inside."""


class SuspendedPass:
    """One suspended forward pass, in a thread of its own.

    Args:
        model: The network, in eval mode.
        batch: Its inputs, on its device.
        stops: Weights of the consumers to stop at, with the operation whose result is kept until then, if any.
        names: Names of the network's tensors by the address of their data.
    """

    def __init__(
        self, model: nn.Module, batch: Batch, stops: Mapping[str, Address | None], names: Mapping[int, str]
    ) -> None:
        batch = _private(batch)
        self._observer = _OperationObserver(self._pause, batch, stops, names)
        self._to_walk: SimpleQueue[Tensor | type[_Abandoned] | None] = SimpleQueue()
        self._to_caller: SimpleQueue[Stop | BaseException | None] = SimpleQueue()
        self._stop: Stop | None = None
        self._spilled: _Spill | None = None
        self._thread = threading.Thread(target=self._main, args=(model, batch, torch.get_num_threads()), daemon=True)

    def advance(self, answer: Tensor | None = None) -> Stop | None:
        """Go on to the next consumer, with `answer` as the output of the present one; None when the pass ends."""
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._to_walk.put(answer)
        self._stop = None
        event = self._to_caller.get()
        if isinstance(event, BaseException):
            raise event
        self._stop = event
        return event

    def abandon(self) -> None:
        """End the pass where it stands."""
        if self._spilled is not None:
            self._spilled.close()
            self._spilled = None
        if self._thread.is_alive():
            self._to_walk.put(_Abandoned)
            self._thread.join()

    def wake(self) -> None:
        """Have the activations in memory again."""
        if self._spilled is not None:
            self._spilled.restore()
            self._spilled = None

    def rest(self, allowed_bytes: float) -> int:
        """Bytes of activations that stay in memory while suspended; none if they are more than allowed."""
        storages = self._observer.live_storages()
        if self._stop is not None and "output" in vars(self._stop):
            storages.append(self._stop.output.untyped_storage())
        size = sum(storage.nbytes() for storage in storages)
        if size <= allowed_bytes:
            return size
        self._spilled = _Spill(storages)
        _give_back()
        return 0

    def _pause(self, stop: Stop) -> Tensor:
        self._to_caller.put(stop)
        answer = self._to_walk.get()
        if not isinstance(answer, Tensor):
            raise _Abandoned
        return answer

    def _main(self, model: nn.Module, batch: Batch, threads: int) -> None:
        torch.set_num_threads(threads)
        try:
            with torch.no_grad(), self._observer:
                call(model, batch)
            self._to_caller.put(None)
        except _Abandoned:
            pass
        except BaseException as error:  # raised again in the caller's thread
            self._to_caller.put(error)


class _OperationObserver(TorchDispatchMode):
    """Sees every operation of one pass: stops at consumers, keeps shortcuts, knows what is alive."""

    def __init__(
        self,
        pause: Callable[[Stop], Tensor],
        batch: Batch,
        stops: Mapping[str, Address | None],
        names: Mapping[int, str],
    ) -> None:
        super().__init__()
        self._pause, self._stops, self._names = pause, stops, names
        self._wanted = Counter(address for address in stops.values() if address is not None)
        self._saved: dict[Address, Tensor] = {}
        self._calls: Counter[str] = Counter()
        self._own = WeakTensorKeyDictionary()
        self._claim(tensors_of(batch), frozenset())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, or wait for the result if it is a consumer."""
        name = func.overloadpacket.__name__
        position = _WEIGHT_ARGUMENT.get(name)
        weight = self._names.get(args[position].data_ptr()) if position is not None else None
        if weight is not None and weight in self._stops:
            out = self._pause(Stop(weight, name, func, tuple(args), self._shortcut_of(weight)))
        else:
            out = func(*args, **(kwargs or {}))
        address = Address(name, self._calls[name])
        self._calls[name] += 1
        if address in self._wanted:
            self._saved[address] = next(tensors_of(out))
        inputs = [tensor for tensor in tensors_of((args, kwargs)) if tensor not in self._own]
        self._claim(tensors_of(out), {tensor.untyped_storage().data_ptr() for tensor in inputs})
        return out

    def _shortcut_of(self, weight: str) -> Tensor | None:
        """What was kept for a consumer; let go when the last consumer that wants it is there."""
        wanted = self._stops[weight]
        if wanted is None:
            return None
        self._wanted[wanted] -= 1
        return self._saved.get(wanted) if self._wanted[wanted] > 0 else self._saved.pop(wanted, None)

    def _claim(self, results: Iterable[Tensor], foreign: Collection[int]) -> None:
        """Note results whose memory this pass made; not views of parameters and constants, which others share."""
        for tensor in results:
            if tensor.untyped_storage().data_ptr() not in foreign:
                self._own[tensor] = True

    def live_storages(self) -> list[torch.UntypedStorage]:
        """The distinct storages that this pass made and something still refers to."""
        return list({t.untyped_storage().data_ptr(): t.untyped_storage() for t in list(self._own.keys())}.values())


def _private(batch: Batch) -> Batch:
    """A copy of the inputs, so that they may wait on disk like any activation; pictures in the faster memory format."""

    def copied(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.clone(memory_format=torch.channels_last if value.ndim == 4 else torch.preserve_format)

    return tree_map(copied, batch)


class _Spill:
    """Contents of storages in a temporary file; the storages themselves are empty meanwhile."""

    def __init__(self, storages: list[torch.UntypedStorage]) -> None:
        self._file = tempfile.TemporaryFile()
        self._sizes = [(storage, storage.nbytes()) for storage in storages]
        for storage, _ in self._sizes:
            # a copy: a storage that NumPy has seen cannot be resized
            _bytes_of(storage).to("cpu", copy=True).numpy().tofile(self._file)
            storage.resize_(0)

    def restore(self) -> None:
        """Put the contents back."""
        self._file.seek(0)
        for storage, size in self._sizes:
            storage.resize_(size)
            _bytes_of(storage).copy_(torch.from_numpy(np.fromfile(self._file, dtype=np.uint8, count=size)))
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def _give_back() -> None:
    """Hand freed memory back to the system: glibc keeps what a thread freed for that thread, and each walk has one."""
    with suppress(AttributeError, OSError):  # other C libraries have no such function
        ctypes.CDLL(None).malloc_trim(0)


def _bytes_of(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


class SuspendedPasses:
    """Ranks of walks, taken together from consumer to consumer.

    A rank is the walks of one batch: one walk, or the dense and the pruned one.
    """

    def __init__(self, ranks: Iterable[tuple[SuspendedPass, ...]], memory_bytes: float, device: torch.device) -> None:
        self._coming = iter(ranks)
        self._device = device
        self._memory_bytes = memory_bytes
        self._ranks: list[tuple[SuspendedPass, ...]] = []
        self._stops: list[tuple[Stop, ...]] = []

    def step(
        self, answer: Callable[[tuple[Stop, ...]], Sequence[Tensor]], observe: Callable[[tuple[Stop, ...]], None]
    ) -> str | None:
        """Take every walk to its next consumer.

        Args:
            answer: Outputs of the present consumers of one rank, one for each walk.
            observe: Called with the next consumers of each rank.

        Returns:
            The weight's name of the consumer at which all are now, or None at the end of the passes.

        Raises:
            CalibrationError: If there is no batch.
            UnsupportedModel: If the passes of different batches do not meet the same consumers.
        """
        present, self._stops = self._stops, []
        weights: set[str | None] = set()
        held = 0
        for number, walks in enumerate(self._all_ranks()):
            arrived = self._advance(walks, answer, present[number] if present else None)
            if present:
                present[number] = ()
            weights |= {stop.weight if stop else None for stop in arrived}
            if len(weights) != 1:
                raise UnsupportedModel(
                    f"forward passes of different batches call different layers ({weights}); the network's control "
                    "flow depends on its data. Prune the part without such control flow"
                )
            stops = tuple(stop for stop in arrived if stop is not None)
            self._stops.append(stops)
            if stops:
                observe(stops)
            held += sum(walk.rest(self._memory_bytes - held) for walk in walks)
        if not present and not everywhere(bool(weights), self._device):
            raise CalibrationError(
                "the calibration data are empty; give an iterable of at least one batch of inputs (to every process, "
                "if there are several)"
            )
        return next(iter(weights))

    def end(self) -> None:
        """End all passes where they stand."""
        for walk in (walk for walks in self._ranks for walk in walks):
            walk.abandon()

    def _all_ranks(self) -> Iterator[tuple[SuspendedPass, ...]]:
        """All ranks; in the first step each batch is taken up only when the one before it rests."""
        yield from list(self._ranks)
        for walks in self._coming:
            self._ranks.append(walks)
            yield walks

    def _advance(
        self,
        walks: tuple[SuspendedPass, ...],
        answer: Callable[[tuple[Stop, ...]], Sequence[Tensor]],
        stops: tuple[Stop, ...] | None,
    ) -> list[Stop | None]:
        for walk in walks:
            walk.wake()
        answers = answer(stops) if stops else [None] * len(walks)
        return [walk.advance(given) for walk, given in zip(walks, answers, strict=True)]


@contextmanager
def suspended_passes(
    model: nn.Module,
    batches: Iterable[Batch],
    stops: Mapping[str, Address | None],
    passes_per_batch: int = 1,
    memory_bytes: float = 2 * 2**30,
) -> Iterator[SuspendedPasses]:
    """Suspended forward passes of `model`, `passes_per_batch` of them for each batch, in eval mode; all end on leaving.

    Args:
        model: The network.
        batches: Inputs.
        stops: Weights of the consumers to stop at, with the operation whose result each stop brings along.
        passes_per_batch: Number of passes of each batch: 1, or 2 for a dense and a pruned one.
        memory_bytes: Activations of suspended passes beyond this wait on disk.
    """
    names = data_addresses(model)
    placed = (to_model(batch, model) for batch in batches)
    passes = SuspendedPasses(
        (tuple(SuspendedPass(model, batch, stops, names) for _ in range(passes_per_batch)) for batch in placed),
        memory_bytes,
        place_of(model)[0],
    )
    with undisturbed(model), attention_unfused():
        try:
            yield passes
        finally:
            passes.end()
