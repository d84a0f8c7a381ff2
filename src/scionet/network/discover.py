"""discover: every site of a network, found by watching one forward pass and proved by trial cuts."""

import fnmatch
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import nn

from scionet.errors import PruneError, UnsupportedModel, unknown
from scionet.network import rules
from scionet.network.plan import Choice, Plan
from scionet.network.running import Batch, call, example_count, hash_tensors, state_of, to_model, undisturbed
from scionet.network.sites import Consumer, Operation, Refusal, Site, Sites, Slot
from scionet.network.surgery import cut, verify
from scionet.network.tracing import Contraction, Trace, watch

Ignored = Sequence[str | type[nn.Module] | nn.Module]


def discover(model: nn.Module, example_inputs: Batch, ignored_layers: Ignored = ()) -> Sites:
    """Find every set of channels of `model` that can be removed.

    The model is run in eval mode without gradients and left exactly as it was. Frozen models work.

    Args:
        model: Any module that runs on `example_inputs`.
        example_inputs: A tensor, a tuple of positional or a dict of keyword arguments. Values do not matter, shapes do.
        ignored_layers: Layers whose channels stay: module names, shell globs of names (``"layer4.*"``), module types,
            or modules.

    Returns:
        The sites in order of execution, and what is refused with the reasons.

    Raises:
        UnsupportedModel: If nothing can be pruned; the text lists the reasons.
        InvalidSetting: If a name in `ignored_layers` matches no module.
        CalibrationError: If `example_inputs` is no batch.
    """
    ignored = ignored_modules(model, ignored_layers)
    batch = to_model(example_inputs, model)
    _refuse_unrunnable(model, batch)
    trace = watch(model, batch, rules.apply)
    found = _Assembly(model, trace, example_count(batch)).sites(ignored)
    proved = _proved(model, found, batch)
    if not proved:
        reasons = "; ".join(f"{r.site}: {r.operation} in {r.module or 'the network'}: {r.advice}" for r in proved.refused)
        raise UnsupportedModel(f"no prunable layer in {type(model).__name__}. {reasons or 'It has no two layers in a row'}")
    return proved


def ignored_modules(model: nn.Module, ignored_layers: Ignored) -> frozenset[str]:
    """Names of the modules that `ignored_layers` means, submodules included.

    Raises:
        InvalidSetting: If an entry matches nothing.
    """
    names = {name: module for name, module in model.named_modules() if name}
    chosen: set[str] = set()
    for entry in ignored_layers:
        if isinstance(entry, str):
            hits = set(fnmatch.filter(names, entry))
        elif isinstance(entry, type):
            hits = {name for name, module in names.items() if isinstance(module, entry)}
        else:
            hits = {name for name, module in names.items() if module is entry}
        if not hits:
            raise unknown("ignored layer", str(entry), names)
        chosen |= hits
    return frozenset(n for n in names if any(n == c or n.startswith(c + ".") for c in chosen))


def _refuse_unrunnable(model: nn.Module, batch: Batch) -> None:
    try:
        with undisturbed(model):
            call(model, batch)
    except PruneError:
        raise
    except Exception as error:
        raise UnsupportedModel(
            f"{type(model).__name__} does not run on example_inputs ({type(error).__name__}: {error}); give inputs "
            "of the shape and type that its forward takes: a tensor, a tuple of arguments or a dict of keywords"
        ) from error


@dataclass(frozen=True)
class _Component:
    """Labels that go together: by block the entries, and whether and why they stay."""

    entries: Mapping[int, NDArray[np.int64]]
    lock: int | None

    @property
    def signature(self) -> tuple[tuple[int, int], ...]:
        return tuple((block, len(entries)) for block, entries in sorted(self.entries.items()))


