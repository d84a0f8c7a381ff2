"""Calling a network with several sets of replaced tensors; operations before the first replaced one run only once."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, cast

from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from scionet.network.calling import Batch, tensors_of
from scionet.network.named_outputs import Pick, Tensors
from scionet.network.network import Network
from scionet.network.passes.dependence import subgraph
from scionet.network.passes.recording import recorded
from scionet.torch_internals import tree_flatten, tree_leaves, tree_map, tree_unflatten

_INPUT_ENTRIES = 2**17
"""Entries of the inputs in one part of a batch: while a call is recorded, all its activations are in memory."""
_FEWEST_EXAMPLES = 4
"""Examples in one part, however large they are; smaller parts are slow."""
_ROUNDING = 1e-3
"""Largest difference between a recorded call and the network's own, relative to the largest output."""

Change = Mapping[str, Tensor]
"""Tensors that replace the parameters and buffers of the same names."""


def run_variants(
    network: Network, changes: Sequence[Change], batches: Iterable[Batch], pick: Pick
) -> Iterator[list[Tensors]]:
    """The network's outputs with each of several changes, for one batch at a time.

    The call is recorded as a graph. The dense network runs once. From the first operation that reads a tensor of a
    change, the rest of the graph also runs with that change. A network whose call cannot be recorded is called once for
    each change. So is one of which changes replace outputs of modules.

    Args:
        network: The dense network.
        changes: The sets of tensors to call it with.
        batches: Inputs on its device, small enough to be recorded; see `pieces`.
        pick: Takes the outputs from what the network returns.

    Yields:
        For each batch, the outputs with each change.
    """
    graphs: dict[tuple[Any, ...], _RecordedVariants | None] = {}
    worthwhile = len(changes) > 1 and all(name in network.state for change in changes for name in change)
    for batch in batches:
        form = tuple(getattr(leaf, "shape", leaf) for leaf in tree_leaves(batch))
        with network.evaluating():
            if form not in graphs:
                graphs[form] = _recorded(network, changes, batch, pick) if worthwhile else None
            variants = graphs[form]
            outputs = _called(network, changes, batch, pick) if variants is None else variants.outputs(batch)
        yield outputs


