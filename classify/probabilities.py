"""Probabilities for classifiers that have margins only."""

from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_predict
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d, validate_data

from classify.estimators import fit_arguments

MOST_FOLDS = 5


def with_probabilities(estimator: BaseEstimator) -> BaseEstimator:
    """Return a classifier that has probabilities as it is, and one of margins inside a ``MarginCalibrator``."""
    has_margins = hasattr(estimator, "decision_function") and not fit_arguments(estimator, np.zeros(0))
    return MarginCalibrator(estimator) if has_margins and not _has_probabilities(estimator) else estimator


def _has_probabilities(estimator: BaseEstimator) -> bool:
    return hasattr(estimator, "predict_proba")


class MarginCalibrator(ClassifierMixin, BaseEstimator):
    """A classifier of margins, with probabilities that are the softmax of its margins over a temperature.

    The temperature is what makes margins of held-out rows, whole groups at a time, most likely (Guo et al., 2017, "On
    calibration of modern neural networks", section 4.2). One number can't change which label comes first: labels
    stay the classifier's own, whose scores are known, as they would not by a logistic curve for each label.

    Parameters
    ----------
    estimator : classifier with ``decision_function``, or None
        None is ``RidgeClassifier``.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    estimator_ : BaseEstimator
        Fitted on all rows.
    sharpness_ : float or None
        One over the temperature; None where the rows can't be divided so that every label stays in training. There
        are no probabilities then.
    n_features_in_ : int
    """

    def __init__(self, estimator: BaseEstimator | None = None) -> None:
        self.estimator = estimator

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Fit on X of shape (n_samples, n_features) and labels y; rows of one of ``groups`` are held out together.

        Raises
        ------
        ValueError
            Where X or y can't be learnt from.
        """
        features, labels = validate_data(self, X, y, dtype=[np.float32, np.float64])
        check_classification_targets(labels)
        estimator = RidgeClassifier() if self.estimator is None else self.estimator
        self.classes_ = np.unique(labels)
        self.estimator_ = clone(estimator).fit(features, labels)
        parts = _parts(labels, groups)
        self.sharpness_ = _sharpness(estimator, features, labels, parts) if parts else None
        return self

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the classifier's own label of each row, of shape (n_samples,)."""
        check_is_fitted(self)
        features = validate_data(self, X, dtype=[np.float32, np.float64], reset=False)
        labels: NDArray[Any] = self.estimator_.predict(features)
        return labels

    def decision_function(self, X: ArrayLike) -> NDArray[np.floating]:
        """Return the classifier's margins, as it shapes them."""
        check_is_fitted(self)
        features = validate_data(self, X, dtype=[np.float32, np.float64], reset=False)
        margins: NDArray[np.floating] = self.estimator_.decision_function(features)
        return margins

    def _probabilities(self, X: ArrayLike) -> NDArray[np.floating]:
        check_is_fitted(self)
        logs = _log_probabilities(self.decision_function(X), float(self.sharpness_ or 0))
        probabilities: NDArray[np.floating] = np.exp(logs)
        return probabilities

    @property
    def predict_proba(self) -> Callable[[ArrayLike], NDArray[np.floating]]:
        """Takes X and returns probabilities of shape (n_samples, n_classes), in the order of ``classes_``.

        Raises
        ------
        AttributeError
            Where no temperature could be found, so that ``hasattr`` tells.
        """
        if getattr(self, "estimator_", None) is not None and self.sharpness_ is None:
            msg = "no rows could be held out to find probabilities with."
            raise AttributeError(msg)
        return self._probabilities


def _log_probabilities(margins: NDArray[np.floating], sharpness: float) -> NDArray[np.floating]:
    both = np.stack([np.zeros_like(margins), margins], axis=1) if margins.ndim == 1 else margins
    logs: NDArray[np.floating] = log_softmax(sharpness * both, axis=1)
    return logs


def _sharpness(
    estimator: BaseEstimator,
    features: NDArray[np.floating],
    labels: NDArray[Any],
    parts: list[tuple[NDArray[np.intp], NDArray[np.intp]]],
) -> float:
    """Return the factor on held-out margins under which the labels are likeliest."""
    margins = cross_val_predict(estimator, features, labels, cv=parts, method="decision_function")
    places = np.searchsorted(np.unique(labels), labels)
    typical = float(np.std(margins)) or 1.0

    def loss(log_sharpness: float) -> float:
        logs = _log_probabilities(margins, np.exp(log_sharpness) / typical)
        return -float(logs[np.arange(len(places)), places].mean())

    # From nearly even to nearly certain; the loss has one minimum.
    found = minimize_scalar(loss, bounds=(-7.0, 7.0), method="bounded")
    return float(np.exp(found.x) / typical)


def _parts(labels: NDArray[Any], groups: ArrayLike | None) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Return parts to learn from and to hold out, or nothing where some would learn without a label."""
    distinct, counts = np.unique(labels, return_counts=True)
    if groups is None:
        folds = min(MOST_FOLDS, int(counts.min()))
        splitter: Any = StratifiedKFold(max(2, folds))
    else:
        groups = column_or_1d(groups)
        check_consistent_length(labels, groups)
        folds = min(MOST_FOLDS, len(np.unique(groups)))
        splitter = StratifiedGroupKFold(max(2, folds))
    if folds < 2 or counts.min() < folds or len(distinct) < 2:
        return []
    parts = list(splitter.split(np.zeros(len(labels)), labels, groups))
    return parts if all(set(labels[train]) == set(distinct) for train, _ in parts) else []
