"""Records of masks: counts that add up, and their columns in tables, files and pages."""

import csv
import io
from dataclasses import replace

import pytest
from support import made_up_records as made_up

from scionet.bench.records.mask_record import MaskRecord
from scionet.bench.records.record import RunRecord
from scionet.bench.records.record_files import RecordError
from scionet.bench.report.page import html
from scionet.bench.report.summary import summarise
from scionet.bench.report.tables import to_csv, to_markdown

LAYERS = {"stem": (3, 30), "middle": (0, 500), "head": (2, 20)}


def run(seed: int, layers: dict[str, tuple[int, int]], arm: str = "pruned at initialisation") -> RunRecord:
    plain = made_up.record("random", seed=seed)
    spec = replace(plain.spec, method=f"synflow + {arm}", budget="weights<=1%", settings={"arm": arm})
    return replace(plain, spec=spec, masks=MaskRecord(layers, plain.dense.macs / 8))


def test_densities_compressions_and_empty_layers_follow_from_the_counts() -> None:
    masks = MaskRecord(LAYERS, 12.0)
    assert (masks.kept, masks.size) == (5, 550)
    assert masks.density == 5 / 550
    assert masks.compression == 110
    assert masks.collapsed == ("middle",)


@pytest.mark.parametrize(
    ("layers", "macs"),
    [({"a": (3, 2)}, 1.0), ({"a": (-1, 2)}, 1.0), ({"a": (0, 2)}, 1.0), ({}, 1.0), ({"a": (1, 2)}, -1.0)],
)
def test_counts_that_cannot_be_are_refused(layers: dict[str, tuple[int, int]], macs: float) -> None:
    with pytest.raises(RecordError, match="0 <= kept <= size"):
        MaskRecord(layers, macs)


def test_a_record_with_masks_comes_back_and_one_of_before_has_none() -> None:
    record = run(0, LAYERS)
    assert RunRecord.from_json(record.to_json()) == record
    text = made_up.record().to_json()
    assert RunRecord.from_json(text.replace('"masks":null,', "")) == made_up.record()
    with pytest.raises(RecordError, match="0 <= kept <= size"):
        RunRecord.from_json(record.to_json().replace("[3,30]", "[31,30]"))


def test_tables_have_columns_of_single_weights_where_there_are_any() -> None:
    records = [run(0, LAYERS), run(1, {**LAYERS, "head": (0, 20), "stem": (5, 30)})]
    dense, row = summarise(records)
    assert dense.weights is None
    assert row.weights is not None
    assert row.sparse_macs is not None
    assert row.emptied is not None
    assert row.weights.mean == pytest.approx(100 * 5 / 550)
    assert row.sparse_macs.mean == 12.5
    assert (row.emptied.mean, row.emptied.text(1)) == (1.5, "1.5 ± 0.7")
    heads, _, _, line = to_markdown([dense, row]).splitlines()
    assert "| weights % | MACs without zeros % | empty layers |" in heads
    assert "| 0.909 ± 0.000 | 12.50 ± 0.00 | 1.5 ± 0.7 |" in line
    assert "empty layers" not in to_markdown(summarise([made_up.record()]))
    _, found = csv.DictReader(io.StringIO(to_csv([dense, row])))
    assert float(found["emptied_mean"]) == 1.5


def test_rows_of_which_some_runs_have_no_masks_show_none() -> None:
    _, row = summarise([run(0, LAYERS), replace(run(1, LAYERS), masks=None)])
    assert row.weights is None


def test_the_page_has_a_table_of_single_weights_where_there_are_any() -> None:
    page = html([run(seed, LAYERS) for seed in (0, 1)], "t")
    assert "MACs without zeros" in page
    assert "× 110" in page
    assert "MACs without zeros" not in html(made_up.all_records(), "t")
