"""The operations of a masked network: counted one weight at a time, and where there is nothing to skip."""

import pytest
import torch
from support.mask_networks import sizes_mlp
from torch import Tensor, nn

from scionet.budget.costs import measure
from scionet.errors import CalibrationError
from scionet.masks.masked_costs import masked_macs
from scionet.masks.masking import mask_weights
from scionet.masks.weights import maskable
from scionet.models.mobilenets import mobilenet_v1
from scionet.models.resnets import digits_cnn


def counted_slowly(model: nn.Module, masks: dict[str, Tensor], images: Tensor) -> float:
    """Each kept weight is multiplied once for each pixel of its layer's output."""
    total = 0

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        name = next(name for name, own in model.named_modules() if own is module)
        pixels = output[0, 0].numel() if output.ndim == 4 else 1
        for kept in masks[f"{name}.weight"].flatten().tolist():
            total += pixels if kept else 0

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    model.eval()(images)
    for hook in hooks:
        hook.remove()
    return total


@pytest.mark.parametrize("batch", [1, 3])
def test_every_kept_weight_counts_once_for_every_pixel(batch: int) -> None:
    model, images = digits_cnn(), torch.zeros(batch, 1, 8, 8)
    masks = dict(mask_weights(model, 0.13, score="random", seed=4).masks)
    assert masked_macs(model, masks, images) == pytest.approx(counted_slowly(model, masks, images), rel=1e-12)


def test_grouped_convolutions_and_linear_maps_count_too() -> None:
    model, images = mobilenet_v1(), torch.zeros(1, 3, 16, 16)
    masks = dict(mask_weights(model, 0.01, score="random").masks)
    assert masked_macs(model, masks, images) == pytest.approx(counted_slowly(model, masks, images), rel=1e-12)
    mlp = sizes_mlp(5, 7, 3)
    kept = dict(mask_weights(mlp, 0.5).masks)
    assert masked_macs(mlp, kept, torch.zeros(2, 5, dtype=torch.float64)) == sum(int(m.sum()) for m in kept.values())


def test_nothing_is_skipped_without_masks_and_everything_with_empty_ones() -> None:
    model, images = digits_cnn(), torch.zeros(2, 1, 8, 8)
    whole = {name: torch.ones_like(w, dtype=torch.bool) for name, w in maskable(model).items()}
    assert masked_macs(model, {}, images) == masked_macs(model, whole, images) == measure(model, images).macs
    assert masked_macs(model, {name: ~mask for name, mask in whole.items()}, images) == 0
    assert 0 < masked_macs(model, {"conv1.weight": ~whole["conv1.weight"]}, images) < measure(model, images).macs


def test_no_examples_are_refused() -> None:
    with pytest.raises(CalibrationError, match="batch size 0"):
        masked_macs(digits_cnn(), {}, torch.zeros(0, 1, 8, 8))
