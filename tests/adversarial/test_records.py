"""Hostile records, tables, headers and configurations: a value that can be used, or an error that names the file."""

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.made_up_records import all_records, spec
from support.mutations import mutated, mutated_toml
from support.sealed_files import header_of, key_of, reseal
from support.small_networks import chain, image

from scionet.bench.experiment.experiment import Experiment
from scionet.bench.records.failures import Failure, load_failure, save_failure
from scionet.bench.records.record import RunRecord, load, save
from scionet.bench.records.record_files import RecordError, write_text
from scionet.bench.records.store import load_all
from scionet.budget.latency.table import LatencyTable
from scionet.commands import config
from scionet.commands.options import Prune
from scionet.commands.pictures import ImageSample, PictureRecord, record_of
from scionet.data.images import Preprocessing
from scionet.differentiable.channel_selector import ChannelSelector
from scionet.errors import InvalidSetting, PruneError
from scionet.files.json_dataclasses import build, plain, to_json
from scionet.files.toml_files import read_toml
from scionet.masks.mask_files import read_masks, write_masks
from scionet.masks.sparse_files import read_sparse, save_sparse
from scionet.network.checkpoints.checkpoint import save_pruned
from scionet.network.discovery.discover import discover
from scionet.pruning import prune
from scionet.training.recipes import Recipe

CONFIGS = Path(__file__).parents[2] / "benchmarks" / "configs"


def outcome(read: Callable[[Path], Any], path: Path) -> Any:
    """What a reader returns; None after an error of ours, which names the file."""
    try:
        return read(path)
    except PruneError as error:
        text = str(error)
    assert str(path) in text
    assert len(text) < 4000
    return None


@cache
def a_record() -> str:
    return all_records(1)[0].to_json()


@cache
def a_table() -> LatencyTable:
    model = chain().eval()
    return LatencyTable.measure(model, image(), discover(model, image()), repeats=1, warmup=0)


def use_table(path: Path) -> Any:
    table = LatencyTable.load(path)
    widths = np.array([width for _, width in table.sites])
    return str(table), table.surfaces.evaluate(widths)


def use_record(path: Path) -> str:
    found = load(path)
    assert RunRecord.from_json(found.to_json()) == found
    return found.to_json()


def with_text(value: Any, text: str) -> Iterator[Any]:
    """JSON with another text in place of one of its texts: of each in turn."""
    if isinstance(value, str):
        yield text
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from ({**value, key: other} for other in with_text(item, text))
    elif isinstance(value, list):
        for index, item in enumerate(value[:2]):
            yield from ([*value[:index], other, *value[index + 1 :]] for other in with_text(item, text))


def test_records_with_texts_that_are_not_unicode_are_refused_when_they_are_written(tmp_path: Path) -> None:
    record = json.loads(a_record())
    record = {**record, "notes": ["note"], "spec": {**record["spec"], "settings": {"list": ["text"]}}}
    del record["format"]
    refused = 0
    for changed in with_text(record, "half a pair: \ud800"):
        with pytest.raises(RecordError, match="lone surrogate"):
            save(build(RunRecord, changed), tmp_path / "records")
        refused += 1
    assert refused > 15
    assert not (tmp_path / "records").exists()
    with pytest.raises(RecordError, match="not Unicode text"):
        write_text(tmp_path / "page.md", "\ud800")


def test_failures_are_recorded_whatever_their_texts_hold(tmp_path: Path) -> None:
    """The name of a file that is no Unicode text stands in the message of an error."""
    path = save_failure(Failure(spec(), "OSError", "no file \udcff", 'in "\ud800"\nOSError'), tmp_path)
    found = load_failure(path)
    assert (found.reason, found.trace) == ("no file \\udcff", 'in "\\ud800"\nOSError')


JSON_FILES: dict[str, tuple[Callable[[], str], Callable[[Path], Any]]] = {
    "record": (a_record, use_record),
    "folder of records": (a_record, load_all),
    "failure": (lambda: to_json(Failure(spec(), "ValueError", "why", "trace")), load_failure),
    "latency table": (lambda: to_json({"format": 1, **plain(a_table())}), use_table),
}


