"""Cutting a network to a plan. No other module changes the shapes of a network."""

import copy
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn

from scionet.errors import OtherWeights, UnsupportedModel
from scionet.files.safetensors_files import hash_tensors
from scionet.modes import at_work
from scionet.network.branches import remaining
from scionet.network.calling import place_of, state_of
from scionet.network.lineage import Lineage, Pruning, note_lineage
from scionet.network.network import Network
from scionet.network.plan import Plan
from scionet.network.sites import Sites
from scionet.network.surgery.attention import record_heads
from scionet.network.surgery.stand_ins import stand_in_for
from scionet.torch_internals import BatchOrInstanceNormBase, ConvolutionBase, own_buffers, own_parameters


@at_work()
def cut(model: nn.Module, plan: Plan, sites: Sites) -> nn.Module:
    """A copy of `model` without the units and branches that `plan` removes; `model` itself is not changed.

    Args:
        model: The dense network.
        plan: The plan.
        sites: The network's sites.

    Raises:
        InvalidSetting: If the plan belongs to another network, or was made for other weights.
        UnsupportedModel: If the model cannot be copied.
    """
    refuse_other_weights(plan, model)
    return cut_unchecked(Network(model, sites), plan)


def refuse_other_weights(plan: Plan, *models: nn.Module) -> None:
    """Refuse a plan that was made for none of these networks' weights. A plan without a hash fits any weights.

    Raises:
        OtherWeights: If it was.
    """
    if plan.dense_hash and plan.dense_hash not in [hash_tensors(model.state_dict()) for model in models]:
        raise OtherWeights(
            f"the plan was made for other weights than the network has now (hash {plan.dense_hash[:12]}); what it "
            "replaces would overwrite them. Prune the network as it is now, or keep the same units of it: "
            "plan.rebased(discover(model, example_inputs))"
        )


def cut_unchecked(network: Network, plan: Plan) -> nn.Module:
    """The same as `cut`, with a plan that may have been made for other weights of the same network."""
    with torch.no_grad():
        tensors = network.masked_by(plan)
        keep = kept_entries(network.sites, plan)
        state = state_of(network.model)
        changed = {name for name in (*tensors, *keep) if name in state}
        shrunk = {name: shrink(tensors.get(name, state[name]), keep.get(name, {})) for name in changed}
        replacements = _replacements(state, shrunk)
        pruned = copied(network.model, replacements)
        for name, constant in plan.dropped.items():
            branch = network.sites.branches[name]
            values = torch.zeros(branch.channels) if constant is None else constant
            kept = shrink(values.to(state[branch.layers[-1]]), keep.get(branch.constant, {}))
            stand_in_for(pruned, branch.removal, kept, trained=constant is not None)
        _record_sizes(pruned, replacements, [plan])
        note_lineage(pruned, lineage_after(plan, network.sites))
    return pruned


def kept_entries(sites: Sites, plan: Plan) -> dict[str, dict[int, Tensor]]:
    """Per tensor and dimension that shrinks, the indices of the entries that stay, ascending.

    Constants of dropped branches are among them, tensors inside dropped branches are not.
    """
    sites = remaining(sites, plan.dropped)
    masks: dict[tuple[str, int], np.ndarray] = {}
    for name, kept in plan.kept.items():
        removed = np.setdiff1d(np.arange(sites[name].width), kept)
        for slot in sites[name].slots:
            size = sites.shapes[slot.tensor][slot.dim]
            mask = masks.setdefault((slot.tensor, slot.dim), np.ones(size, dtype=bool))
            mask[slot.index[removed].ravel()] = False
    entries: dict[str, dict[int, Tensor]] = {}
    for (tensor, dim), mask in masks.items():
        entries.setdefault(tensor, {})[dim] = torch.from_numpy(np.flatnonzero(mask))
    return entries


def lineage_after(plan: Plan, sites: Sites) -> Lineage:
    """The lineage of the network that a plan leaves: the earlier prunings of the network, and this one."""
    left, removals = remaining(sites, plan.dropped), {name: sites.branches[name].removal for name in plan.dropped}
    entries = kept_entries(sites, plan)
    kept = {name: {dim: tuple(e.tolist()) for dim, e in dims.items()} for name, dims in entries.items()}
    loose = [name for removal in removals.values() for name in removal.loose]
    for name in loose:
        kept[name] = {dim: (0,) for dim, size in enumerate(sites.shapes[name]) if size > 1}
    slots = {
        name: tuple((slot.tensor, slot.dim, slot.index.shape[1]) for slot in left[name].slots)
        for name in plan.kept
        if name in left
    }
    pruning = Pruning(plan.without_tensors, slots, removals)
    shapes = {
        **sites.shapes,
        **left.shapes,
        **{name: sites.shapes[name] for r in removals.values() for name in r.loose},
    }
    own = Lineage((pruning,), shapes, kept, sites.dense_hash, gone=sites.shapes.keys() - left.shapes.keys())
    return own if sites.lineage is None else sites.lineage.then(own)


