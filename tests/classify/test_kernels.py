import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import ParameterGrid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import SVC

import classify.fitting
import classify.kernels
from classify.compare import compare
from classify.estimators import GRIDS, make_classifier
from classify.kernels import Gram, is_served


def make_data(n, p, labels, seed=0):
    generator = np.random.default_rng(seed)
    targets = generator.integers(0, labels, n)
    values = generator.normal(size=(n, p)) + generator.normal(size=(labels, p))[targets] * 0.3
    return (3 + 2 * values).astype(np.float32), targets


@pytest.mark.parametrize("labels", [2, 5])
@pytest.mark.parametrize("name", ["linear-svm", "svm", "ridge"])
def test_predictions_are_those_of_the_pipeline(name, labels):
    X, y = make_data(200, 150, labels)
    gram = Gram(X[:120], X[120:])
    for parameters in [{}, *ParameterGrid(GRIDS[name])]:
        estimator = make_classifier(name).set_params(**parameters)
        assert is_served(estimator, 120, 150, several=True)
        expected = estimator.fit(X[:120], y[:120]).predict(X[120:])
        np.testing.assert_array_equal(gram.fit_predict(estimator[-1], y[:120]), expected)


@pytest.mark.parametrize("gamma", ["scale", "auto", 0.01])
def test_weights_and_widths_of_a_machine_are_kept(gamma):
    X, y = make_data(150, 20, 3)
    classifier = SVC(gamma=gamma, C=0.5, class_weight={0: 9.0, 1: 0.2, 2: 1.0})
    expected = make_pipeline(StandardScaler(), classifier).fit(X[:90], y[:90]).predict(X[90:])
    np.testing.assert_array_equal(Gram(X[:90], X[90:]).fit_predict(classifier, y[:90]), expected)


@pytest.mark.parametrize(
    ("estimator", "rows"),
    [
        (make_pipeline(StandardScaler(), LogisticRegression()), 10),
        (make_pipeline(StandardScaler(), SVC(kernel="poly")), 10),
        (make_pipeline(StandardScaler(with_std=False), SVC()), 10),
        (make_pipeline(MinMaxScaler(), SVC()), 10),
        (make_pipeline(StandardScaler(), MinMaxScaler(), SVC()), 10),
        (SVC(), 10),
        (make_pipeline(StandardScaler(), SVC()), 10**6),
        (make_pipeline(StandardScaler(), RidgeClassifier(class_weight="balanced")), 10),
        (make_pipeline(StandardScaler(), RidgeClassifier(alpha=np.ones(3))), 10),
        (make_pipeline(StandardScaler(), RidgeClassifier()), 200),
    ],
    ids=str,
)
def test_what_needs_more_than_products_is_left_alone(estimator, rows):
    assert not is_served(estimator, rows, 100, several=True)


def test_a_lone_ridge_is_as_fast_by_itself():
    assert not is_served(make_classifier("ridge"), 10, 100, several=False)
    assert is_served(make_classifier("svm"), 10, 100, several=False)


@pytest.mark.parametrize(("name", "layers"), [("svm", [1]), ("linear-svm", "best")])
def test_each_part_is_multiplied_once(make_cache, monkeypatch, name, layers):
    parts = []

    class Counted(Gram):
        def __init__(self, training, tested):
            parts.append((len(training), len(tested)))
            super().__init__(training, tested)

    cache = make_cache("one")
    monkeypatch.setattr(classify.fitting, "Gram", Counted)
    options = {"classifiers": [name], "layers": layers, "tune": True, "baselines": False}
    shared = compare([cache], **options).results[0]
    inner, outer = 6 * 3 * (3 if layers == "best" else 1), 6
    assert len(parts) == inner + outer
    monkeypatch.setattr(classify.kernels, "MOST_ROWS", 0)
    alone = compare([cache], **options).results[0]
    assert len(parts) == inner + outer
    assert (alone.predictions, alone.chosen) == (shared.predictions, shared.chosen)
