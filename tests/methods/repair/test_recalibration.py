"""BatchNorm statistics against those of the cut network in training."""

import pytest
import torch
from support.selecting import select
from support.subjects import SUBJECTS, budget_for
from torch import nn

from scionet.budget.budget import Budget
from scionet.choices.resources import Resources
from scionet.errors import CalibrationError
from scionet.files.safetensors_files import hash_tensors
from scionet.network.calling import state_of
from scionet.network.discovery.discover import discover
from scionet.network.surgery.cut import cut


@pytest.mark.parametrize("name", ["residual", "branched"])
@pytest.mark.parametrize("repair", [["refit"], []], ids=str)
def test_statistics_are_those_of_the_cut_network_in_training(name, repair) -> None:
    subject = SUBJECTS[name]
    model, batches = subject.network(), list(subject.batches())
    before = hash_tensors(state_of(model))
    sites = discover(model, subject.example())
    given = {"widths": "uniform", "resources": Resources(batch_size=24), "hold_out": False}
    plain, recalibrated = (
        select("l1", model, batches, sites, budget_for(sites, 0.6), repair=[*repair, *more], **given)
        for more in ([], ["recalibrate"])
    )
    assert recalibrated.kept == plain.kept
    expected, found = cut(model, plain, sites), cut(model, recalibrated, sites)
    norms = [module for module in expected.modules() if isinstance(module, nn.BatchNorm2d)]
    expected.eval()
    for norm in norms:
        norm.train()
        norm.momentum = None
        norm.reset_running_stats()
    with torch.no_grad():
        for batch in batches:
            expected(batch)
    changed = 0
    for key, tensor in expected.state_dict().items():
        if "num_batches" not in key:
            torch.testing.assert_close(found.state_dict()[key], tensor, rtol=1e-8, atol=1e-10)
            changed += not torch.equal(tensor, cut(model, plain, sites).state_dict()[key])
    assert changed >= 2 * len(norms)
    assert hash_tensors(state_of(model)) == before


def test_a_smaller_last_batch_weighs_less_and_an_example_left_over_is_not_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).double().eval()
    sites = discover(model, torch.zeros(2, 3))
    for count, parts in ((40, (32, 8)), (33, (33,)), (65, (32, 33))):
        x = torch.randn(count, 3, dtype=torch.float64)
        options = {"widths": "uniform", "repair": ["recalibrate"], "resources": Resources(batch_size=32)}
        plan = select("l1", model, x.split(13), sites, Budget.of("macs<=100%"), hold_out=False, **options)
        with torch.no_grad():
            seen = [(len(part), model[0](part)) for part in x.split(parts)]
        mean = sum(size * part.mean(0) for size, part in seen) / count
        variance = sum(size * part.var(0) for size, part in seen) / count
        torch.testing.assert_close(plan.tensors["1.running_mean"], mean)
        torch.testing.assert_close(plan.tensors["1.running_var"], variance)


def test_no_data_and_single_examples_are_refused() -> None:
    subject = SUBJECTS["residual"]
    model = subject.network()
    sites = discover(model, subject.example())
    given = {"widths": "uniform", "repair": ["recalibrate"]}
    with pytest.raises(CalibrationError, match="empty"):
        select("l1", model, [], sites, Budget.of("macs<=60%"), **given)
    flat = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).double()
    sites = discover(flat, torch.zeros(2, 3))
    with pytest.raises(CalibrationError, match="two examples or more"):
        select("l1", flat, [torch.zeros(1, 3)], sites, Budget.of("macs<=50%"), **given)
