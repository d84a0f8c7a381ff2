"""The accuracy that compensation recovers after single weights are masked, by damping, on the digits network.

    python -m benchmarks.run.compensation

The network of the demo is trained on scikit-learn's digits for eight epochs. Single weights are masked by scores
measured on 512 training images, and `compensated` adjusts the remaining weights without training. Accuracy is measured
on the test part. The record is benchmarks/results/compensation/digits.json; `python -m benchmarks.report.tables` writes
the table.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import torch
import tyro
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from benchmarks import RESULTS
from scionet.bench.records.provenance import Provenance
from scionet.bench.records.record_files import make_folder, write_text
from scionet.data.digits import digits
from scionet.masks.compensation import compensated
from scionet.masks.masking import mask_weights
from scionet.models.resnets import digits_cnn
from scionet.training.accuracy import accuracy
from scionet.training.fit import fit
from scionet.training.recipes import Recipe

RECORD = RESULTS / "compensation" / "digits.json"
SCORES = ("magnitude", "obd", "woodfisher", "mfac")
DENSITIES, DAMPINGS = (0.3, 0.2), (1e-3, 1e-4, 1e-5, 1e-6)
RECIPE = Recipe(epochs=8, batch_size=64, learning_rate=0.05)
IMAGES = 512


def main(seeds: tuple[int, ...] = (0, 1, 2)) -> None:
    """Measure and write the record.

    Args:
        seeds: Seeds of weights, of the order of examples, and of the split of the digits.
    """
    torch.set_num_threads(1)
    make_folder(RECORD.parent)
    rows = [row for seed in seeds for row in _rows(seed)]
    provenance = Provenance.here(datetime.now(UTC).date().isoformat(), "python -m benchmarks.run.compensation", 1)
    write_text(RECORD, json.dumps({"provenance": vars(provenance), "rows": rows}, indent=1) + "\n")


def _rows(seed: int) -> Iterator[dict[str, Any]]:
    train_x, train_y, *test = digits(seed)
    model = _trained(train_x, train_y, seed)
    pairs = [(train_x[:IMAGES], train_y[:IMAGES])]
    dense = _accuracy(model, *test)
    for density in DENSITIES:
        for score in SCORES:
            masks = mask_weights(model, density, score=score, batches=pairs, on_collapse="allow").masks
            moved = {
                f"{damping:g}": _accuracy(compensated(model, masks, pairs, damping=damping), *test)
                for damping in DAMPINGS
            }
            plain = _accuracy(masks.applied(model), *test)
            yield {"seed": seed, "density": density, "score": score, "dense": dense, "plain": plain, "moved": moved}
            print(f"seed {seed}, density {density}, {score}: {plain:.3f}, {moved}", flush=True)


def _trained(images: Tensor, labels: Tensor, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = digits_cnn()
    fit(model, TensorDataset(images, labels), RECIPE, seed=seed)
    return model.eval()


def _accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    return accuracy(model, [(images, labels)]).rate


if __name__ == "__main__":
    tyro.cli(main)
