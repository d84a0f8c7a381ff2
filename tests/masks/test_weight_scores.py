"""Every weight score against a slow version: dense Hessians, loops over examples, finite differences."""

import copy
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from support.mask_networks import pairs, sizes_mlp
from torch import Tensor, nn
from torch.func import functional_call

from scionet import mask_weights
from scionet.masks.mask_rule import MaskRule
from scionet.masks.scores import SCORES, WeightView
from scionet.masks.weights import maskable, upcast

NET = sizes_mlp(5, 7, 6, 4)
DATA = [pairs(6, 5), pairs(3, 5, seed=2)]
X, Y = torch.cat([x for x, _ in DATA]), torch.cat([y for _, y in DATA])


def view(
    model: nn.Module = NET, temperature: float | None = None, name: str = "snip", masked: bool = False
) -> WeightView:
    weights = upcast(maskable(model))
    rng = torch.Generator().manual_seed(7)
    masks = {n: torch.rand(w.shape, generator=rng) > (0.3 if masked else -1) for n, w in weights.items()}
    heat = SCORES[name].temperature if temperature is None else temperature
    return WeightView(model, weights, masks, DATA, X, heat, np.random.default_rng(0))


def loss_of(flat: Tensor, given: WeightView) -> Tensor:
    """The mean loss as a function of all weights in one vector."""
    parts = flat.split([w.numel() for w in given.weights.values()])
    weights = {n: p.view(w.shape) for (n, w), p in zip(given.weights.items(), parts, strict=True)}
    return nn.functional.cross_entropy(functional_call(given.model, weights, (X,)) / given.temperature, Y)


