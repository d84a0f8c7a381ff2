"""Small networks, whose widths meet few budgets closely, through `prune` from end to end."""

import pytest
import torch
from torch import Tensor, nn

from scionet import Forward, Refit, prune
from scionet.choices.widths import WidthsName
from scionet.errors import UnreachableBudget
from scionet.pruning import PruneResult


class Residual(nn.Module):
    """Two convolutions of 16 channels, of which the second is added to the first: one site."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.head = (
            nn.Conv2d(1, 16, 3, padding=1),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.Linear(16, 100),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return self.head(torch.relu(x + self.conv(x)).mean((2, 3)))


def kept(result: PruneResult) -> float:
    """The fraction of MACs that is left."""
    return result.report.pruned.macs / result.report.dense.macs


@pytest.mark.parametrize("options", [{}, {"method": "l1"}])
def test_two_convolutions_of_sixteen_channels_meet_half_of_the_macs(options: dict[str, str]) -> None:
    torch.manual_seed(0)
    model, images = Residual().eval(), torch.randn(32, 1, 6, 6)
    half, less = (
        prune(model, [images], budget, example_inputs=images[:2], **options) for budget in ("macs<=50%", "macs<=49%")
    )
    assert half.plan.widths == less.plan.widths
    assert round(kept(half), 4) == 0.4889
    assert (
        "the budget macs<=50% is met with macs 48.89%: one step more at any site would exceed it" in half.report.status
    )
    assert "is met with" not in less.report.status


@pytest.mark.parametrize("options", [{}, {"method": "l1"}, {"method": Forward("average"), "repair": []}])
def test_a_perceptron_of_ten_units_meets_every_budget_from_one_unit_on(options: dict[str, object]) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(16, 10), nn.ReLU(), nn.Linear(10, 3)).eval(), torch.randn(512, 16)
    for percent in range(12, 100, 5):
        result = prune(model, [x], f"macs<={percent}%", example_inputs=x[:2], **options)
        assert kept(result) == percent // 10 / 10
        assert f"is met with macs {percent // 10}0.00%: one step more" in result.report.status
    with pytest.raises(UnreachableBudget, match=r"macs 10\.00%"):
        prune(model, [x], "macs<=9%", example_inputs=x[:2], **options)


def duplicated() -> nn.Sequential:
    """Convolutions with ReLUs; the second half of each one's channels repeats the first."""
    torch.manual_seed(0)
    convs = [nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 24, 3, padding=1), nn.Conv2d(24, 16, 3, padding=1)]
    for conv in convs:
        half = conv.out_channels // 2
        conv.weight.data[half:], conv.bias.data[half:] = conv.weight.data[:half], conv.bias.data[:half]  # type: ignore[union-attr]
    layers = [layer for conv in convs for layer in (conv, nn.ReLU())]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)).eval()


@pytest.mark.parametrize("widths", ["error_curves", "sensitivity"])
@pytest.mark.parametrize("percent", [26.5, 28, 40, 60])
def test_the_network_without_duplicates_is_found_under_any_budget_that_it_meets(
    widths: WidthsName, percent: float
) -> None:
    model, images = duplicated(), torch.randn(64, 3, 8, 8)
    result = prune(
        model,
        [images],
        f"macs<={percent}%",
        example_inputs=images[:2],
        widths=widths,
        repair=[Refit(shrinkage=0.0)],
    )
    assert result.plan.widths == {"0": 8, "2": 12, "4": 8}
    with torch.no_grad():
        torch.testing.assert_close(result.model(images), model(images), rtol=1e-4, atol=1e-5)
    said = "is met with macs 26.48%: more units would not lower the predicted error" in result.report.status
    assert said == (percent > 27.5)
