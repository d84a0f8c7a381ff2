"""Learn to choose calibration images from greedily chosen sets, for examples.py.

A lesson is a random set of 48 images of the pool, of which 12 are chosen greedily. The criterion is the error, on the
rest of the pool, of consumers that keep half of their units and are refitted on the chosen images alone. A `SoftGreedy`
on the inputs of the network's last layer learns from 40 lessons and then chooses from the whole pool.
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
from scionet.selection.quadratic import LeastSquaresObjective
from scionet.selection.terms import Term

FloatArray = NDArray[np.float64]

LESSONS, CANDIDATES, CHOSEN = 40, 48, 12
CONSUMERS = ("layer1.1.conv2", "layer2.1.conv2")
POSITIONS = 16


@dataclass(frozen=True, eq=False)
class Teacher:
    """One consumer that keeps half of its units, with its inputs and outputs for each image.

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
        """Build it for the consumer of that name; greedy least squares on all images chooses the units to keep."""
        conv = model.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        x, y = _rows(model, conv, pool)
        weight = conv.weight.detach().double().flatten(1).numpy()
        flat, size = x.reshape(-1, x.shape[2]), conv.in_channels
        columns = np.arange(x.shape[2]).reshape(size, -1)
        out = y.reshape(-1, y.shape[2])
        term = Term(flat.T @ flat, flat.T @ out, float(np.square(out).sum()), columns, np.zeros(0, dtype=int), weight)
        kept = columns[list(greedy(LeastSquaresObjective([term]), size // 2).kept)].ravel()
        return cls(x[:, :, kept], y, weight.T[kept])

    def set_of(self, candidates: Sequence[int], others: NDArray[np.int64]) -> FloatArray:
        """Stack the moments ``xx`` and ``xy`` of each candidate; the last entry is the sum over all other images."""
        sums = [self._moments([image]) for image in candidates]
        return np.stack([*sums, self._moments(others)])

    def _moments(self, images: Sequence[int] | NDArray[np.int64]) -> FloatArray:
        x, y = self.x[images].reshape(-1, self.x.shape[2]), self.y[images].reshape(-1, self.y.shape[2])
        return np.concatenate([x.T @ x, x.T @ y], axis=1)

    def error(self, given: FloatArray, n_images: int, held_out: FloatArray) -> float:
        """Error on held-out moments of a refit on given moments, shrunk as in `prune`; zero weights have error 0."""
        size = len(given)
        share = size / (size + n_images * POSITIONS)
        squares = np.diag(given)
        xx = (1 - share) * given[:, :size] + np.diag(share * squares + 1e-6 * squares.mean())
        xy = (1 - share) * given[:, size:] + share * squares[:, None] * self.dense
        weight = np.linalg.solve(xx, xy)
        return float(np.sum(weight * (held_out[:, :size] @ weight - 2 * held_out[:, size:])))


def learned_order(model: nn.Module, pool: Tensor, count: int, seed: int) -> NDArray[np.int64]:
    """The first `count` images that a learned function chooses from the pool."""
    items = _last_inputs(model, pool)
    items = (items - items.mean(0)) / items.std(0)
    rng = np.random.default_rng(seed)
    teachers = [Teacher.at(model, name, pool) for name in CONSUMERS]
    lots = [rng.choice(len(pool), CANDIDATES, replace=False) for _ in range(LESSONS)]
    gold = [greedy_choice(teachers, lot, len(pool)) for lot in lots]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = SoftGreedy(32, nn.Sequential(nn.Linear(items.shape[1], 32), nn.Softplus()))
    losses = fit(layer, [items[lot] for lot in lots], gold, learning_rate=0.01)
    print(f"learned from {len(lots)} sets, loss {losses[0]:.3f} to {losses[-1]:.3f}", flush=True)
    with torch.no_grad():
        return layer(items[None], count, mode="hard").order[0].numpy()


def greedy_choice(teachers: Sequence[Teacher], lot: NDArray[np.int64], n_pool: int) -> list[int]:
    """Positions in the lot of the images that are chosen greedily."""
    others = np.setdiff1d(np.arange(n_pool), lot)
    moments = [teacher.set_of(lot.tolist(), others) for teacher in teachers]
    scales = [float(np.square(teacher.y[others]).sum()) for teacher in teachers]
    picked: list[int] = []
    sums = [np.zeros_like(found[0]) for found in moments]

    def error(image: int) -> float:
        consumers = zip(teachers, moments, sums, scales, strict=True)
        return sum(t.error(total + m[image], len(picked) + 1, m[-1]) / scale for t, m, total, scale in consumers)

    while len(picked) < CHOSEN:
        best = min((image for image in range(len(lot)) if image not in picked), key=error)
        sums = [total + found[best] for total, found in zip(sums, moments, strict=True)]
        picked.append(best)
    return picked


def _last_inputs(model: nn.Module, pool: Tensor) -> Tensor:
    with undisturbed(model), into_last_layer(model) as run:
        return torch.cat([run(batch) for batch in pool.split(128)])


def _rows(model: nn.Module, conv: nn.Conv2d, pool: Tensor) -> tuple[FloatArray, FloatArray]:
    """Patches and outputs of a convolution at `POSITIONS` positions, the same for every image."""
    found: list[tuple[Tensor, Tensor]] = []

    def collect(layer: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        patches = functional.unfold(args[0], conv.kernel_size, padding=1, stride=conv.stride)
        at = torch.linspace(0, patches.shape[2] - 1, POSITIONS).long()
        found.append((patches[:, :, at].movedim(1, 2).double(), output.flatten(2)[:, :, at].movedim(1, 2).double()))

    hook = conv.register_forward_hook(collect)
    with undisturbed(model):
        for batch in pool.split(128):
            model(batch)
    hook.remove()
    x, y = zip(*found, strict=True)
    return torch.cat(x).numpy(), torch.cat(y).numpy()
