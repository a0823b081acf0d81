"""How far a classifier's probabilities can be taken at their word."""

import numpy as np
from numpy.typing import NDArray

from classify.results import Calibration

NUM_BINS = 15  # of equal width, as Guo et al. (2017), section 5, "Evaluation"


def measure_calibration(confidences: NDArray[np.floating], right: NDArray[np.bool_]) -> Calibration:
    """Compare how sure a classifier was of its answers with how often they were right.

    The expected calibration error is that of Guo et al. (2017), "On calibration of modern neural networks",
    equation 3: predictions are put into ``NUM_BINS`` bins of equal width by the probability of the predicted label,
    each closed at its upper end; in each, the share of right answers is held against the mean probability, and the
    distances are averaged, weighted by the number of predictions.

    Parameters
    ----------
    confidences : ndarray of shape (n,)
        Probability that the classifier gave to the label that it found most probable, in [0, 1].
    right : ndarray of bool, shape (n,)
        Whether that was the true label.

    Raises
    ------
    ValueError
        Where there are no predictions, or a confidence is no probability.
    """
    if not len(confidences) or not (confidences.min() >= 0 and confidences.max() <= 1 + 1e-6):
        span = f"{confidences.min()} to {confidences.max()}" if len(confidences) else "none"
        msg = f"calibration needs probabilities in [0, 1]. Got {span} instead."
        raise ValueError(msg)
    confidences = np.minimum(np.asarray(confidences, dtype=np.float64), 1)
    # A bin holds its upper edge: 0.2 of 15 bins is in (2 / 15, 3 / 15]. The margin is for the edges' own rounding.
    bins = np.ceil(confidences * NUM_BINS - 1e-9).astype(np.int64).clip(1, NUM_BINS) - 1
    counts = np.bincount(bins, minlength=NUM_BINS)
    filled = np.maximum(counts, 1)
    mean_confidences = np.bincount(bins, weights=confidences, minlength=NUM_BINS) / filled
    accuracies = np.bincount(bins, weights=right, minlength=NUM_BINS) / filled
    error = float(counts @ np.abs(accuracies - mean_confidences) / counts.sum())
    return Calibration(
        error=min(error, 1.0),
        counts=tuple(counts.tolist()),
        confidences=tuple(np.minimum(mean_confidences, 1).tolist()),
        accuracies=tuple(accuracies.tolist()),
    )
