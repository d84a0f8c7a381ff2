"""Search spaces: what they count, and which networks they are made of."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.golden_architectures import DERIVED, ESTIMATED, GOLDEN
from torch import Tensor, nn
from torch.nn import functional

from scionet.budget.costs import measure
from scionet.errors import CheckpointError, InvalidSetting, UnreachableBudget, UnsupportedModel
from scionet.models.factory import build
from scionet.models.resnets import digits_cnn
from scionet.models.vgg import small_vgg
from scionet.search.architecture import Architecture, read_architecture, write_architecture
from scionet.search.derived import derived
from scionet.search.space import SearchSpace

CIFAR, DIGITS = torch.zeros(1, 3, 32, 32), torch.zeros(1, 1, 8, 8)


def space_of(name: str) -> tuple[nn.Module, SearchSpace]:
    classes = 100 if name.startswith("C100") else 10
    model = build(f"scionet:resnet{name.partition('ResNet')[2]}_projection", classes=classes)
    return model, SearchSpace.of(model, CIFAR)


@pytest.mark.parametrize("name", [n if "20" in n else pytest.param(n, marks=pytest.mark.slow) for n in GOLDEN])
def test_both_countings_of_the_published_configurations(name: str) -> None:
    model, space = space_of(name)
    assert space.estimated_macs(GOLDEN[name]) == ESTIMATED[name]
    assert space.macs(GOLDEN[name]) == DERIVED[name]
    built = build(
        "scionet:searched", network=f"resnet{name.partition('ResNet')[2]}_projection", **GOLDEN[name].arguments()
    )
    if name.startswith("C010"):
        assert measure(built, CIFAR).macs == DERIVED[name]
    assert measure(derived(model, GOLDEN[name]), CIFAR).macs == DERIVED[name]


FULL = {
    "C010-ResNet20": 40_813_184,
    "C010-ResNet32": 69_124_736,
    "C010-ResNet56": 125_747_840,
    "C010-ResNet110": 253_149_824,
    "C100-ResNet20": 40_818_944,
}


@pytest.mark.parametrize("name", [n if "20" in n else pytest.param(n, marks=pytest.mark.slow) for n in FULL])
def test_full_networks_cost_what_is_published(name: str) -> None:
    model, space = space_of(name)
    assert space.macs(space.full) == space.estimated_macs(space.full) == FULL[name]
    assert measure(model, CIFAR).macs == FULL[name]


class Deep(nn.Module):
    """Two residual stages, of four blocks and of one; a stem, and a hidden linear layer."""

    def __init__(self) -> None:
        super().__init__()
        from scionet.models.resnets import Residual, projection

        self.stem = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        first = [Residual(4, 5, 1, projection(4, 5, 1)), *(Residual(5, 5, 1, nn.Identity()) for _ in range(3))]
        self.one = nn.Sequential(*first)
        self.two = Residual(5, 6, 2, projection(5, 6, 2))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(6 * 9, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.one(self.stem(x))))


DEEP_INPUT = torch.zeros(2, 2, 5, 5)
DEEP = SearchSpace.of(Deep(), DEEP_INPUT)
NETWORKS: dict[str, tuple[nn.Module, Tensor, SearchSpace]] = {
    "deep": (Deep(), DEEP_INPUT, DEEP),
    "digits_cnn": (digits_cnn(), DIGITS, SearchSpace.of(digits_cnn(), DIGITS)),
    "small_vgg": (small_vgg(channels=1), DIGITS, SearchSpace.of(small_vgg(channels=1), DIGITS)),
}


@st.composite
def architectures(draw: Any, space: SearchSpace) -> Architecture:
    return space.at([draw(st.integers(0, len(options) - 1)) for options in space.choices])


@pytest.mark.parametrize("name", NETWORKS)
@given(data=st.data())
@settings(max_examples=12)
def test_macs_are_those_that_torch_counts_on_the_built_network(name: str, data: Any) -> None:
    model, inputs, space = NETWORKS[name]
    architecture = data.draw(architectures(space))
    built = derived(model, architecture)
    assert measure(built, inputs).macs == space.macs(architecture)
    assert built.eval()(inputs).shape == model.eval()(inputs).shape


def test_the_estimate_reads_the_widths_of_removed_blocks() -> None:
    architecture = Architecture((2, 4, *(5, 5), *(4, 3), *(2, 5), *(2, 1), *(6, 6)), (1, 1))
    first = 25 * 2 * 9 * 4 + 25 * 9 * (4 * 5 + 5 * 5) + 25 * 4 * 5
    rest = 6 * 9 * 7 + 7 * 3
    assert DEEP.macs(architecture) == first + 9 * 9 * (5 * 6 + 6 * 6) + 9 * 5 * 6 + rest
    assert DEEP.estimated_macs(architecture) == first + 9 * 9 * (1 * 6 + 6 * 6) + 9 * 1 * 6 + rest


def test_the_cheapest_architecture_is_the_cheapest() -> None:
    generator = torch.Generator().manual_seed(0)
    for _, _, space in NETWORKS.values():
        least = space.macs(space.cheapest)
        for _ in range(200):
            positions = [int(torch.randint(len(options), (), generator=generator)) for options in space.choices]
            assert space.macs(space.at(positions)) >= least


def test_a_budget_becomes_a_target() -> None:
    full = DEEP.macs(DEEP.full)
    assert DEEP.target("macs<=50%") == full / 2
    assert DEEP.target("macs<=100%") == full
    assert DEEP.target("macs<=9000") == 9000


@pytest.mark.parametrize(
    ("budget", "error", "message"),
    [
        ("macs<=1%", UnreachableBudget, r"the cheapest architecture has [\d,]+ MACs, .*raise the budget"),
        ("params<=50%", InvalidSetting, "limits MACs alone"),
        ("macs<=50%, params<=50%", InvalidSetting, "limits MACs alone"),
    ],
)
def test_wrong_budgets_are_refused(budget: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        DEEP.target(budget)


class Adding(nn.Module):
    """A residual network that is not made of our blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.na = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.b, self.nb = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.na(self.a(x)))
        return self.head((x + self.nb(self.b(x))).mean((2, 3)))


