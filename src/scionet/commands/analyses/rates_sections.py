"""An analysis of rates as sections of a page: panels, tables, and what the numbers say."""

from collections.abc import Sequence

from scionet.analysis.rates.planted import Planted
from scionet.analysis.rates.scratch import ScratchComparison
from scionet.analysis.rates.study import RatesStudy
from scionet.analysis.rates.untrained import Neurons
from scionet.commands.analyses.rates_data_sections import pretraining_section, sites_section
from scionet.commands.analyses.rates_texts import (
    GEOMETRY,
    bound,
    distance_text,
    line,
    number,
    onset_text,
    radius_text,
    rounded,
    signed,
    slope_text,
    slope_texts,
    window,
)
from scionet.commands.analyses.study_page import Grid, Panel, Section

ERROR, LOSS, PICKS = "‖u − y‖²", "half the mean squared error", "picks n"


def sections(study: RatesStudy) -> tuple[Section, ...]:
    """All parts that were measured."""
    found = []
    if study.planted:
        found.append(_planted(study.planted))
    if study.scratch:
        found.append(_scratch(study.scratch))
    if study.random:
        found.append(_random(study.random))
    if study.pretraining is not None:
        found.append(pretraining_section(study.pretraining))
    if study.sites:
        found.append(sites_section(study.sites))
    return tuple(found)


def _planted(planted: Sequence[Planted]) -> Section:
    tight, tanh = planted[0], [each for each in planted if each.drawn is not None]
    n = tight.uniform.n
    size = tight.geometry.atoms
    rates = Panel(
        "Uniform weights: −1 or −2",
        PICKS,
        ERROR,
        (
            *(line(each.uniform, each.label) for each in planted),
            bound("1/n − 1/N", [k for k in n if k < size], [1 / k - 1 / size for k in n if k < size]),
            *(line(each.drawn, "random atoms", dashed=True) for each in tanh[:1] if each.drawn),
        ),
    )
    searched = Panel(
        "Line search: exponential decay",
        PICKS,
        ERROR,
        tuple(line(each.line_search, each.label) for each in planted[1:]),
        x_log=False,
    )
    distinct = Panel(
        "Distinct atoms saturate", PICKS, "distinct atoms", tuple(line(each.distinct, each.label) for each in tanh)
    )
    rows = tuple(
        (
            each.label,
            f"{each.geometry.atoms:,} × {each.geometry.dimension:,}",
            radius_text(each.geometry.radius),
            onset_text(each.geometry),
            *slope_texts(each.slopes),
            slope_text(each.drawn_slope),
            f"{each.largest:.2f} ≤ {number(each.geometry.fast_bound)}"
            if each.geometry.fast_bound
            else number(each.largest),
            f"{each.contraction:.4f}",
        )
        for each in planted
    )
    columns = (
        *("problem", "atoms × dimension", "radius γ", "D²/4γ²", "slope, early", "slope, late", "random atoms"),
        *("largest n‖u − y‖ ≤ bound", "worst ratio, line search"),
    )
    return Section(
        "Planted problems",
        "Greedy selection on problems whose geometry is known. Does the error fall as the theorems say?",
        (rates, searched, distinct),
        Grid(columns, rows, GEOMETRY + " Intervals: 95 %, over seeds."),
        tuple(_planted_reading(tight, tanh)),
    )


def _planted_reading(tight: Planted, tanh: Sequence[Planted]) -> list[str]:
    texts = [
        f"Orthonormal atoms are the slowest case: the error is 1/n − 1/N, a slope of {slope_text(tight.slopes[0])}. "
        "Line search does not help there."
    ]
    if tanh:
        first, last = tanh[0], tanh[-1]
        texts.append(
            f"{first.label}: the late slope is {slope_text(first.slopes[-1])}. {last.label}: it is "
            f"{slope_text(last.slopes[-1])}. The target lies inside the hull in both. The more outputs there are for "
            "the same number of neurons, the smaller is the ball around it, and the later the fast rate begins."
        )
        texts.append(
            f"Of 2,000 neurons, {first.distinct.values[-1]:.0f} to {last.distinct.values[-1]:.0f} were ever picked. A "
            "loop that picks until a given number of distinct neurons is kept may never end."
        )
    return texts


