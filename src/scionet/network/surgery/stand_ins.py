"""What stands in for the modules of a dropped branch: a constant for the last one, and modules that compute nothing.

Every module stays where it is, with its attributes and hooks: other modules may look at them. It loses its parameters,
buffers and submodules, and its class changes. So loading a file does the same to a new instance, whatever the forward
around it is.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scionet.network.branches import CONSTANT, Removal, StandIn
from scionet.network.calling import tensors_of
from scionet.torch_internals import own_buffers, own_parameters


class Skipped(nn.Module):
    """A module of a dropped branch, which computes nothing.

    The first ones of a branch return zeros of the branch's output's size, but with a single channel, for whatever the
    forward does before the end of the branch. Others pass these on.
    """

    stand_in: StandIn

    def forward(self, *args: object, **kwargs: object) -> object:
        """The zeros, in the form in which the original module returned its output."""
        return placed(self.signal(next(tensors_of((args, kwargs)))), self.stand_in)

    def signal(self, x: Tensor) -> Tensor:
        """The zeros; from the input of the branch, or passed on."""
        dim = self.stand_in.dim
        return x if dim is None else x.new_zeros(()).expand(self.sizes(x, 1)).clone(memory_format=layout_of(x))

    def sizes(self, x: Tensor, channels: int) -> list[int]:
        """The shape of the branch's output, with this number of channels."""
        sampling = self.stand_in.sampling or ((0, 1),) * x.ndim
        sizes = [-(-(size + added) // stride) for size, (added, stride) in zip(x.shape, sampling, strict=True)]
        return [channels if dim - x.ndim == self.stand_in.dim else size for dim, size in enumerate(sizes)]

    def extra_repr(self) -> str:
        """Nothing of the original module."""
        return ""


class Constant(Skipped):
    """The last module of a dropped branch: a constant for each channel, wherever and whatever the input is.

    The constant is a parameter where the branch's mean takes its place, and a buffer of zeros where nothing does.
    """

    constant: Tensor

    def reset_parameters(self) -> None:
        """As before any training: zeros."""
        with torch.no_grad():
            self.constant.zero_()

    def signal(self, x: Tensor) -> Tensor:
        """The constants in the shape of the branch's output, in memory of their own: sums are written into it."""
        assert self.stand_in.dim is not None
        values = self.constant.to(x.dtype).view(-1, *[1] * (-1 - self.stand_in.dim))
        return values.expand(self.sizes(x, len(self.constant))).clone(memory_format=layout_of(x))

    def extra_repr(self) -> str:
        """Number of channels, and whether they are trained."""
        return f"{len(self.constant)}{'' if isinstance(self.constant, nn.Parameter) else ', zero'}"


def placed(tensor: Tensor, stand_in: StandIn) -> object:
    """A tensor in the form in which a module returns its output."""
    if stand_in.place is None:
        return tensor
    position, length = stand_in.place
    return tuple(tensor if place == position else None for place in range(length))


def layout_of(x: Tensor) -> torch.memory_format:
    """Channels last for an image whose channels are the innermost dimension in memory."""
    return torch.channels_last if x.ndim == 4 and x.stride(1) == 1 else torch.contiguous_format


def stand_in_for(model: nn.Module, removal: Removal, constant: Tensor, *, trained: bool) -> None:
    """Drop a branch of a network, in place.

    Args:
        model: The network.
        removal: How the branch is removed.
        constant: What takes its place, for each channel of its output.
        trained: Whether that is a parameter.
    """
    for path, stand_in in removal.stand_ins.items():
        module = model.get_submodule(path)
        _empty(module)
        module.__class__ = Constant if path == removal.output else Skipped
        module.stand_in = stand_in  # type: ignore[assignment]
    output = model.get_submodule(removal.output)
    vars(output).pop(CONSTANT, None)
    if trained:
        output.register_parameter(CONSTANT, nn.Parameter(constant))
    else:
        output.register_buffer(CONSTANT, constant, persistent=False)
    for name in removal.loose:
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        one = torch.ones_like(module.get_parameter(leaf)[(slice(1),) * module.get_parameter(leaf).ndim])
        delattr(module, leaf)
        module.register_buffer(leaf, one.detach(), persistent=False)
    _leave_fast_path(model, list(removal.stand_ins))


def _empty(module: nn.Module) -> None:
    """Take parameters, buffers, submodules and other tensors out of a module; what asks for one finds None."""
    held = vars(module)
    held["_parameters"] = dict.fromkeys(own_parameters(module))
    held["_buffers"] = dict.fromkeys(own_buffers(module))
    held["_modules"] = dict.fromkeys(name for name, _ in module.named_children())
    for name in [name for name, value in held.items() if isinstance(value, Tensor)]:
        held[name] = None


def _leave_fast_path(model: nn.Module, paths: Sequence[str]) -> None:
    """Keep torch's transformer layers from their fused kernel, which would look for the weights of a dropped branch."""
    for path in paths:
        around = model.get_submodule(path.rpartition(".")[0])
        if isinstance(around, nn.TransformerEncoderLayer):
            around.activation_relu_or_gelu = 0
