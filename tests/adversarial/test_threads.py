"""Calls from several threads neither disturb one another nor leave a setting of the process behind."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from scionet.budget.costs import measure
from scionet.errors import PruneError
from scionet.files.safetensors_files import hash_tensors
from scionet.masks.masking import mask_weights
from scionet.network.calling import attention_unfused, call, replaced, state_of, undisturbed
from scionet.network.discovery.discover import discover
from scionet.pruning import prune
from scionet.training.fit import fit
from scionet.training.recipes import Recipe

X = torch.randn(16, 3, 8, generator=torch.Generator().manual_seed(0))
PAIRS = [(X[:8], torch.arange(8) % 3), (X[8:], torch.arange(8) % 3)]


class Attending(nn.Module):
    """Attention between tokens, then a perceptron: what torch computes by fast paths in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        self.drop = nn.Dropout()
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.attention(x)).mean(1))


def model(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Attending()


class Examples:
    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return X[index], index % 3


def pruned(network: nn.Module, seed: int) -> str:
    return prune(network, PAIRS, "macs<=70%", example_inputs=X[:2], seed=seed, progress=False).plan.identity


def trained(network: nn.Module, seed: int) -> str:
    fit(network, Examples(), Recipe(epochs=2, batch_size=8), seed=seed, progress=False)
    return hash_tensors(state_of(network))


def failing(network: nn.Module, seed: int) -> str:
    with pytest.raises(PruneError, match="does not run on example_inputs"):
        discover(network, X[:, :, :3])
    return ""


WORK: dict[str, Callable[[nn.Module, int], Any]] = {
    "prune": pruned,
    "l1": lambda m, seed: prune(m, (), "macs<=60%", example_inputs=X[:2], method="random", seed=seed).plan.identity,
    "discover": lambda m, _: (list(discover(m, X[:2])), discover(m, X[:2]).dense_hash),
    "cost": lambda m, _: measure(m, X[:2]),
    "masks": lambda m, _: hash_tensors(dict(mask_weights(m, 0.5, score="snip", batches=PAIRS).masks)),
    "fit": trained,
    "error": failing,
}


def settings() -> tuple[Any, ...]:
    """The settings of the process that scionet changes while it works."""
    cuda = torch.backends.cuda
    kernels = (cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled())
    hooks = torch.nn.modules.module
    return (
        torch.backends.mha.get_fastpath_enabled(),
        *kernels,
        len(hooks._global_forward_hooks),
        len(hooks._global_forward_pre_hooks),
        torch.get_rng_state().tolist(),
        torch.get_num_threads(),
    )


def together(work: list[Callable[[], Any]]) -> list[Any]:
    """The results of functions that start at the same moment in threads of their own."""
    start = threading.Barrier(len(work))

    def run(each: Callable[[], Any]) -> Any:
        torch.set_num_threads(1)  # a setting of the thread, on which rounding depends
        start.wait()
        return each()

    with ThreadPoolExecutor(len(work)) as pool:
        return [future.result(timeout=120) for future in [pool.submit(run, each) for each in work]]


@pytest.mark.parametrize("same", [False, True], ids=["networks of their own", "one network"])
def test_prunes_in_threads_give_what_they_give_alone(same: bool) -> None:
    one = model(0)
    networks = [one if same else model(seed) for seed in range(4)]
    alone = [pruned(network, seed) for seed, network in enumerate(networks)]
    before = settings()
    assert together([lambda n=n, s=s: pruned(n, s) for s, n in enumerate(networks)]) == alone
    assert settings() == before
    assert all(module.training for network in networks for module in network.modules())


def test_different_work_in_threads() -> None:
    alone = {name: work(model(7), 7) for name, work in WORK.items()}
    before = settings()
    networks = [model(7) for _ in WORK]  # made here: the seed of new weights is one for all threads
    found = together(
        [lambda work=work, net=net: work(net, 7) for work, net in zip(WORK.values(), networks, strict=True)]
    )
    assert dict(zip(WORK, found, strict=True)) == alone
    assert settings() == before


@pytest.mark.parametrize("enabled", [True, False])
def test_overlapping_threads_put_the_attention_settings_back(enabled: bool) -> None:
    """A second thread that enters meanwhile must not take the first one's setting for the caller's."""
    torch.backends.mha.set_fastpath_enabled(enabled)
    try:
        with sdpa_kernel([SDPBackend.MATH, SDPBackend.FLASH_ATTENTION]):
            before = settings()
            inside, waiting = threading.Event(), threading.Event()

            def first() -> None:
                with attention_unfused():
                    inside.set()
                    waiting.wait(10)

            def second() -> None:
                inside.wait(10)
                waiting.set()
                with attention_unfused():
                    assert not torch.backends.mha.get_fastpath_enabled()

            together([first, second])
            assert settings() == before
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def test_threads_that_replace_tensors_of_one_network() -> None:
    network = model(1).eval()
    before = hash_tensors(state_of(network))

    def doubled(factor: int) -> bool:
        weights = {"head.weight": network.head.weight.detach() * 0, "head.bias": torch.full((3,), float(factor))}
        with undisturbed(network), replaced(network, weights):
            return all(bool((call(network, X) == factor).all()) for _ in range(5))

    assert all(together([lambda f=f: doubled(f) for f in range(1, 6)]))
    assert hash_tensors(state_of(network)) == before


def test_a_network_that_another_thread_runs_meanwhile() -> None:
    """Global hooks and settings must not reach into what the caller computes elsewhere."""
    mine, other = model(3), model(4).eval()
    expected, sites = other(X).detach(), discover(mine, X[:2])
    going = threading.Event()

    def serve() -> int:
        count = 0
        while not going.is_set():
            torch.testing.assert_close(other(X).detach(), expected)
            count += 1
        return count

    def work() -> None:
        try:
            for _ in range(3):
                found = discover(mine, X[:2])
                assert list(found) == list(sites)
                assert found.refused == sites.refused
        finally:
            going.set()

    assert together([serve, work])[0] > 0


def test_a_call_within_a_call_does_not_wait_for_itself() -> None:
    network = model(2)

    def data() -> Any:
        yield PAIRS[0]
        discover(network, X[:2])
        yield PAIRS[1]

    found = prune(network, data(), "macs<=70%", example_inputs=X[:2], progress=False)
    assert found.plan.identity == pruned(network, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_process_forked_while_another_thread_works_can_work(run_python: Callable[[str], str]) -> None:
    code = """
        import os, threading, warnings
        import torch
        from scionet.budget.costs import measure
        from scionet.modes import alone
        torch.set_num_threads(1)
        warnings.simplefilter("ignore")  # newer Pythons warn of a fork with threads
        held, done = threading.Event(), threading.Event()
        def hold():
            with alone():
                held.set()
                done.wait(60)
        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        child = os.fork()
        if not child:
            measure(torch.nn.Linear(2, 3), torch.ones(1, 2))
            os._exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        done.set()
        thread.join()
    """
    assert run_python(code).strip() == "7"
