"""A searched architecture beside random and uniform ones at equal MACs, on the digits network.

    python -m benchmarks.run.searches

The network of the demo is trained on scikit-learn's digits, and its widths and depths are searched for a budget. What
was found, 20 random architectures and the uniform one are trained in the same way from new weights, with the full
network as the teacher and without. Accuracy is measured on the test part. The record is
benchmarks/results/search/digits.json; `python -m benchmarks.report.tables` writes the table.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import torch
import tyro
from torch import nn
from torch.utils.data import TensorDataset

from benchmarks import RESULTS
from scionet.bench.records.provenance import Provenance
from scionet.bench.records.record_files import make_folder, write_text
from scionet.choices.search import ArchitectureSearch
from scionet.data.digits import digits
from scionet.models.resnets import digits_cnn
from scionet.search.architecture_search import search_architecture
from scionet.search.baselines import random_architectures, train_architectures, uniform_architecture
from scionet.training.fit import fit
from scionet.training.recipes import Recipe

RECORD = RESULTS / "search" / "digits.json"
BUDGET, RANDOM = "macs<=25%", 20
SEARCH = ArchitectureSearch(learning_rate=0.02)
DENSE = Recipe(epochs=20, batch_size=64, learning_rate=0.1, weight_decay=5e-4, warmup_epochs=2)
SEARCHING = Recipe(epochs=40, batch_size=64, learning_rate=0.1, weight_decay=5e-4)
TRAINING = Recipe(epochs=15, batch_size=64, learning_rate=0.1, weight_decay=5e-4, warmup_epochs=1)
RECIPES = {"with distillation": replace(TRAINING, teacher_weight=0.9, temperature=4.0), "without": TRAINING}


def main(seeds: tuple[int, ...] = (0, 1, 2)) -> None:
    """Search, train and write the record.

    Args:
        seeds: Seeds of weights, of the order of examples, and of the split of the digits.
    """
    torch.set_num_threads(1)
    make_folder(RECORD.parent)
    rows = [row for seed in seeds for row in _rows(seed)]
    provenance = Provenance.here(datetime.now(UTC).date().isoformat(), "python -m benchmarks.run.searches", 1)
    content = {"provenance": vars(provenance), "budget": BUDGET, "rows": rows}
    write_text(RECORD, json.dumps(content, indent=1) + "\n")


def _rows(seed: int) -> Iterator[dict[str, Any]]:
    train_x, train_y, test_x, test_y = digits(seed)
    train, test, example = TensorDataset(train_x, train_y), TensorDataset(test_x, test_y), test_x[:2]
    dense = _trained(train, seed)
    quick = replace(TRAINING, epochs=1, warmup_epochs=0)
    start = time.perf_counter()
    found = search_architecture(
        dense, train, BUDGET, method=SEARCH, recipe=SEARCHING, training=quick, example_inputs=example, seed=seed
    )
    seconds = time.perf_counter() - start
    space = found.space
    random = random_architectures(space, BUDGET, RANDOM, seed=seed)
    names = {found.architecture: "searched", uniform_architecture(space, BUDGET): "uniform"}
    for recipe, settings in RECIPES.items():
        architectures = [*names, *(each for each in random if each not in names)]
        trained = train_architectures(
            dense, train, architectures, settings, example_inputs=example, validation=test, seed=seed, progress=False
        )
        for each in trained:
            row = {"seed": seed, "recipe": recipe, "architecture": names.get(each.architecture, "random")}
            shape = {"xchannels": each.architecture.xchannels, "xblocks": each.architecture.xblocks}
            yield {**row, **shape, "macs": each.macs / space.macs(space.full), "accuracy": each.validation}
        print(f"seed {seed}, {recipe}: searched in {seconds:.0f} s", flush=True)
    yield {"seed": seed, "recipe": "", "architecture": "search", "seconds": seconds, "status": found.status}


def _trained(train: TensorDataset, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = digits_cnn()
    fit(model, train, DENSE, seed=seed, progress=False)
    return model.eval()


if __name__ == "__main__":
    tyro.cli(main)
