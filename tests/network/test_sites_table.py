"""What `print(discover(...))` shows: one page, whatever the network."""

import re
from collections.abc import Callable
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.network_cases import CASES
from support.small_networks import chain, conv, image, residual
from torch import nn

from scionet.budget.costs import CostModel
from scionet.models.factory import build, import_torchvision
from scionet.network.discovery.discover import discover
from scionet.network.phrases import counted, first_and_count, shortened
from scionet.network.sites import Extent, Operation, Refusal, Sites
from scionet.network.sites_table import mac_shares, sites_table

PAGE = 6_000


def densenet121() -> nn.Module:
    models = import_torchvision().models
    return models.DenseNet(growth_rate=6, block_config=(6, 12, 24, 16), num_init_features=8, bn_size=2, num_classes=10)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: build("torchvision:resnet18"),
    "densenet121": densenet121,
    "resnet56": lambda: build("scionet:resnet56"),
    "mobilenet_v3_small": lambda: build("torchvision:mobilenet_v3_small"),
}


@cache
def found(name: str) -> Sites:
    return discover(NETWORKS[name](), torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_table_is_a_page(name: str) -> None:
    text = str(found(name))
    assert len(text) < PAGE
    assert max(map(len, text.splitlines())) <= 100
    # no markup for terminals
    assert text.isascii()
    assert all(line.isprintable() for line in text.splitlines())


def test_every_site_of_a_short_network_is_a_row() -> None:
    sites = found("resnet18")
    rows = str(sites).splitlines()
    for name, site in sites.items():
        (row,) = [row for row in rows if row.startswith(f"{name} ")]
        assert re.search(rf" {site.width} +{site.unit} ", row)
    assert not any(row.startswith("...") for row in rows)
    assert rows[0] == "ResNet: 12 sites, 2,880 units"


def test_producers_and_consumers_are_their_first_and_a_number() -> None:
    (row,) = [row for row in str(found("resnet18")).splitlines() if row.startswith("layer4.0.conv2")]
    assert re.search(r"layer4\.0\.conv2 \+2 +-> layer4\.1\.conv1 \+1 +19\.8 %$", row)


def test_the_middle_of_a_long_network_is_left_out_with_its_number() -> None:
    sites = found("densenet121")
    text, names = str(sites), list(sites)
    shown = [name for name in names if any(line.startswith(f"{name} ") for line in text.splitlines())]
    hidden = len(names) - len(shown)
    assert f"... {hidden} more sites; list(sites) names all" in text
    assert shown == [*names[:24], *names[-4:]]


@pytest.mark.parametrize(("count", "hidden"), [(28, None), (29, None), (30, 2)])
def test_no_single_row_is_left_out(count: int, hidden: int | None) -> None:
    """A line that says that one row is missing would take the place of the row."""
    layers = [conv(3, 4), *(conv(4, 4) for _ in range(count))]
    sites = discover(nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU()))), image())
    assert len(sites) == count
    found = re.search(r"\.\.\. (\d+) more sites", str(sites))
    assert (found and int(found[1])) == hidden


def test_refused_sites_are_listed_with_their_reasons() -> None:
    sites = found("resnet56")
    assert len(sites.refused) > 1
    text = " ".join(str(sites).split())
    for refusal in sites.refused:
        assert refusal.site in text
        assert refusal.operation in text
        assert refusal.advice in text


def test_alike_refusals_are_counted() -> None:
    refused = tuple(Refusal(f"layer{number}", "sort", "block", "it stays") for number in range(5))
    text = str(Sites({}, {}, (), {}, (), refused))
    assert "- layer0, layer1, layer2 and 2 more: sort in block: it stays" in text


def test_many_reasons_are_cut_short() -> None:
    refused = tuple(Refusal(f"layer{number}", "sort", "block", f"reason {number}") for number in range(11))
    text = str(Sites({}, {}, (), {}, (), refused))
    assert "reason 7" in text
    assert "reason 8" not in text
    assert "... 3 more reasons; sites.refused lists all" in text


def test_a_network_without_sites_has_a_table_too() -> None:
    text = sites_table(Sites({}, {}, (), {}, ()))
    assert text.startswith("Network: 0 sites, 0 units\n")
    assert text.endswith("Nothing is left whole.")


PRUNABLE = [name for name, known in CASES.items() if known.sites]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", [*PRUNABLE, "resnet20"])
def test_shares_of_macs_are_what_the_cost_model_loses_with_the_whole_site(name: str) -> None:
    model, batch = (CASES[name].make(), CASES[name].batch) if name in CASES else (build(f"scionet:{name}"), image())
    sites = discover(model, batch)
    costs = CostModel(sites)
    expected = {site: 1 - costs.cost({site: 0}).macs / costs.dense.macs for site in sites}
    assert mac_shares(sites) == pytest.approx(expected, abs=1e-12)


def test_products_of_activations_shrink_with_their_heads() -> None:
    (site,) = discover(chain(), image(), ["b"]).values()
    operation = Operation(None, 8.0, (Extent(2 * site.width, {site.name: 1}),))
    sites = Sites({site.name: site}, {}, (operation,), {slot.tensor: (site.width,) * 4 for slot in site.slots}, ())
    assert mac_shares(sites) == {site.name: 0.5}


# -- one line --------------------------------------------------------------------------------------------------------


def test_sites_and_their_parts_are_one_line_without_indices() -> None:
    sites = discover(residual(), image())
    assert repr(sites) == "Sites(Net, 3 sites, 18 units, 2 branches, 1 left whole)"
    assert repr(sites["stem"]) == "Site('stem', 6 channels, 3 producers, 3 consumers)"
    assert repr(sites["stem"].slot("stem.weight", 0)) == "Slot('stem.weight', dim 0, 6 units of 1 entry)"
    grouped = discover(CASES["grouped"].make(), image())["a"]
    assert repr(grouped.slot("a.weight", 0)) == "Slot('a.weight', dim 0, 3 units of 2 entries)"


@pytest.mark.parametrize("name", NETWORKS)
def test_the_repr_of_everything_in_sites_is_short(name: str) -> None:
    sites = found(name)
    parts = [sites, *sites.values(), *(slot for site in sites.values() for slot in site.slots)]
    parts += [*sites.consumers.values(), *sites.refused, *sites.operations]
    for part in parts:
        assert "\n" not in repr(part)
        assert len(repr(part)) < 300


# -- phrases ---------------------------------------------------------------------------------------------------------


def test_numbers_with_their_nouns() -> None:
    assert [counted(number, "site") for number in (0, 1, 4800)] == ["0 sites", "1 site", "4,800 sites"]


@given(st.text(st.sampled_from("ab."), max_size=30), st.integers(4, 30))
def test_shortened_names_fit_and_keep_their_ends(name: str, length: int) -> None:
    text = shortened(name, length)
    assert len(text) <= length
    assert text == name or (len(text) == length and text.startswith("...") and name.endswith(text[3:]))


def test_the_first_of_several_names() -> None:
    assert first_and_count((), 20) == "-"
    assert first_and_count(("a.weight",), 20) == "a"
    assert first_and_count(("layer1.conv1.weight", "b.weight"), 15) == "layer1.conv1 +1"
    assert first_and_count(("layer1.conv1.weight", "b.weight"), 11) == "...conv1 +1"
