"""discover on small networks: sites known by hand, refusals with their reasons, and no change of the network."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from support.masking import masked, plan_of, randomise, relative
from support.network_cases import CASES, VECTORS
from support.small_networks import Net, chain, conv, image, pooled, residual
from torch import Tensor, nn
from torch.nn import functional

from scionet.errors import CalibrationError, UnsupportedModel
from scionet.files.safetensors_files import hash_tensors
from scionet.models.factory import build, import_torchvision
from scionet.network.calling import Batch, call, state_of, to_model
from scionet.network.discovery.discover import discover
from scionet.network.sites import Sites
from scionet.network.surgery.cut import cut

relu = functional.relu


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", CASES)
def test_sites_known_by_hand(name: str) -> None:
    known = CASES[name]
    model = randomise(known.make())
    batch = to_model(known.batch, model)
    if known.sites:
        sites = discover(model, batch)
        assert {name: site.width for name, site in sites.items()} == known.sites
        assert {refusal.site: refusal.operation for refusal in sites.refused} == known.refused
        assert_masked_is_cut(model, sites, batch)
    else:
        with pytest.raises(UnsupportedModel, match="no prunable layer in Net") as caught:
            discover(model, batch)
        for site, operation in known.refused.items():
            assert re.search(rf"\b{site}\b[\w, ]*: {operation} in ", str(caught.value))


def assert_masked_is_cut(model: nn.Module, sites: Sites, batch: Batch) -> None:
    """At every site for three subsets: without the first, without the last, every second unit; and at all sites."""
    every = [{name: kept} for name, site in sites.items() for kept in subsets(site.width)]
    with torch.no_grad():
        dense = call(model, batch)
        for kept in [*every, {name: subsets(site.width)[0] for name, site in sites.items()}]:
            with masked(model, sites, kept):
                expected = call(model, batch)
            assert relative(dense, expected) > 1e-6
            assert relative(expected, call(cut(model, plan_of(sites, kept), sites), batch)) <= 1e-10


def subsets(width: int) -> list[list[int]]:
    return [list(range(1, width)), list(range(width - 1)), list(range(0, width - 1, 2))]


def test_layers_without_parameters_of_their_own() -> None:
    """torchvision's FrozenBatchNorm2d has buffers only and is written with tensor operations."""
    import_torchvision()
    from torchvision.ops import FrozenBatchNorm2d

    net = Net(lambda m, x: m.b(relu(m.norm(m.a(x)))), a=conv(3, 4, bias=False), norm=FrozenBatchNorm2d(4), b=conv(4, 2))
    model = randomise(net)
    batch = image(dtype=torch.float64)
    sites = discover(model, batch)
    assert {slot.tensor for slot in sites["a"].slots} == {
        *("a.weight", "b.weight", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
    }
    assert_masked_is_cut(model, sites, batch)


def test_functional_layers_are_layers() -> None:
    """The same sites and consumers whether weights are used through modules or by functions."""

    def functions(m: Any, x: Tensor) -> Tensor:
        x = relu(functional.conv2d(x, m.a.weight, m.a.bias, padding=1))
        return functional.linear(pooled(x), m.b.weight)

    layers = {"a": conv(3, 4), "b": nn.Linear(4, 2, bias=False)}
    by_function = discover(Net(functions, **layers), image())
    by_module = discover(Net(lambda m, x: m.b(pooled(relu(m.a(x)))), **layers), image())
    assert described(by_function) == described(by_module)
    assert by_function.consumers == by_module.consumers


def described(sites: Sites) -> list[tuple[Any, ...]]:
    return [
        (site.name, site.producers, site.consumers, [(s.tensor, s.dim, s.index.tolist()) for s in site.slots])
        for site in sites.values()
    ]


# -- attributes of sites ---------------------------------------------------------------------------------------------


def test_slots_of_a_flattened_input() -> None:
    sites = discover(CASES["flatten"].make(), image(size=4))
    assert sites["a"].slot("head.weight", 1).index.tolist() == np.arange(64).reshape(4, 16).tolist()
    assert sites["a"].slot("a.bias", 0).index.tolist() == [[0], [1], [2], [3]]


def test_slots_behind_a_concatenation() -> None:
    sites = discover(CASES["concatenation"].make(), image())
    assert sites["a"].slot("c.weight", 1).index.ravel().tolist() == [0, 1, 2, 3]
    assert sites["b"].slot("c.weight", 1).index.ravel().tolist() == [7, 8, 9, 10, 11]


def test_unit_of_a_grouped_convolution_is_the_group() -> None:
    site = discover(CASES["grouped"].make(), image())["a"]
    assert site.unit == "group"
    assert site.slot("a.weight", 0).index.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert site.slot("b.weight", 0).index.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert discover(CASES["depthwise"].make(), image())["a"].unit == "channel"


def test_units_of_halves_and_shuffled_pixels() -> None:
    halves = discover(CASES["product of halves"].make(), image())["a"]
    assert halves.slot("a.weight", 0).index.tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]
    shuffled = discover(CASES["pixel shuffle"].make(), image())["a"]
    assert shuffled.slot("a.weight", 0).index.tolist() == np.arange(12).reshape(3, 4).tolist()
    unshuffled = discover(CASES["pixel unshuffle"].make(), image())["a"]
    assert unshuffled.slot("b.weight", 1).index.tolist() == np.arange(16).reshape(4, 4).tolist()


