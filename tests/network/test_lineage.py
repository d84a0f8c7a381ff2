"""Lineage: a network is what its pruning left, or the lineage says how it is not."""

import copy
from collections.abc import Callable

import pytest
from support.masking import plan_of
from support.small_networks import Net, chain, conv, image
from torch import nn

from scionet.network.discovery.discover import discover
from scionet.network.lineage import Lineage, lineage_of
from scionet.network.surgery.cut import cut


def pruned() -> Net:
    model = chain()
    sites = discover(model, image())
    found = cut(model, plan_of(sites, {"a": [1, 3]}), sites)
    assert isinstance(found, Net)
    return found


def known(model: nn.Module) -> Lineage:
    lineage = lineage_of(model)
    assert lineage is not None
    return lineage


def replaced(name: str, make: Callable[[Net], nn.Module]) -> Net:
    model = pruned()
    setattr(model, name, make(model))
    return model


def test_copies_have_the_lineage_of_the_network() -> None:
    model = pruned()
    assert lineage_of(chain()) is None
    assert not known(model).broken
    assert known(copy.deepcopy(model)) is known(model)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Sequential(pruned()), "has a part that was pruned on its own"),
        (lambda: pruned().get_submodule("b"), "is a part of a network that was pruned"),
        (lambda: replaced("b", lambda m: pruned().get_submodule("b")), "has a part that was pruned on its own"),
        (
            lambda: replaced("more", lambda m: copy.deepcopy(m.get_submodule("norm"))),
            "has a part that was pruned on its own",
        ),
        (lambda: replaced("b", lambda m: conv(2, 7)), "got tensors of other names or shapes"),
        (lambda: replaced("b", lambda m: conv(2, 6, bias=False)), "got tensors of other names or shapes"),
    ],
    ids=["around it", "part", "part of another", "moved", "other shape", "other names"],
)
def test_what_is_no_longer_as_pruned_has_a_broken_lineage(make: Callable[[], nn.Module], message: str) -> None:
    assert message in known(make()).broken
