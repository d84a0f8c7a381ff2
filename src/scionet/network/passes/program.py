"""A network as a graph of operations on the gates of one site and on one example, taken apart by what depends on what.

Greedy selection evaluates a network for many gates on the same examples. What comes before the site's consumers does
not depend on the gates, and is computed once per example. What is affine in the gates (the consumers themselves, the
BatchNorm behind, the shortcut added to it) is known for all gates once it is known for each unit. Only what is left is
run for each candidate. Nothing of this is particular to an architecture: the graph is that of the tensor operations.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from scionet.network.discovery.rules import BATCH_NORMS
from scionet.network.passes.dependence import Level, ancestors, levels_of, name_of, part
from scionet.network.passes.recording import recorded

aten = torch.ops.aten


@dataclass(frozen=True, eq=False)
class Parts:
    """A program in three parts, to be run one after the other.

    Attributes:
        example: From the tensors of an example to what `gates` takes, and what `rest` takes of it.
        gates: From gates and the first of these to values that are affine in the gates.
        rest: From these values and the second of those to the output.
    """

    example: Callable[..., tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]
    gates: Callable[..., tuple[Tensor, ...]]
    rest: Callable[..., Tensor]


class Program:
    """A function of gates and one example as a graph without side effects.

    Contractions whose weights are gated get gated inputs instead, so that all gates share the weights; BatchNorm is
    made part of the convolution before it; what is fixed is computed once.

    Args:
        function: From gates ``(N,)`` and the tensors of one example to the output.
        gate: Some gates.
        example: Tensors of some example.
    """

    def __init__(self, function: Callable[..., Tensor], gate: Tensor, example: Sequence[Tensor]) -> None:
        self._root = recorded(function, [gate, *(tensor.contiguous() for tensor in example)])
        _gate_inputs(self._root.graph)
        _absorb_norms(self._root.graph)
        _free_layout(self._root.graph)
        self._root.graph.eliminate_dead_code()
        _fold(self._root)
        self._levels = levels_of(self._root.graph)

    def parts(self, ahead: Level) -> Parts:
        """The program with all operations up to a level (but `ANY`) done in the first two parts."""
        graph, levels = self._root.graph, self._levels
        gate, *example = [node for node in graph.nodes if node.op == "placeholder"]
        late = {
            node for node in graph.nodes if node.op == "output" or (node.op == "call_function" and levels[node] > ahead)
        }
        between = [
            node for node in graph.nodes if node not in late and node.op != "get_attr" and late & node.users.keys()
        ]
        affine = [node for node in between if levels[node] == Level.AFFINE]
        plain = [node for node in between if levels[node] == Level.EXAMPLE]
        needed = _sources(affine, levels)
        (output,) = next(node for node in graph.nodes if node.op == "output").all_input_nodes
        first = part(self._root, example, [*needed, *plain])
        rest = part(self._root, [*affine, *plain], [output])
        return Parts(
            lambda *given: _split(first(*given), len(needed)),
            part(self._root, [gate, *needed], affine),
            lambda *given: rest(*given)[0],
        )


def _split(values: tuple[Tensor, ...], count: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    return values[:count], values[count:]


def _sources(affine: Sequence[Node], levels: dict[Node, Level]) -> list[Node]:
    """The values of the example that affine ones are computed from."""
    inside = {node for node in ancestors(affine, ()) if levels[node] == Level.AFFINE}
    return [node for node in levels if levels[node] == Level.EXAMPLE and inside & node.users.keys()]


# -- rewriting --------------------------------------------------------------------------------------------------------

_OPERANDS = {"convolution": (0, 1), "mm": (0, 1), "addmm": (1, 2)}
"""Where contractions have their input and their weight."""


def _gate_inputs(graph: Graph) -> None:
    """Move gates from the weights of contractions to their inputs: the same products, with weights all gates share."""
    levels = levels_of(graph)
    for node in list(graph.nodes):
        name = name_of(node)
        if name not in _OPERANDS or (name == "convolution" and (node.args[6] or node.args[8] != 1)):
            continue
        place, weight = _OPERANDS[name]
        turns = _turns(node.args[weight])
        product: Any = turns[-1]
        if levels[product] == Level.AFFINE and name_of(product) == "mul" and levels[product.args[0]] == Level.FIXED:
            dense, factors = product.args
            with graph.inserting_before(node):
                for turn in reversed(turns[:-1]):
                    dense = graph.create_node("call_function", turn.target, (dense, *turn.args[1:]))
                gated = graph.call_function(aten.mul.Tensor, (node.args[place], factors))
            node.update_arg(place, gated)
            node.update_arg(weight, dense)


def _turns(node: Any) -> list[Any]:
    """A node and what it is a transposition of, and so on."""
    chain = [node]
    while name_of(chain[-1]) in ("t", "transpose", "permute"):
        chain.append(chain[-1].args[0])
    return chain


def _absorb_norms(graph: Graph) -> None:
    """Make BatchNorm with fixed statistics a part of the convolution before it, or one factor and one summand."""
    for node in list(graph.nodes):
        if name_of(node) not in BATCH_NORMS or node.args[3] is None or node.args[5] is True:
            continue
        inputs, norm = node.args[0], (*node.args[1:5], node.args[-1])
        with graph.inserting_before(node):
            if name_of(inputs) == "convolution" and len(inputs.users) == 1 and not inputs.args[6]:
                absorbed = graph.call_function(_absorbed, (*inputs.args[1:3], *norm))
                weight, bias = (graph.call_function(operator.getitem, (absorbed, place)) for place in (0, 1))
                out = graph.call_function(aten.convolution.default, (inputs.args[0], weight, bias, *inputs.args[3:]))
            else:
                both = graph.call_function(_scale_and_shift, norm)
                scale, shift = (graph.call_function(operator.getitem, (both, place)) for place in (0, 1))
                out = graph.call_function(channelwise, (inputs, scale, shift))
        for user in list(node.users):
            if user.args[1] == 0:
                user.replace_all_uses_with(out)


def channelwise(inputs: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Channels (dimension 1) multiplied and shifted."""
    shape = (1, -1, *[1] * (inputs.ndim - 2))
    return inputs * scale.view(shape).to(inputs.dtype) + shift.view(shape).to(inputs.dtype)