def dense(given: WeightView) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, gradient and Hessian, in one vector and matrix."""
    theta = torch.cat([w.flatten() for w in given.weights.values()])
    at = torch.cat([w.flatten() for w in given.masked.values()])
    gradient = torch.autograd.functional.jacobian(lambda w: loss_of(w, given), at)
    hessian = torch.autograd.functional.hessian(lambda w: loss_of(w, given), at)
    return theta, gradient, hessian  # type: ignore[return-value]


SLOW: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "magnitude": lambda w, g, h: w.abs(),
    "snip": lambda w, g, h: (w * g).abs(),
    "biased_loss": lambda w, g, h: w.abs() * (w * g).abs(),
    "grasp": lambda w, g, h: w * (h @ g),
    "gradient_preservation": lambda w, g, h: (w * (h @ g)).abs(),
}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", SLOW)
def test_scores_are_those_of_the_dense_gradient_and_hessian(name, masked) -> None:
    given = view(name=name, masked=masked)
    found = torch.cat([score.flatten() for score in SCORES[name](given).values()])
    torch.testing.assert_close(found, SLOW[name](*dense(given)), rtol=1e-9, atol=1e-14)


def test_every_score_has_an_oracle_and_is_documented() -> None:
    assert set(SCORES) == {*SLOW, "obd", "lamp", "random", "synflow", "woodfisher", "mfac"}
    card = Path(__file__).parents[2].joinpath("docs", "methods", "masks.md").read_text()
    assert [name for name in SCORES if f"`{name}`" not in card] == []
    assert [field.name for field in fields(MaskRule) if f"`{field.name}`" not in card] == []


def test_random_scores_depend_on_the_seed_alone() -> None:
    model = sizes_mlp(5, 7, 4)
    first, again, other = (mask_weights(model, 0.5, score="random", seed=seed).masks["0.weight"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_obd_is_the_sum_over_examples_one_by_one() -> None:
    given, model = view(), copy.deepcopy(NET)
    total = [torch.zeros_like(w) for w in given.weights.values()]
    for x, y in zip(X, Y, strict=True):
        model.zero_grad()
        nn.functional.cross_entropy(model(x[None]), y[None]).backward()
        for square, name in zip(total, given.weights, strict=True):
            square += model.get_parameter(name).grad ** 2  # type: ignore[operator]
    for (name, found), square in zip(SCORES["obd"](given).items(), total, strict=True):
        torch.testing.assert_close(found, 0.5 * given.weights[name] ** 2 * square / len(X))


def test_lamp_divides_by_the_sum_of_squares_of_weights_not_smaller() -> None:
    found = SCORES["lamp"](view(masked=True))
    for name, weight in view(masked=True).masked.items():
        squares = weight.flatten().tolist()
        squares = [value**2 for value in squares]
        slow = [
            s / max(sum(o for j, o in enumerate(squares) if o > s or (o == s and j <= i)), 5e-324)
            for i, s in enumerate(squares)
        ]
        np.testing.assert_allclose(found[name].flatten(), slow)
        assert float(found[name].max()) == 1


def test_temperature_divides_the_gradient_and_its_change_more() -> None:
    """At high temperature T all classes are equally likely: g falls with T, and θ Hg with T³."""
    model = nn.Sequential(nn.Linear(5, 4, bias=False)).double()
    hot, hotter = view(model, 1e4), view(model, 2e4)
    (theta,), labels = hot.weights.values(), nn.functional.one_hot(Y, 4)
    gradient = (0.25 - labels).T.double() @ X / len(X) / 1e4
    found = SCORES["snip"](hot)["0.weight"]
    torch.testing.assert_close(found, (theta * gradient).abs(), rtol=1e-3, atol=1e-8)
    second = [SCORES["gradient_preservation"](given)["0.weight"] for given in (hot, hotter)]
    torch.testing.assert_close(second[1] * 8, second[0], rtol=1e-2, atol=1e-16)


def test_signed_saliencies_are_the_decline_of_the_norm() -> None:
    """Sum of θ g = −½ d‖θ‖²/dt under gradient flow."""
    given = view()
    gradients = given.loss.gradient(given.weights)
    signed = sum(float(part.sum()) for part in given.times(gradients).values())
    step = 1e-6
    norms = [
        sum(float((w - s * step * gradients[n]).square().sum()) for n, w in given.weights.items()) for s in (1, -1)
    ]
    assert signed == pytest.approx(-0.5 * (norms[0] - norms[1]) / (2 * step), rel=1e-6)


def test_grasp_keeps_weights_whose_removal_would_lower_the_gradient_norm() -> None:
    """Shrinking a weight by ε changes ‖g‖² by −2 ε θ (Hg), so the lowest scores are removed."""
    given = view(name="grasp", temperature=1.0)
    found = SCORES["grasp"](given)
    for name, index in (("0.weight", (2, 3)), ("4.weight", (1, 1))):
        step, norms = 1e-5, []
        for sign in (1, -1):
            moved = {n: w.clone() for n, w in given.weights.items()}
            moved[name][index] *= 1 - sign * step
            norms.append(sum(float(g.square().sum()) for g in given.loss.gradient(moved).values()))
        assert (norms[0] - norms[1]) / (2 * step) == pytest.approx(-2 * float(found[name][index]), rel=1e-5)


def test_grasp_of_a_quadratic_loss_matches_a_hand_calculation() -> None:
    """L = a w²/2: g = a w, H = a, so θ Hg = a² w²; Hg here by double backward of any functional."""
    from scionet.masks.gradients import _along, gradients

    w = {"w": torch.tensor([3.0], dtype=torch.float64)}
    loss = lambda at: (0.5 * 2.0 * at["w"] ** 2).sum()  # noqa: E731
    gradient = gradients(loss, w)
    assert float(gradient["w"]) == 6
    assert float(w["w"] * gradients(_along(loss, gradient), w)["w"]) == 4 * 9


def test_conservation_of_signed_saliency_in_a_network_without_biases() -> None:
    """Layer sums of θ g are equal, those of |θ g| are not."""
    model = sizes_mlp(5, 9, 8, 4, bias=False)
    given = view(model)
    signed = [float(part.sum()) for part in given.times(given.loss.gradient(given.weights)).values()]
    np.testing.assert_allclose(signed, signed[0], rtol=1e-12)
    absolute = [float(part.sum()) for part in SCORES["snip"](given).values()]
    assert max(absolute) > 1.05 * min(absolute)


def test_half_precision_is_scored_in_float32() -> None:
    half = copy.deepcopy(NET).bfloat16()
    given = WeightView(
        half, upcast(maskable(half)), view().masks, [(X.bfloat16(), Y)], X, 1.0, np.random.default_rng(0)
    )
    plain = copy.deepcopy(half).float()
    other = WeightView(
        plain, upcast(maskable(plain)), view().masks, [(X.bfloat16().float(), Y)], X, 1.0, np.random.default_rng(0)
    )
    for name, score in SCORES["snip"](given).items():
        assert score.dtype == torch.float32
        torch.testing.assert_close(score, SCORES["snip"](other)[name])
