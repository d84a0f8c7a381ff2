"""Pruning in the first epochs of training: which score should rank filters before the network has learned much?

    python -m benchmarks.run.early.early_pruning --data FOLDER

FOLDER holds Fashion-MNIST in MNIST's four files. Two small networks are trained from new weights for 20 epochs. After
each of the first 1 or 5 epochs, the filters of the whole network are ranked and the lowest are removed
(early_filters.py). Training continues with the remaining network, and the optimiser state is cut with it. Records go to
benchmarks/results/early.jsonl; a recorded run is not run again. `python -m benchmarks.report.tables` writes the tables.

Source: Lubana and Dick, *A Gradient Flow Framework For Analyzing Network Pruning*, ICLR 2021. Data, networks and the
number of epochs differ (the paper trains for 160 epochs). Momentum is kept, and training runs at temperature 1.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import process_time

import torch
import tyro
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import benchmarks
from benchmarks.records import pack_folder, recorded
from benchmarks.run.early.early_filters import METHODS, chosen, counts, floors, gradient_norms, unit_scores
from benchmarks.run.early.early_record import DENSE, VALIDATED, EarlyRecord, Round, file_name
from scionet.bench.records.provenance import Provenance
from scionet.bench.records.record import encode_answers
from scionet.bench.records.record_files import make_folder, write_text
from scionet.budget.costs import measure
from scionet.data.images import Preprocessing
from scionet.data.sampling import partition
from scionet.data.sources import Part, read_source
from scionet.files.json_dataclasses import to_json
from scionet.models.resnets import Residual, projection
from scionet.models.vgg import small_vgg
from scionet.network.discovery.discover import discover
from scionet.network.plan import Plan
from scionet.network.sites import Sites
from scionet.network.surgery.cut import cut
from scionet.seeds import seeded
from scionet.sparse_training.optimizer_surgery import cut_state
from scionet.training.accuracy import Accuracy, correct_predictions
from scionet.training.averages import overwrite
from scionet.training.execution import Execution
from scionet.training.fit import FitResult, fit
from scionet.training.recipes import Recipe
from scionet.training.state import TrainingState

RESULTS = benchmarks.RESULTS / "early"
EPOCHS, BATCH, SIDE = 20, 128, 16
EXAMPLES = {"train": 10_000, "validation": VALIDATED}
SCORED = 2560
"""Training images that filters are scored on, as in the authors' code."""
ROUNDS = (1, 5)
RECIPE = Recipe(epochs=EPOCHS, batch_size=BATCH, learning_rate=0.1, nesterov=False, schedule="step")
EXECUTION = Execution(precision="bf16", channels_last=True)
PREPROCESSING = Preprocessing(size=SIDE, mean=(0.286, 0.286, 0.286), std=(0.353, 0.353, 0.353))
EXAMPLE = torch.zeros(2, 3, SIDE, SIDE)


