"""A network trained at every learning rate of a sweep; the one that does best on the validation data is kept."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from scionet.bench.files import read_text, write_text
from scionet.bench.ledger import PASSES, Payment
from scionet.bench.material import Material
from scionet.bench.record import Tried
from scionet.training.callbacks import Callback
from scionet.training.execution import Execution
from scionet.training.fit import FitResult, fit
from scionet.training.recipes import Recipe
from scionet.training.state import Epoch, best_epoch


@dataclass(frozen=True, eq=False)
class Learnt:
    """What came of a sweep.

    Attributes:
        model: The network of the chosen learning rate.
        sweep: Every learning rate with its validation accuracy.
        payments: What was paid for the chosen training, for the others, and for measuring.
    """

    model: nn.Module
    sweep: tuple[Tried, ...]
    payments: tuple[Payment, ...]


def learn(
    make: Callable[[], nn.Module],
    recipe: Recipe,
    factors: Sequence[float],
    material: Material,
    seed: int,
    macs: float,
    folder: Path,
    execution: Execution,
) -> Learnt:
    """Train anew at every learning rate; what was killed goes on where it was.

    Of equal validation accuracies the smaller learning rate is chosen.

    Args:
        make: Makes the network with its first weights, the same each time.
        recipe: How to train.
        factors: What its learning rate is multiplied by.
        material: The data.
        seed: Root of all randomness of the training.
        macs: Of a forward pass of one example.
        folder: Where the trainings are kept meanwhile.
        execution: How the work is done.

    Raises:
        TrainingError: If a training fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done: list[tuple[Tried, nn.Module, Payment, Payment]] = []
    for factor in sorted(factors):
        model, own = make(), replace(recipe, learning_rate=recipe.learning_rate * factor)
        watch = _Watch(folder / f"rate-{factor:g}.json")
        state = folder / f"rate-{factor:g}.safetensors"
        result = fit(
            model,
            material.training(own),
            own,
            validation=material.validation,
            seed=seed,
            state_file=state,
            execution=execution,
            callbacks=(watch,),
        )
        tried, payments = _tried(own, result), _payments(own, result, macs, watch.seconds, len(material.validation))
        done.append((tried, model, *payments))
    best = max(range(len(done)), key=lambda place: (done[place][0].correct, -place))
    tuning = [payment for place, (_, _, payment, _) in enumerate(done) if place != best]
    measuring = [payment for *_, payment in done]
    return Learnt(
        done[best][1],
        tuple(tried for tried, *_ in done),
        (*(replace(payment, stage="tuning") for payment in tuning), done[best][2], *measuring),
    )


def _tried(recipe: Recipe, result: FitResult) -> Tried:
    """The validation accuracy of the weights that the training gave."""
    last = result.history[best_epoch(result.history) - 1 if recipe.patience is not None else -1]
    if last.validation is None:
        raise AssertionError("fit measures every epoch on the validation data")
    return Tried(recipe.learning_rate, recipe.epochs, last.validation.correct, last.validation.seen)


def _payments(
    recipe: Recipe, result: FitResult, macs: float, seconds: float, validation: int
) -> tuple[Payment, Payment]:
    images, measured = result.history[-1].step * recipe.batch_size, len(result.history) * validation
    training, measuring = PASSES * macs * images, macs * measured
    share = training / (training + measuring)
    return (
        Payment("training", images, training, seconds * share),
        Payment("validation", measured, measuring, seconds * (1 - share)),
    )


class _Watch(Callback):
    """Adds up the time of a training over interruptions; what an interruption lost is not counted."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.seconds = float(json.loads(read_text(path))) if path.exists() else 0.0
        self._since = time.perf_counter()

    def after_epoch(self, network: nn.Module, epoch: Epoch) -> None:
        now = time.perf_counter()
        self.seconds += now - self._since
        self._since = now
        write_text(self._path, json.dumps(self.seconds))
