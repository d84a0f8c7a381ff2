"""Contract tests for your own methods: `check_method` checks the rules that every method of scionet follows."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from scionet.budget.budget import Budget
from scionet.budget.costs import CostModel, measure
from scionet.errors import OtherWeights, VerificationError
from scionet.files.safetensors_files import hash_tensors
from scionet.methods.registry import GivenMethod
from scionet.network.calling import state_of
from scionet.network.discovery.discover import discover
from scionet.network.plan import Plan
from scionet.network.sites import Sites
from scionet.network.surgery.verification import verify
from scionet.pruning import PruneResult, prune
from scionet.torch_internals import forward_hook_count

BUDGETS = ("macs<=75%", "macs<=50%")
_TOLERANCE = 1e-10


def check_method(method: GivenMethod, **choices: Any) -> None:
    """Check that a method follows the contract, on small networks: a residual one, a branched one and a perceptron.

    A method must not change the network, and must meet the budget. The same seed must give the same plan, also for the
    same examples in other batches. The plan must survive a round trip through JSON. The cut network must equal the
    masked one.

    Args:
        method: Any value for ``prune(..., method=...)``: a function, a `Ranker`, a `Method`, a name or a choice.
        **choices: Further arguments of `prune`, such as ``widths`` and ``repair``.

    Raises:
        AssertionError: If the method breaks a rule; the text says which, on which network and at which budget.
        PruneError: If the method refuses one of the networks.
    """
    for name, make, shape in _NETWORKS:
        model, (images, labels) = _settled(make), _examples(shape)
        sites = discover(model, images[:2])
        for budget in BUDGETS:
            where = f"on the {name} network at {budget}"
            _check(method, choices, model, sites, images, labels, budget, where)


def _check(
    method: GivenMethod,
    choices: dict[str, Any],
    model: nn.Module,
    sites: Sites,
    images: Tensor,
    labels: Tensor,
    budget: str,
    where: str,
) -> None:
    """All rules for one network and budget."""

    def pruned(batch_size: int, seed: int = 0) -> PruneResult:
        pairs = list(zip(images.split(batch_size), labels.split(batch_size), strict=True))
        return prune(
            model, pairs, budget, example_inputs=images[:2], method=method, seed=seed, progress=False, **choices
        )

    before = _traces(model)
    untouched = f"the network, its modes or the random state changed {where}"
    try:
        result = pruned(16)
    except OtherWeights as error:  # no plan fits a network that the method has changed
        raise AssertionError(untouched) from error
    _require(_traces(model) == before, untouched)
    costs = CostModel(sites)
    cost = measure(result.model, images[:2])
    _require(Budget.of(budget).met(cost, costs.dense), f"the budget is exceeded {where}: {cost}")
    _require(cost.macs == costs.cost(result.plan.widths).macs, f"the plan's widths are not those of the cut {where}")
    _require(pruned(16).plan.identity == result.plan.identity, f"the same seed gives another plan {where}")
    _require(pruned(5).plan.identity == result.plan.identity, f"other batches of the same examples matter {where}")
    back = Plan.from_json(result.plan.to_json(), result.plan.tensors)
    _require(back.identity == result.plan.identity, f"the plan does not survive JSON {where}")
    try:
        verify(model, result.plan, sites, result.model, images[2:7], _TOLERANCE)
    except VerificationError as error:
        raise AssertionError(f"masked and cut network differ {where}: {error}") from error


def _require(holds: bool, text: str) -> None:
    if not holds:
        raise AssertionError(text)


def _traces(model: nn.Module) -> tuple[Any, ...]:
    """What a method might leave behind."""
    modes = [module.training for module in model.modules()]
    grads = [(parameter.requires_grad, parameter.grad is None) for parameter in model.parameters()]
    hooks = [forward_hook_count(module) for module in model.modules()]
    return hash_tensors(state_of(model)), modes, grads, hooks, torch.get_rng_state().tolist(), torch.is_grad_enabled()


class _Residual(nn.Module):
    """A stem and a block of two convolutions that is added to its output."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 10, 3, padding=1, bias=False), nn.BatchNorm2d(10)
        self.conv1, self.norm1 = nn.Conv2d(10, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.conv2, self.norm2 = nn.Conv2d(12, 10, 3, padding=1, bias=False), nn.BatchNorm2d(10)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores."""
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x))))) + x)
        return self.head(x.mean((2, 3)))


class _Branched(nn.Module):
    """A depthwise convolution beside a plain one, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 14, 1)
        self.depthwise, self.side = nn.Conv2d(14, 14, 3, padding=1, groups=14), nn.Conv2d(8, 9, 3, padding=1)
        self.join, self.head = nn.Conv2d(23, 12, 1), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores."""
        x = torch.relu(self.stem(x))
        x = torch.cat([torch.relu(self.depthwise(torch.relu(self.wide(x)))), torch.relu(self.side(x))], 1)
        return self.head(torch.relu(self.join(x)).mean((2, 3)))


def _perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 4))


_NETWORKS: tuple[tuple[str, Callable[[], nn.Module], tuple[int, ...]], ...] = (
    ("residual", _Residual, (2, 5, 5)),
    ("branched", _Branched, (2, 4, 4)),
    ("perceptron", _perceptron, (6,)),
)


def _settled(make: Callable[[], nn.Module]) -> nn.Module:
    """A network in float64 with BatchNorm statistics as after a training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.uniform_(module.bias, 0.5, 1)
                module.running_mean = torch.randn(module.num_features) / 3
                module.running_var = torch.rand(module.num_features) + 0.5
    return model.double().eval()


def _examples(shape: tuple[int, ...], count: int = 48) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, *shape, generator=generator, dtype=torch.float64)
    return images, torch.randint(0, 4, (count,), generator=generator)
