"""All methods by name, and how a user's choice becomes a method."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any, cast

from scionet.choices.checking import described, from_description, made
from scionet.choices.methods import Forward, Score
from scionet.choices.settings import Settings
from scionet.choices.widths import Sensitivity, Uniform
from scionet.errors import InvalidSetting, unknown
from scionet.masks import scores as weight_scores
from scionet.methods.contract import Method, Ranker
from scionet.methods.criteria import gradient_scores, unit_scores
from scionet.methods.criteria.directional import DirectionalRanker
from scionet.methods.criteria.elimination_ranker import EliminationRanker
from scionet.methods.criteria.gradient_scores import SaliencyRanker
from scionet.methods.criteria.hrank import RankRanker
from scionet.methods.criteria.unit_scores import ScoreRanker
from scionet.methods.criteria.weight_scores import WeightRanker, absolute_total
from scionet.methods.greedy.forward import ForwardRanker
from scionet.methods.pipeline import Pipeline
from scionet.selection.elimination import lasso, thinet

SCORES: dict[str, Ranker] = {
    "random": ScoreRanker(unit_scores.random, "random"),
    "l1": ScoreRanker(unit_scores.l1, "l1"),
    "l2": ScoreRanker(unit_scores.l2, "l2"),
    "fpgm": ScoreRanker(unit_scores.fpgm, "fpgm"),
    "bn_scale": ScoreRanker(unit_scores.bn_scale, "bn_scale"),
    "energy": ScoreRanker(unit_scores.energy, "energy", moments=True),
    "thinet": EliminationRanker("thinet", thinet),
    "lasso": EliminationRanker("lasso", lasso),
    "taylor": SaliencyRanker("taylor", gradient_scores.taylor),
    "snip": SaliencyRanker("snip", gradient_scores.snip),
    "hrank": RankRanker(),
    "directional": DirectionalRanker(),
    "synflow": WeightRanker("synflow", "synflow", weight_scores.synflow),
    "obd": WeightRanker("obd", "obd", weight_scores.obd),
    "loss_preservation": WeightRanker("loss_preservation", "snip", weight_scores.snip),
    "biased_loss": WeightRanker("biased_loss", "biased_loss", weight_scores.biased_loss),
    "grasp": WeightRanker("grasp", "grasp", weight_scores.grasp),
    "gradient_preservation": WeightRanker(
        "gradient_preservation", "grasp", replace(weight_scores.grasp, temperature=1.0), absolute_total
    ),
}
METHODS = ("forward", *SCORES)
"""Names of all methods."""

GivenMethod = str | Forward | Score | Ranker | Method | Callable[..., Any]
"""A name, ``"package.module:function"``, a choice, a ranker, a method, or a score as a function."""


def method_for(given: GivenMethod, settings: Settings, has_data: bool = True) -> Method:
    """Return the method of a choice, with the settings.

    Args:
        given: The choice.
        settings: Widths, repair and the rest; a custom `Method` decides these itself. If widths are not given, they are
            measured with data, and uniform without.
        has_data: Whether there are calibration examples.

    Raises:
        InvalidSetting: If there is no such method.
    """
    if isinstance(given, Method):
        return given
    ranker = ranker_for(given, settings)
    if settings.widths is None:
        measured = has_data and not ranker.evaluates
        settings = replace(settings, widths=Sensitivity() if measured else Uniform())
    return Pipeline(ranker, settings)


def ranker_for(given: Any, settings: Settings) -> Ranker:
    """Return the ranker of a choice.

    Raises:
        InvalidSetting: If there is no such method, or the choice is of another kind.
    """
    if isinstance(given, str) and ":" in given:
        given = _imported(given)
    if isinstance(given, str):
        given = Forward() if given == "forward" else Score(given)
    if isinstance(given, Ranker):
        return given
    if isinstance(given, Forward):
        return ForwardRanker(given, settings)
    if isinstance(given, Score):
        return _score(given)
    if callable(given) and not isinstance(given, type):
        return unit_scores.score(cast("unit_scores.Score", given))
    raise InvalidSetting(
        "method must be a name, such as 'forward' or 'l1', Forward(...), Score(...), a function of a SiteView and a "
        f"random generator, or a Ranker; given {given!r:.80}"
    )


def method_from(description: Any) -> GivenMethod:
    """A choice of a method from a TOML file or a record: a name, or a table with a name and parameters.

    Raises:
        InvalidSetting: If there is no such method or parameter.
    """
    if not isinstance(description, Mapping):
        return description
    name = str(description.get("name", ""))
    if ":" in name:
        return _imported(name, {key: value for key, value in description.items() if key != "name"})
    if name == "forward":
        return from_description(description, {"forward": Forward}, "method")
    return made(Score, description)


def describe(given: GivenMethod) -> Any:
    """A choice of a method as JSON, for records."""
    if isinstance(given, Ranker):
        return dict(given.described)
    if isinstance(given, Method):
        return {"name": given.name}
    return given if isinstance(given, str) else described(given)


def list_methods(with_description: bool = False) -> tuple[str, ...] | dict[str, str]:
    """The names that ``prune(..., method=...)`` takes.

    Args:
        with_description: Also return a description of each in one line.

    Returns:
        The names, or a mapping from name to description.
    """
    if not with_description:
        return METHODS
    return {"forward": _first_line(Forward), **{name: _first_line(_documented(SCORES[name])) for name in SCORES}}


def _score(given: Score) -> Ranker:
    """The ranker of a score.

    Raises:
        InvalidSetting: If there is no such score, or it has no further passes.
    """
    if given.name not in SCORES:
        raise unknown("method", given.name, METHODS)
    ranker = SCORES[given.name]
    if given.passes == 1:
        return ranker
    if isinstance(ranker, ScoreRanker | EliminationRanker):
        return replace(ranker, n_passes=given.passes)
    raise InvalidSetting(f"method {given.name!r} is measured once, in the dense network; set passes=1")


def _imported(name: str, arguments: Mapping[str, Any] | None = None) -> Any:
    """Call a function of some package and return its result.

    Raises:
        InvalidSetting: If there is no such function, or it does not take the arguments.
    """
    module, _, function = name.partition(":")
    try:
        return getattr(import_module(module), function)(**(arguments or {}))
    except (ModuleNotFoundError, AttributeError, TypeError) as error:
        raise InvalidSetting(
            f"no method comes of {name!r} with arguments {dict(arguments or {})}: {error}. It must be a function that "
            "returns a Ranker, a Method or a score"
        ) from error


def _documented(ranker: Ranker) -> Any:
    """The object whose docstring describes a ranker: its score, or the function that chooses."""
    for field in ("score", "saliency", "choose"):
        if (found := getattr(ranker, field, None)) is not None and getattr(found, "__doc__", None):
            return found
    return ranker


def _first_line(documented: Any) -> str:
    return (documented.__doc__ or "").strip().splitlines()[0]
