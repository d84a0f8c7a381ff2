"""Gated networks against the definition: the output of a unit is multiplied by its gate at every consumer."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import pytest
import torch
from support.masking import plan_of, randomise, relative
from support.small_networks import Net, chain, conv, image, residual
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional

from scionet.errors import InvalidSetting
from scionet.files.safetensors_files import hash_tensors
from scionet.network.calling import state_of
from scionet.network.discovery.discover import discover
from scionet.network.network import Network
from scionet.network.plan import Choice, Plan
from scionet.network.sites import Sites
from scionet.network.surgery.gates import column_factors, plan_gates


def flattened() -> Net:
    """conv 3-4, flattened and concatenated with conv 3-2, linear."""
    return Net(
        lambda m, x: m.head(torch.cat([m.a(x), m.b(x)], 1).relu().flatten(1)),
        a=conv(3, 4),
        b=conv(3, 2),
        head=nn.Linear(6 * 64, 2),
    )


def grouped() -> Net:
    """conv 3-6, three groups of two, conv 9-2."""
    return Net(lambda m, x: m.c(m.b(m.a(x).relu()).relu()), a=conv(3, 6), b=conv(6, 9, groups=3), c=conv(9, 2))


def sequences() -> Net:
    """Two linear maps on the rows of an image."""
    return Net(lambda m, x: m.b(functional.gelu(m.a(x))), a=nn.Linear(8, 6), b=nn.Linear(6, 3))


NETS: list[Callable[[], Net]] = [chain, residual, flattened, grouped, sequences]


def read(make: Callable[[], Net]) -> tuple[nn.Module, Sites, Tensor]:
    torch.manual_seed(0)
    model, x = randomise(make()), image(dtype=torch.float64)
    return model, discover(model, x), x


@contextmanager
def scaled_inputs(model: nn.Module, sites: Sites, gates: Mapping[str, Tensor]) -> Iterator[None]:
    """The definition, one channel at a time: every consumer's input channel is multiplied by the gate of its unit."""

    def scale(name: str) -> Callable[[nn.Module, tuple[Tensor]], tuple[Tensor]]:
        def before(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            x = args[0].clone().movedim(-1 if isinstance(module, nn.Linear) else 1, 0)
            for site in (site for site in sites.values() if name in site.consumers and site.name in gates):
                for unit, channels in enumerate(site.slot(name, 1).index):
                    x[channels] *= gates[site.name][unit]
            return (x.movedim(0, -1 if isinstance(module, nn.Linear) else 1),)

        return before

    owners = {name: model.get_submodule(name.rpartition(".")[0]) for name in sites.consumers}
    hooks = [module.register_forward_pre_hook(scale(name)) for name, module in owners.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def random_gates(sites: Sites) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {name: torch.randn(site.width, generator=generator, dtype=torch.float64) for name, site in sites.items()}


def gated(
    model: nn.Module, sites: Sites, x: Tensor, gates: Mapping[str, Tensor], tensors: Mapping[str, Tensor] | None = None
) -> Tensor:
    """What the gated network returns."""
    network = Network(model, sites)
    return network.returned(x, network.masked(gates, tensors))


@pytest.mark.parametrize("make", NETS)
def test_gated_weights_are_scaled_inputs(make: Callable[[], Net]) -> None:
    model, sites, x = read(make)
    every = random_gates(sites)
    with torch.no_grad():
        for gates in [every, *({name: gate} for name, gate in every.items())]:
            with scaled_inputs(model, sites, gates):
                expected = model(x)
            found = gated(model, sites, x, gates)
            assert relative(expected, found) < 1e-12
            assert relative(model(x), found) > 1e-3


def test_gates_of_one_change_nothing() -> None:
    model, sites, x = read(residual)
    gates = {name: torch.ones(site.width, dtype=torch.float64) for name, site in sites.items()}
    with torch.no_grad():
        assert torch.equal(gated(model, sites, x, gates), model(x))
        assert torch.equal(gated(model, sites, x, {}), model(x))


def test_gates_apply_to_replaced_weights() -> None:
    model, sites, x = read(chain)
    gates = random_gates(sites)
    weight = torch.randn(6, 4, 3, 3, dtype=torch.float64)
    found = gated(model, sites, x, gates, {"b.weight": weight})
    with torch.no_grad():
        model.get_parameter("b.weight").copy_(weight)
    assert torch.equal(gated(model, sites, x, gates), found)


def test_the_network_is_untouched() -> None:
    model, sites, x = read(residual)
    before = hash_tensors(state_of(model))
    gated(model, sites, x, random_gates(sites))
    assert hash_tensors(state_of(model)) == before


def test_gradients_with_respect_to_gates() -> None:
    """Against central differences: the output is smooth in the gates where no ReLU changes sides."""
    model, sites, x = read(sequences)
    gate = random_gates(sites)["a"].requires_grad_()

    def output(gate: Tensor) -> Tensor:
        return gated(model, sites, x, {"a": gate}).square().mean()

    assert torch.autograd.gradcheck(output, (gate,))


def test_many_gates_at_once() -> None:
    model, sites, x = read(residual)
    gates = torch.stack([random_gates(sites)["stem"] * factor for factor in (0.0, 0.5, 2.0)])

    def output(gate: Tensor) -> Tensor:
        return gated(model, sites, x, {"stem": gate})

    with torch.no_grad():
        together = vmap(output)(gates)
        assert torch.allclose(together, torch.stack([output(gate) for gate in gates]), rtol=1e-12)


def test_columns_of_units_and_of_no_unit() -> None:
    _, sites, _ = read(flattened)
    gate = torch.tensor([5.0, 7.0], dtype=torch.float64)
    factors = column_factors(sites["b"], "head.weight", gate, 6 * 64)
    assert factors.tolist() == [1.0] * 256 + [5.0] * 64 + [7.0] * 64


def test_a_plan_as_gates() -> None:
    _, sites, _ = read(residual)
    gates = plan_gates(sites, Plan((Choice("a1", 5, (1, 3), (2.0, 0.5)),)))
    assert {name: gate.tolist() for name, gate in gates.items()} == {"a1": [0.0, 2.0, 0.0, 0.5, 0.0]}


def test_masked_tensors_are_the_plan_and_its_refits() -> None:
    model, sites, _ = read(chain)
    weight = torch.randn(6, 4, 3, 3, dtype=torch.float64)
    bias = torch.randn(6, dtype=torch.float64)
    plan = Plan((Choice("a", 4, (0, 2), (1.0, 3.0)),), tensors={"b.weight": weight, "b.bias": bias})
    tensors = Network(model, sites).masked_by(plan)
    expected = torch.stack([weight[:, 0], 0 * weight[:, 1], 3 * weight[:, 2], 0 * weight[:, 3]], 1)
    assert torch.equal(tensors["b.weight"], expected)
    assert torch.equal(tensors["b.bias"], bias)


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        (Choice("stem", 4, (0,), (1.0,)), "4 units at site 'stem'; this network has 6 units there; use the plan with"),
        (Choice("layer9", 4, (0,), (1.0,)), "4 units at site 'layer9'; this network has no such site; use the"),
    ],
)
def test_a_plan_of_another_network_is_an_error(choice: Choice, text: str) -> None:
    _, sites, _ = read(residual)
    with pytest.raises(InvalidSetting, match=text):
        plan_gates(sites, Plan((choice,)))


def test_a_plan_that_keeps_everything_is_the_dense_network() -> None:
    model, sites, x = read(grouped)
    network, whole = Network(model, sites), plan_of(sites, {n: list(range(site.width)) for n, site in sites.items()})
    with torch.no_grad():
        assert torch.equal(network.returned(x, network.masked_by(whole)), model(x))
