"""Networks that were pruned more than once: saved with all plans and loaded into a dense instance, or not saved."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from support.small_networks import Net, chain, conv, image, pooled, residual
from torch import nn
from torch.nn import functional

from scionet.errors import CheckpointError
from scionet.files.safetensors_files import hash_tensors
from scionet.models.resnets import digits_cnn
from scionet.network.calling import Batch, call, state_of
from scionet.network.checkpoints.checkpoint import describe, load_pruned, save_pruned, save_tuned
from scionet.pruning import PruneResult, prune


def grouped() -> Net:
    """Grouped and depthwise convolutions, concatenated, and flattened: one unit has many entries."""
    return Net(
        lambda m, x: m.head(functional.relu(m.d(torch.cat([m.b(m.a(x)), m.c(m.a(x))], 1))).flatten(1)),
        a=conv(3, 8),
        b=conv(8, 8, groups=4),
        c=conv(8, 8, groups=8),
        d=conv(16, 6),
        head=nn.Linear(6 * 64, 2),
    )


def tied() -> Net:
    made = Net(
        lambda m, x: m.last(functional.relu(m.up(x)) * m.again(x)),
        up=nn.Linear(6, 12),
        again=nn.Linear(6, 12, bias=False),
        last=nn.Linear(12, 4),
    )
    made.get_submodule("again").weight = made.get_submodule("up").weight
    return made


def attention() -> Net:
    return Net(
        lambda m, x: m.down(functional.relu(m.up(x + m.heads(x, x, x, need_weights=False)[0]))),
        heads=nn.MultiheadAttention(16, 8, batch_first=True),
        up=nn.Linear(16, 24),
        down=nn.Linear(24, 16),
    )


TOKENS = torch.rand(2, 5, 16, generator=torch.Generator().manual_seed(0))
NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], Batch]] = MappingProxyType(
    {
        "chain": (chain, image()),
        "residual": (residual, image()),
        "grouped": (grouped, image()),
        "digits": (digits_cnn, image(channels=1)),
        "tied": (tied, torch.rand(3, 6, generator=torch.Generator().manual_seed(0))),
        "attention": (attention, TOKENS),
    }
)
ROUNDS = (("params<=80%", "l1"), ("params<=80%", "random"), ("params<=90%", "l2"))


def pruned(model: nn.Module, example: Batch, budget: str = "params<=75%", method: str = "l1") -> PruneResult:
    return prune(model, budget=budget, example_inputs=example, method=method, progress=False)


def refused(path: Path, result: PruneResult, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        save_pruned(path, result.model, result.plan, result.sites)
    assert not path.exists()


def from_file(result: PruneResult, make: Callable[[], nn.Module], path: Path) -> nn.Module:
    return load_pruned(save_pruned(path, result.model, result.plan, result.sites), make).eval()


@torch.no_grad()
def trained(result: PruneResult, _make: Any, _path: Any) -> nn.Module:
    for parameter in result.model.parameters():
        parameter.mul_(1.01)
    return result.model


BETWEEN: Mapping[str, Callable[[PruneResult, Callable[[], nn.Module], Path], nn.Module]] = MappingProxyType(
    {
        "nothing": lambda result, _make, _path: result.model,
        "a copy": lambda result, _make, _path: copy.deepcopy(result.model),
        "training": trained,
        "a file": from_file,
    }
)


@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("name", NETWORKS)
def test_prunings_in_a_row_load_into_a_dense_instance(name: str, between: str, tmp_path: Path) -> None:
    make, example = NETWORKS[name]
    result = pruned(make().eval(), example, *ROUNDS[0])
    for number, (budget, method) in enumerate(ROUNDS[1:]):
        model = BETWEEN[between](result, make, tmp_path / f"{number}.safetensors")
        result = pruned(model, example, budget, method)
    path = save_pruned(tmp_path / "net.safetensors", result.model, result.plan, result.sites)
    loaded = load_pruned(path, make).eval()
    assert hash_tensors(state_of(loaded)) == hash_tensors(state_of(result.model))
    assert torch.equal(call(loaded, example), call(result.model, example))
    found = describe(path)
    assert (found["prunings"], found["method"]) == (3, "l2")
    assert {site: widths[1] for site, widths in found["widths"].items()}.items() >= result.plan.widths.items()


def test_the_first_dense_network_is_what_the_file_is_of(tmp_path: Path) -> None:
    model = residual().eval()
    first = pruned(model, image())
    second = pruned(first.model, image())
    path = save_pruned(tmp_path / "net.safetensors", second.model, second.plan, second.sites)
    assert describe(path)["dense_hash"] == first.sites.dense_hash != second.sites.dense_hash
    with pytest.raises(CheckpointError, match="another architecture"):
        load_pruned(path, first.model)
    tuned = save_tuned(tmp_path / "tuned.safetensors", load_pruned(path, residual), path)
    assert describe(tuned)["prunings"] == 2


class Stubborn(nn.MultiheadAttention):
    """Attention whose number of heads cannot be changed, and which notes that somebody tried."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "num_heads" and "num_heads" in vars(self):
            self.register_buffer("tried", torch.ones(1))
            raise RuntimeError("eight heads it is")
        super().__setattr__(name, value)


def test_a_load_that_fails_in_the_middle_is_undone(tmp_path: Path) -> None:
    result = pruned(attention().double().eval(), TOKENS.double(), "params<=60%")
    assert result.plan.widths["heads"] < 8
    path = save_pruned(tmp_path / "net.safetensors", result.model, result.plan, result.sites)
    model = attention()
    model.heads = Stubborn(16, 8, batch_first=True)
    before = hash_tensors(state_of(model)), [*map(id, state_of(model).values())], str(model)
    with pytest.raises(CheckpointError, match=r"net\.safetensors does not fit the given Net .*eight heads it is"):
        load_pruned(path, model)
    assert (hash_tensors(state_of(model)), [*map(id, state_of(model).values())], str(model)) == before
    assert call(model, TOKENS).shape == (2, 5, 16)


def test_a_network_with_a_new_head_is_not_saved(tmp_path: Path) -> None:
    first = pruned(residual().eval(), image()).model
    first.head = nn.Linear(first.get_submodule("head").in_features, 7)  # type: ignore[arg-type]
    second = pruned(first, image())
    refused(tmp_path / "net.safetensors", second, "was pruned before, and then got tensors of other names or shapes")
    third = pruned(second.model, image(), "params<=90%")
    refused(tmp_path / "net.safetensors", third, r"got tensors of other .* Prune the dense network once")


def test_a_network_with_a_pruned_part_is_not_saved(tmp_path: Path) -> None:
    whole = nn.Sequential(pruned(residual().eval(), image()).model, nn.ReLU())
    refused(tmp_path / "net.safetensors", pruned(whole, image()), "has a part that was pruned on its own before")


def test_a_part_of_a_pruned_network_is_not_saved(tmp_path: Path) -> None:
    body = Net(lambda m, x: pooled(m.b(functional.relu(m.a(x)))), a=conv(3, 8), b=conv(8, 6))
    whole = pruned(nn.Sequential(body, nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)).eval(), image()).model
    part = whole.get_submodule("0")
    refused(
        tmp_path / "net.safetensors", pruned(part, image(), "params<=90%"), "is a part of a network that was pruned"
    )
