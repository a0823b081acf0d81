"""Scores from confusion matrices, intervals from resampling speakers, and paired tests between rows."""

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from classify.results import Estimate, Spread

Counts = NDArray[np.int64]
SCORES = ("accuracy", "balanced_accuracy", "f1_macro")
LEVEL = 0.95
FEW_SPEAKERS = 20  # below it the interval's coverage in simulations falls short of what it says


def count_confusions(
    truth: NDArray[np.integer],
    predicted: NDArray[np.integer],
    groups: NDArray[np.integer],
    shape: tuple[int, int],
) -> Counts:
    """Count predictions per group.

    Parameters
    ----------
    truth, predicted, groups : ndarray of int, shape (n,)
        Label indices, and the number of each prediction's group.
    shape : tuple of int
        Numbers of groups and of labels.

    Returns
    -------
    ndarray of shape (group, label, label)
        Rows are true labels, columns predicted ones.
    """
    num_groups, num_labels = shape
    flat = (groups * num_labels + truth) * num_labels + predicted
    counts = np.bincount(flat, minlength=num_groups * num_labels**2)
    return counts.reshape(num_groups, num_labels, num_labels)


def score_confusions(confusions: NDArray[np.number]) -> NDArray[np.float64]:
    """Return the scores of confusion matrices of shape (..., label, label), in the order of ``SCORES``, (..., 3).

    Balanced accuracy (mean recall) and macro F1 are means over the labels that a matrix has true counts of; nan
    where it has none at all.
    """
    right = np.diagonal(confusions, axis1=-2, axis2=-1)
    true, predicted = confusions.sum(-1), confusions.sum(-2)
    present = true > 0
    num_present = present.sum(-1)
    with np.errstate(invalid="ignore"):
        accuracy = right.sum(-1) / true.sum(-1)
        recall = np.where(present, right / np.where(present, true, 1), 0).sum(-1) / num_present
        # 2 TP / (2 TP + FP + FN), whose denominator is the two margins.
        f1 = np.where(present, 2 * right / np.where(present, true + predicted, 1), 0).sum(-1) / num_present
    return np.stack([accuracy, recall, f1], axis=-1)


def estimate_scores(
    confusions: Counts, *, num_resamples: int = 5000, random_state: int = 0
) -> tuple[Estimate, Estimate, Estimate]:
    """Return the pooled scores, in the order of ``SCORES``, with 95 % intervals over speakers.

    The interval is the expanded percentile interval of Hesterberg (2015), "What teachers should know about the
    bootstrap", The American Statistician 69(4), section 4.3: percentiles of scores of resampled speakers, moved
    outwards as Student's t and ``sqrt(n / (n - 1))`` would, because a plain percentile interval is too narrow
    for few speakers. With one speaker it is 0 to 1: nothing is known about others.

    Parameters
    ----------
    confusions : ndarray of shape (speaker, label, label)
        Counts; speakers without predictions don't count.
    num_resamples : int
    random_state : int
        Seed; rows of one comparison resample the same speakers.
    """
    confusions = confusions[confusions.sum((1, 2)) > 0]
    values = score_confusions(confusions.sum(0))
    n = len(confusions)
    if n == 1:
        lows, highs = np.zeros(3), np.ones(3)
    else:
        draws = np.random.default_rng(random_state).multinomial(n, np.full(n, 1 / n), size=num_resamples)
        resampled = (draws @ confusions.reshape(n, -1)).reshape(num_resamples, *confusions.shape[1:])
        tail = stats.norm.cdf(np.sqrt(n / (n - 1)) * stats.t.ppf((1 - LEVEL) / 2, n - 1))
        lows, highs = np.quantile(score_confusions(resampled), [tail, 1 - tail], axis=0)
    return tuple(  # type: ignore[return-value]
        Estimate(value=float(value), low=min(float(low), float(value)), high=max(float(high), float(value)))
        for value, low, high in zip(values, lows, highs, strict=True)
    )


def spread_scores(confusions: Counts) -> tuple[Spread, Spread, Spread]:
    """Return mean and standard deviation of the scores over folds, from counts of shape (fold, label, label)."""
    scores = score_confusions(confusions)
    means, deviations = scores.mean(0), scores.std(0)
    return tuple(  # type: ignore[return-value]
        Spread(mean=float(mean), std=float(std)) for mean, std in zip(means, deviations, strict=True)
    )


def permutation_test(
    first: Counts, second: Counts, *, num_permutations: int = 9999, random_state: int = 0
) -> float:
    """Return the two-sided p value of a permutation test between two rows' balanced accuracy.

    Under the null hypothesis each speaker's predictions could as well have come from the other row. All
    exchanges are tried where there are no more than ``num_permutations``, else as many random ones, counted
    with the observed one (Phipson and Smyth, 2010, "Permutation p-values should never be zero").

    Parameters
    ----------
    first, second : ndarray of shape (speaker, label, label)
        Counts of the two rows, over the same speakers and utterances.
    num_permutations, random_state : int
    """
    n, shape = len(first), first.shape[1:]
    flat = first.reshape(n, -1), second.reshape(n, -1)
    if exact := 2**n <= num_permutations:
        exchanged = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    else:
        exchanged = np.random.default_rng(random_state).integers(0, 2, (num_permutations, n))

    def differences(exchange: NDArray[np.integer]) -> NDArray[np.float64]:
        moved = exchange @ (flat[1] - flat[0])
        scores = [
            score_confusions(matrices.reshape(-1, *shape))[:, 1]
            for matrices in (flat[0].sum(0) + moved, flat[1].sum(0) - moved)
        ]
        return np.asarray(scores[0] - scores[1])

    observed = abs(differences(np.zeros((1, n), dtype=np.int64))[0])
    # As large up to rounding: equal counts can be summed in another order.
    extreme = np.count_nonzero(np.abs(differences(exchanged)) >= observed - 1e-12)
    return float(extreme / len(exchanged) if exact else (extreme + 1) / (len(exchanged) + 1))


def resampled_t_test(differences: NDArray[np.floating], *, test_share: float) -> float:
    """Return the two-sided p value of the corrected resampled t test.

    Nadeau and Bengio (2003), "Inference for the generalization error", Machine Learning 52, section 5: folds
    share training data, so the variance of the mean is ``(1 / k + n_test / n_train) s²``, not ``s² / k``.

    Parameters
    ----------
    differences : ndarray of shape (fold,)
        Score of one row minus score of the other, per fold; at least two.
    test_share : float
        ``n_test / n_train``, the mean over folds.

    Raises
    ------
    ValueError
        Where there are fewer than two folds.
    """
    k = len(differences)
    if k < 2:
        msg = f"the corrected resampled t test needs at least two folds. Got {k} instead."
        raise ValueError(msg)
    mean, variance = differences.mean(), differences.var(ddof=1)
    if variance == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stats.t.sf(abs(mean) / np.sqrt((1 / k + test_share) * variance), k - 1))


def adjust_holm(p_values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return p values of a family of tests, adjusted for their number by Holm's step-down procedure.

    Holm (1979), "A simple sequentially rejective multiple test procedure", Scand. J. Statistics 6.
    """
    order = np.argsort(p_values)
    factors = len(p_values) - np.arange(len(p_values))
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(np.asarray(p_values)[order] * factors), 1)
    return adjusted
