"""Small networks to prune, in double precision, with BatchNorm statistics as after a training."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from scionet.budget.budget import Budget
from scionet.budget.costs import CostModel
from scionet.network.sites import Sites


class Block(nn.Module):
    """Two convolutions with BatchNorm, added to what goes in."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x))))) + x)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 10, 3, padding=1, bias=False), nn.BatchNorm2d(10)
        self.block1, self.block2 = Block(10, 12), Block(10, 12)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block2(self.block1(functional.relu(self.norm(self.stem(x)))))
        return self.head(x.mean((2, 3)))


class Branched(nn.Module):
    """Depthwise convolution, squeeze and excitation, and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.expand, self.expand_norm = nn.Conv2d(8, 14, 1, bias=False), nn.BatchNorm2d(14)
        self.depthwise, self.depthwise_norm = nn.Conv2d(14, 14, 3, padding=1, groups=14), nn.BatchNorm2d(14)
        self.squeeze, self.excite = nn.Conv2d(14, 4, 1), nn.Conv2d(4, 14, 1)
        self.side = nn.Conv2d(8, 9, 3, padding=1)
        self.join, self.join_norm = nn.Conv2d(23, 12, 1), nn.BatchNorm2d(12)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem_norm(self.stem(x)))
        y = functional.relu6(self.depthwise_norm(self.depthwise(functional.relu6(self.expand_norm(self.expand(x))))))
        y = y * torch.sigmoid(self.excite(functional.silu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        z = torch.cat([y, functional.relu(self.side(x))], 1)
        return self.head(functional.relu(self.join_norm(self.join(z))).mean((2, 3)))


class Tokens(nn.Module):
    """Two MLP blocks of a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 6)
        self.up1, self.down1 = nn.Linear(6, 28), nn.Linear(28, 6)
        self.up2, self.down2 = nn.Linear(6, 28), nn.Linear(28, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        x = x + self.down1(functional.gelu(self.up1(functional.layer_norm(x, (6,)))))
        x = x + self.down2(functional.gelu(self.up2(functional.layer_norm(x, (6,)))))
        return self.head(x.mean(1))


class Heads(nn.Module):
    """Two layers of a transformer, with four heads each."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(5, 8), nn.Linear(8, 4)
        self.layers = nn.Sequential(*(nn.TransformerEncoderLayer(8, 4, width, batch_first=True) for width in (40, 28)))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layers(self.embed(tokens)).mean(1))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 4))


def flattened() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 12, 3), nn.ReLU(), nn.Conv2d(12, 14, 2, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(56, 4)
    )


@dataclass(frozen=True)
class Subject:
    """A network to prune: what makes it, and the shape of one example."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]

    def network(self, seed: int = 0) -> nn.Module:
        """The network in eval mode, in float64; the same for the same seed."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = self.make()
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    settled(module)
        return model.double().eval()

    def example(self) -> Tensor:
        return self.batches(1, 2, seed=99)[0]

    def batches(self, count: int = 2, size: int = 24, seed: int = 1) -> list[Tensor]:
        """The same inputs for the same seed."""
        rng = torch.Generator().manual_seed(seed)
        return [torch.randn(size, *self.shape, generator=rng, dtype=torch.float64) for _ in range(count)]

    def pairs(self, count: int = 2, size: int = 24, seed: int = 1) -> list[tuple[Tensor, Tensor]]:
        """Inputs with labels of 0..3."""
        rng = torch.Generator().manual_seed(seed)
        return [(x, torch.randint(0, 4, (size,), generator=rng)) for x in self.batches(count, size, seed)]


def settled(norm: nn.BatchNorm2d) -> None:
    """Random statistics and affine parameters; channels that a ReLU would silence for good are rare."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.normal_(0, 0.3)
    norm.running_var.uniform_(0.5, 2)
    nn.init.uniform_(norm.weight, 0.5, 2)
    nn.init.uniform_(norm.bias, 1, 2)


def budget_for(sites: Sites, density: float) -> Budget:
    """A budget that is reached exactly where every site keeps this fraction of its units, rounded up."""
    cost = CostModel(sites).cost({name: math.ceil(density * site.width) for name, site in sites.items()})
    return Budget(f"macs<={cost.macs!r}")


SUBJECTS = {
    "residual": Subject(Residual, (2, 5, 5)),
    "branched": Subject(Branched, (2, 4, 4)),
    "mlp": Subject(mlp, (6,)),
    "flattened": Subject(flattened, (2, 6, 6)),
    "tokens": Subject(Tokens, (3, 5)),
    "heads": Subject(Heads, (3, 5)),
}
