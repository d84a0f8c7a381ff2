"""Rewinding: without masks nothing changes; with them, what is removed is and stays zero."""

import pytest
import torch
from support.pupils import QUICK, examples, network, tensors
from torch import nn

from scionet.errors import TrainingError
from scionet.sparse_training.rewind import HeldAtZero, rewound
from scionet.training.context import TrainingContext
from scionet.training.fit import FitResult, fit


def trained(until: int | None = None, start: object = None, **more: object) -> tuple[nn.Module, FitResult]:
    model = network()
    return model, fit(model, examples(), QUICK, until=until, start=start, **more)  # type: ignore[arg-type]


def masks_of(model: nn.Module, density: float = 0.4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {n: torch.rand(p.shape, generator=generator) < density for n, p in model.named_parameters() if p.ndim > 1}


@pytest.mark.parametrize("epoch", [1, 2])
def test_without_masks_a_rewound_training_ends_as_the_first_one(epoch: int) -> None:
    whole, _ = trained()
    _, early = trained(until=epoch)
    again, _ = trained(start=rewound(early.state, {}))
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))


@pytest.mark.parametrize("rate_only", [False, True])
def test_what_is_removed_stays_zero_and_what_stays_learns(rate_only: bool) -> None:
    whole, final = trained()
    _, early = trained(until=1)
    masks = masks_of(whole)
    start = rewound(early.state, masks, final.state if rate_only else None)
    source = (final if rate_only else early).state.network
    for name, mask in masks.items():
        assert torch.equal(start.network[name], source[name] * mask)
    model, result = trained(start=start, callbacks=(HeldAtZero(masks),))
    assert result.history[-1].step == final.history[-1].step
    for name, mask in masks.items():
        weight = model.get_parameter(name)
        assert not weight[~mask].any()
        assert not torch.equal(weight[mask], start.network[name][mask])


def test_the_memory_of_what_is_removed_is_forgotten() -> None:
    whole, final = trained()
    _, early = trained(until=1)
    masks = masks_of(whole)
    kept = rewound(early.state, masks).memory
    for name, mask in masks.items():
        assert all(not value[~mask].any() for value in kept[name].values() if value.shape == mask.shape)
    assert rewound(early.state, masks, final.state).memory == {}


def test_weights_are_held_at_zero_in_a_loop_of_ones_own() -> None:
    model = network()
    masks = masks_of(model)
    held, optimizer = HeldAtZero(masks), torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    context = TrainingContext(model, optimizer)
    held.on_start(context)
    images, labels = tensors(40)
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        held.after_step(context)
    for name, mask in masks.items():
        weight = model.get_parameter(name)
        assert not weight[~mask].any()
        assert weight[mask].all()


def test_a_rewound_training_starts_with_new_callbacks() -> None:
    masks = masks_of(network())
    _, early = trained(until=1, callbacks=(HeldAtZero(masks),))
    trained(start=rewound(early.state, {}))
    assert early.state.callbacks
    assert rewound(early.state, masks).callbacks is None


def test_masks_of_another_network_are_refused() -> None:
    _, early = trained(until=1)
    with pytest.raises(TrainingError, match="1 masks fit no parameter, such as 'other'"):
        rewound(early.state, {"other": torch.ones(2, dtype=torch.bool)})
    with pytest.raises(TrainingError, match="fit no parameter"):
        trained(callbacks=(HeldAtZero({"0.weight": torch.ones(2, dtype=torch.bool)}),))
