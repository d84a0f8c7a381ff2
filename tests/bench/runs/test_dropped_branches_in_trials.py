"""Competitors that drop residual branches, in the arms that go on with the cut network."""

from pathlib import Path

import pytest
import torch
from support.bench_trials import TOML, make_workspace, written

from scionet.bench.experiment.experiment import Experiment
from scionet.bench.runs.grid import run
from scionet.budget.costs import measure
from scionet.errors import PruneError
from scionet.models.resnets import digits_cnn
from scionet.network.discovery.discover import discover
from scionet.network.plan import Plan
from scionet.network.surgery.cut import cut

CUSTOM = """
[[custom_competitors]]
label = "shallow"
method = "l1"
widths = "whole"
depth = {name = "branch_damage", constants = false}
"""
TEXT = (
    TOML.replace('["as cut", "fine-tuned", "scratch-b"]', '["as cut", "scratch-e"]')
    .replace("seeds = [0, 1]", "seeds = [0]")
    .replace("learning_rates = [0.5, 1.0]", "learning_rates = [1.0]")
    .replace('competitors = ["l1", "random"]', "competitors = []")
    + CUSTOM
)


def test_all_arms_have_the_network_without_the_branches(tmp_path: Path) -> None:
    found = run(make_workspace(tmp_path, TEXT), backend="sequential", threads=1)
    assert {each.state for each in found} == {"done"}, [each.failure for each in found]
    records = {each.record.spec.method: each.record for each in found if each.record}
    assert [*records] == ["shallow", "shallow + scratch-e"]
    record = records["shallow"]
    assert record.spec.settings["competitor"]["depth"]["name"] == "branch_damage"
    (note,) = (each for each in record.notes if each.startswith("residual branches dropped: "))
    names = note.partition(": ")[2].split(", ")
    model, x = digits_cnn().eval(), torch.zeros(1, 1, 8, 8)
    small = measure(cut(model, Plan((), dropped=dict.fromkeys(names)), discover(model, x)), x)
    for each in records.values():
        assert (each.pruned.macs, each.pruned.params) == (small.macs, small.params)


@pytest.mark.parametrize(
    ("depth", "message"),
    [
        ('"damage"', "unknown depth 'damage'"),
        ("3", "depth must be"),
        ('{name = "branch_damage", count = -1}', "'count' of BranchDamage"),
    ],
)
def test_a_rule_that_is_not_one_is_refused(depth: str, message: str, tmp_path: Path) -> None:
    text = TEXT.replace('{name = "branch_damage", constants = false}', depth)
    with pytest.raises(PruneError, match=message):
        Experiment.read(written(tmp_path, text))
