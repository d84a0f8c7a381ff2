"""Cut networks: sizes, attributes, ties and flags; and that verify notices every wrong cut."""

from typing import Any

import pytest
import torch
from support.masking import Kept, plan_of
from support.small_networks import Net, chain, conv, image, pooled, residual
from torch import Tensor, nn
from torch.nn import functional

from scionet.errors import InvalidSetting, UnsupportedModel
from scionet.files.safetensors_files import hash_tensors
from scionet.network.calling import state_of
from scionet.network.discovery.discover import discover
from scionet.network.plan import Choice, Plan
from scionet.network.surgery.cut import copied, cut, install, kept_entries
from scionet.network.surgery.verification import verify

relu = functional.relu


def shrunk(model: nn.Module, kept: Kept, x: Tensor | None = None) -> nn.Module:
    x = image() if x is None else x
    sites = discover(model, x)
    plan = plan_of(sites, kept)
    pruned = cut(model, plan, sites)
    verify(model, plan, sites, pruned, x)
    return pruned


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state_of(model).items()}


# -- what a cut network is -------------------------------------------------------------------------------------------


def test_kept_entries_are_copied_in_order() -> None:
    model = chain()
    pruned = shrunk(model, {"a": [1, 3], "b": [0, 2, 5]})
    dense, small = state_of(model), state_of(pruned)
    assert torch.equal(small["a.weight"], dense["a.weight"][[1, 3]])
    assert torch.equal(small["norm.running_var"], dense["norm.running_var"][[1, 3]])
    assert torch.equal(small["b.weight"], dense["b.weight"][[0, 2, 5]][:, [1, 3]])
    assert torch.equal(small["b.bias"], dense["b.bias"][[0, 2, 5]])
    assert torch.equal(small["head.weight"], dense["head.weight"][:, [0, 2, 5]])
    assert torch.equal(small["head.bias"], dense["head.bias"])
    assert shapes(pruned)["norm.num_batches_tracked"] == ()


def test_modules_record_their_new_sizes() -> None:
    model = Net(
        lambda m, x: m.head(pooled(m.act(m.norm(m.group(relu(m.a(x))))))),
        a=conv(3, 6),
        group=conv(6, 12, groups=3),
        norm=nn.BatchNorm2d(12),
        act=nn.PReLU(12),
        head=nn.Linear(12, 2),
    )
    pruned = shrunk(model, {"a": [0, 2]})
    sizes = {name: module.extra_repr().split(", kernel")[0] for name, module in pruned.named_children()}
    assert sizes["a"] == "3, 4"
    assert sizes["group"] == "4, 8"
    assert pruned.get_submodule("group").groups == 2
    assert sizes["norm"].startswith("8,")
    assert sizes["act"] == "num_parameters=8"
    assert sizes["head"] == "in_features=8, out_features=2, bias=True"


def test_depthwise_convolutions_stay_depthwise() -> None:
    model = Net(lambda m, x: m.c(relu(m.b(relu(m.a(x))))), a=conv(3, 6), b=conv(6, 6, groups=6), c=conv(6, 2))
    b: Any = shrunk(model, {"a": [0, 1, 4, 5]}).get_submodule("b")
    assert (b.groups, b.in_channels, b.out_channels, tuple(b.weight.shape)) == (4, 4, 4, (4, 1, 3, 3))


def test_instance_norms_know_their_new_size() -> None:
    model = Net(lambda m, x: m.b(m.norm(m.a(x))), a=conv(3, 4), norm=nn.InstanceNorm2d(4, affine=True), b=conv(4, 2))
    norm: Any = shrunk(model, {"a": [1, 2, 3]}).get_submodule("norm")
    assert norm.num_features == 3


def test_a_cut_network_can_be_cut_again() -> None:
    once = shrunk(residual(), {"stem": [0, 1, 3, 5], "a1": [2, 3]})
    twice = shrunk(once, {"stem": [1, 2], "a2": [6]})
    assert shapes(twice)["a2.weight"] == (1, 2, 3, 3)
    assert shapes(twice)["b1.weight"] == (2, 2, 3, 3)


