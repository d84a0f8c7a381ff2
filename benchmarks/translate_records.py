"""Rewrite the packed records from the names of the unreleased 0.1.0 to those of today. Done once, for all records.

    python -m benchmarks.translate_records

Nothing was measured again. A record keeps its results and its provenance as they were: date, versions, machine,
command, and the hashes of the plan and of the dense network. What changes is how its specification is written:

- the name of the method: "l1 + least squares + measured" is "l1 + refit + sensitivity";
- the settings: the flat table of the old code takes the nested form of `scionet.methods.pipeline.Pipeline.described`,
  and the "contestant" of an experiment the form of `Competitor.described`, under "competitor";
- the summary, where it uses old words.

Every translated record has the note `NOTE`. A file that has one is refused: nothing is translated twice.

What the old code did and the new code names is recorded as it was:

- `resources.batch_size` is null. The old code took the batches as they were given and sampled positions for each batch.
  Today examples are regrouped into batches of one size, and positions are sampled for each example.
- Settings that did not exist yet have the value of what the code then did: one width per site for sensitivities, one
  pass, no search, the consumer's output as the target.
- `allocation` None meant error curves as long as `measured_examples` was 128 by default, and sensitivities afterwards.
  For the task loss it always meant uniform widths.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import RESULTS
from scionet.bench.experiment.competitors import Competitor
from scionet.bench.records.archive import read_archive, write_archive
from scionet.bench.records.record import RunRecord
from scionet.bench.records.record_files import RecordError
from scionet.choices.limits import Limits
from scionet.choices.methods import (
    Average,
    Exact,
    Forward,
    LeastSquares,
    LineSearch,
    Objective,
    Score,
    Stochastic,
    TaskLoss,
)
from scionet.choices.outputs import Outputs
from scionet.choices.repair import Recalibrate, Reconstruct, Refit, RepairStep
from scionet.choices.resources import Resources
from scionet.choices.settings import Settings
from scionet.choices.widths import ErrorCurves, Sensitivity, Uniform, WidthRule
from scionet.files.json_dataclasses import to_json
from scionet.methods.contract import Ranker, SiteView
from scionet.methods.pipeline import Pipeline
from scionet.methods.registry import SCORES, ranker_for
from scionet.selection.greedy import Selection

FILES = (
    "untrained.jsonl",
    "repair.jsonl",
    "examples.jsonl",
    "selector/runs.jsonl",
    *(f"{name}/records.jsonl" for name in ("smoke", "small", "tickets")),
)
NOTE = "names of methods and settings translated from those of 0.1.0.dev"
ADDITIONS = {
    "least squares": "refit",
    "measured": "sensitivity",
    "curves": "error curves",
    "trials": "search",
    "re-calibration": "recalibration",
}
"""What is done beyond the selection, by its old name."""
SWITCHES = {
    "refit=False, recalibrate=True": "repair=['recalibrate']",
    "refit=False": "repair=[]",
    "recalibrate=True": "repair=['refit', 'recalibrate']",
    "asymmetric=False": "Refit(asymmetric=False)",
    "shortcuts=False": "Refit(shortcuts=False)",
    "shrinkage=0.0": "Refit(shrinkage=0.0)",
    "shrinkage='held_out'": "Refit(shrinkage='held_out')",
    "sweeps=2": "Forward(passes=2)",
    "measured_widths=3": "Sensitivity(widths_per_site=3)",
    "reconstruct_steps=300": "Reconstruct(steps=300)",
}
"""The rows of docs/repair.md by their old names."""
PHRASES = {
    "Then BatchNorm statistics are measured anew.": "Then BatchNorm statistics are re-measured.",
    "Widths by the sites' error curves instead": "Widths by the error curves of the sites instead",
    "Widths by the measured effect of each site on the network's output.": (
        "Widths by the measured sensitivity of the network's output to each site."
    ),
    "The best of 40 ways to share the budget out,": "The best of 40 ways to divide the budget,",
    "Then all weights learn from the dense network's outputs and features, 300 steps without labels.": (
        "Then all weights are trained to match the dense network's outputs and features, 300 steps, no labels."
    ),
    **{f"; {old}": f"; {new}" for old, new in SWITCHES.items()},
}
"""Parts of summaries."""
TARGETS = {"local": "consumer", "global": "output", "better": "better"}
IGNORED = {"memory_gib", "workers", "backend"}
"""Settings that do not change the result and are not recorded any more."""
KNOWN = IGNORED | {
    *(
        "allocation",
        "asymmetric",
        "candidates",
        "certify",
        "epsilon",
        "fresh_batches",
        "imitation",
        "measured_examples",
    ),
    *("measured_widths", "metric", "min_units", "objective", "partitions", "positions", "recalibrate", "refit"),
    *("reconstruct_rate", "reconstruct_steps", "repetition", "round_to", "sample_size", "scoring", "shortcuts"),
    *("shrinkage", "survey_examples", "sweeps", "tolerance", "width_trials"),
}

Old = Mapping[str, Any]


class NamedRanker(Ranker):
    """Stands for a ranker of selector.py, of which only the name is recorded."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def name(self) -> str:
        """Name in records."""
        return self._name

    def rank(self, view: SiteView, n_units: int, rng: np.random.Generator) -> Selection:
        """Never called."""
        raise NotImplementedError


def main() -> None:
    """Translate all files."""
    found = {RESULTS / name: translated_file(RESULTS / name) for name in FILES}
    for path, records in found.items():
        write_archive(path, records)
        print(f"{path.relative_to(RESULTS)}: {len(records)} records translated")


