"""A table of small networks with the sites and refusals that are known by hand."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from support.small_networks import Net, SamePadding, chain, conv, image, pooled, residual
from torch import Tensor, nn
from torch.nn import functional

from scionet.network.calling import Batch

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


def in_heads(x: Tensor) -> Tensor:
    """From ``(batch, token, channel)`` to ``(batch, head, token, 4)``."""
    return x.unflatten(-1, (-1, 4)).transpose(1, 2)


def attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return (torch.softmax(query @ key.transpose(-1, -2) / 2, -1) @ value).transpose(1, 2).flatten(2)


def heads(m: Any, x: Tensor) -> Tensor:
    return m.out(attended(in_heads(m.query(x)), in_heads(m.key(x)), in_heads(m.value(x))))


def normalised_heads(m: Any, x: Tensor) -> Tensor:
    return m.out(attended(m.norm(in_heads(m.query(x))), m.norm(in_heads(m.key(x))), in_heads(m.value(x))))


def cosine_heads(m: Any, x: Tensor) -> Tensor:
    query, key = (functional.normalize(in_heads(layer(x)), dim=-1) for layer in (m.query, m.key))
    return m.out(attended(query, key, in_heads(m.value(x))))


def rotated(x: Tensor) -> Tensor:
    """Rotary position embedding: pairs of channels are turned by an angle that grows with the token."""
    first, second = x.chunk(2, -1)
    angle = torch.outer(torch.arange(x.shape[-2]), torch.tensor([1.0, 0.1, 1.0, 0.1])).to(x)
    return x * angle.cos() + torch.cat([-second, first], -1) * angle.sin()


def rotary_heads(m: Any, x: Tensor) -> Tensor:
    return m.out(attended(rotated(in_heads(m.query(x))), rotated(in_heads(m.key(x))), in_heads(m.value(x))))


def grouped_query(m: Any, x: Tensor) -> Tensor:
    key, value = (in_heads(layer(x)).repeat_interleave(2, 1) for layer in (m.key, m.value))
    return m.out(attended(in_heads(m.query(x)), key, value))


def cross_covariance(m: Any, x: Tensor) -> Tensor:
    query, key, value = (in_heads(layer(x)).transpose(-1, -2) for layer in (m.query, m.key, m.value))
    return m.out((torch.softmax(query @ key.transpose(-1, -2), -1) @ value).permute(0, 3, 1, 2).flatten(2))


def talking_heads(m: Any, x: Tensor) -> Tensor:
    query, key, value = (in_heads(layer(x)) for layer in (m.query, m.key, m.value))
    scores = m.talk((query @ key.transpose(-1, -2)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return m.out((torch.softmax(scores, -1) @ value).transpose(1, 2).flatten(2))


def three_heads(m: Any, x: Tensor) -> Tensor:
    query, key, value = (layer(x).view(2, 5, 3, 4).transpose(1, 2) for layer in (m.query, m.key, m.value))
    return m.out(attended(query, key, value))


def projections(**widths: int) -> dict[str, nn.Module]:
    """Linear maps of 8 channels to so many, and back from the last."""
    made: dict[str, nn.Module] = {name: nn.Linear(8, width) for name, width in widths.items()}
    return {**made, "out": nn.Linear(widths["query"], 8)}


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
    "square transposed convolution": case(
        lambda m, x: m.c(relu(m.up(relu(m.b(relu(m.a(x))))))),
        {"a": 4},
        {"b": "convolution", "up": "convolution", "c": "output"},
        a=conv(3, 4),
        b=conv(4, 5),
        up=nn.ConvTranspose2d(5, 5, 2, 2),
        c=conv(5, 2),
    ),
    "hard-coded view": case(
        hard_coded_view,
        {"a": 4},
        {"b": "provisional cut", "head": "output"},
        a=conv(3, 4),
        b=conv(4, 6),
        head=nn.Linear(384, 2),
    ),
    "normalisation over channels": case(
        normalised, {}, {"a": "linalg_vector_norm", "b": "output"}, a=conv(3, 4), b=conv(4, 2)
    ),
    "norm of integer order over channels": case(
        lambda m, x: m.b(m.a(x) / torch.linalg.vector_norm(m.a(x), 2, dim=1, keepdim=True)),
        {},
        {"a": "linalg_vector_norm", "b": "output"},
        a=conv(3, 4),
        b=conv(4, 2),
    ),
    "norm over pixels": case(
        lambda m, x: m.b(m.a(x) / torch.linalg.vector_norm(m.a(x), 1, dim=(2, 3), keepdim=True)),
        {"a": 4},
        {"b": "output"},
        a=conv(3, 4),
        b=conv(4, 2),
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
    "channels reversed": case(lambda m, x: m.b(m.a(x).flip(1)), {"a": 4}, {"b": "output"}, a=conv(3, 4), b=conv(4, 2)),
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
    "attention heads": case(
        heads, {"query": 3}, {"out": "output"}, SEQUENCE, **projections(query=12, key=12, value=12)
    ),
    "normalised queries and keys": case(
        normalised_heads,
        {"query": 3},
        {"out": "output"},
        SEQUENCE,
        norm=nn.LayerNorm(4),
        **projections(query=12, key=12, value=12),
    ),
    "cosine attention": case(
        cosine_heads, {"query": 3}, {"out": "output"}, SEQUENCE, **projections(query=12, key=12, value=12)
    ),
    "rotary position embedding": case(
        rotary_heads, {"query": 3}, {"out": "output"}, SEQUENCE, **projections(query=12, key=12, value=12)
    ),
    "grouped-query attention": case(
        grouped_query, {"key": 3}, {"out": "output"}, SEQUENCE, **projections(query=24, key=12, value=12)
    ),
    "cross-covariance attention": case(
        cross_covariance, {"query": 3}, {"out": "output"}, SEQUENCE, **projections(query=12, key=12, value=12)
    ),
    "talking heads": case(
        talking_heads,
        {"query": 3, "value": 3},
        {"out": "output"},
        SEQUENCE,
        talk=nn.Linear(3, 3),
        **projections(query=12, key=12, value=12),
    ),
    "number of heads written into a forward": case(
        three_heads,
        {},
        {"query": "provisional cut", "out": "output"},
        SEQUENCE,
        **projections(query=12, key=12, value=12),
    ),
    "multi-head attention": case(
        lambda m, x: m.b(relu(m.a(m.attention(x, x, x, need_weights=False)[0]))),
        {"attention": 2, "attention.out_proj": 8, "a": 5},
        {"b": "output"},
        SEQUENCE,
        attention=nn.MultiheadAttention(8, 2, batch_first=True),
        a=nn.Linear(8, 5),
        b=nn.Linear(5, 2),
    ),
    "transformer layer with a mask": case(
        lambda m, x, mask: m.layer(m.embed(x), mask),
        {"layer.self_attn": 2, "layer.linear1": 12},
        {"embed": "native_layer_norm"},
        (SEQUENCE, torch.ones(5, 5, dtype=torch.bool).triu(1)),
        embed=nn.Linear(8, 6),
        layer=nn.TransformerEncoderLayer(6, 2, 12, batch_first=True, norm_first=True),
    ),
    "transformer layer with padding": case(
        lambda m, x, padding: m.layer(m.embed(x), None, padding),
        {"layer.linear1": 12},
        {"embed": "native_layer_norm", "layer.self_attn": "add"},
        (SEQUENCE, torch.arange(5).expand(2, 5) > 3),
        embed=nn.Linear(8, 6),
        layer=nn.TransformerEncoderLayer(6, 2, 12, batch_first=True, norm_first=True),
    ),
    "mean attention weights": case(
        lambda m, x: m.b(relu(m.a(m.attention(x, x, x)[0]))),
        {"attention.out_proj": 8, "a": 5},
        {"attention": "mean", "b": "output"},
        SEQUENCE,
        attention=nn.MultiheadAttention(8, 2, batch_first=True),
        a=nn.Linear(8, 5),
        b=nn.Linear(5, 2),
    ),
    "attention of one sequence to another": case(
        lambda m, x: m.b(relu(m.a(m.attention(x, x.flip(1), x.flip(1), need_weights=False)[0]))),
        {"attention.out_proj": 8, "a": 5},
        {"attention": "mm", "b": "output"},
        SEQUENCE,
        attention=nn.MultiheadAttention(8, 2, batch_first=True),
        a=nn.Linear(8, 5),
        b=nn.Linear(5, 2),
    ),
    "attention with a learned key": case(
        lambda m, x: m.b(relu(m.a(m.attention(x, x, x, need_weights=False)[0]))),
        {"attention.out_proj": 8, "a": 5},
        {"attention": "provisional cut", "b": "output"},
        SEQUENCE,
        attention=nn.MultiheadAttention(8, 2, batch_first=True, add_bias_kv=True),
        a=nn.Linear(8, 5),
        b=nn.Linear(5, 2),
    ),
    "transformer layer": case(
        lambda m, x: m.layer(m.embed(x)),
        {"layer.self_attn": 2, "layer.linear1": 12},
        {"embed": "native_layer_norm", "layer.linear2": "add"},
        SEQUENCE,
        embed=nn.Linear(8, 6),
        layer=nn.TransformerEncoderLayer(6, 2, 12, batch_first=True),
    ),
}
