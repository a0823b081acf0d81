import numpy as np
import pytest
from scipy.special import softmax
from sklearn.base import clone
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.svm import SVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from classify.estimators import FACTORIES, make_classifier
from classify.probabilities import MarginCalibrator, with_probabilities


@parametrize_with_checks([MarginCalibrator()])
def test_scikit_learns_contract_holds(estimator, check):
    check(estimator)


def make_data(speakers=6, each=20, seed=0):
    generator = np.random.default_rng(seed)
    targets = generator.integers(0, 3, speakers * each)
    X = generator.normal(size=(len(targets), 8)) + generator.normal(size=(3, 8))[targets]
    return X, np.array(["anger", "fear", "joy"])[targets], np.repeat(np.arange(speakers), each)


@pytest.mark.parametrize("name", [name for name in FACTORIES if name != "feedforward"])
def test_only_what_has_no_probabilities_is_wrapped(name):
    estimator = make_classifier(name)
    wrapped = with_probabilities(estimator)
    assert (wrapped is not estimator) == (name in ("linear-svm", "svm", "ridge"))
    X, y, speakers = make_data()
    if wrapped is not estimator:
        assert wrapped.fit(X, y, groups=speakers).predict_proba(X[:2]).shape == (2, 3)


@pytest.mark.parametrize("labels", [2, 3])
@pytest.mark.parametrize("classifier", [RidgeClassifier(), SVC(kernel="linear", break_ties=True)], ids=str)
def test_the_temperature_is_the_likeliest_on_held_out_speakers(classifier, labels):
    X, y, speakers = make_data()
    kept = y != "joy" if labels == 2 else np.full(len(y), fill_value=True)
    X, y, speakers = X[kept], y[kept], speakers[kept]
    ours = MarginCalibrator(classifier).fit(X, y, groups=speakers)
    margins = np.empty((len(y), 3) if labels == 3 else len(y))
    for train, test in StratifiedGroupKFold(5).split(X, y, speakers):
        margins[test] = clone(classifier).fit(X[train], y[train]).decision_function(X[test])
    margins = margins if labels == 3 else np.stack([np.zeros(len(y)), margins], axis=1)
    losses = [log_loss(y, softmax(margins * ours.sharpness_ * factor, axis=1)) for factor in (0.9, 1, 1.1)]
    assert min(losses) == losses[1] < np.log(labels)
    alone = clone(classifier).fit(X, y)
    np.testing.assert_array_equal(ours.predict(X), alone.predict(X))
    np.testing.assert_array_equal(ours.classes_[ours.predict_proba(X).argmax(1)], alone.predict(X))


@pytest.mark.parametrize("name", ["linear-svm", "svm", "ridge"])
def test_the_label_is_the_one_of_the_highest_probability(name):
    # Seven labels that are hard to tell apart: pairs of them vote for another than the margins do.
    generator = np.random.default_rng(0)
    y, speakers = np.tile(np.arange(7), 40), np.repeat(np.arange(8), 35)
    X = generator.normal(size=(280, 8)) + 0.5 * generator.normal(size=(7, 8))[y]
    fitted = with_probabilities(make_classifier(name)).fit(X, y, groups=speakers)
    rows = generator.normal(size=(500, 8))
    np.testing.assert_array_equal(fitted.predict_proba(rows).argmax(1), fitted.predict(rows))


def test_no_curves_where_no_speaker_can_be_spared():
    X, y, speakers = make_data()
    for groups in (np.zeros(len(y)), np.where(y == "fear", 1, 0)):
        fitted = MarginCalibrator().fit(X, y, groups=groups)
        assert not hasattr(fitted, "predict_proba")
        np.testing.assert_array_equal(fitted.predict(X), RidgeClassifier().fit(X, y).predict(X))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        MarginCalibrator().fit(X, y, groups=speakers[:5])
