"""Networks whose widths and depths are arguments: the form in which architecture search gives what it found.

A network is searched along a *chain*: stages of blocks, each block a convolution with BatchNorm, or a residual block of
two. Every convolution may have a width of its own. Where that makes input and output of a residual block unequal, the
block gains a 1 x 1 convolution on its shortcut.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from scionet.errors import InvalidSetting, UnsupportedModel
from scionet.models.resnets import Residual

_SUPPORTED = (
    "supported are chains of nn.Conv2d with BatchNorm2d (such as scionet:vgg16) and scionet's residual blocks (such as "
    "scionet:resnet20_projection), followed by linear layers"
)


@dataclass(frozen=True)
class Layer:
    """A convolution and the BatchNorm behind it, by their paths.

    Attributes:
        conv: Path of the convolution.
        norm: Path of the BatchNorm.
    """

    conv: str
    norm: str


@dataclass(frozen=True)
class Block:
    """What a stage can end behind.

    Attributes:
        name: Path of the residual block, or of the convolution.
        layers: Its convolutions in order.
        residual: Whether there is a shortcut around them.
    """

    name: str
    layers: tuple[Layer, ...]
    residual: bool


@dataclass(frozen=True)
class Stage:
    """Blocks of which the last ones can be left out.

    Attributes:
        name: Path of the module that holds the blocks.
        blocks: The blocks.
    """

    name: str
    blocks: tuple[Block, ...]

    @property
    def residual(self) -> bool:
        """Whether its depth is an entry of `xblocks`."""
        return self.blocks[0].residual


@dataclass(frozen=True)
class Chain:
    """What of a network can be searched.

    Attributes:
        stages: The stages, in the order in which they run.
        head: Path of the first linear layer.
    """

    stages: tuple[Stage, ...]
    head: str

    @classmethod
    def of(cls, model: nn.Module) -> "Chain":
        """The chain of a network, from its modules in the order in which they are registered.

        Raises:
            UnsupportedModel: If the network is no such chain.
        """
        found = list(_elements(model, ""))
        stages = tuple(each for each in found if isinstance(each, Stage))
        heads = [each for each in found if isinstance(each, str)]
        if not stages or not heads or any(isinstance(each, Stage) for each in found[found.index(heads[0]) :]):
            raise UnsupportedModel(
                f"{type(model).__name__} is no chain of convolutions that ends in linear layers; {_SUPPORTED}"
            )
        return cls(stages, heads[0])

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All convolutions in order."""
        return tuple(layer for stage in self.stages for block in stage.blocks for layer in block.layers)


def _elements(module: nn.Module, prefix: str) -> Iterator[Stage | str]:
    """Stages, and paths of linear layers.

    Raises:
        UnsupportedModel: If a module with parameters is none of those supported, or a convolution has no BatchNorm.
    """
    children = [(f"{prefix}{name}", child) for name, child in module.named_children()]
    behind: nn.Module | None = None
    for place, (path, child) in enumerate(children):
        if isinstance(child, Residual):
            yield Stage(path, (_residual(path),))
        elif isinstance(child, nn.Sequential) and len(child) and all(isinstance(each, Residual) for each in child):
            yield Stage(path, tuple(_residual(f"{path}.{index}") for index in range(len(child))))
        elif isinstance(child, nn.Conv2d):
            behind = _norm_behind(path, child, children[place + 1 : place + 2])
            yield Stage(path, (Block(path, (Layer(path, children[place + 1][0]),), False),))
        elif isinstance(child, nn.Linear):
            yield path
        elif child is behind or isinstance(child, nn.BatchNorm1d) or next(child.parameters(), None) is None:
            continue  # searched with its convolution, behind a hidden linear layer, or without weights
        elif next(child.parameters(recurse=False), None) is None:
            yield from _elements(child, f"{path}.")
        else:
            raise UnsupportedModel(f"{path} is a {type(child).__name__}, which is not searched; {_SUPPORTED}")


def _residual(path: str) -> Block:
    layers = tuple(Layer(f"{path}.conv{number}", f"{path}.bn{number}") for number in (1, 2))
    return Block(path, layers, True)


def _norm_behind(path: str, conv: nn.Conv2d, following: Sequence[tuple[str, nn.Module]]) -> nn.Module:
    """The BatchNorm behind a convolution.

    Raises:
        UnsupportedModel: If there is none, or the convolution is grouped.
    """
    if conv.groups > 1:
        raise UnsupportedModel(f"{path} is a grouped convolution, whose widths are not free; {_SUPPORTED}")
    if not following or not isinstance(following[0][1], nn.BatchNorm2d):
        raise UnsupportedModel(
            f"{path} has no BatchNorm2d registered behind it; every width needs a BatchNorm of its own; {_SUPPORTED}"
        )
    return following[0][1]


