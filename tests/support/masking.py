"""A slow and obvious oracle for masks: the removed channels are zeroed in the tensors that the consumers receive."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from scionet.network.plan import Choice, Plan
from scionet.network.sites import Sites

Kept = Mapping[str, Sequence[int]]


def plan_of(sites: Sites, kept: Kept) -> Plan:
    """The plan that keeps these units of these sites, with weight one."""
    return Plan(
        tuple(Choice(name, sites[name].width, tuple(units), (1.0,) * len(units)) for name, units in kept.items())
    )


@contextmanager
def masked(model: nn.Module, sites: Sites, kept: Kept) -> Iterator[None]:
    """Inside, every consumer of the sites receives zeros in place of the channels of removed units."""
    masks: dict[str, Tensor] = {}
    for name, units in kept.items():
        for consumer in sites[name].consumers:
            mask = masks.setdefault(consumer, torch.ones(sites.shapes[consumer][1], dtype=torch.bool))
            for unit in set(range(sites[name].width)) - set(units):
                mask[sites[name].slot(consumer, 1).index[unit]] = False
    with ExitStack() as stack:
        for weight, mask in masks.items():
            stack.enter_context(_silenced(model.get_submodule(weight.rpartition(".")[0]), mask))
        yield


@contextmanager
def _silenced(module: nn.Module, mask: Tensor) -> Iterator[None]:
    if isinstance(module, NonDynamicallyQuantizableLinear):  # torch's attention takes its weight and does not call it
        whole = module.weight.detach().clone()
        module.weight.detach()[:, ~mask] = 0
        yield
        module.weight.detach().copy_(whole)
        return

    def before(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x, *rest = args
        shape = [-1] if isinstance(module, nn.Linear) else [-1, *[1] * (x.ndim - 2)]
        return (torch.where(mask.view(shape), x, 0.0), *rest)

    hook = module.register_forward_pre_hook(before)
    yield
    hook.remove()


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Float64, eval mode, and nothing degenerate.

    BatchNorm statistics and all other vectors are random, no layer scale is silent, and matrices and kernels keep the
    size of what they map (He et al., 2015), so that the first layers still matter at the output of a deep network.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor: Tensor, low: float, high: float) -> None:
        tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator, dtype=torch.float64))

    model = model.double().eval()
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            if name.endswith("running_mean"):
                tensor.copy_(0.5 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
            elif name.endswith("running_var"):
                uniform(tensor, 0.5, 2.0)
            elif tensor.squeeze().ndim <= 1:
                uniform(tensor, -0.5, 0.5) if name.endswith("bias") else uniform(tensor, 0.5, 1.5)
            else:
                deviation = (2 * len(tensor) / tensor.numel()) ** 0.5
                tensor.copy_(deviation * torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
    return model


def relative(first: Tensor, second: Tensor) -> float:
    """Largest difference, relative to the largest entry of the first."""
    return float((first - second).abs().max() / first.abs().max())
