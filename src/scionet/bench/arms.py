"""Arms: what is done with an architecture after it was chosen, under equal terms for all.

Source: Liu et al., "Rethinking the Value of Network Pruning", ICLR 2019, section 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Subject = Literal["pruned", "uniform", "dense", "stock"]
"""Whose architecture is trained: what a method left, the dense network at one density, the dense one, another one."""


@dataclass(frozen=True)
class Arm:
    """What is done with an architecture.

    Attributes:
        name: As experiments and tables name it.
        subject: Whose architecture.
        inherits: Whether it begins with the trained weights; else with new ones.
        training: Which recipe it is trained by, if any.
        scaled: Whether the epochs grow by what a step costs less than in the dense network.
        summary: In one line.
    """

    name: str
    subject: Subject
    inherits: bool
    training: Literal["none", "finetuning", "scratch"]
    scaled: bool
    summary: str


def _scratch(prefix: str, subject: Subject, what: str) -> tuple[Arm, Arm]:
    return (
        Arm(
            f"{prefix}scratch-e", subject, False, "scratch", False, f"{what}, new weights, as many epochs as the dense."
        ),
        Arm(f"{prefix}scratch-b", subject, False, "scratch", True, f"{what}, new weights, as many MACs as the dense."),
    )


ARMS: Mapping[str, Arm] = MappingProxyType(
    {
        arm.name: arm
        for arm in (
            Arm("as cut", "pruned", True, "none", False, "Kept weights, no training."),
            Arm("fine-tuned", "pruned", True, "finetuning", False, "Kept weights, fine-tuned."),
            *_scratch("", "pruned", "The method's widths"),
            *_scratch("uniform ", "uniform", "One density for all sites"),
            Arm("dense continued", "dense", True, "finetuning", False, "The dense network, trained on as long."),
            *_scratch("stock ", "stock", "A smaller network of the same family"),
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
