"""Networks for the commands, from the name of a factory, its arguments and a file of weights."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from scionet.commands.named_values import named_values
from scionet.commands.show import warn
from scionet.errors import InvalidSetting
from scionet.masks.sparse import load_sparse_
from scionet.masks.sparse_files import SPARSE, read_sparse
from scionet.masks.weight_masks import WeightMasks
from scionet.models.factory import FACTORIES, build
from scionet.models.weight_files import load_weights
from scionet.network.checkpoints.checkpoint import dense_network, load_pruned


def dense(factory: str, kwargs: Mapping[str, Any], weights: Path | None) -> nn.Module:
    """Make a network with its weights; warns if these are random.

    Raises:
        InvalidSetting: If the factory is unknown or does not take the arguments.
        MissingExtra: If its package is not installed.
        CheckpointError: If the weights cannot be read or do not fit.
    """
    if weights is not None and is_masked(weights):
        return masked(weights, factory, kwargs)[0]
    model = build(factory, **kwargs)
    if weights is not None:
        load_weights(model, weights)
    elif random_weights(factory, kwargs):
        warn(f"{factory} has RANDOM weights: what comes out is of no use but for a trial; give --weights FILE")
    return model


def pruned(path: Path, factory: str | None, kwargs: Mapping[str, Any], trust_factory: bool) -> nn.Module:
    """Load a pruned network from its file, ready to run.

    Args:
        path: The file.
        factory: Factory of the dense network; None takes the one that the file names.
        kwargs: Arguments of `factory`.
        trust_factory: Whether to run a function that the file names.

    Raises:
        CheckpointError: If the file cannot be read, is damaged or does not fit the factory.
    """
    instance = None if factory is None else build(factory, **kwargs)
    return load_pruned(path, instance, trust_factory=trust_factory).eval()


def is_masked(path: Path) -> bool:
    """Whether a file holds a network with masks, as `scionet mask` writes it.

    Raises:
        CheckpointError: If it is missing, or is called .safetensors and is none.
    """
    return path.suffix == ".safetensors" and SPARSE.recognises(path)


def masked(path: Path, factory: str | None, kwargs: Mapping[str, Any]) -> tuple[nn.Module, WeightMasks]:
    """Load a network with masks from its file: its weights, zeros included, and the masks.

    Raises:
        InvalidSetting: If there is no factory, or the file is of another network.
        CheckpointError: If the file cannot be read or is damaged.
    """
    if factory is None:
        raise InvalidSetting(f"{path} holds masked weights and names no network; give its --model, too")
    model = build(factory, **kwargs)
    return model, load_sparse_(model, read_sparse(path))


def teacher(
    path: Path, factory: str | None, kwargs: Mapping[str, Any], trust_factory: bool, weights: Path
) -> nn.Module:
    """Make the dense network of a pruned network's file, with its weights.

    Raises:
        CheckpointError: If a file cannot be read, or the weights do not fit.
    """
    model = dense_network(path, trust_factory=trust_factory) if factory is None else build(factory, **kwargs)
    load_weights(model, weights)
    return model


def without_weights(factory: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments to record. A pruned file has its own weights, so its factory must not download any."""
    registered = factory.startswith(("timm:", "torchvision:"))
    return {key: value for key, value in kwargs.items() if not (registered and key in ("pretrained", "weights"))}


def random_weights(factory: str, kwargs: Mapping[str, Any]) -> bool:
    """Whether a factory is known to leave the weights random. Nothing is known of a user's own function."""
    source, _, name = factory.partition(":")
    given = kwargs.get("pretrained") or kwargs.get("weights")
    if source == "scionet" and name in FACTORIES:
        pretrained = inspect.signature(FACTORIES[name]).parameters.get("pretrained")
        return not kwargs.get("pretrained", pretrained is not None and pretrained.default)
    return source in ("timm", "torchvision") and not given


def keywords(texts: Sequence[str]) -> dict[str, Any]:
    """Keyword arguments of a factory from texts ``NAME=VALUE``.

    Raises:
        InvalidSetting: If a text has no name or no value.
    """
    return named_values(texts, "an argument of the model", "num_classes=10")
