"""gRDA, elementwise and for groups: the formulas, the laws of the papers, and what is refused."""

import copy
import io
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.pages import code_of
from support.pupils import QUICK, examples, learnt, network, plain, tensors
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import scionet
from scionet.errors import CheckpointError, InvalidSetting, TrainingError
from scionet.network.calling import state_of
from scionet.training.grda import GRDA
from scionet.training.group_grda import GroupGRDA
from scionet.training.groups import Member, ParameterGroups
from scionet.training.state import load_state

STRONG = {"c": 0.02, "mu": 0.6}


def gradients(model: nn.Module, steps: int, seed: int = 0) -> Iterator[None]:
    """Gradients of batches, one after the other."""
    images, labels = tensors(64, seed)
    for step in range(steps):
        chosen = torch.randint(64, (8,), generator=torch.Generator().manual_seed(step))
        model.zero_grad()
        nn.functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
        yield


def singletons(model: nn.Module) -> ParameterGroups:
    """Every weight of the vectors is a group; every row of a matrix has one."""
    members, count = [], 0
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            members.append(
                Member(name, 0, torch.arange(count, count + len(parameter)), torch.arange(len(parameter))[:, None])
            )
            count += len(parameter)
    return ParameterGroups(count, tuple(members))


def units(model: nn.Module, columns: bool = True) -> ParameterGroups:
    """The hidden units of `plain`: row, bias, and column of what reads them."""
    every, index = torch.arange(16), torch.arange(16)[:, None]
    read = [Member("3.weight", 1, every, index, role="column")] if columns else []
    return ParameterGroups(16, (Member("1.weight", 0, every, index), Member("1.bias", 0, every, index, "bias"), *read))


@pytest.mark.parametrize("by_group", [False, True])
def test_without_a_threshold_it_is_sgd(by_group: bool) -> None:
    model, expected = network(), network()
    sgd = torch.optim.SGD(expected.parameters(), lr=0.1)
    found: GRDA = GRDA(model.parameters(), 0.1, 0.0, 0.6)
    if by_group:
        found = GroupGRDA(model.named_parameters(), singletons(model), 0.1, 0.0, 0.6)
    for one, optimizer in ((model, found), (expected, sgd)):
        torch.manual_seed(3)  # dropout
        for _ in gradients(one, 20):
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(state_of(model).values(), state_of(expected).values(), strict=True))


@settings(deadline=None, max_examples=30)
@given(
    st.floats(1e-4, 1.0),
    st.floats(0.0, 1.0),
    st.floats(0.01, 0.99),
    st.integers(1, 60),
    st.lists(st.floats(0, 2), max_size=4),
)
def test_the_threshold_grows_as_the_formula_says(
    lr: float, c: float, mu: float, steps: int, factors: list[float]
) -> None:
    weight = nn.Parameter(torch.full((3,), 1e3, dtype=torch.float64))
    optimizer = GRDA([weight], lr, c, mu)
    for _ in range(steps):
        weight.grad = torch.zeros(3, dtype=torch.float64)
        optimizer.step()
    constant = c * lr ** (mu + 0.5) * steps**mu
    assert optimizer.state[weight]["threshold"] == pytest.approx(constant, rel=1e-10)
    assert constant == pytest.approx(c * math.sqrt(lr) * (steps * lr) ** mu)
    expected = constant
    for n, factor in enumerate(factors, steps + 1):  # other learning rates change later increments alone; 0 adds 0
        optimizer.param_groups[0]["lr"] = factor * lr
        optimizer.step()
        expected += c * (factor * lr) ** (mu + 0.5) * (n**mu - (n - 1) ** mu)
    assert optimizer.state[weight]["threshold"] == pytest.approx(expected, rel=1e-10)
    torch.testing.assert_close(weight.detach(), torch.full_like(weight, max(1e3 - expected, 0.0)))


