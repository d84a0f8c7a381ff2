"""Forward passes of many batches that stop at every consumer, so that each consumer is solved with all of them.

A network is pruned from input to output. A consumer is solved from its inputs on *all* calibration batches, and the
following layers then get its new output. If every batch started again for each consumer, the number of layer calls
would grow with the square of the depth. Here every batch passes through the network once. Its forward pass stops at
each consumer, waits for all other batches, and continues with the output that the caller provides.

Two properties of the implementation follow from that:

- *Threads.* A pass must stop inside the `forward` of any module, which is code of the user. A generator cannot do that,
  because `forward` would have to yield. A thread can be blocked anywhere. Threads are used to suspend passes, not to
  run them in parallel. Exactly one of them runs at a time, so the results do not depend on their scheduling.
- *Spilling.* A suspended pass keeps its activations, and there is one pass per batch. Beyond a limit, activations are
  written to disk while their pass waits.
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
from torch import Tensor

from scionet.errors import CalibrationError, UnsupportedModel
from scionet.network.branches import Branch
from scionet.network.calling import Batch, tensors_of
from scionet.network.guard import bytes_of
from scionet.network.multiprocess import everywhere
from scionet.network.network import Network
from scionet.network.sites import Address
from scionet.torch_internals import DispatchMode, WeakTensorKeyDictionary, tree_map

_WEIGHT_ARGUMENT = {"convolution": 1, "addmm": 2, "mm": 1}
_BIAS_ARGUMENT = {"convolution": 2, "addmm": 0}
BRANCH = "branch"
"""The operation of a stop at the end of a dropped branch."""


@dataclass(frozen=True, eq=False, repr=False)
class Stop:
    """A consumer at which a forward pass waits, or the end of a dropped branch.

    Attributes:
        weight: Name of the consumer's weight, or of the branch.
        operation: Name of the tensor operation; `BRANCH` at the end of a branch.
        func: The operator.
        args: Its arguments, as the network called it.
        shortcut: The tensor that will be added to the (normalised) output, if it is already known.
    """

    weight: str
    operation: str
    func: Any
    args: tuple[Any, ...]
    shortcut: Tensor | None = None

    def __repr__(self) -> str:
        """The stop in one line, without its tensors."""
        return f"Stop({self.weight!r}, {self.operation}, inputs of shape {tuple(self.inputs.shape)})"

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
        """The consumer's own output minus the bias that the operation itself adds."""
        position = _BIAS_ARGUMENT.get(self.operation)
        bias = None if position is None else self.args[position]
        return (
            self.output
            if bias is None
            else self.output - bias.view([-1 if d == 1 else 1 for d in range(self.output.ndim)])
        )


class _Abandoned(BaseException):
    """Raised inside a suspended pass to end it. No `except Exception` of the network's code can catch it."""


class SuspendedPass:
    """One suspended forward pass, in a thread of its own.

    The caller and the thread take turns: `advance` sends an output to the thread and waits for its next stop, and the
    thread sends a stop and waits for an output. So only one of them runs at any time.

    Args:
        network: The network, in eval mode.
        batch: Its inputs, on its device.
        stops: Weights of the consumers to stop at, with the operation whose result is kept until then, if any.
        ends: Branches to stop at the end of.
    """

    def __init__(
        self, network: Network, batch: Batch, stops: Mapping[str, Address | None], ends: Iterable[Branch] = ()
    ) -> None:
        batch = _copied_inputs(batch)
        self._observer = _OperationObserver(self._pause, batch, stops, ends, network.names_by_address)
        self._outputs: SimpleQueue[Tensor | type[_Abandoned] | None] = SimpleQueue()
        self._events: SimpleQueue[Stop | BaseException | None] = SimpleQueue()
        self._stop: Stop | None = None
        self._spilled: _Spill | None = None
        # A daemon, so that a pass that nobody ends does not keep the interpreter from exiting. The number of torch's
        # threads is a setting of each thread: without it, this one would compute with another number.
        self._thread = threading.Thread(target=self._main, args=(network, batch, torch.get_num_threads()), daemon=True)

    def advance(self, answer: Tensor | None = None) -> Stop | None:
        """Continue to the next consumer, with `answer` as the output of the present one; None if the pass ends."""
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._outputs.put(answer)
        self._stop = None
        event = self._events.get()
        if isinstance(event, BaseException):
            raise event
        self._stop = event
        return event

    def abandon(self) -> None:
        """End the pass at its present stop."""
        if self._spilled is not None:
            self._spilled.close()
            self._spilled = None
        if self._thread.is_alive():
            self._outputs.put(_Abandoned)
            self._thread.join()

    def load(self) -> None:
        """Read spilled activations back into memory."""
        if self._spilled is not None:
            self._spilled.restore()
            self._spilled = None

    def hold_or_spill(self, allowed_bytes: float) -> int:
        """Keep the activations in memory if they fit, or spill them to disk.

        Returns:
            The bytes that stay in memory: 0 if the activations were spilled.
        """
        storages = self._observer.live_storages()
        if self._stop is not None and "output" in vars(self._stop):  # computed outside the pass, so not observed there
            storages.append(self._stop.output.untyped_storage())
        size = sum(storage.nbytes() for storage in storages)
        if size <= allowed_bytes:
            return size
        self._spilled = _Spill(storages)
        _trim_heap()
        return 0

    def _pause(self, stop: Stop) -> Tensor:
        self._events.put(stop)
        answer = self._outputs.get()
        if not isinstance(answer, Tensor):
            raise _Abandoned
        return answer

    def _main(self, network: Network, batch: Batch, threads: int) -> None:
        torch.set_num_threads(threads)
        try:
            with torch.no_grad(), self._observer:  # both are settings of the thread, too
                network.returned(batch)
            self._events.put(None)
        except _Abandoned:
            pass
        except BaseException as error:  # raised again in the caller's thread, which waits for an event
            self._events.put(error)