def resnet() -> nn.Module:
    """Three residual blocks with projections where the width changes, so that residual streams can be pruned too."""
    stem = (nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    blocks = (Residual(16, 16, 1, nn.Identity()), *(Residual(n, 2 * n, 2, projection(n, 2 * n, 2)) for n in (16, 32)))
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


NETWORKS = {"VGG": (small_vgg, 0.25), "ResNet": (resnet, 0.35)}
"""Networks, and the fraction of filters kept of each; units of a residual stream count once."""


def main(
    data: Path, seeds: tuple[int, ...] = (0, 1, 2), networks: tuple[str, ...] = (*NETWORKS,), out: Path = RESULTS
) -> None:
    """Do all runs that have no record yet.

    Args:
        data: Folder of the four files.
        seeds: Each network, method and number of rounds is trained once per seed.
        networks: Networks to run.
        out: Working folder of the records.
    """
    torch.set_num_threads(1)
    make_folder(out)
    for seed in seeds:
        examples = Examples.of(data, seed)
        for network in networks:
            for run in runs(network, seed, examples, out):
                write_text(out / run.file_name, to_json(run) + "\n")
                print(f"{run.file_name}: {run.correct / run.seen:.4f}, {run.seconds:.0f} s", flush=True)
    pack_folder(EarlyRecord, out)


@dataclass(frozen=True, eq=False)
class Examples:
    """The examples of one seed.

    Attributes:
        train: The training part.
        validation: The validation part, evaluated after every epoch.
        test: The test part, evaluated at the end.
        pairs: Batches of images and labels that filters are scored on.
    """

    train: TensorDataset
    validation: TensorDataset
    test: TensorDataset
    pairs: list[tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, folder: Path, seed: int) -> "Examples":
        """Read the examples of a seed."""
        source = read_source(f"idx:{folder}", PREPROCESSING, Path())
        assert source.test is not None
        parts = partition(source.train.count, EXAMPLES, seed, rest="unused")
        train, validation = (_tensors(source.train, parts[name].tolist()) for name in EXAMPLES)
        scored = (tensor[:SCORED].split(BATCH) for tensor in train.tensors)
        return cls(train, validation, _tensors(source.test, range(source.test.count)), list(zip(*scored, strict=True)))

    @property
    def test_batches(self) -> list[tuple[Tensor, Tensor]]:
        """The test images in batches."""
        images, labels = (tensor.split(1000) for tensor in self.test.tensors)
        return list(zip(images, labels, strict=True))


def _tensors(part: Part, indices: "list[int] | range") -> TensorDataset:
    examples = part.choose(indices, None)
    read = [examples[place] for place in range(len(examples))]
    return TensorDataset(torch.stack([image for image, _ in read]), torch.tensor([label for _, label in read]))


def runs(network: str, seed: int, examples: Examples, out: Path) -> Iterator[EarlyRecord]:
    """Do the runs of one network and seed that have no record. The epoch before the first round is trained once."""
    wanted = [(DENSE, 0), *((method, rounds) for rounds in ROUNDS for method in METHODS)]
    done = {run.file_name for run in recorded(EarlyRecord, out)}
    missing = [(method, rounds) for method, rounds in wanted if file_name(network, method, rounds, seed) not in done]
    if not missing:
        return
    training = Training(network, seed, examples)
    first = training.until(training.fresh(), None, 1).state
    for method, rounds in missing:
        yield training.run(method, rounds, first)


@dataclass(frozen=True, eq=False)
class Training:
    """The training of one network on the examples of one seed."""

    network: str
    seed: int
    examples: Examples

    def fresh(self) -> nn.Module:
        """Build the network with new weights."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return NETWORKS[self.network][0]()

    def until(self, model: nn.Module, start: TrainingState | None, epoch: int) -> FitResult:
        """Train it to the end of an epoch."""
        return fit(
            model,
            self.examples.train,
            RECIPE,
            validation=self.examples.validation,
            seed=self.seed,
            start=start,
            until=epoch,
            execution=EXECUTION,
        )

    def run(self, method: str, rounds: int, first: TrainingState) -> EarlyRecord:
        """Do one run, from the end of the first epoch."""
        start, model, state = process_time(), self.fresh(), first
        dense, widths = measure(model, EXAMPLE), _widths(model)
        left, density, steps = dict(widths), NETWORKS[self.network][1] if rounds else 1.0, []
        for epoch, n_kept in enumerate(counts(density, rounds, sum(widths.values())) if rounds else (), 1):
            state = self.until(model, state, epoch).state
            pruned, plan, sites = self.pruned(model, state, method, n_kept, left, floors(widths))
            state, left = cut_state(state, model, plan, sites), {**left, **plan.widths}
            steps.append(Round(epoch, sum(left.values()), self.norms(model) + self.norms(pruned)))
            model = pruned
        result = self.until(model, state, EPOCHS)
        right = correct_predictions(model, self.examples.test_batches).numpy()
        cost = measure(model, EXAMPLE)
        return EarlyRecord(
            network=self.network,
            method=method,
            rounds=rounds,
            seed=self.seed,
            density=density,
            steps=tuple(steps),
            widths={name: (width, left[name]) for name, width in widths.items()},
            macs=(int(dense.macs), int(cost.macs)),
            params=(int(dense.params), int(cost.params)),
            losses=tuple(epoch.loss for epoch in result.history),
            validation=tuple(e.validation.correct for e in result.history if isinstance(e.validation, Accuracy)),
            correct=int(right.sum()),
            seen=len(right),
            answers=encode_answers(right),
            seconds=round(process_time() - start, 1),
            provenance=Provenance.here(
                datetime.now(UTC).date().isoformat(), "python -m benchmarks.run.early.early_pruning", 1
            ),
        )

    def pruned(
        self,
        model: nn.Module,
        state: TrainingState,
        method: str,
        n_kept: int,
        left: Mapping[str, int],
        least: Mapping[str, int],
    ) -> tuple[nn.Module, Plan, Sites]:
        """Cut the filters that a round removes. A site with one filter left is no site any more and keeps it."""
        overwrite(model, state.network)
        sites = discover(model, EXAMPLE)
        rng = seeded(self.seed)("early", method, len(state.history))
        scores = unit_scores(METHODS[method], model, sites, self.examples.pairs, rng)
        n_free = n_kept - sum(width for name, width in left.items() if name not in sites)
        plan = chosen(scores, n_free, least, sites.dense_hash)
        return cut(model, plan, sites), plan, sites

    def norms(self, model: nn.Module) -> tuple[float, float]:
        """See `gradient_norms`."""
        return gradient_norms(model, self.examples.pairs)


def _widths(model: nn.Module) -> dict[str, int]:
    return {name: site.width for name, site in discover(model, EXAMPLE).items()}


if __name__ == "__main__":
    tyro.cli(main)
