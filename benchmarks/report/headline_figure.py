"""The picture at the top of README.md: accuracy against MACs of ours, of Torch-Pruning's best, and of L1 norms."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.ticker import PercentFormatter

from benchmarks.report.figures import figure_of
from scionet.bench.records.record import RunRecord

NETWORKS = {
    "efficientnet_lite0": "EfficientNet-Lite0, ImageNet",
    "resnet56": "ResNet-56, CIFAR-10",
    "resnet20": "ResNet-20, CIFAR-10",
}
"""Networks of the panels, and their titles."""
_OURS = {"color": "#0072b2", "marker": "o", "linewidth": 2.4}
_L1 = {"color": "#009e73", "marker": "s", "linestyle": "--"}
_RIVAL = {"color": "#d55e00", "marker": "^", "linestyle": ":"}


def plot_headline(records: Sequence[RunRecord], methods: tuple[str, str, str], path: Path) -> None:
    """Plot mean accuracy against the share of MACs that each network really has, one panel per network.

    Args:
        records: Runs of the untrained benchmark.
        methods: Labels of ours, of L1 norms and of the best of Torch-Pruning.
        path: The SVG file.
    """
    names = ("scionet", "L1, our widths and refit", "Torch-Pruning's best")
    with figure_of(path, (9.6, 3.3)) as figure:
        for axes, (network, title) in zip(figure.subplots(1, len(NETWORKS)), NETWORKS.items(), strict=True):
            own = [record for record in records if record.spec.network == network]
            dense = 100 * float(np.mean([record.dense.accuracy for record in own]))
            for name, method, style in zip(names, methods, (_OURS, _L1, _RIVAL), strict=True):
                points = [(100.0, dense), *_points(own, method)]
                axes.plot(*zip(*points, strict=True), label=name, **style)
            axes.set(xlabel="MACs kept", xlim=(25, 103), ylim=(0, 100))
            axes.set_title(title, fontsize=10)
            axes.xaxis.set_major_formatter(PercentFormatter(decimals=0))
            axes.grid(alpha=0.25)
        left, middle, _ = figure.axes
        left.set_ylabel("top-1 accuracy, %")
        middle.legend(frameon=False, fontsize=8, loc="lower right")


def _points(records: Sequence[RunRecord], method: str) -> list[tuple[float, float]]:
    """Mean share of the MACs and mean accuracy at each budget, in percent, from the largest budget down."""
    runs = defaultdict(list)
    for record in records:
        if record.spec.method == method:
            runs[record.spec.budget].append((record.pruned.macs / record.dense.macs, record.pruned.accuracy))
    return sorted(((100 * m, 100 * a) for m, a in (np.mean(each, axis=0) for each in runs.values())), reverse=True)
