"""Global imitation: what each unit of a site does to the network's output, to first order."""

import torch
from torch import Tensor
from torch.func import jvp

from scionet.errors import CalibrationError, UnsupportedModel
from scionet.methods.contract import SiteView
from scionet.methods.gated import GatedSite, stacked
from scionet.network.processes import everywhere, summed
from scionet.network.running import Batch, attention_unfused, example_count, to_model, undisturbed
from scionet.selection.terms import Term
from scionet.settings import MetricName


def output_term(view: SiteView, metric: MetricName) -> Term:
    """The problem of imitating the network's output, linearised in the site's gates (Gauss-Newton).

    With J_i the derivative of the output by gate i, a network with gates a differs from the one with all units by
    ``sum_i (a_i - 1) J_i`` to first order. The J_i take the place of what units contribute to a consumer: one
    Jacobian-vector product per unit and batch, and from there on only their Gram matrix.

    Source: Ye et al., NeurIPS 2020 (greedy global imitation). Differs in that the output is linearised once per site,
    about the network in which the site is whole, instead of being evaluated for every candidate.

    Args:
        view: The site, and what was decided before.
        metric: ``"squared"`` error of the output, or ``"kl"``: the second-order term of the Kullback-Leibler
            divergence of its softmax over dimension 1.

    Raises:
        CalibrationError: If there are no batches, or derivatives are NaN or infinite.
        UnsupportedModel: If the network cannot be differentiated, or its output has no classes for ``"kl"``.
    """
    network, size = GatedSite(view), view.site.width
    gram, count = torch.zeros(size, size, dtype=torch.float64, device=network.device), 0
    with undisturbed(view.model), attention_unfused():
        for batch in view.batches:
            effects = _effects(network, to_model(batch, view.model), metric).flatten(1).double()
            gram += effects @ effects.T
            count += example_count(batch)
    if not everywhere(count > 0, network.device):
        raise CalibrationError("the calibration data are empty; give at least one batch of inputs")
    mean = (summed(gram) / summed(torch.tensor(count, device=network.device))).cpu().numpy()
    units, nothing = torch.arange(size)[:, None].numpy(), torch.arange(0).numpy()
    whole = mean.sum(1, keepdims=True)
    return Term(mean, whole, max(float(whole.sum()), 0.0), units, nothing, torch.ones(1, size).double().numpy())


def _effects(network: GatedSite, inputs: Batch, metric: MetricName) -> Tensor:
    """Derivatives of the output of one batch by the gates, ``(N, batch, ...)``, in coordinates of the metric."""
    every = torch.ones(network.view.site.width, dtype=network.dtype, device=network.device)

    def along(direction: Tensor) -> Tensor:
        return jvp(lambda gate: network.output(gate, inputs), (every,), (direction,))[1]

    effects = stacked(along, torch.diag(every), example_count(inputs))
    if metric == "squared":
        return effects
    if effects.ndim < 3:
        raise UnsupportedModel(
            f"metric 'kl' needs an output (batch, classes, ...); this network gives {tuple(effects.shape[1:])}; choose "
            "metric 'squared'"
        )
    share = network.output(every, inputs).softmax(1)
    return share.sqrt() * (effects - (share * effects).sum(2, keepdim=True))
