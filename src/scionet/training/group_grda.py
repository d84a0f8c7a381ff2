"""gRDA for groups of weights: whole groups become zero, and can then be removed."""

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from scionet.errors import InvalidSetting
from scionet.training.callback_state import described
from scionet.training.grda import DUAL, GRDA, descend
from scionet.training.groups import ParameterGroups


class GroupGRDA(GRDA):
    """gRDA with a soft threshold for the norm of every group.

    v and T are those of `GRDA`. Then every group g does::

        w_g ← max(1 − T / ‖v_g‖, 0) v_g

    The norm is that of the members whose size the network's function depends on (`ParameterGroups.seen`), such as the
    scale and the shift of a BatchNorm; the factor acts on all members. A group of norm zero is zero. Weights outside
    all groups take the step of SGD. With groups of one weight, this is `GRDA`.

    A group that holds both what feeds a unit behind a ReLU and what reads it has no gradient once it is zero, and never
    comes back. A group of weights in front of the unit alone can come back.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        groups: ParameterGroups,
        lr: float,
        c: float,
        mu: float,
        weight_decay: float = 0.0,
        size_scaling: bool = False,
    ) -> None:
        """Check hyperparameters and groups.

        Args:
            named_parameters: The parameters by name: ``network.named_parameters()``.
            groups: The groups.
            lr: Learning rate γ.
            c: Factor of the threshold, 0 or more.
            mu: Exponent μ of its growth, inside (0, 1).
            weight_decay: Weight decay, added to the gradient; a warning says that the theory is without it.
            size_scaling: Multiply T by the square root of the number of weights in a group's norm.

        Raises:
            InvalidSetting: If a hyperparameter is out of range, groups share weights, a group has no weights whose size
                counts, or a parameter of the groups is missing or frozen.
        """
        super().__init__(list(named_parameters), lr, c, mu, weight_decay)
        self.groups, self.size_scaling = groups, size_scaling
        self._refuse_misfit()

    def _refuse_misfit(self) -> None:
        """Check groups and parameters.

        Raises:
            InvalidSetting: If they do not fit.
        """
        missing = [name for name in self.groups.parameters if name not in self._named]
        frozen = [
            name for name in self.groups.parameters if name not in missing and not self._named[name].requires_grad
        ]
        if missing or frozen:
            raise InvalidSetting(
                f"the groups have weights that are not trained: {', '.join((missing + frozen)[:4])}; give the "
                "optimiser network.named_parameters() of their network; unfreeze them, or leave them out of the groups"
            )
        if shared := self.groups.overlapping:
            raise InvalidSetting(
                f"groups share weights of {', '.join(shared[:4])}, and gRDA needs groups without common weights; leave "
                "out the members of one dimension"
            )
        if len(unseen := (self._sizes == 0).nonzero().flatten()):
            raise InvalidSetting(
                f"{len(unseen)} groups, such as {int(unseen[0])}, have no member whose size the function depends on "
                "(seen), so that they have no norm"
            )

    def identity(self) -> Mapping[str, Any]:
        """What identifies the optimiser besides the hyperparameters of its parameters."""
        return {"groups": described(self.groups, "groups"), "size_scaling": self.size_scaling}

    @property
    def _named(self) -> dict[str, nn.Parameter]:
        return {
            name: parameter
            for group in self.param_groups
            for name, parameter in zip(group.get("param_names", ()), group["params"], strict=False)
        }

    @cached_property
    def _sizes(self) -> Tensor:
        """Weights in the norm of each group."""
        return self.groups.seen.sizes(self._named)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy is made from; torch's own leaves out attributes of subclasses."""
        return {**super().__getstate__(), "groups": self.groups, "size_scaling": self.size_scaling}

    def _learn(self, group: dict[str, Any]) -> None:
        """Use the gradients. T grows also where a parameter of the groups has none, since they share it."""
        for name, parameter in zip(group["param_names"], group["params"], strict=True):
            if name in self.groups.parameters:
                self._accumulate(parameter, group)
            else:
                descend(parameter, parameter, float(group["lr"]), group["weight_decay"])

    def _shrink(self) -> None:
        """Set every weight of the groups from v and T.

        Raises:
            InvalidSetting: If parameters of the groups have different thresholds.
        """
        named = self._named
        weights = {name: named[name] for name in self.groups.parameters}
        duals = {name: self.state[parameter][DUAL] for name, parameter in weights.items()}
        for name, weight in weights.items():
            weight.copy_(duals[name])
        if threshold := self._threshold(weights.values()):
            self.groups.scale_(weights, self._factors(duals, threshold))

    def _factors(self, duals: Mapping[str, Tensor], threshold: float) -> Tensor:
        """The factor of every group."""
        norms = self.groups.seen.squared_norms(duals).sqrt()
        thresholds = threshold * (self._sizes.sqrt() if self.size_scaling else torch.ones_like(norms))
        return torch.where(norms > thresholds, 1 - thresholds / norms, 0)

    def _threshold(self, weights: Iterable[nn.Parameter]) -> float:
        """T, which all parameters of the groups share.

        Raises:
            InvalidSetting: If they do not.
        """
        found = {float(self.state[weight]["threshold"]) for weight in weights}
        if len(found) > 1:
            listed = ", ".join(f"{each:g}" for each in sorted(found))
            raise InvalidSetting(
                f"parameters of the groups have different thresholds ({listed}); "
                "give all parameters of the groups the same lr, c and mu, and start them together"
            )
        return found.pop()