def shrink(tensor: Tensor, keep: Mapping[int, Tensor]) -> Tensor:
    """A copy of a tensor, restricted to some entries of some dimensions.

    Args:
        tensor: The tensor.
        keep: By dimension, the indices of the entries that stay.
    """
    for dim, entries in keep.items():
        tensor = tensor.index_select(dim, entries.to(tensor.device))
    return tensor.detach() if keep else tensor.detach().clone(memory_format=torch.contiguous_format)


def spread(tensor: Tensor, dense: Tensor, keep: Mapping[int, Tensor]) -> Tensor:
    """A copy of a dense tensor in which `tensor` replaces the entries that `shrink` keeps.

    Args:
        tensor: The new entries, of the shape that `shrink` returns.
        dense: The dense tensor.
        keep: By dimension, the indices of the entries that stay.
    """
    if not keep:
        return tensor
    (dim, entries), *others = ((dim, entries.to(dense.device)) for dim, entries in keep.items())
    return dense.index_copy(dim, entries, spread(tensor, dense.index_select(dim, entries), dict(others)))


def copied(model: nn.Module, instead: Mapping[int, Tensor] = MappingProxyType({})) -> nn.Module:
    """A deep copy of a model.

    Args:
        model: The model.
        instead: Tensors for the copy, by the `id` of the tensors of the model that they replace.

    Raises:
        UnsupportedModel: If the model cannot be copied.
    """
    try:
        return copy.deepcopy(model, dict(instead))  # the memo: replaced tensors are not copied, and ties survive
    except Exception as error:  # the attributes of a user's modules can raise anything
        raise UnsupportedModel(
            f"{type(model).__name__} cannot be copied by copy.deepcopy ({error}); remove attributes other than "
            "parameters, buffers and plain values (open files, non-leaf tensors), then prune"
        ) from error


def install(model: nn.Module, tensors: Mapping[str, Tensor], prunings: Sequence[Pruning]) -> None:
    """Drop branches of `model` in place, replace tensors, and update the sizes that its modules record.

    Tied parameters stay tied; `requires_grad` is kept.

    Args:
        model: The dense network.
        tensors: New tensors by name, in the shapes that the prunings leave, and the constants of dropped branches.
        prunings: The prunings, one after the other.
    """
    constants, device = set[str](), place_of(model)[0]
    for pruning in prunings:
        for name, removal in pruning.removals.items():
            constants = {each for each in constants if not removal.takes(each)} | {removal.constant}
            constant = tensors.get(removal.constant, torch.zeros(0))  # of one that goes with a later branch
            stand_in_for(model, removal, constant.to(device), trained=pruning.plan.dropped[name] is not None)
    tensors = {name: tensor for name, tensor in tensors.items() if name not in constants}
    replacements = _replacements(state_of(model), tensors)
    for module in model.modules():
        for key, old in (*own_parameters(module).items(), *own_buffers(module).items()):
            if id(old) in replacements:
                setattr(module, key, replacements[id(old)])
    _record_sizes(model, replacements, [pruning.plan for pruning in prunings])


def _replacements(state: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[int, Tensor]:
    """New parameters and buffers by the `id` of those that they replace, in the old types and on the old devices."""
    replacements: dict[int, Tensor] = {}
    for name, tensor in tensors.items():
        old = state[name]
        new = tensor.to(old)
        replacements[id(old)] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
    return replacements


def _record_sizes(model: nn.Module, replacements: Mapping[int, Tensor], plans: Sequence[Plan]) -> None:
    """Update the sizes that modules with replaced tensors record as attributes."""
    new = {id(tensor) for tensor in replacements.values()}
    for module in model.modules():
        if any(id(tensor) in new for tensor in (*own_parameters(module).values(), *own_buffers(module).values())):
            _record_size(module)
    for plan in plans:
        record_heads(model, plan)


def _record_size(module: nn.Module) -> None:
    """Update the sizes that PyTorch's own layers store as attributes."""
    if isinstance(module, ConvolutionBase):
        if module.groups > 1:
            module.groups = module.groups * module.weight.shape[0] // module.out_channels
        module.out_channels, module.in_channels = module.weight.shape[0], module.weight.shape[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, BatchOrInstanceNormBase):
        module.num_features = next(t for t in (module.weight, module.running_mean) if t is not None).shape[0]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = module.weight.shape[0]
