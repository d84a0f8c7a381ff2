"""Two-layer networks of tanh neurons as arrays, and their training by gradient descent."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from scionet.errors import InvalidSetting
from scionet.typing import FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class Task:
    """Examples and their targets.

    Attributes:
        inputs: Shape ``(m, d)``.
        targets: Shape ``(m, o)``.
    """

    inputs: FloatArray
    targets: FloatArray

    def __post_init__(self) -> None:
        """Check the shapes.

        Raises:
            InvalidSetting: If there are no examples, or not as many targets as inputs.
        """
        if self.inputs.ndim != 2 or self.targets.ndim != 2 or not len(self.inputs) == len(self.targets) > 0:
            raise InvalidSetting(
                f"a task has inputs (m, d) and targets (m, o); given {self.inputs.shape} and {self.targets.shape}"
            )

    @property
    def target(self) -> FloatArray:
        """All targets as a vector whose square is their mean over the examples, ``(m o,)``."""
        return self.targets.ravel() / np.sqrt(len(self.targets))

    def part(self, count: int) -> "Task":
        """The first examples."""
        return Task(self.inputs[:count], self.targets[:count])


@dataclass(frozen=True, eq=False)
class TwoLayer:
    """The network ``f(x) = (1/n) Σ_i b_i tanh(a_i·x + c_i)``.

    Attributes:
        weights: a, shape ``(n, d)``.
        offsets: c, shape ``(n,)``.
        outputs: b, shape ``(n, o)``.
    """

    weights: FloatArray
    offsets: FloatArray
    outputs: FloatArray

    @classmethod
    def random(cls, size: int, inputs: int, outputs: int, rng: np.random.Generator, scale: float = 1.0) -> "TwoLayer":
        """New neurons: a ~ N(0, 1), c ~ N(0, 1)/2, b ~ `scale` N(0, 1).

        Raises:
            InvalidSetting: If there are no neurons.
        """
        if size < 1:
            raise InvalidSetting(f"a network has one neuron or more; given {size}")
        weights, offsets = rng.standard_normal((size, inputs)), 0.5 * rng.standard_normal(size)
        return cls(weights, offsets, scale * rng.standard_normal((size, outputs)))

    def hidden(self, inputs: FloatArray) -> FloatArray:
        """Activations, ``(m, n)``."""
        return np.tanh(inputs @ self.weights.T + self.offsets)

    def predictions(self, inputs: FloatArray) -> FloatArray:
        """Outputs of the network, ``(m, o)``."""
        return self.hidden(inputs) @ self.outputs / len(self.weights)

    def loss(self, task: Task) -> float:
        """Half the mean squared error."""
        return float(((self.predictions(task.inputs) - task.targets) ** 2).sum() / (2 * len(task.inputs)))

    def atoms(self, inputs: FloatArray) -> FloatArray:
        """The output of each neuron on all examples, divided by the root of their number, ``(n, m o)``."""
        scaled = self.hidden(inputs) / np.sqrt(len(inputs))
        return (scaled.T[:, :, None] * self.outputs[:, None, :]).reshape(len(self.weights), -1)

    def stepped(self, task: Task, rate: float) -> "TwoLayer":
        """One step of gradient descent on `loss`; the rate is multiplied by n (mean field)."""
        hidden, count = self.hidden(task.inputs), len(task.inputs)
        error = (hidden @ self.outputs / len(self.weights) - task.targets) / count
        inner = (error @ self.outputs.T) * (1 - hidden**2)
        return TwoLayer(
            self.weights - rate * inner.T @ task.inputs,
            self.offsets - rate * inner.sum(axis=0),
            self.outputs - rate * hidden.T @ error,
        )

    def training(self, task: Task, rate: float, batches: Callable[[], IntArray] | None = None) -> Iterator["TwoLayer"]:
        """The network after 0, 1, 2, ... steps, without end.

        Args:
            task: What it is trained on.
            rate: Mean-field learning rate.
            batches: Returns the examples of the next step; None for all examples in every step.
        """
        network = self
        while True:
            yield network
            if batches is None:
                network = network.stepped(task, rate)
            else:
                chosen = batches()
                network = network.stepped(Task(task.inputs[chosen], task.targets[chosen]), rate)

    def trained(self, task: Task, steps: int, rate: float) -> "TwoLayer":
        """The network after a number of steps on all examples."""
        network = self
        for _ in range(steps):
            network = network.stepped(task, rate)
        return network


def taught(points: int, dimension: int, seed: int, teachers: int = 500, scale: float | None = None) -> Task:
    """Random inputs, and the outputs of random tanh neurons on them.

    Inputs are `scale` N(0, I), by default 2/√d; weights of the neurons N(0, 1), output weights N(0, 1)/√(teachers).

    Args:
        points: Number of examples.
        dimension: Dimension d of the inputs.
        seed: Seed of both.
        teachers: Number of neurons.
        scale: Factor of the inputs.
    """
    rng = np.random.default_rng(seed)
    inputs = (2 / np.sqrt(dimension) if scale is None else scale) * rng.standard_normal((points, dimension))
    hidden = np.tanh(inputs @ rng.standard_normal((dimension, teachers)))
    return Task(inputs, hidden @ (rng.standard_normal((teachers, 1)) / np.sqrt(teachers)))
