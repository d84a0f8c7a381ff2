"""Residual branches of networks that are known by hand, and the reasons for which others cannot be dropped."""

from typing import Any

import pytest
import torch
from support.small_networks import Net, conv, image, pooled, residual
from torch import Tensor, nn
from torch.nn import functional

from scionet.models.factory import build
from scionet.models.resnets import DigitsNet
from scionet.network.branches import Branch
from scionet.network.calling import Batch
from scionet.network.discovery.discover import discover
from scionet.network.sites import Sites

relu = functional.relu


def found(model: nn.Module, batch: Batch | None = None) -> dict[str, Branch]:
    return dict(discover(model.eval(), image() if batch is None else batch).branches)


def block(channels: int = 4, inner: int = 5, outputs: int | None = None, stride: int = 1) -> nn.Sequential:
    outputs = channels if outputs is None else outputs
    return nn.Sequential(conv(channels, inner, stride=stride), nn.ReLU(), conv(inner, outputs))


def stem_and_head(forward: Any, **layers: nn.Module) -> Net:
    """A stem of 4 channels, what a function makes of its output, and a head of two layers."""
    head = nn.Sequential(nn.LazyLinear(3), nn.ReLU(), nn.Linear(3, 2))
    return Net(lambda m, x: m.head(pooled(forward(m, relu(m.stem(x))))), stem=conv(3, 4), head=head, **layers)


def ready(model: Net) -> Net:
    model(image())
    return model


# -- what is a branch --------------------------------------------------------------------------------------------------


def test_an_identity_shortcut() -> None:
    branches = found(residual())
    assert {name: (b.modules, b.output, b.layers, b.channels, b.dim, b.sites) for name, b in branches.items()} == {
        "b1": (("a1", "b1"), "b1", ("a1.weight", "b1.weight"), 6, -3, ("a1",)),
        "b2": (("a2", "b2"), "b2", ("a2.weight", "b2.weight"), 6, -3, ("a2",)),
    }
    assert branches["b1"].tensors == ("a1.weight", "a1.bias", "b1.weight", "b1.bias")
    assert {name: index.ravel().tolist() for name, index in branches["b2"].streams.items()} == {"stem": [*range(6)]}


def test_the_projection_shortcut_is_no_branch() -> None:
    branches = found(DigitsNet(), image(channels=1))
    assert {name: branch.modules for name, branch in branches.items()} == {
        name: tuple(f"{name}.{part}" for part in ("conv1", "bn1", "conv2", "bn2"))
        for name in ("block1", "block2", "block3")
    }
    entry = branches["block3"].removal.stand_ins["block3.conv1"]
    assert entry.sampling == ((0, 1), (0, 1), (0, 2), (0, 2))


@pytest.mark.parametrize("written_in_place", [False, True])
def test_the_order_of_the_summands_makes_no_difference(written_in_place: bool) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        out = m.body(x)
        if written_in_place:
            out += x
            return out
        return x + out

    branches = found(ready(stem_and_head(forward, body=block())))
    assert [(b.modules, b.shortcut is not None) for b in branches.values()] == [(("body",), True)]


def test_a_sum_of_three() -> None:
    net = ready(stem_and_head(lambda m, x: x + m.first(x) + m.second(x), first=block(), second=block(inner=6)))
    assert {name: b.modules for name, b in found(net).items()} == {"first": ("first",), "second": ("second",)}


