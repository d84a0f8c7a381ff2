"""Local imitation at sites, against explicit outputs; and the whole study in small."""

from functools import partial

import numpy as np
import pytest
import torch
from support.selection_problems import layer
from torch import nn

from scionet.analysis.rates import imitation, study
from scionet.analysis.rates.imitation import imitated
from scionet.analysis.rates.pictures import picture_task
from scionet.analysis.rates.pretraining import Pretraining, pretraining_needed
from scionet.analysis.rates.sites import imitations
from scionet.analysis.rates.study import RatesStudy, measured
from scionet.errors import InvalidSetting
from scionet.files.json_dataclasses import read, to_json


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 4)).eval()


def test_curves_are_those_of_explicit_outputs() -> None:
    item = layer(0, size=8, rows=60)
    found = imitated("site", [item.term], 3)
    curves = {curve.label: dict(zip(curve.n, curve.values, strict=True)) for curve in found.curves}
    orders = [np.random.default_rng([3, run]).permutation(8) for run in range(5)]
    for k in (1, 3, 6):
        kept = [np.isin(np.arange(8), order[:k]) * 8 / k for order in orders]
        assert curves["random units, weights N/k"][k] == pytest.approx(np.mean([item.error(w) for w in kept]), rel=1e-5)
        refitted = np.mean([item.refit_error(order[:k].tolist(), 1e-6) for order in orders])
        assert curves["random units, least squares"][k] == pytest.approx(refitted, rel=1e-4)
    best = min(item.error(8 * np.eye(8)[i]) for i in range(8))
    assert curves["greedy, weights 1/n"][1] == pytest.approx(best, rel=1e-5)
    assert curves["greedy, line search"][1] == pytest.approx(best, rel=1e-5)
    assert curves["greedy, least squares"][4] <= curves["random units, least squares"][4]
    assert (found.units, found.picks) == (8, 64)
    assert found.geometry.distance.low == 0
    assert found.largest > 0
    assert found.contraction < 1


def test_windows_lie_above_rounding() -> None:
    found = imitated("site", [layer(1, size=20, rows=100).term], 0)
    assert all(4 <= each.first < each.last <= found.picks for each in found.slopes)
    assert all(each.value < 0 for each in found.slopes)
    assert all(value > imitation.EXACT for curve in found.curves for value in curve.values)


def test_sites_of_networks_are_chosen_and_named() -> None:
    batches = [torch.randn(40, 6, generator=torch.Generator().manual_seed(1))]
    found = imitations(mlp(), batches, batches[0][:2])
    assert [(each.site, each.units) for each in found] == [("0", 7), ("2", 5)]
    named = imitations(mlp(), batches, batches[0][:2], ["2"])
    assert named == [found[1]]
    with pytest.raises(InvalidSetting, match=r"no site is called 'x\*'; the network has 0, 2"):
        imitations(mlp(), batches, batches[0][:2], ["x*"])
    with pytest.raises(InvalidSetting, match="no site has 4 to 4 units"):
        imitations(mlp(), batches, batches[0][:2], largest=4)
    with pytest.raises(InvalidSetting, match="four units or more"):
        imitated("narrow", [layer(0, size=3).term], 0)


def pictures(count: int = 256) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 4
    return rng.uniform(0, 1, (count, 1, 3, 2)) + labels[:, None, None, None], labels


def test_parts_are_measured_one_by_one_and_survive_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "PRETRAINED", (8, 16, 32))
    quick = partial(pretraining_needed, settings=Pretraining(neurons=10, picks=5, last=8))
    monkeypatch.setattr(study, "pretraining_needed", quick)
    task = picture_task(*pictures())
    batches = [torch.randn(40, 6, generator=torch.Generator().manual_seed(1))]
    told: list[tuple[str, int, int]] = []
    found = measured(
        task,
        lambda: imitations(mlp(), batches, batches[0][:2]),
        ("pretraining", "sites"),
        5,
        lambda *step: told.append(step),
    )
    assert found.seeds == (5, 6, 7)
    assert (found.planted, found.scratch, found.random) == ((), (), ())
    assert found.pretraining is not None
    assert [t.examples for t in found.pretraining.thresholds] == [8, 16, 32]
    assert len(found.sites) == 2
    assert told == [("parts", 0, 2), ("parts", 1, 2), ("parts", 2, 2)]
    assert read(RatesStudy, to_json(found)) == found


def test_wrong_parts_and_too_few_pictures_are_refused() -> None:
    task = picture_task(*pictures())
    with pytest.raises(InvalidSetting, match=r"unknown part.*Did you mean 'planted'"):
        measured(task, list, ("plantd",))
    for part, needed in (("pretraining", 256), ("scratch", 100)):
        with pytest.raises(InvalidSetting, match=f"part '{part}' needs {needed} pictures or more; given 20"):
            measured(task.part(20), list, (part,))


@pytest.mark.slow
def test_the_whole_study_of_digits_takes_minutes_and_shows_the_rates() -> None:
    from scionet.data.digits import digits

    images, labels, _, _ = digits()
    found = measured(picture_task(images.numpy(), labels.numpy()), list, ("scratch", "pretraining"))
    groups, classes = found.scratch[2:]
    assert groups.geometry.distance.low == 0 < classes.geometry.distance.low
    assert groups.pruned_slopes[1].value < -1.7 < -1.2 < classes.pruned_slopes[1].value
    assert groups.crossover is not None
    assert found.pretraining is not None
    assert found.pretraining.logarithmic is not None
    assert found.pretraining.power is not None
    assert found.pretraining.logarithmic.explained > found.pretraining.power.explained > 0.8
    assert found.pretraining.logarithmic.low > 0
