"""Pruning in the midst of training: what optimiser and averages remember is cut with the same indices as the network.

The learning rate goes on where it was: schedules count steps, and neither these nor an optimiser's groups change.
"""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn
from torch.optim import Optimizer

from scionet.errors import TrainingError
from scionet.network.plan import Plan
from scionet.network.sites import Sites
from scionet.network.surgery.cut import copied, cut, kept_entries, shrink
from scionet.training.averages import overwrite, tensors_of_network
from scionet.training.optimisers import Memory, memory_of, refuse_stale, remember
from scionet.training.state import TrainingState

Entries = Mapping[int, Tensor]
"""By dimension, the entries of a tensor that stay."""


def cut_optimizer_(optimizer: Optimizer, model: nn.Module, pruned: nn.Module, plan: Plan, sites: Sites) -> None:
    """Carry an optimiser over to a cut network, in place; schedulers that hold it need nothing.

    Args:
        optimizer: The dense network's optimiser: any whose memory has the shapes of the parameters (momentum, moments
            of Adam) or is a single number.
        model: The dense network.
        pruned: What `cut` made of it.
        plan: The plan.
        sites: The dense network's sites.

    Raises:
        TrainingError: If it is another network's, or remembers what cannot be cut. It is then as it was.
    """
    refuse_stale(optimizer, model)
    memory = _cut_memory(memory_of(optimizer, model), dict(model.named_parameters()), plan, sites)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    successors = dict(pruned.named_parameters())
    for group in optimizer.param_groups:
        group["params"] = [successors[names[id(parameter)]] for parameter in group["params"]]
    remember(optimizer, pruned, memory)


def cut_state(state: TrainingState, model: nn.Module, plan: Plan, sites: Sites) -> TrainingState:
    """Cut where a training stands, for ``fit(cut(model, plan, sites), ..., start=cut_state(...))``.

    Its weights, their average and the best ones are cut as `cut` does it, refits included.

    Args:
        state: The state, of the dense network.
        model: The dense network; left as it is.
        plan: The plan.
        sites: The dense network's sites.

    Raises:
        TrainingError: If the optimiser remembers what cannot be cut.
        InvalidSetting: If the plan is of another network.
    """

    def shrunk(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if not tensors:
            return {}
        dense = copied(model)
        overwrite(dense, tensors)
        return tensors_of_network(cut(dense, plan, sites))

    return replace(
        state,
        network=shrunk(state.network),
        average=shrunk(state.average),
        best=shrunk(state.best),
        memory=_cut_memory(state.memory, state.network, plan, sites),
    )


def _cut_memory(memory: Memory, dense: Mapping[str, Tensor], plan: Plan, sites: Sites) -> dict[str, dict[str, Tensor]]:
    keep = kept_entries(sites, plan)
    return {
        name: {key: _cut(f"{key} of {name}", value, dense[name], keep.get(name, {})) for key, value in kept.items()}
        for name, kept in memory.items()
    }


def _cut(what: str, value: Tensor, parameter: Tensor, keep: Entries) -> Tensor:
    """A part of an optimiser's memory without the entries that went.

    Raises:
        TrainingError: If it is not known which entries those are.
    """
    if value.shape == parameter.shape:
        return shrink(value, keep)
    if keep and value.numel() > 1:
        raise TrainingError(
            f"the optimiser remembers {what} in the shape {tuple(value.shape)}, the parameter has "
            f"{tuple(parameter.shape)}: it is not known which entries went. Make the optimiser anew for the cut network"
        )
    return value.clone()
