"""The menu of classifiers: plain factories by the names of the command line."""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, is_classifier
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils.validation import has_fit_parameter

from classify.attentive import AttentiveClassifier
from classify.discriminant import ShrunkDiscriminant
from classify.feedforward import FeedforwardClassifier

Factory = Callable[[int], BaseEstimator]

# Each takes the seed. Trees and Gaussians per feature don't depend on the features' scales; the others do.
FACTORIES: dict[str, Factory] = {
    "feedforward": lambda seed: _scaled(FeedforwardClassifier(random_state=seed)),
    "logistic": lambda _seed: _scaled(LogisticRegression(max_iter=1000)),
    # Labels by margins, as probabilities are, and not by votes of pairs.
    "linear-svm": lambda _seed: _scaled(SVC(kernel="linear", break_ties=True)),
    "svm": lambda _seed: _scaled(SVC(break_ties=True)),
    "knn": lambda _seed: _scaled(KNeighborsClassifier(algorithm="brute")),
    "lda": lambda _seed: _scaled(ShrunkDiscriminant()),
    "qda": lambda _seed: _scaled(ShrunkDiscriminant(quadratic=True)),
    "ridge": lambda _seed: _scaled(RidgeClassifier(alpha=100.0)),
    "nearest-centroid": lambda _seed: _scaled(NearestCentroid()),
    "random-forest": lambda seed: RandomForestClassifier(random_state=seed),
    "extra-trees": lambda seed: ExtraTreesClassifier(random_state=seed),
    # Hundreds of utterances fill few bins, and among hundreds of features any tenth has a good one to split by. On Emo-DB
    # (wav2vec2-base drawn at random, and the encoder in the package) this scores as 50 rounds of 31 bins and all
    # features do, for half of the work, and those cost a sixth of scikit-learn's defaults.
    "hist-gradient-boosting": lambda seed: HistGradientBoostingClassifier(
        learning_rate=0.2,
        max_iter=30,
        max_leaf_nodes=8,
        max_bins=15,
        max_features=0.1,
        random_state=seed,
    ),
    "gaussian-nb": lambda _seed: GaussianNB(),
    "majority": lambda _seed: DummyClassifier(strategy="most_frequent"),
}

# Take all layers at once, side by side; ``num_layers`` is set where their number is known.
MIXERS: dict[str, Factory] = {"weighted-sum": FACTORIES["feedforward"]}
# Take an utterance's frames, of one layer, and pool them themselves.
FRAME_READERS: dict[str, Factory] = {"attentive": lambda seed: AttentiveClassifier(random_state=seed)}
# Rows that every table should beat: they see the logarithm of an utterance's length, and no embedding.
BASELINES: dict[str, Factory] = {
    "majority": FACTORIES["majority"],
    "duration": lambda _seed: GaussianNB(),
}
# Small grids around the defaults, for choosing inside the training part.
GRIDS: dict[str, dict[str, list[Any]]] = {
    "feedforward": {
        "feedforwardclassifier__dropout": [0.0, 0.5],
        "feedforwardclassifier__max_epochs": [10, 50],
    },
    "weighted-sum": {"feedforwardclassifier__max_epochs": [10, 50]},
    "attentive": {"max_epochs": [10, 30]},
    "logistic": {"logisticregression__C": [0.001, 0.01, 0.1, 1.0]},
    "linear-svm": {"svc__C": [0.0001, 0.001, 0.01, 1.0]},
    "svm": {"svc__C": [1.0, 10.0], "svc__gamma": ["scale", 0.0001]},
    "knn": {"kneighborsclassifier__n_neighbors": [1, 5, 15]},
    "lda": {"shrunkdiscriminant__shrinkage": ["auto", 0.5, 0.9]},
    "qda": {"shrunkdiscriminant__shrinkage": ["auto", 0.5, 0.9]},
    "ridge": {"ridgeclassifier__alpha": [1.0, 100.0, 10_000.0]},
    "nearest-centroid": {"nearestcentroid__shrink_threshold": [None, 0.5, 2.0]},
    "random-forest": {"max_features": ["sqrt", 0.1]},
    "extra-trees": {"max_features": ["sqrt", 0.1]},
    "hist-gradient-boosting": {"learning_rate": [0.1, 0.2]},
    "gaussian-nb": {"var_smoothing": [1e-9, 0.01, 1.0]},
}


