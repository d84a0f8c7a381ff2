"""Guided pruning: the pattern of a pruned network given to the same network, and to another one."""

from pathlib import Path

import numpy as np
import pytest
from support.bench_trials import TOML, make_workspace, two_stages

from scionet.bench.records.record import RunRecord
from scionet.bench.runs.grid import run
from scionet.bench.runs.workspace import Workspace, dense
from scionet.budget.costs import CostModel
from scionet.budget.patterns import Pattern
from scionet.network.discovery.discover import discover
from scionet.network.sites import Sites

GUIDED = (
    TOML.replace('["as cut", "fine-tuned", "scratch-b"]', '["as cut", "guided scratch-e"]')
    .replace("seeds = [0, 1]", "seeds = [0]")
    .replace('competitors = ["l1", "random"]', 'competitors = ["l1 + refit + error curves"]')
)
OTHER = GUIDED.replace("[network]", '[guided]\nfactory = "support.bench_trials:two_stages"\n\n[network]')


def done(folder: Path, text: str) -> tuple[Workspace, RunRecord, RunRecord]:
    workspace = make_workspace(folder, text)
    found = run(workspace, backend="sequential", threads=1)
    cut, guided = (each.record for each in found)
    assert cut is not None
    assert guided is not None
    return workspace, cut, guided


def pattern_of(record: RunRecord, sites: Sites) -> np.ndarray:
    return np.array(Pattern.of(sites, {site.name: site.kept for site in record.sites}).densities)


@pytest.mark.parametrize("text", [GUIDED, OTHER], ids=["same", "other"])
def test_the_network_has_the_proportions_of_the_pruned_one_and_meets_the_budget(tmp_path: Path, text: str) -> None:
    workspace, cut, guided = done(tmp_path, text)
    whole = dense(workspace, workspace.material(0), 0)
    own = discover(whole.model, whole.example)
    onto = own if text == GUIDED else discover(two_stages().eval(), whole.example)
    costs = CostModel(onto)
    assert 0.585 < guided.pruned.macs / costs.dense.macs <= 0.6  # of the network that the pattern was given to
    assert guided.pruned.params == costs.cost({site.name: site.kept for site in guided.sites}).params
    scale = pattern_of(guided, onto) / pattern_of(cut, own)
    assert scale.max() / scale.min() < 1.12  # widths are whole numbers
    assert [payment.stage for payment in guided.ledger if payment.stage == "selection"] == ["selection"]
    assert guided.spec.method == "l1 + refit + error curves + guided scratch-e"
    assert guided.spec.settings["guided"] == (
        None
        if text == GUIDED
        else {"factory": "support.bench_trials:two_stages", "arguments": {}, "weights": None, "macs": None}
    )


def test_a_network_of_other_stages_is_a_failure_with_a_reason(tmp_path: Path) -> None:
    text = OTHER.replace("two_stages", "one_stage")
    found = run(make_workspace(tmp_path, text), backend="sequential", threads=1)
    assert found[1].failure is not None
    assert "the pattern has 2 stages, the network 1" in found[1].failure.reason
