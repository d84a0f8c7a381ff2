"""The criteria of Torch-Pruning for `scionet.prune`, with its widths and repairs.

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

from scionet.errors import CalibrationError, UnsupportedModel, unknown
from scionet.extras import extra
from scionet.methods.criteria.unit_scores import FloatArray, MeasuredRanker
from scionet.methods.pipeline import Pipeline
from scionet.network.calling import as_arguments, call, tensors_of, undisturbed
from scionet.network.example_loss import cross_entropies, labelled
from scionet.network.sites import Site, Sites
from scionet.settings import ScoreSettings


@dataclass(frozen=True)
class Criterion:
    """A criterion of Torch-Pruning.

    Attributes:
        importance: Its class in ``torch_pruning.importance``.
        options: What it is made with.
        gradients: What of the labelled loss it reads: nothing, its gradient, or squared gradients of single examples.
        summary: What it is, in one line.
    """

    importance: str
    options: Mapping[str, Any]
    gradients: str
    summary: str

    def make(self) -> Any:
        """The importance.

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
"""Every criterion by the name that our tables give it."""


def criterion(importance: str = "magnitude", **settings: Any) -> Pipeline:
    """A method that ranks units as Torch-Pruning does; widths and repairs are ours.

    Args:
        importance: One of `CRITERIA`.
        **settings: Of `ScoreSettings`, such as ``refit=True``.

    Raises:
        InvalidSetting: If there is no such criterion, or a setting is out of range.
        MissingExtra: If Torch-Pruning is not installed.
    """
    if importance not in CRITERIA:
        raise unknown("importance", importance, CRITERIA)
    _torch_pruning()
    return Pipeline(f"torch-pruning {importance}", ScoreSettings(**settings), CriterionRanker(CRITERIA[importance]))


@dataclass(frozen=True)
class CriterionRanker(MeasuredRanker):
    """Takes units by descending importance in the dense network, which is asked for once for all sites."""

    criterion: Criterion

    @property
    def uses_labels(self) -> bool:
        """Whether the criterion reads gradients of the task loss."""
        return bool(self.criterion.gradients)

    def measured(self, model: nn.Module, sites: Sites, batches: Iterable[Any]) -> dict[str, FloatArray]:
        """The importance of all units.

        Raises:
            CalibrationError: If there are no batches, or labels are needed and missing.
            UnsupportedModel: If Torch-Pruning does not see a site as a group, or gives it no importance.
        """
        return importances(self.criterion, model, sites, batches)


def importances(chosen: Criterion, model: nn.Module, sites: Sites, batches: Iterable[Any]) -> dict[str, FloatArray]:
    """The importance of each unit, the mean over its channels; per site of shape ``(width,)``.

    Raises:
        CalibrationError: If there are no batches, or labels are needed and missing.
        UnsupportedModel: If Torch-Pruning does not see a site as a group, or gives it no importance.
    """
    own, importance = copy.deepcopy(model).eval(), chosen.make()
    own.requires_grad_()
    with undisturbed(model), torch.enable_grad():
        first = next(iter(batches), None)
        if first is None:
            raise CalibrationError("there are no calibration batches; give at least one")
        example = labelled(first, own)[0] if chosen.gradients else first
        if chosen.gradients:
            differentiate(own, importance, batches, chosen.gradients == "single")
        graph = _torch_pruning().DependencyGraph().build_dependency(own, example_inputs=_given(example))
    return {name: _of_site(graph, importance, own, site) for name, site in sites.items()}


def differentiate(model: nn.Module, importance: Any, pairs: Iterable[Any], single: bool) -> None:
    """Leave in a model's parameters the gradients of the mean loss of each batch, added up.

    Args:
        model: Whose parameters.
        importance: An importance of Torch-Pruning.
        pairs: Batches of inputs and labels.
        single: Whether it accumulates the squared gradients of single examples instead.
    """
    for pair in pairs:
        inputs, labels = labelled(pair, model)
        losses = cross_entropies(next(tensors_of(call(model, inputs))), labels)
        if not single:
            losses.mean().backward()
            continue
        for loss in losses:
            model.zero_grad()
            loss.backward(retain_graph=True)
            importance.accumulate_grad(model)


def _of_site(graph: Any, importance: Any, model: nn.Module, site: Site) -> FloatArray:
    """The importance of a site's units, by the group of its first producer.

    Raises:
        UnsupportedModel: If units are heads, or there is no such group, or it has no importance.
    """
    if site.unit == "head":
        raise UnsupportedModel(
            f"Torch-Pruning does not score whole heads, such as site {site.name!r}; ignore its layers"
        )
    producer = site.producers[0]
    module = model.get_submodule(producer.rpartition(".")[0])
    slot = site.slot(producer, 0)
    try:
        prune = graph.get_pruner_of_module(module).prune_out_channels
        group = graph.get_pruning_group(module, prune, idxs=sorted(slot.index.ravel().tolist()))
        found: Tensor | None = importance(group)
    except (ValueError, AttributeError, KeyError, IndexError, TypeError) as error:
        raise UnsupportedModel(f"Torch-Pruning cannot group site {site.name!r} ({error}); ignore its layers") from error
    if found is None:
        raise UnsupportedModel(f"this criterion of Torch-Pruning gives site {site.name!r} no importance; take another")
    places = dict(zip(group[0].idxs, found.detach().double().cpu().tolist(), strict=True))
    return np.array([[places[channel] for channel in unit] for unit in slot.index.tolist()]).mean(1)


def _given(example: Any) -> Any:
    """Example inputs as Torch-Pruning takes them: a tensor, a tuple, or a dict."""
    args, kwargs = as_arguments(example)
    return kwargs if kwargs else args


def _torch_pruning() -> Any:
    """The package.

    Raises:
        MissingExtra: If it is not installed.
    """
    with extra("torch-pruning"):
        import torch_pruning
    return torch_pruning
