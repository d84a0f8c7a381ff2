"""discover: find every site of a network by tracing one forward pass, and verify each by a provisional cut."""

import fnmatch
from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from scionet.errors import PruneError, UnsupportedModel, unknown
from scionet.network.calling import Batch, example_count, state_of
from scionet.network.checkpoints.records import input_record
from scionet.network.discovery import rules
from scionet.network.discovery.assembly import assemble
from scionet.network.discovery.data_dependence import with_varying_operations
from scionet.network.discovery.provisional_cut import verified_branches, verified_sites
from scionet.network.discovery.tracing import Trace, trace_forward
from scionet.network.discovery.unprunable import refuse_unprunable
from scionet.network.guard import guarded
from scionet.network.lineage import lineage_of
from scionet.network.network import Network
from scionet.network.sites import Sites
from scionet.network.sites_table import refusal_reasons

Ignored = Sequence[str | type[nn.Module] | nn.Module]


@guarded
def discover(model: nn.Module, example_inputs: Batch, ignored_layers: Ignored = ()) -> Sites:
    """Find all channels and residual branches of `model` that can be removed. `print` shows the result as a table.

    The model is run in eval mode without gradients and left exactly as it was. Frozen models work.

    Args:
        model: Any module that runs on `example_inputs`.
        example_inputs: A tensor, a tuple of positional or a dict of keyword arguments. Only shapes and types matter.
        ignored_layers: Layers to leave whole: module names, shell globs of names (``"layer4.*"``), module types, or
            modules.

    Returns:
        The sites in order of execution, and what is left whole, with reasons.

    Raises:
        UnsupportedModel: If nothing can be pruned; the text lists the reasons. If the network is no module, scripted,
            sharded, quantised, or has weights that hooks compute: what to do.
        InvalidSetting: If an entry of `ignored_layers` matches no module.
        CalibrationError: If `example_inputs` is not a batch.
    """
    refuse_unprunable(model)
    network = Network(model)
    ignored = ignored_tensors(network, ignored_layers)
    batch = network.placed(example_inputs)
    found = assemble(_traced(network, batch), example_count(batch), ignored)
    found = replace(found, inputs=input_record(batch), lineage=lineage_of(model))
    verified = verified_sites(Network(model, found), batch)
    verified = verified_branches(Network(model, verified), batch, ignored)
    sites = with_varying_operations(Network(model, verified), batch)
    if not sites and not sites.branches:
        reasons = "; ".join(refusal_reasons(sites.refused)) or "It has no two layers in a row"
        raise UnsupportedModel(f"no prunable layer in {type(model).__name__}. {reasons}")
    return sites


def ignored_tensors(network: Network, ignored_layers: Ignored) -> frozenset[str]:
    """Names of the parameters and buffers of the modules that match `ignored_layers`, and of their submodules.

    Raises:
        InvalidSetting: If an entry matches nothing.
    """
    named = {name: module for name, module in network.model.named_modules(remove_duplicate=False) if name}
    first_names = network.names_by_address
    chosen: set[str] = set()
    for entry in ignored_layers:
        if isinstance(entry, str):
            hits = [named[name] for name in fnmatch.filter(named, entry)]
        elif isinstance(entry, type):
            hits = [module for module in named.values() if isinstance(module, entry)]
        else:
            hits = [module for module in named.values() if module is entry]
        if not hits:
            raise unknown("ignored layer", str(entry), named)
        chosen |= {first_names[t.data_ptr()] for hit in hits for t in state_of(hit).values() if t.numel()}
    return frozenset(chosen)


def _traced(network: Network, batch: Batch) -> Trace:
    """The record of a forward pass on the batch.

    Raises:
        UnsupportedModel: If the network does not run on the batch.
    """
    name = type(network.model).__name__
    try:
        return trace_forward(network, batch, rules.apply)
    except PruneError:
        raise
    except Exception as error:
        raise UnsupportedModel(
            f"{name} does not run on example_inputs ({type(error).__name__}: {error}); give inputs "
            "of the shape and type that its forward takes: a tensor, a tuple of arguments or a dict of keywords"
        ) from error
