"""Suspended forward passes against plain ones, with hooks as the oracle."""

import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from support.masking import randomise
from support.small_networks import Net, chain, conv, image, pooled, residual
from torch import Tensor, nn
from torch.nn import functional

from scionet.errors import CalibrationError, UnsupportedModel
from scionet.files.safetensors_files import hash_tensors
from scionet.network.calling import state_of
from scionet.network.discovery.discover import discover
from scionet.network.network import Network
from scionet.network.passes.suspended import Stop, suspended_passes
from scionet.network.sites import Address

relu = functional.relu
ROOMY, NOTHING = 2.0**40, 0.0
Answer = Callable[[tuple[Stop, ...]], Sequence[Tensor]]


def own_output(present: tuple[Stop, ...]) -> list[Tensor]:
    return [stop.output for stop in present]


def batches(count: int, size: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(2, 3, size, size, generator=generator, dtype=torch.float64) for _ in range(count)]


def network(make: Callable[[], Net]) -> nn.Module:
    torch.manual_seed(0)
    return randomise(make())


def stops_of(model: nn.Module) -> dict[str, Address | None]:
    consumers = discover(model, image(dtype=torch.float64)).consumers
    return {name: consumer.shortcut for name, consumer in consumers.items()}


def seen(
    model: nn.Module,
    inputs: Sequence[Tensor],
    answer: Answer = own_output,
    memory_bytes: float = ROOMY,
    passes_per_batch: int = 1,
) -> list[tuple[str | None, list[Tensor]]]:
    """At every step the consumer and the inputs that it receives: for each batch, for each of its passes."""
    out: list[tuple[str | None, list[Tensor]]] = []
    arrived: list[Tensor] = []
    with suspended_passes(Network(model), inputs, stops_of(model), passes_per_batch, memory_bytes) as passes:
        while (weight := passes.step(answer, lambda now: arrived.extend(s.inputs.clone() for s in now))) is not None:
            out.append((weight, list(arrived)))
            arrived.clear()
    assert not arrived
    return out


def plain(model: nn.Module, inputs: Sequence[Tensor], factor: float = 1.0) -> list[tuple[str, list[Tensor]]]:
    """The oracle: the inputs of the consumers in plain forward passes in which their outputs are multiplied."""
    calls: list[list[tuple[str, Tensor]]] = []

    def recording(name: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, args: tuple[Tensor], out: Tensor) -> Tensor:
            calls[-1].append((name, args[0].clone()))
            return factor * out

        return hook

    hooks = [
        model.get_submodule(name.removesuffix(".weight")).register_forward_hook(recording(name))
        for name in stops_of(model)
    ]
    with torch.no_grad():
        for batch in inputs:
            calls.append([])
            model(batch)
    for hook in hooks:
        hook.remove()
    return [(step[0][0], [x for _, x in step]) for step in zip(*calls, strict=True)]


def assert_same(found: Sequence[tuple[str | None, list[Tensor]]], expected: Sequence[tuple[Any, list[Tensor]]]) -> None:
    assert [name for name, _ in found] == [name for name, _ in expected]
    for (_, some), (_, others) in zip(found, expected, strict=True):
        torch.testing.assert_close(some, others, rtol=1e-12, atol=1e-12)


def twice() -> Net:
    """A layer that is called twice."""
    return Net(lambda m, x: m.c(relu(m.b(relu(m.b(relu(m.a(x))))))), a=conv(3, 4), b=conv(4, 4), c=conv(4, 2))


def in_place() -> Net:
    """Operations that write into their inputs, the network's own among them."""

    def forward(m: Any, x: Tensor) -> Tensor:
        x = functional.relu_(m.a(x.mul_(2)))
        y = m.b(x)
        y += m.short(x)
        return m.head(pooled(y.clamp_(min=0)))

    return Net(forward, a=conv(3, 4), b=conv(4, 5), short=conv(4, 5, 1), head=nn.Linear(5, 2))


