"""Classifiers that see rows through their products only: one Gram matrix of a fold serves all their parameters."""

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import LabelBinarizer, StandardScaler
from sklearn.svm import SVC

Matrix = NDArray[np.float64]
MOST_ROWS = 5000  # of a training part: its Gram matrix is then 200 MB


def is_served(estimator: BaseEstimator, num_rows: int, num_features: int, *, several: bool) -> bool:
    """Return whether a Gram matrix spares work in fitting this pipeline on that many rows.

    That is a support vector machine of linear or Gaussian kernel, or a ridge that weighs no class, behind a plain
    ``StandardScaler``. A ridge gains where ``several`` are fitted on one training part, of no more rows than features.
    """
    if not isinstance(estimator, Pipeline) or len(estimator) != 2 or num_rows > MOST_ROWS:
        return False
    scaler, classifier = estimator[0], estimator[-1]
    if type(scaler) is not StandardScaler or scaler.get_params() != StandardScaler().get_params():
        return False
    if type(classifier) is SVC:
        return classifier.kernel in ("linear", "rbf") and classifier.probability is not True
    plain = RidgeClassifier(alpha=classifier.alpha) if type(classifier) is RidgeClassifier else None
    return (
        several
        and plain is not None
        and classifier.get_params() == plain.get_params()
        and np.isscalar(classifier.alpha)
        and num_rows <= num_features
    )


class Gram:
    """The products of a fold's standardised rows, of training ones with each other and with the tested ones.

    Parameters
    ----------
    training, tested : ndarray of shape (row, feature)
        As they are; both are standardised by the training rows.
    """

    def __init__(self, training: NDArray[np.floating], tested: NDArray[np.floating]) -> None:
        scaler = StandardScaler().fit(training)
        rows, others = (np.asarray(scaler.transform(part), dtype=np.float64) for part in (training, tested))
        self.products: Matrix = rows @ rows.T
        self.cross: Matrix = others @ rows.T
        self.lengths = np.square(rows).sum(1)
        self.other_lengths = np.square(others).sum(1)
        # What SVC calls "scale" and "auto".
        self.gammas = {"scale": 1 / (rows.shape[1] * rows.var() or 1.0), "auto": 1 / rows.shape[1]}

    def fit_predict(self, classifier: BaseEstimator, targets: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return what the classifier, fitted on the training rows, predicts for the tested ones."""
        if isinstance(classifier, SVC):
            return self._support_vectors(classifier, targets)
        binarizer = LabelBinarizer(neg_label=-1)
        signs = binarizer.fit_transform(targets).astype(np.float64)
        means = signs.mean(0)
        # Standardised rows have mean 0, so that the intercept is the mean of what is predicted.
        regularised = self.products + classifier.alpha * np.eye(len(targets))
        dual = linalg.solve(regularised, signs - means, assume_a="pos", overwrite_a=True)
        scores = self.cross @ dual + means
        places = (scores[:, 0] > 0).astype(np.int64) if scores.shape[1] == 1 else scores.argmax(1)
        predicted: NDArray[np.int64] = binarizer.classes_[places]
        return predicted

    def _support_vectors(self, classifier: SVC, targets: NDArray[np.int64]) -> NDArray[np.int64]:
        products, cross = self.products, self.cross
        if classifier.kernel == "rbf":
            gamma = self.gammas.get(classifier.gamma, classifier.gamma)
            products = _gaussian(products, self.lengths, self.lengths, gamma)
            cross = _gaussian(cross, self.other_lengths, self.lengths, gamma)
        fitted = clone(classifier).set_params(kernel="precomputed").fit(products, targets)
        predicted: NDArray[np.int64] = fitted.predict(cross)
        return predicted


def _gaussian(products: Matrix, first: Matrix, second: Matrix, gamma: float) -> Matrix:
    distances: Matrix = first[:, None] + second - 2 * products
    similarities: Matrix = np.exp(-gamma * np.maximum(distances, 0))
    return similarities
