"""The page of an analysis of the limit of pruning."""

from collections.abc import Sequence

from scionet.analysis.limit.measured import Measured
from scionet.analysis.limit.subspaces import Transition
from scionet.commands.analyses.limit_record import LimitRecord, NetworkLimit
from scionet.commands.analyses.study_page import Grid, Line, Panel, Section

CLOSE = 0.1
"""Densities that differ by at most this much agree."""


def sections(record: LimitRecord) -> tuple[Section, ...]:
    """Random subspaces, then networks."""
    return _subspaces(record.subspaces), _networks(record.networks)


def _subspaces(found: Sequence[Transition]) -> Section:
    lines = [Line(f"{each.label}, ε = {each.tolerance:g}", each.densities, each.reached) for each in found]
    predictions = [Line("predicted", (each.predicted,) * 2, (0.0, 1.0), dashed=True) for each in found]
    rows = tuple(
        (
            f"{each.label}, ε = {each.tolerance:g}",
            f"{each.measured:.3f}",
            f"{each.predicted:.3f}",
            f"{each.predicted_trace:.3f}",
        )
        for each in found
    )
    worst = max(found, key=lambda each: abs(each.predicted - each.measured))
    loose = max(found, key=lambda each: each.predicted_trace - each.measured)
    return Section(
        "Random subspaces",
        "A quadratic loss in 200 dimensions with its minimum at distance 1, and random subspaces through the origin: "
        "from which dimension on do they contain a point whose loss is at most ε?",
        (
            Panel(
                "Subspaces that reach the loss",
                "dimension of the subspace over 200",
                "share of subspaces",
                (*lines, predictions[0], *(Line("", p.x, p.y, dashed=True) for p in predictions[1:])),
                x_log=False,
                y_log=False,
            ),
        ),
        Grid(
            ("eigenvalues", "measured, half of them", "predicted", "from the trace alone"),
            rows,
            "Eigenvalues are even in their logarithm; the last spectrum has a tenth from 0.5 to 1.5, the others 10⁻⁸. "
            "Predicted: 1 − f, with f the mean of 2ε / (|λ| R² + 2ε) and R = 1.",
        ),
        (
            f"The prediction misses the measured density by at most {abs(worst.predicted - worst.measured):.2f} "
            f"({worst.label}, ε = {worst.tolerance:g}). It asks for too much where ε is not small against the loss.",
            f"The trace alone is a bound, far off where eigenvalues differ: {loose.predicted_trace:.2f} against "
            f"{loose.measured:.2f} for {loose.label}.",
        ),
    )


def _networks(found: Sequence[NetworkLimit]) -> Section:
    columns = (
        *("network", "loss", "ε", "parameters", "eigenvalues of 0", "eigenvalues below 0", "gradient norm"),
        *("density, predicted", "density, trace", "one shot", "optimised again"),
    )
    caption = (
        "Densities are fractions of the weights of linear maps and convolutions. Predicted: from the whole spectrum of "
        "the Hessian. Trace: from its mean absolute eigenvalue. One shot and optimised again: the lowest measured "
        "density at which the loss rises by at most ε (– if none does)."
    )
    return Section(
        "Networks",
        "The smallest weights are removed. At which density can the training loss still stay within the tolerance ε?",
        (_required(found), _losses(found)),
        Grid(columns, tuple(_row(each) for each in found), caption),
        tuple(text for each in found for text in _reading(each)),
        in_figure=2,
    )


def _required(found: Sequence[NetworkLimit]) -> Panel:
    lines = []
    for each in found:
        curve = each.predicted.requirement
        lines += [
            Line(f"{each.name}, spectrum", curve.densities, curve.needed),
            Line(f"{each.name}, trace", curve.densities, curve.needed_trace),
        ]
    kept = Line("density that is kept", (0.0, 1.0), (0.0, 1.0), dashed=True)
    return Panel("Where the curves cross", "density", "density needed", (*lines, kept), x_log=False, y_log=False)


def _losses(found: Sequence[NetworkLimit]) -> Panel:
    lines = []
    for each in found:
        measured = [("at once", each.one_shot), ("optimised again", each.reoptimised)]
        lines += [Line(f"{each.name}, {how}", m.densities, m.losses) for how, m in measured if m is not None]
        level = each.predicted.loss + each.predicted.tolerance
        lines.append(Line(f"{each.name}, loss + ε", (0.0, 1.0), (level, level), dashed=True))
    return Panel("Loss of the masked network", "density", "cross-entropy in nats", tuple(lines), x_log=False)


def _row(each: NetworkLimit) -> tuple[str, ...]:
    found, spectrum = each.predicted, each.predicted.estimate.spectrum
    return (
        each.name,
        f"{found.loss:.4f}",
        f"{found.tolerance:.2g}",
        f"{found.size:,}",
        f"{spectrum.zero_share:.0%}",
        f"{spectrum.negative_share:.0%}",
        f"{found.gradient_norm:.2g}",
        _density(found.limit.density, found.standard_error),
        f"{found.trace_limit.density:.2f}",
        _lowest(each.one_shot),
        _lowest(each.reoptimised),
    )


def _reading(each: NetworkLimit) -> list[str]:
    found = each.predicted
    texts = [
        f"{each.name}: the curvature says that {found.limit.density:.0%} of the {found.limit.weights:,} weights are "
        f"needed, its trace alone {found.trace_limit.density:.0%} (ε = {found.tolerance:.2g}, {found.examples:,} "
        f"pictures, {found.estimate.products} products with the Hessian)."
    ]
    if each.reoptimised is not None:
        texts.append(
            _compared("With the kept weights optimised again", each.reoptimised, found.limit.density, "spectrum")
        )
    if each.one_shot is not None:
        texts.append(_compared("Pruned at once", each.one_shot, found.trace_limit.density, "trace"))
    if not found.stationary:
        texts.append(
            f"This network is not at a minimum: one step along its gradient would lower the loss by "
            f"{found.reachable_drop:.2g}, more than ε. The prediction assumes a minimum."
        )
    return texts


def _compared(what: str, measured: Measured, predicted: float, form: str) -> str:
    if measured.lowest is None:
        return f"{what}, the loss stays within ε at no density that was tried, {measured.densities[0]:.0%} at most."
    agrees = "agrees with" if abs(measured.lowest - predicted) <= CLOSE else "does not agree with"
    return f"{what}, {measured.lowest:.0%} suffice, which {agrees} the prediction from the {form}, {predicted:.0%}."


def _lowest(measured: Measured | None) -> str:
    return "–" if measured is None or measured.lowest is None else f"{measured.lowest:.2f}"


def _density(value: float, error: float | None) -> str:
    return f"{value:.2f}" if error is None else f"{value:.2f} ± {error:.2f}"
