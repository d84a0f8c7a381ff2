"""Small networks that learn, and data for them."""

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from scionet.training.execution import Execution
from scionet.training.fit import FitResult, fit
from scionet.training.recipes import Recipe

CLASSES = 5


def network(seed: int = 0) -> nn.Module:
    """Convolution, BatchNorm, dropout: weights, buffers and random numbers."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, CLASSES),
    )


def plain(seed: int = 0) -> nn.Module:
    """Without BatchNorm and dropout: the gradient of a batch is the mean of its parts' gradients."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(72, 16), nn.Tanh(), nn.Linear(16, CLASSES))


def tensors(count: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    patterns = torch.randn(CLASSES, 2, 6, 6, generator=torch.Generator().manual_seed(99))
    return patterns[labels] + torch.randn(count, 2, 6, 6, generator=generator), labels


def examples(count: int = 70, seed: int = 1) -> TensorDataset:
    return TensorDataset(*tensors(count, seed))


class Noisy(Dataset):
    """Every look at an example differs, by random numbers of torch."""

    def __init__(self, count: int) -> None:
        self.images, self.labels = tensors(count)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index] + 0.3 * torch.randn(2, 6, 6), int(self.labels[index])


QUICK = Recipe(epochs=3, batch_size=16, learning_rate=0.1)


def learnt(model: nn.Module, recipe: Recipe = QUICK, **options: object) -> FitResult:
    """The model after a training on the examples."""
    return fit(model, **{"data": examples(), "recipe": recipe, **options})  # type: ignore[arg-type]


__all__ = ["CLASSES", "QUICK", "Execution", "Noisy", "Recipe", "examples", "learnt", "network", "plain", "tensors"]
