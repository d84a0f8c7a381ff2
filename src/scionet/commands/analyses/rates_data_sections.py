"""The parts of an analysis of rates that depend on the user's data, as sections of a page."""

from collections.abc import Sequence

from scionet.analysis.rates.imitation import SiteImitation
from scionet.analysis.rates.pretraining import PretrainingStudy
from scionet.commands.analyses.rates_texts import GEOMETRY, bound, line, number, onset_text, radius_text, slope_texts
from scionet.commands.analyses.study_page import Grid, Line, Panel, Section

DOUBLING = 0.6931471805599453
"""log 2: the slope per doubling of the examples is this times the slope in log m."""


def pretraining_section(study: PretrainingStudy) -> Section:
    """Training needed before pruning, by the number of examples."""
    settings = study.settings
    reached = [(t.examples, [s for s in t.steps if s is not None]) for t in study.thresholds]
    means = [(float(m), sum(steps) / len(steps)) for m, steps in reached if steps]
    thresholds = Panel(
        "Training needed before pruning",
        "examples m",
        "steps of training",
        (Line("mean over seeds", tuple(m for m, _ in means), tuple(steps for _, steps in means)),) if means else (),
        y_log=False,
    )
    paths = Panel(
        "Loss of the pruned network",
        "steps of training",
        "loss, relative to the mean target's",
        (
            *(line(t.pruned, f"{t.examples:,} examples") for t in study.thresholds),
            bound("level", study.thresholds[0].pruned.n, [settings.level] * len(study.thresholds[0].pruned.n)),
        ),
    )
    rows = tuple((f"{t.examples:,}", ", ".join(number(s) for s in t.steps)) for t in study.thresholds)
    caption = (
        f"Networks of {settings.neurons} neurons, trained by stochastic gradient descent in batches of "
        f"{settings.batch_size}, and pruned to {settings.picks} picks without fine-tuning. The level is "
        f"{settings.level:.0%} of the loss of predicting the mean target. A dash: not reached."
    )
    return Section(
        "How much training before pruning",
        "A network is trained for t steps and then pruned. From which t on is the pruned network good?",
        (thresholds, paths),
        Grid(("examples m", "steps until the level, by seed"), rows, caption),
        (_pretraining_reading(study),),
    )


def _pretraining_reading(study: PretrainingStudy) -> str:
    if study.logarithmic is None or study.power is None:
        return "Too few thresholds were reached to say how they grow with the number of examples."
    logs, power = study.logarithmic, study.power
    better = "logarithm" if logs.explained >= power.explained else "power law"
    return (
        f"Each doubling of the examples takes {logs.slope * DOUBLING:.1f} more steps ({logs.low * DOUBLING:.1f} to "
        f"{logs.high * DOUBLING:.1f}); this line in log m explains {logs.explained:.0%} of the variance. A power law "
        f"m^{power.slope:.2f} explains {power.explained:.0%}. The {better} fits better."
    )


def sites_section(sites: Sequence[SiteImitation]) -> Section:
    """Local imitation at the sites of a network."""
    panels = tuple(
        Panel(
            f"{each.site}: {each.units} units",
            "distinct units kept",
            "relative error",
            tuple(line(curve) for curve in each.curves),
        )
        for each in sites
    )
    rows = tuple(
        (
            each.site,
            str(each.units),
            radius_text(each.geometry.radius),
            onset_text(each.geometry),
            *slope_texts(each.slopes),
            f"{each.distinct} of {each.picks}",
            f"{each.contraction:.4f}",
        )
        for each in sites
    )
    columns = (
        "site",
        "units",
        "radius",
        "D²/4γ²",
        "slope, early",
        "slope, late",
        "distinct of picks",
        "worst ratio, line search",
    )
    return Section(
        "Sites of the network",
        "Each site's units imitate the dense output of their consumers. The dense output is the mean of the units' "
        "contributions, so it always lies in their hull. Which weights make the difference?",
        panels,
        Grid(columns, rows, "Slopes are those of greedy selection with weights 1/n, by picks. " + GEOMETRY),
        tuple(map(_site_reading, sites)),
    )


def _site_reading(each: SiteImitation) -> str:
    curves = {curve.label: dict(zip(curve.n, curve.values, strict=True)) for curve in each.curves}
    half = each.units // 2
    nearest = {label: values[min(values, key=lambda n: abs(n - half))] for label, values in curves.items() if values}
    ordered = sorted(nearest.items(), key=lambda item: item[1])
    listed = "; ".join(f"{label} {value:.2g}" for label, value in ordered)
    return f"{each.site}, at about {half} of {each.units} units: {listed}."
