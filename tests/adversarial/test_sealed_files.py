"""All files with tensors have one seal, one rule for versions and features, and canonical bytes."""

import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.pupils import QUICK, examples, learnt, plain
from support.sealed_files import header_of, key_of, metadata_of, reseal
from support.small_networks import image, residual

from scionet.bench.records.ledger import Payment
from scionet.bench.records.record import Outcome
from scionet.bench.runs.scored_masks import SELECTED, SelectionCost
from scionet.bench.runs.workspace import DENSE, DenseNote
from scionet.differentiable.channel_selector import SELECTORS, ChannelSelector
from scionet.errors import CheckpointError
from scionet.files.safetensors_files import SealedFormat
from scionet.masks.mask_files import MASKS, read_masks, write_masks
from scionet.masks.sparse import no_beta_warning
from scionet.masks.sparse_files import SPARSE, read_sparse, save_sparse
from scionet.models.resnets import digits_cnn
from scionet.network.checkpoints.checkpoint import load_pruned, save_pruned, save_tuned
from scionet.network.checkpoints.manifest import PRUNED
from scionet.pruning import PruneResult, prune
from scionet.search.architecture import Architecture
from scionet.search.derived import derived
from scionet.search.found_files import FOUND, load_searched, save_searched
from scionet.training.state import STATES, load_state


@cache
def pruned(times: int) -> PruneResult:
    before = residual().eval() if times == 1 else pruned(times - 1).model
    return prune(before, budget="params<=80%", example_inputs=image(), method="l1", progress=False)


def write_network(path: Path, times: int = 1) -> None:
    result = pruned(times)
    extra = {"b": [1, {"y": 1, "x": "é"}], "a": None}
    save_pruned(path, result.model, result.plan, result.sites, example_inputs=image(), extra=extra)


def write_state(path: Path) -> None:
    learnt(plain(), QUICK, data=examples(16), state_file=path, until=1)


def write_sparse(path: Path) -> None:
    with no_beta_warning():
        save_sparse(path, {"a": torch.eye(3).to_sparse(), "b": torch.eye(4).to_sparse_csr(), "c": torch.ones(2)})


def write_searched(path: Path) -> None:
    torch.manual_seed(0)
    narrow = Architecture((1, 4, *(6, 4), *(9, 9), *(19, 19)), (1, 1, 1))
    save_searched(path, derived(digits_cnn(), narrow), narrow, "scionet:digits_cnn")


FILES: dict[str, tuple[SealedFormat, Callable[[Path], Any], Callable[[Path], Any]]] = {
    "pruned network": (PRUNED, write_network, lambda path: load_pruned(path, residual)),
    "network pruned twice": (PRUNED, lambda path: write_network(path, 2), lambda path: load_pruned(path, residual)),
    "training": (STATES, write_state, load_state),
    "masks": (MASKS, lambda path: write_masks(path, {"b": torch.eye(3) > 0, "a": torch.eye(2) > 0}, False), read_masks),
    "sparse": (SPARSE, write_sparse, read_sparse),
    "dense": (
        DENSE,
        lambda path: DENSE.save(path, {"w": torch.ones(3)}, DenseNote(Outcome(1.0, 1, 1, 2)), overwrite=False),
        lambda path: DENSE.read(DenseNote, path),
    ),
    "chosen masks": (
        SELECTED,
        lambda path: SELECTED.save(
            path, {"w": torch.eye(3) > 0}, SelectionCost(Payment("selection", 1, 1.0, 1.0)), overwrite=False
        ),
        lambda path: SELECTED.read(SelectionCost, path),
    ),
    "searched network": (FOUND, write_searched, load_searched),
    "selector": (SELECTORS, lambda path: ChannelSelector(("norm", "size"), 3, 2).save(path), ChannelSelector.load),
}
Read = Callable[[Path], Any]


@pytest.fixture(params=FILES)
def sealed(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[SealedFormat, Path, Read]:
    """A kind of file, a file of it, and its reader."""
    kind, write, read = FILES[request.param]
    write(tmp_path / "file.safetensors")
    return kind, tmp_path / "file.safetensors", read


@pytest.mark.parametrize("name", FILES)
def test_the_same_contents_give_the_same_bytes(name: str, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.safetensors" for number in range(3)]
    for path in paths:
        FILES[name][1](path)
    assert len({path.read_bytes() for path in paths}) == 1


@pytest.mark.parametrize("times", [1, 2])
def test_a_loaded_network_is_saved_to_the_same_bytes(times: int, tmp_path: Path) -> None:
    path, again = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    write_network(path, times)
    save_tuned(again, load_pruned(path, residual), path)
    assert again.read_bytes() == path.read_bytes()


def test_one_changed_bit_is_refused(sealed: tuple[SealedFormat, Path, Read], fuzz_cases: int) -> None:
    _, path, read = sealed
    content, rng = path.read_bytes(), random.Random(0)
    end = 8 + int.from_bytes(content[:8], "little")
    for case in range(fuzz_cases // 5):
        damaged = bytearray(content)
        damaged[rng.randrange(*((0, end), (end, len(content)))[case % 2])] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"file\.safetensors"):
            read(path)
    path.write_bytes(content)
    read(path)


@pytest.mark.parametrize("sealed_again", [True, False])
def test_other_versions_and_features_are_refused(sealed: tuple[SealedFormat, Path, Read], sealed_again: bool) -> None:
    kind, path, read = sealed
    header = json.loads(header_of(path))
    newer, version = "pip install -U scionet", kind.format.version
    changes = [
        (
            {"format_version": version - 1},
            f"has format version {version - 1}; .* reads {version}. {kind.format.advice}",
        ),
        ({"format_version": version + 1, "new": 1}, f"has format version {version + 1}; .* reads {version}. .*{newer}"),
        ({"format_version": str(version)}, r"is damaged: \w+\.format_version must be of type int"),
    ]
    if sealed_again:
        changes += [({"requires": ["new"]}, f"'new'.*{newer}"), ({"section": 1}, f"'section'.*{newer}")]
    for change, message in changes:
        text = json.dumps({**header, **change})
        if sealed_again:
            reseal(path, kind.key, text)
        else:  # the seal of another version may be another
            save_file(load_file(path), path, {kind.key: text})
        with pytest.raises(CheckpointError, match=rf"file\.safetensors.*{message}"):
            read(path)


def test_files_of_other_kinds_are_refused(sealed: tuple[SealedFormat, Path, Read], tmp_path: Path) -> None:
    kind, path, read = sealed
    assert key_of(path) == kind.key
    for number, (other, write, _) in enumerate(FILES.values()):
        if other.key != kind.key:
            file = tmp_path / f"{number}.safetensors"
            write(file)
            with pytest.raises(CheckpointError, match=f"contains no {kind.contents}.* that {kind.writer} of this"):
                read(file)


def test_headers_with_more_metadata_are_refused(sealed: tuple[SealedFormat, Path, Read]) -> None:
    _, path, read = sealed
    save_file(load_file(path), path, {**metadata_of(path), "more": "text"})
    with pytest.raises(CheckpointError, match="does not match its checksum"):
        read(path)
