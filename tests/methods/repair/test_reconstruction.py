"""Reconstruction: the least-squares solution where that is known, never worse, and whatever networks are called on."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.selecting import problem_for
from support.subjects import SUBJECTS, budget_for
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from scionet import load_pruned, prune, save_pruned
from scionet.choices.outputs import Outputs
from scionet.choices.repair import Reconstruct
from scionet.errors import CalibrationError
from scionet.files.safetensors_files import hash_tensors
from scionet.methods.calibration.calibration import ALL, HELD_OUT
from scionet.methods.calibration.holdout import divided
from scionet.methods.calibration.regrouping import pieces, shuffled
from scionet.methods.repair.reconstruction import ReconstructionData, reconstruction_data
from scionet.methods.widths.output_distance import OutputDistance
from scionet.models.factory import build
from scionet.network.calling import state_of, tensors_of
from scionet.network.discovery.discover import discover
from scionet.network.network import Network
from scionet.network.surgery.cut import shrink, spread
from scionet.pruning import PruneResult
from scionet.seeds import seeded

PLAIN: dict[str, Any] = {"method": "l1", "widths": "uniform"}


def shrunk_network(
    model: nn.Module, batches: Any, example: Any, budget: Any = "macs<=50%", steps: int = 20, **options: Any
) -> PruneResult:
    """Pruned by L1 and reconstructed, with the learning rate `rate` if that is given."""
    step = Reconstruct(steps, options.pop("rate", 1e-3))
    return prune(model, batches, budget, example_inputs=example, **{**PLAIN, "repair": [step], **options})


def data_of(model: nn.Module, batches: list[Tensor], seed: int = 0) -> ReconstructionData:
    """The examples that reconstruction fits on, and those that it holds out."""
    problem = problem_for(model, batches, discover(model, batches[0][:2]))
    parts = divided(problem.calibration, ALL, seeded(seed), problem.network.device)
    assert parts is not None
    return reconstruction_data(replace(problem, calibration=parts[0], held_out=parts[1]), seed)


def masked(model: nn.Module, result: PruneResult) -> dict[str, Tensor]:
    return Network(model, result.sites).masked_by(result.plan)


def gain(result: PruneResult) -> tuple[float, float]:
    """Distances before and after, from the report."""
    found = re.search(r"held-out examples (\S+) -> ([\d.e+-]+)", str(result.report))
    assert found is not None
    return float(found[1]), float(found[2])


def test_a_linear_network_reaches_the_least_squares_solution() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8, bias=False), nn.Linear(8, 3, bias=False)).double()
    x = torch.randn(512, 5, dtype=torch.float64) * torch.tensor([3.0, 2.0, 1.0, 0.5, 0.2])
    result = shrunk_network(model, list(x.split(64)), x[:2], "macs<=25%", steps=800, rate=0.05, outputs="squared")
    (kept,) = result.plan.widths.values()
    assert kept == 2
    fitted = torch.cat(data_of(model, list(x.split(64))).fitted)  # type: ignore[arg-type]
    target = model(fitted).detach()
    # the best map of rank 2 in the squared error (Eckart and Young)
    best = torch.linalg.svdvals(target)[kept:].square().sum()
    found = (result.model(fitted) - target).square().sum()
    assert best > 0.001 * target.square().sum()
    torch.testing.assert_close(found, best, rtol=0.02, atol=0.0)


@pytest.mark.parametrize("name", SUBJECTS)
def test_output_comes_nearer_and_the_user_s_network_stays(name: str) -> None:
    subject = SUBJECTS[name]
    model, batches = subject.network().train(), subject.batches(4, 32)
    before, flags = hash_tensors(state_of(model)), [module.training for module in model.modules()]
    result = shrunk_network(model, batches, subject.example(), steps=60, rate=3e-3)
    assert hash_tensors(state_of(model)) == before
    assert [module.training for module in model.modules()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert gain(result)[1] < 0.9 * gain(result)[0]


@settings(max_examples=8, deadline=None)
@given(
    rate=st.sampled_from([1e-5, 1e-3, 0.1, 10.0, 1e30]), seed=st.integers(0, 9), name=st.sampled_from(["mlp", "tokens"])
)
def test_never_worse_on_held_out_examples(rate: float, seed: int, name: str) -> None:
    subject = SUBJECTS[name]
    model, batches = subject.network(), subject.batches(3, 24, seed)
    options = {"outputs": "squared", "seed": seed}
    after = shrunk_network(model, batches, subject.example(), rate=rate, steps=6, **options)
    data = data_of(model, batches, seed)
    before = shrunk_network(model, data.fitted, subject.example(), **options, repair=[])
    assert after.plan.kept == before.plan.kept
    distance = OutputDistance.on(Network(model, after.sites), data.judged, Outputs("squared"))
    assert distance.of(masked(model, after)) <= distance.of(masked(model, before)) * (1 + 1e-9)
    assert gain(after)[1] <= gain(after)[0]


def test_same_seed_same_weights_and_global_randomness_untouched(tmp_path) -> None:
    subject = SUBJECTS["branched"]
    model, batches = subject.network().float(), [batch.float() for batch in subject.batches(4, 96)]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again = (shrunk_network(model, batches, batches[0][:2], seed=3) for _ in range(2))
    other = shrunk_network(model, batches, batches[0][:2], seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.plan.identity == again.plan.identity != other.plan.identity
    assert hash_tensors(state_of(first.model)) == hash_tensors(state_of(again.model))
    path = save_pruned(tmp_path / "net.safetensors", first.model, first.plan, first.sites)
    loaded = load_pruned(path, subject.network().float())
    assert hash_tensors(state_of(loaded)) == hash_tensors(state_of(first.model))
    with torch.no_grad():
        assert torch.equal(loaded.eval()(batches[0]), first.model.eval()(batches[0]))


def test_a_shuffling_loader_is_read_once_and_leaves_the_global_randomness() -> None:
    subject = SUBJECTS["mlp"]
    data = TensorDataset(torch.cat(subject.batches(2, 32)), torch.zeros(64))
    loader = DataLoader(data, batch_size=16, shuffle=True)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = shrunk_network(subject.network(), loader, subject.example())
    assert torch.equal(torch.get_rng_state(), state)
    assert "8 held-out examples" in first.report.status
    assert first.plan.identity == shrunk_network(subject.network(), loader, subject.example()).plan.identity


class Words(nn.Module):
    """Whole numbers and a float by keyword in, a tuple out; dropout in between."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.down = nn.Embedding(11, 6), nn.Linear(6, 40), nn.Linear(40, 6)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(6, 4)

    def forward(self, tokens: Tensor, scale: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        x = self.embed(tokens) * scale[:, None, None]
        x = x + self.drop(self.down(torch.relu_(self.up(x))))
        return self.head(x.mean(1)), {"x": x}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("size", [1, 16])
def test_dicts_of_whole_numbers_tuples_dropout_and_frozen_weights(frozen: bool, size: int) -> None:
    torch.manual_seed(1)
    model = Words().requires_grad_(not frozen)
    batches = [
        {"tokens": torch.randint(0, 11, (size, length)), "scale": torch.rand(size) + 0.5, "labels": torch.zeros(size)}
        for length in (*range(3, 9), 3, 4, 5, 6)
    ]
    example = {key: batches[0][key][:2] for key in ("tokens", "scale")}
    budget = budget_for(discover(model, example), 0.5)
    result = shrunk_network(model, batches, example, budget)
    assert gain(result)[1] <= gain(result)[0]
    assert all(p.requires_grad != frozen and p.grad is None for p in result.model.parameters())
    found = list(tensors_of(result.model(**example)))
    assert len(found) == 2


def test_a_network_with_several_tensors_in_and_one_that_cannot_be_divided() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(4, 16), nn.Linear(16, 1)

        def forward(self, x: Tensor, weights: Tensor) -> Tensor:
            return self.down(self.up(x).relu()) * weights.sum()

    torch.manual_seed(2)
    shared = torch.rand(3)
    batches = [(torch.randn(10, 4), shared) for _ in range(9)]
    result = shrunk_network(Two(), batches, batches[0])
    assert "relative squared error on 10 held-out examples" in result.report.status
    with pytest.raises(CalibrationError, match=r"one calibration example in 8.*10 examples in 1 batches"):
        shrunk_network(Two(), batches[:1], batches[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_learns_in_single(dtype: torch.dtype) -> None:
    model = SUBJECTS["mlp"].network().to(dtype)
    result = shrunk_network(model, SUBJECTS["mlp"].batches(4, 64), torch.zeros(2, 6, dtype=dtype))
    assert {p.dtype for p in result.model.parameters()} == {dtype}
    assert gain(result)[1] < gain(result)[0]


def test_a_vision_transformer() -> None:
    torch.manual_seed(0)
    model = build(
        "timm:vit_tiny_patch16_224", img_size=32, depth=2, num_classes=5, embed_dim=24, num_heads=3, drop_rate=0.1
    )
    batches = list(torch.randn(64, 3, 32, 32).split(32))
    result = shrunk_network(model, batches, batches[0][:2], "macs<=80%", steps=30)
    assert gain(result)[1] < gain(result)[0]
    assert result.report.difference < 1e-4


def test_too_few_examples_are_refused() -> None:
    subject = SUBJECTS["mlp"]
    for batches in ([], subject.batches(1, 7)):
        with pytest.raises(CalibrationError, match="give 8 examples or more"):
            shrunk_network(subject.network(), batches, subject.example())


SITES = discover(SUBJECTS["mlp"].network(), SUBJECTS["mlp"].example())


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12).filter(lambda sizes: sum(sizes) >= HELD_OUT))
def test_one_example_in_eight_is_held_out(sizes: list[int]) -> None:
    examples = torch.arange(float(sum(sizes)))
    batches = [part[:, None].expand(-1, 6) for part in examples.split(sizes)]
    data = data_of(SUBJECTS["mlp"].network(), batches)
    assert sum(len(part) for part in data.judged) == sum(sizes) // HELD_OUT
    together = torch.cat([part[:, 0] for part in (*data.fitted, *data.judged)])  # type: ignore[call-overload,index]
    assert torch.equal(together.sort().values, examples)


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12))
def test_pieces_hold_the_same_examples_in_their_order(sizes: list[int]) -> None:
    examples = torch.arange(sum(sizes))
    small = pieces([{"x": part} for part in examples.split(sizes)], 3)
    assert max(len(part["x"]) for part in small) <= 3
    assert torch.equal(torch.cat([part["x"] for part in small]), examples)


