"""Torch-Pruning's criteria as methods of `scionet.prune`, with scionet's widths and repairs.

from scionet.adapters.torch_pruning_criteria import criterion

scionet.prune(model, pairs, "macs<=50%", example_inputs=example, method=criterion(importance="hessian"))
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scionet.choices.outputs import Outputs
from scionet.errors import CalibrationError, UnsupportedModel, unknown
from scionet.extras import extra
from scionet.methods.calibration.calibration import Calibration
from scionet.methods.contract import Ranker
from scionet.methods.criteria.unit_scores import MeasuredRanker
from scionet.network.calling import as_arguments, call
from scionet.network.comparison import DEFAULT, class_scores
from scionet.network.example_loss import cross_entropies, labelled
from scionet.network.network import Network
from scionet.network.sites import Site
from scionet.typing import FloatArray


@dataclass(frozen=True)
class Criterion:
    """A criterion of Torch-Pruning.

    Attributes:
        importance: Name of its class in ``torch_pruning.importance``.
        options: Arguments of the class.
        gradients: Gradients of the task loss that it uses: ``""`` for none, ``"mean"``, or ``"single"`` for squared
            per-example gradients.
        summary: One-line description.
    """

    importance: str
    options: Mapping[str, Any]
    gradients: str
    summary: str

    def make(self) -> Any:
        """Make the importance.

        Raises:
            MissingExtra: If Torch-Pruning is not installed.
        """
        return getattr(_torch_pruning().importance, self.importance)(**self.options)


_NONE = MappingProxyType({})
CRITERIA: Mapping[str, Criterion] = MappingProxyType(
    {
        "magnitude": Criterion("GroupMagnitudeImportance", MappingProxyType({"p": 2}), "", "L2 norm of a group."),
        "bn scale": Criterion("BNScaleImportance", _NONE, "", "BatchNorm scale."),
        "lamp": Criterion("LAMPImportance", _NONE, "", "Layer-adaptive magnitude."),
        "fpgm": Criterion("FPGMImportance", _NONE, "", "Geometric median."),
        "taylor": Criterion("GroupTaylorImportance", _NONE, "mean", "First-order Taylor, labelled batches."),
        "hessian": Criterion("GroupHessianImportance", _NONE, "single", "Hessian diagonal (OBD-C), labelled batches."),
    }
)
"""All criteria, by the names used in the benchmark tables."""


def criterion(importance: str = "magnitude") -> Ranker:
    """A method that ranks units as Torch-Pruning does; widths and repairs are ours.

    Args:
        importance: One of `CRITERIA`.

    Raises:
        InvalidSetting: If there is no such criterion.
        MissingExtra: If Torch-Pruning is not installed.
    """
    if importance not in CRITERIA:
        raise unknown("importance", importance, CRITERIA)
    _torch_pruning()
    return CriterionRanker(importance, CRITERIA[importance])


@dataclass(frozen=True)
class CriterionRanker(MeasuredRanker):
    """Ranks units by descending importance in the dense network, computed once for all sites."""

    importance: str
    criterion: Criterion

    @property
    def name(self) -> str:
        """Name in plans and records."""
        return f"torch-pruning {self.importance}"

    @property
    def uses_labels(self) -> bool:
        """Whether the criterion uses gradients of the task loss."""
        return bool(self.criterion.gradients)

    def measured(self, network: Network, calibration: Calibration) -> dict[str, FloatArray]:
        """The importance of all units.

        Raises:
            CalibrationError: If there are no batches, or labels are needed and missing.
            UnsupportedModel: If Torch-Pruning has no group for a site, or gives it no importance.
        """
        batches = calibration.pairs if self.uses_labels else calibration.inputs
        return importances(self.criterion, network, batches)


def importances(chosen: Criterion, network: Network, batches: Iterable[Any]) -> dict[str, FloatArray]:
    """The importance of each unit, the mean over its channels; per site of shape ``(width,)``.

    Raises:
        CalibrationError: If there are no batches, or labels are needed and missing.
        UnsupportedModel: If Torch-Pruning has no group for a site, or gives it no importance.
    """
    own, importance = copy.deepcopy(network.model).eval(), chosen.make()
    own.requires_grad_()
    with network.evaluating(), torch.enable_grad():
        first = next(iter(batches), None)
        if first is None:
            raise CalibrationError("no calibration batches given; pass at least one")
        example = labelled(first, own, network.outputs)[0] if chosen.gradients else first
        if chosen.gradients:
            differentiate(own, importance, batches, chosen.gradients == "single", network.outputs)
        graph = _torch_pruning().DependencyGraph().build_dependency(own, example_inputs=_torch_pruning_inputs(example))
    return {name: _site_importance(graph, importance, own, site) for name, site in network.sites.items()}


def differentiate(
    model: nn.Module, importance: Any, pairs: Iterable[Any], single: bool, outputs: Outputs = DEFAULT
) -> None:
    """Accumulate gradients of the mean loss of each batch in the model's parameters.

    Args:
        model: The model.
        importance: An importance of Torch-Pruning.
        pairs: Batches of inputs and labels.
        single: Whether the importance accumulates squared per-example gradients instead.
        outputs: Which output has the classes.
    """
    for pair in pairs:
        inputs, labels = labelled(pair, model, outputs)
        losses = cross_entropies(class_scores(call(model, inputs), outputs), labels)
        if not single:
            losses.mean().backward()
            continue
        for loss in losses:
            model.zero_grad()
            loss.backward(retain_graph=True)
            importance.accumulate_grad(model)


def _site_importance(graph: Any, importance: Any, model: nn.Module, site: Site) -> FloatArray:
    """Importance of a site's units, from the group of its first producer.

    Raises:
        UnsupportedModel: If units are heads, the group does not exist, or it has no importance.
    """
    if site.unit == "head":
        raise UnsupportedModel(
            f"Torch-Pruning does not score whole heads, such as site {site.name!r}; add its layers to ignored_layers"
        )
    producer = site.producers[0]
    module = model.get_submodule(producer.rpartition(".")[0])
    slot = site.slot(producer, 0)
    try:
        prune = graph.get_pruner_of_module(module).prune_out_channels
        group = graph.get_pruning_group(module, prune, idxs=sorted(slot.index.ravel().tolist()))
        found: Tensor | None = importance(group)
    except (ValueError, AttributeError, KeyError, IndexError, TypeError) as error:
        raise UnsupportedModel(
            f"Torch-Pruning has no group for site {site.name!r} ({error}); add its layers to ignored_layers"
        ) from error
    if found is None:
        raise UnsupportedModel(
            f"this criterion of Torch-Pruning gives site {site.name!r} no importance; use another criterion"
        )
    by_channel = dict(zip(group[0].idxs, found.detach().double().cpu().tolist(), strict=True))
    return np.array([[by_channel[channel] for channel in unit] for unit in slot.index.tolist()]).mean(1)


def _torch_pruning_inputs(example: Any) -> Any:
    """Example inputs in the form that Torch-Pruning expects: a tensor, a tuple, or a dict."""
    args, kwargs = as_arguments(example)
    return kwargs if kwargs else args


def _torch_pruning() -> Any:
    """Import Torch-Pruning.

    Raises:
        MissingExtra: If it is not installed.
    """
    with extra("torch-pruning"):
        import torch_pruning
    return torch_pruning