class _Assembly:
    """From labels to sites."""

    def __init__(self, model: nn.Module, trace: Trace, examples: int) -> None:
        self.model, self.trace, self.examples = model, trace, examples
        self.order = self._order()

    def _order(self) -> dict[str, int]:
        """Position of the first contraction of every weight."""
        order: dict[str, int] = {}
        for made in self.trace.contractions:
            if made.weight is not None:
                order.setdefault(made.weight, made.position)
        return order

    def sites(self, ignored: frozenset[str]) -> Sites:
        """All sites; those that are locked or ignored as refusals."""
        groups: dict[tuple[tuple[int, int], ...], list[_Component]] = defaultdict(list)
        for component in self._components():
            groups[component.signature].append(component)
        found: list[Site] = []
        refused: list[Refusal] = []
        for members in groups.values():
            site = self._site(members)
            if site is None:
                continue
            refusal = self._refusal(site, members, ignored)
            if refusal is None:
                found.append(site)
            else:
                refused.append(refusal)
        found.sort(key=lambda s: (self.order[s.consumers[0]], self.order[s.producers[0]]))
        state = state_of(self.model)
        return Sites(
            sites={site.name: site for site in _distinct(found)},
            consumers=self._consumers(found),
            operations=tuple(Operation(c.weight, c.flops / 2 / self.examples) for c in self.trace.contractions),
            shapes={name: tuple(tensor.shape) for name, tensor in state.items()},
            parameters=tuple(name for name, _ in self.model.named_parameters()),
            refused=tuple(refused),
            dense_hash=hash_tensors(self.model.state_dict()),
        )

    def _components(self) -> list[_Component]:
        trace = self.trace
        count = max((b.first + b.size for b in trace.blocks), default=0)
        edges = [torch.cat(side).numpy() for side in zip(*trace.edges, strict=True)] or [np.zeros(0, int)] * 2
        graph = coo_array((np.ones(len(edges[0]), dtype=bool), (edges[0], edges[1])), shape=(count, count))
        _, labels = connected_components(graph, directed=False)
        locks: dict[int, int] = {}
        for number, lock in enumerate(trace.locks):
            for label in np.unique(labels[lock.labels.numpy()]):
                locks.setdefault(int(label), number)
        entries: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for number, block in enumerate(trace.blocks):
            for entry, label in enumerate(labels[block.first : block.first + block.size].tolist()):
                entries[label][number].append(entry)
        return [
            _Component({b: np.array(e) for b, e in blocks.items()}, locks.get(label))
            for label, blocks in entries.items()
        ]

    def _site(self, members: list[_Component]) -> Site | None:
        """The site made of components of one signature; None if nothing in it produces channels."""
        blocks = self.trace.blocks
        keyed = {(blocks[b].tensor, blocks[b].dim): b for b in members[0].entries}
        producers = sorted((t for t, dim in keyed if dim == 0 and t in self.order), key=self.order.__getitem__)
        consumers = sorted((t for t, dim in keyed if dim == 1 and t in self.order), key=self.order.__getitem__)
        if not producers:
            return None
        units = sorted(members, key=lambda m: int(m.entries[keyed[producers[0], 0]][0]))
        slots = tuple(
            Slot(tensor, dim, np.stack([u.entries[b] for u in units])) for (tensor, dim), b in keyed.items()
        )
        unit = "group" if any(self._grouped(p) and len(members[0].entries[keyed[p, 0]]) > 1 for p in producers) else "channel"
        return Site(_owner(producers[0]), len(units), slots, tuple(producers), tuple(consumers), unit)

    def _grouped(self, weight: str) -> bool:
        return getattr(self.model.get_submodule(_owner(weight)), "groups", 1) > 1

    def _refusal(self, site: Site, members: list[_Component], ignored: frozenset[str]) -> Refusal | None:
        owners = [_owner(slot.tensor) for slot in site.slots if slot.dim == 0]
        if any(owner in ignored for owner in owners):
            return Refusal(site.name, "ignored_layers", site.name, "take it off ignored_layers to prune it")
        lock = next((m.lock for m in members if m.lock is not None), None)
        if lock is not None:
            why = self.trace.locks[lock]
            return Refusal(site.name, why.operation, why.module, why.advice)
        if not site.consumers:
            return Refusal(site.name, "no consumer", site.name, "no convolution or linear map reads its channels")
        if site.width < 2:
            return Refusal(site.name, "one unit", site.name, "there is nothing to choose")
        return None

    def _consumers(self, sites: Iterable[Site]) -> dict[str, Consumer]:
        calls: dict[str, list[Contraction]] = defaultdict(list)
        for made in self.trace.contractions:
            if made.weight is not None:
                calls[made.weight].append(made)
        names = {weight for site in sites for weight in site.consumers}
        return {w: self._consumer(w, calls[w]) for w in sorted(names, key=self.order.__getitem__)}

    def _consumer(self, weight: str, calls: list[Contraction]) -> Consumer:
        first, module = calls[0], _owner(weight)
        state = state_of(self.model)
        bias = f"{module}.bias" if module else "bias"
        has_bias = bias in state and state[bias].shape == state[weight].shape[:1]
        return Consumer(
            weight=weight,
            module=module,
            bias=bias if has_bias else None,
            norm=first.norm if first.readers == 1 else None,
            shortcut=first.shortcut if len(calls) == 1 else None,
            calls=len(calls),
        )


def _owner(tensor: str) -> str:
    """Name of the module that owns a tensor."""
    return tensor.rpartition(".")[0]


def _distinct(sites: Iterable[Site]) -> list[Site]:
    """The sites with a counter behind names that several of them share."""
    seen: dict[str, int] = defaultdict(int)
    out = []
    for site in sites:
        seen[site.name] += 1
        out.append(site if seen[site.name] == 1 else replace(site, name=f"{site.name}:{seen[site.name]}"))
    return out


def _proved(model: nn.Module, sites: Sites, batch: Batch) -> Sites:
    """The sites that survive a trial cut; the others as refusals with the error they gave."""
    failed: dict[str, Exception] = {}

    def check(names: list[str]) -> None:
        error = _trial_error(model, sites, names, batch)
        if error is None or not names:
            return
        if len(names) == 1:
            failed[names[0]] = error
        else:
            check(names[: len(names) // 2])
            check(names[len(names) // 2 :])

    check(list(sites))
    if not failed:
        return sites
    kept = {name: site for name, site in sites.sites.items() if name not in failed}
    reduced = replace(sites, sites=kept, refused=(*sites.refused, *(_trial_refusal(*item) for item in failed.items())))
    error = _trial_error(model, reduced, list(kept), batch) if kept else None
    if error is not None:
        raise UnsupportedModel(f"sites that can be cut one by one fail together: {error}") from error
    return reduced


def _trial_error(model: nn.Module, sites: Sites, names: list[str], batch: Batch) -> Exception | None:
    """The error of cutting about a third of the units of the named sites, if there is one."""
    rng = np.random.default_rng(0)
    choices = []
    for name in names:
        width = sites[name].width
        kept = np.sort(rng.permutation(width)[: max(1, width - max(1, width // 3))])
        choices.append(Choice(name, width, tuple(kept.tolist()), (1.0,) * len(kept)))
    plan = Plan(tuple(choices))
    try:
        pruned = cut(model, plan, sites)
        verify(model, plan, sites, pruned, batch)
    except UnsupportedModel:
        raise
    except Exception as error:  # whatever a stranger's forward raises means: not prunable here
        return error
    return None


def _trial_refusal(site: str, error: Exception) -> Refusal:
    text = str(error).strip().splitlines()
    advice = f"a trial cut failed ({text[0][:200] if text else type(error).__name__}); "
    return Refusal(site, "trial cut", site, advice + "a size may be written into a forward: take it from the tensor's shape")
