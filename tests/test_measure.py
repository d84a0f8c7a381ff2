import time
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from scionet.bench.measure import latency
from scionet.errors import InvalidSetting
from scionet.network.running import hash_tensors, state_of


class Logged(nn.Module):
    """Writes down each call and the threads it was given; waits if told to."""

    def __init__(self, name: str, calls: list[tuple[str, int]], wait_s: float = 0.0) -> None:
        super().__init__()
        self.name, self.calls, self.wait_s = name, calls, wait_s

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append((self.name, torch.get_num_threads()))
        time.sleep(self.wait_s)
        return x


@pytest.fixture
def classifier() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))


@pytest.fixture
def threads() -> Iterator[int]:
    """A number of threads other than the one that latency uses, with the old one restored."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield 2
    torch.set_num_threads(before)


def test_latency_lets_models_take_turns(threads: int) -> None:
    calls: list[tuple[str, int]] = []
    models = {name: Logged(name, calls) for name in ("dense", "pruned")}
    times = latency(models, torch.zeros(5, 1), repeats=3, warmup=2)
    assert calls == [("dense", 1), ("pruned", 1)] * 5
    assert list(times) == ["dense", "pruned"]
    assert times["dense"].batch_size == 5
    assert torch.get_num_threads() == threads


def test_latency_measures_milliseconds_of_the_forward_pass() -> None:
    calls: list[tuple[str, int]] = []
    times = latency({"slow": Logged("slow", calls, 0.02), "quick": Logged("quick", calls)}, torch.zeros(1, 1), 5)
    assert 20 <= times["slow"].lower_ms <= times["slow"].median_ms <= times["slow"].upper_ms
    assert times["quick"].median_ms < 20


def test_latency_does_not_time_the_warmup() -> None:
    class SlowStart(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left = 2

        def forward(self, x: Tensor) -> Tensor:
            time.sleep(0.05 if self.left > 0 else 0)
            self.left -= 1
            return x

    assert latency({"model": SlowStart()}, torch.zeros(1, 1), repeats=2, warmup=2)["model"].upper_ms < 50


def test_latency_restores_the_threads_after_an_error(threads: int) -> None:
    with pytest.raises(RuntimeError):
        latency({"wrong": nn.Linear(3, 2)}, torch.zeros(1, 4), repeats=1)
    assert torch.get_num_threads() == threads


def test_latency_leaves_no_trace(classifier: nn.Sequential) -> None:
    before = hash_tensors(state_of(classifier.train()))
    latency({"model": classifier}, torch.zeros(4, 6), repeats=2)
    assert hash_tensors(state_of(classifier)) == before
    assert all(module.training for module in classifier.modules())


@pytest.mark.parametrize("setting", [{"repeats": 0}, {"warmup": -1}, {"threads": 0}], ids=str)
def test_latency_refuses_bad_numbers(setting: dict[str, int]) -> None:
    with pytest.raises(InvalidSetting, match="latency needs"):
        latency({}, torch.zeros(1), **setting)