def test_a_cut_network_can_be_trained() -> None:
    pruned = shrunk(residual(), {"stem": [0, 1, 3, 5], "a1": [2, 3]})
    optimizer = torch.optim.SGD(pruned.parameters(), lr=0.1)
    before = hash_tensors(state_of(pruned))
    pruned(image()).square().mean().backward()
    optimizer.step()
    assert all(parameter.grad is not None for parameter in pruned.parameters())
    assert hash_tensors(state_of(pruned)) != before


def test_the_dense_network_is_untouched() -> None:
    model = residual().train()
    sites = discover(model, image())
    ids = {name: id(tensor) for name, tensor in state_of(model).items()}
    before = hash_tensors(state_of(model))
    pruned = cut(model, plan_of(sites, {"stem": [0], "a2": [1, 2]}), sites)
    assert hash_tensors(state_of(model)) == before
    assert {name: id(tensor) for name, tensor in state_of(model).items()} == ids
    assert pruned.training
    own = {tensor.untyped_storage().data_ptr() for tensor in state_of(model).values()}
    assert not own & {tensor.untyped_storage().data_ptr() for tensor in state_of(pruned).values()}


def test_weights_that_train_and_weights_that_do_not() -> None:
    model = chain()
    model.get_parameter("b.weight").requires_grad_(False)
    model.get_parameter("head.weight").requires_grad_(False)
    pruned = shrunk(model, {"a": [1, 3], "b": [0, 2, 5]})
    frozen = {name for name, parameter in pruned.named_parameters() if not parameter.requires_grad}
    assert frozen == {"b.weight", "head.weight"}
    assert all(parameter.is_leaf and parameter.grad is None for parameter in pruned.parameters())


def test_buffers_stay_buffers() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = conv(3, 4), conv(4, 2)
            self.register_buffer("scale", torch.rand(4, 1, 1), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x) * self.get_buffer("scale"))

    pruned = shrunk(Scaled(), {"a": [0, 3]})
    assert tuple(pruned.get_buffer("scale").shape) == (2, 1, 1)
    assert "scale" not in pruned.state_dict()


def tied() -> Net:
    """Two branches with one and the same second convolution, and two layers with one and the same bias."""
    net = Net(
        lambda m, x: m.d(relu(m.c(relu(m.a(x))) + m.again(relu(m.b(x))))),
        a=conv(3, 4),
        b=conv(3, 4),
        c=conv(4, 5),
        again=conv(4, 5, bias=False),
        d=conv(5, 2),
    )
    net.get_submodule("again").weight = net.get_parameter("c.weight")
    net.get_submodule("b").bias = net.get_parameter("a.bias")
    return net


def test_tied_weights_stay_tied() -> None:
    model = tied()
    pruned = shrunk(model, {"a": [0, 2, 3], "c": [1, 2]})
    assert pruned.get_parameter("again.weight") is pruned.get_parameter("c.weight")
    assert pruned.get_parameter("b.bias") is pruned.get_parameter("a.bias")
    assert shapes(pruned)["again.weight"] == (2, 3, 3, 3)
    assert shapes(pruned)["b.bias"] == (3,)


def test_a_layer_used_twice_is_one_layer() -> None:
    shared = conv(4, 4)
    layers = {"a": conv(3, 4), "b": shared, "again": shared, "c": conv(4, 2)}
    model = Net(lambda m, x: m.c(relu(m.again(relu(m.b(m.a(x)))))), **layers)
    pruned = shrunk(model, {"a": [0, 3]})
    assert pruned.get_submodule("b") is pruned.get_submodule("again")


