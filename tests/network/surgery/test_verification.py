"""verify: a right cut passes, a wrong one is noticed, and magnified rounding is neither."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.masking import plan_of, randomise
from support.small_networks import Net, conv, image, pooled, residual
from torch import Tensor, nn
from torch.nn import functional

from scionet.errors import VerificationError
from scionet.files.safetensors_files import hash_tensors
from scionet.network.calling import state_of
from scionet.network.discovery.discover import discover
from scionet.network.network import Network
from scionet.network.plan import Plan
from scionet.network.sites import Sites
from scionet.network.surgery.cut import cut, cut_unchecked
from scionet.network.surgery.verification import rounding_error, verify, verify_unchecked

relu = functional.relu


def cut_and_plan(make: Callable[[], nn.Module] = residual) -> tuple[nn.Module, Plan, Sites, nn.Module, Tensor]:
    torch.manual_seed(0)
    model, x = randomise(make()), image(dtype=torch.float64)
    sites = discover(model, x)
    plan = plan_of(sites, {name: list(range(1, site.width)) for name, site in sites.items()})
    return model, plan, sites, cut(model, plan, sites), x


def test_the_right_cut_passes() -> None:
    model, plan, sites, pruned, x = cut_and_plan()
    assert verify(model, plan, sites, pruned, x) <= 1e-10


@pytest.mark.parametrize("name", [name for name, _ in residual().named_parameters()])
def test_every_wrong_tensor_is_noticed(name: str) -> None:
    model, plan, sites, pruned, x = cut_and_plan()
    with torch.no_grad():
        pruned.get_parameter(name).mul_(1 + 1e-6)
    with pytest.raises(VerificationError, match=r"differs from the masked one by .* allowed 1e-10"):
        verify(model, plan, sites, pruned, x)


def test_other_units_than_planned_are_noticed() -> None:
    model, plan, sites, _, x = cut_and_plan()
    other = plan_of(sites, {name: list(range(site.width - 1)) for name, site in sites.items()})
    with pytest.raises(VerificationError):
        verify(model, plan, sites, cut(model, other, sites), x)


def test_the_dense_network_is_no_cut() -> None:
    model, plan, sites, _, x = cut_and_plan()
    with pytest.raises(VerificationError):
        verify(model, plan, sites, model, x)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("output", [0, 1])
def test_values_that_are_not_finite_are_noticed_in_any_output(output: int, value: float) -> None:
    def make() -> Net:
        return Net(lambda m, x: (m.b(relu(m.a(x))), m.c(relu(m.a(x)))), a=conv(3, 4), b=conv(4, 2), c=conv(4, 2))

    model, plan, sites, pruned, x = cut_and_plan(make)
    verify(model, plan, sites, pruned, x)
    with torch.no_grad():
        pruned.get_parameter("bc"[output] + ".bias")[0] = value
    with pytest.raises(VerificationError):
        verify(model, plan, sites, pruned, x)


@pytest.mark.parametrize("output", [lambda t: t.argmax(1), lambda t: (t[:0], t.argmax(1)), lambda t: torch.fft.fft(t)])
def test_classes_empty_tensors_and_complex_numbers_are_compared(output: Callable[[Tensor], Any]) -> None:
    def make() -> Net:
        return Net(lambda m, x: output(m.b(pooled(relu(m.a(x))))), a=conv(3, 4), b=nn.Linear(4, 3))

    model, plan, sites, pruned, x = cut_and_plan(make)
    verify(model, plan, sites, pruned, x)
    with torch.no_grad():
        pruned.get_parameter("b.weight").mul_(-1)
        pruned.get_parameter("b.bias").mul_(-1)  # the largest output becomes the smallest
    with pytest.raises(VerificationError):
        verify(model, plan, sites, pruned, x)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-10), (torch.float32, 1e-4), (torch.float16, 2e-2), (torch.bfloat16, 1e-1)],
)
def test_the_tolerance_of_each_type(dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).to(dtype), torch.randn(8, 3).to(dtype)
    sites = discover(model, x)
    plan = plan_of(sites, {"0": [1, 3]})
    for error, right in ((0.5 * tolerance, True), (1.5 * tolerance, False)):
        pruned = cut(model, plan, sites)
        pruned[1].register_forward_hook(lambda m, args, out, error=error: out * (1 + error))  # type: ignore[index]
        if right:
            assert verify(model, plan, sites, pruned, x) <= tolerance
        else:
            with pytest.raises(VerificationError, match=f"allowed {tolerance:.0e}"):
                verify(model, plan, sites, pruned, x)


def test_a_given_tolerance_counts() -> None:
    model, plan, sites, pruned, x = cut_and_plan()
    with torch.no_grad():
        pruned.get_parameter("head.weight").mul_(1 + 1e-6)
    assert 1e-8 < verify(model, plan, sites, pruned, x, tolerance=1e-5) < 1e-5


def test_verification_leaves_both_networks_as_they_were() -> None:
    model, plan, sites, pruned, x = cut_and_plan()
    model.train()
    pruned.train()
    before = hash_tensors(state_of(model)), hash_tensors(state_of(pruned))
    verify(model, plan, sites, pruned, x)
    assert (hash_tensors(state_of(model)), hash_tensors(state_of(pruned))) == before
    assert model.training
    assert pruned.training


def magnifying() -> Net:
    """The difference of two large numbers behind a site: rounding in float32 is as large as the output."""
    return Net(
        lambda m, x: m.head(relu(m.a(x))) - m.tail(relu(m.a(x))), a=conv(3, 40), head=conv(40, 2), tail=conv(40, 2)
    )


def test_magnified_rounding_is_distinguished_from_a_wrong_cut() -> None:
    torch.manual_seed(0)
    model, x = randomise(magnifying()).float(), image()
    with torch.no_grad():
        model.get_parameter("a.weight").mul_(1e4)
        model.get_parameter("tail.weight").copy_(model.get_parameter("head.weight") * (1 + 1e-6))
    sites = discover(model, x)
    plan = plan_of(sites, {name: list(range(1, site.width, 2)) for name, site in sites.items()})
    pruned = cut(model, plan, sites)
    assert verify(model, plan, sites, pruned, x) > 1e-4
    with torch.no_grad():
        pruned.get_parameter("a.bias")[0] += 1e-3
    with pytest.raises(VerificationError, match="in float64"):
        verify(model, plan, sites, pruned, x, tolerance=0.0)


def test_a_network_that_turns_rounding_into_noise_is_not_believed() -> None:
    """Its rounding changes outputs by more than 1e-6 in float64: a wrong cut would look like a right one."""
    torch.manual_seed(0)
    model, x = randomise(magnifying()), image(dtype=torch.float64)
    sites = discover(model, x)
    plan = plan_of(sites, {name: list(range(1, site.width, 2)) for name, site in sites.items()})
    with torch.no_grad():
        model.get_parameter("a.weight").mul_(1e4)
        model.get_parameter("tail.weight").copy_(model.get_parameter("head.weight") * (1 + 1e-12))
        model.get_parameter("tail.bias").copy_(model.get_parameter("head.bias"))
    pruned = cut_unchecked(Network(model, sites), plan)
    assert rounding_error(Network(pruned), x)[0] > 1e-5
    with torch.no_grad():
        for weight in (pruned.get_parameter("head.weight"), pruned.get_parameter("tail.weight")):
            weight.mul_(1 + torch.finfo(torch.float64).eps * torch.randn_like(weight).sign())
    with pytest.raises(VerificationError, match=r"in float64 \(allowed 1e-10\)"):
        verify_unchecked(Network(model, sites), plan, pruned, [x])


@pytest.mark.parametrize("digits", [1e-7, 1e-8])
def test_the_tolerance_in_float64_is_that_of_the_network_s_own_rounding(digits: float) -> None:
    """Two networks that differ by rounding alone, more than 1e-10: right. By ten times the limit: wrong."""
    torch.manual_seed(0)
    model, x = randomise(magnifying()), image(dtype=torch.float64)
    with torch.no_grad():
        model.get_parameter("a.weight").mul_(1e4)
        model.get_parameter("tail.weight").copy_(model.get_parameter("head.weight") * (1 + digits))
        model.get_parameter("tail.bias").copy_(model.get_parameter("head.bias"))
    sites = discover(model, x)
    plan = plan_of(sites, {name: list(range(1, site.width, 2)) for name, site in sites.items()})
    pruned = cut(model, plan, sites)
    error, factor = rounding_error(Network(pruned), x)
    assert error > 1e-10
    assert factor > 1e5
    with torch.no_grad():
        for weight in (pruned.get_parameter("head.weight"), pruned.get_parameter("tail.weight")):
            weight.mul_(1 + 2 * torch.finfo(torch.float64).eps * torch.randn_like(weight).sign())
    assert 1e-10 < verify(model, plan, sites, pruned, x) < 1e-6
    with torch.no_grad():
        pruned.get_parameter("head.weight").mul_(1 + 1e-11)
    with pytest.raises(VerificationError, match="in float64"):
        verify(model, plan, sites, pruned, x)


def test_a_well_conditioned_network_keeps_its_tolerance() -> None:
    _, _, _, pruned, x = cut_and_plan()
    error, factor = rounding_error(Network(pruned), x)
    assert error < 1e-13
    assert 0.1 < factor < 100


def test_rounding_error_is_that_of_the_last_digit() -> None:
    """Each output is one parameter, and 1 changes by exactly one unit of the last digit."""
    scale = Net(lambda m, x: m.norm(x), norm=nn.BatchNorm1d(64, eps=0.0)).double()
    error, factor = rounding_error(Network(scale), torch.ones(2, 64, dtype=torch.float64))
    assert error == torch.finfo(torch.float64).eps
    assert factor == 1


def test_outputs_of_another_number_and_networks_that_fail_are_noticed() -> None:
    model, plan, sites, pruned, x = cut_and_plan()
    more = Net(lambda m, x: (m.inner(x), m.inner(x)), inner=pruned)
    with pytest.raises(VerificationError, match="inf"):
        verify(model, plan, sites, more, x)
    fails = Net(lambda m, x: m.inner(x[:, :2]), inner=pruned)
    with pytest.raises(VerificationError, match="does not run"):
        verify(model, plan, sites, fails, x)
