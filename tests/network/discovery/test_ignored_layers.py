"""Which layers are left whole on request."""

from collections.abc import Callable

import pytest
from support.small_networks import Net, chain, conv, image, residual
from torch import nn
from torch.nn import functional

from scionet.errors import InvalidSetting
from scionet.network.discovery.discover import Ignored, discover

relu = functional.relu


def ignored_sites(ignored: Ignored, make: Callable[[], nn.Module] = residual) -> set[str]:
    """Names of the sites that a list of ignored layers leaves whole."""
    model = make()
    sites = discover(model, image(), ignored)
    refused = {r.site for r in sites.refused if r.operation == "ignored_layers"}
    assert not refused & set(sites)
    return refused


@pytest.mark.parametrize(
    ("ignored", "expected"),
    [
        ((), set()),
        (("a1",), {"a1"}),
        (("a?",), {"a1", "a2"}),
        (("a1", "a2"), {"a1", "a2"}),
        (("b1",), {"stem"}),  # makes channels of the stream
        (("head",), {"head"}),
        ((nn.Linear,), {"head"}),
    ],
)
def test_ignored_layers(ignored: Ignored, expected: set[str]) -> None:
    assert ignored_sites(ignored) == expected


def test_a_layer_is_ignored_by_itself() -> None:
    model = residual()
    sites = discover(model, image(), [model.get_submodule("a2")])
    assert list(sites) == ["stem", "a1"]


def test_everything_inside_an_ignored_module_stays() -> None:
    model = nn.Sequential(
        nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 5)), nn.ReLU(), conv(5, 6), nn.ReLU(), conv(6, 2)
    )
    sites = discover(model, image(), ["0"])
    assert list(sites) == ["2"]


def test_a_shared_layer_is_ignored_under_either_name() -> None:
    def make() -> Net:
        shared = conv(4, 4)
        layers = {"a": conv(3, 4), "b": shared, "again": shared, "c": conv(4, 5), "d": conv(5, 2)}
        return Net(lambda m, x: m.d(relu(m.c(relu(m.again(relu(m.b(m.a(x)))))))), **layers)

    assert ignored_sites(["b"], make) == ignored_sites(["again"], make) == {"a"}


def test_an_ignored_batch_norm_keeps_its_channels() -> None:
    model = chain()
    with_norm = discover(model, image(), [nn.BatchNorm2d])
    assert list(with_norm) == ["b"]


def test_ignored_layers_that_match_nothing_are_an_error() -> None:
    with pytest.raises(
        InvalidSetting, match=r"unknown ignored layer 'norn'; allowed: a, b, head, norm\. Did you mean 'norm'"
    ):
        discover(chain(), image(), ["norn"])
