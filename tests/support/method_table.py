"""One row for each method and notable setting: what every contract test runs over. A new method is a new row."""

from dataclasses import dataclass, field
from typing import Any

from scionet.methods.registry import SCORES
from scionet.settings import ForwardSettings

LABELLED = ("taylor", "snip", "obd", "loss_preservation", "biased_loss", "grasp", "gradient_preservation")


@dataclass(frozen=True)
class Row:
    """A method with settings.

    Attributes:
        method: Registry name.
        settings: What differs from the defaults.
        budget: What may remain; None where the method stops by itself.
    """

    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    budget: str | None = "macs<=60%"

    def __str__(self) -> str:
        return " ".join([self.method, *(f"{key}={value}" for key, value in self.settings.items())])

    @property
    def objective(self) -> str | None:
        return self.settings.get("objective", ForwardSettings.objective) if self.method == "forward" else None

    @property
    def uses_labels(self) -> bool:
        return self.objective == "loss" or self.method in LABELLED

    @property
    def is_random(self) -> bool:
        """Whether another seed may choose other units."""
        return self.method == "random" or self.settings.get("candidates") == "stochastic"


def _forward(objective: str, **settings: Any) -> Row:
    return Row("forward", {"objective": objective, **settings})


ROWS = (
    Row("forward"),
    _forward("least_squares", refit=False),
    _forward("least_squares", allocation="uniform"),
    _forward("least_squares", allocation="curves", asymmetric=False),
    _forward("least_squares", candidates="stochastic", epsilon=0.3),
    _forward("least_squares", allocation="measured", measured_examples=8),
    _forward("least_squares", partitions=2, backend="threading", allocation="uniform"),
    _forward("least_squares", certify=True),
    _forward("least_squares", sweeps=2),
    _forward("least_squares", shrinkage="held_out"),
    Row("energy", {"refit": True, "sweeps": 3}),
    _forward("least_squares", width_trials=3, measured_examples=8, measured_widths=2),
    _forward("line_search"),
    _forward("line_search", refit=False),
    _forward("least_squares", imitation="global"),
    _forward("line_search", imitation="global", metric="squared", scoring="gauss_newton", refit=False),
    _forward("least_squares", imitation="better", allocation="uniform"),
    _forward("average", imitation="better", scoring="exact", refit=False),
    _forward("average", imitation="global", scoring="exact"),
    _forward("average", imitation="global", scoring="taylor", metric="squared", refit=False),
    _forward("average"),
    _forward("average", refit=False, allocation="curves"),
    _forward("average", refit=False, repetition=True),
    _forward("loss", candidates="stochastic", sample_size=2),
    _forward("loss", refit=False),
    _forward("loss", refit=False, scoring="taylor"),
    _forward("loss", refit=False, fresh_batches=True),
    _forward("loss", refit=False, repetition=True, candidates="stochastic", epsilon=0.5),
    Row("forward", {"objective": "loss", "refit": False, "tolerance": 0.05}, budget=None),
    *(Row(name, {"refit": refit}) for name in SCORES for refit in (False, True)),
    *(Row(name, {"refit": True, "allocation": "uniform"}) for name in ("energy", "taylor")),
    Row("taylor", {"allocation": "measured"}),
    Row("l1", {"recalibrate": True}),
    Row("l1", {"refit": True, "reconstruct_steps": 3}),
    _forward("average", refit=False, reconstruct_steps=3),
    Row("taylor", {"reconstruct_steps": 3, "reconstruct_rate": 1e-4}),
    Row("l1", {"allocation": "curves"}),
    *(Row(name, {"allocation": "isomorphic"}) for name in ("l2", "taylor", "random")),
    Row("energy", {"refit": True, "allocation": "isomorphic"}),
    Row("l1", {"allocation": "measured", "metric": "squared"}),
    Row("l1", {"refit": True, "allocation": "uniform", "shortcuts": False}),
    Row("random", {"round_to": 2, "min_units": 3}, budget="macs<=75%"),
)
