"""untouched: each thing that a module can hold is put back, and what is the network's own business is not."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scionet.errors import UnsupportedModel
from scionet.files.safetensors_files import hash_tensors
from scionet.network.calling import state_of
from scionet.network.guard import guarded, untouched


class Holding(nn.Linear):
    """Tensors in attributes and containers of every kind, beside plain values."""

    def __init__(self) -> None:
        super().__init__(3, 2)
        self.register_buffer("scale", torch.ones(2))
        self.kept = torch.arange(3.0)
        self.table = {"a": torch.zeros(1), "b": torch.ones(1)}
        self.row, self.none = [torch.zeros(1), torch.ones(1)], list[Any]()
        self.group = {torch.ones(1)}
        self.calls, self.log, self.counts = 0, [1], {"calls": 0}


def holdings(net: nn.Module) -> list[Any]:
    """Everything that a module holds: objects by their id, entries of containers in order, and tensors' contents."""
    found: list[Any] = sorted((name, id(value)) for name, value in vars(net).items())
    for name in ("table", "row", "none", "group", "_parameters", "_buffers", "_forward_hooks"):
        value = getattr(net, name)
        found.append((name, [(key, id(value[key])) for key in value] if isinstance(value, dict) else [*map(id, value)]))
    attributes = {name: value for name, value in vars(net).items() if isinstance(value, Tensor)}
    tensors = {**state_of(net), **attributes, **net.table}  # type: ignore[dict-item]
    flags = [(p.requires_grad, None if p.grad is None else p.grad.tolist()) for p in net.parameters()]
    return [*found, flags, {name: (tensor.tolist(), tensor.stride()) for name, tensor in tensors.items()}]


CHANGES: dict[str, Callable[[Any], object]] = {
    "a weight": lambda net: net.weight.data.zero_(),
    "a weight's memory": lambda net: setattr(net.weight, "data", torch.zeros(2, 3)),
    "a weight's type": lambda net: net.double(),
    "a weight's flag": lambda net: net.weight.requires_grad_(False),
    "no gradient": lambda net: setattr(net.weight, "grad", None),
    "another gradient": lambda net: setattr(net.weight, "grad", torch.ones(2, 3)),
    "a gradient in place": lambda net: net.weight.grad.add_(1),
    "a new gradient": lambda net: setattr(net.bias, "grad", torch.ones(2)),
    "another parameter": lambda net: setattr(net, "bias", nn.Parameter(torch.zeros(2))),
    "no parameter": lambda net: net.register_parameter("bias", None),
    "a new parameter": lambda net: net.register_parameter("more", nn.Parameter(torch.zeros(1))),
    "a buffer in place": lambda net: net.scale.add_(1),
    "another buffer": lambda net: setattr(net, "scale", torch.ones(2)),
    "a hook": lambda net: net.register_forward_hook(print),
    "the mode": lambda net: net.eval(),
    "a tensor in place": lambda net: net.kept.add_(1),
    "another tensor": lambda net: setattr(net, "kept", torch.arange(3.0)),
    "no tensor": lambda net: setattr(net, "kept", None),
    "no attribute": lambda net: delattr(net, "kept"),
    "a new attribute": lambda net: setattr(net, "late", torch.ones(1)),
    "a key": lambda net: net.table.update(c=net.table.pop("a")),
    "a key for the same value": lambda net: net.table.update(c=net.table.pop("a"), b=net.table.pop("b")),
    "the order of keys": lambda net: net.table.update(a=net.table.pop("a")),
    "a value": lambda net: net.table.update(a=torch.zeros(1)),
    "a tensor of a table in place": lambda net: net.table["a"].add_(1),
    "no values": lambda net: net.table.clear(),
    "an item": lambda net: net.row.append(torch.ones(1)),
    "the order of items": lambda net: net.row.reverse(),
    "a first item": lambda net: net.none.append(torch.ones(1)),
    "a member": lambda net: net.group.add(torch.ones(1)),
    "no member": lambda net: net.group.clear(),
}


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_each_thing_is_put_back(change: str, fails: bool) -> None:
    net = Holding()
    net.weight.grad = torch.zeros(2, 3)
    before = holdings(net)

    @guarded
    def work(network: nn.Module) -> None:
        CHANGES[change](network)
        assert holdings(network) != before
        if fails:
            raise KeyError

    if fails:
        with pytest.raises(KeyError):
            work(network=net)
    else:
        work(net)
    assert holdings(net) == before


def test_what_holds_no_tensors_stays_as_it_was_left() -> None:
    net: Any = Holding()
    with untouched(net):
        net.calls += 1
        net.log.append(2)
        net.counts["calls"] += 1
        net.late = [3]
    assert (net.calls, net.log, net.counts, net.late) == (1, [1, 2], {"calls": 1}, [3])


def test_tensors_without_memory_are_left_alone() -> None:
    net = nn.Module()
    sparse, meta = torch.eye(2).to_sparse(), torch.empty(2, device="meta")
    net.register_buffer("sparse", sparse)
    net.register_buffer("meta", meta)
    with untouched(net):
        net.sparse = net.meta = torch.ones(1)
    assert net.sparse is sparse
    assert net.meta is meta


def test_what_another_network_shares_may_change() -> None:
    net, other = Holding(), Holding()
    other.weight, other.inner = net.weight, net
    with untouched(other, apart_from=net):
        net.weight.data.fill_(7)
        net.bias.data.fill_(7)
        other.bias.data.fill_(7)
    assert net.weight.eq(7).all()
    assert net.bias.eq(7).all()
    assert not other.bias.eq(7).any()


def test_only_the_outermost_guard_puts_back() -> None:
    net = Holding()
    before = hash_tensors(state_of(net))
    with untouched(net):
        with untouched(net):
            net.weight.data.zero_()
        assert net.weight.eq(0).all()
    assert hash_tensors(state_of(net)) == before
    with untouched(net):  # it is no longer taken for one that is guarded
        net.weight.data.zero_()
    assert hash_tensors(state_of(net)) == before


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(2))


def inference() -> nn.Module:
    with torch.inference_mode():
        return nn.Sequential(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [(lazy, r"'0\.weight' of LazyLinear has no shape yet"), (inference, r"'0\.weight' is an inference tensor")],
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_networks_that_are_not_ready_are_refused(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message), untouched(make()):
        raise AssertionError


def test_the_memory_of_shared_tensors_is_put_back_once() -> None:
    class View(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.whole = torch.arange(4.0)
            self.part: Tensor = self.whole[::2]

    net = View()
    with untouched(net):
        net.part.zero_()
    assert net.whole.tolist() == [0, 1, 2, 3]
    assert net.part.data_ptr() == net.whole.data_ptr()
