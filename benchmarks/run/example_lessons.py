"""A function that chooses calibration images, learned from sets that served well; for examples.py.

40 times, 12 of 48 images are chosen greedily: consumers that keep half of their units, refitted on the chosen images
alone, are to have the least error on the rest of the pool. A `SoftGreedy` of what goes into the network's last layer
learns to choose as well, and then chooses from the whole pool.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from scionet.coreset import into_last_layer
from scionet.differentiable.soft_greedy import SoftGreedy, fit
from scionet.network.calling import undisturbed
from scionet.selection.greedy import greedy
from scionet.selection.quadratic import LeastSquares
from scionet.selection.terms import Term

FloatArray = NDArray[np.float64]

LESSONS, CANDIDATES, CHOSEN = 40, 48, 12
CONSUMERS = ("layer1.1.conv2", "layer2.1.conv2")
POSITIONS = 16


@dataclass(frozen=True, eq=False)
class Teacher:
    """One consumer that keeps half of its units, and what it sees of each image.

    Attributes:
        x: Inputs of the kept units at some positions, shape ``(images, POSITIONS, D)``.
        y: Dense outputs there, shape ``(images, POSITIONS, O)``.
        dense: The dense weights of the kept units, shape ``(D, O)``.
    """

    x: FloatArray
    y: FloatArray
    dense: FloatArray

    @classmethod
    def at(cls, model: nn.Module, name: str, pool: Tensor) -> "Teacher":
        """The consumer of that name; the units kept are those of greedy least squares on all images."""
        conv = model.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        x, y = _rows(model, conv, pool)
        weight = conv.weight.detach().double().flatten(1).numpy()
        flat, size = x.reshape(-1, x.shape[2]), conv.in_channels
        columns = np.arange(x.shape[2]).reshape(size, -1)
        out = y.reshape(-1, y.shape[2])
        term = Term(flat.T @ flat, flat.T @ out, float(np.square(out).sum()), columns, np.zeros(0, dtype=int), weight)
        kept = columns[list(greedy(LeastSquares([term]), size // 2).kept)].ravel()
        return cls(x[:, :, kept], y, weight.T[kept])

    def set_of(self, candidates: Sequence[int], others: NDArray[np.int64]) -> FloatArray:
        """The moments ``xx`` and ``xy`` of each candidate side by side, and of all others as the last one."""
        sums = [self._moments([image]) for image in candidates]
        return np.stack([*sums, self._moments(others)])

    def _moments(self, images: Sequence[int] | NDArray[np.int64]) -> FloatArray:
        x, y = self.x[images].reshape(-1, self.x.shape[2]), self.y[images].reshape(-1, self.y.shape[2])
        return np.concatenate([x.T @ x, x.T @ y], axis=1)

    def error(self, given: FloatArray, n_images: int, judge: FloatArray) -> float:
        """Error on `judge` of a refit on moments of some images, shrunk as `prune` does; nothing at all gives 0."""
        size = len(given)
        share = size / (size + n_images * POSITIONS)
        squares = np.diag(given)
        xx = (1 - share) * given[:, :size] + np.diag(share * squares + 1e-6 * squares.mean())
        xy = (1 - share) * given[:, size:] + share * squares[:, None] * self.dense
        weight = np.linalg.solve(xx, xy)
        return float(np.sum(weight * (judge[:, :size] @ weight - 2 * judge[:, size:])))


def taught_order(model: nn.Module, pool: Tensor, count: int, seed: int) -> NDArray[np.int64]:
    """The first `count` images that the learned function chooses of the pool."""
    items = _last_inputs(model, pool)
    items = (items - items.mean(0)) / items.std(0)
    rng = np.random.default_rng(seed)
    teachers = [Teacher.at(model, name, pool) for name in CONSUMERS]
    lots = [rng.choice(len(pool), CANDIDATES, replace=False) for _ in range(LESSONS)]
    gold = [lesson(teachers, lot, len(pool)) for lot in lots]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = SoftGreedy(32, nn.Sequential(nn.Linear(items.shape[1], 32), nn.Softplus()))
    losses = fit(layer, [items[lot] for lot in lots], gold, learning_rate=0.01)
    print(f"learned from {len(lots)} sets, loss {losses[0]:.3f} to {losses[-1]:.3f}", flush=True)
    with torch.no_grad():
        return layer(items[None], count, mode="hard").order[0].numpy()


def lesson(teachers: Sequence[Teacher], lot: NDArray[np.int64], n_pool: int) -> list[int]:
    """The positions in the lot of images that are chosen greedily."""
    others = np.setdiff1d(np.arange(n_pool), lot)
    moments = [teacher.set_of(lot.tolist(), others) for teacher in teachers]
    scales = [float(np.square(teacher.y[others]).sum()) for teacher in teachers]
    picked: list[int] = []
    sums = [np.zeros_like(found[0]) for found in moments]

    def error(image: int) -> float:
        trials = zip(teachers, moments, sums, scales, strict=True)
        return sum(t.error(total + m[image], len(picked) + 1, m[-1]) / scale for t, m, total, scale in trials)

    while len(picked) < CHOSEN:
        best = min((image for image in range(len(lot)) if image not in picked), key=error)
        sums = [total + found[best] for total, found in zip(sums, moments, strict=True)]
        picked.append(best)
    return picked


def _last_inputs(model: nn.Module, pool: Tensor) -> Tensor:
    with undisturbed(model), into_last_layer(model) as run:
        return torch.cat([run(batch) for batch in pool.split(128)])


def _rows(model: nn.Module, conv: nn.Conv2d, pool: Tensor) -> tuple[FloatArray, FloatArray]:
    """Patches and outputs of a convolution at some positions, the same for every image."""
    found: list[tuple[Tensor, Tensor]] = []

    def note(layer: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        patches = functional.unfold(args[0], conv.kernel_size, padding=1, stride=conv.stride)
        at = torch.linspace(0, patches.shape[2] - 1, POSITIONS).long()
        found.append((patches[:, :, at].movedim(1, 2).double(), output.flatten(2)[:, :, at].movedim(1, 2).double()))

    hook = conv.register_forward_hook(note)
    with undisturbed(model):
        for batch in pool.split(128):
            model(batch)
    hook.remove()
    x, y = zip(*found, strict=True)
    return torch.cat(x).numpy(), torch.cat(y).numpy()