def on_sequences() -> Net:
    """Linear maps on the rows of an image."""
    return Net(lambda m, x: m.b(functional.gelu(m.a(x))), a=nn.Linear(8, 6), b=nn.Linear(6, 3, bias=False))


NETS = [chain, residual, twice, in_place]


@pytest.mark.parametrize("make", NETS)
@pytest.mark.parametrize("memory_bytes", [ROOMY, NOTHING])
def test_suspended_passes_are_plain_passes(make: Callable[[], Net], memory_bytes: float) -> None:
    model = network(make)
    expected = plain(model, [batch.clone() for batch in batches(3)])
    assert_same(seen(model, batches(3), memory_bytes=memory_bytes), expected)


@pytest.mark.parametrize("memory_bytes", [ROOMY, NOTHING])
def test_answers_replace_outputs(memory_bytes: float) -> None:
    model = network(residual)
    expected = plain(model, batches(3), factor=3.0)
    found = seen(model, batches(3), lambda present: [3 * stop.output for stop in present], memory_bytes)
    assert_same(found, expected)


def test_linear_maps_see_rows() -> None:
    model = network(on_sequences)
    found = seen(model, batches(2))
    expected = [(name, [x.flatten(0, -2) for x in inputs]) for name, inputs in plain(model, batches(2))]
    assert_same(found, expected)