def named(names: Sequence[str]) -> tuple[str, ...]:
    """Return each name once, and for ``all`` the whole menu, without what is a baseline or needs frames."""
    menu = [name for name in FACTORIES | MIXERS if name not in BASELINES]
    return tuple(dict.fromkeys(one for name in names for one in (menu if name == "all" else [name])))


def make_classifier(name: str, *, random_state: int = 0, class_weight: str | None = None) -> BaseEstimator:
    """Build an untrained classifier from a name of the menu, or from ``module:Class``.

    ``module:Class`` is any importable scikit-learn classifier, or a function that returns one. It is called
    without arguments, is given ``random_state`` where it has one, and is standardised unless it is a
    ``Pipeline``, which is taken as it is. A ``class_weight`` is set on it where there is one; ``balanced`` lets rare
    labels count as much as frequent ones.

    Raises
    ------
    ValueError
        Where the name is neither on the menu nor of the form ``module:Class``, the module or the class is not
        found, what it makes is no classifier, or it can't weigh labels and is asked to.
    """
    if class_weight is not None:
        estimator = make_classifier(name, random_state=random_state)
        last = estimator[-1] if isinstance(estimator, Pipeline) else estimator
        if "class_weight" not in last.get_params(deep=False):
            msg = f"class weights need a classifier that takes them. {name} doesn't; leave the one or the other out."
            raise ValueError(msg)
        last.set_params(class_weight=class_weight)
        return estimator
    if name in (factories := FACTORIES | MIXERS | FRAME_READERS | BASELINES):
        return factories[name](random_state)
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        msg = f"classifier must be one of {', '.join(FACTORIES | MIXERS | FRAME_READERS)}, or module:Class. Got {name!r} instead."
        raise ValueError(msg)
    estimator = _imported(name, module_name, attribute)
    if "random_state" in estimator.get_params():
        estimator.set_params(random_state=random_state)
    return estimator if isinstance(estimator, Pipeline) else _scaled(estimator)


def fit_arguments(estimator: BaseEstimator, groups: np.ndarray[Any, Any]) -> Mapping[str, Any]:
    """Return the keyword arguments that hand the groups to whichever part of the estimator takes them in ``fit``."""
    if not isinstance(estimator, Pipeline):
        return {"groups": groups} if has_fit_parameter(estimator, "groups") else {}
    return {f"{name}__groups": groups for name, step in estimator.steps if has_fit_parameter(step, "groups")}


def _scaled(classifier: BaseEstimator) -> Pipeline:
    return make_pipeline(StandardScaler(), classifier)


def _imported(name: str, module_name: str, attribute: str) -> BaseEstimator:
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        msg = (
            f"classifier {name!r}: module {module_name!r} can't be imported ({error}); is it installed here?"
        )
        raise ValueError(msg) from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        msg = f"classifier {name!r}: module {module_name!r} has no class or function {attribute!r}."
        raise ValueError(msg)
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError as error:  # of built-in ones, which make no classifier
        msg = f"classifier {name!r} must be a scikit-learn classifier. It has no signature that can be read."
        raise ValueError(msg) from error
    required = [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if required:
        msg = (
            f"classifier {name!r} must be callable without arguments. It needs {', '.join(required)}; "
            "name a function that fills them in."
        )
        raise ValueError(msg)
    estimator = factory()
    if not (isinstance(estimator, BaseEstimator) and is_classifier(estimator)):
        msg = f"classifier {name!r} must be a scikit-learn classifier. It makes a {type(estimator).__name__}."
        raise ValueError(msg)
    return estimator