def _scratch(comparisons: Sequence[ScratchComparison]) -> Section:
    panels = tuple(
        Panel(
            each.label,
            "neurons n",
            LOSS,
            (
                line(each.pruned),
                line(each.scratch),
                bound(f"large network, {each.protocol.large:,}", each.scratch.n, [each.dense] * len(each.scratch.n)),
            ),
        )
        for each in comparisons
    )
    rows = tuple(
        (
            each.label,
            f"{each.examples:,}",
            f"{each.protocol.steps:,}",
            distance_text(each.geometry.distance),
            radius_text(each.geometry.radius),
            *slope_texts(each.pruned_slopes),
            slope_text(each.scratch_slope),
            number(each.crossover),
        )
        for each in comparisons
    )
    columns = (
        "task",
        "examples",
        "steps",
        "distance",
        "radius",
        "pruned, early",
        "pruned, late",
        "scratch",
        "crossover",
    )
    caption = (
        "Pruned: greedy selection from a trained large network, weights 1/n, no fine-tuning. Scratch: a network of n "
        "neurons, trained as long as the large one. Means over seeds. " + GEOMETRY
    )
    return Section(
        "Pruned or trained from scratch",
        "Two networks of n neurons: one is cut out of a large trained network, the other is trained by itself for as "
        "many steps. Which one has the lower training loss?",
        panels,
        Grid(columns, rows, caption),
        tuple(map(_scratch_reading, comparisons)),
        in_figure=2,
    )


def _scratch_reading(each: ScratchComparison) -> str:
    if each.crossover is not None:
        who = f"the pruned network is better from about {each.crossover:.0f} neurons on"
    elif each.pruned_ahead:
        who = "the pruned network is better at all sizes"
    else:
        who = "the network trained from scratch is better at all sizes"
    inside = each.geometry.distance.low == 0
    where = (
        "The targets lie in the hull of the large network's neurons"
        if inside
        else f"The targets lie outside the hull of the large network's neurons, at a distance of "
        f"{distance_text(each.geometry.distance)}, so the error of pruned networks cannot go below "
        f"{each.geometry.distance.low**2 / 2:.2g}"
    )
    late = each.pruned_slopes[-1]
    return f"{each.label}: {who}. {where}; the late slope of pruned networks is {slope_text(late)}."


def _random(neurons: Sequence[Neurons]) -> Section:
    rows = tuple(
        (
            each.label,
            distance_text(each.geometry.distance),
            radius_text(each.geometry.radius),
            onset_text(each.geometry),
            slope_text(each.slope),
        )
        for each in neurons
    )
    return Section(
        "Random neurons",
        "Greedy selection from neurons that were never trained. How many make up for training?",
        (Panel("Random and trained neurons", PICKS, LOSS, tuple(line(each.curve) for each in neurons)),),
        Grid(("neurons", "distance", "radius", "D²/4γ²", f"slope, {window(neurons[0].slope)}"), rows, GEOMETRY),
        _random_reading(neurons),
    )


def _random_reading(neurons: Sequence[Neurons]) -> tuple[str, ...]:
    *random, trained = neurons
    slopes = ", ".join(f"{signed(each.slope.value)} ({each.label})" for each in random)
    inside = [each.label for each in random if each.geometry.distance.low == 0]
    where = f"inside the hull of {inside[0]}" if inside else "outside the hull of all random neurons"
    onsets = [each.geometry.onset for each in neurons if each.geometry.onset]
    began = (
        " Where they lie inside, the ball around them is so small that the fast rate is promised from "
        f"{rounded(min(onsets))} picks on, and no earlier."
        if onsets
        else ""
    )
    return (
        f"Slopes are {slopes}, and {signed(trained.slope.value)} for {trained.label}.",
        f"The targets of the first seed lie {where}.{began}",
    )