def translated_file(path: Path) -> list[dict[str, Any]]:
    """The records of a packed file, translated.

    Raises:
        RecordError: If one is translated already, or has a setting that no old code had.
    """
    records = read_archive(path)
    if any(NOTE in record["notes"] for record in records):
        raise RecordError(f"{path} is translated already; leave it as it is")
    found = [translated(record) for record in records]
    for record in found:
        RunRecord.from_json(to_json(record), str(path))
    return found


def translated(record: Old) -> dict[str, Any]:
    """One record."""
    spec = record["spec"]
    given, label = spec["settings"], translated_label(spec["method"])
    settings: Mapping[str, Any] = given
    if "contestant" in given:
        settings = {("competitor" if key == "contestant" else key): value for key, value in given.items()}
        settings["competitor"] = given["contestant"] and competitor_settings(given["contestant"])
    elif given:
        settings = plan_settings(spec["experiment"], label, given)
    summary = record["summary"]
    for old, new in PHRASES.items():
        summary = summary.replace(old, new)
    return {
        **record,
        "spec": {**spec, "method": label, "settings": settings},
        "summary": summary,
        "notes": [*record["notes"], NOTE],
    }


def translated_label(method: str) -> str:
    """The name of a method, of what is added to it, or of a row of docs/repair.md."""
    switch, comma, images = method.partition(", 128 images")
    if switch in SWITCHES:
        return f"{SWITCHES[switch]}{comma}{images}"
    base, *additions = method.split(" + ")
    return " + ".join([base, *(ADDITIONS.get(each, each) for each in additions)])


def competitor_settings(contestant: Old) -> dict[str, Any]:
    """The choices of a competitor of an experiment, as `Competitor.described` has them.

    Raises:
        RecordError: If it had other settings than the committed experiments have.
    """
    given = {"refit": contestant["method"] == "forward", **contestant}
    method, allocation, refit = given.pop("method"), given.pop("allocation"), given.pop("refit")
    if given or allocation != "measured" or not refit:
        raise RecordError(f"cannot translate the competitor {contestant}: other settings than in benchmarks/configs")
    return Competitor("", method, "sensitivity", ("refit",)).described


def plan_settings(experiment: str, label: str, given: Old) -> dict[str, Any]:
    """The settings of a plan, as `Pipeline.described` has them.

    Args:
        experiment: Name of the benchmark.
        label: The translated name of the method.
        given: The flat settings.

    Raises:
        RecordError: If a setting is unknown, or there is no word for its value today.
    """
    if unknown := given.keys() - KNOWN:
        raise RecordError(f"{label}: {sorted(unknown)} are no settings of the old code; this record is not translated")
    repair = tuple(_repair(given))
    if not given["refit"] and not (given["asymmetric"] and given["shortcuts"]):
        raise RecordError(f"{label}: a selection without refit on inputs of the dense network has no name today")
    settings = Settings(
        _widths(given),
        repair,
        Outputs(given.get("metric")),
        Limits(given["round_to"], given["min_units"]),
        Resources(positions=given["positions"], survey_examples=given["survey_examples"]),
    )
    found = dict(Pipeline(_ranker(experiment, label, given, settings), settings).described)
    return {**found, "resources": {**found["resources"], "batch_size": None}}


def _ranker(experiment: str, label: str, given: Old, settings: Settings) -> Ranker:
    base, passes = label.split(" + ")[0], given.get("sweeps", 1)
    if "objective" in given:
        return ranker_for(Forward(_objective(given), _candidates(given), passes), settings)
    if experiment == "selector":
        return SCORES[base] if base in ("l1", "bn_scale", "random") else NamedRanker(base)
    return ranker_for(Score(base, passes), settings)


def _objective(given: Old) -> Objective:
    target = TARGETS[given.get("imitation", "local")]
    match given["objective"]:
        case "least_squares":
            return LeastSquares(target, given.get("certify", False), given.get("partitions", 1))  # pyright: ignore[reportArgumentType]  a name
        case "line_search":
            return LineSearch(target)  # pyright: ignore[reportArgumentType]  a name
        case "average" if target == "consumer":
            return Average(repetition=given["repetition"])
        case "loss":
            scoring, fresh = given.get("scoring") or "exact", given.get("fresh_batches", False)
            return TaskLoss(scoring, fresh, given["repetition"], given["tolerance"])
    raise RecordError(f"no record had objective {given['objective']!r} with target {target!r}")


def _candidates(given: Old) -> Exact | Stochastic:
    return Exact() if given["candidates"] == "exact" else Stochastic(given["epsilon"], given["sample_size"])


def _widths(given: Old) -> WidthRule:
    match given["allocation"]:
        case "curves":
            return ErrorCurves()
        case "uniform":
            return Uniform()
        case None if given.get("objective") == "loss":
            return Uniform()
        case None if given["measured_examples"] == 128:
            return ErrorCurves()
    return Sensitivity(given["measured_examples"], given.get("measured_widths", 1), given.get("width_trials", 0))


def _repair(given: Old) -> list[RepairStep]:
    steps: list[RepairStep] = []
    if given["refit"]:
        steps.append(Refit(given["shrinkage"], given["asymmetric"], given["shortcuts"]))
    if given.get("recalibrate"):
        steps.append(Recalibrate())
    if given.get("reconstruct_steps"):
        steps.append(Reconstruct(given["reconstruct_steps"], given["reconstruct_rate"]))
    return steps


if __name__ == "__main__":
    main()