class _OperationObserver(DispatchMode):
    """Observes every operation of one pass: stops at consumers, keeps shortcuts, and knows which activations exist."""

    def __init__(
        self,
        pause: Callable[[Stop], Tensor],
        batch: Batch,
        stops: Mapping[str, Address | None],
        ends: Iterable[Branch],
        names: Mapping[int, str],
    ) -> None:
        super().__init__()
        self._pause, self._names = pause, names
        self._ends = {branch.address: branch.name for branch in ends}
        self._stops = {**stops, **{branch.name: branch.shortcut for branch in ends}}
        self._wanted = Counter(address for address in self._stops.values() if address is not None)
        self._saved: dict[Address, Tensor] = {}
        self._calls: Counter[str] = Counter()
        # Weak keys: an activation that the network has dropped must be freed, and is then no longer counted.
        self._own = WeakTensorKeyDictionary()
        self._add_own(tensors_of(batch), frozenset())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, or pause and take the caller's output if it is a consumer."""
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
        self._add_own(tensors_of(out), {tensor.untyped_storage().data_ptr() for tensor in inputs})
        if address in self._ends:
            made, branch = next(tensors_of(out)), self._ends[address]
            # In place: the module may go on with the tensor that it wrote to, or with a part of what is returned.
            made.copy_(self._pause(Stop(branch, BRANCH, torch.clone, (made,), self._shortcut_of(branch))))
        return out

    def _shortcut_of(self, weight: str) -> Tensor | None:
        """The saved shortcut of a consumer; released when its last consumer is reached."""
        wanted = self._stops[weight]
        if wanted is None:
            return None
        self._wanted[wanted] -= 1
        return self._saved.get(wanted) if self._wanted[wanted] > 0 else self._saved.pop(wanted, None)

    def _add_own(self, results: Iterable[Tensor], foreign: Collection[int]) -> None:
        """Register results whose storage this pass created.

        Views of parameters and constants share their storage with other passes, which would find it empty if this pass
        spilled it.

        Args:
            results: The results of an operation.
            foreign: Addresses of the storages of those of its inputs that this pass did not create.
        """
        for tensor in results:
            if tensor.untyped_storage().data_ptr() not in foreign:
                self._own[tensor] = True

    def live_storages(self) -> list[torch.UntypedStorage]:
        """The distinct storages that this pass created and that are still referred to."""
        return list({t.untyped_storage().data_ptr(): t.untyped_storage() for t in list(self._own.keys())}.values())


