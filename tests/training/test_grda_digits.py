"""Group gRDA on handwritten digits: how many units stay, and that no barrier lies between it and SGD's solution."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scionet.network.calling import replaced, state_of
from scionet.training.group_grda import GroupGRDA
from scionet.training.groups import Member, ParameterGroups

STEPS, RATE, HIDDEN = 12_000, 0.1, 64


def halves() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images / 16, labels, test_size=0.5, random_state=0, stratify=labels)
    train_x, test_x, train_y, test_y = (torch.from_numpy(np.asarray(part)) for part in parts)
    return train_x.float(), train_y, test_x.float(), test_y


def perceptron(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10))


def units() -> ParameterGroups:
    every = torch.arange(HIDDEN)
    places = (("0.weight", 0), ("0.bias", 0), ("2.weight", 1))
    return ParameterGroups(HIDDEN, tuple(Member(name, dim, every, every[:, None]) for name, dim in places))


def trained(seed: int, c: float, mu: float) -> tuple[nn.Module, float]:
    """The network, and the threshold that it reached."""
    images, labels, _, _ = halves()
    model, generator = perceptron(seed), torch.Generator().manual_seed(seed)
    optimizer = GroupGRDA(model.named_parameters(), units(), RATE, c, mu)
    for _ in range(STEPS):
        chosen = torch.randint(len(labels), (64,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
        optimizer.step()
    return model, optimizer.state[next(model.parameters())]["threshold"]


@torch.no_grad()
def measured(model: nn.Module) -> tuple[float, float]:
    """Training loss and test accuracy."""
    images, labels, test_images, test_labels = halves()
    loss = nn.functional.cross_entropy(model(images), labels)
    return float(loss), float((model(test_images).argmax(1) == test_labels).double().mean())


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_units_die_without_loss_of_accuracy_and_without_a_barrier(seed: int) -> None:
    plain, _ = trained(seed, 0.0, 0.5)
    accuracy = measured(plain)[1]
    for c, mu, threshold, alive in ((0.1, 0.55, 1.5615, (40, 42)), (0.05, 0.7, 2.2615, (32, 37))):
        model, reached = trained(seed, c, mu)
        assert reached == pytest.approx(threshold, abs=1e-4)
        assert abs(int((units().squared_norms(state_of(model)) > 0).sum()) - alive[seed]) <= 6
        loss, found = measured(model)
        assert abs(found - accuracy) < 0.01
        between = []
        for share in torch.linspace(0, 1, 11):
            with replaced(
                plain,
                {n: torch.lerp(t.detach(), state_of(model)[n].detach(), share) for n, t in state_of(plain).items()},
            ):
                between.append(measured(plain)[0])
        assert max(between) == pytest.approx(loss)
