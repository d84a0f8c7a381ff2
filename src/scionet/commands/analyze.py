"""scionet analyze: collapse curves of scores, and the identities of gradient flow."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from scionet.analysis.collapse import Point, collapse_curve, critical_compression
from scionet.analysis.gradient_flow import flow_rates, rank_correlation, removal_effects
from scionet.budget.costs import CostModel
from scionet.commands import networks, pictures
from scionet.commands.options import AnalyzeCollapse, AnalyzeGradientFlow, AnalyzeOptions
from scionet.commands.output_files import check_writable
from scionet.commands.scoring import count, first
from scionet.commands.show import line, table
from scionet.data.batches import ImageBatches, batches
from scionet.data.folders import ImageFolder
from scionet.data.sampling import sampled
from scionet.errors import InvalidSetting, unknown
from scionet.extras import extra
from scionet.files.atomic import whole_file
from scionet.methods.calibration.calibration import read
from scionet.methods.contract import SiteView
from scionet.methods.criteria.unit_scores import ScoreRanker
from scionet.methods.problem import Problem
from scionet.methods.registry import SCORES
from scionet.models.factory import build
from scionet.models.weight_files import load_weights
from scionet.network.discovery.discover import discover
from scionet.network.network import Network
from scionet.network.sites import Sites

RATES = {"norm": "d‖θ‖²/dt", "norm_acceleration": "d²‖θ‖²/dt²", "loss": "dL/dt", "gradient_norm": "d‖g‖²/dt"}


@dataclass(frozen=True)
class _Subject:
    """A network and labelled pictures."""

    model: nn.Module
    data: ImageBatches

    @property
    def example(self) -> Tensor:
        return first(self.data, 1)


def collapse(command: AnalyzeCollapse) -> None:
    """Mask, print the results, and write the files that were asked for.

    Raises:
        PruneError: If something is wrong with what was given.
    """
    _check_files(command, (command.json, ".json"), (command.plot, ".svg"))
    _write(command, _collapse(command, _subject(command)))


def gradient_flow(command: AnalyzeGradientFlow) -> None:
    """Measure, print the results, and write the files that were asked for.

    Raises:
        PruneError: If something is wrong with what was given.
    """
    _check_files(command, (command.json, ".json"))
    _write(command, _gradient_flow(command, _subject(command)))


def _check_files(command: AnalyzeOptions, *files: tuple[Path | None, str]) -> None:
    for path, suffix in files:
        if path is not None:
            check_writable(path, command.overwrite, (suffix,))


def _write(command: AnalyzeOptions, record: Mapping[str, Any]) -> None:
    if command.json is not None:
        with whole_file(command.json, ".json", overwrite=command.overwrite, error=InvalidSetting) as temporary:
            temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        line(f"written to {command.json}")


def _subject(command: AnalyzeCollapse | AnalyzeGradientFlow) -> _Subject:
    model = build(command.model, **networks.keywords(command.model_args))
    if command.weights is not None:
        load_weights(model, command.weights)
    options = command.pictures
    folder = ImageFolder(options.data, options.split)
    indices = sampled(
        np.arange(len(folder)), command.images, np.random.default_rng(command.seed), "pictures", folder.root
    )
    prepared = pictures.preprocessing(options)
    return _Subject(model.eval(), batches(folder, prepared, options.batch_size, indices, labels=True))


def _collapse(command: AnalyzeCollapse, subject: _Subject) -> dict[str, Any]:
    curves = {
        score: collapse_curve(
            subject.model,
            score,
            command.compressions,
            example_inputs=subject.example,
            batches=subject.data,
            seed=command.seed,
        )
        for score in command.scores
    }
    points = list(chain.from_iterable(curves.values()))
    table(
        f"{command.model}: layers without weights",
        ("compression", "kept", "empty layers", "connected"),
        [_row(point) for point in points],
    )
    for score, curve in curves.items():
        critical = critical_compression(curve)
        line(f"{score}: no layer is emptied up to {'none of these' if critical is None else f'{critical:g}'}")
    if command.plot is not None:
        _plot(curves, command.plot, command.overwrite)
        line(f"plotted to {command.plot}")
    return {"network": command.model, "seed": command.seed, "points": [asdict(point) for point in points]}


def _row(point: Point) -> tuple[str, ...]:
    kept, empty = sum(point.kept.values()), f"{len(point.collapsed)} of {len(point.kept)}"
    return point.score, f"{point.compression:g}", count(kept), empty, "yes" if point.connected else "no"


def _plot(curves: Mapping[str, Sequence[Point]], path: Path, overwrite: bool) -> None:
    """Fraction of layers without weights over compression."""
    with extra("report"):
        import matplotlib
        from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "scionet"}):
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.add_subplot(xscale="log", xlabel="compression", ylabel="layers without weights", ylim=(-0.02, 1))
        for score, curve in curves.items():
            shares = [len(point.collapsed) / len(point.kept) for point in curve]
            axes.plot([point.compression for point in curve], shares, marker="o", label=score)
        axes.legend()
        with whole_file(path, ".svg", overwrite=overwrite, error=InvalidSetting) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})


def _gradient_flow(command: AnalyzeGradientFlow, subject: _Subject) -> dict[str, Any]:
    rates = flow_rates(subject.model, subject.data, batch_norms=command.batch_norms)
    found = {field.name: getattr(rates, field.name) for field in fields(rates)}
    rows = [(RATES[n], f"{r.predicted:.6g}", f"{r.measured:.6g}", f"{r.error:.1e}") for n, r in found.items()]
    table(f"{command.model}: gradient flow", ("predicted", "measured", "relative difference"), rows)
    correlations = _correlations(command, subject) if command.methods else {}
    if correlations:
        table(
            "rank correlation with the change of the loss when a unit is removed, mean over sites",
            ("correlation", "sites"),
            [(m, f"{np.mean(list(by_site.values())):.2f}", str(len(by_site))) for m, by_site in correlations.items()],
        )
    return {"network": command.model, "seed": command.seed, "rates": asdict(rates), "correlations": correlations}


def _correlations(command: AnalyzeGradientFlow, subject: _Subject) -> dict[str, dict[str, float]]:
    for method in command.methods:
        if method not in SCORES:
            raise unknown("score of units", method, SCORES)
    sites = discover(subject.model, subject.example)
    effects = removal_effects(subject.model, subject.data, sites)
    return {method: rank_correlation(_scores(command, subject, sites, method), effects) for method in command.methods}


def _scores(command: AnalyzeGradientFlow, subject: _Subject, sites: Sites, method: str) -> dict[str, Any]:
    """Scores of all units.

    Raises:
        InvalidSetting: If the method needs the consumers' inputs.
    """
    ranker = SCORES[method]
    network = Network(subject.model, sites)
    batch_size, unlimited = subject.data.batch_size, float("inf")
    options = {"labels": ranker.uses_labels, "batch_size": batch_size, "memory_bytes": unlimited}
    calibration = read(network, subject.data, subject.example, **options)
    ready = ranker.ready(Problem(network, calibration, CostModel(sites)))
    if ranker.uses_moments or not isinstance(ready, ScoreRanker):
        raise InvalidSetting(f"method {method!r} is measured along a walk, and not once; leave it out of --methods")
    rng = np.random.default_rng(command.seed)
    return {name: ready.scores(SiteView(site, network, calibration), rng) for name, site in sites.items()}
