"""Label noise by its definition: who is noisy, and which labels they get."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scionet.data.noise import LabelNoise
from scionet.errors import InvalidSetting


@given(st.floats(0, 1), st.integers(2, 12), st.integers(0, 300), st.integers(0, 5))
def test_wrong_labels_are_never_true_and_their_number_is_exact(fraction, classes, count, seed) -> None:
    labels = np.random.default_rng(seed).integers(classes, size=count)
    before = labels.copy()
    found = LabelNoise(fraction, "wrong", seed).apply(labels, classes)
    assert np.array_equal(labels, before)
    assert len(found.noisy) == round(fraction * count)
    assert [i for i in range(count) if found.labels[i] != labels[i]] == found.noisy.tolist()
    assert sorted([*found.noisy, *found.clean]) == list(range(count))
    assert np.all((found.labels >= 0) & (found.labels < classes))
    again = LabelNoise(fraction, "wrong", seed).apply(labels, classes)
    assert np.array_equal(again.labels, found.labels)


def test_uniform_labels_are_sometimes_true() -> None:
    """Of 15 % redrawn labels of ten classes, 13.5 % of all are wrong."""
    labels = np.random.default_rng(0).integers(10, size=100_000)
    found = LabelNoise(0.15, "uniform", 1).apply(labels, 10)
    assert np.array_equal(np.flatnonzero(found.labels != labels), found.noisy)
    assert len(found.noisy) == pytest.approx(13_500, abs=150)
    counts = np.bincount(found.labels[found.noisy], minlength=10)
    assert counts.min() > 0.9 * counts.max()


def test_all_wrong_classes_are_equally_likely() -> None:
    found = LabelNoise(1.0).apply(np.full(90_000, 3), 10)
    counts = np.bincount(found.labels, minlength=10)
    assert counts[3] == 0
    assert np.delete(counts, 3) == pytest.approx(10_000, abs=400)


def test_seeds_choose_other_examples() -> None:
    labels = np.zeros(1000, dtype=np.int64)
    first, second = (LabelNoise(0.1, seed=seed).apply(labels, 10).noisy for seed in (0, 1))
    assert len(np.intersect1d(first, second)) < 30


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LabelNoise(1.5), "from 0 to 1; given 1.5"),
        (lambda: LabelNoise(float("nan")), "from 0 to 1"),
        (lambda: LabelNoise(0.1, "other"), "Did you mean|uniform"),  # type: ignore[arg-type]
        (lambda: LabelNoise(0.1).apply(np.zeros(3, dtype=np.int64), 1), "two classes or more"),
        (lambda: LabelNoise(0.1).apply(np.array([0, 4]), 4), r"labels in 0\.\.3"),
    ],
)
def test_wrong_settings_are_refused(make, message) -> None:
    with pytest.raises(InvalidSetting, match=message):
        make()
