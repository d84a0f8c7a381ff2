"""New initial weights for any network, as if it had just been built."""

import math

import torch
from torch import Tensor, nn

from scionet.errors import TrainingError
from scionet.modes import at_work
from scionet.torch_internals import BatchOrInstanceNormBase, ConvolutionBase

_NORMS = (BatchOrInstanceNormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@at_work()
def initialise(model: nn.Module, seed: int) -> None:
    """Give a network new initial weights, in place.

    Convolutions get N(0, 2 / (k² · C_out)) (He et al., ICCV 2015, by fan-out, as in the official code of Liu et al.,
    ICLR 2019); in a grouped convolution, C_out is that of one group. Biases of convolutions get 0. Norms get scale 1
    and shift 0, and their statistics are reset. All other modules are initialised by torch's `reset_parameters`.

    Args:
        model: The network, on any device.
        seed: Seed of the weights.

    Raises:
        TrainingError: If a module holds parameters itself and has no `reset_parameters`.
    """
    devices = sorted({t.device.index or 0 for t in model.parameters() if t.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(seed)
        for name, module in model.named_modules():
            _initialise_one(name, module)


def _initialise_one(name: str, module: nn.Module) -> None:
    reset = getattr(module, "reset_parameters", None)
    if isinstance(module, ConvolutionBase):
        fan_out = module.out_channels // module.groups * math.prod(module.kernel_size)
        module.weight.normal_(0, math.sqrt(2 / fan_out))
        if module.bias is not None:
            module.bias.zero_()
    elif isinstance(module, _NORMS) or callable(reset):
        reset()  # pyright: ignore[reportOptionalCall]
    elif next(module.parameters(recurse=False), None) is not None:
        raise TrainingError(
            f"{name or 'the network'} ({type(module).__name__}) holds parameters itself and has no "
            "reset_parameters, which new weights need; give it that method"
        )


def sparse_kaiming_(weight: Tensor, mask: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Initialise a masked convolution in place; the fan-out counts only weights that the mask keeps.

    N(0, 2 / n) with n = weights kept / input channels, times the mask (official code of Liu et al., ICLR 2019). If no
    weight is kept, all are 0.

    Args:
        weight: ``(out, in / groups, ...)``.
        mask: Boolean, of the same shape.
        generator: Generator of the random numbers.

    Raises:
        TrainingError: If the shapes differ.
    """
    if weight.shape != mask.shape:
        raise TrainingError(f"weight and mask must have one shape; given {tuple(weight.shape)} and {tuple(mask.shape)}")
    n_kept = int(mask.sum())
    with torch.no_grad():
        if not n_kept:
            return weight.zero_()
        return weight.normal_(0, math.sqrt(2 * weight.shape[1] / n_kept), generator=generator).mul_(mask)
