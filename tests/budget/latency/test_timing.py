"""Timing: turns, warm-up, clocks, and intervals that hold the median as often as they say."""

import time
from collections.abc import Iterator
from itertools import count

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import Tensor, nn

from scionet.budget.latency.durations import CONFIDENCE, Latency, interval
from scionet.budget.latency.timing import latency, stopwatch
from scionet.errors import InvalidSetting
from scionet.files.safetensors_files import hash_tensors
from scionet.network.calling import state_of


def busy(seconds: float) -> None:
    """Compute for a while."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


class Logged(nn.Module):
    """Writes down each call and the threads it was given; computes for a while if told to."""

    def __init__(self, name: str, calls: list[tuple[str, int]], wait_s: float = 0.0) -> None:
        super().__init__()
        self.name, self.calls, self.wait_s = name, calls, wait_s

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append((self.name, torch.get_num_threads()))
        busy(self.wait_s)
        return x


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
            busy(0.05 if self.left > 0 else 0)
            self.left -= 1
            return x

    assert latency({"model": SlowStart()}, torch.zeros(1, 1), repeats=2, warmup=2)["model"].upper_ms < 50


def test_latency_restores_the_threads_after_an_error(threads: int) -> None:
    with pytest.raises(RuntimeError):
        latency({"wrong": nn.Linear(3, 2)}, torch.zeros(1, 4), repeats=1)
    assert torch.get_num_threads() == threads


def test_latency_leaves_no_trace() -> None:
    classifier = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))
    before = hash_tensors(state_of(classifier.train()))
    latency({"model": classifier}, torch.zeros(4, 6), repeats=2)
    assert hash_tensors(state_of(classifier)) == before
    assert all(module.training for module in classifier.modules())


@pytest.mark.parametrize("setting", [{"repeats": 0}, {"warmup": -1}, {"threads": 0}], ids=str)
def test_latency_refuses_bad_numbers(setting: dict[str, int]) -> None:
    with pytest.raises(InvalidSetting, match="latency needs"):
        latency({}, torch.zeros(1), **setting)


def test_a_stopwatch_reads_the_clock_it_is_given_and_takes_the_mean_of_runs() -> None:
    ticks, ran = count(), list[int]()
    time_ms = stopwatch(torch.device("cpu"), clock=lambda: float(next(ticks)), runs=4)
    assert time_ms(lambda: ran.append(1)) == 250
    assert len(ran) == 4


def test_one_thread_alone_is_not_charged_for_waiting(threads: int) -> None:
    assert stopwatch(torch.device("cpu"))(lambda: time.sleep(0.05)) >= 50
    torch.set_num_threads(1)
    assert stopwatch(torch.device("cpu"))(lambda: time.sleep(0.05)) < 25
    assert stopwatch(torch.device("cpu"))(lambda: busy(0.05)) >= 50


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_stopwatch_waits_for_the_gpu() -> None:
    x = torch.randn(4096, 4096, device="cuda")
    time_ms = stopwatch(x.device)
    time_ms(lambda: x @ x)
    assert time_ms(lambda: [x @ x for _ in range(20)]) > 5 * time_ms(lambda: x @ x)


@pytest.mark.parametrize("size", [6, 9, 15, 30])
def test_the_interval_holds_the_median_in_95_of_100_cases(size: int) -> None:
    rng = np.random.default_rng(0)
    ends = np.array([interval(row) for row in rng.exponential(size=(4000, size)).tolist()])
    assert ((ends[:, 0] <= np.log(2)) & (np.log(2) <= ends[:, 1])).mean() > CONFIDENCE - 0.01


@pytest.mark.parametrize("size", range(6, 40))
def test_the_interval_is_the_narrowest_that_is_sure_enough(size: int) -> None:
    enough = [r for r in range(1, size // 2 + 1) if 1 - 2 * binom.cdf(r - 1, size, 0.5) >= CONFIDENCE]
    assert interval([float(n) for n in range(1, size + 1)]) == (max(enough), size + 1 - max(enough))


def test_few_values_give_their_extremes() -> None:
    assert interval([3.0]) == (3, 3)
    assert interval([3.0, 1.0, 2.0]) == (1, 3)
    assert interval([5.0, 1.0, 2.0, 3.0, 4.0, 9.0, 7.0, 6.0, 8.0]) == (2, 8)


def test_a_latency_is_made_of_runs() -> None:
    assert Latency.of([3.0, 1.0, 2.0, 10.0], 7) == Latency(2.5, 1, 10, 7)
    assert str(Latency(2.5, 1, 10, 7)) == "2.5 ms (1 to 10)"