def _copied_inputs(batch: Batch) -> Batch:
    """A copy of the inputs, so that they can be spilled without emptying the caller's tensors.

    Images are copied in the channels-last format, in which convolutions are faster.
    """

    def copied(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.clone(memory_format=torch.channels_last if value.ndim == 4 else torch.preserve_format)

    return tree_map(copied, batch)


class _Spill:
    """The contents of storages in a temporary file, while the storages themselves are empty.

    The tensors are referred to from inside the suspended `forward`, where they cannot be replaced. So their storages
    are resized to 0 bytes, which frees the memory and leaves every tensor and view valid, and are filled again later.
    """

    def __init__(self, storages: list[torch.UntypedStorage]) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  open until `restore`
        self._sizes = [(storage, storage.nbytes()) for storage in storages]
        for storage, _ in self._sizes:
            # NumPy gets a copy: a storage whose memory an array shares cannot be resized.
            bytes_of(storage).to("cpu", copy=True).numpy().tofile(self._file)
            storage.resize_(0)

    def restore(self) -> None:
        """Read the contents back into the storages and close the file."""
        self._file.seek(0)
        for storage, size in self._sizes:
            storage.resize_(size)
            bytes_of(storage).copy_(torch.from_numpy(np.fromfile(self._file, dtype=np.uint8, count=size)))
        self.close()

    def close(self) -> None:
        """Close the file, which deletes it."""
        self._file.close()


def _trim_heap() -> None:
    """Return freed memory to the operating system.

    glibc gives every thread a heap of its own and keeps what is freed there for that thread. With one thread per batch,
    the memory of all spilled batches would stay with the process, although it is free.
    """
    with suppress(AttributeError, OSError):  # C libraries other than glibc have no malloc_trim
        ctypes.CDLL(None).malloc_trim(0)


class SuspendedPasses:
    """The suspended passes of all batches, which advance together from consumer to consumer.

    Each batch has a group of passes: one pass, or one of the dense and one of the pruned network.

    Args:
        groups: The passes of each batch.
        memory_bytes: Activations beyond this are spilled to disk.
        device: The network's device.
    """

    def __init__(self, groups: Iterable[tuple[SuspendedPass, ...]], memory_bytes: float, device: torch.device) -> None:
        self._coming = iter(groups)
        self._device = device
        self._memory_bytes = memory_bytes
        self._groups: list[tuple[SuspendedPass, ...]] = []
        self._stops: list[tuple[Stop, ...]] = []

    def step(
        self, answer: Callable[[tuple[Stop, ...]], Sequence[Tensor]], observe: Callable[[tuple[Stop, ...]], None]
    ) -> str | None:
        """Advance every pass to its next consumer.

        Args:
            answer: Returns the outputs of the present consumers of one batch, one for each of its passes.
            observe: Called with the next consumers of each batch.

        Returns:
            Name of the weight of the consumer at which all passes are now, or None at the end of the passes.

        Raises:
            CalibrationError: If there is no batch.
            UnsupportedModel: If the passes of different batches reach different consumers.
        """
        present, self._stops = self._stops, []
        weights: set[str | None] = set()
        held = 0
        for number, passes in enumerate(self._all_groups()):
            arrived = self._advance(passes, answer, present[number] if present else None)
            if present:
                present[number] = ()  # drop the last references to the activations of the previous stop
            weights |= {stop.weight if stop else None for stop in arrived}
            if len(weights) != 1:
                raise UnsupportedModel(
                    f"forward passes of different batches call different layers ({weights}); the network's control "
                    "flow depends on its data. Prune a part of the network without such control flow"
                )
            stops = tuple(stop for stop in arrived if stop is not None)
            self._stops.append(stops)
            if stops:
                observe(stops)
            held += sum(each.hold_or_spill(self._memory_bytes - held) for each in passes)
        if not present and not everywhere(bool(weights), self._device):
            raise CalibrationError(
                "the calibration data are empty; give an iterable of at least one batch of inputs (to every process, "
                "if there are several)"
            )
        return next(iter(weights))

    def end(self) -> None:
        """End all passes at their present stops."""
        for each in (each for passes in self._groups for each in passes):
            each.abandon()

    def _all_groups(self) -> Iterator[tuple[SuspendedPass, ...]]:
        """The passes of all batches. In the first step, a batch is read only when the one before it is suspended.

        So at most one batch of the caller's data is in memory, besides the activations within the limit.
        """
        yield from list(self._groups)
        for passes in self._coming:
            self._groups.append(passes)
            yield passes

    def _advance(
        self,
        passes: tuple[SuspendedPass, ...],
        answer: Callable[[tuple[Stop, ...]], Sequence[Tensor]],
        stops: tuple[Stop, ...] | None,
    ) -> list[Stop | None]:
        for each in passes:
            each.load()
        answers = answer(stops) if stops else [None] * len(passes)
        return [each.advance(given) for each, given in zip(passes, answers, strict=True)]


@contextmanager
def suspended_passes(
    network: Network,
    batches: Iterable[Batch],
    stops: Mapping[str, Address | None],
    passes_per_batch: int = 1,
    memory_bytes: float = 2 * 2**30,
) -> Iterator[SuspendedPasses]:
    """Suspended forward passes of a network in eval mode; all of them end when the context is left.

    Two passes of each batch, of the dense and of the pruned network, also stop at the ends of dropped branches.

    Args:
        network: The network.
        batches: Inputs.
        stops: Weights of the consumers to stop at, each with the operation whose result becomes `Stop.shortcut`.
        passes_per_batch: Number of passes of each batch: 1, or 2 for the dense and the pruned network.
        memory_bytes: Activations of suspended passes beyond this are spilled to disk.
    """
    placed = map(network.placed, batches)
    ends = [each.branch for each in network.dropped.values()] if passes_per_batch > 1 else []
    passes = SuspendedPasses(
        (tuple(SuspendedPass(network, batch, stops, ends) for _ in range(passes_per_batch)) for batch in placed),
        memory_bytes,
        network.device,
    )
    with network.as_plain_operations():
        try:
            yield passes
        finally:
            passes.end()
