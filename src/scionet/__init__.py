"""scionet: structured pruning of PyTorch networks by greedy forward selection."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scionet.budget.budget import Budget
    from scionet.choices.depth import BranchDamage, BranchElimination, BranchScores, DropBranches
    from scionet.choices.limits import Limits
    from scionet.choices.methods import (
        Average,
        Exact,
        Forward,
        LeastSquares,
        LineSearch,
        OutputImitation,
        Score,
        Stochastic,
        TaskLoss,
    )
    from scionet.choices.outputs import Output, Outputs
    from scionet.choices.repair import Recalibrate, Reconstruct, Refit
    from scionet.choices.resources import Resources
    from scionet.choices.search import ArchitectureSearch
    from scionet.choices.shrinking import Directional, GReg1, GReg2, IncReg, Slimming, SoftFilters, SparseStructures
    from scionet.choices.widths import ErrorCurves, Global, Isomorphic, Sensitivity, Uniform, Whole, Widths
    from scionet.coreset import select_examples
    from scionet.errors import CollapseWarning, PruneError
    from scionet.features import GreedySelector
    from scionet.masks.masking import MaskResult, mask_weights
    from scionet.masks.schedule import Schedule
    from scionet.masks.weight_masks import WeightMasks, detach_masks_
    from scionet.methods.contract import Method, Ranker, SiteView
    from scionet.methods.criteria.unit_scores import score
    from scionet.methods.registry import list_methods
    from scionet.network.branches import Branch
    from scionet.network.checkpoints.checkpoint import load_pruned, save_pruned, save_tuned
    from scionet.network.checkpoints.graph_export import export_onnx, export_program
    from scionet.network.discovery.discover import discover
    from scionet.network.plan import Choice, Plan
    from scionet.network.sites import Site, Sites
    from scionet.network.surgery.cut import cut
    from scionet.network.surgery.verification import verify
    from scionet.pruning import PruneResult, prune, prune_each
    from scionet.search.architecture_search import SearchResult, search_architecture
    from scionet.search.found_files import load_searched, save_searched
    from scionet.shrinking import ShrinkLoop, ShrinkResult, shrink
    from scionet.sparse_training.optimizer_surgery import cut_optimizer_, cut_state
    from scionet.training.callbacks import Callback
    from scionet.training.context import TrainingContext
    from scionet.training.fit import FitResult, fit
    from scionet.training.recipes import Recipe

    __version__: str

_HOMES = {
    "ArchitectureSearch": "scionet.choices.search",
    "Average": "scionet.choices.methods",
    "Branch": "scionet.network.branches",
    "BranchDamage": "scionet.choices.depth",
    "BranchElimination": "scionet.choices.depth",
    "BranchScores": "scionet.choices.depth",
    "Budget": "scionet.budget.budget",
    "Callback": "scionet.training.callbacks",
    "Choice": "scionet.network.plan",
    "CollapseWarning": "scionet.errors",
    "Directional": "scionet.choices.shrinking",
    "DropBranches": "scionet.choices.depth",
    "ErrorCurves": "scionet.choices.widths",
    "Exact": "scionet.choices.methods",
    "FitResult": "scionet.training.fit",
    "Forward": "scionet.choices.methods",
    "GReg1": "scionet.choices.shrinking",
    "GReg2": "scionet.choices.shrinking",
    "Global": "scionet.choices.widths",
    "GreedySelector": "scionet.features",
    "IncReg": "scionet.choices.shrinking",
    "Isomorphic": "scionet.choices.widths",
    "LeastSquares": "scionet.choices.methods",
    "Limits": "scionet.choices.limits",
    "LineSearch": "scionet.choices.methods",
    "MaskResult": "scionet.masks.masking",
    "Method": "scionet.methods.contract",
    "Output": "scionet.choices.outputs",
    "OutputImitation": "scionet.choices.methods",
    "Outputs": "scionet.choices.outputs",
    "Plan": "scionet.network.plan",
    "PruneError": "scionet.errors",
    "PruneResult": "scionet.pruning",
    "Ranker": "scionet.methods.contract",
    "Recalibrate": "scionet.choices.repair",
    "Recipe": "scionet.training.recipes",
    "Reconstruct": "scionet.choices.repair",
    "Refit": "scionet.choices.repair",
    "Resources": "scionet.choices.resources",
    "Schedule": "scionet.masks.schedule",
    "Score": "scionet.choices.methods",
    "SearchResult": "scionet.search.architecture_search",
    "Sensitivity": "scionet.choices.widths",
    "ShrinkLoop": "scionet.shrinking",
    "ShrinkResult": "scionet.shrinking",
    "Site": "scionet.network.sites",
    "SiteView": "scionet.methods.contract",
    "Sites": "scionet.network.sites",
    "Slimming": "scionet.choices.shrinking",
    "SoftFilters": "scionet.choices.shrinking",
    "SparseStructures": "scionet.choices.shrinking",
    "Stochastic": "scionet.choices.methods",
    "TaskLoss": "scionet.choices.methods",
    "TrainingContext": "scionet.training.context",
    "Uniform": "scionet.choices.widths",
    "WeightMasks": "scionet.masks.weight_masks",
    "Whole": "scionet.choices.widths",
    "Widths": "scionet.choices.widths",
    "cut": "scionet.network.surgery.cut",
    "cut_optimizer_": "scionet.sparse_training.optimizer_surgery",
    "cut_state": "scionet.sparse_training.optimizer_surgery",
    "detach_masks_": "scionet.masks.weight_masks",
    "discover": "scionet.network.discovery.discover",
    "export_onnx": "scionet.network.checkpoints.graph_export",
    "export_program": "scionet.network.checkpoints.graph_export",
    "fit": "scionet.training.fit",
    "list_methods": "scionet.methods.registry",
    "load_pruned": "scionet.network.checkpoints.checkpoint",
    "load_searched": "scionet.search.found_files",
    "mask_weights": "scionet.masks.masking",
    "prune": "scionet.pruning",
    "prune_each": "scionet.pruning",
    "save_pruned": "scionet.network.checkpoints.checkpoint",
    "save_searched": "scionet.search.found_files",
    "save_tuned": "scionet.network.checkpoints.checkpoint",
    "score": "scionet.methods.criteria.unit_scores",
    "search_architecture": "scionet.search.architecture_search",
    "select_examples": "scionet.coreset",
    "shrink": "scionet.shrinking",
    "verify": "scionet.network.surgery.verification",
}

__all__ = [
    "ArchitectureSearch",
    "Average",
    "Branch",
    "BranchDamage",
    "BranchElimination",
    "BranchScores",
    "Budget",
    "Callback",
    "Choice",
    "CollapseWarning",
    "Directional",
    "DropBranches",
    "ErrorCurves",
    "Exact",
    "FitResult",
    "Forward",
    "GReg1",
    "GReg2",
    "Global",
    "GreedySelector",
    "IncReg",
    "Isomorphic",
    "LeastSquares",
    "Limits",
    "LineSearch",
    "MaskResult",
    "Method",
    "Output",
    "OutputImitation",
    "Outputs",
    "Plan",
    "PruneError",
    "PruneResult",
    "Ranker",
    "Recalibrate",
    "Recipe",
    "Reconstruct",
    "Refit",
    "Resources",
    "Schedule",
    "Score",
    "SearchResult",
    "Sensitivity",
    "ShrinkLoop",
    "ShrinkResult",
    "Site",
    "SiteView",
    "Sites",
    "Slimming",
    "SoftFilters",
    "SparseStructures",
    "Stochastic",
    "TaskLoss",
    "TrainingContext",
    "Uniform",
    "WeightMasks",
    "Whole",
    "Widths",
    "__version__",
    "cut",
    "cut_optimizer_",
    "cut_state",
    "detach_masks_",
    "discover",
    "export_onnx",
    "export_program",
    "fit",
    "list_methods",
    "load_pruned",
    "load_searched",
    "mask_weights",
    "prune",
    "prune_each",
    "save_pruned",
    "save_searched",
    "save_tuned",
    "score",
    "search_architecture",
    "select_examples",
    "shrink",
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
