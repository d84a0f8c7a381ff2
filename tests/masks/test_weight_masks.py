"""Masks on a network: attach, train, copy, save, compile, run in several processes, detach."""

import copy
import socket
from pathlib import Path

import pytest
import torch
from support.mask_networks import pairs, sizes_mlp, small_vgg
from support.processes import together
from torch import nn

from scionet import WeightMasks, detach_masks_, mask_weights
from scionet.errors import CheckpointError, InvalidSetting

X, Y = pairs(6, 5)


def masked() -> tuple[nn.Module, WeightMasks, nn.Module]:
    """A network, its masks, and the network with them."""
    model = sizes_mlp(5, 7, 6, 4)
    masks = mask_weights(model, 0.4).masks
    attached = copy.deepcopy(model)
    masks.attach_(attached)
    return model, masks, attached


def test_a_masked_network_has_zeros_and_detaching_keeps_them() -> None:
    model, masks, attached = masked()
    plain = copy.deepcopy(model)
    with torch.no_grad():
        for name, mask in masks.items():
            plain.get_parameter(name).mul_(mask)
    assert torch.equal(attached(X), plain(X))
    assert torch.equal(masks.applied(model)(X), plain(X))
    before = [id(p) for p in attached.parameters()]
    detach_masks_(attached)
    assert sorted(before) == sorted(id(p) for p in attached.parameters())
    assert list(attached.state_dict()) == list(model.state_dict())
    assert all(map(torch.equal, attached.parameters(), plain.parameters()))
    with pytest.raises(InvalidSetting, match="no masks"):
        detach_masks_(attached)


def test_training_keeps_the_zeros_and_moves_the_rest() -> None:
    model, masks, attached = masked()
    optimiser = torch.optim.SGD(attached.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        nn.functional.cross_entropy(attached(X), Y).backward()
        optimiser.step()
    detach_masks_(attached)
    for name, mask in masks.items():
        assert not bool(attached.get_parameter(name)[~mask].any())
        assert not torch.equal(attached.get_parameter(name)[mask], model.get_parameter(name)[mask])


def test_masks_survive_copies_and_state_dicts() -> None:
    model, masks, attached = masked()
    assert torch.equal(copy.deepcopy(attached)(X), attached(X))
    fresh = copy.deepcopy(model)
    WeightMasks({name: torch.ones_like(mask) for name, mask in masks.items()}).attach_(fresh)
    fresh.load_state_dict(attached.state_dict())
    assert torch.equal(fresh(X), attached(X))


def test_masks_survive_compilation() -> None:
    """Captured as one graph, without code generation, so that no compiler is needed."""
    _, _, attached = masked()
    found = torch.compile(attached, backend="aot_eager", fullgraph=True)(X)
    torch.testing.assert_close(found, attached(X))


def _train(rank: int, port: int, out: str) -> None:
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    _, masks, attached = masked()
    network = nn.parallel.DistributedDataParallel(attached)
    optimiser = torch.optim.SGD(network.parameters(), 0.1)
    nn.functional.cross_entropy(network(X[rank::2]), Y[rank::2]).backward()
    optimiser.step()
    detach_masks_(attached)
    zeros = all(not bool(attached.get_parameter(name)[~mask].any()) for name, mask in masks.items())
    torch.save({"zeros": torch.tensor(zeros), **attached.state_dict()}, f"{out}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_masks_survive_distributed_training(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together(_train, 2, port, str(tmp_path))
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first["zeros"]
    assert all(torch.equal(first[name], second[name]) for name in first)
    _, _, attached = masked()
    nn.functional.cross_entropy(attached(X), Y).backward()
    torch.optim.SGD(attached.parameters(), 0.1).step()
    detach_masks_(attached)
    for name, tensor in attached.state_dict().items():
        torch.testing.assert_close(first[name], tensor)


def test_masks_survive_saving(tmp_path: Path) -> None:
    _, masks, _ = masked()
    path = masks.save(tmp_path / "masks.safetensors")
    back = WeightMasks.load(path)
    assert list(back) == list(masks)
    assert all(torch.equal(back[name], masks[name]) for name in masks)
    with pytest.raises(CheckpointError, match="overwrite"):
        masks.save(path)
    path.write_bytes(path.read_bytes()[:-1] + bytes([1 - path.read_bytes()[-1]]))
    with pytest.raises(CheckpointError, match="damaged: its tensors do not match their checksum"):
        WeightMasks.load(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="no weight masks"):
        WeightMasks.load(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="no file"):
        WeightMasks.load(tmp_path / "b.safetensors")


def test_masks_that_do_not_fit_are_refused_and_nothing_changes() -> None:
    model, masks, attached = masked()
    other = sizes_mlp(5, 8, 6, 4)
    with pytest.raises(InvalidSetting, match=r"'0.weight' \(7, 5\): the network has \(8, 5\)"):
        masks.attach_(other)
    assert list(other.state_dict()) == list(model.state_dict())
    with pytest.raises(ValueError, match="detach_masks_"):
        masks.attach_(attached)
    with pytest.raises(InvalidSetting, match="float32"):
        WeightMasks({"a": torch.ones(2)})


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 4), nn.Linear(4, 4)
        self.down.weight = self.up.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.up(x))


def test_tied_weights_are_one_mask_in_both_places() -> None:
    model = Tied()
    masks = mask_weights(model, 0.5).masks
    assert list(masks) == ["up.weight"]
    assert masks.density == 0.5
    attached = copy.deepcopy(model)
    masks.attach_(attached)
    assert int((attached.down.weight == 0).sum()) == 8
    assert torch.equal(attached.down.weight, attached.up.weight)
    detach_masks_(attached)
    assert attached.up.weight is attached.down.weight
    assert int((attached.up.weight == 0).sum()) == 8


@pytest.mark.parametrize("score", ["snip", "grasp", "obd", "synflow"])
def test_tied_weights_have_one_score(score) -> None:
    model, data = Tied().double(), pairs(6, 4)
    result = mask_weights(model, 0.5, score=score, batches=[data], example_inputs=data[0])
    assert result.masks.counts == {"up.weight": 8}


def test_shuffled_masks_keep_counts_and_differ() -> None:
    _, masks, _ = masked()
    shuffled = masks.shuffled(0)
    assert shuffled.counts == masks.counts
    assert not torch.equal(shuffled["0.weight"], masks["0.weight"])
    assert all(torch.equal(masks.shuffled(0)[name], shuffled[name]) for name in masks)


def test_patterns_apply_where_they_fit_and_are_reported_elsewhere() -> None:
    model = small_vgg()
    result = mask_weights(model, pattern="2:4")
    assert result.report.whole == ("0.weight",)  # three input channels
    assert result.report.kept["4.weight"] == (16 * 32 * 9 // 2, 16 * 32 * 9)
    zeros = (result.masks.applied(model).get_parameter("4.weight") == 0).reshape(32, 4, 4, 3, 3).sum(2)
    assert bool((zeros == 2).all())
    assert "left whole" in str(result.report)
