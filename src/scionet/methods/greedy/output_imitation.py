"""Global imitation: the target is the output of the dense network."""

import torch
from torch import Tensor

from scionet.choices.outputs import MetricName
from scionet.errors import CalibrationError
from scionet.methods.contract import SiteView
from scionet.methods.greedy.gated_network import GatedSite, grouped_by_form
from scionet.methods.greedy.network_objective import EXACTLY, NetworkObjective, Scoring
from scionet.methods.greedy.precomputed import Precomputed
from scionet.methods.widths.output_distance import OutputDistance, distances, metric_for, refuse_without_classes
from scionet.network.calling import example_count
from scionet.network.multiprocess import everywhere, summed
from scionet.selection.terms import Term


class OutputObjective(NetworkObjective):
    """Minus the distance of the network's output from that of the dense network; see `NetworkObjective`.

    Source: Ye et al., NeurIPS 2020 (greedy global imitation). Differs in that a pick is a step of fixed length to the
    average, as in Ye et al., ICML 2020, and not the best one.
    """

    def __init__(self, view: SiteView, metric: MetricName | None, scoring: Scoring = EXACTLY) -> None:
        """Run the dense network once.

        Args:
            view: The site, and what was decided before.
            metric: ``"kl"``, in nats, or ``"squared"``, relative to the mean square of the dense output.
            scoring: How candidates are evaluated.

        Raises:
            CalibrationError: If there are no batches.
            UnsupportedModel: If the network cannot be evaluated for several candidates at once, or its output has no
                classes for ``"kl"``.
        """
        distance = OutputDistance.on(view.network, view.calibration.inputs, metric)
        unit = distance.unit  # here, because all processes must compute it together

        def lost(outputs: Tensor, dense: Tensor) -> Tensor:
            return distances(outputs, dense, distance.metric) / unit

        super().__init__(view, list(zip(distance.inputs, distance.outputs, strict=True)), lost, scoring)


def output_term(view: SiteView, metric: MetricName | None, memory_bytes: float = EXACTLY.memory_bytes) -> Term:
    """The problem of imitating the network's output, linearised in the site's gates (Gauss-Newton).

    With J_i the derivative of the output by gate i, a network with gates a differs from the one with all units by
    ``sum_i (a_i - 1) J_i`` to first order. The J_i replace the contributions of units to a consumer. They cost one
    Jacobian-vector product per unit and batch; after that only their Gram matrix is needed.

    Source: Ye et al., NeurIPS 2020 (greedy global imitation). Differs in that the output is linearised once per site,
    about the network in which the site is whole, instead of being evaluated for every candidate.

    Args:
        view: The site, and what was decided before.
        metric: ``"squared"`` error of the output, or ``"kl"``: the second-order term of the Kullback-Leibler
            divergence of its softmax over dimension 1.
        memory_bytes: What may be computed in advance and kept.

    Raises:
        CalibrationError: If there are no batches, or derivatives are NaN or infinite.
        UnsupportedModel: If the network cannot be differentiated, or its output has no classes for ``"kl"``.
    """
    site, size = GatedSite(view), view.site.width
    gram, count = torch.zeros(size, size, dtype=torch.float64, device=site.device), 0
    batches = [view.network.placed(batch) for batch in view.calibration.inputs]
    for inputs, _ in grouped_by_form(batches):
        precomputed = Precomputed(site, inputs, memory_bytes)
        for outputs, derivatives in precomputed.effects():
            effects = _in_metric(outputs, derivatives, metric).flatten(1).double()
            gram += effects @ effects.T
        count += example_count(inputs)
    if not everywhere(count > 0, site.device):
        raise CalibrationError("the calibration data are empty; give at least one batch of inputs")
    mean = (summed(gram) / summed(torch.tensor(count, device=site.device))).cpu().numpy()
    units, nothing = torch.arange(size)[:, None].numpy(), torch.arange(0).numpy()
    whole = mean.sum(1, keepdims=True)
    return Term(mean, whole, max(float(whole.sum()), 0.0), units, nothing, torch.ones(1, size).double().numpy())


def _in_metric(outputs: Tensor, derivatives: Tensor, metric: MetricName | None) -> Tensor:
    """Derivatives of outputs, ``(N, examples, ...)``, in coordinates in which the metric is the square of a length."""
    if (metric or metric_for(outputs)) == "squared":
        return derivatives
    refuse_without_classes(outputs.shape)
    share = outputs.softmax(1)
    return share.sqrt() * (derivatives - (share * derivatives).sum(2, keepdim=True))