def test_the_steps_are_those_of_the_definition() -> None:
    model, by_hand = plain(), plain()
    optimizer = GRDA(model.parameters(), 0.1, **STRONG)
    duals = {name: parameter.detach().clone() for name, parameter in by_hand.named_parameters()}
    threshold = 0.0
    for n, _, _ in zip(range(1, 13), gradients(model, 12), gradients(by_hand, 12), strict=True):
        optimizer.step()
        threshold += STRONG["c"] * 0.1 ** (STRONG["mu"] + 0.5) * (n ** STRONG["mu"] - (n - 1) ** STRONG["mu"])
        for name, parameter in by_hand.named_parameters():
            duals[name] -= 0.1 * parameter.grad  # type: ignore[operator]
            shrunk = [math.copysign(max(abs(v) - threshold, 0.0), v) for v in duals[name].flatten().tolist()]
            parameter.data = torch.tensor(shrunk).view_as(parameter)
    for one, other in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    assert sum(int((parameter == 0).sum()) for parameter in model.parameters()) > 10


def test_groups_of_one_weight_are_elementwise() -> None:
    model, expected = plain(), plain()
    by_group = GroupGRDA(model.named_parameters(), singletons(model), 0.1, **STRONG)
    matrices = [{"params": [p for p in expected.parameters() if p.ndim > 1], "c": 0.0}]
    elementwise = GRDA([*matrices, {"params": [p for p in expected.parameters() if p.ndim == 1]}], 0.1, **STRONG)
    for one, optimizer in ((model, by_group), (expected, elementwise)):
        for _ in gradients(one, 30):
            optimizer.step()
    for one, other in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other)
        assert torch.equal(one == 0, other == 0)
    assert any(bool((parameter == 0).any()) for parameter in model.parameters())


@pytest.mark.parametrize("size_scaling", [False, True])
def test_groups_are_the_solution_of_the_proximal_problem(size_scaling: bool) -> None:
    """w minimises ‖w − v‖² / 2 + T Σ ‖w_g‖: zero where ‖v_g‖ ≤ T, elsewhere v_g − w_g = T w_g / ‖w_g‖."""
    model = plain()
    groups = units(model)
    optimizer = GroupGRDA(
        model.named_parameters(), groups, 0.1, 0.17 if size_scaling else 1.5, 0.6, size_scaling=size_scaling
    )
    for _ in gradients(model, 25):
        optimizer.step()
    named = dict(model.named_parameters())
    threshold = optimizer.state[named["1.weight"]]["threshold"] * (math.sqrt(72 + 1 + 5) if size_scaling else 1)
    vectors = [
        torch.stack([torch.cat([t["1.weight"][g], t["1.bias"][g, None], t["3.weight"][:, g]]) for g in range(16)])
        for t in ({name: optimizer.state[p]["dual"] for name, p in named.items() if name != "3.bias"}, named)
    ]
    duals, weights = (each.detach() for each in vectors)
    dead = duals.norm(dim=1) <= threshold
    assert torch.equal(dead, (weights == 0).all(1))
    assert 0 < int(dead.sum()) < 16
    alive = weights[~dead]
    torch.testing.assert_close((duals - weights)[~dead], threshold * alive / alive.norm(dim=1, keepdim=True))


def test_another_order_of_groups_changes_nothing() -> None:
    model, other = plain(), plain()
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    groups = units(model)
    renamed = ParameterGroups(16, tuple(Member(m.parameter, m.dim, order[m.groups], m.index) for m in groups.members))
    for one, own in ((model, groups), (other, renamed)):
        optimizer = GroupGRDA(one.named_parameters(), own, 0.1, 0.6, 0.6)
        for _ in gradients(one, 20):
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("kind", ["elementwise", "groups"])
@pytest.mark.parametrize("way", ["state dict", "saved state dict", "deepcopy"])
def test_a_copy_in_the_middle_goes_on_alike(kind: str, way: str) -> None:
    def made(model: nn.Module) -> GRDA:
        if kind == "groups":
            return GroupGRDA(model.named_parameters(), units(model), 0.1, 0.3, 0.6, size_scaling=True)
        return GRDA(model.parameters(), 0.1, **STRONG)

    model = plain()
    optimizer = made(model)
    for _ in gradients(model, 10):
        optimizer.step()
    if way == "deepcopy":
        twin, again = copy.deepcopy((model, optimizer))
    else:
        twin = copy.deepcopy(model)
        again, saved = made(twin), copy.deepcopy(optimizer.state_dict())
        if way == "saved state dict":
            torch.save(saved, file := io.BytesIO())
            saved = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
        again.load_state_dict(saved)
    for one, own in ((model, optimizer), (twin, again)):
        for _ in gradients(one, 10, seed=1):
            own.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert [s["threshold"] for s in optimizer.state.values()] == [s["threshold"] for s in again.state.values()]


