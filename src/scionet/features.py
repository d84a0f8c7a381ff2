"""Greedy forward selection of features, as a scikit-learn selector."""

from typing import Any, Literal

import numpy as np

from scionet.choices.resources import BackendName
from scionet.errors import InvalidSetting
from scionet.extras import extra
from scionet.selection.distributed import distributed
from scionet.selection.logistic import LogisticLikelihood
from scionet.selection.objective import Objective
from scionet.selection.policies import EXACT, Policy, StochasticPolicy
from scionet.selection.setfunctions import RSquared
from scionet.typing import BoolArray

with extra("sklearn"):
    from sklearn.base import BaseEstimator
    from sklearn.feature_selection import SelectorMixin
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data


class GreedySelector(SelectorMixin, BaseEstimator):
    """Forward selection of features for a linear or a logistic regression.

    Unlike `sklearn.feature_selection.SequentialFeatureSelector`, it maximises the fit to the training data, not a
    cross-validated score. Linear regressions are not refitted; they grow by one Cholesky column per feature.

    Args:
        n_features_to_select: Number of features to keep, or their fraction (a float in (0, 1]). None keeps half.
        objective: ``"r2"`` for numeric targets: share of the variance explained by a linear regression. ``"logistic"``
            for classes: share of the deviance explained by a multinomial logistic regression.
        candidates: Evaluate every candidate at each step (``"exact"``) or a random sample (``"stochastic"``).
        epsilon: Stochastic candidates: the sample has (N / k) ln(1 / epsilon) features.
        partitions: Number of shares in distributed selection; 1 selects from all features in one round.
        workers: Number of workers in distributed selection; None uses all available.
        backend: Joblib backend: ``"loky"``, ``"threading"``, ``"sequential"``, ``"ray"`` or ``"dask"``.
        random_state: Seed of samples and shares.

    Attributes:
        support_: Mask of the kept features, shape ``(n_features,)``.
        order_: Kept features in the order in which they were picked.
        scores_: The objective after each pick.
        n_features_in_: Number of features of the training data.
    """

    backend: BackendName

    def __init__(
        self,
        n_features_to_select: int | float | None = None,
        *,
        objective: Literal["r2", "logistic"] = "r2",
        candidates: Literal["exact", "stochastic"] = "exact",
        epsilon: float = 0.1,
        partitions: int = 1,
        workers: int | None = None,
        backend: BackendName = "loky",
        random_state: int = 0,
    ) -> None:
        self.n_features_to_select = n_features_to_select
        self.objective = objective
        self.candidates = candidates
        self.epsilon = epsilon
        self.partitions = partitions
        self.workers = workers
        self.backend = backend
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> "GreedySelector":
        """Select features.

        Args:
            X: Training data, shape ``(n_samples, n_features)``.
            y: Numeric target or classes, shape ``(n_samples,)``.

        Raises:
            InvalidSetting: If a setting is out of range, or `y` is constant.
        """
        objective = self._objective(X, y)
        found = distributed(
            objective,
            self._n_units(objective.size),
            partitions=self.partitions,
            seed=self.random_state,
            policy=self._policy(),
            workers=self.workers,
            backend=self.backend,
        ).selection
        self.support_ = np.isin(np.arange(objective.size), found.kept)
        self.order_, self.scores_ = np.array(found.order, dtype=np.int64), np.array(found.values)
        return self

    def _objective(self, x: Any, y: Any) -> Objective[Any]:
        """Set function of the training data. Also records the number and names of features."""
        if self.objective not in ("r2", "logistic"):
            raise InvalidSetting(f"objective must be 'r2' or 'logistic'; given {self.objective!r}")
        classes = self.objective == "logistic"
        x, y = validate_data(self, x, y, dtype=np.float64, y_numeric=not classes, ensure_min_samples=2)
        if classes:
            check_classification_targets(y)
            return LogisticLikelihood(x, np.unique(y, return_inverse=True)[1])
        return RSquared(x, y)

    def _policy(self) -> Policy:
        if self.candidates not in ("exact", "stochastic"):
            raise InvalidSetting(f"candidates must be 'exact' or 'stochastic'; given {self.candidates!r}")
        return EXACT if self.candidates == "exact" else StochasticPolicy(self.epsilon)

    def _n_units(self, size: int) -> int:
        """The number of features to keep.

        Raises:
            InvalidSetting: If it is out of range.
        """
        wanted = 0.5 if self.n_features_to_select is None else self.n_features_to_select
        if isinstance(wanted, float) and 0 < wanted <= 1:
            return max(1, int(wanted * size))
        if isinstance(wanted, int | np.integer) and 1 <= wanted <= size:
            return int(wanted)
        raise InvalidSetting(
            f"n_features_to_select must be a whole number from 1 to {size}, a fraction in (0, 1] or None; given "
            f"{wanted!r}"
        )

    def _get_support_mask(self) -> BoolArray:  # pyright: ignore[reportIncompatibleMethodOverride]  abstract there
        check_is_fitted(self)
        return self.support_

    def __sklearn_tags__(self) -> Any:
        """Tags: a target is required."""
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags
