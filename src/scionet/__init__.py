"""scionet: structured pruning of PyTorch networks by greedy forward selection."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scionet.budget.budget import Budget
    from scionet.coreset import select_examples
    from scionet.errors import CollapseWarning, PruneError
    from scionet.features import GreedySelector
    from scionet.masks.masking import MaskResult, mask_weights
    from scionet.masks.schedule import Schedule
    from scionet.masks.weight_masks import WeightMasks, detach_masks_
    from scionet.network.checkpoints.checkpoint import load_pruned, save_pruned, save_tuned
    from scionet.network.checkpoints.graph_export import export_onnx, export_program
    from scionet.network.discovery.discover import discover
    from scionet.network.plan import Choice, Plan
    from scionet.network.sites import Site, Sites
    from scionet.network.surgery.cut import cut, verify
    from scionet.pruning import PruneResult, prune, prune_each
    from scionet.sparse_training.optimizer_surgery import cut_optimizer_, cut_state
    from scionet.training.callbacks import Callback
    from scionet.training.context import TrainingContext
    from scionet.training.fit import FitResult, fit
    from scionet.training.recipes import Recipe

    __version__: str

_HOMES = {
    "Budget": "scionet.budget.budget",
    "Callback": "scionet.training.callbacks",
    "Choice": "scionet.network.plan",
    "CollapseWarning": "scionet.errors",
    "FitResult": "scionet.training.fit",
    "GreedySelector": "scionet.features",
    "MaskResult": "scionet.masks.masking",
    "Plan": "scionet.network.plan",
    "PruneError": "scionet.errors",
    "PruneResult": "scionet.pruning",
    "Recipe": "scionet.training.recipes",
    "Schedule": "scionet.masks.schedule",
    "Site": "scionet.network.sites",
    "Sites": "scionet.network.sites",
    "TrainingContext": "scionet.training.context",
    "WeightMasks": "scionet.masks.weight_masks",
    "cut": "scionet.network.surgery.cut",
    "cut_optimizer_": "scionet.sparse_training.optimizer_surgery",
    "cut_state": "scionet.sparse_training.optimizer_surgery",
    "detach_masks_": "scionet.masks.weight_masks",
    "discover": "scionet.network.discovery.discover",
    "export_onnx": "scionet.network.checkpoints.graph_export",
    "export_program": "scionet.network.checkpoints.graph_export",
    "fit": "scionet.training.fit",
    "load_pruned": "scionet.network.checkpoints.checkpoint",
    "mask_weights": "scionet.masks.masking",
    "prune": "scionet.pruning",
    "prune_each": "scionet.pruning",
    "save_pruned": "scionet.network.checkpoints.checkpoint",
    "save_tuned": "scionet.network.checkpoints.checkpoint",
    "select_examples": "scionet.coreset",
    "verify": "scionet.network.surgery.cut",
}

__all__ = [
    "Budget",
    "Callback",
    "Choice",
    "CollapseWarning",
    "FitResult",
    "GreedySelector",
    "MaskResult",
    "Plan",
    "PruneError",
    "PruneResult",
    "Recipe",
    "Schedule",
    "Site",
    "Sites",
    "TrainingContext",
    "WeightMasks",
    "__version__",
    "cut",
    "cut_optimizer_",
    "cut_state",
    "detach_masks_",
    "discover",
    "export_onnx",
    "export_program",
    "fit",
    "load_pruned",
    "mask_weights",
    "prune",
    "prune_each",
    "save_pruned",
    "save_tuned",
    "select_examples",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Load a public name on first use, so that `import scionet` itself stays quick (PEP 562).

    Raises:
        AttributeError: If the package has no such name.
    """
    if name == "__version__":
        return import_module("importlib.metadata").version("scionet")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return __all__
