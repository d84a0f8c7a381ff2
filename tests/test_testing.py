"""check_method: what keeps the contract passes, and each way to break it is found."""

import numpy as np
import pytest
import torch

import scionet
from scionet.methods.contract import SiteView
from scionet.testing import check_method


def smallest(view: SiteView, rng: np.random.Generator) -> np.ndarray:
    """The opposite of L1."""
    return -view.network.state[view.site.producers[0]].abs().flatten(1).sum(1).numpy()[: view.site.width]


@scionet.score(name="loud", moments=True)
def loudest(view: SiteView, rng: np.random.Generator) -> np.ndarray:
    return np.array([term.xx.diagonal()[term.columns].sum(1) for term in view.terms]).sum(0)


@pytest.mark.parametrize(
    "method",
    [*(pytest.param(each, marks=pytest.mark.slow) for each in ("taylor", scionet.Forward("average"))), "l1", loudest],
    ids=["taylor", "average", "l1", "own"],
)
def test_methods_that_keep_the_contract_pass(method) -> None:
    check_method(method)


def test_a_bare_function_passes_without_data() -> None:
    check_method(smallest, widths="uniform", repair=[])


def test_a_method_that_changes_the_network_is_found() -> None:
    def destructive(view: SiteView, rng: np.random.Generator) -> np.ndarray:
        view.network.model.get_parameter(view.site.producers[0]).data.mul_(1.5)
        return np.arange(view.site.width, dtype=float)

    with pytest.raises(AssertionError, match="the network, its modes or the random state changed on the residual"):
        check_method(destructive, widths="uniform", repair=[])


def test_a_method_with_randomness_of_its_own_is_found() -> None:
    generator = np.random.default_rng(0)

    def careless(view: SiteView, rng: np.random.Generator) -> np.ndarray:
        return generator.random(view.site.width)

    with pytest.raises(AssertionError, match="the same seed gives another plan"):
        check_method(careless, widths="uniform", repair=[])


def test_a_method_that_reads_the_first_batch_passes_since_batches_are_regrouped() -> None:
    @scionet.score(data=True)
    def first_call(view: SiteView, rng: np.random.Generator) -> np.ndarray:
        return np.arange(view.site.width) * float(next(iter(view.calibration.inputs)).sum())

    check_method(first_call)  # batches are regrouped, so that even this is the same for all


def test_a_method_that_uses_the_global_generator_is_found() -> None:
    def noisy(view: SiteView, rng: np.random.Generator) -> np.ndarray:
        return torch.rand(view.site.width).double().numpy()

    with pytest.raises(AssertionError, match="the network, its modes or the random state changed"):
        check_method(noisy, widths="uniform", repair=[])
