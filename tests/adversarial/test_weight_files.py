"""Damaged and hostile files of weights: they load whole, or an error of ours leaves the model as it was."""

import io
import pickle
import random
import resource
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from scionet.errors import CheckpointError, InvalidSetting
from scionet.files.safetensors_files import hash_tensors
from scionet.models.resnets import digits_cnn
from scionet.models.weight_files import load_weights
from scionet.network.calling import state_of

GIB = 2**30
KINDS = ["w.safetensors", "w.pth", "legacy.pt", "w.bin"]


@pytest.fixture(autouse=True)
def _memory() -> Iterator[None]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before < GIB


def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return digits_cnn().state_dict()


def write(path: Path) -> bytes:
    """The bytes of an honest file of each kind."""
    if path.suffix == ".safetensors":
        save_file(state(), path)
    else:
        torch.save(state(), path, _use_new_zipfile_serialization=not path.name.startswith("legacy"))
    return path.read_bytes()


def damaged(data: bytes, generator: random.Random) -> bytes:
    """Bytes with a flipped bit, a few other bytes, a cut, a doubled or a missing part; mostly near the ends."""
    changed = bytearray(data)
    edges = (generator.randrange(min(3000, len(data))), -1 - generator.randrange(min(6000, len(data))))
    at = generator.choice([*edges, generator.randrange(len(data))]) % len(data)
    kind = generator.randrange(5)
    if kind == 0:
        changed[at] ^= 1 << generator.randrange(8)
    elif kind == 1:
        changed[at : at + 8] = generator.randbytes(8)
    elif kind == 2:
        del changed[at:]
    elif kind == 3:
        del changed[at : at + generator.randrange(1, 200)]
    else:
        changed[at:at] = changed[at : at + generator.randrange(1, 200)]
    return bytes(changed)


@pytest.mark.parametrize("name", KINDS)
def test_damaged_files_load_or_are_refused(tmp_path: Path, name: str, fuzz_cases: int) -> None:
    honest, generator = write(tmp_path / name), random.Random(name)
    model, refused = digits_cnn(), 0
    for _ in range(fuzz_cases // 2):
        (tmp_path / name).write_bytes(damaged(honest, generator))
        before = hash_tensors(state_of(model))
        try:
            load_weights(model, tmp_path / name)
        except CheckpointError:
            refused += 1
            assert hash_tensors(state_of(model)) == before
    assert (
        refused > fuzz_cases / 10
    )  # the others changed a number in a tensor, and nothing tells that from another weight


class Calls:
    """An object whose unpickling calls a function."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@cache
def bomb() -> bytes:
    """A small archive of many zeros."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("w/data.pkl", b"\x80\x02}.")
        archive.writestr("w/data/0", bytes(2**26))
    return buffer.getvalue()


def nested(depth: int) -> Any:
    content: Any = torch.zeros(1)
    for _ in range(depth):
        content = {"state_dict": content}
    return content


def replaced(**tensors: Any) -> dict[str, Any]:
    return {**state(), **{name.replace("_", "."): tensor for name, tensor in tensors.items()}}


CLASSES = state()["linear.bias"].numel()
CONTENTS: dict[str, Callable[[], Any]] = {
    "nothing": dict,
    "None": lambda: None,
    "names that are numbers": lambda: {1: torch.zeros(1), "a": torch.zeros(1)},
    "names that are nothing": lambda: {None: torch.zeros(1), **state()},
    "deep": lambda: nested(50),
    "no tensors": lambda: replaced(linear_bias=[0.0] * CLASSES),
    "sparse": lambda: replaced(linear_bias=torch.zeros(CLASSES).to_sparse()),
    "quantised": lambda: replaced(linear_bias=torch.quantize_per_tensor(torch.zeros(CLASSES), 0.1, 0, torch.qint8)),
    "complex": lambda: replaced(linear_bias=torch.zeros(CLASSES, dtype=torch.complex64)),
    "integers": lambda: replaced(linear_bias=torch.zeros(CLASSES, dtype=torch.int64)),
    "booleans": lambda: replaced(linear_bias=torch.zeros(CLASSES, dtype=torch.bool)),
    "on no device": lambda: replaced(linear_bias=torch.zeros(CLASSES, device="meta")),
    "stretched": lambda: replaced(linear_bias=torch.zeros(1).expand(10**12)),
    "strange names": lambda: {**state(), "\x1b[2J\n" * 10: torch.zeros(1)},
    "long names": lambda: {**state(), "x" * 10**6: torch.zeros(1)},
    "a network": digits_cnn,
    "a call": lambda: OrderedDict(a=Calls(print, "sprung")),
    "an allocation": lambda: {"a": Calls(bytearray, 10**13)},
}


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.filterwarnings("ignore:.*torch.*quantize_per_tensor", "ignore:Sparse.*")
def test_contents_that_are_no_weights(tmp_path: Path, content: str, zipped: bool) -> None:
    torch.save(CONTENTS[content](), tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    model = digits_cnn()
    before = hash_tensors(state_of(model))
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, tmp_path / "w.pt")
    assert hash_tensors(state_of(model)) == before
    assert len(str(caught.value)) < 2000
    assert str(caught.value).isprintable()


FILES: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"weights\n" * 100,
    "a bomb": bomb,
    "an archive without members": lambda: b"PK\x05\x06" + bytes(18),
    "half a header": lambda: b"PK\x03\x04" + bytes(4),
    "plain pickle": lambda: pickle.dumps(state()),
    "a pickle of brackets": lambda: b"\x80\x02" + b"]" * 10**5 + b".",
    "a pickle of marks": lambda: b"\x80\x02" + b"(" * 10**6 + b"t" * 10**5 + b".",
    "a long text in a pickle": lambda: b"\x80\x02X\xff\xff\xff\x7f" + bytes(100),
    "a great header": lambda: (2**62).to_bytes(8, "little") + b"{}",
    "a nested header": lambda: (10**6).to_bytes(8, "little") + b"[" * 10**6,
    "a header that is a list": lambda: (2).to_bytes(8, "little") + b"[]",
}


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.bin"])
@pytest.mark.parametrize("content", FILES)
def test_files_that_hold_no_weights(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_bytes(FILES[content]())
    with pytest.raises(CheckpointError, match=r"give a \.safetensors file|does not fit|contains no state dict"):
        load_weights(digits_cnn(), tmp_path / name)


def test_compressed_archives_are_not_unpacked(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(bomb())
    with pytest.raises(CheckpointError, match="it is compressed"):
        load_weights(digits_cnn(), tmp_path / "w.pt")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_folders_hold_no_weights(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(CheckpointError, match="cannot read weights"):
        load_weights(digits_cnn(), tmp_path / name)


def test_a_storage_that_claims_to_be_huge(tmp_path: Path) -> None:
    data = write(tmp_path / "legacy.pt")
    assert b"FloatStorage" in data
    for size in (2**31 - 1, 2**20):
        old = state()["linear.bias"].numel()
        changed = data.replace(b"K" + bytes([old]), b"J" + size.to_bytes(4, "little"))
        assert changed != data
        (tmp_path / "legacy.pt").write_bytes(changed)
        with pytest.raises(CheckpointError):
            load_weights(digits_cnn(), tmp_path / "legacy.pt")


@pytest.mark.parametrize("make", [lambda: nn.LazyLinear(3), lambda: nn.Linear(2, 3, device="meta")])
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_models_without_memory_take_no_weights(tmp_path: Path, make: Callable[[], nn.Module]) -> None:
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "w.pt")
    with pytest.raises(InvalidSetting, match="without memory"):
        load_weights(make(), tmp_path / "w.pt")
