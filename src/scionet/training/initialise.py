"""New initial weights for any network, as if it had just been built."""

import math
from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from scionet.errors import TrainingError
from scionet.modes import at_work
from scionet.torch_internals import BatchOrInstanceNormBase, ConvolutionBase

_NORMS = (BatchOrInstanceNormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@at_work()
def initialise(model: nn.Module, seed: int, masks: Mapping[str, Tensor] = MappingProxyType({})) -> None:
    """Give a network new initial weights, in place.

    Convolutions get N(0, 2 / (k² · C_out)) (He et al., ICCV 2015, by fan-out, as in the official code of Liu et al.,
    ICLR 2019); in a grouped convolution, C_out is that of one group. Biases of convolutions get 0. Norms get scale 1
    and shift 0, and their statistics are reset. All other modules are initialised by torch's `reset_parameters`.

    With masks, the fans count only weights that are kept: the variance of a weight's kept entries is multiplied by its
    size / number of kept entries, and the others are 0. For a convolution that is N(0, 2 C_in / kept), the *mask-aware*
    initialisation of the official code. All masks true change nothing.

    Args:
        model: The network, on any device.
        seed: Seed of the weights.
        masks: Booleans by parameter name, true where a weight is kept. Parameters without a mask are whole.

    Raises:
        TrainingError: If a module holds parameters itself and has no `reset_parameters`, or a mask fits no parameter.
    """
    parameters = dict(model.named_parameters())
    _refuse_misfit(masks, parameters)
    devices = sorted({t.device.index or 0 for t in model.parameters() if t.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(seed)
        for name, module in model.named_modules():
            _initialise_one(name, module)
        for name, mask in masks.items():
            _thin(parameters[name], mask)


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


def _thin(weight: Tensor, mask: Tensor) -> None:
    """Keep the spread of sums in which only kept weights take part."""
    if kept := int(mask.count_nonzero()):
        weight.mul_(math.sqrt(mask.numel() / kept))
    weight.mul_(mask.to(weight.device))


def _refuse_misfit(masks: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
    """Compare masks with parameters.

    Raises:
        TrainingError: If a mask fits no parameter.
    """
    for name, mask in masks.items():
        if name not in parameters or parameters[name].shape != mask.shape:
            found = tuple(parameters[name].shape) if name in parameters else "no such parameter"
            raise TrainingError(
                f"the mask of {name!r} has the shape {tuple(mask.shape)}, the network has {found}; give masks that "
                "were made for this network"
            )