def test_units_are_numbered_as_in_the_first_producer() -> None:
    model = Net(lambda m, x: m.b(m.a(x).flip(1)), b=conv(4, 2), a=conv(3, 4))
    site = discover(model, image())["a"]
    assert site.slot("a.weight", 0).index.ravel().tolist() == [0, 1, 2, 3]
    assert site.slot("b.weight", 1).index.ravel().tolist() == [3, 2, 1, 0]


def test_producers_and_consumers_of_a_stream() -> None:
    sites = discover(residual(), image())
    assert list(sites) == ["stem", "a1", "a2"]
    assert sites["stem"].producers == ("stem.weight", "b1.weight", "b2.weight")
    assert sites["stem"].consumers == ("a1.weight", "a2.weight", "head.weight")
    assert list(sites.consumers) == ["a1.weight", "b1.weight", "a2.weight", "b2.weight", "head.weight"]


def test_consumers_know_bias_norm_shortcut_and_calls() -> None:
    model = Net(
        lambda m, x: m.head(pooled(m.twice(m.twice(relu(m.norm(m.b(relu(m.a(x)))) + m.short(x)))))),
        a=conv(3, 4),
        b=conv(4, 5),
        norm=nn.BatchNorm2d(5),
        short=conv(3, 5),
        twice=conv(5, 5, bias=False),
        head=nn.Linear(5, 2),
    )
    consumers = discover(model, image()).consumers
    assert (consumers["b.weight"].bias, consumers["b.weight"].norm, consumers["b.weight"].calls) == (
        "b.bias",
        "norm",
        1,
    )
    assert consumers["b.weight"].shortcut is None  # runs after the consumer
    assert (consumers["twice.weight"].bias, consumers["twice.weight"].calls) == (None, 2)
    stream = discover(residual(), image()).consumers
    assert stream["b1.weight"].shortcut is not None
    assert stream["b1.weight"].shortcut.op == "relu"


def test_a_norm_that_is_not_the_only_reader_does_not_count() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.b(relu(m.a(x)))
        return m.head(pooled(m.norm(y) + y))

    model = Net(forward, a=conv(3, 4), b=conv(4, 5), norm=nn.BatchNorm2d(5), head=nn.Linear(5, 2))
    assert discover(model, image()).consumers["b.weight"].norm is None


def test_macs_by_hand() -> None:
    operations = discover(CASES["depthwise"].make(), image(batch=3)).operations
    pixels = 8 * 8
    assert {(o.weight, o.macs) for o in operations} == {
        ("a.weight", 3 * 6 * 9 * pixels),
        ("b.weight", 6 * 9 * pixels),
        ("c.weight", 6 * 2 * 9 * pixels),
    }