@pytest.mark.parametrize("name", JSON_FILES)
def test_json_files(name: str, tmp_path: Path, fuzz_cases: int) -> None:
    make, read = JSON_FILES[name]
    text, path = make(), tmp_path / "file.json"
    for case in range(fuzz_cases):
        path.write_text(mutated(text, random.Random(case)), encoding="utf-8", errors="surrogatepass")
        outcome(read, path)
    path.write_bytes(b'{"a": "\xff"}')
    assert outcome(read, path) is None
    path.write_text(text)
    assert outcome(read, path)


def test_archives_with_a_fitting_checksum(tmp_path: Path, fuzz_cases: int) -> None:
    path, text = tmp_path / "runs.jsonl", a_record()
    for case in range(fuzz_cases):
        rng = random.Random(case)
        line = mutated(text, rng).replace("\n", " ")
        head = {"count": 1, "format": 1, "kind": "scionet records", "sha256": sha256(f"{line}\n")}
        header = mutated(json.dumps(head), rng).replace("\n", " ") if case % 3 == 0 else json.dumps(head)
        path.write_text(f"{header}\n{line}\n", encoding="utf-8")
        outcome(load_all, path)


def masks_file(path: Path) -> None:
    write_masks(path, {"a": torch.tensor([True, False]), "b": torch.ones(2, 2, dtype=torch.bool)}, overwrite=False)


def sparse_file(path: Path) -> None:
    save_sparse(path, {"a": torch.eye(3).to_sparse(), "b": torch.ones(2)})


def selector_file(path: Path) -> None:
    ChannelSelector(("norm", "gradient"), 3, 2).save(path)


HEADERS: dict[str, tuple[Callable[[Path], None], Callable[[Path], Any]]] = {
    "masks": (masks_file, read_masks),
    "sparse": (sparse_file, read_sparse),
    "selector": (selector_file, ChannelSelector.load),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_of_tensors(name: str, tmp_path: Path, fuzz_cases: int) -> None:
    write, read = HEADERS[name]
    path = tmp_path / "file.safetensors"
    write(path)
    key, text, tensors = key_of(path), header_of(path), load_file(path)
    for case in range(fuzz_cases):
        reseal(path, key, mutated(text, random.Random(case)), tensors)
        outcome(read, path)


def test_records_of_pictures(tmp_path: Path, fuzz_cases: int) -> None:
    pictures = PictureRecord(Preprocessing(), (ImageSample("train", 3, 0, "a" * 64, "b" * 64),))
    result = prune(chain().eval(), budget="params<=80%", example_inputs=image(), method="l1")
    path, text = tmp_path / "net.safetensors", to_json(plain(pictures))
    for case in range(fuzz_cases):
        try:
            content = json.loads(mutated(text, random.Random(case)))
            extra = {"pictures": content}
            save_pruned(path, result.model, result.plan, result.sites, extra=extra, overwrite=True)
        except (ValueError, RecursionError):  # not JSON, or an extra that is not saved
            continue
        outcome(record_of, path)


def read_experiment(path: Path) -> Any:
    return [*Experiment.read(path).trials()]


def read_config(path: Path) -> Any:
    return [*config.arguments(read_toml(path, InvalidSetting), Prune, Recipe, str(path))]


CONFIG = """
model = "timm:resnet18"
budget = "macs<=50%"
round_to = 8
quiet = true
ignored_layers = ["a", "b.*"]
[pictures]
data = "folder"
[resources]
memory_gib = 0.5
"""


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ((CONFIGS / "smoke.toml").read_text(), read_experiment),
        ((CONFIGS / "tickets.toml").read_text(), read_experiment),
        (CONFIG, read_config),
    ],
    ids=["smoke", "tickets", "configuration"],
)
def test_toml_files(text: str, read: Callable[[Path], Any], tmp_path: Path, fuzz_cases: int) -> None:
    path = tmp_path / "file.toml"
    path.write_text(text)
    assert outcome(read, path)
    for case in range(fuzz_cases):
        path.write_text(mutated_toml(text, random.Random(case)), encoding="utf-8", errors="surrogatepass")
        outcome(read, path)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
