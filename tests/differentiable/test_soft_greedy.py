"""The differentiable layer against greedy selection, and the toy problem of learning a hidden function."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from scionet.differentiable.soft_greedy import MIN_SOFT_TAU, SoftGreedy, fit, padded, set_loss
from scionet.errors import InvalidSetting


def layer(seed: int = 0, n_features: int = 6, concave="log1p") -> SoftGreedy:
    found = SoftGreedy(n_features, concave=concave).double()
    with torch.no_grad():
        found.theta.copy_(torch.randn(n_features, generator=torch.Generator().manual_seed(seed)))
    return found


def instances(seed: int, count: int = 4, n: int = 12, n_features: int = 6) -> Tensor:
    return torch.rand(count, n, n_features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def greedy_order(f: SoftGreedy, items: Tensor, k: int) -> list[int]:
    """The definition, item by item."""
    chosen: list[int] = []
    for _ in range(k):
        values = [-1.0 if v in chosen else worth(f, items, [*chosen, v]) for v in range(len(items))]
        chosen.append(int(np.argmax(values)))
    return chosen


def worth(f: SoftGreedy, items: Tensor, chosen) -> float:
    weights = functional.softplus(f.theta)
    return float((weights * f._concave(items[list(chosen)].sum(0))).sum().detach())


@pytest.mark.parametrize("tau", [10.0, 1.0, 0.1, 1e-3])
@pytest.mark.parametrize("mode", ["st", "hard"])
@pytest.mark.parametrize("concave", ["log1p", "sqrt"])
def test_straight_through_selects_as_greedy_at_every_temperature(tau, mode, concave) -> None:
    f, items = layer(concave=concave), instances(1)
    found = f(items, 5, tau, mode)
    assert found.order.tolist() == [greedy_order(f, row, 5) for row in items]
    np.testing.assert_allclose(
        found.mask.detach(), [[float(v in row) for v in range(12)] for row in found.order], atol=1e-6
    )


@pytest.mark.parametrize("mode", ["soft", "st"])
def test_probabilities_are_those_of_the_items_that_are_left(mode) -> None:
    found = layer()(instances(2), 12, 0.5, mode)
    torch.testing.assert_close(found.probabilities.sum(2), torch.ones(4, 12, dtype=torch.float64))
    if mode == "st":
        for row, order in zip(found.probabilities.detach(), found.order, strict=True):
            assert all(float(row[t, order[:t]].sum()) == 0 for t in range(12))


def test_gradients() -> None:
    f, items = layer(n_features=3), instances(3, 2, 5, 3).requires_grad_()
    mix = torch.rand(2, 3, 5, dtype=torch.float64)

    def soft(theta: Tensor, x: Tensor) -> Tensor:
        found = torch.func.functional_call(f, {"theta": theta}, (x, 3, 0.5, "soft"))
        return (found.probabilities * mix).sum() + (found.mask**2).sum()

    assert torch.autograd.gradcheck(soft, (f.theta.detach().clone().requires_grad_(), items))

    def first_step(theta: Tensor, mode: str) -> Tensor:
        return (torch.func.functional_call(f, {"theta": theta}, (items.detach(), 1, 0.5, mode)).mask * mix[:, 0]).sum()

    theta = f.theta.detach().clone().requires_grad_()
    through, surrogate = (torch.autograd.grad(first_step(theta, mode), theta)[0] for mode in ("st", "soft"))
    torch.testing.assert_close(through, surrogate)


@given(seed=st.integers(0, 1000))
def test_permuting_the_items_permutes_the_selection(seed) -> None:
    f, items = layer(seed), instances(seed)
    shuffle = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    found, moved = f(items, 4), f(items[:, shuffle], 4)
    torch.testing.assert_close(moved.mask, found.mask[:, shuffle])
    torch.testing.assert_close(moved.probabilities, found.probabilities[:, :, shuffle])


@given(seed=st.integers(0, 1000), concave=st.sampled_from(["log1p", "sqrt"]))
def test_the_function_is_monotone_and_submodular_at_any_parameters(seed, concave) -> None:
    f, items = layer(seed, concave=concave), instances(seed, 1)
    rng = np.random.default_rng(seed)
    large = rng.permutation(12)[:7]
    small, unit = large[:3], large[6]
    large = large[:6]

    def value(chosen) -> float:
        mask = torch.zeros(1, 12).double()
        mask[0, list(chosen)] = 1
        return float(f.value(items, mask).detach())

    assert value([]) == pytest.approx(0.0)
    assert value(large) >= value(small) - 1e-12
    assert value([*small, unit]) - value(small) >= value([*large, unit]) - value(large) - 1e-12
    assert value(large) == pytest.approx(worth(f, items[0], large))


def test_the_first_step_is_a_softmax_classifier() -> None:
    f, items = layer(), instances(5)
    weights = functional.softplus(f.theta)
    expected = (torch.log1p(items) @ weights / 0.7).softmax(1)
    torch.testing.assert_close(f(items, 1, 0.7).probabilities[:, 0], expected)


def test_the_value_is_at_least_its_share_of_the_best() -> None:
    f = layer(4)
    for row in instances(6, 3, 9):
        best = max(worth(f, row, c) for c in combinations(range(9), 3))
        assert worth(f, row, greedy_order(f, row, 3)) >= (1 - 1 / np.e) * best


def test_ragged_instances_short_ones_and_empty_sets() -> None:
    f = layer()
    rows = [instances(7, 1, n)[0] for n in (2, 5, 9)]
    items, valid = padded(rows)
    found = f(items, 4, valid=valid)
    assert found.order[0].tolist()[2:] == [-1, -1]
    assert found.probabilities[0, 2:].sum() == 0
    for row, order in zip(rows[1:], found.order[1:].tolist(), strict=True):
        assert order == greedy_order(f, row, 4)
    gold = torch.zeros(3, 9, dtype=torch.bool)
    assert float(set_loss(found.probabilities, gold).detach()) == 0.0
    gold[0, :2], gold[2, 3] = True, True
    p = found.probabilities.detach()
    expected = [-np.log(float(hit)) for hit in (p[0, 0, :2].sum(), p[0, 1, :2].sum(), p[2, 0, 3])]
    assert float(set_loss(found.probabilities, gold).detach()) == pytest.approx(np.mean(expected))
    assert f(items, 0).mask.sum() == 0
    equal = torch.ones(1, 4, 6).double()
    assert f(equal, 2).order.tolist() == [[0, 1]]  # ties go to the lowest index
    assert f(torch.zeros(1, 4, 6).double(), 1).probabilities.tolist() == [[[0.25] * 4]]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda f: f(instances(0), 2, 0.05, "soft"), "at least 0.1 in mode 'soft'"),
        (lambda f: f(instances(0), 2, 0.0), "tau must be above 0"),
        (lambda f: f(instances(0), 2, 1.0, "fuzzy"), "mode must be one of st, soft, hard"),
        (lambda f: f(instances(0) - 1, 2), "nonnegative numbers for each item"),
        (lambda f: f(instances(0, n_features=5), 2), "features must be 6"),
        (lambda f: f(instances(0)[0], 2), r"items must be \(instances, items, features\)"),
        (lambda f: fit(f, [instances(0)[0]], [[12]]), "outside 0..11"),
        (lambda f: fit(f, [instances(0)[0]], []), "one set per instance"),
        (lambda f: padded([]), "instances must be tensors"),
        (lambda f: SoftGreedy(3, concave="cube"), "concave must be one of log1p, sqrt"),
    ],
)
def test_wrong_input(call, text) -> None:
    with pytest.raises(InvalidSetting, match=text):
        call(layer())


def with_weights(weights: Tensor) -> SoftGreedy:
    found = SoftGreedy(len(weights)).double()
    with torch.no_grad():
        found.theta.copy_(torch.log(torch.expm1(weights)))
    return found


def softened(f: SoftGreedy, items: Tensor, tau: float, mask: str) -> Tensor:
    """Fraction of each item that four soft steps select, with one of two soft masks of selected items."""
    level, taken = torch.zeros(64, 6).double(), torch.zeros(64, 12).double()
    for _ in range(4):
        gains = f.gains(level, items).detach()
        away = 2 * (gains.amax(1, keepdim=True) - gains.amin(1, keepdim=True)) * taken
        logits = gains / tau + torch.log((1 - taken).clamp_min(1e-12)) if mask == "log" else (gains - away) / tau
        share = logits.softmax(1)
        level, taken = level + torch.einsum("bn,bnu->bu", share, items), taken + share
    return taken


TEMPERATURES = (1.0, 0.1, 0.03, 0.01, 0.003, 0.001, 1e-4, 1e-5)


@pytest.mark.parametrize(
    ("mask", "agreeing"),
    [("log", (52, 55, 58, 60, 59, 57, 47, 2)), ("penalty", (52, 55, 53, 11, 22, 49, 62, 64))],
)
def test_soft_selection_does_not_approximate_greedy_as_tau_decreases(mask, agreeing) -> None:
    generator = torch.Generator().manual_seed(0)
    items = torch.rand(64, 12, 6, generator=generator, dtype=torch.float64)
    f = with_weights(torch.rand(6, generator=generator, dtype=torch.float64))
    greedy = f(items, 4, mode="hard").order.sort(1).values
    counts = []
    for tau in TEMPERATURES:
        taken = softened(f, items, tau, mask)
        counts.append(int((taken.topk(4, 1).indices.sort(1).values == greedy).all(1).sum()))
        if mask == "log" and tau >= MIN_SOFT_TAU:
            torch.testing.assert_close(f(items, 4, tau, "soft").mask.detach(), taken)
    np.testing.assert_allclose(counts, agreeing, atol=4)


def hidden(seed: int) -> tuple[Tensor, Tensor]:
    """600 instances of items with sparse features, and the greedy picks of size 5 of a function with hidden weights."""
    generator = torch.Generator().manual_seed(seed)
    items, weights = (
        torch._standard_gamma(torch.full(size, shape, dtype=torch.float64), generator)
        for size, shape in (((600, 30, 12), 0.3), ((12,), 0.5))
    )
    return items, with_weights(weights)(items, 5, mode="hard").order


def logistic(items: Tensor, order: Tensor) -> Tensor:
    """The items of highest score by a logistic regression on single items, trained as the layers are."""
    columns = torch.cat([items, torch.log1p(items)], 2)
    member = torch.zeros(600, 30).double().scatter_(1, order, 1.0)
    slope, bias = (torch.zeros(n, dtype=torch.float64, requires_grad=True) for n in (24, 1))
    optimiser = torch.optim.Adam([slope, bias], lr=0.05)
    for _ in range(150):
        scores = columns[:400] @ slope + bias
        loss = functional.binary_cross_entropy_with_logits(scores, member[:400])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return (columns @ slope).detach().topk(5, 1).indices


def precision(found: Tensor, wanted: Tensor) -> float:
    return float(np.mean([len(set(a) & set(b)) / 5 for a, b in zip(found.tolist(), wanted.tolist(), strict=True)]))


@pytest.mark.slow
def test_a_hidden_function_is_learned_best_straight_through() -> None:
    items, order = hidden(0)
    test, wanted = items[400:], order[400:]
    scores = {
        "modular": precision(logistic(items, order)[400:], wanted),
        "untrained": precision(SoftGreedy(12).double()(test, 5, mode="hard").order, wanted),
    }
    for name, tau, mode in (("soft 1", 1.0, "soft"), ("soft .3", 0.3, "soft"), ("st .3", 0.3, "st")):
        f = SoftGreedy(12).double()
        history = fit(f, list(items[:400]), order[:400].tolist(), tau=tau, mode=mode)
        assert history[-1] < history[0]
        scores[name] = precision(f(test, 5, mode="hard").order, wanted)
    assert scores["st .3"] > scores["soft .3"] > scores["soft 1"] > scores["modular"] > scores["untrained"]
    expected = {"modular": 0.781, "untrained": 0.531, "soft 1": 0.809, "soft .3": 0.878, "st .3": 0.896}
    assert scores == pytest.approx(expected, abs=0.02)


def test_a_feature_map_is_trained_too() -> None:
    torch.manual_seed(0)
    items, order = hidden(0)
    turned = items @ torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64))[0]
    f = SoftGreedy(24, nn.Sequential(nn.Linear(12, 24), nn.Softplus())).double()

    def found() -> float:
        return precision(f(turned[500:], 5, mode="hard").order, order[500:])

    before = found()
    fit(f, list(turned[:200]), order[:200].tolist(), steps=200, learning_rate=0.02)
    assert found() > before + 0.15
