"""The network of an architecture."""

from typing import Any

import torch
from torch import Tensor, nn

from scionet.models.searched import Chain, narrow_
from scionet.network.surgery.cut import copied
from scionet.search.architecture import Architecture
from scionet.search.supernet import Supernet
from scionet.training.initialise import initialise


def derived(model: nn.Module, architecture: Architecture, seed: int = 0, supernet: Supernet | None = None) -> nn.Module:
    """The network of an architecture.

    Args:
        model: The full network, which is not changed.
        architecture: Widths and depths.
        seed: Seed of new weights.
        supernet: A supernet of `model` whose weights it starts from. The 1 x 1 convolutions that it has where input and
            output of a block are unequally wide are not among them, and new.

    Raises:
        InvalidSetting: If the architecture does not fit the network.
        UnsupportedModel: If the network is no chain.
    """
    found = copied(model)
    narrow_(found, architecture.xchannels, architecture.xblocks)
    initialise(found, seed)
    if supernet is not None:
        weights = inherited(supernet, Chain.of(model), architecture)
        state = found.state_dict()
        with torch.no_grad():
            for name, tensor in weights.items():
                state[name].copy_(tensor)
    return found


def inherited(supernet: Supernet, chain: Chain, architecture: Architecture) -> dict[str, Tensor]:
    """The weights of a supernet that an architecture uses, by their names in its network."""
    network: Any = supernet.network
    found = _not_searched(network, chain)
    convs, widths, depths = iter(supernet.convs), iter(architecture.xchannels[1:]), iter(architecture.xblocks)
    channels = architecture.xchannels[0]
    for stage in chain.stages:
        depth = next(depths) if stage.residual else 1
        for number, block in enumerate(stage.blocks):
            own = [(layer, next(convs), next(widths)) for layer in block.layers]
            if number >= depth:
                continue
            before = channels
            for layer, conv, width in own:
                norm = conv.norms[conv.choices.index(width)]
                found |= _of_conv(layer.conv, conv.conv, width, channels)
                found |= {f"{layer.norm}.{name}": tensor for name, tensor in norm.state_dict().items()}
                channels = width
            if block.residual:
                shortcut = network.get_submodule(stage.name).blocks[number].shortcut
                found |= {} if shortcut is None else _of_conv(f"{block.name}.shortcut.1", shortcut, channels, before)
    head = network.get_submodule(chain.head).linear
    columns = channels * (head.in_features // supernet.space.layers[-1].width)
    found[f"{chain.head}.weight"] = head.weight[:, :columns]
    return found if head.bias is None else {**found, f"{chain.head}.bias": head.bias}


def _not_searched(network: nn.Module, chain: Chain) -> dict[str, Tensor]:
    """What is the same in the supernet and the network."""
    searched = {chain.head, *(stage.name for stage in chain.stages), *(layer.norm for layer in chain.layers)}
    return {n: t for n, t in network.state_dict().items() if not any(n.startswith(f"{each}.") for each in searched)}


def _of_conv(path: str, conv: nn.Conv2d, width: int, channels: int) -> dict[str, Tensor]:
    """The first filters of a convolution, with their first columns."""
    bias = {} if conv.bias is None else {f"{path}.bias": conv.bias[:width]}
    return {f"{path}.weight": conv.weight[:width, :channels], **bias}
