"""Torch-Pruning's criteria as methods, against its own pruner, and errors for unsupported uses."""

import copy

import pytest
import torch
from support.pages import code_of
from support.selecting import problem_for
from support.subjects import SUBJECTS, budget_for
from test_torch_pruning import cut_at_the_widths_of

from scionet.adapters.torch_pruning_criteria import CRITERIA, CriterionRanker, criterion, differentiate, importances
from scionet.choices.settings import Settings
from scionet.errors import CalibrationError, InvalidSetting, UnsupportedModel
from scionet.files.safetensors_files import hash_tensors
from scionet.methods.contract import SiteView
from scionet.methods.registry import method_from, ranker_for
from scionet.network.calling import state_of
from scionet.network.discovery.discover import discover
from scionet.network.network import Network
from scionet.pruning import prune

tp = pytest.importorskip("torch_pruning", reason="torch-pruning is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # torch-pruning's own
HERE = "scionet.adapters.torch_pruning_criteria:criterion"


@pytest.mark.parametrize("name", ["residual", "mlp", "flattened"])
@pytest.mark.parametrize("chosen", [name for name in CRITERIA if name != "bn scale"])
def test_the_kept_units_are_those_of_torch_prunings_own_pruner(name: str, chosen: str) -> None:
    subject, kind = SUBJECTS[name], CRITERIA[chosen]
    model = subject.network()
    dense, sites, importance = copy.deepcopy(model), discover(model, subject.example()), kind.make()
    pairs = list(subject.pairs(2, 8))
    pruned = {producer.rpartition(".")[0] for site in sites.values() for producer in site.producers}
    ignored = [
        m
        for name, m in model.named_modules()
        if isinstance(m, torch.nn.Linear | torch.nn.Conv2d) and name not in pruned
    ]
    # not layer by layer, where it would score later layers after earlier ones have lost channels
    pruner = tp.pruner.BasePruner(
        model,
        subject.example(),
        importance=importance,
        pruning_ratio=0.4,
        max_pruning_ratio=0.8,
        global_pruning=True,
        ignored_layers=ignored,
    )
    if kind.gradients:
        differentiate(model.eval(), importance, pairs, kind.gradients == "single")
    pruner.step()
    batches = pairs if kind.gradients else [x for x, _ in pairs]
    problem = problem_for(dense, batches, sites, labels=bool(kind.gradients), batch_size=8)
    ranker = CriterionRanker(chosen, kind).ready(problem)
    orders = {
        name: ranker.rank(SiteView(site, problem.network, problem.calibration), site.width, None)
        for name, site in sites.items()
    }
    expected = state_of(cut_at_the_widths_of(model, dense, sites, orders))
    for key, tensor in state_of(model).items():
        assert torch.equal(tensor, expected[key]), key


def test_batchnorm_scales_are_absolute_values() -> None:
    subject = SUBJECTS["residual"]
    model = subject.network()
    sites = discover(model, subject.example())
    found = importances(CRITERIA["bn scale"], Network(model, sites), subject.batches())
    expected = state_of(model)["block1.bn1.weight"].abs().double()
    ours = torch.from_numpy(found["block1.conv1"])
    torch.testing.assert_close(ours / ours.mean(), expected / expected.mean(), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("chosen", ["magnitude", "taylor"])
def test_widths_and_repairs_are_scionets_and_the_network_is_unchanged(chosen: str) -> None:
    subject = SUBJECTS["residual"]
    model = subject.network()
    before = hash_tensors(state_of(model))
    data = subject.pairs(4, 16) if CRITERIA[chosen].gradients else subject.batches(4, 16)
    limit = str(budget_for(discover(model, subject.example()), 0.6))
    results = [
        prune(model, data, limit, example_inputs=subject.example(), method=criterion(chosen), repair=repair)
        for repair in ([], ["refit"])
    ]
    assert hash_tensors(state_of(model)) == before
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(result.report.difference < 1e-4 for result in results)
    assert results[1].plan.method == f"torch-pruning {chosen}"
    assert results[1].plan.tensors
    assert not results[0].plan.tensors


def test_the_code_of_the_page_runs() -> None:
    subject = SUBJECTS["residual"]
    names = {"model": subject.network(), "pairs": list(subject.pairs(2, 8)), "example": subject.example()}
    code = code_of("torch_pruning.md", 1, 2)
    exec(
        code.replace('scionet.prune(model, pairs, "macs<=50%"', 'result = scionet.prune(model, pairs, "macs<=60%"'),
        names,
    )
    assert names["result"].plan.method == "torch-pruning hessian"


def test_unsupported_uses_are_explained() -> None:
    model, heads = SUBJECTS["mlp"].network(), SUBJECTS["heads"]
    network = Network(model, discover(model, SUBJECTS["mlp"].example()))
    with pytest.raises(InvalidSetting, match=r"importance 'lam'.*lamp"):
        criterion(importance="lam")
    with pytest.raises(CalibrationError, match="no calibration batches"):
        importances(CRITERIA["magnitude"], network, [])
    with pytest.raises(UnsupportedModel, match="site '0' no importance; use another"):
        importances(CRITERIA["bn scale"], network, SUBJECTS["mlp"].batches())
    with pytest.raises(CalibrationError, match="label"):
        importances(CRITERIA["taylor"], network, SUBJECTS["mlp"].batches())
    model = heads.network()
    with pytest.raises(UnsupportedModel, match="does not score whole heads"):
        importances(CRITERIA["magnitude"], Network(model, discover(model, heads.example())), heads.batches())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nowhere:criterion", {}, "no method comes of 'nowhere:criterion'"),
        ("scionet.methods.registry:nothing", {}, "no attribute 'nothing'"),
        (HERE, {"importance": "lamp", "refits": True}, "unexpected keyword argument 'refits'"),
        ("builtins:dict", {}, "method must be a name, .*; given {}"),
    ],
)
def test_methods_of_other_packages_are_checked(name: str, options: dict, message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        ranker_for(method_from({"name": name, **options}), Settings())
