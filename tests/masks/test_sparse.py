"""Sparse states load back bit for bit; 2:4 weights are refused without a kernel."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.mask_networks import small_vgg
from torch import nn

from scionet import mask_weights
from scionet.errors import CheckpointError, InvalidSetting, UnsupportedModel
from scionet.files.safetensors_files import hash_tensors
from scionet.masks.sparse import load_sparse_, semi_structured, sparse_state
from scionet.masks.sparse_files import SPARSE, SparseHeader, read_sparse, save_sparse
from scionet.network.calling import state_of

LAYOUTS = {"coo": torch.sparse_coo, "csr": torch.sparse_csr}


class Tied(nn.Module):
    """A network with a tied weight, and a weight that is exactly 0."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(6, 6), nn.Linear(6, 6), nn.BatchNorm1d(6)
        self.second.weight = self.first.weight
        with torch.no_grad():
            self.first.weight[2, 3] = 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("make", [small_vgg, Tied])
def test_a_state_loads_back_bit_for_bit_from_memory_and_from_a_file(make, layout, dtype, tmp_path) -> None:
    model = make().to(dtype)
    masks = mask_weights(model, 0.2, score="random").masks
    if make is Tied:
        masks["first.weight"][2, 3] = True
    state, before = sparse_state(model, masks, layout), hash_tensors(state_of(model))
    for name, mask in masks.items():
        assert state[name].layout == LAYOUTS[layout]
        assert state[name].values().numel() == int(mask.sum())
    assert make is not Tied or state["second.weight"].layout == LAYOUTS[layout]
    assert state["norm.running_var" if make is Tied else "1.running_var"].layout == torch.strided
    assert hash_tensors(state_of(model)) == before
    expected = hash_tensors(state_of(masks.applied(model)))
    path = save_sparse(tmp_path / "state.safetensors", state)
    for given in (state, read_sparse(path)):
        other = make().to(dtype)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.fill_(7)
        found = load_sparse_(other, given)
        assert hash_tensors(state_of(other)) == expected
        assert all(torch.equal(found[name], mask) for name, mask in masks.items())


def test_a_sparse_file_is_smaller_at_low_density(tmp_path) -> None:
    model = small_vgg()
    masks = mask_weights(model, 0.05, min_per_layer=1, on_collapse="allow").masks
    sizes = {
        name: save_sparse(tmp_path / f"{name}.safetensors", sparse_state(model, masks, name)).stat().st_size
        for name in LAYOUTS
    }
    save_file(state_of(model), tmp_path / "dense.safetensors")
    dense = (tmp_path / "dense.safetensors").stat().st_size
    assert sizes["csr"] < sizes["coo"] < 0.4 * dense


def test_a_state_of_another_network_is_refused_and_nothing_changes() -> None:
    model = small_vgg()
    state = sparse_state(model, mask_weights(model, 0.5).masks)
    other = nn.Sequential(*list(small_vgg())[:-1], nn.Linear(64, 3))
    before = hash_tensors(state_of(other))
    turned = nn.Sequential(nn.Conv2d(3, 4, (1, 2)), nn.Conv2d(4, 3, 1))
    turned_state = sparse_state(turned, mask_weights(turned, 0.5).masks)
    with pytest.raises(InvalidSetting, match=r"1 tensors differ, such as '0\.weight'"):
        load_sparse_(nn.Sequential(nn.Conv2d(3, 4, (2, 1)), nn.Conv2d(4, 3, 1)), turned_state)
    with pytest.raises(InvalidSetting, match=r"2 tensors differ, such as '21\.bias'"):
        load_sparse_(other, state)
    assert hash_tensors(state_of(other)) == before
    with pytest.raises(InvalidSetting, match="masks do not fit"):
        sparse_state(other, mask_weights(model, 0.5).masks)
    with pytest.raises(InvalidSetting, match="'coo' or 'csr'"):
        sparse_state(model, mask_weights(model, 0.5).masks, "bsr")  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_damaged_files_are_refused(layout, tmp_path: Path) -> None:
    model = Tied()
    state = sparse_state(model, mask_weights(model, 0.5).masks, layout)
    path = save_sparse(tmp_path / "state.safetensors", state)
    with pytest.raises(CheckpointError, match="exists"):
        save_sparse(path, state)
    from safetensors import safe_open

    with safe_open(str(path), "pt") as file:
        header = file.metadata()
    parts = load_file(path)
    index = "first.weight/" + ("indices" if layout == "coo" else "col")
    for wrong in (parts | {index: parts[index] + 5}, {k: v for k, v in parts.items() if k != "first.weight/values"}):
        save_file(wrong, path, header)
        with pytest.raises(CheckpointError, match="damaged: its tensors do not match"):
            read_sparse(path)
        SPARSE.save(path, wrong, SparseHeader({"first.weight": tuple(model.first.weight.shape)}), overwrite=True)
        with pytest.raises(CheckpointError, match="damaged: its sparse tensors do not fit"):
            read_sparse(path)
    save_file(parts, path)
    with pytest.raises(CheckpointError, match="contains no sparse state"):
        read_sparse(path)
    save_file(
        parts, path, {"scionet_sparse": header["scionet_sparse"].replace('"format_version":3', '"format_version":2')}
    )
    with pytest.raises(CheckpointError, match=r"format version 2; this scionet reads 3\. Make the sparse state again"):
        read_sparse(path)


def test_semi_structured_is_refused_without_kernel_or_suitable_mask(monkeypatch) -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 1), nn.Flatten(), nn.Linear(8, 4), nn.Linear(4, 3)).eval()
    masks = mask_weights(model, pattern="2:4").masks
    with pytest.raises(UnsupportedModel, match=r"'2\.weight' has no 2:4 kernel here: .*NVIDIA GPU.*sparse_state"):
        semi_structured(model, masks)
    with pytest.raises(UnsupportedModel, match="no linear map is masked 2:4"):
        semi_structured(model, mask_weights(model, 0.4).masks)
    seen = []
    monkeypatch.setattr(torch.sparse, "to_sparse_semi_structured", lambda weight: (seen.append(weight), weight)[1])
    before, x = copy.deepcopy(model), torch.randn(2, 4, 1, 1)
    assert torch.equal(semi_structured(model, masks)(x), masks.applied(model)(x))
    assert [tuple(weight.shape) for weight in seen] == [(4, 8), (3, 4)]
    assert hash_tensors(state_of(model)) == hash_tensors(state_of(before))
