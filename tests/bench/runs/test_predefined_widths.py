"""Competitors at predefined widths: of a narrower network of the same family, or given by site."""

from pathlib import Path

import pytest
import torch
from support.bench_trials import TOML, make_workspace, written
from torch import nn

from scionet.bench.experiment.experiment import Experiment
from scionet.bench.records.record import RunRecord
from scionet.bench.runs.grid import run
from scionet.bench.runs.workspace import Workspace, dense
from scionet.budget.costs import measure
from scionet.errors import PruneError
from scionet.models.resnets import DigitsNet, Residual, projection

PREDEFINED = """
[predefined]
factory = "test_predefined_widths:narrow_digits"
budget = "macs<=60%"
"""
TEXT = (
    TOML.replace('["as cut", "fine-tuned", "scratch-b"]', '["as cut", "scratch-e"]')
    .replace("seeds = [0, 1]", "seeds = [0]")
    .replace('["macs<=60%"]', '["macs<=60%", "macs<=40%"]')
    .replace('competitors = ["l1", "random"]', 'competitors = ["l1", "l1 at predefined widths"]')
    + PREDEFINED
)


def narrow_digits(first: int = 5) -> nn.Module:
    """The digits network with narrower blocks."""
    model = DigitsNet()
    model.block1 = Residual(16, 16, 1, nn.Identity())
    model.block1.conv1, model.block1.bn1 = nn.Conv2d(16, first, 3, padding=1, bias=False), nn.BatchNorm2d(first)
    model.block1.conv2 = nn.Conv2d(first, 16, 3, padding=1, bias=False)
    model.block3 = Residual(32, 24, 2, projection(32, 24, 2))
    model.linear = nn.Linear(24, 10)
    return model


def done(folder: Path, text: str = TEXT) -> tuple[Workspace, dict[tuple[str, str], RunRecord]]:
    workspace = make_workspace(folder, text)
    found = run(workspace, backend="sequential", threads=1)
    assert {each.state for each in found} == {"done"}, [each.failure for each in found]
    return workspace, {(r.spec.method, r.spec.budget): r for each in found if (r := each.record)}


def test_l1_keeps_the_largest_filters_at_the_widths_of_the_counterpart(tmp_path: Path) -> None:
    workspace, found = done(tmp_path)
    assert [*found] == [
        *(("l1", "macs<=60%"), ("l1", "macs<=40%"), ("l1 at predefined widths", "macs<=60%")),
        *(("l1 + scratch-e", "macs<=60%"), ("l1 + scratch-e", "macs<=40%")),
        ("l1 at predefined widths + scratch-e", "macs<=60%"),
    ]
    record = found["l1 at predefined widths", "macs<=60%"]
    cost = measure(narrow_digits().eval(), torch.zeros(1, 1, 8, 8))
    assert (record.pruned.macs, record.pruned.params) == (cost.macs, cost.params)
    widths = {site.name: site.kept for site in record.sites}
    assert widths["block1.conv1"] == 5
    assert widths["block2.conv1"] == 32
    assert found["l1 at predefined widths + scratch-e", "macs<=60%"].pruned.macs == cost.macs
    assert dense(workspace, workspace.material(0), 0).note.outcome.macs > cost.macs
    assert record.spec.settings["competitor"]["widths"] == {"name": "predefined"}
    assert record.spec.settings["competitor"]["predefined"]["factory"] == "test_predefined_widths:narrow_digits"
    assert "predefined" not in found["l1", "macs<=60%"].spec.settings["competitor"]


def test_widths_may_be_given_by_site_to_any_method(tmp_path: Path) -> None:
    text = TEXT.replace('["l1", "l1 at predefined widths"]', '["random + refit at predefined widths"]')
    text = text.replace('factory = "test_predefined_widths:narrow_digits"', 'units = {"block3.conv1" = 2}')
    text += '\n[[custom_competitors]]\nlabel = "energy"\nmethod = "energy"\nwidths = "predefined"\n'
    _, found = done(tmp_path, text.replace('["as cut", "scratch-e"]', '["as cut"]'))
    assert [*found] == [("random + refit at predefined widths", "macs<=60%"), ("energy", "macs<=60%")]
    for record in found.values():
        assert {site.name: site.kept for site in record.sites if site.kept < site.width} == {"block3.conv1": 2}


@pytest.mark.parametrize(
    ("change", "kind", "reason"),
    [
        (('narrow_digits"', 'narrow_digits"\narguments = {first = 16}'), "BudgetExceeded", "the given widths cost"),
        (("test_predefined_widths:narrow_digits", "scionet:resnet20"), "InvalidSetting", "no comparable tensor"),
    ],
)
def test_widths_that_do_not_fit_are_failures_with_a_reason(
    tmp_path: Path, change: tuple[str, str], kind: str, reason: str
) -> None:
    text = TEXT.replace('["as cut", "scratch-e"]', '["as cut"]').replace('"macs<=60%"', '"macs<=50%"')
    text = text.replace('["l1", "l1 at predefined widths"]', '["l1 at predefined widths"]')
    [found] = run(make_workspace(tmp_path, text.replace(*change)), backend="sequential", threads=1)
    assert found.failure is not None
    assert found.failure.kind == kind
    assert reason in found.failure.reason


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((PREDEFINED, ""), r"competitors at predefined widths need \[predefined\]"),
        (('budget = "macs<=60%"', 'budget = "macs<=70%"'), r"need \[predefined\], with one of the budgets"),
        (('budget = "macs<=60%"', ""), "experiment.predefined.budget is missing"),
        (('factory = "test_predefined_widths:narrow_digits"', ""), "either a factory or units"),
        (("[predefined]", "[predefined]\nunits = {conv1 = 3}"), "either a factory or units"),
        (("[predefined]", "[predefined]\nunits = {conv1 = 3.5}"), "must be of type int"),
    ],
)
def test_nonsense_is_refused(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    with pytest.raises(PruneError, match=message):
        make_workspace(tmp_path, TEXT.replace(*change, 1))


def test_a_factory_of_any_package_needs_trust(tmp_path: Path) -> None:
    with pytest.raises(PruneError, match="narrow_digits, which may be any code"):
        Experiment.read(written(tmp_path, TEXT))
