"""Selection of calibration examples."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from support.pages import code_of
from support.subjects import SUBJECTS
from torch import Tensor, nn

from scionet.coreset import into_last_layer, select_examples
from scionet.errors import CalibrationError, InvalidSetting, UnsupportedModel
from scionet.network.calling import undisturbed


def data(name: str = "residual", size: int = 12) -> list[Tensor]:
    return SUBJECTS[name].batches(3, size)


def choose(name: str, n: int, **options) -> list[int]:
    subject = SUBJECTS[name]
    return select_examples(subject.network(), data(name), n, example_inputs=subject.example(), **options).tolist()


def vectors(name: str) -> np.ndarray:
    subject = SUBJECTS[name]
    model = subject.network()
    with undisturbed(model), into_last_layer(model) as run:
        return torch.cat([run(batch) for batch in data(name)]).numpy()


def medoids(points: np.ndarray, n: int) -> list[int]:
    """Greedy k-medoids: pick the example that minimises the distances of all examples to the closest pick."""
    distance = np.array([[np.linalg.norm(a - b) for b in points] for a in points])
    chosen: list[int] = []
    for _ in range(n):
        costs = [distance[:, [*chosen, v]].min(1).sum() for v in range(len(points))]
        chosen.append(int(np.argmin([np.inf if v in chosen else cost for v, cost in enumerate(costs)])))
    return chosen


def herded(points: np.ndarray, n: int) -> list[int]:
    """Pick the example that brings mean and second moments of the picks closest to those of all examples."""
    points = points / np.sqrt(np.square(points).sum(1).mean())
    lifted = np.array([np.concatenate([x, np.outer(x, x).ravel()]) for x in points])
    chosen: list[int] = []
    for _ in range(n):
        gaps = [np.square(lifted[[*chosen, v]].mean(0) - lifted.mean(0)).sum() for v in range(len(points))]
        chosen.append(int(np.argmin([np.inf if v in chosen else gap for v, gap in enumerate(gaps)])))
    return chosen


@pytest.mark.parametrize("name", ["residual", "tokens", "flattened"])
def test_facility_location_is_greedy_k_medoids(name) -> None:
    assert choose(name, 7) == medoids(vectors(name), 7)


@pytest.mark.parametrize("name", ["residual", "mlp"])
def test_moments_are_those_of_all(name) -> None:
    assert choose(name, 7, criterion="moments") == herded(vectors(name), 7)


def test_smaller_selections_are_prefixes_of_larger_ones_and_all_can_be_selected() -> None:
    for criterion in ("facility_location", "moments"):
        paths = [choose("residual", n, criterion=criterion) for n in (1, 5, 20, 36)]
        assert all(long[: len(short)] == short for short, long in pairwise(paths))
        assert sorted(paths[-1]) == list(range(36))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("residual", lambda model, x: head_input(model, x, model.head)),
        ("tokens", lambda model, x: head_input(model, x, model.head)),
        ("mlp", lambda model, x: model[:4](x)),
    ],
)
def test_examples_are_described_by_what_goes_into_the_last_layer(name, expected) -> None:
    model = SUBJECTS[name].network()
    with torch.no_grad():
        found = torch.cat([expected(model, batch) for batch in data(name)])
    np.testing.assert_allclose(vectors(name), found)


def head_input(model: nn.Module, x: Tensor, head: nn.Module) -> Tensor:
    class Caught(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    model.head = Caught()
    found = model(x)
    model.head = head
    return found


def test_a_convolution_at_the_end_is_averaged_over_positions() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Conv2d(3, 4, 1)).double()
    x = data()[0]
    with torch.no_grad(), into_last_layer(model) as run:
        torch.testing.assert_close(run(x), model[:2](x).mean((2, 3)))


def test_own_descriptions_and_labels_beside_the_inputs() -> None:
    subject = SUBJECTS["residual"]
    pairs = [(x, torch.zeros(len(x))) for x in data()]
    found = select_examples(nn.Flatten(), pairs, 5, example_inputs=subject.example(), describe=lambda x: x.flatten(1))
    assert found.tolist() == medoids(torch.cat(data()).flatten(1).numpy(), 5)


def test_a_group_of_equal_examples_is_represented_once() -> None:
    points = torch.eye(4).repeat_interleave(3, 0)
    found = select_examples(nn.Identity(), [points], 4, example_inputs=points[:1], describe=lambda x: x)
    assert sorted(found // 3) == [0, 1, 2, 3]


def test_the_model_is_not_modified() -> None:
    subject = SUBJECTS["residual"]
    model = subject.network().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    select_examples(model, data(), 3, example_inputs=subject.example())
    with pytest.raises(CalibrationError):
        select_examples(model, [data()[0] * torch.nan], 3, example_inputs=subject.example())
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_the_code_of_the_page_runs() -> None:
    subject = SUBJECTS["residual"]
    names = {"model": subject.network(), "unlabelled_batches": subject.batches(5, 32)}
    exec(code_of("methods/coreset.md"), names)
    assert len(names["chosen"]) == 128
    assert names["result"].report.pruned.macs <= 0.5 * names["result"].report.dense.macs


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"n_examples": 0}, InvalidSetting, "0 examples requested; give 1 to 36"),
        ({"n_examples": 37}, InvalidSetting, "37 examples requested"),
        ({"criterion": "beauty"}, InvalidSetting, "facility_location, moments; given 'beauty'"),
        ({"describe": lambda x: x}, CalibrationError, "one finite vector per example"),
        ({"data": [torch.full((4, 2, 5, 5), torch.inf)]}, CalibrationError, "NaN or infinite"),
        ({"model": nn.Flatten()}, UnsupportedModel, "pass describe"),
        ({"data": [{"x": 1}]}, CalibrationError, "must be like example_inputs"),
    ],
)
def test_wrong_input(change, error, text) -> None:
    given = {"model": SUBJECTS["residual"].network(), "data": data(), "n_examples": 3}
    with pytest.raises(error, match=text):
        select_examples(**{**given, **change}, example_inputs=SUBJECTS["residual"].example())
