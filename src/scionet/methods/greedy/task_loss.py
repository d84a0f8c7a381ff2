"""The task loss as an objective, as in the original paper on greedy forward selection."""

from scionet.methods.contract import SiteView
from scionet.methods.greedy.network_objective import EXACTLY, NetworkObjective, Scoring
from scionet.network.example_loss import cross_entropies, dense_loss, pair_of


class TaskLossObjective(NetworkObjective):
    """Minus the cross-entropy of the whole network; see `NetworkObjective`.

    Source: Ye et al., ICML 2020. Differs in that all calibration batches are used in each step, unless fresh ones are
    asked for.

    Attributes:
        dense_loss: The cross-entropy of the network as it is.
    """

    def __init__(self, view: SiteView, scoring: Scoring = EXACTLY) -> None:
        """Prepare the evaluation.

        Args:
            view: The site; its batches are pairs of inputs and labels.
            scoring: How candidates are evaluated.

        Raises:
            CalibrationError: If batches are not such pairs, if there are none, if labels do not fit the network's
                output, or if its loss is NaN or infinite.
            UnsupportedModel: If the network cannot be evaluated for several candidates at once.
        """
        model = view.network.model
        with view.network.evaluating():
            pairs = [pair_of(pair, model) for pair in view.calibration.pairs]
            lost = sum(dense_loss(model, inputs, labels) * len(labels) for inputs, labels in pairs)
        given = [(inputs, (labels,)) for inputs, labels in pairs]
        super().__init__(view, given, lambda outputs, targets: cross_entropies(*outputs, *targets), scoring)
        self.dense_loss = self.mean(lost)
