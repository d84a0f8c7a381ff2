"""The committed records, translated to today's names of methods and settings: once, with the same results."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import RESULTS
from benchmarks.translate_records import FILES, NOTE, translated, translated_file, translated_label
from scionet.bench.experiment.competitors import COMPETITORS, LOSS
from scionet.bench.records.archive import read_archive, write_archive
from scionet.bench.records.record_files import RecordError
from scionet.choices.settings import Settings, repair_from, widths_from
from scionet.files.json_dataclasses import to_json
from scionet.methods.registry import method_for

KNOWN = {competitor.label: competitor for competitor in (*COMPETITORS, LOSS)}
FLAT = {
    **{"allocation": "measured", "asymmetric": True, "measured_examples": 256, "measured_widths": 1, "memory_gib": 2.0},
    **{"metric": None, "min_units": 1, "positions": 16, "recalibrate": False, "reconstruct_rate": 0.001},
    **{"reconstruct_steps": 0, "refit": True, "round_to": 1, "shortcuts": True, "shrinkage": None},
    **{"survey_examples": 1024, "sweeps": 1, "width_trials": 0},
}
"""Settings of a score in the old code."""
FORWARD = {
    **FLAT,
    **{"backend": "loky", "candidates": "exact", "certify": False, "epsilon": 0.1, "fresh_batches": False},
    **{"imitation": "local", "objective": "least_squares", "partitions": 1, "repetition": False, "sample_size": None},
    **{"scoring": None, "tolerance": None, "workers": None},
}
"""Settings of greedy forward selection in the old code."""


def old_record(method: str, settings: dict[str, Any], experiment: str = "untrained") -> dict[str, Any]:
    """A committed record, made old again."""
    record = copy.deepcopy(read_archive(RESULTS / "examples.jsonl")[0])
    record["notes"].remove(NOTE)
    return {**record, "spec": {**record["spec"], "experiment": experiment, "method": method, "settings": settings}}


@pytest.mark.parametrize(
    ("method", "settings", "label"),
    [
        ("forward least squares + measured", FORWARD, "forward least squares + sensitivity"),
        ("forward least squares + curves", FORWARD | {"allocation": "curves"}, "forward least squares + error curves"),
        ("l1 + least squares", FLAT | {"allocation": "uniform"}, "l1 + refit"),
        (
            "l1 + re-calibration",
            FLAT | {"allocation": "uniform", "refit": False, "recalibrate": True},
            "l1 + recalibration",
        ),
        (
            "l1 + least squares + measured + trials + reconstruction",
            FLAT | {"width_trials": 40, "reconstruct_steps": 300},
            "l1 + refit + sensitivity + search + reconstruction",
        ),
        (
            "forward line search + least squares",
            FORWARD | {"objective": "line_search", "allocation": "uniform"},
            "forward line search + refit",
        ),
        ("forward task loss", FORWARD | {"objective": "loss", "allocation": None, "refit": False}, "forward task loss"),
    ],
)
def test_a_plan_has_the_settings_that_its_competitor_has_today(method: str, settings: dict, label: str) -> None:
    """All but the batches: the old code took them as they were given."""
    found = translated(old_record(method, settings))["spec"]
    assert found["method"] == label
    competitor = KNOWN[label]
    assert competitor.widths is not None
    assert competitor.repair is not None
    chosen = Settings(widths_from(competitor.widths), repair_from(competitor.repair))
    today = json.loads(to_json(method_for(competitor.method, chosen).described))
    assert json.loads(to_json(found["settings"])) == {**today, "resources": {**today["resources"], "batch_size": None}}


def test_what_the_old_code_left_to_the_data_is_written_down() -> None:
    early = FORWARD | {"allocation": None, "measured_examples": 128, "metric": "kl"}
    assert translated(old_record("random, 64 images", early, "examples"))["spec"]["settings"]["widths"] == {
        "name": "error_curves"
    }
    for missing in ("measured_widths", "sweeps", "width_trials", "reconstruct_steps"):
        settings = {key: value for key, value in FORWARD.items() if key != missing}
        found = translated(old_record("forward least squares + measured", settings))["spec"]["settings"]
        assert (found["widths"]["widths_per_site"], found["widths"]["search"], found["method"]["passes"]) == (1, 0, 1)
        assert [step["name"] for step in found["repair"]] == ["refit"]


def test_everything_but_names_stays() -> None:
    old = old_record("l1 + least squares + measured + fine-tuned", {"contestant": None, "arm": "x"}, "smoke")
    new = translated(old)
    assert new["notes"] == [*old["notes"], NOTE]
    assert new["spec"] == {
        **old["spec"],
        "method": "l1 + refit + sensitivity + fine-tuned",
        "settings": {"competitor": None, "arm": "x"},
    }
    for part in old.keys() - {"spec", "notes", "summary"}:
        assert new[part] == old[part]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("torch-pruning taylor (global) + re-calibration", "torch-pruning taylor (global) + recalibration"),
        ("shrinkage='held_out', 128 images", "Refit(shrinkage='held_out'), 128 images"),
        ("sweeps=2", "Forward(passes=2)"),
        ("random, 128 images", "random, 128 images"),
        ("forward least squares", "forward least squares"),
        ("dense continued", "dense continued"),
    ],
)
def test_labels(old: str, new: str) -> None:
    assert translated_label(old) == new


def test_settings_that_no_old_code_had_are_refused() -> None:
    with pytest.raises(RecordError, match=r"\['colour'\] are no settings of the old code"):
        translated(old_record("l1", FLAT | {"colour": "red"}))
    with pytest.raises(RecordError, match="has no name today"):
        translated(old_record("l1", FLAT | {"refit": False, "asymmetric": False}))
    with pytest.raises(RecordError, match="other settings than in benchmarks/configs"):
        translated(old_record("l1", {"contestant": {"method": "l1", "allocation": "curves"}}))


def test_nothing_is_translated_twice(tmp_path: Path) -> None:
    path = tmp_path / "old.jsonl"
    write_archive(path, [old_record("l1 + least squares + measured", FLAT)])
    write_archive(path, translated_file(path))
    with pytest.raises(RecordError, match=r"old\.jsonl is translated already; leave it as it is"):
        translated_file(path)


@pytest.mark.parametrize("name", FILES)
def test_the_committed_records_say_that_they_are_translated(name: str) -> None:
    for record in read_archive(RESULTS / name):
        spec = record["spec"]
        assert translated_label(spec["method"]) == spec["method"]
        assert not {"allocation", "contestant"} & spec["settings"].keys()
        if resources := spec["settings"].get("resources"):
            assert (resources["batch_size"] is None) == (NOTE in record["notes"])