class Swapped(nn.Module):
    """Convolutions that run in another order than that of their registration."""

    def __init__(self) -> None:
        super().__init__()
        self.b, self.nb = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.a, self.na = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.nb(self.b(self.na(self.a(x)))).mean((2, 3)))


def plain(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Adding(), "with another width in every convolution it fails"),
        (Swapped(), "in the order in which they are registered"),
        (plain(nn.Conv2d(1, 8, 3), nn.ReLU()), "needs a BatchNorm of its own"),
        (plain(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8)), "grouped"),
        (plain(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.PReLU()), "PReLU, which is not searched"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "no chain of convolutions"),
        (nn.Sequential(nn.Linear(8, 8), nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8)), "no chain of convolutions"),
    ],
)
def test_networks_that_cannot_be_searched_are_refused(model: nn.Module, message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message) as error:
        SearchSpace.of(model, DIGITS)
    assert "scionet" in str(error.value) or "register them" in str(error.value)


@pytest.mark.parametrize(
    ("channels", "blocks", "message"),
    [
        ((1, 16), (1, 1, 1), "8 xchannels"),
        ((1, 16, 16, 16, 32, 32, 64, 64), (1, 1), "3 xblocks"),
        ((3, 16, 16, 16, 32, 32, 64, 64), (1, 1, 1), "begin with the channels of the input, 1; given 3"),
        ((1, 17, 16, 16, 32, 32, 64, 64), (1, 1, 1), "17 of 16"),
        ((1, 16, 0, 16, 32, 32, 64, 64), (1, 1, 2), "0 of 16, 2 of 1"),
        ((1, 16, True, 16, 32, 32, 64, 64), (1, 1, 1), "True of 16"),
    ],
)
def test_widths_that_do_not_fit_are_refused(channels: tuple[int, ...], blocks: tuple[int, ...], message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        build("scionet:searched", network="digits_cnn", xchannels=channels, xblocks=blocks)


@pytest.mark.parametrize("network", ["os:system", "timm:resnet18", "searchde"])
def test_the_factory_runs_no_code_that_a_file_chooses(network: str) -> None:
    with pytest.raises(InvalidSetting, match="unknown model of scionet"):
        build("scionet:searched", network=network, xchannels=[1], xblocks=[])


def test_a_configuration_survives_its_file(tmp_path: Path) -> None:
    model, _, space = NETWORKS["digits_cnn"]
    architecture = space.at([1] * 7 + [0] * 3)
    file = tmp_path / "found.config"
    write_architecture(file, architecture, {"estimated_FLOP": 22_444_472})
    assert '"22.444472"' in file.read_text()
    again = read_architecture(file)
    assert again == architecture
    torch.manual_seed(0)
    x = torch.randn(3, 1, 8, 8)
    first, second = derived(model, architecture).eval(), derived(model, again, seed=7).eval()
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x), second(x))
    assert space.macs(again) == space.macs(architecture)


def test_a_configuration_of_the_official_code_is_read(tmp_path: Path) -> None:
    golden = GOLDEN["C010-ResNet20"]
    widths = ", ".join(f'"{width}"' for width in golden.xchannels)
    text = f'{{"arch": ["str", "resnet"], "xchannels": ["int", [{widths}]], "xblocks": ["int", ["3", "3", "3"]]}}'
    (tmp_path / "a.config").write_text(text)
    assert read_architecture(tmp_path / "a.config") == golden


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"xchannels": ["int", [3]], "xblocks": ["int", []]}',
        '{"xchannels": ["float", ["3"]], "xblocks": ["int", []]}',
        '{"xchannels": ["int", ["-3"]], "xblocks": ["int", []]}',
    ],
)
def test_a_damaged_configuration_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.config").write_text(text)
    with pytest.raises(CheckpointError, match="no configuration of an architecture"):
        read_architecture(tmp_path / "a.config")
    with pytest.raises(CheckpointError, match="cannot read"):
        read_architecture(tmp_path / "none.config")


def test_the_number_of_choices_of_a_residual_network() -> None:
    space = SearchSpace.of(build("scionet:resnet20_projection"), CIFAR)
    assert math.prod(map(len, space.choices)) == 8**19 * 3**3
