"""The network and the machine that a latency table was measured on."""

import hashlib
import json
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from scionet.budget.latency.timing import clock_on
from scionet.errors import InvalidSetting
from scionet.machine import processor
from scionet.network.calling import Batch, as_arguments, tensors_of
from scionet.network.network import Network
from scionet.network.sites import Sites

_DECISIVE = ("network", "inputs", "dtype", "device")


@dataclass(frozen=True)
class Origin:
    """The network and the machine that a latency table was measured on. Contains no host name and no user name.

    Attributes:
        network: Hash of the names and shapes of the network's tensors and sites; weights do not matter.
        inputs: Types and shapes of the batch that the network was called on.
        dtype: Floating-point type of the network.
        device: Device that the network ran on.
        machine: Model of the processor.
        threads: Number of threads that torch used.
        torch: Version of torch.
        clock: Name of the clock in Python's module `time`; see `scionet.budget.latency.timing.clock_on`.
    """

    network: str
    inputs: str
    dtype: str
    device: str
    machine: str
    threads: int
    torch: str
    clock: str

    @classmethod
    def here(cls, network: Network, batch: Batch) -> "Origin":
        """Return the origin of a measurement on this machine with the current settings of torch.

        Args:
            network: The network.
            batch: The batch that it is called on, on its device.
        """
        device = network.device
        return cls(
            network=_hash(network.sites),
            inputs=", ".join(_form(tensor) for tensor in tensors_of(as_arguments(batch))),
            dtype=str(network.dtype).removeprefix("torch."),
            device=f"cuda {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type,
            machine=processor(),
            threads=torch.get_num_threads(),
            torch=torch.__version__,
            clock=clock_on(device).__name__,
        )

    def __str__(self) -> str:
        """The origin as readable text."""
        threads = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        return f"{self.inputs} on {self.device}, {self.machine}, {threads}, {self.clock}, torch {self.torch}"

    def check_serves(self, wanted: "Origin") -> None:
        """Refuse a table of another network, batch, type or device.

        Raises:
            InvalidSetting: If any of these differs; all differences are named.
        """
        mine, theirs = asdict(self), asdict(wanted)
        differences = [f"{name} {mine[name]}, now {theirs[name]}" for name in _DECISIVE if mine[name] != theirs[name]]
        if differences:
            raise InvalidSetting(
                f"the latency table was measured for another {'; another '.join(differences)}. Measure one for this "
                f"network with the same ignored_layers, batch and device"
            )


def _form(tensor: Tensor) -> str:
    shape = "x".join(map(str, tensor.shape))
    last = tensor.ndim == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)
    return f"{str(tensor.dtype).removeprefix('torch.')} {shape}{' channels_last' if last else ''}"


def _hash(sites: Sites) -> str:
    form = [dict(sites.shapes), {name: site.width for name, site in sites.items()}]
    return hashlib.sha256(json.dumps(form).encode()).hexdigest()
