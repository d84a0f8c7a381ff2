"""One network called with several sets of other tensors: what comes before the first of each is computed once."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, cast

from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

from scionet.network.calling import Batch, call, example_count, state_of, tensors_of, undisturbed
from scionet.network.passes.dependence import part
from scionet.network.passes.recording import recorded
from scionet.network.surgery.gates import call_with
from scionet.torch_internals import tree_flatten, tree_leaves, tree_map, tree_unflatten

_ELEMENTS = 2**17
"""Entries of the inputs that go through at once: while a call is recorded, all its activations are in memory."""
_EXAMPLES = 4
"""Fewer at once are slow, however large."""
_ROUNDING = 1e-3
"""A recorded call differs by less from the network's own, relative to the largest output."""

Change = Mapping[str, Tensor]
"""Tensors that take the places of parameters and buffers of the same names."""


def run_variants(model: nn.Module, changes: Sequence[Change], batch: Batch) -> Iterator[list[Tensor]]:
    """What the network gives with each of the `changes`, for one part of a batch after the other.

    The call is recorded as a graph. The dense network is run once; where the first tensor of a change is used, the rest
    of the graph is run with the change. A network whose call cannot be recorded is called anew for each change.

    Args:
        model: The dense network.
        changes: What else to call it with.
        batch: Inputs on its device, the examples as first dimension of all tensors.

    Yields:
        For each part the first output with each change.
    """
    graphs: dict[tuple[Any, ...], _Forks | None] = {}
    for piece in _pieces(batch):
        form = tuple(getattr(leaf, "shape", leaf) for leaf in tree_leaves(piece))
        with undisturbed(model):
            if form not in graphs:
                graphs[form] = _recorded(model, changes, piece) if len(changes) > 1 else None
            forks = graphs[form]
            outputs = _called(model, changes, piece) if forks is None else forks.outputs(piece)
        yield outputs


def _pieces(batch: Batch) -> Iterator[Batch]:
    """Parts of a batch, in order; the batch itself if a tensor has no examples to be parted."""
    tensors, count = list(tensors_of(batch)), example_count(batch)
    if any(not tensor.ndim or len(tensor) != count for tensor in tensors):
        yield batch
        return
    size = max(_EXAMPLES, _ELEMENTS * count // max(1, sum(tensor.numel() for tensor in tensors)))
    for start in range(0, count, size):
        yield tree_map(lambda leaf, at=start: leaf[at : at + size] if isinstance(leaf, Tensor) else leaf, batch)


def _called(model: nn.Module, changes: Sequence[Change], batch: Batch) -> list[Tensor]:
    """The same by one call for each."""
    return [next(tensors_of(call_with(model, change, batch))) for change in changes]


def _recorded(model: nn.Module, changes: Sequence[Change], batch: Batch) -> "_Forks | None":
    """The graph of a call; None if it cannot be recorded, or is not what the network does."""
    try:
        forks = _Forks(model, changes, batch)
        found = forks.dense(batch)
    except (RuntimeError, NotImplementedError):  # control flow that depends on the data, operations that torch cannot
        return None
    expected = next(tensors_of(call(model, batch)))
    same = expected.shape == found.shape and bool((found - expected).abs().max() <= _ROUNDING * expected.abs().max())
    return forks if same else None


class _Forks:
    """A recorded call, and the rest of it from where each change sets in."""

    def __init__(self, model: nn.Module, changes: Sequence[Change], batch: Batch) -> None:
        state = state_of(model)
        self._names = sorted({name for change in changes for name in change})
        self._dense, self._changes = [state[name] for name in self._names], changes
        leaves, form = tree_flatten(batch)
        places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

        def run(*given: Tensor) -> Tensor:
            tensors, inputs = given[: len(self._names)], list(leaves)
            for place, tensor in zip(places, given[len(self._names) :], strict=True):
                inputs[place] = tensor
            replaced = dict(zip(self._names, tensors, strict=True))
            return next(tensors_of(call_with(model, replaced, tree_unflatten(inputs, form))))

        self._root: GraphModule = recorded(run, [*self._dense, *(leaves[place] for place in places)])
        self._root.graph.eliminate_dead_code()

    def dense(self, batch: Batch) -> Tensor:
        """The output with the network's own tensors."""
        return self._root(*self._dense, *tensors_of(batch))

    def outputs(self, batch: Batch) -> list[Tensor]:
        """The output with each change."""
        walk = _Walk(self._root, self._forks, self._changes)
        dense = cast(Tensor, walk.run(*self._dense, *tensors_of(batch)))
        return [walk.outputs.get(number, dense) for number in range(len(self._changes))]

    @cached_property
    def _forks(self) -> dict[Node, list["_Fork"]]:
        """By the operation where they set in."""
        nodes = list(self._root.graph.nodes)
        places = {node: place for place, node in enumerate(nodes)}
        parameters = dict(zip(self._names, nodes, strict=False))
        forks: dict[Node, list[_Fork]] = {}
        for number, change in enumerate(self._changes):
            users = [user for name in change for user in parameters[name].users]
            if users:
                start = min(users, key=places.__getitem__)
                forks.setdefault(start, []).append(_Fork.of(self._root, number, places, start, parameters))
        return forks


class _Fork:
    """The rest of a graph from one operation on."""

    def __init__(self, number: int, live: list[Node], names: Mapping[Node, str], rest: GraphModule) -> None:
        self.number, self._live, self._names, self._rest = number, live, names, rest

    @classmethod
    def of(
        cls, root: GraphModule, number: int, places: Mapping[Node, int], start: Node, parameters: Mapping[str, Node]
    ) -> "_Fork":
        """What is alive just before an operation, and what leads from that to the output."""
        live = [
            node
            for node, place in places.items()
            if place < places[start] and any(places[user] >= places[start] for user in node.users)
        ]
        (output,) = next(node for node in places if node.op == "output").all_input_nodes
        return cls(number, live, {node: name for name, node in parameters.items()}, part(root, live, [output]))

    def run(self, values: Mapping[Node, Any], change: Change) -> Tensor:
        """The output with a change, given the values of the dense network."""
        given = []
        for node in self._live:
            name = self._names.get(node, "")
            given.append(change[name].to(values[node]) if name in change else values[node])
        return self._rest(*given)[0]


class _Walk(Interpreter):
    """Runs the dense graph, and from where changes set in, the rest with each of them."""

    def __init__(self, root: GraphModule, forks: Mapping[Node, list[_Fork]], changes: Sequence[Change]) -> None:
        super().__init__(root)
        self._forks, self._changes = forks, changes
        self.outputs: dict[int, Tensor] = {}

    def run_node(self, n: Node) -> Any:
        """Run the forks that set in here, then the operation itself."""
        for fork in self._forks.get(n, ()):
            self.outputs[fork.number] = fork.run(self.env, self._changes[fork.number])
        return super().run_node(n)
