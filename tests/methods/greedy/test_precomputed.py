"""Networks taken apart by what depends on the gates, against the networks themselves."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from support.gated import with_gates
from support.selecting import view_of
from support.subjects import SUBJECTS, Subject, settled
from torch import Tensor, nn
from torch.nn import functional

from scionet.errors import CalibrationError, UnsupportedModel
from scionet.methods.greedy.gated_network import GatedSite, grouped_by_form
from scionet.methods.greedy.precomputed import Precomputed
from scionet.network.calling import call
from scionet.network.discovery.discover import discover

PLENTY, SOME, NONE = 2.0**31, 2.0**15, 0.0


class Awkward(nn.Module):
    """Pre-activations, changes in place, a group of channels, a constant read as a number, and channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm1 = nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8, affine=False)
        self.mix, self.norm2 = nn.Conv2d(8, 8, 3, groups=2, bias=False), nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 6, 1).to(memory_format=torch.channels_last)
        self.head = nn.Linear(6, 4)
        self.register_buffer("factor", torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        z = functional.relu(self.norm1(y.mul_(float(self.factor))))
        y += 1
        z = functional.max_pool2d(self.norm2(self.mix(z)), 2).contiguous(memory_format=torch.channels_last)
        return self.head(functional.adaptive_avg_pool2d(functional.silu(self.last(z), inplace=True), 1).flatten(1))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 20, batch_first=True, dropout=0.1)
        self.embed, self.head = nn.Embedding(11, 8), nn.Linear(8, 4)

    def forward(self, tokens: Tensor, weight: Tensor, scaled: bool = True) -> dict[str, Any]:
        x = self.layer(self.embed(tokens) * weight[:, None, None])
        return {"none": None, "logits": self.head(x.mean(1)) * (2 if scaled else 1)}


class Mixing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)) - self.first(x).mean(0))


@dataclass(frozen=True)
class Case:
    """A network and inputs of all its forms."""

    make: Callable[[], nn.Module]
    inputs: Callable[[torch.Generator], Any]

    def network(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = self.make().double().eval()
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d) and module.affine:
                    settled(module)
        return model

    def batch(self) -> Any:
        return self.inputs(torch.Generator().manual_seed(1))


def _subject(subject: Subject) -> Case:
    return Case(subject.make, lambda rng: torch.randn(7, *subject.shape, generator=rng, dtype=torch.float64))


def _tokens(rng: torch.Generator) -> dict[str, Any]:
    weight = torch.rand(7, generator=rng, dtype=torch.float64)
    return {"tokens": torch.randint(0, 11, (7, 5), generator=rng), "weight": weight, "scaled": False}


CASES = {
    **{name: _subject(subject) for name, subject in SUBJECTS.items()},
    "awkward": _subject(Subject(Awkward, (2, 8, 8))),
    "attention": Case(Attention, _tokens),
    "line": _subject(
        Subject(lambda: nn.Sequential(nn.Conv1d(2, 9, 3), nn.GELU(), nn.Conv1d(9, 4, 3), nn.Flatten()), (2, 7))
    ),
}


def sole(returned: Any) -> tuple[Tensor, ...]:
    return (returned["logits"] if isinstance(returned, dict) else returned,)


def first_output(model: nn.Module, batch: Any) -> Tensor:
    with torch.no_grad():
        return sole(call(model, batch))[0]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("memory", [PLENTY, SOME, NONE])
def test_precomputed_examples_give_what_the_gated_network_gives(name, memory) -> None:
    case = CASES[name]
    model, batch = case.network(), case.batch()
    sites = discover(model, batch)
    assert sites
    for name, site in sites.items():
        known = Precomputed(GatedSite(view_of(model, sites, name), sole), batch, memory)
        rows, units = torch.tensor([3, 0, 3, 6]), torch.tensor([1, 0, site.width - 1, 1])
        point, counts = known.start(), np.zeros(site.width)
        for n_picks, unit in enumerate((site.width - 1, 0, site.width - 1)):
            (moved,) = known.outputs(known.moved(point, n_picks, units, rows), rows)
            for found, row, other in zip(moved, rows, units, strict=True):
                gates = site.width * (counts + np.eye(site.width)[other]) / (n_picks + 1)
                expected = first_output(with_gates(model, sites, {site.name: gates}), batch)[row]
                torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
            point, counts = known.advanced(point, n_picks, unit), counts + np.eye(site.width)[unit]
        gates = site.width * counts / 3
        expected = first_output(with_gates(model, sites, {site.name: gates}), batch)
        torch.testing.assert_close(known.outputs_at(point, slice(0, 7))[0], expected, rtol=1e-10, atol=1e-12)


def carried(name: str, site: str, memory: float = PLENTY) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Shapes of what is known of an example for all gates, and without them."""
    model, batch = CASES[name].network(), CASES[name].batch()
    sites = discover(model, batch)
    known = Precomputed(GatedSite(view_of(model, sites, site), sole), batch, memory)
    return [rows.shape for rows in known._vertices], [rows.shape for rows in known._values]


def test_as_much_as_memory_holds_is_known_before_the_gates_are() -> None:
    # behind a block's second convolution, its BatchNorm and the shortcut
    assert carried("residual", "block1.conv1") == ([(1, 10, 5, 5)], [])
    assert carried("residual", "block1.conv1", SOME) == ([(12,)], [(1, 2, 5, 5)])
    # the logits themselves
    assert carried("mlp", "2") == ([(1, 4)], [])
    assert carried("branched", "join") == ([(1, 4)], [])
    # of a residual stream the first consumer, behind its BatchNorm; the gates of the others; and the stream
    assert carried("residual", "stem") == ([(1, 10, 1, 1), (1, 10), (1, 12, 5, 5)], [(1, 10, 5, 5)])
    assert carried("residual", "stem", 3 * SOME) == ([(10,)], [(1, 10, 5, 5)])
    assert carried("residual", "stem", NONE) == ([(10,)], [(1, 2, 5, 5)])


def test_network_that_mixes_examples_is_refused() -> None:
    model = Mixing().double()
    x = torch.randn(5, 6, dtype=torch.float64)
    sites = discover(model, x)
    with pytest.raises(UnsupportedModel, match="alone"):
        Precomputed(GatedSite(view_of(model, sites, "first"), sole), x, PLENTY)


def test_batches_of_one_form_are_joined() -> None:
    small, large = torch.zeros(2, 3), torch.zeros(4, 5)
    joined = grouped_by_form([(small, 1), (large, 1), (small + 1, 1), (small, 2)])
    assert [numbers for _, numbers in joined] == [[0, 2], [1], [3]]
    assert torch.equal(joined[0][0][0], torch.cat([small, small + 1]))
    with pytest.raises(CalibrationError, match="first dimension"):
        grouped_by_form([(small, torch.zeros(3))])
