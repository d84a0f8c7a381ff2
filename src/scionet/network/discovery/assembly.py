"""Sites from the tags of a traced forward pass: connected components of tags are units, similar units form a site."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from scionet.files.safetensors_files import hash_tensors
from scionet.network.branches import Branch
from scionet.network.discovery.branch_modules import FoundBranch
from scionet.network.discovery.residuals import residual_branches
from scionet.network.discovery.trace_records import Contraction, Grid, Lock
from scionet.network.discovery.tracing import Trace, varying
from scionet.network.sites import Consumer, Extent, Operation, Refusal, Site, Sites, Slot
from scionet.typing import IntArray

Named = TypeVar("Named", Site, Branch)

_RAGGED = "channels are divided into equal parts by position, which would no longer be equal; the channels stay whole"


def assemble(trace: Trace, examples: int, ignored: frozenset[str]) -> Sites:
    """All sites of a network; sites that are locked or ignored become refusals.

    Args:
        trace: The record of a forward pass.
        examples: Number of examples in the batch of that pass.
        ignored: Names of the tensors whose output channels stay.
    """
    assembly, model = _Assembly(trace), trace.network.model
    found: list[Site] = []
    refused: list[Refusal] = []
    for units in assembly.similar_units():
        site = assembly.site(units)
        if site is not None:
            refusal = assembly.refusal(site, units, ignored)
            found.append(site) if refusal is None else refused.append(refusal)
    found.sort(key=lambda s: (assembly.order[s.consumers[0]], assembly.order[s.producers[0]]))
    found = _with_unique_names(found)
    branches, refused_branches = residual_branches(trace)
    return Sites(
        sites={site.name: site for site in found},
        consumers=assembly.consumers(found),
        operations=tuple(assembly.operation(call, found, examples) for call in trace.contractions),
        shapes={name: tuple(tensor.shape) for name, tensor in trace.state.items()},
        parameters=tuple(name for name, _ in model.named_parameters()),
        refused=tuple(refused),
        dense_hash=hash_tensors(model.state_dict()),
        model_name=type(model).__name__,
        branches={each.name: each for each in _with_unique_names(assembly.branch(each, found) for each in branches)},
        refused_branches=tuple(refused_branches),
    )


class _Assembly:
    """The connected components of the tags of a trace, and how they become sites.

    Attributes:
        trace: The record of the network's forward pass.
        order: Position of the first contraction of every weight.
        block: Index of the block of every tag.
        entry: Index of every tag within its block.
        component: Index of the component of every tag.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.order: dict[str, int] = {}
        for call in trace.contractions:
            if call.weight is not None:
                self.order.setdefault(call.weight, call.position)
        sizes = [block.size for block in trace.blocks]
        self.block = np.repeat(np.arange(len(sizes)), sizes)
        self.entry = np.concatenate([np.arange(size) for size in (0, *sizes)])
        self.component = _components(trace, len(self.block))
        # Tags along the batch dimension of a product of activations are heads of attention.
        batches = [plane for call in trace.contractions for plane in call.planes if varying(plane) == {0}]
        self._heads = {part for plane in batches for part in self._components_of(plane)}
        self._first = {(block.tensor, block.dim): block.first for block in trace.blocks}
        self._locks = [*trace.locks, *(self._ragged(grid) for grid in trace.grids)]
        self._lock_of = np.full(self.component.max(initial=-1) + 1, -1)
        for number, lock in reversed(list(enumerate(self._locks))):  # reversed, so that the first lock is reported
            self._lock_of[self.component[lock.tags.numpy()]] = number

    def similar_units(self) -> Iterator[IntArray]:
        """Groups of components with tags in the same tensor dimensions, each as an array of tags ``(units, tags)``."""
        by_component = np.argsort(self.component, kind="stable")
        starts = np.flatnonzero(np.diff(self.component[by_component], prepend=-1))
        sizes = np.diff(starts, append=len(by_component))
        for size in np.unique(sizes):
            tags = by_component[starts[sizes == size, None] + np.arange(size)]
            kinds, kind = np.unique(self.block[tags], axis=0, return_inverse=True)
            yield from (tags[kind.ravel() == number] for number in range(len(kinds)))

    def _ragged(self, grid: Grid) -> Lock:
        """A lock on the tags of a grid whose components do not fill whole rows of it."""
        plane = grid.plane.squeeze().numpy()
        parts = self._components_of(grid.plane).reshape(plane.shape)
        whole = np.zeros(parts.shape, dtype=bool)
        for dim in range(parts.ndim):
            rows = np.moveaxis(parts, dim, 0).reshape(parts.shape[dim], -1)
            constant = (rows == rows[:, :1]).all(1)
            whole |= constant.reshape([-1 if d == dim else 1 for d in range(parts.ndim)])
        tags = plane[~whole & (plane >= 0)]
        return Lock(torch.from_numpy(tags), grid.operation, grid.module, _RAGGED)

    def site(self, units: IntArray) -> Site | None:
        """The site of similar units; None if no weight makes them or contracts over them."""
        slots = self._slots(units)
        outputs = [slot for slot in slots if slot.dim == 0]
        producers = sorted((s for s in outputs if s.tensor in self.order), key=lambda s: self.order[s.tensor])
        read = [slot.tensor for slot in slots if slot.dim == 1 and slot.tensor in self.order]
        if not outputs or not (producers or read or self._makes_weights(outputs, units)):
            return None
        first, *_ = producers or outputs
        return Site(
            name=_module_of(first.tensor),
            width=len(units),
            slots=self._slots(units[np.argsort(first.index[:, 0])]),
            producers=tuple(slot.tensor for slot in producers),
            consumers=tuple(sorted(read, key=self.order.__getitem__)),
            unit=self._unit(units, outputs),
        )

    def _unit(self, units: IntArray, outputs: list[Slot]) -> str:
        """The kind of a site's units: channels, groups or heads."""
        if self.component[units[0, 0]] in self._heads:
            return "head"
        return "group" if any(s.index.shape[1] > 1 and self._grouped(s.tensor) for s in outputs) else "channel"

    def _slots(self, units: IntArray) -> tuple[Slot, ...]:
        """The slots of these units."""
        columns = self.block[units[0]]
        return tuple(
            Slot(self.trace.blocks[b].tensor, self.trace.blocks[b].dim, self.entry[units[:, columns == b]])
            for b in dict.fromkeys(columns.tolist())
        )

    def _makes_weights(self, outputs: list[Slot], units: IntArray) -> bool:
        """Whether the forward pass computes the weight of a contraction from these tensors, as parametrisations do."""
        matrices = [slot.tensor for slot in outputs if self.trace.state[slot.tensor].ndim > 1]
        lock = self._lock(units)
        contracted = lock is not None and lock.operation in ("convolution", "addmm", "mm")
        return bool(matrices) and (contracted or any(".parametrizations." in name for name in matrices))

    def _lock(self, units: IntArray) -> Lock | None:
        """The first lock on any of these units."""
        locked = self._lock_of[self.component[units[:, 0]]]
        return self._locks[locked[locked >= 0].min()] if locked.max() >= 0 else None

    def _grouped(self, tensor: str) -> bool:
        return getattr(self.trace.network.model.get_submodule(_module_of(tensor)), "groups", 1) > 1

    def refusal(self, site: Site, units: IntArray, ignored: frozenset[str]) -> Refusal | None:
        """The reason to leave a site whole, if there is one."""
        if any(slot.tensor in ignored for slot in site.slots if slot.dim == 0):
            return Refusal(site.name, "ignored_layers", site.name, "remove it from ignored_layers to prune it")
        lock = self._lock(units)
        if lock is not None:
            return Refusal(site.name, lock.operation, lock.module, lock.advice)
        if not site.producers:
            return Refusal(site.name, "no producer", site.name, "no convolution or linear map produces its channels")
        if not site.consumers:
            return Refusal(site.name, "no consumer", site.name, "no convolution or linear map reads its channels")
        if site.width < 2:
            return Refusal(site.name, "one unit", site.name, "its channels can only be removed all together")
        return None

    def operation(self, call: Contraction, sites: Iterable[Site], examples: int) -> Operation:
        """A contraction as an operation of which MACs are counted."""
        extents = (self._extent(self._components_of(plane), sites) for plane in call.planes)
        norm = call.norm if call.readers == 1 else None
        return Operation(call.weight, call.macs / examples, tuple(extents), call.place, norm=norm)

    def _extent(self, parts: IntArray, sites: Iterable[Site]) -> Extent:
        """The number of entries of a dimension that each unit takes with it; `parts` is the component of each entry."""
        shares = {}
        for site in sites:
            shares[site.name] = int(np.isin(parts, self._units_of(site)).sum()) // site.width
        return Extent(len(parts), {name: share for name, share in shares.items() if share})

    def branch(self, found: FoundBranch, sites: Iterable[Site]) -> Branch:
        """A branch, with the sites that are inside it, and those that its output belongs to."""
        tensors, parts = set(found.branch.tensors), self._components_of(found.tags)
        streams = {}
        for site in sites:
            units = self._units_of(site)
            places = np.flatnonzero(np.isin(parts, units))
            if len(places):
                owner = np.argsort(units)[np.searchsorted(np.sort(units), parts[places])]
                streams[site.name] = places[np.argsort(owner, kind="stable")].reshape(site.width, -1)
        inside = tuple(site.name for site in sites if tensors.issuperset(slot.tensor for slot in site.slots))
        return replace(found.branch, sites=inside, streams=streams)

    def _units_of(self, site: Site) -> IntArray:
        """The component of each unit of a site, ``(width,)``."""
        slot = site.slots[0]
        return self.component[self._first[slot.tensor, slot.dim] + slot.index[:, 0]]

    def _components_of(self, plane: Tensor) -> IntArray:
        """The component of each entry of a plane, -1 where there is no tag."""
        tags = plane.flatten().numpy()
        return np.where(tags < 0, -1, self.component[tags])

    def consumers(self, sites: Iterable[Site]) -> dict[str, Consumer]:
        """The consumers of sites by weight, in order of execution."""
        calls: dict[str, list[Contraction]] = defaultdict(list)
        for call in self.trace.contractions:
            if call.weight is not None:
                calls[call.weight].append(call)
        names = {weight for site in sites for weight in site.consumers}
        return {w: self._consumer(w, calls[w]) for w in sorted(names, key=self.order.__getitem__)}

    def _consumer(self, weight: str, calls: list[Contraction]) -> Consumer:
        first, module = calls[0], _module_of(weight)
        bias = f"{module}.bias" if module else "bias"
        state = self.trace.state
        has_bias = bias in state and state[bias].shape == state[weight].shape[:1]
        return Consumer(
            weight=weight,
            module=module,
            bias=bias if has_bias else None,
            norm=first.norm if first.readers == 1 else None,
            shortcut=first.shortcut if len(calls) == 1 and first.readers == 1 else None,
            calls=len(calls),
        )


def _components(trace: Trace, count: int) -> IntArray:
    """The connected component of every tag."""
    none = torch.zeros(0, dtype=torch.long)
    first, second = (torch.cat([none, *(edge[side] for edge in trace.edges)]).numpy() for side in (0, 1))
    from scipy.sparse import coo_array  # slow to import
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(first), dtype=bool), (first, second)), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _module_of(tensor: str) -> str:
    """Name of the module that owns a tensor."""
    return tensor.rpartition(".")[0]


def _with_unique_names(named: Iterable[Named]) -> list[Named]:
    """Sites or branches, with a counter appended to names that several of them share."""
    seen: dict[str, int] = defaultdict(int)
    out = []
    for each in named:
        seen[each.name] += 1
        out.append(each if seen[each.name] == 1 else replace(each, name=f"{each.name}:{seen[each.name]}"))
    return out
