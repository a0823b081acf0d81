import numpy as np
import pytest
from sklearn.base import is_classifier
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import ParameterGrid
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MinMaxScaler

from classify.estimators import FACTORIES, GRIDS, fit_arguments, make_classifier, named


def make_pipeline_of_own():
    return Pipeline([("squeeze", MinMaxScaler()), ("logistic", LogisticRegression())])


def needs_a_width(width):
    return LogisticRegression(C=width)


def makes_a_number():
    return 3


@pytest.mark.parametrize("name", FACTORIES)
def test_every_entry_of_the_menu_learns_and_repeats_itself(name):
    X, y = make_classification(
        150,
        40,
        n_informative=6,
        n_redundant=0,
        n_classes=3,
        n_clusters_per_class=1,
        class_sep=3,
        random_state=0,
    )
    X, y = 1000 * X.astype(np.float32), np.array(["anger", "fear", "joy"])[y]
    first, second = (make_classifier(name, random_state=1) for _ in range(2))
    assert is_classifier(first)
    predicted = first.fit(X[::2], y[::2]).predict(X[1::2])
    np.testing.assert_array_equal(predicted, second.fit(X[::2], y[::2]).predict(X[1::2]))
    accuracy = (predicted == y[1::2]).mean()
    assert accuracy == pytest.approx(1 / 3, abs=0.1) if name == "majority" else accuracy > 0.6


def test_all_is_the_menu_of_pooled_features_each_once():
    menu = named(["svm", "all", "svm", "sklearn.svm:NuSVC"])
    assert menu[0] == "svm"
    assert menu[-1] == "sklearn.svm:NuSVC"
    assert sorted(menu[:-1]) == sorted({*FACTORIES, "weighted-sum"} - {"majority"})
    assert named(["knn", "majority"]) == ("knn", "majority")


@pytest.mark.parametrize("name", ["feedforward", "random-forest", "hist-gradient-boosting"])
def test_the_seed_reaches_the_classifier(name):
    estimator = make_classifier(name, random_state=17)
    assert 17 in [value for key, value in estimator.get_params().items() if key.endswith("random_state")]


def test_any_importable_classifier_is_standardised_and_seeded():
    estimator = make_classifier("sklearn.linear_model:SGDClassifier", random_state=5)
    assert [name for name, _ in estimator.steps] == ["standardscaler", "sgdclassifier"]
    assert estimator[-1].random_state == 5


def test_an_imported_pipeline_is_taken_as_it_is():
    estimator = make_classifier(f"{__name__}:make_pipeline_of_own")
    assert [name for name, _ in estimator.steps] == ["squeeze", "logistic"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("forest", r"classifier must be one of feedforward, logistic.*or module:Class. Got 'forest'"),
        (":SVC", "classifier must be one of"),
        ("no_such_module:Thing", "module 'no_such_module' can't be imported"),
        ("sklearn.svm:NoSuchThing", "module 'sklearn.svm' has no class or function 'NoSuchThing'"),
        ("sklearn.svm:__name__", "has no class or function '__name__'"),
        ("sklearn.svm:SVR", "must be a scikit-learn classifier. It makes a SVR"),
        (
            "builtins:dict",
            "classifier 'builtins:dict' must be a scikit-learn classifier. It has no signature",
        ),
        (f"{__name__}:makes_a_number", "must be a scikit-learn classifier. It makes a int"),
        (f"{__name__}:needs_a_width", "must be callable without arguments. It needs width"),
    ],
)
def test_what_is_no_classifier_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        make_classifier(name)


def test_groups_go_to_the_step_that_takes_them():
    groups = np.arange(3)
    assert fit_arguments(make_classifier("feedforward"), groups) == {"feedforwardclassifier__groups": groups}
    assert fit_arguments(make_classifier("feedforward")[-1], groups) == {"groups": groups}
    assert fit_arguments(make_classifier("logistic"), groups) == {}
    assert fit_arguments(make_classifier("random-forest"), groups) == {}


@pytest.mark.parametrize("name", GRIDS)
def test_grids_are_of_parameters_that_there_are(name):
    estimator = make_classifier(name)
    combinations = list(ParameterGrid(GRIDS[name]))
    assert 2 <= len(combinations) <= 4
    for parameters in combinations:
        estimator.set_params(**parameters)