def shortcut_of(channels: int, width: int, stride: int) -> nn.Module:
    """The shortcut of a residual block of searched widths.

    At a stride, an average pool and a 1 x 1 convolution; otherwise nothing where the widths are equal, and a 1 x 1
    convolution with BatchNorm where they are not (Dong and Yang, NeurIPS 2019, official code).
    """
    if stride > 1:
        pool = nn.AvgPool2d(stride, stride, ceil_mode=True)
        return nn.Sequential(pool, nn.Conv2d(channels, width, 1, bias=False))
    if channels == width:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width))


def narrow_(model: nn.Module, xchannels: Sequence[int], xblocks: Sequence[int]) -> None:
    """Replace the modules of a network by narrower ones with new weights, and leave blocks out, in place.

    Raises:
        InvalidSetting: If widths or depths do not fit the network.
        UnsupportedModel: If the network is no chain of convolutions.
    """
    chain = Chain.of(model)
    refuse_misfit(model, chain, xchannels, xblocks)
    channels, *widths = xchannels
    of_layer = dict(zip(chain.layers, widths, strict=True))
    depths = iter(xblocks)
    last = 1
    for stage in chain.stages:
        depth = next(depths) if stage.residual else 1
        for block in stage.blocks[:depth]:
            last = int(_weight(model, block.layers[-1].conv).shape[0])
            _narrow_block(model, block, channels, [of_layer[layer] for layer in block.layers])
            channels = of_layer[block.layers[-1]]
        if depth < len(stage.blocks):
            replace_module(model, stage.name, model.get_submodule(stage.name)[:depth])  # type: ignore[index]
    head: Any = model.get_submodule(chain.head)
    narrow = nn.Linear(channels * (head.in_features // last), head.out_features, head.bias is not None)
    replace_module(model, chain.head, _placed(narrow, head.weight))


def _narrow_block(model: nn.Module, block: Block, channels: int, widths: Sequence[int]) -> None:
    """Replace one block."""
    if block.residual:
        old: Any = model.get_submodule(block.name)
        stride = old.conv1.stride[0]
        new = Residual(channels, widths[1], stride, shortcut_of(channels, widths[1], stride), widths[0])
        replace_module(model, block.name, _placed(new, old.conv1.weight))
        return
    (layer,), (width,) = block.layers, widths
    conv: Any = model.get_submodule(layer.conv)
    norm: Any = model.get_submodule(layer.norm)
    size = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, 1, conv.bias is not None, conv.padding_mode)
    replace_module(model, layer.conv, _placed(nn.Conv2d(channels, width, *size), conv.weight))
    replace_module(model, layer.norm, _placed(norm_like(norm, width), conv.weight))


def norm_like(norm: nn.BatchNorm2d, width: int) -> nn.BatchNorm2d:
    """A new BatchNorm with the settings of another."""
    return nn.BatchNorm2d(width, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)


def refuse_misfit(model: nn.Module, chain: Chain, xchannels: Sequence[int], xblocks: Sequence[int]) -> None:
    """Compare widths and depths with a network.

    Raises:
        InvalidSetting: If they do not fit.
    """
    full = [int(_weight(model, layer.conv).shape[0]) for layer in chain.layers]
    inputs = int(_weight(model, chain.layers[0].conv).shape[1])
    depths = [len(stage.blocks) for stage in chain.stages if stage.residual]
    if len(xchannels) != 1 + len(full) or len(xblocks) != len(depths):
        raise InvalidSetting(
            f"this network has {1 + len(full)} xchannels (the input's and one of each convolution) and {len(depths)} "
            f"xblocks (one of each stage of residual blocks); given {len(xchannels)} and {len(xblocks)}"
        )
    if xchannels[0] != inputs:
        raise InvalidSetting(f"xchannels must begin with the channels of the input, {inputs}; given {xchannels[0]}")
    pairs = [*zip(xchannels[1:], full, strict=True), *zip(xblocks, depths, strict=True)]
    if wrong := [f"{given!r} of {most}" for given, most in pairs if type(given) is not int or not 1 <= given <= most]:
        raise InvalidSetting(
            f"widths and numbers of blocks must be whole numbers from 1 to those of the full network; given "
            f"{', '.join(wrong[:6])}"
        )


def replace_module(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module in the place of another."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def _placed(module: nn.Module, like: Tensor) -> nn.Module:
    """A module on the device and in the type of a tensor."""
    return module.to(like.device, like.dtype)


def _weight(model: nn.Module, path: str) -> Tensor:
    weight = model.get_submodule(path).weight
    assert isinstance(weight, Tensor), "a convolution has a weight"
    return weight
