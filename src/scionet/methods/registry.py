"""All methods by name."""

from dataclasses import fields, replace
from importlib import import_module
from typing import Any

from scionet.errors import InvalidSetting, unknown
from scionet.masks import scores as weight_scores
from scionet.methods.contract import Method, Ranker
from scionet.methods.criteria import gradient_scores, unit_scores
from scionet.methods.criteria.elimination_ranker import EliminationRanker
from scionet.methods.criteria.gradient_scores import SaliencyRanker
from scionet.methods.criteria.hrank import RankRanker
from scionet.methods.criteria.unit_scores import ScoreRanker
from scionet.methods.criteria.weight_scores import WeightRanker, absolute_total
from scionet.methods.greedy.forward import ForwardRanker
from scionet.methods.pipeline import Pipeline
from scionet.selection.elimination import lasso, thinet
from scionet.settings import ForwardSettings, ScoreSettings, SweepSettings

SCORES: dict[str, Ranker] = {
    "random": ScoreRanker(unit_scores.random),
    "l1": ScoreRanker(unit_scores.l1),
    "l2": ScoreRanker(unit_scores.l2),
    "fpgm": ScoreRanker(unit_scores.fpgm),
    "bn_scale": ScoreRanker(unit_scores.bn_scale),
    "energy": ScoreRanker(unit_scores.energy, from_moments=True),
    "thinet": EliminationRanker(thinet),
    "lasso": EliminationRanker(lasso),
    "taylor": SaliencyRanker(gradient_scores.taylor),
    "snip": SaliencyRanker(gradient_scores.snip),
    "hrank": RankRanker(),
    "synflow": WeightRanker("synflow", weight_scores.synflow),
    "obd": WeightRanker("obd", weight_scores.obd),
    "loss_preservation": WeightRanker("snip", weight_scores.snip),
    "biased_loss": WeightRanker("biased_loss", weight_scores.biased_loss),
    "grasp": WeightRanker("grasp", weight_scores.grasp),
    "gradient_preservation": WeightRanker("grasp", replace(weight_scores.grasp, temperature=1.0), absolute_total),
}
METHODS: dict[str, type[SweepSettings]] = {"forward": ForwardSettings, **dict.fromkeys(SCORES, ScoreSettings)}
"""Settings of each method."""


def build(name: str, **options: Any) -> Method:
    """The method of that name with the given settings.

    Args:
        name: One of `METHODS`, or ``package.module:function`` of a function that makes a method of its settings.
        **options: Settings.

    Raises:
        InvalidSetting: If there is no such method or setting, or a setting is out of range.
    """
    if ":" in name:
        return _made_elsewhere(name, options)
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    known = {field.name for field in fields(METHODS[name])}
    for option in options:
        if option not in known:
            raise unknown(f"setting of method {name!r}", option, known)
    try:
        settings = METHODS[name](**options)
    except TypeError as error:
        raise InvalidSetting(f"a setting of method {name!r} has the wrong type ({error}); given {options}") from error
    if isinstance(settings, ForwardSettings):
        return Pipeline(name, settings, ForwardRanker(settings))
    return Pipeline(name, settings, SCORES[name])


def _made_elsewhere(name: str, options: dict[str, Any]) -> Method:
    """A method that a function of some package makes.

    Raises:
        InvalidSetting: If there is no such function, or it makes something else or does not take the settings.
    """
    module, _, function = name.partition(":")
    try:
        made = getattr(import_module(module), function)(**options)
    except (ModuleNotFoundError, AttributeError, TypeError) as error:
        raise InvalidSetting(f"no method comes of {name!r} with settings {options}: {error}") from error
    if not isinstance(made, Method):
        raise InvalidSetting(f"{name} makes a {type(made).__name__}, not a scionet.methods.contract.Method")
    return made
