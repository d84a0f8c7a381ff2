"""discover on small networks: the sites known by hand, what is refused and why, and the network left as it was."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from masking import masked, plan_of, randomise, relative
from small import Net, SamePadding, chain, conv, image, pooled, residual
from torch import Tensor, nn
from torch.nn import functional

from scionet.errors import CalibrationError, InvalidSetting, UnsupportedModel
from scionet.models import import_torchvision
from scionet.network.discover import Ignored, discover
from scionet.network.running import Batch, call, hash_tensors, state_of, to_model
from scionet.network.sites import Sites
from scionet.network.surgery import cut

relu = functional.relu


@dataclass(frozen=True)
class Case:
    """A network, its input, and by hand: width of every site, and the operation that refuses each other one."""

    make: Callable[[], nn.Module]
    sites: dict[str, int]
    refused: dict[str, str]
    batch: Batch


def case(
    forward: Callable[..., Any],
    sites: dict[str, int],
    refused: dict[str, str],
    batch: Batch | None = None,
    **layers: nn.Module,
) -> Case:
    return Case(lambda: Net(forward, **layers), sites, refused, image() if batch is None else batch)


def squeeze_and_excite(m: Any, x: Tensor) -> Tensor:
    x = relu(m.a(x))
    gate = torch.sigmoid(m.up(relu(m.down(x.mean((2, 3), keepdim=True)))))
    return m.b(x * gate)


def gated_product(m: Any, x: Tensor) -> Tensor:
    value, gate = m.a(x).chunk(2, dim=1)
    return m.b(value * torch.sigmoid(gate))


def hard_coded_view(m: Any, x: Tensor) -> Tensor:
    return m.head(relu(m.b(relu(m.a(x)))).view(-1, 6 * 64))


def two_inputs(m: Any, x: Tensor, y: Tensor) -> Tensor:
    return m.head(relu(m.left(x) + m.right(y)))


def transposed_linear(m: Any, x: Tensor) -> Tensor:
    return functional.gelu(m.a(x)) @ m.b.weight


def attention(m: Any, x: Tensor) -> Tensor:
    query, key, value = m.query(x), m.key(x), m.value(x)
    return m.out(torch.softmax(query @ key.transpose(1, 2), -1) @ value)


def halves_swapped(m: Any, x: Tensor) -> Tensor:
    first, second = relu(m.a(x)).chunk(2, dim=1)
    return m.b(torch.cat([second, first], 1))


def normalised(m: Any, x: Tensor) -> Tensor:
    return m.b(functional.normalize(relu(m.a(x)), dim=1))


def padded_shortcut(m: Any, x: Tensor) -> Tensor:
    x = relu(m.a(x))
    return m.head(pooled(relu(m.c(relu(m.b(x))) + functional.pad(x, (0, 0, 0, 0, 2, 1)))))


def written_in_place(m: Any, x: Tensor) -> Tensor:
    both = x.new_zeros(x.shape[0], 10, *x.shape[2:])
    both[:, :4] = m.a(x)
    both[:, 4:] = m.b(x)
    return m.c(both)


def gram(m: Any, x: Tensor) -> Tensor:
    x = relu(m.a(x))
    flat = x.flatten(2)
    return m.b(x).mean((2, 3)).sum(1) + (flat.transpose(1, 2) @ flat).mean((1, 2))


def by_data(m: Any, x: Tensor) -> Tensor:
    x = relu(m.a(x))
    return m.b(x) if float(x.sum()) > 0 else m.b(-x)


torch.manual_seed(0)
VECTORS = torch.randn(5, 8)
SEQUENCE = torch.randn(2, 5, 8)

CASES = {
    "chain": Case(chain, {"a": 4, "b": 6}, {"head": "output"}, image()),
    "residual stream": Case(residual, {"stem": 6, "a1": 5, "a2": 7}, {"head": "output"}, image()),
    "linear": case(
        lambda m, x: m.b(torch.tanh(m.a(x))),
        {"a": 6},
        {"b": "output"},
        VECTORS,
        a=nn.Linear(8, 6),
        b=nn.Linear(6, 3),
    ),
    "linear on sequences": case(
        lambda m, x: m.b(functional.gelu(m.a(x))),
        {"a": 6},
        {"b": "output"},
        SEQUENCE,
        a=nn.Linear(8, 6),
        b=nn.Linear(6, 3),
    ),
    "depthwise": case(
        lambda m, x: m.c(relu(m.b(relu(m.a(x))))),
        {"a": 6},
        {"c": "output"},
        a=conv(3, 6),
        b=conv(6, 6, groups=6),
        c=conv(6, 2),
    ),
    "depthwise with two outputs each": case(
        lambda m, x: m.c(relu(m.b(relu(m.a(x))))),
        {"a": 6},
        {"c": "output"},
        a=conv(3, 6),
        b=conv(6, 12, groups=6),
        c=conv(12, 2),
    ),
    "depthwise on the input": case(
        lambda m, x: m.b(m.a(x)), {}, {"a": "convolution", "b": "output"}, a=conv(3, 3, groups=3), b=conv(3, 2)
    ),
    "grouped": case(
        lambda m, x: m.c(relu(m.b(relu(m.a(x))))),
        {"a": 3},
        {"c": "output"},
        a=conv(3, 6),
        b=conv(6, 9, groups=3),
        c=conv(9, 2),
    ),
    "flatten": case(
        lambda m, x: m.head(relu(m.a(x)).flatten(1)),
        {"a": 4},
        {"head": "output"},
        image(size=4),
        a=conv(3, 4),
        head=nn.Linear(64, 2),
    ),
    "concatenation": case(
        lambda m, x: m.c(relu(torch.cat([m.a(x), x, m.b(x)], 1))),
        {"a": 4, "b": 5},
        {"c": "output"},
        a=conv(3, 4),
        b=conv(3, 5),
        c=conv(12, 2),
    ),
    "squeeze and excite": case(
        squeeze_and_excite,
        {"a": 6, "down": 3},
        {"b": "output"},
        a=conv(3, 6),
        down=conv(6, 3, 1),
        up=conv(3, 6, 1),
        b=conv(6, 2),
    ),
    "product of halves": case(gated_product, {"a": 4}, {"b": "output"}, a=conv(3, 8), b=conv(4, 2)),
    "gated linear unit": case(
        lambda m, x: m.b(functional.glu(m.a(x), 1)), {"a": 4}, {"b": "output"}, a=conv(3, 8), b=conv(4, 2)
    ),
    "pixel shuffle": case(
        lambda m, x: m.b(relu(m.shuffle(m.a(x)))),
        {"a": 3},
        {"b": "output"},
        a=conv(3, 12),
        shuffle=nn.PixelShuffle(2),
        b=conv(3, 2),
    ),
    "pixel unshuffle": case(
        lambda m, x: m.b(relu(m.shuffle(m.a(x)))),
        {"a": 4},
        {"b": "output"},
        a=conv(3, 4),
        shuffle=nn.PixelUnshuffle(2),
        b=conv(16, 2),
    ),
    "layer called twice": case(
        lambda m, x: m.c(relu(m.b(relu(m.b(relu(m.a(x))))))),
        {"a": 4},
        {"c": "output"},
        a=conv(3, 4),
        b=conv(4, 4),
        c=conv(4, 2),
    ),
    "PReLU": case(
        lambda m, x: m.b(m.act(m.a(x))), {"a": 4}, {"b": "output"}, a=conv(3, 4), act=nn.PReLU(4), b=conv(4, 2)
    ),
    "convolution that pads itself": case(
        lambda m, x: m.c(relu(m.b(relu(m.a(x))))),
        {"a": 4, "b": 5},
        {"c": "output"},
        a=SamePadding(3, 4, 2),
        b=SamePadding(4, 5, 2),
        c=conv(5, 2),
    ),
    "padding same": case(
        lambda m, x: m.b(relu(m.a(x))),
        {"a": 4},
        {"b": "output"},
        a=nn.Conv2d(3, 4, 4, padding="same"),
        b=nn.Conv2d(4, 2, 4, padding="same"),
    ),
    "padding by reflection": case(
        lambda m, x: m.b(relu(m.a(x))),
        {"a": 4},
        {"b": "output"},
        a=conv(3, 4),
        b=conv(4, 2, padding_mode="reflect"),
    ),
    "padding by wrapping": case(
        lambda m, x: m.b(relu(m.a(x))),
        {},
        {"a": "copy_", "b": "output"},
        a=conv(3, 4),
        b=conv(4, 2, padding_mode="circular"),
    ),
    "one dimension": case(
        lambda m, x: m.b(relu(m.norm(m.a(x)))),
        {"a": 4},
        {"b": "output"},
        torch.randn(2, 3, 9),
        a=nn.Conv1d(3, 4, 3),
        norm=nn.BatchNorm1d(4),
        b=nn.Conv1d(4, 2, 3),
    ),
    "three dimensions": case(
        lambda m, x: m.b(functional.max_pool3d(m.norm(m.a(x)), 2)),
        {"a": 4},
        {"b": "output"},
        torch.randn(2, 3, 6, 6, 6),
        a=nn.Conv3d(3, 4, 3),
        norm=nn.BatchNorm3d(4),
        b=nn.Conv3d(4, 2, 2),
    ),
    "upsampling": case(
        lambda m, x: m.b(functional.interpolate(relu(m.a(x)), scale_factor=2, mode="bilinear")),
        {"a": 4},
        {"b": "output"},
        a=conv(3, 4),
        b=conv(4, 2),
    ),
    "instance norm": case(
        lambda m, x: m.b(relu(m.norm(m.a(x)))),
        {"a": 4},
        {"b": "output"},
        a=conv(3, 4),
        norm=nn.InstanceNorm2d(4, affine=True),
        b=conv(4, 2),
    ),
    "batch norm without statistics": case(
        lambda m, x: m.b(relu(m.norm(m.a(x)))),
        {"a": 4},
        {"b": "output"},
        a=conv(3, 4),
        norm=nn.BatchNorm2d(4, track_running_stats=False),
        b=conv(4, 2),
    ),
    "two arguments": case(
        two_inputs,
        {"left": 6},
        {"head": "output"},
        (VECTORS, VECTORS),
        left=nn.Linear(8, 6),
        right=nn.Linear(8, 6),
        head=nn.Linear(6, 2),
    ),
    "keyword arguments": case(
        two_inputs,
        {"left": 6},
        {"head": "output"},
        {"y": VECTORS, "x": VECTORS},
        left=nn.Linear(8, 6),
        right=nn.Linear(8, 6),
        head=nn.Linear(6, 2),
    ),
    "padded shortcut": case(
        padded_shortcut,
        {"a": 4, "b": 5},
        {"c": "add", "head": "output"},
        a=conv(3, 4),
        b=conv(4, 5),
        c=conv(5, 7),
        head=nn.Linear(7, 2),
    ),
    "layer norm": case(
        lambda m, x: m.c(relu(m.b(m.norm(m.a(x))))),
        {"b": 5},
        {"a": "native_layer_norm", "c": "output"},
        VECTORS,
        a=nn.Linear(8, 6),
        norm=nn.LayerNorm(6),
        b=nn.Linear(6, 5),
        c=nn.Linear(5, 2),
    ),
    "group norm": case(
        lambda m, x: m.c(relu(m.b(m.norm(m.a(x))))),
        {"b": 5},
        {"a": "native_group_norm", "c": "output"},
        a=conv(3, 6),
        norm=nn.GroupNorm(2, 6),
        b=conv(6, 5),
        c=conv(5, 2),
    ),
    "transposed convolution": case(
        lambda m, x: m.c(relu(m.up(relu(m.b(relu(m.a(x))))))),
        {"a": 4},
        {"b": "convolution", "up": "convolution", "c": "output"},
        a=conv(3, 4),
        b=conv(4, 5),
        up=nn.ConvTranspose2d(5, 6, 2, 2),
        c=conv(6, 2),
    ),
    "hard-coded view": case(
        hard_coded_view,
        {"a": 4},
        {"b": "trial cut", "head": "output"},
        a=conv(3, 4),
        b=conv(4, 6),
        head=nn.Linear(384, 2),
    ),
    "normalisation over channels": case(
        normalised, {}, {"a": "linalg_vector_norm", "b": "output"}, a=conv(3, 4), b=conv(4, 2)
    ),
    "softmax over channels": case(
        lambda m, x: m.b(torch.softmax(m.a(x), 1)), {}, {"a": "_softmax", "b": "output"}, a=conv(3, 4), b=conv(4, 2)
    ),
    "softmax over pixels": case(
        lambda m, x: m.b(torch.softmax(m.a(x), 2)), {"a": 4}, {"b": "output"}, a=conv(3, 4), b=conv(4, 2)
    ),
    "sum over channels": case(
        lambda m, x: m.b(m.a(x) * m.a(x).sum(1, keepdim=True)),
        {},
        {"a": "sum", "b": "output"},
        a=conv(3, 4),
        b=conv(4, 2),
    ),
    "standard deviation of everything": case(
        lambda m, x: m.b(m.a(x) / m.a(x).std(unbiased=False)),
        {},
        {"a": "std", "b": "output"},
        a=conv(3, 4),
        b=conv(4, 2),
    ),
    "unknown operation": case(
        lambda m, x: m.b(m.sort(m.a(x))),
        {},
        {"a": "sort", "b": "output"},
        a=conv(3, 4),
        sort=Net(lambda m, x: torch.sort(x, 1).values),
        b=conv(4, 2),
    ),
    "one channel picked": case(
        lambda m, x: m.b(m.a(x)) * m.a(x)[:, :1], {}, {"a": "slice", "b": "output"}, a=conv(3, 4), b=conv(4, 2)
    ),
    "some channels picked": case(
        lambda m, x: m.b(relu(m.a(x))[:, :3]), {}, {"a": "slice", "b": "output"}, a=conv(3, 4), b=conv(3, 2)
    ),
    "channels reordered": case(
        lambda m, x: m.b(m.a(x)[:, [2, 0, 3, 1]]), {}, {"a": "index", "b": "output"}, a=conv(3, 4), b=conv(4, 2)
    ),
    "channels rolled": case(
        lambda m, x: m.b(m.a(x).roll(1, 1)), {}, {"a": "roll", "b": "output"}, a=conv(3, 4), b=conv(4, 2)
    ),
    "channels reversed": case(
        lambda m, x: m.b(m.a(x).flip(1)), {"a": 4}, {"b": "output"}, a=conv(3, 4), b=conv(4, 2)
    ),
    "pixels rolled": case(lambda m, x: m.b(m.a(x).roll(1, 2)), {"a": 4}, {"b": "output"}, a=conv(3, 4), b=conv(4, 2)),
    "halves swapped": case(halves_swapped, {}, {"a": "split", "b": "output"}, a=conv(3, 12), b=conv(12, 2)),
    "channels shuffled": case(
        lambda m, x: m.b(m.shuffle(relu(m.a(x)))),
        {},
        {"a": "channel_shuffle", "b": "output"},
        a=conv(3, 12),
        shuffle=nn.ChannelShuffle(2),
        b=conv(12, 2),
    ),
    "channels shuffled by hand": case(
        lambda m, x: m.b(relu(m.a(x)).unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)),
        {},
        {"a": "view", "b": "output"},
        a=conv(3, 12),
        b=conv(12, 2),
    ),
    "written into a tensor": case(
        written_in_place, {}, {"a": "copy_", "b": "copy_", "c": "output"}, a=conv(3, 4), b=conv(3, 6), c=conv(10, 2)
    ),
    "Gram matrix": case(gram, {}, {"a": "bmm", "b": "sum"}, a=conv(3, 4), b=conv(4, 2)),
    "learned channels": case(
        lambda m, x: m.b(x[:, :1] * m.a.bias) + m.d(relu(m.c(x))),
        {"c": 5},
        {"a": "no producer", "b": "output"},
        VECTORS,
        a=nn.Linear(1, 6),
        b=nn.Linear(6, 3),
        c=nn.Linear(8, 5),
        d=nn.Linear(5, 3),
    ),
    "no consumer": case(
        lambda m, x: m.b(relu(m.a(x))) + m.c(x).pow(2).mean((1, 2, 3)).view(-1, 1, 1, 1),
        {"a": 4},
        {"c": "mean", "b": "output"},
        a=conv(3, 4),
        b=conv(4, 2),
        c=conv(3, 5),
    ),
    "result thrown away": case(
        lambda m, x: (m.c(x), m.b(relu(m.a(x))))[1],
        {"a": 4},
        {"c": "no consumer", "b": "output"},
        a=conv(3, 4),
        b=conv(4, 2),
        c=conv(3, 5),
    ),
    "one channel": case(
        lambda m, x: m.c(relu(m.b(relu(m.a(x))))),
        {"b": 4},
        {"c": "output"},
        a=conv(3, 1),
        b=conv(1, 4),
        c=conv(4, 2),
    ),
    "batch norm of a residual sum": case(
        lambda m, x: m.b(m.norm(m.a(x) + m.c(x))),
        {"a": 4},
        {"b": "output"},
        a=conv(3, 4),
        c=conv(3, 4),
        norm=nn.BatchNorm2d(4),
        b=conv(4, 2),
    ),
    "transposed weight": case(
        transposed_linear, {}, {"a": "mm"}, VECTORS, a=nn.Linear(8, 6), b=nn.Linear(3, 6, bias=False)
    ),
    "attention": case(
        attention,
        {"value": 6},
        {"query": "bmm", "key": "bmm", "out": "output"},
        SEQUENCE,
        query=nn.Linear(8, 7),
        key=nn.Linear(8, 7),
        value=nn.Linear(8, 6),
        out=nn.Linear(6, 2),
    ),
    "control flow by data": case(by_data, {}, {"a": "sum", "b": "output"}, a=conv(3, 4), b=conv(4, 2)),
    "weight normalisation": case(
        lambda m, x: m.d(relu(m.c(relu(m.b(relu(m.a(x))))))),
        {"c": 5},
        {"a": "convolution", "b.parametrizations.weight": "_weight_norm_interface", "d": "output"},
        a=conv(3, 4),
        b=nn.utils.parametrizations.weight_norm(conv(4, 6)),
        c=conv(6, 5),
        d=conv(5, 2),
    ),
    "LSTM": case(
        lambda m, x: m.b(relu(m.a(m.lstm(x)[0]))),
        {"a": 5},
        {"lstm": "unsafe_split", "b": "output"},
        SEQUENCE,
        lstm=nn.LSTM(8, 6, batch_first=True),
        a=nn.Linear(6, 5),
        b=nn.Linear(5, 2),
    ),
    "multi-head attention": case(
        lambda m, x: m.b(relu(m.a(m.attention(x, x, x, need_weights=False)[0]))),
        {"a": 5},
        {"b": "output"},
        SEQUENCE,
        attention=nn.MultiheadAttention(8, 2, batch_first=True),
        a=nn.Linear(8, 5),
        b=nn.Linear(5, 2),
    ),
    "transformer layer": case(
        lambda m, x: m.layer(m.embed(x)),
        {},
        {"embed": "_transformer_encoder_layer_fwd"},
        SEQUENCE,
        embed=nn.Linear(8, 6),
        layer=nn.TransformerEncoderLayer(6, 2, 12, batch_first=True),
    ),
}


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
    """torchvision's FrozenBatchNorm2d keeps buffers alone and is written with tensor operations."""
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