def test_refusals_name_the_module_and_say_what_to_do() -> None:
    model = CASES["layer norm"].make()
    refusal = next(r for r in discover(model, VECTORS).refused if r.site == "a")
    assert (refusal.operation, refusal.module) == ("native_layer_norm", "norm")
    assert "prune inner widths instead" in refusal.advice
    with pytest.raises(UnsupportedModel, match="a: sort in sort: this operation mixes channels"):
        discover(CASES["unknown operation"].make(), image())


def test_a_size_written_into_a_forward_is_named_with_its_error() -> None:
    refusal = next(r for r in discover(CASES["hard-coded view"].make(), image()).refused if r.site == "b")
    assert "provisional cut failed (shape '[-1, 384]' is invalid" in refusal.advice
    assert "take it from the tensor's shape" in refusal.advice


# -- kinds of networks and inputs ------------------------------------------------------------------------------------


def test_frozen_networks_and_networks_in_training_are_the_same_network() -> None:
    expected = described(discover(residual(), image()))
    frozen = residual().requires_grad_(False)
    assert described(discover(frozen, image())) == expected
    assert described(discover(residual().train(), image())) == expected


def test_tied_weights_are_one_weight() -> None:
    model = Net(
        lambda m, x: m.c(relu(m.b(relu(m.a(x))))), a=nn.Linear(8, 8), b=nn.Linear(8, 8, bias=False), c=nn.Linear(8, 2)
    )
    model.get_submodule("b").weight = model.get_parameter("a.weight")
    with pytest.raises(UnsupportedModel, match="a: addmm in a: the tensor it meets there has a fixed number"):
        discover(model, VECTORS)


def test_half_precision() -> None:
    model = residual().to(torch.bfloat16)
    assert list(discover(model, image())) == list(discover(residual(), image()))


class Labelled(Tensor):
    """A tensor subclass, as image libraries use."""


def test_inputs_of_a_tensor_subclass() -> None:
    assert described(discover(residual(), image().as_subclass(Labelled))) == described(discover(residual(), image()))


@dataclass
class Output:
    logits: Tensor
    loss: None = None


@pytest.mark.parametrize("wrap", [Output, lambda t: {"x": [t]}, lambda t: (None, (t,))])
def test_outputs_in_any_nested_structure_are_protected(wrap: Callable[[Tensor], Any]) -> None:
    model = Net(lambda m, x: wrap(m.b(relu(m.a(x)))), a=conv(3, 4), b=conv(4, 2))
    sites = discover(model, image())
    assert list(sites) == ["a"]
    assert [(r.site, r.operation) for r in sites.refused] == [("b", "output")]


def test_one_layer_is_no_network_to_prune() -> None:
    with pytest.raises(UnsupportedModel, match="no prunable layer in Sequential"):
        discover(nn.Sequential(nn.Linear(8, 3)), VECTORS)
    with pytest.raises(UnsupportedModel, match="no prunable layer in ReLU"):
        discover(nn.ReLU(), VECTORS)


@pytest.mark.parametrize(
    ("batch", "error", "text"),
    [
        (torch.randn(2, 5, 8, 8), UnsupportedModel, r"Net does not run on example_inputs \(RuntimeError: .*channels"),
        ((image(), image()), UnsupportedModel, r"does not run on example_inputs \(TypeError"),
        ([], CalibrationError, "a batch must be a tensor"),
        ({"x": 3}, CalibrationError, "a batch must be a tensor"),
        ("image.png", CalibrationError, "given str"),
    ],
)
def test_inputs_that_do_not_fit(batch: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        discover(chain(), batch)


def test_an_output_without_tensors_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="Net returns no tensor"):
        discover(Net(lambda m, x: m.b(relu(m.a(x))).shape, a=conv(3, 4), b=conv(4, 2)), image())


