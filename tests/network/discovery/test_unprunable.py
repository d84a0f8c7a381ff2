"""What cannot be pruned as it is: an error that names it and says what to do."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import scionet
from scionet.errors import UnsupportedModel

X = torch.randn(2, 2, 6, 6)


def network(first: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    first = nn.Conv2d(2, 8, 3) if first is None else first
    return nn.Sequential(first, nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(24, 3)).eval()


def pruned(model: Any) -> scionet.PruneResult:
    return scionet.prune(model, (), "macs<=80%", example_inputs=X, method="l1")


def masked() -> nn.Module:
    model = network()
    prune.l1_unstructured(model[0], "weight", 0.5)
    return model


def prepared() -> nn.Module:
    conv = nn.Conv2d(2, 8, 3)
    conv.weight_fake_quant = nn.Identity()  # type: ignore[assignment]
    return network(conv)


CASES: dict[str, tuple[Any, str]] = {
    "state dict": (lambda: network().state_dict(), r"looks like a state dict; .* network.load_state_dict\(\.\.\.\)"),
    "class": (lambda: nn.Sequential, r"given the class Sequential; make an instance: Sequential\(\.\.\.\)"),
    "function": (lambda: torch.relu, "given relu, which is no module"),
    "name": (lambda: "resnet18", "must be a torch.nn.Module; given str"),
    "traced": (lambda: torch.jit.trace(network(), X), "scripted or traced; give the network it was made from"),
    "scripted part": (
        lambda: network(torch.jit.script(nn.Conv2d(2, 8, 3))),  # type: ignore[arg-type]
        "module '0' has a forward that was scripted",
    ),
    "weight norm": (lambda: network(weight_norm(nn.Conv2d(2, 8, 3))), r"remove_weight_norm\(model\.0\)"),
    "spectral norm": (lambda: network(spectral_norm(nn.Conv2d(2, 8, 3))), r"remove_spectral_norm\(model\.0\)"),
    "torch's masks": (masked, r"torch\.nn\.utils\.prune\.remove\(model\.0, 'weight'\)"),
    "prepared": (prepared, "module '0' has weights prepared for quantisation-aware training"),
    "quantised": (lambda: network(torch.ao.nn.quantized.Conv2d(2, 8, 3)), "quantise the pruned one"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("call", [pruned, lambda model: scionet.discover(model, X)], ids=["prune", "discover"])
def test_it_is_refused_by_name(case: str, call: Any) -> None:
    made, message = CASES[case]
    model = made()
    with pytest.raises(UnsupportedModel, match=message):
        call(model)


@pytest.mark.parametrize("kind", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_layers_beside_parametrized_ones_are_cut(kind: Any) -> None:
    model = network(kind(nn.Conv2d(2, 8, 3)))
    result = pruned(model)
    assert result.model[2].weight.shape[0] < 6
    assert scionet.verify(model, result.plan, result.sites, result.model, X) < 1e-4


def test_the_way_out_works() -> None:
    model = masked()
    prune.remove(model[0], "weight")
    assert "0" in scionet.discover(model, X)
