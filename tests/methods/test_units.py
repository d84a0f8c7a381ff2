"""Units as groups of weights: their entries, and their importance against a slow count."""

import pytest
import torch
from support.small_networks import chain, image, residual
from torch import nn

from scionet import discover
from scionet.errors import InvalidSetting
from scionet.methods.units import Units


def units_of(model: nn.Module) -> Units:
    return Units.of(model, discover(model, image()))


def entries(units: Units) -> set[tuple[str, int, str, bool]]:
    members = (*units.produced.members, *units.columns.members)
    return {(member.parameter, member.dim, member.role, member.seen) for member in members}


def test_a_chain() -> None:
    units = units_of(chain())
    assert (units.sites, units.widths, dict(units.norms)) == (("a", "b"), (4, 6), {"a.weight": "norm"})
    assert entries(units) == {
        ("a.weight", 0, "weight", False),
        ("norm.weight", 0, "scale", True),
        ("norm.bias", 0, "shift", True),
        ("b.weight", 1, "column", True),
        ("b.weight", 0, "weight", True),
        ("b.bias", 0, "bias", True),
        ("head.weight", 1, "column", True),
    }
    assert units.without("scale") == ("b",)


def test_units_of_a_residual_stream_have_several_producers_and_one_number() -> None:
    units = units_of(residual())
    stream = [
        member for member in units.produced.members if member.parameter in ("stem.weight", "b1.weight", "b2.weight")
    ]
    assert len(stream) == 3
    assert len({tuple(member.groups.tolist()) for member in stream}) == 1


def test_importance_folds_the_batch_norm_and_sums_producers() -> None:
    torch.manual_seed(0)
    model = chain()
    nn.init.uniform_(model.norm.weight, -2, 2)
    nn.init.uniform_(model.norm.running_var, 0.1, 3)
    scale = model.norm.weight.abs() / (model.norm.running_var + model.norm.eps).sqrt()
    wanted = [*(model.a.weight.abs().sum((1, 2, 3)) * scale), *model.b.weight.abs().sum((1, 2, 3))]
    assert units_of(model).importance(model).tolist() == pytest.approx([value.item() for value in wanted], rel=1e-5)
    model = residual()
    units = units_of(model)
    found = units.by_site(units.importance(model))["stem"]
    wanted = sum(layer.weight.detach().abs().sum((1, 2, 3)) for layer in (model.stem, model.b1, model.b2))
    assert torch.allclose(found, wanted)


def test_the_lowest_of_each_site_are_found_and_the_first_of_equal_ones_goes() -> None:
    units = units_of(chain())
    values = torch.tensor([3.0, 1, 1, 2, 5, 5, 5, 5, 5, 4])
    assert units.lowest(values, (2, 2)).nonzero().flatten().tolist() == [1, 2, 4, 9]
    assert not units.lowest(values, (0, 0)).any()
    assert torch.equal(units.flat(units.table(values, -1)), values)


def test_columns_of_a_weight_that_also_computes_its_unit_are_refused_as_members() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))

    class Looped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = model, head

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.body[0](x)
            return self.head(x + self.body[2](torch.relu(x)))

    units = units_of(Looped())
    assert units.members("producers").count == units.count
    with pytest.raises(InvalidSetting, match="twice"):
        units.members("all")