def test_a_network_that_cannot_be_copied_is_refused() -> None:
    model = chain()
    object.__setattr__(model, "numbers", (i for i in range(3)))
    with pytest.raises(UnsupportedModel, match="cannot be copied"):
        discover(model, image())


# -- the network is left as it was -----------------------------------------------------------------------------------


def fingerprint(model: nn.Module) -> tuple[Any, ...]:
    """Everything about a network that could be disturbed, and the state of the random numbers."""
    flags = [(name, p.requires_grad, p.grad is None, id(p), p._version) for name, p in model.named_parameters()]
    modules = [
        (name, id(m), m.training, len(m._forward_hooks), len(m._forward_pre_hooks), sorted(vars(m)))
        for name, m in model.named_modules()
    ]
    everywhere = vars(torch.nn.modules.module)
    hooks = [len(everywhere[name]) for name in ("_global_forward_hooks", "_global_forward_pre_hooks")]
    rng = hash_tensors({"rng": torch.get_rng_state()})
    return hash_tensors(state_of(model)), flags, modules, hooks, rng, torch.is_grad_enabled()


@pytest.mark.parametrize("name", ["chain", "residual stream", "hard-coded view", "unknown operation", "instance norm"])
def test_discovery_leaves_no_trace(name: str) -> None:
    model = Net(lambda m, x: m.inner(functional.dropout(x, 0.5, m.training)), inner=CASES[name].make())
    model.get_submodule("inner").train()
    model.training = False
    next(model.parameters()).requires_grad_(False)
    batch = CASES[name].batch
    assert isinstance(batch, Tensor)
    before, given = fingerprint(model), batch.clone()
    try:
        discover(model, batch)
    except UnsupportedModel:
        assert not CASES[name].sites
    assert fingerprint(model) == before
    assert torch.equal(batch, given)


def test_inputs_that_the_network_writes_into_are_left_as_they_were() -> None:
    model = Net(lambda m, x: m.b(relu(m.a(x.mul_(2)))), a=conv(3, 4), b=conv(4, 2))
    batch = image()
    assert list(discover(model, batch)) == ["a"]
    assert torch.equal(batch, image())


def test_a_failing_forward_leaves_no_trace() -> None:
    model = chain().train()
    batch = image(channels=5)
    before = fingerprint(model)
    with pytest.raises(UnsupportedModel):
        discover(model, batch)
    assert fingerprint(model) == before


@pytest.mark.parametrize("weights_too", [False, True])
def test_channels_last_changes_nothing(weights_too: bool) -> None:
    model = build("scionet:resnet20").eval()  # average pooling to one pixel sets new strides in place
    plain = discover(model, torch.zeros(2, 3, 32, 32))
    if weights_too:
        model = model.to(memory_format=torch.channels_last)
    sites = discover(model, torch.zeros(2, 3, 32, 32).contiguous(memory_format=torch.channels_last))
    assert list(sites) == list(plain)
    assert sites.refused == plain.refused


def test_new_strides_that_move_entries_lock_the_channels() -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        y = net.a(x).mean((2, 3), keepdim=True)
        return net.b(y.as_strided_(y.shape, (1, y.shape[0], 1, 1)))

    net = Net(forward, a=nn.Conv2d(3, 6, 3), b=nn.Conv2d(6, 4, 1))
    with pytest.raises(UnsupportedModel, match="as_strided_"):
        discover(net, torch.randn(2, 3, 8, 8))


def test_buffers_that_a_forward_changes_are_put_back() -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        net.calls.add_(1)
        net.seen = net.seen + 1
        return net.b(relu(net.a(x)))

    net = Net(forward, a=nn.Linear(3, 6), b=nn.Linear(6, 4))
    net.register_buffer("calls", torch.zeros(()))
    net.register_buffer("seen", torch.zeros(()))
    calls, seen = net.calls, net.seen
    discover(net, torch.randn(2, 3))
    assert net.calls is calls
    assert net.seen is seen
    assert not calls
    assert not seen