@pytest.mark.parametrize("make", NETS)
def test_spilling_changes_no_bit(make: Callable[[], Net]) -> None:
    model = network(make)
    in_memory, on_disk = (seen(model, batches(3), memory_bytes=limit) for limit in (ROOMY, NOTHING))
    for (_, some), (_, others) in zip(in_memory, on_disk, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


def test_two_passes_of_a_batch_are_independent() -> None:
    model = network(residual)

    def answer(present: tuple[Stop, ...]) -> list[Tensor]:
        return [present[0].output, 3 * present[1].output]

    for memory_bytes in (ROOMY, NOTHING):
        found = seen(model, batches(2), answer, memory_bytes, passes_per_batch=2)
        assert_same([(name, inputs[::2]) for name, inputs in found], plain(model, batches(2)))
        assert_same([(name, inputs[1::2]) for name, inputs in found], plain(model, batches(2), factor=3.0))


def test_shortcuts_are_the_tensors_that_will_be_added() -> None:
    model = network(residual)
    x = batches(1)[0]
    with torch.no_grad():
        stream = relu(model.get_submodule("stem")(x))
    shortcuts: dict[str, Tensor | None] = {}
    with suspended_passes(Network(model), [x], stops_of(model)) as passes:
        while passes.step(own_output, lambda now: shortcuts.update({now[0].weight: now[0].shortcut})) is not None:
            pass
    assert {name for name, shortcut in shortcuts.items() if shortcut is not None} == {"b1.weight", "b2.weight"}
    shortcut = shortcuts["b1.weight"]
    assert shortcut is not None
    torch.testing.assert_close(shortcut, stream, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", [chain, on_sequences])
def test_a_consumer_can_be_run_with_another_weight(make: Callable[[], Net]) -> None:
    model = network(make)
    x = batches(1)[0]
    with suspended_passes(Network(model), [x], stops_of(model)) as passes:
        stops: list[Stop] = []
        name = passes.step(own_output, lambda now: stops.extend(now))
        assert name is not None
        other = torch.randn_like(state_of(model)[name])
        found = stops[0].run(other)
        bias = state_of(model).get(name.replace("weight", "bias"))
        of = functional.linear if other.ndim == 2 else lambda x, w, b: functional.conv2d(x, w, b, padding=1)
        torch.testing.assert_close(found, of(stops[0].inputs, other, bias), rtol=1e-12, atol=1e-12)


# -- memory ----------------------------------------------------------------------------------------------------------


def test_spilled_activations_free_their_memory() -> None:
    model = network(residual)
    stops: list[Stop] = []
    with suspended_passes(Network(model), batches(3), stops_of(model), memory_bytes=NOTHING) as passes:
        passes.step(own_output, lambda now: stops.extend(now))
        assert [stop.inputs.untyped_storage().nbytes() for stop in stops] == [0, 0, 0]
    stops.clear()
    with suspended_passes(Network(model), batches(3), stops_of(model), memory_bytes=ROOMY) as passes:
        passes.step(own_output, lambda now: stops.extend(now))
        assert all(stop.inputs.untyped_storage().nbytes() > 0 for stop in stops)


def test_weights_are_never_spilled() -> None:
    model = network(residual)
    before = hash_tensors(state_of(model))
    with suspended_passes(Network(model), batches(2), stops_of(model), memory_bytes=NOTHING) as passes:
        while passes.step(own_output, lambda now: None) is not None:
            assert hash_tensors(state_of(model)) == before


@pytest.fixture
def quick_collector() -> Iterator[None]:
    """Restrict the garbage collector to new objects."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def live_bytes() -> int:
    """Bytes of all new tensors that are alive."""
    gc.collect()
    tensors = [item for item in gc.get_objects() if type(item) in (Tensor, nn.Parameter)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def peak(count: int, memory_bytes: float) -> int:
    """Largest number of live bytes at any consumer, with `count` batches."""
    model = network(residual)
    most = 0

    def generated() -> Iterator[Tensor]:
        yield from (torch.ones(2, 3, 8, 8, dtype=torch.float64) * number for number in range(count))

    def observe(now: tuple[Stop, ...]) -> None:
        nonlocal most
        most = max(most, live_bytes())

    with suspended_passes(Network(model), generated(), stops_of(model), memory_bytes=memory_bytes) as passes:
        while passes.step(own_output, observe) is not None:
            pass
    return most


@pytest.mark.usefixtures("quick_collector")
def test_memory_does_not_grow_with_the_number_of_batches() -> None:
    activation = 2 * 6 * 8 * 8 * 8
    assert peak(12, NOTHING) <= peak(3, NOTHING) + activation / 2
    assert peak(12, ROOMY) >= peak(3, ROOMY) + 8 * activation  # the measurement does include activations in memory


def test_the_memory_limit_is_kept() -> None:
    """Activations up to the limit stay in memory, the others are spilled."""
    model = network(residual)
    one = 2 * 3 * 8 * 8 * 8 + 2 * 6 * 8 * 8 * 8  # an input and a stream
    stops: list[Stop] = []
    with suspended_passes(Network(model), batches(4), stops_of(model), memory_bytes=2.5 * one) as passes:
        passes.step(own_output, lambda now: stops.extend(now))
        kept = [stop.inputs.untyped_storage().nbytes() > 0 for stop in stops]
    assert 1 <= sum(kept) < 4


def test_the_callers_inputs_are_untouched() -> None:
    model = network(in_place)
    given = batches(2)
    for memory_bytes in (ROOMY, NOTHING):
        seen(model, given, memory_bytes=memory_bytes)
        assert all(torch.equal(a, b) for a, b in zip(given, batches(2), strict=True))


# -- the end ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_threads_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.mark.usefixtures("no_threads_left")
@pytest.mark.parametrize("memory_bytes", [ROOMY, NOTHING])
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_passes_can_be_ended_at_any_stop(steps: int, memory_bytes: float) -> None:
    model = network(residual)
    with suspended_passes(Network(model), batches(3), stops_of(model), 2, memory_bytes) as passes:
        for _ in range(steps):
            assert passes.step(own_output, lambda now: None) is not None
        assert len(threading.enumerate()) >= 1 + 6 * (steps > 0)


@pytest.mark.usefixtures("no_threads_left")
@pytest.mark.parametrize("where", ["answer", "observe"])
def test_errors_of_the_caller_end_all_passes(where: str) -> None:
    model = network(residual)

    def fail(present: tuple[Stop, ...]) -> Any:
        raise LookupError("of the caller")

    with (
        pytest.raises(LookupError, match="of the caller"),
        suspended_passes(Network(model), batches(3), stops_of(model)) as passes,
    ):
        if where == "answer":
            passes.step(own_output, lambda now: None)
            passes.step(fail, lambda now: None)
        else:
            passes.step(own_output, fail)


@pytest.mark.usefixtures("no_threads_left")
def test_errors_of_the_network_reach_the_caller() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.b(relu(m.a(x)))
        if len(x) == 7:
            raise ArithmeticError("of the network")
        return m.c(relu(y))

    model = network(lambda: Net(forward, a=conv(3, 4), b=conv(4, 5), c=conv(5, 2)))
    inputs = [*batches(2), torch.ones(7, 3, 8, 8, dtype=torch.float64)]
    with (
        pytest.raises(ArithmeticError, match="of the network"),
        suspended_passes(Network(model), inputs, stops_of(model)) as passes,
    ):
        passes.step(own_output, lambda now: None)
        passes.step(own_output, lambda now: None)


@pytest.mark.usefixtures("no_threads_left")
@pytest.mark.parametrize("early", [True, False])
def test_control_flow_that_depends_on_data_is_refused(early: bool) -> None:
    """A batch that reaches another consumer, or no further one, than the others."""

    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.b(relu(m.a(x)))
        if float(x[0, 0, 0, 0]) != 0 and len(x) == 3:
            return x if early else m.d(relu(x))
        return m.c(relu(x))

    model = network(lambda: Net(forward, a=conv(3, 4), b=conv(4, 5), c=conv(5, 5), d=conv(5, 5)))
    stops = {"b.weight": None, "c.weight": None, "d.weight": None}
    inputs = [*batches(1), torch.ones(3, 3, 8, 8, dtype=torch.float64)]
    with (
        pytest.raises(UnsupportedModel, match=r"call different layers .*control flow depends on its data"),
        suspended_passes(Network(model), inputs, stops) as passes,
    ):
        while passes.step(own_output, lambda now: None) is not None:
            pass


def test_no_batches_are_an_error() -> None:
    model = network(chain)
    with (
        pytest.raises(CalibrationError, match="calibration data are empty"),
        suspended_passes(Network(model), [], stops_of(model)) as passes,
    ):
        passes.step(own_output, lambda now: None)


def test_the_network_runs_in_eval_mode_and_is_as_before() -> None:
    model = Net(lambda m, x: m.inner(functional.dropout(x, 0.5, m.training)), inner=network(residual))
    model.train()
    model.get_submodule("inner.a1").training = False
    flags = [module.training for module in model.modules()]
    before, rng = hash_tensors(state_of(model)), torch.get_rng_state()
    found = [x for _, inputs in seen(model, batches(2)) for x in inputs]
    assert [module.training for module in model.modules()] == flags
    assert hash_tensors(state_of(model)) == before
    assert torch.equal(torch.get_rng_state(), rng)
    expected = [x for _, inputs in plain(model.eval(), batches(2)) for x in inputs]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_consumers_of_one_shortcut_all_receive_it() -> None:
    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 1)
            self.left, self.right = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            stream = self.stem(x).tanh()
            return (self.left(stream) + stream) * (self.right(stream) + stream)

    model = Twins().eval()
    address = Address("tanh", 0)
    found = []
    with suspended_passes(
        Network(model), [torch.randn(2, 3, 4, 4)], {"left.weight": address, "right.weight": address}
    ) as passes:
        while passes.step(lambda stops: [stops[0].output], lambda stops: found.append(stops[0].shortcut)) is not None:
            pass
    assert len(found) == 2
    assert found[0] is not None
    assert found[0] is found[1]
