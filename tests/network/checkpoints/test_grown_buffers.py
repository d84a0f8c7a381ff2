"""Buffers outside the state dict that grow in a forward pass: saved at any time, loaded into a fresh instance."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from scionet.errors import CheckpointError
from scionet.network.checkpoints.checkpoint import load_pruned, save_pruned
from scionet.pruning import prune


class Positions(nn.Module):
    """Two layers around an embedding of positions that is computed for as many tokens as there are."""

    def __init__(self, start: int = 1) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 12), nn.Linear(12, 3)
        self.register_buffer("cache", torch.zeros(1, start, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.cache.shape[1] != x.shape[1]:
            self.cache = torch.linspace(0, 1, x.shape[1]).view(1, -1, 1)
        return self.last(torch.relu(self.first(x) + self.cache))


X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dense_ran", [False, True])
@pytest.mark.parametrize("pruned_ran", [False, True])
@pytest.mark.parametrize("fresh_ran", [False, True])
def test_who_ran_before_does_not_matter(dense_ran: bool, pruned_ran: bool, fresh_ran: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, fresh = Positions(), Positions()
    if dense_ran:
        model(X)
    result = prune(model, (), "macs<=60%", example_inputs=X, method="l1")
    if pruned_ran:
        result.model(X)
    if fresh_ran and (dense_ran or pruned_ran):
        fresh(X)
    path = save_pruned(tmp_path / "pruned.safetensors", result.model, result.plan, result.sites)
    assert torch.equal(load_pruned(path, fresh)(X), result.model(X))


def test_a_larger_buffer_is_another_architecture(tmp_path: Path) -> None:
    model = Positions(5)
    result = prune(model, (), "macs<=60%", example_inputs=X, method="l1")
    path = save_pruned(tmp_path / "pruned.safetensors", result.model, result.plan, result.sites)
    with pytest.raises(CheckpointError, match=r"cache is \(1, 9, 1\), in the file \(1, 5, 1\)"):
        load_pruned(path, Positions(9))
