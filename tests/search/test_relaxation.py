"""The arithmetic of the search, against slow and obvious forms."""

import itertools
import math

import pytest
import torch
from torch.nn import functional

from scionet.search.relaxation import interpolated, padded, perturbed, sampled, temperature
from scionet.search.space import depth_choices, width_choices

PAIRS = [*itertools.product((3, 8, 16, 19, 64), (1, 3, 4, 11, 16, 25, 64, 100))]


def matrix(before: int, after: int) -> torch.Tensor:
    """Row c averages floor(c C' / C) : ceil((c + 1) C' / C)."""
    rows = torch.zeros(after, before, dtype=torch.float64)
    for c in range(after):
        low, high = c * before // after, -(-(c + 1) * before // after)
        rows[c, low:high] = 1 / (high - low)
    return rows


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_interpolation_is_a_matrix_whose_rows_sum_to_one(before: int, after: int) -> None:
    x = torch.randn(2, before, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.einsum("oc,bchw->bohw", matrix(before, after), x)
    assert torch.allclose(interpolated(x, after), expected, atol=1e-14)
    assert torch.allclose(matrix(before, after).sum(1), torch.ones(after, dtype=torch.float64))
    if before == after:
        assert torch.equal(interpolated(x, after), x)


def test_interpolation_is_not_transitive_in_general() -> None:
    x = torch.randn(1, 16, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(interpolated(interpolated(x, 11), 4), interpolated(x, 4), atol=1e-3)
    y = x[:, :8]
    assert torch.allclose(interpolated(interpolated(y, 4), 2), interpolated(y, 2))


@pytest.mark.parametrize(
    ("width", "choices"),
    [
        (16, (4, 6, 8, 9, 11, 12, 14, 16)),
        (32, (9, 12, 16, 19, 22, 25, 28, 32)),
        (64, (19, 25, 32, 38, 44, 51, 57, 64)),
        (128, (38, 51, 64, 76, 89, 102, 115, 128)),
        (256, (76, 102, 128, 153, 179, 204, 230, 256)),
        (512, (153, 204, 256, 307, 358, 409, 460, 512)),
        (4, (1, 2, 3, 4)),
        (1, (1,)),
    ],
)
def test_width_choices(width: int, choices: tuple[int, ...]) -> None:
    assert width_choices(width) == choices


def test_narrow_convolutions_have_fewer_choices() -> None:
    assert [len(width_choices(width)) for width in (8, 10)] == [7, 8]


@pytest.mark.parametrize(
    ("blocks", "choices"),
    [
        (1, (1,)),
        (2, (1, 2)),
        (3, (1, 2, 3)),
        (4, (1, 3, 4)),
        (5, (1, 3, 5)),
        (9, (1, 3, 5, 7, 9)),
        (18, (1, 3, 5, 7, 9, 11, 13, 15, 17, 18)),
    ],
)
def test_depth_choices(blocks: int, choices: tuple[int, ...]) -> None:
    assert depth_choices(blocks) == choices


def test_candidates_follow_the_law_of_sampling_without_replacement() -> None:
    torch.manual_seed(0)
    p = torch.tensor([0.5, 0.3, 0.15, 0.05])
    picked, weights = sampled(p.log().expand(100_000, -1), 2)
    assert torch.allclose(weights.sum(1), torch.ones(100_000))
    assert torch.allclose(weights, p[picked] / p[picked].sum(1, keepdim=True), atol=1e-6)
    for a, b in itertools.permutations(range(4), 2):
        frequency = float(((picked[:, 0] == a) & (picked[:, 1] == b)).double().mean())
        assert frequency == pytest.approx(float(p[a] * p[b] / (1 - p[a])), abs=0.005)


def test_the_largest_of_perturbed_logits_follows_their_softmax() -> None:
    torch.manual_seed(1)
    logits = torch.tensor([0.0, 1.0, -1.0])
    first = perturbed(logits.expand(100_000, -1), 5.0).argmax(1)
    frequencies = torch.bincount(first, minlength=3) / 100_000
    assert torch.allclose(frequencies, logits.softmax(0), atol=0.005)


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_what_is_no_choice_is_never_a_candidate(count: int) -> None:
    torch.manual_seed(2)
    logits = torch.tensor([[0.0, -torch.inf, -torch.inf], [0.0, 30.0, -torch.inf]], requires_grad=True)
    for _ in range(50):
        picked, weights = sampled(perturbed(logits, 0.1), count)
        assert picked.shape == weights.shape == (2, min(count, 3))
        exists = logits.detach().gather(1, picked).isfinite()
        assert exists.sum(1).tolist() == [1, min(count, 2)]
        assert float(weights.detach()[~exists].abs().sum()) == 0
        (gradient,) = torch.autograd.grad(weights.square().sum(), logits)
        assert gradient.isfinite().all()


def test_gradients_flow_through_the_weights_of_candidates() -> None:
    torch.manual_seed(3)
    logits = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    scores = perturbed(logits, 2.0)
    picked, weights = sampled(scores, 2)
    (gradient,) = torch.autograd.grad(weights[0, 0], logits)
    p = functional.softmax(scores.detach()[0, picked[0]], 0)
    expected = torch.zeros(4, dtype=torch.float64)
    expected[picked[0]] = torch.stack([p[0] * p[1], -p[0] * p[1]]) / 2.0  # of two logits, softmax is a sigmoid
    assert torch.allclose(gradient[0], expected)


def test_padding_adds_zeros_behind() -> None:
    x = torch.ones(2, 3, 4, 4)
    assert torch.equal(padded(x, 5)[:, :3], x)
    assert float(padded(x, 5)[:, 3:].abs().sum()) == 0
    assert padded(torch.ones(2, 3), 4).tolist() == [[1, 1, 1, 0]] * 2
    assert padded(x, 3) is x


def test_the_temperature_falls_along_a_cosine() -> None:
    found = [temperature(epoch, 4, 5.0, 0.1) for epoch in range(5)]
    assert found == pytest.approx(
        [5.0, 0.1 + 4.9 * (1 + math.sqrt(0.5)) / 2, 2.55, 0.1 + 4.9 * (1 - math.sqrt(0.5)) / 2, 0.1]
    )
