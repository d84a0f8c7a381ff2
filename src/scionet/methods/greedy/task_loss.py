"""The task loss as an objective, as in the original paper on greedy forward selection."""

from torch import Tensor

from scionet.methods.contract import SiteView
from scionet.methods.greedy.network_objective import EXACTLY, NetworkObjective, Scoring
from scionet.network.comparison import class_scores
from scionet.network.example_loss import cross_entropies, dense_loss, pair_of
from scionet.network.named_outputs import Tensors


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
            UnsupportedModel: If the network cannot be evaluated for several candidates at once, or it is not clear
                which output has the classes.
        """
        model = view.network.model
        with view.network.evaluating():
            pairs = [pair_of(pair, model) for pair in view.calibration.pairs]
            lost = sum(
                dense_loss(model, inputs, labels, view.network.outputs) * len(labels) for inputs, labels in pairs
            )
        given = [(inputs, (labels,)) for inputs, labels in pairs]

        def loss(outputs: Tensors, targets: Tensors) -> Tensor:
            return cross_entropies(*outputs, *targets)

        super().__init__(view, given, loss, scoring, lambda found: (class_scores(found, view.network.outputs),))
        self.dense_loss = self.mean(lost)
