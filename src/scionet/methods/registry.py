"""All methods by name."""

from dataclasses import fields, replace
from typing import Any

from scionet.errors import InvalidSetting, unknown
from scionet.masks import scores as weight_scores
from scionet.methods import saliency, scores
from scionet.methods.contract import Method, Ranker
from scionet.methods.elimination import EliminationRanker
from scionet.methods.forward import ForwardRanker
from scionet.methods.ranks import RankRanker
from scionet.methods.saliency import SaliencyRanker
from scionet.methods.scores import ScoreRanker
from scionet.methods.sweep import Sweep
from scionet.methods.units import WeightRanker, absolute_total
from scionet.selection.elimination import lasso, thinet
from scionet.settings import ForwardSettings, ScoreSettings, SweepSettings

SCORES: dict[str, Ranker] = {
    "random": ScoreRanker(scores.random),
    "l1": ScoreRanker(scores.l1),
    "l2": ScoreRanker(scores.l2),
    "fpgm": ScoreRanker(scores.fpgm),
    "bn_scale": ScoreRanker(scores.bn_scale),
    "energy": ScoreRanker(scores.energy, from_moments=True),
    "thinet": EliminationRanker(thinet),
    "lasso": EliminationRanker(lasso),
    "taylor": SaliencyRanker(saliency.taylor),
    "snip": SaliencyRanker(saliency.snip),
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

    Raises:
        InvalidSetting: If there is no such method or setting, or a setting is out of range.
    """
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
        return Sweep(name, settings, ForwardRanker(settings))
    return Sweep(name, settings, SCORES[name])
