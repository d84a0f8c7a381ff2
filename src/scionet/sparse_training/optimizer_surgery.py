"""Pruning during training: the optimiser's state and averages of weights are cut with the indices of the network.

The learning rate continues unchanged, because schedules count steps, and neither steps nor parameter groups change.
"""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn
from torch.optim import Optimizer

from scionet.errors import TrainingError
from scionet.modes import at_work
from scionet.network.branches import remaining
from scionet.network.network import Network
from scionet.network.plan import Plan
from scionet.network.sites import Sites
from scionet.network.surgery.cut import copied, cut_unchecked, kept_entries, refuse_other_weights, shrink
from scionet.training.averages import overwrite, tensors_of_network
from scionet.training.grda import DUAL
from scionet.training.optimisers import Memory, load_memory, memory_of, refuse_stale
from scionet.training.state import TrainingState

Entries = Mapping[int, Tensor]
"""The entries of a tensor that are kept, by dimension."""


@at_work()
def cut_optimizer_(optimizer: Optimizer, model: nn.Module, pruned: nn.Module, plan: Plan, sites: Sites) -> None:
    """Transfer an optimiser to a cut network, in place. Its schedulers continue unchanged.

    The parameters of dropped branches leave it. The constants in their place enter it, without a state, in the group
    that the last of the branch's parameters was in.

    Args:
        optimizer: The dense network's optimiser. Its state must have the shapes of the parameters (momentum, moments of
            Adam) or be single numbers.
        model: The dense network.
        pruned: The network that `cut` returned.
        plan: The plan.
        sites: The dense network's sites.

    Raises:
        TrainingError: If the optimiser is of another network, or its state cannot be cut. It is then unchanged.
        InvalidSetting: If the plan was made for other weights.
    """
    refuse_other_weights(plan, model)
    refuse_stale(optimizer, model)
    memory = _cut_memory(memory_of(optimizer, model), dict(model.named_parameters()), plan, sites)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    successors, constants = dict(pruned.named_parameters()), _last_parameters(model, plan, sites)
    for group in optimizer.param_groups:
        held = [names[id(parameter)] for parameter in group["params"]]
        entering = [constants[name] for name in held if name in constants]
        group["params"] = [successors[name] for name in (*held, *entering) if name in successors]
    load_memory(optimizer, pruned, memory)


def _last_parameters(model: nn.Module, plan: Plan, sites: Sites) -> dict[str, str]:
    """Names of the constants of dropped branches, by the last parameter of each branch."""
    parameters, found = dict(model.named_parameters()), {}
    for name, constant in plan.dropped.items():
        branch = sites.branches[name]
        inside = [tensor for tensor in branch.tensors if tensor in parameters]
        if constant is not None and inside:
            found[inside[-1]] = branch.constant
    return found


@at_work()
def cut_state(state: TrainingState, model: nn.Module, plan: Plan, sites: Sites) -> TrainingState:
    """Cut the state of a training, for ``fit(cut(model, plan, sites), ..., start=cut_state(...))``.

    Weights, their average and the best weights are cut as `cut` does, refits included. Callbacks keep their states.

    Args:
        state: The state of a training of the dense network.
        model: The dense network; it is not changed.
        plan: The plan.
        sites: The dense network's sites.

    Raises:
        TrainingError: If the state of the optimiser or of a callback cannot be cut.
        InvalidSetting: If the plan is of another network, or was made for none of the weights in the state.
    """
    _refuse_callback_tensors(state)
    parts = {"network": state.network, "average": state.average, "best": state.best}
    dense = {part: _with_tensors(model, tensors) for part, tensors in parts.items() if tensors}
    refuse_other_weights(plan, *dense.values())
    shrunk = {part: tensors_of_network(cut_unchecked(Network(whole, sites), plan)) for part, whole in dense.items()}

    return replace(
        state,
        **{part: shrunk.get(part, {}) for part in parts},
        memory=_cut_memory(state.memory, state.network, plan, sites),
    )


def _with_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    dense = copied(model)
    overwrite(dense, tensors)
    return dense


def _refuse_callback_tensors(state: TrainingState) -> None:
    """Refuse states of callbacks that may have the shapes of the dense network.

    Raises:
        TrainingError: If a callback holds a tensor of more than one element.
    """
    kinds = [each.kind for each in state.callbacks or () if any(t.numel() > 1 for t in each.tensors.values())]
    if kinds:
        raise TrainingError(
            f"the state of the callback {kinds[0]} holds tensors, and it is not known how to cut them; give "
            "state.with_new_callbacks(), so that callbacks start from the beginning in the cut network"
        )


def _cut_memory(memory: Memory, dense: Mapping[str, Tensor], plan: Plan, sites: Sites) -> dict[str, dict[str, Tensor]]:
    """The state of an optimiser without the entries that were removed.

    Raises:
        TrainingError: If it is not known how to cut it, or its next step would undo what the plan did to weights.
    """
    is_weighted = any(weight != 1 for choice in plan.choices for weight in choice.weights)
    if (plan.tensors or plan.dropped or is_weighted) and any(DUAL in kept for kept in memory.values()):
        raise TrainingError(
            "gRDA sets the weights from its own copy in every step, which would undo the plan's refits and weights. "
            "Create a new optimiser for the cut network, or cut by a plan without them (repair=[])"
        )
    keep, left = kept_entries(sites, plan), remaining(sites, plan.dropped).parameters
    return {
        name: {key: _cut(f"{key} of {name}", value, dense[name], keep.get(name, {})) for key, value in kept.items()}
        for name, kept in memory.items()
        if name in left
    }


def _cut(what: str, value: Tensor, parameter: Tensor, keep: Entries) -> Tensor:
    """A tensor of an optimiser's state, without the entries that were removed.

    Raises:
        TrainingError: If its shape does not show which entries those are.
    """
    if value.shape == parameter.shape:
        return shrink(value, keep)
    if keep and value.numel() > 1:
        raise TrainingError(
            f"the optimiser's state holds {what} in the shape {tuple(value.shape)}, the parameter has the shape "
            f"{tuple(parameter.shape)}; it is not known which entries to remove. Create a new optimiser for the cut "
            "network"
        )
    return value.clone()
