"""scionet's greedy order as an importance of Torch-Pruning."""

import copy
from typing import Any

import pytest
import torch
from support.pages import code_of
from support.selecting import method_with
from support.subjects import SUBJECTS
from torch import nn

from scionet.adapters.torch_pruning import GreedyImportance
from scionet.budget.costs import measure
from scionet.choices.limits import Limits
from scionet.choices.methods import Forward, TaskLoss
from scionet.errors import CalibrationError, InvalidSetting
from scionet.methods.refit.survey import survey, surveying
from scionet.network.calling import call, state_of
from scionet.network.plan import Choice, Plan
from scionet.network.sites import Sites
from scionet.network.surgery.cut import cut

tp = pytest.importorskip("torch_pruning", reason="torch-pruning is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # torch-pruning's own


def paths(model: nn.Module, subject: Any) -> tuple[Sites, dict[str, Any]]:
    """The greedy paths of all sites."""
    method = method_with("forward")
    run = surveying(model, subject.batches(), subject.example(), method.ranker, method.settings, 0)
    views = [view for view, _ in survey(run, run.surveyed, run.sites)]
    return run.sites, {
        view.site.name: run.ranker.rank(view, view.site.width, run.generators("rank", view.site.name)) for view in views
    }


def cut_at_the_widths_of(pruned: nn.Module, dense: nn.Module, sites: Sites, orders: dict[str, Any]) -> nn.Module:
    """The dense network cut by scionet to the pruned widths, each site to the first units of its path."""
    choices = []
    for name, site in sites.items():
        slot = site.slot(site.producers[0], 0)
        width = state_of(pruned)[slot.tensor].shape[0] // slot.index.shape[1]
        choices.append(Choice(name, site.width, tuple(sorted(orders[name].order[:width])), (1.0,) * width))
    return cut(dense, Plan(tuple(choices), dense_hash=sites.dense_hash), sites)


@pytest.mark.parametrize("name", ["residual", "mlp", "flattened"])
@pytest.mark.parametrize("across", [False, True])
def test_the_pruner_makes_the_network_of_the_greedy_order(name, across) -> None:
    subject = SUBJECTS[name]
    model = subject.network()
    dense = copy.deepcopy(model)
    sites, orders = paths(model, subject)
    importance = GreedyImportance(model, subject.batches(), subject.example())
    tp.pruner.BasePruner(
        model, subject.example(), importance=importance, pruning_ratio=0.5, global_pruning=across
    ).step()
    expected = state_of(cut_at_the_widths_of(model, dense, sites, orders))
    found = state_of(model)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[tensor], expected[tensor]) for tensor in expected)
    assert measure(model, subject.example()).macs < measure(dense, subject.example()).macs
    assert call(model, subject.example()).shape == call(dense, subject.example()).shape


def test_the_code_of_the_page_runs() -> None:
    subject = SUBJECTS["residual"]
    names = {"model": subject.network(), "batches": subject.batches(), "example_inputs": subject.example()}
    before = measure(names["model"], subject.example()).macs
    exec(code_of("torch_pruning.md", 0, 2), names)
    assert measure(names["model"], subject.example()).macs < 0.6 * before


def test_several_steps_measure_again_and_ranking_over_all_layers_works() -> None:
    subject = SUBJECTS["residual"]
    model = subject.network()
    importance = GreedyImportance(model, subject.batches(), subject.example())
    pruner = tp.pruner.BasePruner(
        model, subject.example(), importance=importance, pruning_ratio=0.5, iterative_steps=2, global_pruning=True
    )
    widths = []
    for _ in range(2):
        pruner.step()
        widths.append(sum(tensor.shape[0] for tensor in state_of(model).values() if tensor.ndim == 4))
        call(model, subject.example())
    first = {key: len(score) for key, score in importance.scores().items()}
    assert widths[1] < widths[0]
    assert all(state_of(model)[tensor].shape[dim] == size for (tensor, dim), size in first.items())


def test_layers_that_scionet_leaves_whole_stay_whole() -> None:
    subject = SUBJECTS["residual"]
    model, limits = subject.network(), Limits(ignored_layers=["block1.conv1"])
    importance = GreedyImportance(model, subject.batches(), subject.example(), limits=limits)
    tp.pruner.BasePruner(model, subject.example(), importance=importance, pruning_ratio=0.5).step()
    state = state_of(model)
    assert state["block1.conv1.weight"].shape[0] == 12
    assert state["block2.conv1.weight"].shape[0] == 6
    assert state["head.weight"].shape[0] == 4


def test_importance_falls_strictly_along_the_path() -> None:
    subject = SUBJECTS["mlp"]
    model = subject.network()
    _, orders = paths(model, subject)
    scores = GreedyImportance(model, subject.batches(), subject.example()).scores()["0.weight", 0]
    along = scores[list(orders["0"].order)]
    assert along[0] == pytest.approx(1.0, abs=1e-6)
    assert (along[1:] < along[:-1]).all()


def test_heads_get_no_importance() -> None:
    subject = SUBJECTS["heads"]
    scores = GreedyImportance(subject.network(), subject.batches(), subject.example()).scores()
    assert ("layers.0.linear1.weight", 0) in scores
    assert not any("self_attn" in tensor for tensor, _ in scores)


def test_wrong_settings_and_data_are_refused() -> None:
    subject = SUBJECTS["mlp"]
    model = subject.network()
    with pytest.raises(InvalidSetting, match="an objective other than 'task_loss'"):
        GreedyImportance(model, subject.pairs(), subject.example(), forward=Forward(TaskLoss()))
    with pytest.raises(CalibrationError, match="empty"):
        GreedyImportance(model, [], subject.example()).scores()
