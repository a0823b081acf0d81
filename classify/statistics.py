"""Scores from confusion matrices, intervals from resampling speakers, and paired tests between rows."""

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from classify.results import Estimate, Spread

Counts = NDArray[np.int64]
SCORES = ("accuracy", "balanced_accuracy", "f1_macro")
LEVEL = 0.95
MOST_EXCHANGES = 2 * 10**8  # of pairs of rows: seconds
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


def share_scores(confusions: Counts) -> NDArray[np.float64]:
    """Return what each group adds to the pooled balanced accuracy, shape (..., group); the sum is the score.

    Parameters
    ----------
    confusions : ndarray of shape (..., group, label, label)
    """
    true = confusions.sum((-3, -1))
    weights = np.where(true > 0, 1 / np.maximum(true, 1), 0) / (true > 0).sum(-1, keepdims=True)
    shares: NDArray[np.float64] = np.einsum("...gll,...l->...g", confusions, weights)
    return shares


def exchange_test(
    shares: NDArray[np.floating],
    systems: NDArray[np.integer],
    *,
    num_permutations: int = 9999,
    random_state: int = 0,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the p values of a row being better than the best row of another system, as they are and corrected.

    The first are two-sided, of a permutation test: under the null hypothesis of a pair each speaker's predictions could
    as well have come from the other row. All exchanges are tried where there are no more than ``num_permutations``, else
    as many random ones, counted with the observed one (Phipson and Smyth, 2010, "Permutation p-values should never be
    zero").

    The second pay for picking the better row out of all by its score: they say how often some row would be so far above
    some system's best, were all equally good. Rows less their own means, of which chance changes the sign speaker by
    speaker, stand for equal ones, so that bad rows cost nothing; they are widened as Student's t is against the normal,
    for few speakers. All rows see the same signs, so rows that agree cost little. Larger differences are out of the
    count for smaller ones. That is the step-down procedure of Westfall and Young (1993), "Resampling-based multiple
    testing", section 2.6: Holm's, with the distribution of the largest difference in place of Bonferroni's bound on
    it. None is below the p value of its own permutation test.

    Parameters
    ----------
    shares : ndarray of shape (row, speaker)
        What each speaker adds to a row's score, as ``share_scores`` gives it.
    systems : ndarray of int, shape (row,)
        Number of each row's system. Where all have one, each row is tested against each.
    num_permutations : int
        With many rows fewer are drawn, so that pairs times exchanges stay within ``MOST_EXCHANGES``.
    random_state : int

    Returns
    -------
    tuple of two ndarrays of shape (row, row)
        Of the first axis' row being better than the second's; 1 where that is not tested.
    """
    m, n = shares.shape
    systems = np.arange(m) if len(np.unique(systems)) == 1 else systems
    totals = shares.sum(1)
    ranked = np.argsort(-totals, kind="stable")
    best = ranked[np.unique(systems[ranked], return_index=True)[1]]
    first, second = (index.ravel() for index in np.meshgrid(np.arange(m), best, indexing="ij"))
    apart = systems[first] != systems[second]
    order = np.argsort((totals[first] - totals[second])[apart], kind="stable")
    first, second = first[apart][order], second[apart][order]
    observed, rounding = totals[first] - totals[second], 1e-12  # equal shares can be summed in another order
    limit = min(num_permutations, max(MOST_EXCHANGES // len(first), 999))
    if exact := 2**n <= limit:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    else:
        signs = np.random.default_rng(random_state).choice([-1, 1], (limit, n))
    tail = (1 - LEVEL) / 2
    wider = np.sqrt(n / (n - 1)) * stats.t.ppf(tail, n - 1) / stats.norm.ppf(tail) if n > 1 else 1.0
    equal = wider * (shares - shares.mean(1, keepdims=True))
    counts = np.zeros((2, len(first)), dtype=np.int64)
    at_once = max(1, 2**22 // len(first))
    for start in range(0, len(signs), at_once):
        scores, noise = (signs[start : start + at_once] @ rows.T for rows in (shares, equal))
        counts[0] += np.count_nonzero(
            np.abs(scores[:, first] - scores[:, second]) >= np.abs(observed) - rounding, axis=0
        )
        largest = np.maximum.accumulate(noise[:, first] - noise[:, second], axis=1)
        counts[1] += np.count_nonzero(largest >= observed - rounding, axis=0)
    plain = counts[0] / len(signs) if exact else (counts[0] + 1) / (len(signs) + 1)
    corrected = np.maximum(plain, (counts[1] + 1) / (len(signs) + 1)) if m > 2 else plain
    tables = np.ones((2, m, m))
    tables[0, first, second] = plain
    tables[1, first, second] = np.maximum.accumulate(corrected[::-1])[::-1]
    return tables[0], tables[1]


def resampled_t_test(differences: NDArray[np.floating], *, test_share: float) -> float | None:
    """Return the two-sided p value of the corrected resampled t test; None where all folds differ alike, and not by 0.

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
    # Equal up to rounding: without a variance nothing says what chance would do.
    if np.ptp(differences) <= 1e-12:
        return 1.0 if abs(mean) <= 1e-12 else None
    return float(2 * stats.t.sf(abs(mean) / np.sqrt((1 / k + test_share) * variance), k - 1))
