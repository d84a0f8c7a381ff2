"""A network as a program of the gates of one site and one example, divided by what depends on the gates.

Greedy selection evaluates a network for many gates on the same examples. The operations before the site's consumers do
not depend on the gates and run once per example. The next ones (the consumers, the BatchNorm behind them, the sum with
a shortcut) are affine in the gates. Their values for each unit give their values for all gates. Only the rest runs for
every candidate. The graph consists of tensor operations, so the division works for any architecture.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from scionet.network.discovery.rules import BATCH_NORMS
from scionet.network.passes.dependence import Level, ancestors, levels_of, name_of, subgraph
from scionet.network.passes.recording import recorded

aten = torch.ops.aten


@dataclass(frozen=True, eq=False)
class Parts:
    """A program in three parts that run one after the other.

    Attributes:
        example: Maps the tensors of an example to two tuples of values: the arguments of `gates`, and those of `rest`.
        gates: Maps gates and the first tuple to values that are affine in the gates.
        rest: Maps these values and the second tuple to the outputs.
    """

    example: Callable[..., tuple[tuple[Tensor, ...], tuple[Tensor, ...]]] = field(repr=False)
    gates: Callable[..., tuple[Tensor, ...]] = field(repr=False)
    rest: Callable[..., tuple[Tensor, ...]] = field(repr=False)


class Program:
    """A function of gates and one example as a graph without side effects.

    The recorded graph is rewritten: gates on weights become gates on inputs, so that all gates share the weights;
    BatchNorm is merged into the convolution before it; values that depend on neither argument are computed once.

    Args:
        function: Maps gates ``(N,)`` and the tensors of one example to the outputs.
        gate: Gates to record the call with.
        example: Tensors of an example to record the call with.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], gate: Tensor, example: Sequence[Tensor]) -> None:
        self._root = recorded(function, [gate, *(tensor.contiguous() for tensor in example)])
        _gate_inputs(self._root.graph)
        _absorb_norms(self._root.graph)
        _free_layout(self._root.graph)
        self._root.graph.eliminate_dead_code()
        _fold(self._root)
        self._levels = levels_of(self._root.graph)

    def parts(self, ahead: Level) -> Parts:
        """The program in parts, the first two of which contain all operations up to a level below `ANY`."""
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
        (outputs,) = next(node for node in graph.nodes if node.op == "output").args
        first = subgraph(self._root, example, [*needed, *plain])
        return Parts(
            lambda *given: _split(first(*given), len(needed)),
            subgraph(self._root, [gate, *needed], affine),
            subgraph(self._root, [*affine, *plain], cast(Sequence[Node], outputs)),
        )


def _split(values: tuple[Tensor, ...], count: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    return values[:count], values[count:]


def _sources(affine: Sequence[Node], levels: dict[Node, Level]) -> list[Node]:
    """The values of the example from which the affine ones are computed."""
    inside = {node for node in ancestors(affine, ()) if levels[node] == Level.AFFINE}
    return [node for node in levels if levels[node] == Level.EXAMPLE and inside & node.users.keys()]


# -- rewriting --------------------------------------------------------------------------------------------------------

_OPERANDS = {"convolution": (0, 1), "mm": (0, 1), "addmm": (1, 2)}
"""Positions of the input and the weight among the arguments of contractions."""


def _gate_inputs(graph: Graph) -> None:
    """Move gates from the weights of contractions to their inputs: the products are equal, the weights are shared."""
    levels = levels_of(graph)
    for node in list(graph.nodes):
        name = name_of(node)
        if name not in _OPERANDS or (name == "convolution" and (node.args[6] or node.args[8] != 1)):
            continue
        place, weight = _OPERANDS[name]
        transpositions = _transpositions(node.args[weight])
        product: Any = transpositions[-1]
        if levels[product] == Level.AFFINE and name_of(product) == "mul" and levels[product.args[0]] == Level.FIXED:
            dense, factors = product.args
            with graph.inserting_before(node):
                for step in reversed(transpositions[:-1]):
                    dense = graph.create_node("call_function", step.target, (dense, *step.args[1:]))
                gated = graph.call_function(aten.mul.Tensor, (node.args[place], factors))
            node.update_arg(place, gated)
            node.update_arg(weight, dense)


def _transpositions(node: Any) -> list[Any]:
    """A node, the node that it transposes, and so on down to one that is not a transposition."""
    chain = [node]
    while name_of(chain[-1]) in ("t", "transpose", "permute"):
        chain.append(chain[-1].args[0])
    return chain


def _absorb_norms(graph: Graph) -> None:
    """Merge BatchNorm with fixed statistics into the convolution before it, or else into one scale and one shift."""
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
            if user.args[1] == 0:  # the normalised values; the other results are statistics, which nothing reads
                user.replace_all_uses_with(out)


def channelwise(inputs: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Multiply and shift each channel (dimension 1)."""
    shape = (1, -1, *[1] * (inputs.ndim - 2))
    return inputs * scale.view(shape).to(inputs.dtype) + shift.view(shape).to(inputs.dtype)


def _scale_and_shift(
    weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The factor and the summand of each channel that BatchNorm applies."""
    scale = (variance + eps).rsqrt() * (1 if weight is None else weight)
    return scale, (0 if bias is None else bias) - mean * scale


def _absorbed(weight: Tensor, bias: Tensor | None, *norm: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that includes the BatchNorm behind it."""
    scale, shift = _scale_and_shift(*norm)
    wide = weight * scale.view(-1, *[1] * (weight.ndim - 1))
    return wide.to(weight.dtype), (shift + (0 if bias is None else bias * scale)).to(weight.dtype)


def _free_layout(graph: Graph) -> None:
    """Let views copy if they must, and let copies keep their layout.

    `vmap` runs the graph on stacked tensors. Their strides differ from the recorded ones, so a view or a memory format
    that was possible for one example may be impossible for a stack of them.
    """
    for node in graph.nodes:
        if node.target in (aten.view.default, aten._unsafe_view.default):
            node.target = aten.reshape.default
        if "memory_format" in node.kwargs:
            node.kwargs = {key: value for key, value in node.kwargs.items() if key != "memory_format"}


def _fold(root: GraphModule) -> None:
    """Compute fixed values once and store them as buffers.

    Values of four dimensions are stored in the channels-last format, in which convolutions are faster.
    """
    graph, levels = root.graph, levels_of(root.graph)
    fixed = [
        node
        for node, level in levels.items()
        if level == Level.FIXED and any(levels.get(user) != Level.FIXED for user in node.users)
    ]
    for number, (node, value) in enumerate(zip(fixed, subgraph(root, (), fixed)(), strict=True)):
        layout = torch.channels_last if value.ndim == 4 else torch.contiguous_format
        root.register_buffer(f"fixed{number}", value.detach().contiguous(memory_format=layout))
        with graph.inserting_before(node):
            node.replace_all_uses_with(graph.get_attr(f"fixed{number}"))
    graph.eliminate_dead_code()
