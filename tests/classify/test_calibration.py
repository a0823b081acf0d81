import functools

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import calibration_curve
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

import classify.compare
from classify.calibration import NUM_BINS, measure_calibration
from classify.estimators import make_classifier
from classify.results import Comparison

compare = functools.partial(classify.compare.compare, baselines=False)


def plain_error(confidences, right):
    """Guo et al. (2017), equation 3, bin by bin."""
    error = 0.0
    for number in range(1, NUM_BINS + 1):
        low, high = (number - 1) / NUM_BINS, number / NUM_BINS
        inside = [
            place
            for place, sure in enumerate(confidences)
            if low < sure <= high or (sure == 0 and number == 1)
        ]
        if inside:
            accuracy = sum(right[place] for place in inside) / len(inside)
            confidence = sum(confidences[place] for place in inside) / len(inside)
            error += len(inside) / len(confidences) * abs(accuracy - confidence)
    return error


@pytest.mark.parametrize("seed", range(5))
def test_the_error_is_that_of_a_plain_loop(seed):
    rng = np.random.default_rng(seed)
    confidences = rng.beta(4, 2, 400)
    right = rng.random(400) < confidences ** (seed / 2)
    found = measure_calibration(confidences, right)
    assert found.error == pytest.approx(plain_error(confidences, right), abs=1e-12)
    assert sum(found.counts) == 400
    assert found.error > 0


def test_bins_are_those_of_scikit_learn():
    # Its bins are closed below instead of above, which differs on the edges only.
    rng = np.random.default_rng(0)
    confidences = rng.random(1000)
    right = rng.random(1000) < 0.6
    accuracies, means = calibration_curve(right, confidences, n_bins=NUM_BINS)
    found = measure_calibration(confidences, right)
    np.testing.assert_allclose(found.accuracies, accuracies)
    np.testing.assert_allclose(found.confidences, means)


def test_an_edge_belongs_to_the_bin_below_and_zero_to_the_first():
    edges = np.arange(NUM_BINS + 1) / NUM_BINS
    counts = measure_calibration(edges, np.ones(len(edges), bool)).counts
    assert counts == (2, *[1] * (NUM_BINS - 1))


def test_who_is_as_often_right_as_he_says_has_no_error():
    sure = np.repeat([0.5, 0.75, 1.0], [10, 20, 5])
    right = np.concatenate([np.arange(10) < 5, np.arange(20) < 15, np.ones(5, bool)])
    found = measure_calibration(sure, right)
    assert found.error == pytest.approx(0)
    assert found.accuracies[7] == 0.5
    assert found.counts[0] == found.accuracies[0] == found.confidences[0] == 0


def test_who_is_always_sure_and_never_right_has_the_largest_error():
    found = measure_calibration(np.float32([1 + 1e-7, 1]), np.zeros(2, bool))
    assert found.error == 1.0
    assert found.confidences[-1] == 1.0


@pytest.mark.parametrize(
    ("confidences", "came"), [([], "none"), ([-0.5, 1], "-0.5 to 1.0"), ([0.5, np.nan], "nan")]
)
def test_what_is_no_probability_is_refused(confidences, came):
    with pytest.raises(ValueError, match=f"calibration needs probabilities in \\[0, 1\\]. Got {came}"):
        measure_calibration(np.array(confidences), np.zeros(len(confidences), bool))


class Doubter(ClassifierMixin, BaseEstimator):
    """Its probabilities are none."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return np.full(len(X), self.classes_[0])

    def predict_proba(self, X):
        return np.full((len(X), len(self.classes_)), np.nan)


def test_a_row_is_measured_over_all_its_folds(make_cache):
    cache = make_cache("one")
    (row,) = compare([cache], classifiers=["logistic"], layers=[1]).results
    targets = np.unique(cache.labels, return_inverse=True)[1]
    shares = cross_val_predict(
        make_classifier("logistic"),
        cache.features(1),
        targets,
        groups=cache.speakers,
        cv=LeaveOneGroupOut(),
        method="predict_proba",
    )
    expected = plain_error(shares.max(1), shares.argmax(1) == targets)
    assert row.calibration.error == pytest.approx(expected, abs=1e-6)
    assert expected > 0.01


@pytest.mark.parametrize("classifier", ["svm", f"{__name__}:Doubter"])
def test_a_row_without_probabilities_is_not_measured(make_cache, classifier):
    (row,) = compare([make_cache("one")], classifiers=[classifier], layers=[1]).results
    assert row.calibration is None


def test_heads_are_measured_too_and_finished_work_keeps_it(make_cache, tmp_path):
    caches, where = [make_cache("one")], tmp_path / "unfinished.jsonl"
    first = compare(caches, classifiers=["feedforward"], layers=[2], checkpoint=where)
    again = compare(caches, classifiers=["feedforward"], layers=[2], checkpoint=where)
    assert first.results[0].calibration is not None
    assert again.results[0] == first.results[0]
    assert Comparison.from_json(first.to_json()) == first
