"""Arms: how an architecture is trained after it was chosen, under equal conditions for all.

Sources: Liu et al., "Rethinking the Value of Network Pruning", ICLR 2019, section 3. For single weights: Frankle
and Carbin, "The Lottery Ticket Hypothesis", ICLR 2019; Frankle et al., "Stabilizing the Lottery Ticket Hypothesis",
2019; Renda et al., "Comparing Rewinding and Fine-tuning in Neural Network Pruning", ICLR 2020. For masks at
initialisation: Frankle et al., "Pruning Neural Networks at Initialization: Why Are We Missing the Mark?", ICLR 2021.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Subject = Literal["pruned", "guided", "uniform", "dense", "stock", "masked", "shrunk"]
"""The network that is trained.

``pruned``: the result of a method. ``guided``: a network in the pattern of that result. ``uniform``: the dense network
at one density for all sites. ``dense``: the dense network. ``stock``: another network. ``masked``: the dense network
with single weights held at zero. ``shrunk``: a network that shrank while it was trained.
"""
Weights = Literal["kept", "new", "first", "early"]
"""The weights that a training starts from: the trained ones, new ones, the initial weights of the dense network, or its
weights after a few epochs."""
MaskSource = Literal["rounds", "trained", "initial"]
"""Where masks come from: rounds that remove the smallest weights and train the others; or a score of single weights,
computed on the trained network or on its initial weights."""


@dataclass(frozen=True)
class Arm:
    """A network, the weights that its training starts from, and how it is trained.

    Attributes:
        name: Name in experiments and tables.
        subject: The network that is trained.
        weights: The weights that its training starts from.
        training: The recipe, if it is trained.
        scaled: Whether it is trained for more epochs, in proportion to how much cheaper a step is than in the dense
            network. With masks, that is a step that skips the zeros.
        summary: Description in one line.
        masks: Where the masks come from, if single weights are held at zero.
        shuffled: Whether the masks are shuffled within each layer.
        shrinks: Whether its competitors shrink networks while they are trained.
    """

    name: str
    subject: Subject
    weights: Weights
    training: Literal["none", "finetuning", "scratch", "pretraining"]
    scaled: bool
    summary: str
    masks: MaskSource | None = None
    shuffled: bool = False
    shrinks: bool = False

    @property
    def masked(self) -> bool:
        """Whether single weights are held at zero. The budgets of such an arm are densities of weights."""
        return self.masks is not None

    @property
    def scored(self) -> bool:
        """Whether a score of single weights chooses the masks."""
        return self.masks in ("trained", "initial")


def _scratch(prefix: str, subject: Subject, what: str) -> tuple[Arm, Arm]:
    return (
        Arm(
            f"{prefix}scratch-e", subject, "new", "scratch", False, f"{what}, new weights, as many epochs as the dense."
        ),
        Arm(f"{prefix}scratch-b", subject, "new", "scratch", True, f"{what}, new weights, as many MACs as the dense."),
    )


def _filter_tickets() -> tuple[Arm, ...]:
    return (
        Arm(
            *("filter ticket", "pruned", "first", "pretraining", False),
            "The method's units, reset to their initial weights, trained again.",
        ),
        Arm(
            *("late filter ticket", "pruned", "early", "pretraining", False),
            "The method's units, rewound to the end of the first epochs, trained again from there.",
        ),
    )


def _shrinking() -> tuple[Arm, ...]:
    return (
        Arm(
            *("shrunk", "shrunk", "kept", "finetuning", False),
            "Shrunk while it is trained, then fine-tuned.",
            shrinks=True,
        ),
        Arm(
            *(TWIN, "pruned", "kept", "finetuning", False),
            "Pruned at once, fine-tuned for as many epochs as the other is shrunk and fine-tuned.",
            shrinks=True,
        ),
    )


def _tickets() -> tuple[Arm, ...]:
    return (
        Arm(
            *(TICKET, "masked", "first", "pretraining", False),
            "Largest weights, reset to their initial values, trained again.",
            "rounds",
        ),
        Arm(
            *("late rewinding", "masked", "early", "pretraining", False),
            "Largest weights, rewound to the end of the first epochs, trained again from there.",
            "rounds",
        ),
        Arm(
            *("learning-rate rewinding", "masked", "kept", "pretraining", False),
            "Largest weights, kept; the learning rate goes through its schedule again.",
            "rounds",
        ),
        Arm(
            *("fine-tuned rounds", "masked", "kept", "finetuning", False),
            "Largest weights, kept, fine-tuned.",
            "rounds",
        ),
        Arm(
            *("re-initialised ticket", "masked", "new", "pretraining", False),
            "The mask of a lottery ticket with new initial weights: the control of the initial values.",
            "rounds",
        ),
        Arm(
            *("shuffled ticket", "masked", "first", "pretraining", False),
            "As many weights of each layer as a lottery ticket keeps, at random: the control of the mask.",
            "rounds",
            shuffled=True,
        ),
    )


def _scored() -> tuple[Arm, ...]:
    """Arms whose masks a score chooses."""
    return (
        Arm(
            *("pruned at initialisation", "masked", "first", "scratch", False),
            "Masks chosen on the initial weights, which are trained.",
            "initial",
        ),
        Arm(
            *("pruned at initialisation, new weights", "masked", "new", "scratch", False),
            "Masks chosen on the initial weights, with other initial weights: the control of the initial values.",
            "initial",
        ),
        Arm(
            *("pruned at initialisation, shuffled", "masked", "first", "scratch", False),
            "As many weights of each layer as masks chosen on the initial weights keep, at random: the control of the "
            "masks.",
            "initial",
            shuffled=True,
        ),
        Arm(
            *("masked fine-tuned", "masked", "kept", "finetuning", False),
            "Masks chosen on the trained network, whose kept weights are fine-tuned.",
            "trained",
        ),
        Arm(
            *("masked scratch-e", "masked", "new", "scratch", False),
            "Masks chosen on the trained network, new weights, as many epochs as the dense.",
            "trained",
        ),
        Arm(
            *("masked scratch-b", "masked", "new", "scratch", True),
            "Masks chosen on the trained network, new weights, as many MACs as the dense if zeros are skipped.",
            "trained",
        ),
    )


TWIN = "one-shot twin"
"""The control of the arm ``shrunk``."""
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
            *_shrinking(),
            *_filter_tickets(),
            *_tickets(),
            *_scored(),
        )
    }
)
"""Every arm by name."""


def epochs_of(arm: Arm, epochs: float, ratio: float, cap: float | None) -> float:
    """Return the number of epochs of an arm.

    Args:
        arm: The arm.
        epochs: Epochs of its recipe.
        ratio: MACs of the dense network divided by those of the arm's network, without those of zeros.
        cap: The largest multiple of the epochs; None for no limit.

    Returns:
        The epochs of the recipe. For a scaled arm ``int(epochs * min(ratio, cap))``, but never fewer than those (Liu et
        al., official code, where the cap is 2 for predefined architectures on ImageNet).
    """
    if not arm.scaled:
        return epochs
    grown = epochs * (ratio if cap is None else min(ratio, cap))
    return max(epochs, int(grown + 1e-9))
