"""Groups of weights: every operation against a loop over groups and entries."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from scionet.errors import InvalidSetting
from scionet.training.callback_state import described
from scionet.training.groups import Member, ParameterGroups

SHAPES = {"conv": (6, 2, 3), "square": (5, 5), "vector": (7,)}

Places = dict[int, set[tuple[str, tuple[int, ...]]]]


def member(parameter: str, dim: int, entries: dict[int, list[int]], **more: object) -> Member:
    groups, index = list(entries), list(entries.values())
    return Member(parameter, dim, torch.tensor(groups), torch.tensor(index), **more)  # type: ignore[arg-type]


@st.composite
def made_up_groups(draw: st.DrawFn) -> ParameterGroups:
    """Groups over some dimensions of three parameters; along two dimensions of one, groups differ."""
    count = draw(st.integers(2, 6))
    places = draw(st.sets(st.sampled_from([("conv", 0), ("conv", 2), ("vector", 0), ("square", 1)]), min_size=1))
    members = []
    for name, dim in sorted(places):
        allowed = [g for g in range(count) if ("conv", 0) not in places or (name, dim) != ("conv", 2) or g % 2]
        if ("conv", 2) in places and (name, dim) == ("conv", 0):
            allowed = [g for g in allowed if not g % 2]
        entries = draw(st.permutations(range(SHAPES[name][dim])))
        per_group = draw(st.integers(1, 2))
        groups = draw(st.permutations(allowed))[: len(entries) // per_group]
        role = draw(st.sampled_from(["weight", "scale"]))
        blocks = {g: list(entries[i * per_group : (i + 1) * per_group]) for i, g in enumerate(groups)}
        members.append(member(name, dim, blocks, role=role, seen=draw(st.booleans())))
    return ParameterGroups(count, tuple(members))


def tensors(seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator, dtype=dtype) for name, shape in SHAPES.items()}


def places_of(groups: ParameterGroups) -> list[list[tuple[str, tuple[int, ...]]]]:
    """The positions of all entries of each group, found one by one; those of two groups occur in both."""
    found: list[list[tuple[str, tuple[int, ...]]]] = [[] for _ in range(groups.count)]
    for each in groups.members:
        for group, indices in zip(each.groups.tolist(), each.index.tolist(), strict=True):
            for place in product(*map(range, SHAPES[each.parameter])):
                if place[each.dim] in indices:
                    found[group].append((each.parameter, place))
    return found


@settings(deadline=None)
@given(made_up_groups())
def test_sums_are_those_of_loops(groups: ParameterGroups) -> None:
    values, places = tensors(), places_of(groups)
    expected = [[float(values[name][place]) for name, place in group] for group in places]
    norms, sums, sizes = groups.squared_norms(values), groups.absolute_sums(values), groups.sizes(values)
    assert norms.tolist() == pytest.approx([sum(x * x for x in group) for group in expected])
    assert sums.tolist() == pytest.approx([sum(map(abs, group)) for group in expected])
    assert sizes.tolist() == [len(group) for group in places]
    assert sizes.dtype == torch.int64


@settings(deadline=None)
@given(made_up_groups(), st.integers(0, 9))
def test_changes_are_those_of_loops(groups: ParameterGroups, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    factors = torch.randn(groups.count, generator=generator, dtype=torch.float64)
    dead = torch.rand(groups.count, generator=generator) < 0.5
    scaled, zeroed, expected_scaled, expected_zeroed = (tensors() for _ in range(4))
    learning = {name: nn.Parameter(value) for name, value in tensors().items()}
    gradients = tensors(1)
    for name, parameter in learning.items():
        parameter.grad = tensors(1)[name]
    for number, group in enumerate(places_of(groups)):
        for name, place in group:
            expected_scaled[name][place] *= factors[number]
            gradients[name][place] += factors[number] * learning[name].detach()[place]
            if dead[number]:
                expected_zeroed[name][place] = 0
    groups.scale_(scaled, factors)
    groups.zero_(zeroed, dead)
    groups.add_gradient_(learning, factors)
    for name in SHAPES:
        torch.testing.assert_close(scaled[name], expected_scaled[name])
        torch.testing.assert_close(learning[name].grad, gradients[name])
        assert torch.equal(zeroed[name], expected_zeroed[name])


@settings(deadline=None)
@given(made_up_groups(), st.randoms(use_true_random=False))
def test_other_numbers_of_the_same_groups_change_nothing_else(groups: ParameterGroups, random: object) -> None:
    order = list(range(groups.count))
    random.shuffle(order)  # type: ignore[attr-defined]
    renamed = torch.tensor(order)
    members = tuple(Member(m.parameter, m.dim, renamed[m.groups], m.index) for m in groups.members)
    values = tensors()
    torch.testing.assert_close(
        ParameterGroups(groups.count, members).squared_norms(values)[renamed], groups.squared_norms(values)
    )


def test_added_gradients_are_those_of_the_penalty() -> None:
    groups = ParameterGroups(2, (member("conv", 0, {0: [1, 4], 1: [2, 3]}), member("vector", 0, {1: [0], 0: [6]})))
    coefficients = torch.tensor([0.5, -2.0], dtype=torch.float64)
    by_torch, by_us = ({name: nn.Parameter(value) for name, value in tensors().items()} for _ in range(2))
    (coefficients * groups.squared_norms(by_torch) / 2).sum().backward()
    groups.add_gradient_(by_us, coefficients)
    for name in ("conv", "vector"):
        torch.testing.assert_close(by_us[name].grad, by_torch[name].grad)
    assert by_us["square"].grad is None
    frozen = {name: nn.Parameter(value, requires_grad=False) for name, value in tensors().items()}
    groups.add_gradient_(frozen, coefficients)
    assert all(parameter.grad is None for parameter in frozen.values())


def test_members_are_chosen_by_role_and_by_what_the_function_sees() -> None:
    filters, scales = (
        member("conv", 0, {0: [0], 1: [1]}, seen=False),
        member("vector", 0, {0: [2], 1: [5]}, role="scale"),
    )
    groups, values = ParameterGroups(2, (filters, scales)), tensors()
    for part in (groups.seen, groups.of("scale")):
        torch.testing.assert_close(part.squared_norms(values), values["vector"][[2, 5]].square())
    assert groups.of("weight", "scale").sizes(values).tolist() == [7, 7]
    assert repr(groups) == "ParameterGroups(2 groups in 2 parameters)"
    with pytest.raises(InvalidSetting, match=r"no member .* has the role bias; their roles are scale, weight"):
        groups.of("bias")
    with pytest.raises(InvalidSetting, match=r"no member .* a size that the network's function depends on"):
        _ = groups.of("weight").seen


def test_half_precision_is_summed_in_float32() -> None:
    groups = ParameterGroups(1, (member("weight", 0, {0: [0]}),))
    norms = groups.squared_norms({"weight": torch.full((1, 4096), 0.1, dtype=torch.bfloat16)})
    assert norms.dtype == torch.float32
    assert float(norms) == pytest.approx(4096 * float(torch.tensor(0.1).bfloat16()) ** 2)


def test_zeroing_removes_what_is_no_number() -> None:
    groups, values = ParameterGroups(2, (member("vector", 0, {0: [0], 1: [1]}),)), tensors()
    values["vector"][:2] = torch.nan
    groups.zero_(values, torch.tensor([True, False]))
    assert values["vector"][0] == 0
    assert values["vector"][1].isnan()


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ((), "groups without entries"),
        ((member("conv", 0, {2: [1]}),), r"Member\('conv', dim 0, weight\) has group 2; there are 2"),
        ((member("conv", 0, {0: [1], 1: [1]}),), "an entry belongs to two groups, in the parameter 'conv'"),
        ((member("conv", 0, {0: [1]}), member("conv", 0, {1: [1]})), "an entry belongs to two groups"),
        ((member("square", 0, {0: [1]}), member("square", 1, {0: [3]})), "a group has entries along two dimensions"),
    ],
)
def test_groups_that_are_not_well_defined_are_refused(members: tuple[Member, ...], problem: str) -> None:
    with pytest.raises(InvalidSetting, match=problem):
        ParameterGroups(2, members)


@pytest.mark.parametrize(
    ("groups", "index", "problem"),
    [
        (torch.tensor([0.0]), torch.tensor([[1]]), "must be int64; given torch.float32"),
        (torch.tensor([0, 1]), torch.tensor([[1]]), r"must be \(n,\) and index \(n, per_group\)"),
        (torch.tensor([0]), torch.zeros(1, 0, dtype=torch.int64), "with entries"),
        (torch.tensor([0]), torch.tensor([[-1]]), "must be 0 or more"),
    ],
)
def test_indices_of_other_kinds_are_refused(groups: Tensor, index: Tensor, problem: str) -> None:
    with pytest.raises(InvalidSetting, match=problem):
        Member("conv", 0, groups, index)


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        (member("stem", 0, {0: [1]}), "lacks dimension 0 of 'stem'"),
        (member("vector", 1, {0: [1]}), "lacks dimension 1 of 'vector'"),
        (member("vector", 0, {0: [7]}), "has entry 7 of a dimension of 7"),
    ],
)
def test_groups_of_another_network_are_refused(other: Member, problem: str) -> None:
    with pytest.raises(InvalidSetting, match=f"the groups are of another network.*({problem})"):
        ParameterGroups(1, (other,)).squared_norms(tensors())


def test_values_for_other_groups_are_refused() -> None:
    groups = ParameterGroups(2, (member("vector", 0, {0: [0]}),))
    with pytest.raises(InvalidSetting, match=r"one value for each of 2 groups; given \(3,\)"):
        groups.scale_(tensors(), torch.ones(3))


def test_groups_are_a_setting_of_callbacks() -> None:
    first, second = (ParameterGroups(1, (member("vector", 0, {0: [entry]}),)) for entry in (1, 2))
    assert described(first, "groups") == described(ParameterGroups(1, first.members), "groups")
    assert described(first, "groups") != described(second, "groups")
