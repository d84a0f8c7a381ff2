"""The feature selector, against scikit-learn's checks and its own definitions."""

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from scionet import GreedySelector
from scionet.errors import InvalidSetting


@parametrize_with_checks(
    [GreedySelector(), GreedySelector(1, objective="logistic"), GreedySelector(1, partitions=2, backend="threading")]
)
@pytest.mark.filterwarnings("ignore")  # the checks use odd data deliberately
def test_the_selector_passes_scikit_learns_checks(estimator, check) -> None:
    check(estimator)


def test_selected_features_match_repeated_regressions() -> None:
    x, y = load_diabetes(return_X_y=True)
    order: list[int] = []
    for _ in range(4):
        rest = [f for f in range(x.shape[1]) if f not in order]
        order.append(max(rest, key=lambda f: LinearRegression().fit(x[:, [*order, f]], y).score(x[:, [*order, f]], y)))
    selector = GreedySelector(4).fit(x, y)
    assert selector.order_.tolist() == order
    assert selector.scores_[-1] == pytest.approx(LinearRegression().fit(x[:, order], y).score(x[:, order], y))
    assert selector.transform(x).shape == (len(x), 4)
    assert selector.get_support(indices=True).tolist() == sorted(order)


def test_in_a_pipeline_with_classes_and_names() -> None:
    data = load_breast_cancer(as_frame=False)
    selector = GreedySelector(5, objective="logistic")
    model = make_pipeline(StandardScaler(), selector, LogisticRegression()).fit(data.data, data.target)
    assert model.score(data.data, data.target) > 0.96
    assert len(selector.order_) == 5
    strings = np.array(["benign", "malignant"])[data.target]
    again = GreedySelector(5, objective="logistic").fit(StandardScaler().fit_transform(data.data), strings)
    assert again.order_.tolist() == selector.order_.tolist()


def test_distributed_and_stochastic_are_seeded_and_close() -> None:
    x, y = load_diabetes(return_X_y=True)
    exact = GreedySelector(4).fit(x, y).scores_[-1]
    for options in ({"partitions": 3, "backend": "threading"}, {"candidates": "stochastic"}):
        first, second = (GreedySelector(4, random_state=5, **options).fit(x, y) for _ in range(2))
        assert first.order_.tolist() == second.order_.tolist()
        assert 0.9 * exact < first.scores_[-1] <= exact + 1e-12


@pytest.mark.parametrize(
    "options",
    [
        {"n_features_to_select": 0},
        {"n_features_to_select": 11},
        {"n_features_to_select": 1.5},
        {"objective": "f1"},
        {"candidates": "lazy"},
        {"partitions": 0},
        {"candidates": "stochastic", "epsilon": 1.0},
    ],
)
def test_wrong_settings(options) -> None:
    x, y = load_diabetes(return_X_y=True)
    with pytest.raises(InvalidSetting, match="given"):
        GreedySelector(**options).fit(x, y)
