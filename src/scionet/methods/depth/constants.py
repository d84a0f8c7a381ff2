"""The constants that take the place of dropped branches: means of the dense branches, refitted during the walk."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from scionet.choices.repair import Refit
from scionet.errors import CalibrationError
from scionet.methods.calibration.calibration import Calibration
from scionet.network.branches import Branch, DroppedBranch
from scionet.network.calling import first_tensor
from scionet.network.multiprocess import everywhere, summed
from scionet.network.network import Network
from scionet.network.passes.suspended import Stop


class ChannelMean:
    """The mean of each channel over positions and examples, of all processes."""

    def __init__(self, network: Network, branch: Branch) -> None:
        self._dim = branch.dim
        self._sums = torch.zeros(branch.channels + 1, dtype=torch.float64, device=network.device)

    def add(self, tensor: Tensor) -> None:
        """Add the positions of one batch."""
        rows = tensor.detach().movedim(self._dim, -1).flatten(0, -2).double()
        self._sums[:-1] += rows.sum(0)
        self._sums[-1] += len(rows)

    @property
    def value(self) -> Tensor:
        """The mean, ``(channels,)``, float64."""
        total = summed(self._sums)
        return total[:-1] / total[-1].clamp_min(1)


def branch_means(network: Network, calibration: Calibration, branches: Iterable[Branch]) -> dict[str, Tensor]:
    """The mean output of each branch of the dense network, for each channel, on all calibration examples.

    Args:
        network: The dense network.
        calibration: The examples.
        branches: The branches.

    Raises:
        CalibrationError: If there are no examples, or a mean is NaN or infinite.
    """
    means = {branch.name: (branch, ChannelMean(network, branch)) for branch in branches}
    seen = False

    def observe(mean: ChannelMean, _module: nn.Module, _args: Any, out: Any) -> None:
        made, _ = first_tensor(out)
        assert made is not None, "what a branch ends with"
        mean.add(made)

    with network.evaluating():  # hooks are as before afterwards
        for branch, mean in means.values():
            network.model.get_submodule(branch.output).register_forward_hook(partial(observe, mean))
        for batch in calibration.inputs if means else ():
            network.returned(network.placed(batch))
            seen = True
    if means and not everywhere(seen, network.device):
        raise CalibrationError("the calibration data are empty; a branch's constant is its mean on them")
    found = {name: mean.value.to(network.dtype) for name, (_, mean) in means.items()}
    if bad := [name for name, mean in found.items() if not bool(mean.isfinite().all())]:
        raise CalibrationError(
            f"branch {bad[0]!r} gives NaN or infinite values on the calibration data; check the data"
        )
    return found


class BranchConstants:
    """The constants of one walk.

    A constant that is refitted also makes up for the mean difference between the dense network's shortcut and that of
    the network pruned so far, as the refits of consumers do.
    """

    def __init__(self, network: Network, refit: Refit | None) -> None:
        self._network = network
        self._compensates = refit is not None and refit.asymmetric and refit.shortcuts
        self._values: dict[str, Tensor | None] = {name: each.constant for name, each in network.dropped.items()}
        self._gap: ChannelMean | None = None

    @property
    def by_name(self) -> Mapping[str, Tensor | None]:
        """The constant of each dropped branch; None where nothing takes its place."""
        return dict(self._values)

    def observe(self, dense: Stop, pruned: Stop) -> None:
        """Look at one batch at the end of a branch."""
        if not self._compensates or dense.shortcut is None or pruned.shortcut is None:
            return
        branch = self._network.dropped[dense.weight].branch
        if self._gap is None:
            self._gap = ChannelMean(self._network, branch)
        self._gap.add((dense.shortcut - pruned.shortcut).reshape(dense.output.shape))

    def refitted(self, name: str) -> dict[str, Tensor]:
        """What takes the place of a branch whose end all batches have reached; see `DroppedBranch.replacement`."""
        constant, gap, self._gap = self._values[name], self._gap, None
        if constant is None or gap is None:
            return {}
        self._values[name] = constant + gap.value.to(constant)
        return self._replacement(name)

    def output_for(self, dense: Stop) -> Tensor:
        """What takes the place of the dense network's output at the end of a branch, in its shape."""
        (values,) = self._replacement(dense.weight).values()
        return values.to(dense.output).expand(dense.output.shape)

    def _replacement(self, name: str) -> dict[str, Tensor]:
        return DroppedBranch(self._network.dropped[name].branch, self._values[name]).replacement
