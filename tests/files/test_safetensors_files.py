"""Sealed files: what is written is read, equal contents give equal bytes, and forged contents are refused."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from scionet.errors import CheckpointError, InvalidSetting
from scionet.files.safetensors_files import SealedFormat, hash_tensors
from scionet.files.versioned import Format

FORMAT = SealedFormat("toys_header", "toys", "play", Format(4, (), "Write it again"))


@dataclass(frozen=True)
class Header:
    name: str
    values: Mapping[str, Any]


HEADER = Header("näme", {"b": 1, "a": [None, 0.5]})
WHOLE = torch.arange(12.0).view(3, 4)
TENSORS: dict[str, Tensor] = {
    "part": WHOLE[1],
    "whole": WHOLE,
    "turned": WHOLE.t(),
    "again": WHOLE,
    "trained": torch.ones(2, requires_grad=True),
    "scalar": torch.tensor(3),
    "empty": torch.zeros(0, 2),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "mask": torch.tensor([True, False]),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return FORMAT.save(tmp_path / "toys.safetensors", TENSORS, HEADER, overwrite=False)


def test_what_is_written_is_read(file: Path) -> None:
    header, tensors = FORMAT.read(Header, file)
    assert header == HEADER == FORMAT.header(Header, file)
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        found = tensors[name]
        assert (found.dtype, found.requires_grad, found.is_contiguous()) == (tensor.dtype, False, True)
        assert torch.equal(found, tensor)
    assert len({tensor.data_ptr() for tensor in tensors.values() if tensor.numel()}) == len(TENSORS) - 1
    assert WHOLE.tolist() == torch.arange(12.0).view(3, 4).tolist()


def test_tensors_have_memory_of_their_own(file: Path) -> None:
    found = FORMAT.read(Header, file)[1]
    content = file.read_bytes()
    with file.open("r+b") as opened:  # the same file, which a mapping of it would show
        opened.write(bytes(len(content)))
    assert hash_tensors(found) == hash_tensors(TENSORS)


def test_equal_contents_give_equal_bytes(file: Path, tmp_path: Path) -> None:
    turned = Header(HEADER.name, HEADER.values)
    backwards = dict(reversed([*TENSORS.items()]))
    again = FORMAT.save(tmp_path / "again.safetensors", backwards, turned, overwrite=False)
    assert again.read_bytes() == file.read_bytes()
    length = int.from_bytes(file.read_bytes()[:8], "little")
    assert length % 8 == 0
    text = file.read_bytes()[8 : 8 + length].decode()
    assert json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False) == (
        text[:-1].rstrip() + "}"
    )


def forged(path: Path, header: str, tensors: dict[str, Tensor], **changes: str) -> Path:
    """A file with true checksums, of the tensors, and of these and the header, but for `changes`."""
    seal = hash_tensors(tensors)
    true = {
        "toys_header": header,
        "scionet_tensors_sha256": seal,
        "scionet_sha256": hashlib.sha256((seal + header).encode()).hexdigest(),
    }
    save_file(tensors, path, {key: value for key, value in {**true, **changes}.items() if value})
    return path


TRUE = '{"format_version": 4, "requires": [], "name": "a", "values": {}}'
FORGED: dict[str, tuple[str, dict[str, str], str]] = {
    "no version": (
        '{"name": "a", "values": {}}',
        {},
        "is damaged: header.format_version must be of type int; given None. Write it again",
    ),
    "a text as version": (TRUE.replace("4", '"4"'), {}, "format_version must be of type int; given '4'"),
    "a truth value as version": (TRUE.replace("4", "true"), {}, "must be of type int; given True"),
    "no object": ("[4]", {}, r"header must be of type dict; given \[4\]"),
    "an older version": (TRUE.replace("4", "3"), {}, r"has format version 3; this scionet reads 4. Write it again"),
    "a newer version": (TRUE.replace("4", "5"), {}, "has format version 5; .*: pip install -U scionet"),
    "an entry too many": (TRUE.replace("{}", '{}, "more": 1'), {}, r"features that this scionet does not know .'more'"),
    "an entry too few": ('{"format_version": 4, "requires": [], "name": "a"}', {}, "is damaged: .*values"),
    "no JSON": ("{", {}, "is damaged"),
    "another header": (TRUE, {"toys_header": TRUE.replace('"a"', '"b"')}, "header does not match its checksum"),
    "another seal": (TRUE, {"scionet_sha256": "0" * 64}, "header does not match its checksum"),
    "no seal": (TRUE, {"scionet_sha256": ""}, "header does not match its checksum"),
    "other tensors": (TRUE, {"scionet_tensors_sha256": "0" * 64}, "header does not match its checksum"),
    "no checksum of tensors": (TRUE, {"scionet_tensors_sha256": ""}, "header does not match its checksum"),
    "more metadata": (TRUE, {"more": "x"}, "header does not match its checksum"),
    "another kind": (
        TRUE,
        {"toys_header": ""},
        "contains no toys, or is damaged; give a file that play of this version wrote",
    ),
}


@pytest.mark.parametrize("case", FORGED)
def test_what_no_writer_of_ours_wrote_is_refused(case: str, tmp_path: Path) -> None:
    header, changes, message = FORGED[case]
    path = forged(tmp_path / "x.safetensors", header, {"a": torch.ones(2)}, **changes)
    for read in (FORMAT.header, FORMAT.read):
        with pytest.raises(CheckpointError, match=message):
            read(Header, path)


def test_tensors_that_were_exchanged_are_refused(file: Path, tmp_path: Path) -> None:
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    other = tmp_path / "other.safetensors"
    save_file({**FORMAT.read(Header, file)[1], "scalar": torch.tensor(4)}, other, metadata)
    assert FORMAT.header(Header, other) == HEADER
    with pytest.raises(CheckpointError, match=r"its tensors do not match their checksum\. Write it again"):
        FORMAT.read(Header, other)


def test_a_true_file_of_a_foreign_writer_is_read(tmp_path: Path) -> None:
    header, tensors = FORMAT.read(Header, forged(tmp_path / "x.safetensors", TRUE, {"a": torch.ones(2)}))
    assert header == Header("a", {})
    assert tensors["a"].tolist() == [1, 1]


def test_what_cannot_be_written_leaves_nothing(file: Path, tmp_path: Path) -> None:
    content = file.read_bytes()
    with pytest.raises(CheckpointError, match=r"exists; give another path, or overwrite=True"):
        FORMAT.save(file, {}, HEADER, overwrite=False)
    with pytest.raises(CheckpointError, match=r"cannot hold the toys: .*; convert it, then save"):
        FORMAT.save(file, {}, replace(HEADER, values={"a": object()}), overwrite=True)
    with pytest.raises(InvalidSetting, match=r"must end in \.safetensors"):
        FORMAT.save(tmp_path / "toys.pt", {}, HEADER, overwrite=True)
    with pytest.raises(CheckpointError, match=r"there is no file .*; give the path of a file that play wrote"):
        FORMAT.header(Header, tmp_path)
    assert file.read_bytes() == content
    assert [*tmp_path.iterdir()] == [file]


def test_names_types_shapes_and_bytes_count_in_a_hash() -> None:
    tensors = [
        {"a": torch.zeros(4)},
        {"b": torch.zeros(4)},
        {"a": torch.zeros(4, dtype=torch.int32)},
        {"a": torch.zeros(2, 2)},
        {"a": torch.tensor([0.0, 0, 0, -0.0])},
        {"a": torch.zeros(4), "b": torch.zeros(0)},
    ]
    assert len({hash_tensors(each) for each in tensors}) == len(tensors)
    assert hash_tensors({"b": WHOLE.t(), "a": WHOLE}) == hash_tensors({"a": WHOLE, "b": WHOLE.t().clone()})
