"""Global imitation: the targets are the outputs of the dense network."""

import torch
from torch import Tensor

from scionet.choices.outputs import Outputs
from scionet.methods.contract import SiteView
from scionet.methods.greedy.gated_network import GatedSite, grouped_by_form
from scionet.methods.greedy.network_objective import EXACTLY, NetworkObjective, Scoring
from scionet.methods.greedy.precomputed import Precomputed
from scionet.methods.widths.output_distance import OutputDistance
from scionet.network.calling import example_count
from scionet.network.multiprocess import summed
from scionet.network.named_outputs import Tensors
from scionet.selection.terms import Term


class OutputObjective(NetworkObjective):
    """Minus the distance of the network's output from that of the dense network; see `NetworkObjective`.

    Source: Ye et al., NeurIPS 2020 (greedy global imitation). Differs in that a pick is a step of fixed length to the
    average, as in Ye et al., ICML 2020, and not the best one.
    """

    def __init__(self, view: SiteView, outputs: Outputs, scoring: Scoring = EXACTLY) -> None:
        """Run the dense network once.

        Args:
            view: The site, and what was decided before.
            outputs: Which outputs are compared, and how.
            scoring: How candidates are evaluated.

        Raises:
            CalibrationError: If there are no batches.
            UnsupportedModel: If the network cannot be evaluated for several candidates at once, or its output has no
                classes for ``"kl"``.
        """
        distance = OutputDistance.on(view.network, view.calibration.inputs, outputs)

        def lost(changed: Tensors, dense: Tensors) -> Tensor:
            return distance.distances(changed, dense, len(dense[0]))

        given = list(zip(distance.inputs, distance.outputs, strict=True))
        super().__init__(view, given, lost, scoring, distance.picked)


def output_term(view: SiteView, outputs: Outputs, memory_bytes: float = EXACTLY.memory_bytes) -> Term:
    """The problem of imitating the network's outputs, linearised in the site's gates (Gauss-Newton).

    With J_i the derivative of the output by gate i, a network with gates a differs from the one with all units by
    ``sum_i (a_i - 1) J_i`` to first order. The J_i replace the contributions of units to a consumer. They cost one
    Jacobian-vector product per unit and batch; after that only their Gram matrix is needed.

    Source: Ye et al., NeurIPS 2020 (greedy global imitation). Differs in that the output is linearised once per site,
    about the network in which the site is whole, instead of being evaluated for every candidate.

    Args:
        view: The site, and what was decided before.
        outputs: Which outputs are compared, and how; of a divergence, the second-order term counts.
        memory_bytes: What may be computed in advance and kept.

    Raises:
        CalibrationError: If there are no batches, or derivatives are NaN or infinite.
        UnsupportedModel: If the network cannot be differentiated, or its output has no classes for ``"kl"``.
    """
    distance = OutputDistance.on(view.network, view.calibration.inputs, outputs)
    site, size = GatedSite(view, distance.picked), view.site.width
    gram, count = torch.zeros(size, size, dtype=torch.float64, device=site.device), 0
    for inputs, _ in grouped_by_form(distance.inputs):
        precomputed = Precomputed(site, inputs, memory_bytes)
        for whole in precomputed.effects():
            for comparison, output, derivatives in zip(distance.comparisons, *whole, strict=True):
                effects = comparison.effects(output, derivatives).flatten(1).double()
                gram += effects @ effects.T
        count += example_count(inputs)
    mean = (summed(gram) / summed(torch.tensor(count, device=site.device))).cpu().numpy()
    units, nothing = torch.arange(size)[:, None].numpy(), torch.arange(0).numpy()
    whole = mean.sum(1, keepdims=True)
    return Term(mean, whole, max(float(whole.sum()), 0.0), units, nothing, torch.ones(1, size).double().numpy())
