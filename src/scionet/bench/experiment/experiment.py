"""An experiment as data, read from one TOML file: network, data, methods, arms, budgets and seeds."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from scionet.bench.experiment.arms import ARMS, Arm
from scionet.bench.experiment.competitors import COMPETITORS, LOSS, Competitor
from scionet.bench.experiment.densities import Tickets, density_of, of_weights
from scionet.bench.experiment.mask_competitors import MaskCompetitor
from scionet.bench.experiment.parts import CustomCompetitor, Data, NetworkSource, Predefined, Trial
from scionet.bench.experiment.shrink_competitors import ShrinkCompetitor
from scionet.bench.records.record import RunSpec
from scionet.bench.records.record_files import RecordError
from scionet.choices.trust import functions_in, refuse_untrusted
from scionet.errors import InvalidSetting, unknown
from scionet.files.json_dataclasses import build, plain, to_json
from scionet.files.toml_files import read_toml
from scionet.training.recipes import RECIPES, Recipe

AnyCompetitor = Competitor | MaskCompetitor | ShrinkCompetitor
KNOWN = MappingProxyType({competitor.label: competitor for competitor in (*COMPETITORS, LOSS)})
"""Competitors that an experiment can name. Others are defined as tables."""
WHOLE = "macs<=100%"
"""The budget that arms without a budget are recorded under."""


@dataclass(frozen=True)
class Experiment:
    """The description of an experiment.

    Attributes:
        name: Name of the experiment.
        network: The dense network.
        data: The data that it is trained and measured on.
        arms: Names of `ARMS`.
        seeds: Every run is done once for each seed.
        budgets: Limits such as ``"macs<=50%"``; for arms of single weights such as ``"weights<=20%"``.
        competitors: Labels of `KNOWN` competitors.
        custom_competitors: Competitors that the experiment defines.
        shrinkers: Competitors of arms that shrink networks while they are trained: names of methods, or tables.
        weight_scores: Competitors of arms whose masks a score chooses: names of scores of single weights, or tables.
        settings: Keyword arguments of `scionet.prune` that all competitors share: ``resources``, ``limits``,
            ``outputs``.
        predefined: The widths of competitors "at predefined widths".
        guided: The network to which the arms ``guided scratch-e`` and ``guided scratch-b`` apply the densities of the
            stages; the dense one by default.
        stock: Smaller networks for the arms ``stock scratch-e`` and ``stock scratch-b``.
        learning_rates: Factors on the learning rate of a recipe, one for each training of a sweep.
        longest: The largest multiple of its recipe's epochs that a scaled arm is trained for; None for no limit.
        pretraining: Recipe of the dense network, if no weights are given.
        finetuning: Recipe of arms that inherit weights.
        scratch: Recipe of arms that start with new weights.
        shrinking: Recipe by which networks shrink.
        tickets: How single weights are removed.
        latency_batch: Batch size at which latency is measured, in every run except those of single weights. None
            measures no latency.
    """

    name: str
    network: NetworkSource
    data: Data
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    budgets: tuple[str, ...]
    competitors: tuple[str, ...] = ()
    custom_competitors: tuple[CustomCompetitor, ...] = ()
    shrinkers: tuple[str | ShrinkCompetitor, ...] = ()
    weight_scores: tuple[str | MaskCompetitor, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    predefined: Predefined | None = None
    guided: NetworkSource | None = None
    stock: tuple[NetworkSource, ...] = ()
    learning_rates: tuple[float, ...] = (1.0,)
    longest: float | None = None
    pretraining: Recipe | None = None
    finetuning: Recipe | None = None
    scratch: Recipe | None = None
    shrinking: Recipe | None = None
    tickets: Tickets = field(default_factory=Tickets)
    latency_batch: int | None = None

    def __post_init__(self) -> None:
        """Check that names are known, values are allowed, and everything that the arms need is there.

        Raises:
            InvalidSetting: If a check fails; the error lists all that do.
        """
        for kind, given, known in (("arm", self.arms, ARMS), ("competitor", self.competitors, KNOWN)):
            for name in given:
                if name not in known:
                    raise unknown(kind, name, known)
        arms = [ARMS[name] for name in self.arms]
        subjects, trains = {arm.subject for arm in arms}, any(arm.training != "none" for arm in arms)
        checks = {
            "arms, seeds and budgets have at least one entry each": all((self.arms, self.seeds, self.budgets)),
            "seeds are different whole numbers of 0 or more": len(set(self.seeds)) == len(self.seeds)
            and min(self.seeds, default=0) >= 0,
            "learning_rates are one or more different numbers above 0": bool(self.learning_rates)
            and min(self.learning_rates) > 0
            and len(set(self.learning_rates)) == len(self.learning_rates),
            "arms of pruned networks need competitors": bool(self.competing)
            or all(arm.shrinks or arm.subject not in ("pruned", "guided") for arm in arms),
            "arms that shrink networks need shrinkers and [shrinking], and those need such arms": len(
                {bool(self.shrinking_ones), self.shrinking is not None, any(arm.shrinks for arm in arms)}
            )
            == 1,
            "shrinkers are different": len({c.label for c in self.shrinking_ones}) == len(self.shrinking_ones),
            "labels of competitors are different": len({c.label for c in self.competing}) == len(self.competing),
            "weight_scores are different": len(set(self.masking)) == len(self.masking),
            "arms whose masks a score chooses need weight_scores, and those need such arms": bool(self.masking)
            == any(arm.scored for arm in arms),
            "competitors at predefined widths need [predefined], with one of the budgets": all(
                self.predefined is not None and self.predefined.budget in self.budgets
                for competitor in self.competing
                if competitor.at_predefined
            ),
            "stock arms need stock networks": "stock" not in subjects or bool(self.stock),
            "arms that train need validation examples": not trains or self.data.validation > 0,
            "latency_batch is 1 or more, at most batch_size and calibration": self.latency_batch is None
            or 1 <= self.latency_batch <= min(self.data.batch_size, self.data.calibration),
            "longest is 1 or more": self.longest is None or self.longest >= 1,
            **self._recipe_checks({arm.training for arm in arms}),
            **self._budget_checks(arms),
        }
        if failed := [text for text, passed in checks.items() if not passed]:
            raise InvalidSetting(f"experiment {self.name!r}: {'; '.join(failed)}")

    def _recipe_checks(self, needs: set[str]) -> dict[str, bool]:
        """Checks of the recipes that the arms need, by error text."""
        dense = self.pretraining
        return {
            "the network needs weights, or [pretraining]": (self.network.weights is None) != (dense is None),
            "arms that fine-tune need [finetuning]": "finetuning" not in needs or self.finetuning is not None,
            "scratch arms need [scratch]": "scratch" not in needs or self.scratch is not None,
            "arms that rewind need [pretraining]": "pretraining" not in needs or dense is not None,
            "tickets.rewind_epoch is less than the epochs of [pretraining]": "pretraining" not in needs
            or dense is None
            or self.tickets.rewind_epoch < dense.epochs,
        }

    def _budget_checks(self, arms: Sequence[Arm]) -> dict[str, bool]:
        """Checks of the budgets that the arms need, by error text.

        Raises:
            InvalidSetting: If a density is malformed.
        """
        densities = [density_of(budget) for budget in self.budgets if of_weights(budget)]
        smaller = any(arm.subject in ("pruned", "guided", "uniform") for arm in arms)
        return {
            "arms of single weights need budgets such as 'weights<=20%', and those need such arms": bool(densities)
            == any(arm.masked for arm in arms),
            "arms of smaller networks need budgets such as 'macs<=50%'": not smaller
            or len(densities) < len(self.budgets),
        }

    @classmethod
    def read(cls, path: Path, trust_factory: bool = False) -> "Experiment":
        """Read an experiment from a TOML file.

        Args:
            path: The file.
            trust_factory: Whether the file may name functions of any package; they may be any code.

        Raises:
            RecordError: If the file cannot be read or is not TOML, or a key is missing, unknown or of a wrong type.
            InvalidSetting: If a name or a value is not allowed, or the file names functions that are not trusted.
        """
        table = read_toml(path, RecordError)
        if not trust_factory:
            refuse_untrusted(functions_in(table), path)
        try:
            recipes = {name: plain(_recipe(table[name], name)) for name in _RECIPES if name in table}
            return build(cls, {**table, **recipes}, "experiment")
        except InvalidSetting as error:
            raise InvalidSetting(f"{path}: {error}") from error
        except ValueError as error:
            raise RecordError(f"{path} is no experiment: {error}") from error

    @property
    def competing(self) -> tuple[Competitor, ...]:
        """All competitors."""
        own = (custom.competitor for custom in self.custom_competitors)
        return (*(KNOWN[label] for label in self.competitors), *own)

    @property
    def masking(self) -> tuple[MaskCompetitor, ...]:
        """All competitors that choose single weights.

        Raises:
            InvalidSetting: If a score is unknown.
        """
        return tuple(MaskCompetitor(each) if isinstance(each, str) else each for each in self.weight_scores)

    @property
    def shrinking_ones(self) -> tuple[ShrinkCompetitor, ...]:
        """All competitors that shrink networks while they are trained.

        Raises:
            InvalidSetting: If a method is unknown.
        """
        return tuple(ShrinkCompetitor(each) if isinstance(each, str) else each for each in self.shrinkers)

    def trials(self) -> tuple[Trial, ...]:
        """All runs, arm by arm in the given order."""
        return tuple(
            Trial(ARMS[name], *what, seed)
            for name in self.arms
            for what in self._of_arm(ARMS[name])
            for seed in self.seeds
        )

    def _of_arm(self, arm: Arm) -> Iterator[tuple[AnyCompetitor | None, NetworkSource | None, str]]:
        """Competitor, stock network and budget of each run of an arm, the same for all seeds."""
        if arm.subject == "stock":
            yield from ((None, stock, WHOLE) for stock in self.stock)
            return
        smaller = self.competing if arm.subject in ("pruned", "guided") else (None,)
        own = self.shrinking_ones if arm.shrinks else smaller
        for competitor in self.masking if arm.scored else own:
            yield from ((competitor, None, budget) for budget in self.budgets_of(arm, competitor))

    def budgets_of(self, arm: Arm, competitor: AnyCompetitor | None = None) -> tuple[str, ...]:
        """The budgets that apply to a competitor in an arm."""
        if arm.subject in ("dense", "stock"):
            return (WHOLE,)
        if isinstance(competitor, Competitor) and competitor.at_predefined and self.predefined is not None:
            return (self.predefined.budget,)
        return tuple(budget for budget in self.budgets if of_weights(budget) == arm.masked)

    def recipe(self, arm: Arm) -> Recipe:
        """The recipe of an arm."""
        found = {"finetuning": self.finetuning, "scratch": self.scratch, "pretraining": self.pretraining}[arm.training]
        if found is None:
            raise AssertionError("an experiment has the recipes of its arms")
        return found

    def spec(self, trial: Trial, dense: str) -> RunSpec:
        """Return the specification of a trial: everything that its result depends on.

        Args:
            trial: The trial.
            dense: Identity of the dense network; see `dense_identity`.
        """
        recipe = None if trial.arm.training == "none" else _described(self.recipe(trial.arm))
        settings = {
            "arm": trial.arm.name,
            "network": {"factory": self.network.factory, "arguments": self.network.arguments},
            "dense": dense,
            "data": plain(self.data),
            "competitor": self._described(trial.competitor),
            "stock": plain(trial.stock),
            "recipe": None if recipe is None else {**recipe, "learning_rates": self.learning_rates},
            "longest": self.longest if trial.arm.scaled else None,
            **self._further(trial),
        }
        data = self.data.source.partition(":")[2] or self.data.source
        return RunSpec(self.name, self.network.name, data, trial.method, trial.budget, trial.seed, settings)

    def _described(self, competitor: AnyCompetitor | None) -> dict[str, Any] | None:
        """A competitor as JSON, with the settings that all share."""
        if competitor is None or isinstance(competitor, MaskCompetitor):
            return competitor and competitor.described
        if isinstance(competitor, ShrinkCompetitor):
            return {**self.settings, **competitor.described}
        widths = {"predefined": plain(self.predefined)} if competitor.at_predefined else {}
        return {**self.settings, **competitor.described, **widths}

    def _further(self, trial: Trial) -> dict[str, Any]:
        """Settings that only some arms depend on."""
        arm = trial.arm
        found = {
            "tickets": plain(self.tickets) if arm.masks == "rounds" else None,
            "rewind_epoch": self.tickets.rewind_epoch if arm.weights == "early" and not arm.masked else None,
            "latency_batch": None if arm.masked else self.latency_batch,
        }
        found["shrinking"] = plain(self.shrinking) if arm.shrinks else None
        guided = {"guided": plain(self.guided)} if arm.subject == "guided" else {}
        return {**{name: value for name, value in found.items() if value is not None}, **guided}

    def dense_identity(self, folder: Path) -> str:
        """SHA-256 of the file of the dense weights, or of the settings that they are trained with."""
        if self.network.weights is None:
            made = {"factory": self.network.factory, "arguments": self.network.arguments, "weights": None}
            text = to_json([made, self.data, None if self.pretraining is None else _described(self.pretraining)])
            return hashlib.sha256(text.encode()).hexdigest()
        path = folder / self.network.weights
        try:
            return hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise RecordError(
                f"cannot read the weights {path}: {error.strerror}; give the folder of the data"
            ) from error


_RECIPES = ("pretraining", "finetuning", "scratch", "shrinking")


_ADDED: Mapping[str, Any] = {"optimiser_settings": {}, "l1_weight": 0.0}
"""Settings of recipes that records of earlier runs do not name, with the values that they had."""


def _described(recipe: Recipe) -> dict[str, Any]:
    """A recipe as a specification has it: what earlier records do not name is left out where it is as it was."""
    settings = plain(recipe)
    return {key: value for key, value in settings.items() if key not in _ADDED or value != _ADDED[key]}


def _recipe(table: Any, where: str) -> Recipe:
    """Build a recipe from its table. The key ``recipe`` names the recipe whose defaults are used.

    Raises:
        InvalidSetting: If there is no such recipe, or a value is out of range.
        ValueError: If a key is unknown or of a wrong type.
    """
    if not isinstance(table, dict):
        raise ValueError(f"experiment.{where} must be a table; given {table!r:.60}")
    given = dict(table)
    name = given.pop("recipe", "finetune")
    if name not in RECIPES:
        raise unknown("recipe", str(name), RECIPES)
    return build(RECIPES[name], given, f"experiment.{where}")
