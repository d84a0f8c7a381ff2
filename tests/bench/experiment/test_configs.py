"""The experiments that come with the project: readable, and their networks cost what the files say."""

from pathlib import Path

import pytest
import torch
from support.bench_trials import make_workspace

from scionet.bench.experiment.experiment import Experiment
from scionet.bench.experiment.parts import NetworkSource
from scionet.bench.records.record_files import RecordError
from scionet.bench.records.store import load_all
from scionet.bench.runs.workspace import made, refuse_other_cost
from scionet.budget.costs import measure
from scionet.choices.limits import Limits
from scionet.choices.methods import Forward, Stochastic, TaskLoss
from scionet.choices.repair import Reconstruct, Refit
from scionet.choices.resources import Resources
from scionet.choices.settings import keywords_from

FOLDER = Path(__file__).parents[3] / "benchmarks"
FILES = sorted(FOLDER.rglob("*.toml"))


def test_there_are_three_sizes() -> None:
    assert {"smoke.toml", "small.toml", "resnet50.toml"} <= {path.name for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_experiment_can_be_read_and_its_networks_made(path: Path) -> None:
    experiment = Experiment.read(path, trust_factory=True)
    assert len(experiment.seeds) == 3
    assert len(experiment.trials()) >= 18
    crop = experiment.data.preprocessing.crop
    if crop is not None:
        example = torch.zeros(1, 3, crop, crop)
        assert experiment.network.macs
        dense = measure(made(experiment.network, 0).eval(), example).macs
        refuse_other_cost(experiment.network, dense)
        costs = [measure(made(stock, 0).eval(), example).macs / dense for stock in experiment.stock]
        limits = [float(budget.removeprefix("macs<=").removesuffix("%")) / 100 for budget in experiment.budgets]
        assert all(abs(cost - limit) < 0.01 for cost, limit in zip(costs, limits, strict=False))


def test_the_experiment_of_the_docs_can_be_read(tmp_path: Path) -> None:
    text = (FOLDER.parent / "docs" / "bench.md").read_text().split("```toml\n")[1].split("```")[0]
    (tmp_path / "mine.toml").write_text(text)
    experiment = Experiment.read(tmp_path / "mine.toml")
    own = experiment.competing[-1]
    assert own.method == Forward(TaskLoss(), Stochastic(0.2))
    assert own.repair == (Refit(), Reconstruct(steps=600))
    assert keywords_from(experiment.settings) == {"limits": Limits(round_to=8), "resources": Resources(positions=16)}


def test_settings_of_optimisers_and_penalties_are_part_of_a_specification(tmp_path: Path) -> None:
    text = (FOLDER / "configs" / "smoke.toml").read_text()
    head, marker, tail = text.partition("[finetuning]\n")
    own = 'optimiser = "grda"\noptimiser_settings = { c = 1e-3, mu = 0.55 }\nl1_weight = 1e-4\n'
    (tmp_path / "own.toml").write_text(head + marker + own + tail)
    first, second = (Experiment.read(path) for path in (FOLDER / "configs" / "smoke.toml", tmp_path / "own.toml"))
    assert second.finetuning is not None
    assert second.finetuning.optimiser_settings == {"c": 1e-3, "mu": 0.55}
    trial = next(trial for trial in second.trials() if trial.arm.training == "finetuning")
    settings, before = (experiment.spec(trial, "").settings["recipe"] for experiment in (second, first))
    assert settings.keys() - before.keys() == {"optimiser_settings", "l1_weight"}
    assert settings["optimiser_settings"] == {"c": 1e-3, "mu": 0.55}


@pytest.mark.parametrize("name", ["smoke", "tickets"])
def test_the_committed_records_are_those_of_the_experiment(name: str) -> None:
    """The name of a run depends on its whole specification, so that specification must not have changed."""
    experiment = Experiment.read(FOLDER / "configs" / f"{name}.toml")
    dense = experiment.dense_identity(FOLDER)
    asked = {experiment.spec(trial, dense).file_name for trial in experiment.trials()}
    assert asked == {record.file_name for record in load_all(FOLDER / "results" / name / "records.jsonl")}


def test_a_network_that_costs_something_else_is_refused(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    network = NetworkSource(workspace.experiment.network.factory, macs=7)
    with pytest.raises(RecordError, match="MACs for an example like these; the experiment says 7"):
        refuse_other_cost(network, measure(made(network, 0), torch.zeros(1, 1, 8, 8)).macs)