def test_branches_inside_a_branch() -> None:
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.last = block(), conv(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(x + self.body(x))

    branches = found(ready(stem_and_head(lambda m, x: x + m.outer(x), outer=Inner())))
    assert {name: b.layers for name, b in branches.items()} == {
        "outer.body": ("outer.body.0.weight", "outer.body.2.weight"),
        "outer": ("outer.body.0.weight", "outer.body.2.weight", "outer.last.weight"),
    }
    assert branches["outer"].overlaps(branches["outer.body"])


@pytest.mark.parametrize("before", [False, True])
def test_a_scale_that_a_forward_reads_goes_if_it_is_before_the_end_of_the_branch(before: bool) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.end, self.scale = block(), nn.Identity(), nn.Parameter(torch.rand(4, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            scaled = 0.5 * self.scale * self.body(x)
            return x + (self.end(scaled) if before else scaled)

    (branch,) = found(ready(stem_and_head(lambda m, x: m.scaled(x), scaled=Scaled()))).values()
    assert branch.output == ("scaled.end" if before else "scaled.body")
    assert branch.removal.loose == (("scaled.scale",) if before else ())
    assert ("scaled.scale" in branch.tensors) == before


def test_a_module_without_operations_can_end_a_branch() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return x + m.path(m.body(x).flatten(2).unflatten(2, x.shape[2:]))

    (branch,) = found(ready(stem_and_head(forward, body=block(), path=nn.Identity()))).values()
    assert (branch.modules, branch.output) == (("body", "path"), "path")


def test_what_has_no_consequence_belongs_to_nothing() -> None:
    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = block()

        def forward(self, x: Tensor) -> Tensor:
            _ = self.body(x).mean()
            return self.body(x)

    (branch,) = found(ready(stem_and_head(lambda m, x: x + m.body(x), body=Watched()))).values()
    assert branch.modules == ("body",)


# -- what is none ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: stem_and_head(lambda m, x: m.first(x) + m.second(x), first=block(), second=block(inner=6)),
        lambda: stem_and_head(lambda m, x: x + x.mean((2, 3), keepdim=True)),
        lambda: stem_and_head(lambda m, x: m.body(x) + torch.ones(4, 1, 1), body=block()),
        lambda: stem_and_head(lambda m, x: x * m.body(x), body=block()),
        lambda: stem_and_head(lambda m, x: torch.cat([x, m.body(x)], 1), body=block()),
    ],
    ids=["as many layers", "no layer", "a constant", "a product", "a concatenation"],
)
def test_sums_without_a_branch(make: Any) -> None:
    sites = discover(ready(make()).eval(), image())
    assert not sites.branches
    assert not sites.refused_branches


def refusal(sites: Sites) -> tuple[str, str, str]:
    assert not sites.branches
    (found,) = sites.refused_branches
    return found.site, found.operation, found.advice


def test_a_branch_that_is_also_read_elsewhere() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        out = m.body(x)
        return torch.cat([x + out, out], 1)

    name, operation, advice = refusal(discover(ready(stem_and_head(forward, body=block())).eval(), image()))
    assert (name, operation) == ("body", "convolution")
    assert "read outside the branch" in advice


def test_a_product_that_no_module_of_the_branch_computes() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.first(x).flatten(2)
        return x + m.last((y @ y.transpose(1, 2) @ y).view_as(x))

    name, operation, advice = refusal(
        discover(ready(stem_and_head(forward, first=conv(4, 4), last=conv(4, 4))).eval(), image())
    )
    assert (name, operation) == ("last", "bmm")
    assert "a module of its own" in advice


def test_a_branch_that_ends_in_an_activation_of_a_forward() -> None:
    _, operation, advice = refusal(
        discover(ready(stem_and_head(lambda m, x: x + torch.sigmoid(m.body(x)), body=block())).eval(), image())
    )
    assert operation == "sigmoid"
    assert "must end with the output of a module" in advice


def test_a_module_that_is_used_twice() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.body(x + m.body(x))

    assert not discover(ready(stem_and_head(forward, body=block())).eval(), image()).branches


def test_a_weight_that_others_use() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.again(x + m.body(x))

    net = ready(stem_and_head(forward, body=block(inner=4), again=conv(4, 4)))
    net.get_submodule("again").weight = net.get_submodule("body.0").weight
    _, operation, advice = refusal(discover(net.eval(), image()))
    assert operation == "parameter"
    assert "shares it" in advice


def test_a_forward_that_needs_the_number_of_channels() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return x + m.last(m.first(x).view(2, 2, 2, 8, 8).flatten(1, 2))

    name, operation, _ = refusal(
        discover(ready(stem_and_head(forward, first=conv(4, 4), last=conv(4, 4))).eval(), image())
    )
    assert (name, operation) == ("last", "provisional cut")


def test_ignored_layers_stay() -> None:
    sites = discover(residual(), image(), ["b1"])
    assert list(sites.branches) == ["b2"]
    assert [(each.site, each.operation) for each in sites.refused_branches] == [("b1", "ignored_layers")]


# -- known networks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factory", "arguments", "count"),
    [
        ("scionet:resnet20", {}, 9),
        ("torchvision:resnet18", {}, 8),
        ("torchvision:mobilenet_v2", {}, 10),
        ("torchvision:efficientnet_b0", {}, 9),
        ("torchvision:regnet_y_400mf", {}, 16),
        ("torchvision:squeezenet1_1", {}, 0),
        ("timm:vit_tiny_patch16_224", {"img_size": 32, "depth": 2}, 4),
        ("timm:resnet50d", {}, 16),
        ("timm:convnext_atto", {}, 12),
    ],
)
@pytest.mark.slow
def test_known_networks(factory: str, arguments: dict[str, Any], count: int) -> None:
    sites = discover(build(factory, **arguments).eval(), image(size=32))
    assert len(sites.branches) == count
    assert not sites.refused_branches


def test_the_table_tells_how_many_branches_there_are() -> None:
    text = str(discover(residual(), image()))
    assert "2 residual branches can be dropped: b1, b2" in text
    assert "2 branches" in repr(discover(residual(), image()))
    text = str(discover(residual(), image(), ["b1"]))
    assert "1 residual branch can be dropped: b2" in text
    assert "Branches that cannot:\n- b1: ignored_layers in b1" in text


def test_modules_that_are_called_with_keywords() -> None:
    class Keywords(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = conv(4, 5), conv(5, 4)

        def forward(self, *, hidden: Tensor, scale: float = 1.0) -> Tensor:
            return scale * self.last(relu(self.first(hidden)))

    (branch,) = found(ready(stem_and_head(lambda m, x: x + m.body(hidden=x), body=Keywords()))).values()
    assert branch.modules == ("body",)
