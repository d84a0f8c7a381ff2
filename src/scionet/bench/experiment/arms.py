"""Arms: what is done with an architecture after it was chosen, under equal terms for all.

Sources: Liu et al., "Rethinking the Value of Network Pruning", ICLR 2019, section 3. Of arms of single weights: Frankle
and Carbin, "The Lottery Ticket Hypothesis", ICLR 2019; Frankle et al., "Stabilizing the Lottery Ticket Hypothesis",
2019; Renda et al., "Comparing Rewinding and Fine-tuning in Neural Network Pruning", ICLR 2020.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Subject = Literal["pruned", "guided", "uniform", "dense", "stock", "masked", "shuffled"]
"""Whose architecture is trained: what a method left, a network in the pattern of that, the dense one at one density,
the dense one, another one; the dense one with single weights held at zero, those of the smallest magnitude or as many
of each layer at random."""
Weights = Literal["kept", "new", "first", "early"]
"""What a training begins with: trained weights, new ones, those that the dense network began with, or those that it had
after a few epochs."""


@dataclass(frozen=True)
class Arm:
    """What is done with an architecture.

    Attributes:
        name: As experiments and tables name it.
        subject: Whose architecture.
        weights: What it begins with.
        training: Which recipe it is trained by, if any.
        scaled: Whether the epochs grow by what a step costs less than in the dense network.
        summary: In one line.
    """

    name: str
    subject: Subject
    weights: Weights
    training: Literal["none", "finetuning", "scratch", "pretraining"]
    scaled: bool
    summary: str

    @property
    def masked(self) -> bool:
        """Whether single weights are held at zero; its budgets are densities of weights then."""
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
            TICKET, "masked", "first", "pretraining", False, "Largest weights, back to where they began, trained again."
        ),
        Arm(
            *("late rewinding", "masked", "early", "pretraining", False),
            "Largest weights, back to where they were after the first epochs, trained again from there.",
        ),
        Arm(
            *("learning-rate rewinding", "masked", "kept", "pretraining", False),
            "Largest weights, kept; the learning rate goes through its schedule again.",
        ),
        Arm("fine-tuned rounds", "masked", "kept", "finetuning", False, "Largest weights, kept, fine-tuned."),
        Arm(
            *("re-initialised ticket", "masked", "new", "pretraining", False),
            "Weights that a lottery ticket keeps, drawn anew: the control of where they began.",
        ),
        Arm(
            *("shuffled ticket", "shuffled", "first", "pretraining", False),
            "As many weights of each layer as a lottery ticket keeps, at random: the control of which weights.",
        ),
    )


TICKET = "lottery ticket"
"""The arm whose masks its controls take over."""
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
    """How long an arm is trained.

    Args:
        arm: The arm.
        epochs: Epochs of its recipe.
        ratio: MACs of the dense network over those of the arm's.
        cap: The largest multiple of the epochs; None for no limit.

    Returns:
        The epochs of the recipe; where the arm is scaled ``int(epochs * min(ratio, cap))``, and never fewer (Liu et
        al., official code, where the cap is 2 for predefined architectures on ImageNet).
    """
    if not arm.scaled:
        return epochs
    grown = epochs * (ratio if cap is None else min(ratio, cap))
    return max(epochs, int(grown + 1e-9))