def _scale_and_shift(
    weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """What BatchNorm does to each channel."""
    scale = (variance + eps).rsqrt() * (1 if weight is None else weight)
    return scale, (0 if bias is None else bias) - mean * scale


def _absorbed(weight: Tensor, bias: Tensor | None, *norm: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that does the BatchNorm behind it as well."""
    scale, shift = _scale_and_shift(*norm)
    wide = weight * scale.view(-1, *[1] * (weight.ndim - 1))
    return wide.to(weight.dtype), (shift + (0 if bias is None else bias * scale)).to(weight.dtype)


def _free_layout(graph: Graph) -> None:
    """Let views copy where they must, and copies keep the layout: stacked tensors lie in memory in other ways."""
    for node in graph.nodes:
        if node.target in (aten.view.default, aten._unsafe_view.default):
            node.target = aten.reshape.default
        if "memory_format" in node.kwargs:
            node.kwargs = {key: value for key, value in node.kwargs.items() if key != "memory_format"}


def _fold(root: GraphModule) -> None:
    """Compute once what is fixed; pictures and kernels in the faster memory format."""
    graph, levels = root.graph, levels_of(root.graph)
    fixed = [
        node
        for node, level in levels.items()
        if level == Level.FIXED and any(levels.get(user) != Level.FIXED for user in node.users)
    ]
    for number, (node, value) in enumerate(zip(fixed, part(root, (), fixed)(), strict=True)):
        layout = torch.channels_last if value.ndim == 4 else torch.contiguous_format
        root.register_buffer(f"fixed{number}", value.detach().contiguous(memory_format=layout))
        with graph.inserting_before(node):
            node.replace_all_uses_with(graph.get_attr(f"fixed{number}"))
    graph.eliminate_dead_code()
