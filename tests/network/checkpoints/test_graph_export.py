import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from scionet.errors import InvalidSetting, MissingExtra
from scionet.files.safetensors_files import hash_tensors
from scionet.models.resnets import digits_cnn
from scionet.network.calling import state_of
from scionet.network.checkpoints.graph_export import ExportError, ExportReport, export_onnx, export_program
from scionet.network.discovery.discover import discover
from scionet.network.plan import Choice, Plan
from scionet.network.surgery.cut import cut

EXPORTS: dict[str, Callable[..., ExportReport]] = {".onnx": export_onnx, ".pt2": export_program}


class TransformerMLP(nn.Module):
    """LayerNorm, two linear maps, a residual sum; the scale is a second argument."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.up, self.down = nn.Linear(6, 16), nn.Linear(16, 6)

    def forward(self, tokens: Tensor, scale: Tensor, double: bool = False) -> dict[str, Tensor]:
        out = tokens + scale * self.down(functional.gelu(self.up(self.norm(tokens))))
        return {"out": 2 * out if double else out, "mean": out.mean(1)}


class FixedBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.reshape(2, 4))


def conv_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(6 * 16, 5)
    )


def pruned_net() -> nn.Module:
    model, example = conv_net(), torch.zeros(1, 3, 8, 8)
    plan = Plan((Choice("0", 8, (0, 2, 5), (1.0, 2.0, 1.0)), Choice("3", 6, (1, 4), (1.0, 1.0))))
    return cut(model, plan, discover(model, example))


@pytest.mark.parametrize("suffix", EXPORTS)
def test_pruned_network_is_exported_for_any_batch_size(
    suffix: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = pruned_net().train()
    model[1].eval()  # pyright: ignore[reportIndexIssue]
    frozen = next(model.parameters()).requires_grad_(False)
    training = [module.training for module in model.modules()]
    before, random = hash_tensors(state_of(model)), torch.get_rng_state()
    path = tmp_path / f"net{suffix}"

    report = EXPORTS[suffix](model, torch.randn(1, 3, 8, 8), path)

    assert report.path == path
    assert report.size_bytes == path.stat().st_size
    assert report.batch_sizes == (1, 3)
    assert report.difference is not None
    assert 0 <= report.difference < 1e-5
    assert "at batch size 1 and 3" in str(report)
    assert list(tmp_path.iterdir()) == [path]
    assert capfd.readouterr() == ("", "")
    assert hash_tensors(state_of(model)) == before
    assert [module.training for module in model.modules()] == training
    assert not frozen.requires_grad
    assert all(not module._forward_hooks for module in model.modules())
    assert not torch.equal(random, torch.get_rng_state())  # by the randn of this test
    torch.set_rng_state(random)
    torch.randn(1, 3, 8, 8)
    images = torch.randn(7, 3, 8, 8)
    with torch.no_grad():
        expected = model.eval()(images)
    torch.testing.assert_close(run(path, images), expected)


@pytest.mark.parametrize("constants", [False, True])
@pytest.mark.parametrize("suffix", EXPORTS)
def test_dropped_branches_leave_nothing_but_their_constants_in_the_graph(
    suffix: str, constants: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, example = digits_cnn().eval(), torch.randn(2, 1, 8, 8)
    sites = discover(model, example)
    dropped = {n: torch.randn(b.channels) if constants else None for n, b in sites.branches.items()}
    pruned = cut(model, Plan((), dropped=dropped), sites)
    path = tmp_path / f"net{suffix}"
    EXPORTS[suffix](pruned, example, path)
    images = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(run(path, images), pruned(images))
    if suffix == ".onnx":
        kinds = [node.op_type for node in onnx.load(path).graph.node]
        assert {kind: kinds.count(kind) for kind in ("Conv", "Add", "Expand")} == {"Conv": 3, "Add": 3, "Expand": 3}


def run(path: Path, images: Tensor) -> Tensor:
    if path.suffix == ".pt2":
        return torch.export.load(path).module()(images).detach()
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path)
    (output,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    return torch.from_numpy(output)


@pytest.mark.parametrize("suffix", EXPORTS)
def test_attention_with_fewer_heads(suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(2)
    model, tokens = nn.TransformerEncoderLayer(8, 4, 12, batch_first=True), torch.randn(2, 5, 8)
    plan = Plan((Choice("self_attn", 4, (0, 1, 3), (1.0, 1.0, 1.0)),))
    report = EXPORTS[suffix](cut(model, plan, discover(model, tokens)), tokens, tmp_path / f"net{suffix}")
    assert report.difference is not None
    assert report.difference < 1e-5


@pytest.mark.parametrize("suffix", EXPORTS)
def test_keyword_arguments_in_any_order_and_several_outputs(suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = TransformerMLP()
    inputs = {"scale": torch.rand(4, 3, 1), "tokens": torch.randn(4, 3, 6), "double": True}
    report = EXPORTS[suffix](model, inputs, tmp_path / f"net{suffix}")
    assert report.batch_sizes == (4, 5)
    assert report.difference is not None
    assert report.difference < 1e-5


@pytest.mark.parametrize("suffix", EXPORTS)
def test_batch_size_written_into_the_network(suffix: str, tmp_path: Path) -> None:
    path, example = tmp_path / f"net{suffix}", torch.randn(2, 4)
    with pytest.raises(ExportError, match=r"FixedBatch cannot be exported: .*; pass dynamic_batch=False"):
        EXPORTS[suffix](FixedBatch(), example, path)
    assert list(tmp_path.iterdir()) == []
    report = EXPORTS[suffix](FixedBatch(), example, path, dynamic_batch=False)
    assert report.batch_sizes == (2,)


@pytest.mark.parametrize("suffix", EXPORTS)
def test_double_precision_tuple_and_no_comparison(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"net{suffix}"
    inputs = (torch.randn(2, 3, 6), torch.ones(2, 1, 1))  # float32: they are given in the type of the network
    report = EXPORTS[suffix](TransformerMLP().double(), inputs, path, verify=False, dynamic_batch=False)
    assert (report.batch_sizes, report.difference) == ((), None)
    assert "not compared" in str(report)
    assert path.exists()


@pytest.mark.parametrize("suffix", EXPORTS)
def test_difference_is_noticed_and_nothing_written(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, path = pruned_net(), tmp_path / f"net{suffix}"
    path.write_bytes(b"old")
    true_export = torch.export.export

    monkeypatch.setattr(torch.export, "export", lambda model, *a, **kwargs: true_export(clipped(model), *a, **kwargs))
    with pytest.raises(ExportError, match=r"differs from Sequential by \d.*allowed 1e-04"):
        EXPORTS[suffix](model, torch.randn(2, 3, 8, 8), path, overwrite=True)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def clipped(model: nn.Module) -> nn.Module:
    return nn.Sequential(model, nn.Hardtanh(-1e-3, 1e-3)).eval()


@pytest.mark.parametrize("first", [True, False])
def test_not_a_number_in_any_output_is_a_difference(first: bool, tmp_path: Path) -> None:
    class Roots(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return (x.sqrt(), x) if first else (x, x.sqrt())

    with pytest.raises(ExportError, match="differs from Roots by nan"):
        export_program(Roots(), torch.tensor([[4.0], [-4.0]]), tmp_path / "net.pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_missing_package_is_named(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf"{package}.*pip install 'scionet\[export\]'"):
        export_onnx(conv_net(), torch.zeros(1, 3, 8, 8), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", EXPORTS)
def test_paths_are_refused_before_the_work(suffix: str, tmp_path: Path) -> None:
    class Untouchable(nn.Module):
        def forward(self, _: Tensor) -> Tensor:
            raise AssertionError("the network was run")

    def refused(path: Path, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            EXPORTS[suffix](Untouchable(), torch.zeros(1, 2), path)

    (tmp_path / f"old{suffix}").write_bytes(b"old")
    (tmp_path / f"folder{suffix}").mkdir()
    refused(tmp_path / "net.bin", InvalidSetting, f"must end in {suffix}")
    refused(tmp_path / f"old{suffix}", ExportError, "exists; .*overwrite=True")
    refused(tmp_path / f"folder{suffix}", ExportError, "is a folder")
    assert (tmp_path / f"old{suffix}").read_bytes() == b"old"


@pytest.mark.parametrize("suffix", EXPORTS)
def test_full_disk_leaves_the_old_file(suffix: str, tmp_path: Path) -> None:
    path, model = tmp_path / f"net{suffix}", nn.Sequential(nn.Flatten(), nn.Linear(300, 300))
    path.write_bytes(b"old")
    with files_up_to(100_000), pytest.raises(ExportError, match=f"cannot write .*net{suffix}: File too large"):
        EXPORTS[suffix](model, torch.randn(2, 300), path, overwrite=True, verify=False)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """The operating system refuses to write more bytes to a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_interruption_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        assert len(list(tmp_path.iterdir())) == 1  # the temporary file is there
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.export, "load", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export_program(conv_net(), torch.randn(2, 3, 8, 8), tmp_path / "net.pt2")
    assert list(tmp_path.iterdir()) == []
