"""scionet: structured pruning of PyTorch networks by greedy forward selection."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scionet.budget.limits import Budget
    from scionet.carryover import cut_optimizer_, cut_state
    from scionet.coreset import select_examples
    from scionet.errors import PruneError
    from scionet.features import GreedySelector
    from scionet.network.checkpoint import load_pruned, save_pruned, save_tuned
    from scionet.network.discover import discover
    from scionet.network.export import export_onnx, export_program
    from scionet.network.plan import Choice, Plan
    from scionet.network.sites import Site, Sites
    from scionet.network.surgery import cut, verify
    from scionet.pruning import PruneResult, prune, prune_each
    from scionet.training.fit import FitResult, fit
    from scionet.training.recipes import Recipe

    __version__: str

_HOMES = {
    "Budget": "scionet.budget.limits",
    "Choice": "scionet.network.plan",
    "FitResult": "scionet.training.fit",
    "GreedySelector": "scionet.features",
    "Plan": "scionet.network.plan",
    "PruneError": "scionet.errors",
    "PruneResult": "scionet.pruning",
    "Recipe": "scionet.training.recipes",
    "Site": "scionet.network.sites",
    "Sites": "scionet.network.sites",
    "cut": "scionet.network.surgery",
    "cut_optimizer_": "scionet.carryover",
    "cut_state": "scionet.carryover",
    "discover": "scionet.network.discover",
    "export_onnx": "scionet.network.export",
    "export_program": "scionet.network.export",
    "fit": "scionet.training.fit",
    "load_pruned": "scionet.network.checkpoint",
    "prune": "scionet.pruning",
    "prune_each": "scionet.pruning",
    "save_pruned": "scionet.network.checkpoint",
    "save_tuned": "scionet.network.checkpoint",
    "select_examples": "scionet.coreset",
    "verify": "scionet.network.surgery",
}

__all__ = [
    "Budget",
    "Choice",
    "FitResult",
    "GreedySelector",
    "Plan",
    "PruneError",
    "PruneResult",
    "Recipe",
    "Site",
    "Sites",
    "__version__",
    "cut",
    "cut_optimizer_",
    "cut_state",
    "discover",
    "export_onnx",
    "export_program",
    "fit",
    "load_pruned",
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