def pieces(batch: Any) -> Iterator[Any]:
    """Parts of a batch that are small enough to be recorded, in order; the whole batch if it cannot be divided.

    Args:
        batch: Inputs, or a pair of inputs and outputs; dimension 0 of all tensors is that of the examples.
    """
    tensors = list(tensors_of(batch))
    count = len(tensors[0]) if tensors[0].ndim else 0
    if not count or any(not tensor.ndim or len(tensor) != count for tensor in tensors):
        yield batch
        return
    size = max(_FEWEST_EXAMPLES, _INPUT_ENTRIES * count // max(1, sum(tensor.numel() for tensor in tensors)))
    for start in range(0, count, size):
        yield tree_map(lambda leaf, at=start: leaf[at : at + size] if isinstance(leaf, Tensor) else leaf, batch)


def _called(network: Network, changes: Sequence[Change], batch: Batch, pick: Pick) -> list[Tensors]:
    """The outputs with each change, by one call for each."""
    return [pick(network.returned(batch, change)) for change in changes]


def _recorded(network: Network, changes: Sequence[Change], batch: Batch, pick: Pick) -> "_RecordedVariants | None":
    """The recorded call; None if it cannot be recorded, or computes something other than the network."""
    try:
        variants = _RecordedVariants(network, changes, batch, pick)
        found = variants.dense(batch)
    except (RuntimeError, NotImplementedError):  # control flow that depends on data, or an unsupported operation
        return None
    expected = pick(network.returned(batch))
    same = all(_near(one, other) for one, other in zip(found, expected, strict=True))
    return variants if same else None


def _near(found: Tensor, expected: Tensor) -> bool:
    """Whether two outputs are the same but for rounding."""
    if found.shape != expected.shape or not expected.numel():
        return found.shape == expected.shape
    return bool((found - expected).abs().max() <= _ROUNDING * expected.abs().max())


class _RecordedVariants:
    """A recorded call of the dense network, and for each change the rest of it from where the change takes effect."""

    def __init__(self, network: Network, changes: Sequence[Change], batch: Batch, pick: Pick) -> None:
        self._names = sorted({name for change in changes for name in change})
        self._dense, self._changes = [network.state[name] for name in self._names], changes
        leaves, form = tree_flatten(batch)
        places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

        def run(*given: Tensor) -> Tensors:
            tensors, inputs = given[: len(self._names)], list(leaves)
            for place, tensor in zip(places, given[len(self._names) :], strict=True):
                inputs[place] = tensor
            change = dict(zip(self._names, tensors, strict=True))
            return pick(network.returned(tree_unflatten(inputs, form), change))

        self._root: GraphModule = recorded(run, [*self._dense, *(leaves[place] for place in places)])
        self._root.graph.eliminate_dead_code()

    def dense(self, batch: Batch) -> Tensors:
        """The outputs with the network's own tensors."""
        return self._root(*self._dense, *tensors_of(batch))

    def outputs(self, batch: Batch) -> list[Tensors]:
        """The outputs with each change."""
        interpreter = _VariantInterpreter(self._root, self._remainders, self._changes)
        dense = cast(Tensors, interpreter.run(*self._dense, *tensors_of(batch)))
        return [interpreter.outputs.get(number, dense) for number in range(len(self._changes))]

    @cached_property
    def _remainders(self) -> dict[Node, list["_Remainder"]]:
        """The rest of the graph for each change, by the operation at which it begins."""
        nodes = list(self._root.graph.nodes)
        places = {node: place for place, node in enumerate(nodes)}
        parameters = dict(zip(self._names, nodes, strict=False))
        remainders: dict[Node, list[_Remainder]] = {}
        for number, change in enumerate(self._changes):
            users = [user for name in change for user in parameters[name].users]
            if users:
                start = min(users, key=places.__getitem__)
                remainders.setdefault(start, []).append(_Remainder.of(self._root, number, places, start, parameters))
        return remainders


class _Remainder:
    """The rest of a graph from the operation at which one change takes effect."""

    def __init__(self, number: int, live: list[Node], names: Mapping[Node, str], rest: GraphModule) -> None:
        self.number, self._live, self._names, self._rest = number, live, names, rest

    @classmethod
    def of(
        cls, root: GraphModule, number: int, places: Mapping[Node, int], start: Node, parameters: Mapping[str, Node]
    ) -> "_Remainder":
        """The rest of a graph, as a function of the values that are live just before `start`.

        Args:
            root: The graph.
            number: Index of the change.
            places: Position of every node.
            start: The first operation that reads a tensor of the change.
            parameters: The placeholder of every tensor that some change replaces.
        """
        live = [
            node
            for node, place in places.items()
            if place < places[start] and any(places[user] >= places[start] for user in node.users)
        ]
        (outputs,) = next(node for node in places if node.op == "output").args
        rest = subgraph(root, live, cast(Sequence[Node], outputs))
        return cls(number, live, {node: name for name, node in parameters.items()}, rest)

    def run(self, values: Mapping[Node, Any], change: Change) -> Tensors:
        """The outputs with a change, given the live values of the dense network."""
        given = []
        for node in self._live:
            name = self._names.get(node, "")
            given.append(change[name].to(values[node]) if name in change else values[node])
        return self._rest(*given)


class _VariantInterpreter(Interpreter):
    """Runs the dense graph, and at each operation the remainders that begin there.

    A remainder runs while the values that it needs are at hand, so no activation is kept until the end of the pass.
    """

    def __init__(
        self, root: GraphModule, remainders: Mapping[Node, list[_Remainder]], changes: Sequence[Change]
    ) -> None:
        super().__init__(root)
        self._remainders, self._changes = remainders, changes
        self.outputs: dict[int, Tensors] = {}

    def run_node(self, n: Node) -> Any:
        """Run the remainders that begin at an operation, then the operation itself."""
        for remainder in self._remainders.get(n, ()):
            self.outputs[remainder.number] = remainder.run(self.env, self._changes[remainder.number])
        return super().run_node(n)
