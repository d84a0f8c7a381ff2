"""Variants of a network against one call for each."""

from typing import Any

import pytest
import torch
from support.subjects import SUBJECTS
from torch import nn

from scionet.network.calling import state_of
from scionet.network.named_outputs import Tensors, named_outputs
from scionet.network.network import Network
from scionet.network.passes import variants
from scionet.network.passes.variants import pieces, run_variants
from scionet.torch_internals import TorchDispatchMode


def all_outputs(returned: Any) -> Tensors:
    return tuple(named_outputs(returned).values())


def changed(model: nn.Module, names: list[str]) -> list[dict[str, torch.Tensor]]:
    state, generator = state_of(model), torch.Generator().manual_seed(0)
    noise = {name: torch.randn(state[name].shape, generator=generator, dtype=torch.float64) for name in names}
    return [{name: state[name].detach() * (1 + 0.3 * noise[name])} for name in names]


@pytest.mark.parametrize("name", sorted(SUBJECTS))
def test_outputs_are_those_of_one_call_for_each_change(name, monkeypatch) -> None:
    subject = SUBJECTS[name]
    model = subject.network().eval()
    names = [name for name, tensor in state_of(model).items() if tensor.is_floating_point()]
    changes = [*changed(model, names), {}, {k: v for change in changed(model, names[::2]) for k, v in change.items()}]
    (batch,) = subject.batches(1, 7)
    before = {key: tensor.clone() for key, tensor in state_of(model).items()}
    monkeypatch.setattr(variants, "_called", None)  # a call for each change would now fail
    monkeypatch.setattr(variants, "_INPUT_ENTRIES", 1)  # parts of four examples, and of three
    parts = run_variants(Network(model), changes, pieces(batch), all_outputs)
    found = [torch.cat([output for (output,) in outputs]) for outputs in zip(*parts, strict=True)]
    with torch.no_grad():
        for change, outputs in zip(changes, found, strict=True):
            torch.testing.assert_close(outputs, Network(model).returned(batch, change), rtol=1e-10, atol=1e-12)
    assert all(torch.equal(tensor, before[key]) for key, tensor in state_of(model).items())


class Layers(nn.Module):
    """Counts its calls; a branching one stops early, depending on the data."""

    def __init__(self, branching: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(6))
        self.branching, self.calls = branching, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        for layer in self.layers:
            x = layer(x)
            if self.branching and x.sum() > 1e9:
                break
        return x


@pytest.mark.parametrize("branching", [False, True])
def test_a_network_that_cannot_be_recorded_is_called_for_each_change(branching) -> None:
    model = Layers(branching).double()
    names, batch = ["layers.0.weight", "layers.5.weight"], torch.randn(4, 3, dtype=torch.float64)
    changes = changed(model, names)
    (found,) = run_variants(Network(model), changes, pieces(batch), all_outputs)
    with torch.no_grad():
        for change, (output,) in zip(changes, found, strict=True):
            torch.testing.assert_close(output, Network(model).returned(batch, change), rtol=1e-10, atol=1e-12)


def test_operations_before_a_change_are_not_run_again() -> None:
    model, batch = Layers(branching=False).double(), torch.randn(4, 3, dtype=torch.float64)
    counted: list[object] = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten.addmm.default:
                counted.append(func)
            return func(*args, **(kwargs or {}))

    changes = [change for number in (1, 5) for change in changed(model, [f"layers.{number}.weight"])]
    parts = run_variants(Network(model), changes, [torch.cat([batch, batch])], all_outputs)
    with Count():
        list(parts)
    # the call recorded, compared (recorded and plain), then the dense run with its two variants of 5 and 1 layers
    assert len(counted) == 3 * 6 + 6 + 5 + 1
