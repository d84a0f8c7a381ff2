"""What the values of a graph depend on, and the subgraph that computes some values from others."""

from collections.abc import Iterable, Sequence
from enum import IntEnum

from torch.fx import Graph, GraphModule, Node

from scionet.network.discovery.rules import MOVES, PRODUCTS
from scionet.torch_internals import tree_leaves


class Level(IntEnum):
    """What a value depends on, from nothing to the gates in any way."""

    FIXED = 0
    """Only on the network."""
    EXAMPLE = 1
    """On the example."""
    AFFINE = 2
    """On the gates, as an affine function for each example."""
    ANY = 3
    """On the gates in any way."""


_SUMS = frozenset("add sub cat".split())
_LINEAR = (
    MOVES
    | PRODUCTS
    | frozenset("mul convolution clone neg mean sum avg_pool2d _adaptive_avg_pool2d getitem channelwise".split())
)
"""Operations that are affine in each argument, if the others do not depend on the gates."""


def levels_of(graph: Graph) -> dict[Node, Level]:
    """The level of each node but the output. The first placeholder stands for the gates, the others for the example."""
    levels: dict[Node, Level] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            levels[node] = Level.EXAMPLE if levels else Level.AFFINE
        elif node.op != "output":
            levels[node] = _level(node, levels)
    return levels


def _level(node: Node, levels: dict[Node, Level]) -> Level:
    given = [levels[leaf] for leaf in tree_leaves((node.args, node.kwargs)) if isinstance(leaf, Node)]
    highest = max(given, default=Level.FIXED)
    linear = name_of(node) in _SUMS or (name_of(node) in _LINEAR and given.count(Level.AFFINE) == 1)
    return Level.ANY if highest == Level.AFFINE and not linear else highest


def name_of(node: Node) -> str:
    """Name of a node's operator, without namespace and overload."""
    packet = getattr(node.target, "overloadpacket", node.target)
    return getattr(packet, "__name__", str(packet))


def subgraph(root: GraphModule, given: Sequence[Node], wanted: Sequence[Node]) -> GraphModule:
    """The operations that compute some values from others.

    Args:
        root: The graph.
        given: The nodes whose values become arguments, in this order.
        wanted: The nodes whose values are returned as a tuple.
    """
    graph = Graph()
    copies = {node: graph.placeholder(node.name) for node in given}
    needed = ancestors(wanted, given)
    for node in root.graph.nodes:
        if node in needed:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for node in wanted))
    return GraphModule(root, graph)


def ancestors(wanted: Iterable[Node], given: Sequence[Node]) -> set[Node]:
    """The nodes that must be computed for the wanted ones, these included, when the values of `given` are known."""
    found: set[Node] = set()
    waiting = list(wanted)
    while waiting:
        node = waiting.pop()
        if node not in found and node not in given:
            found.add(node)
            waiting += node.all_input_nodes
    return found
