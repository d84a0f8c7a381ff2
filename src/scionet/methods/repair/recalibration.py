"""BatchNorm statistics, re-measured in the pruned network."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from scionet.errors import CalibrationError
from scionet.methods.problem import Problem
from scionet.network.branches import remaining
from scionet.network.calling import Batch, call, example_count, joined, place_of, replaced, state_of, to_model
from scionet.network.multiprocess import everywhere, summed
from scionet.network.plan import Plan
from scionet.network.surgery.cut import copied
from scionet.torch_internals import BatchNormBase


def recalibrated(problem: Problem, plan: Plan) -> Plan:
    """Return the plan with re-measured running means and variances of every BatchNorm.

    Args:
        problem: The dense network and the calibration examples.
        plan: The plan of the pruned network.

    Raises:
        CalibrationError: If there are no examples, or batches too small for a variance.
    """
    network = problem.network
    statistics = norm_statistics(network.model, network.masked_by(plan), _none_alone(problem.calibration.inputs))
    left = remaining(network.sites, plan.dropped).shapes
    return replace(plan, tensors={**plan.tensors, **{name: t for name, t in statistics.items() if name in left}})


def norm_statistics(model: nn.Module, tensors: Mapping[str, Tensor], batches: Iterable[Batch]) -> dict[str, Tensor]:
    """Measure running means and variances of every BatchNorm, as averages over the batches weighted by their size.

    As in training, earlier BatchNorms normalise by the statistics of the batch.

    Args:
        model: The dense network; it is not changed.
        tensors: Tensors that replace its own, or outputs of modules; see `scionet.network.calling.replaced`.
        batches: Calibration inputs.

    Returns:
        Replacement buffers by name, in dense shapes.

    Raises:
        CalibrationError: If there are no batches, or too small ones for a variance.
    """
    changed = copied(model)
    with torch.no_grad():
        for name, tensor in state_of(changed).items():
            if name in tensors:
                tensor.copy_(tensors[name])
    norms = {name: module for name, module in changed.named_modules() if isinstance(module, BatchNormBase)}
    norms = {name: norm for name, norm in norms.items() if norm.running_mean is not None}
    for module in changed.modules():
        module.training = False
    for norm in norms.values():
        norm.reset_running_stats()
        norm.training = True
    outputs = {name: tensor for name, tensor in tensors.items() if name not in state_of(changed)}
    with replaced(changed, outputs):
        seen = _run(changed, [*norms.values()], batches)
    if not everywhere(seen > 0, place_of(model)[0]):
        raise CalibrationError("the calibration data are empty; give at least one batch of inputs")
    total = summed(torch.tensor(float(seen), dtype=torch.float64, device=place_of(model)[0]))
    found = {}
    for name, norm in norms.items():
        for key in ("running_mean", "running_var"):
            average = getattr(norm, key)
            found[f"{name}.{key}"] = (summed(average.double() * seen) / total.to(average.device)).to(average)
    return found


def _none_alone(batches: Sequence[Batch]) -> list[Batch]:
    """The batches. A last batch of one example, which has no variance, is joined to the batch before it."""
    alone = len(batches) > 1 and example_count(batches[-1]) == 1
    return [*batches[:-2], *joined(batches[-2:])] if alone else [*batches]


def _run(model: nn.Module, norms: Sequence[BatchNormBase], batches: Iterable[Batch]) -> int:
    """Call the network on all batches, and return the number of examples.

    Raises:
        CalibrationError: If a batch is too small.
    """
    seen = 0
    with torch.random.fork_rng(devices=[d for d in [place_of(model)[0]] if d.type == "cuda"]), torch.no_grad():
        for batch in batches:
            size = example_count(batch)
            seen += size
            for norm in norms:
                norm.momentum = size / seen  # running averages of all examples alike
            try:
                call(model, to_model(batch, model))
            except ValueError as error:
                raise CalibrationError(
                    f"BatchNorm statistics cannot be measured on a batch ({error}); give batches of two examples or "
                    "more"
                ) from error
    return seen
