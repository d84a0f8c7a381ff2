"""Arms: how an architecture is trained after it was chosen, under equal conditions for all.

Sources: Liu et al., "Rethinking the Value of Network Pruning", ICLR 2019, section 3. For single weights: Frankle
and Carbin, "The Lottery Ticket Hypothesis", ICLR 2019; Frankle et al., "Stabilizing the Lottery Ticket Hypothesis",
2019; Renda et al., "Comparing Rewinding and Fine-tuning in Neural Network Pruning", ICLR 2020.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Subject = Literal["pruned", "guided", "uniform", "dense", "stock", "masked", "shuffled"]
"""The network that is trained.

``pruned``: the result of a method. ``guided``: a network in the pattern of that result. ``uniform``: the dense network
at one density for all sites. ``dense``: the dense network. ``stock``: another network. ``masked``: the dense network
with its smallest weights held at zero. ``shuffled``: the same with as many zeros in each layer, at random.
"""
Weights = Literal["kept", "new", "first", "early"]
"""The weights that a training starts from: the trained ones, new ones, the initial weights of the dense network, or its
weights after a few epochs."""


@dataclass(frozen=True)
class Arm:
    """A network, the weights that its training starts from, and how it is trained.

    Attributes:
        name: Name in experiments and tables.
        subject: The network that is trained.
        weights: The weights that its training starts from.
        training: The recipe, if it is trained.
        scaled: Whether it is trained for more epochs, in proportion to how much cheaper a step is than in the dense
            network.
        summary: Description in one line.
    """

    name: str
    subject: Subject
    weights: Weights
    training: Literal["none", "finetuning", "scratch", "pretraining"]
    scaled: bool
    summary: str

    @property
    def masked(self) -> bool:
        """Whether single weights are held at zero. The budgets of such an arm are densities of weights."""
        return self.subject in ("masked", "shuffled")


def _scratch(prefix: str, subject: Subject, what: str) -> tuple[Arm, Arm]:
    return (
        Arm(
            f"{prefix}scratch-e", subject, "new", "scratch", False, f"{what}, new weights, as many epochs as the dense."
        ),
        Arm(f"{prefix}scratch-b", subject, "new", "scratch", True, f"{what}, new weights, as many MACs as the dense."),
    )


def _tickets() -> tuple[Arm, ...]:
    return (
        Arm(
            TICKET,
            "masked",
            "first",
            "pretraining",
            False,
            "Largest weights, reset to their initial values, trained again.",
        ),
        Arm(
            *("late rewinding", "masked", "early", "pretraining", False),
            "Largest weights, rewound to the end of the first epochs, trained again from there.",
        ),
        Arm(
            *("learning-rate rewinding", "masked", "kept", "pretraining", False),
            "Largest weights, kept; the learning rate goes through its schedule again.",
        ),
        Arm("fine-tuned rounds", "masked", "kept", "finetuning", False, "Largest weights, kept, fine-tuned."),
        Arm(
            *("re-initialised ticket", "masked", "new", "pretraining", False),
            "The mask of a lottery ticket with new initial weights: the control of the initial values.",
        ),
        Arm(
            *("shuffled ticket", "shuffled", "first", "pretraining", False),
            "As many weights of each layer as a lottery ticket keeps, at random: the control of the mask.",
        ),
    )


TICKET = "lottery ticket"
"""The arm whose masks its controls use."""
ARMS: Mapping[str, Arm] = MappingProxyType(
    {
        arm.name: arm
        for arm in (
            Arm("as cut", "pruned", "kept", "none", False, "Kept weights, no training."),
            Arm("fine-tuned", "pruned", "kept", "finetuning", False, "Kept weights, fine-tuned."),
            *_scratch("", "pruned", "The method's widths"),
            *_scratch("guided ", "guided", "The average densities of the method's stages"),
            *_scratch("uniform ", "uniform", "One density for all sites"),
            Arm("dense continued", "dense", "kept", "finetuning", False, "The dense network, trained on as long."),
            *_scratch("stock ", "stock", "A smaller network of the same family"),
            *_tickets(),
        )
    }
)
"""Every arm by name."""


def epochs_of(arm: Arm, epochs: float, ratio: float, cap: float | None) -> float:
    """Return the number of epochs of an arm.

    Args:
        arm: The arm.
        epochs: Epochs of its recipe.
        ratio: MACs of the dense network divided by those of the arm's network.
        cap: The largest multiple of the epochs; None for no limit.

    Returns:
        The epochs of the recipe. For a scaled arm ``int(epochs * min(ratio, cap))``, but never fewer than those (Liu et
        al., official code, where the cap is 2 for predefined architectures on ImageNet).
    """
    if not arm.scaled:
        return epochs
    grown = epochs * (ratio if cap is None else min(ratio, cap))
    return max(epochs, int(grown + 1e-9))