# -- what a site says ------------------------------------------------------------------------------------------------


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
    assert "trial cut failed (shape '[-1, 384]' is invalid" in refusal.advice
    assert "take it from the tensor's shape" in refusal.advice


# -- trial cuts ------------------------------------------------------------------------------------------------------


def test_one_of_two_sites_that_only_fail_together_is_refused() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        a, b = relu(m.a(x)), relu(m.b(x))
        if a.shape[1] < 6 and b.shape[1] < 6:
            raise RuntimeError("one of both must be whole")
        return m.d(relu(m.c(torch.cat([a, b], 1))))

    model = Net(forward, a=conv(3, 6), b=conv(3, 6), c=conv(12, 5), d=conv(5, 2))
    sites = discover(model, image())
    assert list(sites) == ["a", "c"]
    assert {r.site: r.operation for r in sites.refused} == {"b": "trial cut", "d": "output"}


def test_a_branch_that_is_switched_off_is_tried_all_the_same() -> None:
    """The width is in the values alone, behind a BatchNorm that starts at zero as in many residual networks."""

    def forward(m: Any, x: Tensor) -> Tensor:
        y = relu(m.a(x))
        return m.head(pooled(m.stem(x) + m.norm(m.b(y / y.shape[1]))))

    model = Net(
        forward, a=conv(3, 6), b=conv(6, 4, bias=False), stem=conv(3, 4), norm=nn.BatchNorm2d(4), head=nn.Linear(4, 2)
    )
    nn.init.zeros_(model.get_parameter("norm.weight"))
    sites = discover(model, image())
    assert list(sites) == ["stem"]
    assert "differs from the masked one" in next(r.advice for r in sites.refused if r.site == "a")


