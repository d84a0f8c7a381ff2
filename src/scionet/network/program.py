"""A network as a graph of operations on the gates of one site and on one example, taken apart by what depends on what.

Greedy selection evaluates a network for many gates on the same examples. What comes before the site's consumers does
not depend on the gates, and is computed once per example. What is affine in the gates (the consumers themselves, the
BatchNorm behind, the shortcut added to it) is known for all gates once it is known for each unit. Only what is left is
run for each candidate. Nothing of this is particular to an architecture: the graph is that of the tensor operations.
"""

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functionalize
from torch.fx import Graph, GraphModule, Node
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from scionet.network.rules import BATCH_NORMS, MOVES, PRODUCTS

aten = torch.ops.aten


class Level(IntEnum):
    """What a value depends on."""

    FIXED = 0
    """On nothing but the network."""
    EXAMPLE = 1
    """On the example."""
    AFFINE = 2
    """On the gates, affinely for each example."""
    ANY = 3
    """On the gates in any way."""


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
        self._root = _recorded(functionalize(function), [gate, *(tensor.contiguous() for tensor in example)])
        _gate_inputs(self._root.graph)
        _absorb_norms(self._root.graph)
        _reshape(self._root.graph)
        self._root.graph.eliminate_dead_code()
        _fold(self._root)
        self._levels = _levels(self._root.graph)

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
        first = _part(self._root, example, [*needed, *plain])
        rest = _part(self._root, [*affine, *plain], [output])
        return Parts(
            lambda *given: _split(first(*given), len(needed)),
            _part(self._root, [gate, *needed], affine),
            lambda *given: rest(*given)[0],
        )


def _part(root: GraphModule, given: Sequence[Node], wanted: Sequence[Node]) -> GraphModule:
    """The operations that lead from some values to others."""
    graph = Graph()
    copies = {node: graph.placeholder(node.name) for node in given}
    needed = _ancestors(wanted, given)
    for node in root.graph.nodes:
        if node in needed:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for node in wanted))
    return GraphModule(root, graph)