def curved(seed: int, dimension: int = 24, rank: int = 14) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hessian of a quadratic with a flat valley, the projector on the valley, a minimum, and a start."""
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(dimension, dimension, generator=generator, dtype=torch.float64))
    values = torch.cat(
        [0.5 + 1.5 * torch.rand(rank, generator=generator, dtype=torch.float64), torch.zeros(dimension - rank)]
    )
    hessian = basis @ values.diag() @ basis.T
    flat = basis[:, rank:] @ basis[:, rank:].T
    minimum = 2 * torch.randn(dimension, generator=generator, dtype=torch.float64)
    return hessian, flat, minimum, minimum + torch.randn(dimension, generator=generator, dtype=torch.float64)


def far_from_zero(start: int = 0) -> int:
    """A seed whose SGD solution has no weight near zero: the law is for perturbations below every weight."""
    for seed in range(start, 1000):
        _, flat, minimum, begin = curved(seed)
        solution = minimum + flat @ (begin - minimum)
        if float(solution.abs().min()) > 0.3 and float((begin.sign() == solution.sign()).all()):
            return seed
    raise AssertionError


def descended(seed: int, steps: int, groups: int | None) -> tuple[Tensor, float]:
    """Weights and threshold after deterministic gradient descent on the quadratic."""
    hessian, _, minimum, begin = curved(seed)
    weight = nn.Parameter(begin.clone())
    if groups is None:
        optimizer: GRDA = GRDA([weight], 0.05, 0.02, 0.6)
    else:
        index = torch.arange(24).view(groups, -1)
        of_weights = ParameterGroups(groups, (Member("w", 0, torch.arange(groups), index),))
        optimizer = GroupGRDA([("w", weight)], of_weights, 0.05, 0.02, 0.6)
    for _ in range(steps):
        weight.grad = hessian @ (weight.detach() - minimum)
        optimizer.step()
    return weight.detach(), optimizer.state[weight]["threshold"]


@pytest.mark.parametrize("groups", [None, 6], ids=["elementwise", "groups"])
def test_the_valley_law(groups: int | None) -> None:
    """w − w_SGD → −T (P0 u + (μ / t) H⁺ u): the flat part is pruned, the curved one decays like 1 / t."""
    seed = far_from_zero()
    hessian, flat, minimum, begin = curved(seed)
    solution = minimum + flat @ (begin - minimum)
    blocks = solution.view(-1, 1) if groups is None else solution.view(groups, -1)
    direction = (blocks / blocks.norm(dim=1, keepdim=True)).flatten()
    inverse = torch.linalg.pinv(hessian, hermitian=True)
    for steps, threshold in ((400, 0.0269857), (4000, 0.1074318)):
        weight, found = descended(seed, steps, groups)
        assert found == pytest.approx(threshold, rel=1e-5)
        ratio = 0.6 / (0.05 * steps)
        moved, loss = weight - solution, float((weight - minimum) @ hessian @ (weight - minimum)) / 2
        predicted = -found * (flat @ direction + ratio * inverse @ direction)
        curved_share = float((moved - flat @ moved).norm() / moved.norm())
        naive = solution - found * direction
        naive_loss = float((naive - minimum) @ hessian @ (naive - minimum)) / 2
        assert curved_share < (0.1 if steps == 400 else 0.01)
        assert loss < (1e-1 if steps == 400 else 1e-3) * naive_loss
        wrong = float((moved - predicted).norm() / moved.norm())
        if groups is None and steps == 4000:
            expected = 0.5 * (found * ratio) ** 2 * float(direction @ inverse @ direction)
            assert loss == pytest.approx(expected, rel=0.01)
            assert wrong < 1e-4


def test_a_weight_that_is_zero_comes_back_and_a_group_behind_relu_does_not() -> None:
    weight = nn.Parameter(torch.tensor([0.05, 1.0]))
    optimizer = GRDA([weight], 0.1, 1.0, 0.6)
    weight.grad = torch.zeros(2)
    optimizer.step()
    assert weight[0] == 0
    for _ in range(40):
        weight.grad = torch.tensor([-1.0, 0.0])
        optimizer.step()
    assert weight[0] > 0

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
    every, index = torch.arange(2), torch.arange(2)[:, None]
    both = ParameterGroups(2, (Member("0.weight", 0, every, index), Member("2.weight", 1, every, index)))
    with torch.no_grad():
        model[0].weight[0], model[2].weight[0, 0] = 0.01, 0.01  # type: ignore[index]
    dying = GroupGRDA(model.named_parameters(), both, 0.1, 1.0, 0.6)
    for step in range(30):
        model.zero_grad()
        (model(torch.ones(4, 3)) - 5).square().mean().backward()
        assert bool(model[0].weight.grad[0].any()) == (step == 0)  # type: ignore[index]
        dying.step()
        assert not model[0].weight[0].any()


def test_what_the_function_sees_decides_and_all_members_are_scaled() -> None:
    """A filter in front of a BatchNorm follows scale and shift, however large it is; zero scales do not divide."""
    model = nn.Sequential(nn.Conv2d(2, 3, 1, bias=False), nn.BatchNorm2d(3))
    with torch.no_grad():
        model[0].weight.fill_(100)  # type: ignore[operator, union-attr]
        model[1].weight.copy_(torch.tensor([2.0, 0.05, 0.0]))  # type: ignore[operator, union-attr]
    every, index = torch.arange(3), torch.arange(3)[:, None]
    groups = ParameterGroups(
        3,
        (
            Member("0.weight", 0, every, index, seen=False),
            Member("1.weight", 0, every, index, role="scale"),
            Member("1.bias", 0, every, index, role="shift"),
        ),
    )
    optimizer = GroupGRDA(model.named_parameters(), groups, 0.1, 1.0, 0.6)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    threshold = 0.1**1.1
    factors = torch.tensor([1 - threshold / 2, 0, 0])
    torch.testing.assert_close(model[1].weight.detach(), factors * torch.tensor([2.0, 0.05, 0.0]))
    torch.testing.assert_close(model[0].weight.detach(), (factors * 100)[:, None, None, None].expand(3, 2, 1, 1))


def test_a_parameter_without_gradients_is_left_alone_and_a_closure_is_called() -> None:
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = GRDA([used, unused], 0.1, **STRONG)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = used.square().sum()
        loss.backward()
        return loss

    assert float(optimizer.step(closure).detach()) == 2.0  # type: ignore[arg-type, union-attr]
    assert torch.equal(unused, torch.ones(2))
    assert used[0] < 0.81


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_keep_their_type(dtype: torch.dtype) -> None:
    model = plain().to(dtype)
    optimizer = GroupGRDA(model.named_parameters(), units(model), 0.1, 0.5, 0.6)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert {state["dual"].dtype for state in optimizer.state.values()} == {dtype}


@pytest.mark.parametrize(
    "wrong",
    [{"c": -1e-3}, {"c": math.inf}, {"c": math.nan}, {"mu": 0.0}, {"mu": 1.0}, {"lr": -0.1}, {"weight_decay": -1}],
    ids=str,
)
def test_hyperparameters_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidSetting, match=r"mu lies inside \(0, 1\); given"):
        GRDA(plain().parameters(), **{"lr": 0.1, **STRONG, **wrong})
    with pytest.raises(InvalidSetting, match=r"mu lies inside \(0, 1\); given"):
        GRDA([{"params": plain().parameters(), **wrong}], lr=0.1, **STRONG)


def test_weight_decay_is_that_of_sgd_with_a_warning() -> None:
    model, expected = plain(), plain()
    with pytest.warns(UserWarning, match=r"without weight decay, .* set weight_decay to 0 \(it is 0.01\)"):
        GRDA(model.parameters(), 0.1, **STRONG, weight_decay=0.01)
    found = GRDA(model.parameters(), 0.1, 0.0, 0.6, weight_decay=0.01)
    sgd = torch.optim.SGD(expected.parameters(), lr=0.1, weight_decay=0.01)
    for one, optimizer in ((model, found), (expected, sgd)):
        for _ in gradients(one, 5):
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))


def test_what_diverges_is_stopped_with_advice() -> None:
    advice = r"lower c \(1000\) or mu \(0\.7\), lower"
    for gradient, problem in ((0.0, "all weights are zero after 50 steps"), (math.nan, "weights are NaN or infinite")):
        weight = nn.Parameter(torch.ones(3))
        optimizer = GRDA([weight], 0.1, 1000.0, 0.7)
        weight.grad = torch.full((3,), gradient)
        for _ in range(49):
            optimizer.step()
        with pytest.raises(TrainingError, match=f"{problem}.*{advice}"):
            optimizer.step()
    recipe = replace(
        QUICK, optimiser="grda", optimiser_settings={"c": 1e3, "mu": 0.7}, weight_decay=0, learning_rate=1e4
    )
    linear, data = nn.Sequential(nn.Flatten(), nn.Linear(72, 5)), examples()
    data.tensors[0].mul_(1e20)
    with pytest.raises(TrainingError, match=rf"NaN or infinite at step .*; {advice} learning_rate \(10000\)"):
        learnt(linear, recipe, data=data)


def test_groups_that_gradient_descent_cannot_shrink_are_refused() -> None:
    model = plain()
    groups, every, index = units(model), torch.arange(5), torch.arange(5)[:, None]
    overlapping = ParameterGroups(21, (*groups.members, Member("3.weight", 0, every + 16, index)))
    unseen = ParameterGroups(17, (*groups.members, Member("3.bias", 0, torch.tensor([16]), index[:1], seen=False)))
    for given_groups, message in (
        (overlapping, r"groups share weights of 3\.weight"),
        (unseen, "1 groups, such as 16, have no member whose size the function depends on"),
        (ParameterGroups(5, (Member("5.bias", 0, every, index),)), r"weights that are not trained: 5\.bias"),
    ):
        with pytest.raises(InvalidSetting, match=message):
            GroupGRDA(model.named_parameters(), given_groups, 0.1, **STRONG)
    with pytest.raises(InvalidSetting, match=r"network\.named_parameters\(\)"):
        GroupGRDA(model.parameters(), groups, 0.1, **STRONG)  # type: ignore[arg-type]
    model[1].bias.requires_grad_(False)  # type: ignore[index, union-attr, operator]
    with pytest.raises(InvalidSetting, match=r"weights that are not trained: 1\.bias"):
        GroupGRDA(model.named_parameters(), groups, 0.1, **STRONG)


def test_parameters_of_groups_share_one_threshold() -> None:
    model = plain()
    optimizer = GroupGRDA(model.named_parameters(), units(model), 0.1, **STRONG)
    slower = [{"params": [("1.weight", model[1].weight)], "lr": 0.01}]  # type: ignore[index, union-attr]
    rest = [(name, p) for name, p in model.named_parameters() if name != "1.weight"]
    mixed = GroupGRDA([*slower, {"params": rest}], units(model), 0.1, **STRONG)  # type: ignore[list-item]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    with pytest.raises(InvalidSetting, match=r"different thresholds .* the same lr, c and mu"):
        mixed.step()


@pytest.mark.parametrize("by_value", [False, True])
def test_a_training_with_it_goes_on_and_keeps_its_threshold(by_value: bool, tmp_path: Any) -> None:
    recipe = replace(QUICK, optimiser="grda", optimiser_settings=STRONG, weight_decay=0)

    def given_to(model: nn.Module) -> dict[str, Any]:
        own = GroupGRDA(model.named_parameters(), units(model, columns=False), 0.1, 3.0, 0.6)
        return {"optimizer": own} if by_value else {"recipe": recipe}

    file, whole, model = tmp_path / "run.safetensors", plain(), plain()
    learnt(whole, **given_to(whole))
    learnt(model, **given_to(model), state_file=file, until=1)
    kept = load_state(file).memory["1.weight"]
    assert kept["step"] == 4
    assert {name: tuple(tensor.shape) for name, tensor in kept.items()} == {
        "dual": (16, 72),
        "step": (),
        "threshold": (),
    }
    model = plain()
    learnt(model, **given_to(model), state_file=file)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), whole.parameters(), strict=True))
    assert any(bool((parameter == 0).any()) for parameter in model.parameters())


def test_other_hyperparameters_and_groups_are_refused_on_resuming(tmp_path: Any) -> None:
    recipe = replace(QUICK, optimiser="grda", optimiser_settings=STRONG, weight_decay=0)
    file = tmp_path / "run.safetensors"
    learnt(plain(), recipe, state_file=file, until=1)
    with pytest.raises(CheckpointError, match=r"\(recipe\.optimiser_settings\.c was 0\.02, is 0\.03\)"):
        learnt(plain(), replace(recipe, optimiser_settings={"c": 0.03, "mu": 0.6}), state_file=file)
    file.unlink()

    def given_to(model: nn.Module, **changes: Any) -> GroupGRDA:
        given = {"groups": units(model), "lr": 0.1, **STRONG, **changes}
        return GroupGRDA(model.named_parameters(), **given)

    model = plain()
    learnt(model, optimizer=given_to(model), state_file=file, until=1)
    for changes, message in (
        ({"mu": 0.7}, r"optimiser\.groups\.0\.mu was 0\.6, is 0\.7"),
        ({"groups": units(model, columns=False)}, r"optimiser\.more\.groups\.members"),
        ({"size_scaling": True}, r"optimiser\.more\.size_scaling was False, is True"),
    ):
        model = plain()
        with pytest.raises(CheckpointError, match=message):
            learnt(model, optimizer=given_to(model, **changes), state_file=file)


def test_the_groups_of_the_docs() -> None:
    model = nn.Sequential(nn.Linear(72, 64), nn.ReLU(), nn.Linear(64, 5))
    data = TensorDataset(tensors(70)[0].flatten(1), tensors(70)[1])
    names: dict[str, Any] = {"model": model, "train": data, "recipe": QUICK, "scionet": scionet}
    exec(code_of("training.md", 2, 7), names)
    assert names["groups"].sizes(dict(model.named_parameters())).tolist() == [72 + 1 + 5] * 64
    assert names["optimizer"].state[model[0].weight]["step"] == 12


@pytest.mark.parametrize("by_value", [False, True])
def test_an_average_of_sparse_weights_is_refused(by_value: bool) -> None:
    model = plain()
    named = {"optimiser": "grda", "optimiser_settings": STRONG, "weight_decay": 0}
    own = {"optimizer": GRDA(model.parameters(), 0.1, **STRONG)} if by_value else {}
    with pytest.raises(InvalidSetting, match=r"average_decay \(0\.9\) cannot be combined with gRDA"):
        learnt(model, replace(QUICK, average_decay=0.9, **({} if by_value else named)), **own)  # type: ignore[arg-type]


def test_vectors_are_shrunk_only_if_they_decay() -> None:
    recipe = replace(
        QUICK, optimiser="grda", optimiser_settings={"c": 1.0, "mu": 0.6}, weight_decay=0, learning_rate=0.05
    )
    for decays in (True, False):
        model = plain()
        learnt(model, replace(recipe, decay_vectors=decays))
        vectors = [parameter for parameter in model.parameters() if parameter.ndim == 1]
        assert any(bool((parameter == 0).any()) for parameter in model.parameters() if parameter.ndim > 1)
        assert any(bool((parameter == 0).any()) for parameter in vectors) == decays