# -- what may be left out --------------------------------------------------------------------------------------------


def ignored_sites(ignored: Ignored, make: Callable[[], nn.Module] = residual) -> set[str]:
    """Names of the sites that a list of ignored layers leaves whole."""
    model = make()
    sites = discover(model, image(), ignored)
    refused = {r.site for r in sites.refused if r.operation == "ignored_layers"}
    assert not refused & set(sites)
    return refused


@pytest.mark.parametrize(
    ("ignored", "expected"),
    [
        ((), set()),
        (("a1",), {"a1"}),
        (("a?",), {"a1", "a2"}),
        (("a1", "a2"), {"a1", "a2"}),
        (("b1",), {"stem"}),  # makes channels of the stream
        (("head",), {"head"}),
        ((nn.Linear,), {"head"}),
    ],
)
def test_ignored_layers(ignored: Ignored, expected: set[str]) -> None:
    assert ignored_sites(ignored) == expected


def test_a_layer_is_ignored_by_itself() -> None:
    model = residual()
    sites = discover(model, image(), [model.get_submodule("a2")])
    assert list(sites) == ["stem", "a1"]


def test_everything_inside_an_ignored_module_stays() -> None:
    model = nn.Sequential(
        nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 5)), nn.ReLU(), conv(5, 6), nn.ReLU(), conv(6, 2)
    )
    sites = discover(model, image(), ["0"])
    assert list(sites) == ["2"]


