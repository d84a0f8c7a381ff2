"""Recording one call of a function as a graph of tensor operations without side effects."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functionalize
from torch.fx import Graph, GraphModule, Node

from scionet.torch_internals import DispatchMode, WeakTensorKeyDictionary, tree_leaves, tree_map


def recorded(function: Callable[..., tuple[Tensor, ...]], arguments: Sequence[Tensor]) -> GraphModule:
    """Record one call of a function as a graph with a placeholder for each argument.

    Tensors that are not arguments become buffers of the graph. In-place operations are recorded as operations that
    return new tensors.

    Args:
        function: Returns a tuple of tensors.
        arguments: Tensors to call it with.

    Raises:
        RuntimeError: If the function reads a number from a tensor that depends on the arguments.
    """
    recorder = _Recorder(arguments)
    with recorder:
        out = functionalize(function)(*arguments)
    recorder.graph.output(tree_map(recorder.node_of, out))
    return GraphModule(recorder.root, recorder.graph)


class _Recorder(DispatchMode):
    """Records every operation as a node of a graph."""

    def __init__(self, arguments: Sequence[Tensor]) -> None:
        super().__init__()
        self.graph, self.root = Graph(), nn.Module()
        self._nodes = WeakTensorKeyDictionary()
        # `_nodes` has weak keys; this keeps every tensor of the call alive, and so its node known.
        self._alive: list[Tensor] = []
        for number, tensor in enumerate(arguments):
            self._keep(tensor, self.graph.placeholder(f"argument{number}"))
        self._varying = set(self.graph.nodes)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and record it.

        Raises:
            RuntimeError: If it reads a number from a tensor that depends on the arguments.
        """
        if func is torch.ops.aten.as_strided_.default and _leaves_entries(*args):
            return args[0]
        given = tree_map(self.node_of, (args, kwargs or {}))
        out = func(*args, **(kwargs or {}))
        varies = any(leaf in self._varying for leaf in tree_leaves(given) if isinstance(leaf, Node))
        if any(isinstance(leaf, bool | int | float | complex) for leaf in tree_leaves(out)):
            if varies:
                raise RuntimeError(f"{func} reads a number from a tensor: the control flow depends on the data")
            return out
        node = self._call(func, given[0], given[1], varies)
        if isinstance(out, Tensor):
            self._keep(out, node)
        for place, tensor in enumerate(out if isinstance(out, tuple | list) else ()):
            if isinstance(tensor, Tensor):
                self._keep(tensor, self._call(operator.getitem, (node, place), {}, varies))
        return out

    def node_of(self, leaf: Any) -> Any:
        """The node that computes a tensor; anything that is not a tensor is returned as it is."""
        if not isinstance(leaf, Tensor):
            return leaf
        if leaf not in self._nodes:
            name = f"constant{len(self._alive)}"
            self.root.register_buffer(name, leaf.detach())
            self._keep(leaf, self.graph.create_node("get_attr", name))
        return self._nodes[leaf]

    def _call(self, func: Any, args: Any, kwargs: Any, varies: bool) -> Node:
        node = self.graph.call_function(func, args, kwargs)
        if varies:
            self._varying.add(node)
        return node

    def _keep(self, tensor: Tensor, node: Node) -> None:
        self._nodes[tensor] = node
        self._alive.append(tensor)


def _leaves_entries(tensor: Tensor, sizes: Sequence[int], strides: Sequence[int], offset: int | None = None) -> bool:
    """Whether new strides leave all entries where they are.

    Pooling to one pixel sets the strides of the channels-last format in place, which mean the same for a single pixel.
    """
    given = [(size, stride) for size, stride in zip(sizes, strides, strict=True) if size > 1]
    found = [(size, stride) for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1]
    return offset is None and list(sizes) == list(tensor.shape) and given == found
