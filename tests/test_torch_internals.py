import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scionet import torch_internals

FOLDER = Path(__file__).parents[1] / "src" / "scionet"
SOURCES = sorted(set(FOLDER.rglob("*.py")) - {FOLDER / "torch_internals.py"})
UNDOCUMENTED = ("torch.utils.weak.", "torch.utils.flop_counter.flop_registry")
OF_TORCH = {name for thing in (nn.Module(), Tensor, torch, torch.utils, nn.modules.conv) for name in dir(thing)}


def private_names(tree: ast.AST) -> Iterator[str]:
    """What a program uses of torch without torch's promise that it stays."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == "torch":
            yield from filter(_unsafe, (f"{node.module}.{name.name}" for name in node.names))
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.startswith("torch.") and _unsafe(name.name))
        elif isinstance(node, ast.Attribute) and _unsafe(node.attr) and _is_of_torch(node):
            yield node.attr


def _is_of_torch(node: ast.Attribute) -> bool:
    """Whether an attribute is one of the module torch, or one that networks or tensors have and scionet's own lack."""
    root = ast.unparse(node).partition(".")[0]
    return root in ("torch", "nn") or (node.attr in OF_TORCH and root not in ("self", "cls"))


def _unsafe(name: str) -> bool:
    private = any(part.startswith("_") and not part.startswith("__") for part in name.split("."))
    return private or name.startswith(UNDOCUMENTED)


@pytest.mark.parametrize(
    "text",
    [
        "from torch.utils._pytree import tree_map",
        "from torch.nn.modules.conv import _ConvNd",
        "from torch.utils.weak import WeakTensorKeyDictionary",
        "from torch.utils.flop_counter import FlopCounterMode, flop_registry",
        "import torch._dynamo",
        "isinstance(module, nn.modules.batchnorm._BatchNorm)",
        "torch._C._something()",
        "module._buffers.items()",
        "next(modules)._parameters",
    ],
)
def test_private_names_are_found(text: str) -> None:
    assert list(private_names(ast.parse(text)))


def test_private_names_of_torch_stand_in_one_module() -> None:
    found = {path.name: list(private_names(ast.parse(path.read_text()))) for path in SOURCES}
    assert {name: names for name, names in found.items() if names} == {}


def test_they_have_public_names_there() -> None:
    assert not any(name.startswith("_") for name in torch_internals.__all__)
    assert all(getattr(torch_internals, name) is not None for name in torch_internals.__all__)


class Seen(torch_internals.DispatchMode):
    """Counts the operations of a pass."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_a_mode_sees_what_runs_also_beside_torchs_compiler() -> None:
    """Without code generation, so that no compiler is needed."""
    network, inputs = nn.Sequential(nn.Linear(3, 4), nn.ReLU()), torch.ones(2, 3)
    with torch.no_grad():
        with Seen() as plain:
            expected = network(inputs)
        compiled: Any = torch.compile(network, backend="aot_eager")
        compiled(inputs)
        with Seen() as beside:
            found = compiled(inputs)
    assert torch.equal(found, expected)
    assert plain.count == beside.count > 1


def test_registries_are_the_modules_own() -> None:
    module = nn.BatchNorm1d(3)
    scale = torch_internals.own_parameters(module).pop("weight")
    torch_internals.own_buffers(module)["running_mean"] = mean = torch.ones(3)
    assert [name for name, _ in module.named_parameters()] == ["bias"]
    assert isinstance(scale, nn.Parameter)
    assert module.running_mean is mean


@pytest.mark.parametrize(
    ("base", "kinds", "others"),
    [
        (torch_internals.ConvolutionBase, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d), (nn.Linear,)),
        (torch_internals.BatchNormBase, (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm), (nn.InstanceNorm2d,)),
        (torch_internals.BatchOrInstanceNormBase, (nn.BatchNorm3d, nn.InstanceNorm2d), (nn.LayerNorm, nn.GroupNorm)),
    ],
)
def test_base_classes_are_those_of_torchs_layers(base: type, kinds: tuple[type, ...], others: tuple[type, ...]) -> None:
    assert all(issubclass(kind, base) for kind in kinds)
    assert not any(issubclass(kind, base) for kind in others)