def test_a_shared_layer_is_ignored_under_either_name() -> None:
    def make() -> Net:
        shared = conv(4, 4)
        layers = {"a": conv(3, 4), "b": shared, "again": shared, "c": conv(4, 5), "d": conv(5, 2)}
        return Net(lambda m, x: m.d(relu(m.c(relu(m.again(relu(m.b(m.a(x)))))))), **layers)

    assert ignored_sites(["b"], make) == ignored_sites(["again"], make) == {"a"}


def test_an_ignored_batch_norm_keeps_its_channels() -> None:
    model = chain()
    with_norm = discover(model, image(), [nn.BatchNorm2d])
    assert list(with_norm) == ["b"]


def test_ignored_layers_that_match_nothing_are_an_error() -> None:
    with pytest.raises(
        InvalidSetting, match=r"unknown ignored layer 'norn'; allowed: a, b, head, norm\. Did you mean 'norm'"
    ):
        discover(chain(), image(), ["norn"])


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
def test_outputs_in_any_nest_are_protected(wrap: Callable[[Tensor], Any]) -> None:
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


def test_a_failing_forward_leaves_no_trace() -> None:
    model = chain().train()
    batch = image(channels=5)
    before = fingerprint(model)
    with pytest.raises(UnsupportedModel):
        discover(model, batch)
    assert fingerprint(model) == before
