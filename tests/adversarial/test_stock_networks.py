"""Stock networks on which counting, verifying or loading once failed, at small sizes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from scionet.models.factory import build, import_torchvision
from scionet.network.checkpoints.checkpoint import load_pruned, save_pruned
from scionet.network.discovery.discover import discover
from scionet.pruning import prune

TIMM: dict[str, tuple[str, dict[str, Any], int]] = {
    "a view of a parameter handed to a submodule": ("cait_xxs24_224", {"depth": 1, "img_size": 32}, 32),
    "a position embedding handed to a submodule": ("pit_ti_224", {"img_size": 64, "depth": (1, 1, 1)}, 64),
    "a buffer that grows in forward": ("convit_tiny", {"depth": 2, "img_size": 32}, 32),
}


@pytest.mark.parametrize("case", TIMM)
def test_pruned_counted_saved_and_loaded(case: str, tmp_path: Path) -> None:
    name, kwargs, size = TIMM[case]
    torch.manual_seed(0)
    model, x = build(f"timm:{name}", **kwargs).eval(), torch.randn(2, 3, size, size)
    model(x)  # buffers grow
    result = prune(model, (), "macs<=70%", example_inputs=x, method="l1")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        result.model.requires_grad_(False)(x)
    assert 0.5 * counter.get_total_flops() <= 0.7 * result.report.dense.macs * len(x)
    path = save_pruned(tmp_path / "pruned.safetensors", result.model, result.plan, result.sites)
    loaded = load_pruned(path, build(f"timm:{name}", **kwargs)).eval().requires_grad_(False)
    assert torch.equal(loaded(x), result.model(x))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_ill_conditioned_halo_attention_network_is_cut_and_reported(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = build("timm:halonet_h1").eval().to(dtype)
    result = prune(model, (), "macs<=60%", example_inputs=torch.randn(1, 3, 256, 256, dtype=dtype), method="l1")
    assert not [each for each in result.report.refused if each.operation == "provisional cut"]


@pytest.mark.slow
def test_a_detector_on_a_stacked_tensor_meets_its_budget_where_the_count_is_fixed() -> None:
    models = import_torchvision().models
    torch.manual_seed(0)
    options = {"weights": None, "weights_backbone": None, "min_size": 128, "max_size": 128}
    model = models.get_model("fasterrcnn_mobilenet_v3_large_320_fpn", **options).eval()
    x = torch.rand(2, 3, 128, 128)
    try:
        model(x)
    except RuntimeError as error:
        pytest.skip(f"torchvision's compiled operators are missing ({error})")
    sites = discover(model, x)
    result = prune(model, (), "macs<=50%", example_inputs=x, method="l1")
    assert result.report.pruned.macs <= 0.5 * result.report.dense.macs
    assert ("depend on the data" in result.report.status) or not sites.uncounted