def _split(values: tuple[Tensor, ...], count: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    return values[:count], values[count:]


def _ancestors(wanted: Iterable[Node], given: Sequence[Node]) -> set[Node]:
    """All nodes from which some are computed, they themselves included, when others are given."""
    found: set[Node] = set()
    waiting = list(wanted)
    while waiting:
        node = waiting.pop()
        if node not in found and node not in given:
            found.add(node)
            waiting += node.all_input_nodes
    return found


def _sources(affine: Sequence[Node], levels: dict[Node, Level]) -> list[Node]:
    """The values of the example that affine ones are computed from."""
    inside = {node for node in _ancestors(affine, ()) if levels[node] == Level.AFFINE}
    return [node for node in levels if levels[node] == Level.EXAMPLE and inside & node.users.keys()]


# -- recording --------------------------------------------------------------------------------------------------------


def _recorded(function: Callable[..., Tensor], arguments: Sequence[Tensor]) -> GraphModule:
    """The operations of one call as a graph; tensors from outside become its buffers."""
    recorder = _Recorder(arguments)
    with recorder:
        out = function(*arguments)
    recorder.graph.output(recorder.node_of(out))
    return GraphModule(recorder.root, recorder.graph)


class _Recorder(TorchDispatchMode):
    """Writes down the operations that it sees."""

    def __init__(self, arguments: Sequence[Tensor]) -> None:
        super().__init__()
        self.graph, self.root = Graph(), nn.Module()
        self._nodes = WeakTensorKeyDictionary()
        self._alive = list(arguments)
        for number, tensor in enumerate(arguments):
            self._nodes[tensor] = self.graph.placeholder(f"argument{number}")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and make a node of it.

        Raises:
            RuntimeError: If it takes a number out of a tensor.
        """
        out = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, bool | int | float | complex) for leaf in tree_leaves(out)):
            raise RuntimeError(f"{func} takes a number out of a tensor: control flow that depends on the data")
        node = self.graph.call_function(func, tree_map(self.node_of, args), tree_map(self.node_of, kwargs or {}))
        for place, tensor in enumerate([out] if isinstance(out, Tensor) else out):
            if isinstance(tensor, Tensor):
                self._alive.append(tensor)
                parts = (node, place)
                self._nodes[tensor] = node if tensor is out else self.graph.call_function(operator.getitem, parts)
        return out

    def node_of(self, leaf: Any) -> Any:
        """The node that made a tensor; anything else as it is."""
        if not isinstance(leaf, Tensor):
            return leaf
        if leaf not in self._nodes:
            name = f"constant{len(self._alive)}"
            self._alive.append(leaf)
            self.root.register_buffer(name, leaf.detach())
            self._nodes[leaf] = self.graph.create_node("get_attr", name)
        return self._nodes[leaf]


# -- what depends on what ---------------------------------------------------------------------------------------------

_SUMS = frozenset("add sub cat".split())
_LINEAR = MOVES | PRODUCTS | frozenset("mul convolution clone neg mean sum avg_pool2d getitem channelwise".split())
"""Affine in any one argument that is not fixed for all gates."""


def _levels(graph: Graph) -> dict[Node, Level]:
    levels: dict[Node, Level] = {}
    gates = True  # the first placeholder
    for node in graph.nodes:
        if node.op == "placeholder":
            levels[node] = Level.AFFINE if gates else Level.EXAMPLE
            gates = False
        elif node.op != "output":
            levels[node] = _level(node, levels)
    return levels


def _level(node: Node, levels: dict[Node, Level]) -> Level:
    given = [levels[leaf] for leaf in tree_leaves((node.args, node.kwargs)) if isinstance(leaf, Node)]
    highest = max(given, default=Level.FIXED)
    linear = _name(node) in _SUMS or (_name(node) in _LINEAR and given.count(Level.AFFINE) == 1)
    return Level.ANY if highest == Level.AFFINE and not linear else highest


def _name(node: Node) -> str:
    packet = getattr(node.target, "overloadpacket", node.target)
    return getattr(packet, "__name__", str(packet))


# -- rewriting --------------------------------------------------------------------------------------------------------

_OPERANDS = {"convolution": (0, 1), "mm": (0, 1), "addmm": (1, 2)}
"""Where contractions have their input and their weight."""


def _gate_inputs(graph: Graph) -> None:
    """Move gates from the weights of contractions to their inputs: the same products, with weights all gates share."""
    levels = _levels(graph)
    for node in list(graph.nodes):
        name = _name(node)
        if name not in _OPERANDS or (name == "convolution" and (node.args[6] or node.args[8] != 1)):
            continue
        place, weight = _OPERANDS[name]
        turns = _turns(node.args[weight])
        product = turns[-1]
        if levels[product] == Level.AFFINE and _name(product) == "mul" and levels[product.args[0]] == Level.FIXED:
            dense, factors = product.args
            with graph.inserting_before(node):
                for turn in reversed(turns[:-1]):
                    dense = graph.call_function(turn.target, (dense, *turn.args[1:]))
                gated = graph.call_function(aten.mul.Tensor, (node.args[place], factors))
            node.update_arg(place, gated)
            node.update_arg(weight, dense)


def _turns(node: Node) -> list[Node]:
    """A node and what it is a transposition of, and so on."""
    chain = [node]
    while _name(chain[-1]) in ("t", "transpose", "permute"):
        chain.append(chain[-1].args[0])
    return chain


def _absorb_norms(graph: Graph) -> None:
    """Make BatchNorm with fixed statistics a part of the convolution before it, or one factor and one summand."""
    for node in list(graph.nodes):
        if _name(node) not in BATCH_NORMS or node.args[3] is None or node.args[5] is True:
            continue
        inputs, norm = node.args[0], (*node.args[1:5], node.args[-1])
        with graph.inserting_before(node):
            if _name(inputs) == "convolution" and len(inputs.users) == 1 and not inputs.args[6]:
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
    return inputs * scale.view(shape) + shift.view(shape)


def _scale_and_shift(
    weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """What BatchNorm does to each channel."""
    scale = (variance + eps).rsqrt() * (1 if weight is None else weight)
    return scale, (0 if bias is None else bias) - mean * scale


def _absorbed(weight: Tensor, bias: Tensor | None, *norm: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that does the BatchNorm behind it as well."""
    scale, shift = _scale_and_shift(*norm)
    return weight * scale.view(-1, *[1] * (weight.ndim - 1)), shift + (0 if bias is None else bias * scale)


def _reshape(graph: Graph) -> None:
    """Let views copy where they must: what is stacked or channels-last does not lie in memory as what was traced."""
    for node in graph.nodes:
        if node.target == aten.view.default:
            node.target = aten.reshape.default


def _fold(root: GraphModule) -> None:
    """Compute once what is fixed; pictures and kernels in the faster memory format."""
    graph, levels = root.graph, _levels(root.graph)
    fixed = [
        node
        for node, level in levels.items()
        if level == Level.FIXED and any(levels.get(user) != Level.FIXED for user in node.users)
    ]
    for number, (node, value) in enumerate(zip(fixed, _part(root, (), fixed)(), strict=True)):
        layout = torch.channels_last if value.ndim == 4 else torch.contiguous_format
        root.register_buffer(f"fixed{number}", value.detach().contiguous(memory_format=layout))
        with graph.inserting_before(node):
            node.replace_all_uses_with(graph.get_attr(f"fixed{number}"))
    graph.eliminate_dead_code()