def test_examples_of_one_form_are_mixed_and_others_come_in_their_batches() -> None:
    batches = [{"x": part, "y": part[:, None] * 2, "flag": True} for part in torch.arange(20).split([8, 8, 4])]
    mixed = shuffled(batches, np.random.default_rng(0))
    assert [len(batch["x"]) for batch in mixed] == [8, 8, 4]
    assert all(batch["flag"] for batch in mixed)
    assert all(torch.equal(batch["y"][:, 0], 2 * batch["x"]) for batch in mixed)
    x = torch.cat([batch["x"] for batch in mixed])
    assert torch.equal(x.sort().values, torch.arange(20))
    assert len(set((mixed[0]["x"] // 8).tolist())) > 1
    uneven = [torch.zeros(4, length) for length in (3, 4, 5)]
    assert {id(batch) for batch in shuffled(uneven, np.random.default_rng(0))} == {id(batch) for batch in uneven}


def test_spread_is_undone_by_shrink() -> None:
    dense, keep = torch.rand(5, 6, 2), {0: torch.tensor([0, 3]), 1: torch.tensor([1, 2, 5])}
    small = torch.rand(2, 3, 2)
    whole = spread(small, dense, keep)
    assert torch.equal(shrink(whole, keep), small)
    changed = whole != dense
    assert changed.sum() == small.numel()
    assert isinstance(keep, Mapping)