def test_weights_of_a_plan_are_multiplied_in() -> None:
    model = chain()
    sites = discover(model, image())
    plan = Plan((Choice("a", 4, (1, 3), (2.0, 0.5)),))
    pruned = cut(model, plan, sites)
    verify(model, plan, sites, pruned, image())
    factors = torch.tensor([2.0, 0.5]).view(1, 2, 1, 1)
    assert torch.equal(pruned.get_parameter("b.weight"), model.get_parameter("b.weight")[:, [1, 3]] * factors)


def test_refitted_tensors_are_cut_like_those_they_replace() -> None:
    model = chain()
    sites = discover(model, image())
    weight, bias = torch.randn(6, 4, 3, 3), torch.randn(6)
    plan = Plan(
        (Choice("a", 4, (1, 3), (1.0, 1.0)), Choice("b", 6, (0, 2), (1.0, 1.0))), {"b.weight": weight, "b.bias": bias}
    )
    pruned = cut(model, plan, sites)
    verify(model, plan, sites, pruned, image())
    assert torch.equal(pruned.get_parameter("b.weight"), weight[[0, 2]][:, [1, 3]])
    assert torch.equal(pruned.get_parameter("b.bias"), bias[[0, 2]])


def test_the_cut_network_shares_no_memory_with_its_plan() -> None:
    model = chain()
    sites = discover(model, image())
    plan = Plan((Choice("a", 4, (1, 3), (1.0, 1.0)),), {"head.bias": torch.ones(2)})
    cut(model, plan, sites).get_parameter("head.bias").data.zero_()
    assert plan.tensors["head.bias"].tolist() == [1, 1]


def test_half_precision_is_kept() -> None:
    model = chain().to(torch.bfloat16)
    pruned = shrunk(model, {"a": [1, 3]}, image(dtype=torch.bfloat16))
    assert {parameter.dtype for parameter in pruned.parameters()} == {torch.bfloat16}


def test_hooks_and_attributes_come_along() -> None:
    model = chain()
    object.__setattr__(model, "classes", ["cat", "dog"])
    model.get_submodule("a").register_forward_hook(double)
    pruned: Any = shrunk(model, {"a": [1, 3]})
    assert pruned.classes == ["cat", "dog"]
    assert len(pruned.a._forward_hooks) == 1


def double(module: nn.Module, args: tuple[Tensor], out: Tensor) -> Tensor:
    return 2 * out


def test_an_empty_plan_is_a_copy() -> None:
    model = chain()
    sites = discover(model, image())
    assert hash_tensors(state_of(cut(model, Plan(()), sites))) == hash_tensors(state_of(model))


def test_kept_entries_of_several_sites_in_one_dimension() -> None:
    model = Net(lambda m, x: m.c(torch.cat([m.a(x), m.b(x)], 1)), a=conv(3, 3), b=conv(3, 2), c=conv(5, 2))
    sites = discover(model, image())
    entries = kept_entries(sites, plan_of(sites, {"a": [2], "b": [0]}))
    assert entries["c.weight"][1].tolist() == [2, 3]
    assert entries["a.weight"][0].tolist() == [2]


def test_a_plan_of_another_network() -> None:
    sites = discover(chain(), image())
    with pytest.raises(InvalidSetting, match="no such site"):
        cut(chain(), Plan((Choice("stem", 6, (0,), (1.0,)),)), sites)


def test_networks_that_cannot_be_copied() -> None:
    model = chain()
    object.__setattr__(model, "cached", torch.ones(2, requires_grad=True) * 2)
    with pytest.raises(UnsupportedModel, match=r"Net cannot be copied by copy\.deepcopy .* non-leaf tensors"):
        copied(model)


def test_install_keeps_what_is_not_named() -> None:
    model = chain()
    bias = model.get_parameter("head.bias")
    install(model, {"head.weight": torch.ones(2, 3)}, [])
    assert model.get_parameter("head.bias") is bias
    head: Any = model.get_submodule("head")
    assert (head.in_features, head.out_features) == (3, 2)
