"""The work of one row: choose inside each training part, fit, predict the test part."""

import collections
import dataclasses
import itertools
import math
import re
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import ParameterGrid, StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from cache.schema import CacheError
from classify.estimators import GRIDS, fit_arguments, make_classifier
from classify.feedforward import FeedforwardClassifier, fit_together
from classify.fusion import FusedCache
from classify.kernels import Gram, is_served
from classify.protocols import Fold
from classify.statistics import count_confusions, score_confusions

if TYPE_CHECKING:
    from cache import FeatureCache

TOGETHER_BYTES = 2**29  # of features, scaled for each of the heads that are trained together
NO_POOLING = "none"  # of rows that see an utterance's length only
FRAMES = "frames"  # of rows whose classifier pools by itself
INNER_FOLDS = 3  # inside a training part, to choose a layer or parameters
SEARCHES = ("grid", "halving")
HALVING_FACTOR, ROWS_PER_LABEL = 3, 8  # scikit-learn's own factor; fewer rows of a label say little about it


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    """A layer, and parameters to set on the classifier, as (name, value) pairs."""

    layer: int
    parameters: tuple[tuple[str, Any], ...] = ()

    def describe(self) -> str:
        """Return it in words: ``layer 9, C=0.1``."""
        return ", ".join(
            [
                f"layer {self.layer}",
                *(f"{name.rpartition('__')[2]}={value}" for name, value in self.parameters),
            ]
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What one worker does in one go: one row of the table. It holds the cache's path, not its features.

    Parameters
    ----------
    cache : FeatureCache or FusedCache
    rows : ndarray of int, shape (utterance,)
        Places of the comparison's utterances among the cache's rows.
    pooling, classifier : str
    folds : sequence of Fold
    candidates : sequence of Candidate
        To choose from inside each training part; one only where there is nothing to choose.
    targets, speakers : ndarray of shape (utterance,)
    speaker_norm : bool
        Whether features are standardised over each speaker's own utterances, tested ones too.
    random_state : int
    device : str
        Where feed-forward heads are trained.
    mixed_layers : tuple of int
        Layers that the classifier takes side by side instead of its candidate's; empty for most.
    search : {"grid", "halving"}
        How to choose among several candidates, as ``choose`` says.
    class_weight : "balanced", optional
        As ``make_classifier`` takes it.
    labels : tuple of str
        What targets are called, for errors.
    """

    cache: "FeatureCache | FusedCache"
    rows: NDArray[np.intp]
    pooling: str
    classifier: str
    folds: Sequence[Fold]
    candidates: Sequence[Candidate]
    targets: NDArray[np.int64]
    speakers: NDArray[Any]
    speaker_norm: bool
    random_state: int
    device: str
    mixed_layers: tuple[int, ...] = ()
    search: str = "grid"
    class_weight: str | None = None
    labels: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a task found.

    Parameters
    ----------
    predictions : list of ndarray of int
        Predicted label index of each fold's test rows.
    confidences : list of ndarray of float32
        Highest probability of each fold's test rows; empty where the classifier gives none.
    chosen : list of Candidate
        The candidate that each fold's training part chose.
    seconds : float
    warnings : Counter of str
        How often each distinct one came.
    layer_weights : list of tuple of float
        What each fold learnt for the mixed layers; empty where none are.
    """

    predictions: list[NDArray[np.int64]]
    confidences: list[NDArray[np.float32]]
    chosen: list[Candidate]
    seconds: float
    warnings: collections.Counter[str]
    layer_weights: list[tuple[float, ...]]


def candidates_of(classifier: str, layers: Iterable[int], *, tune: bool, prefix: str = "") -> list[Candidate]:
    """Return each layer with each combination of the classifier's grid, or with its defaults only.

    A prefix, as ``estimator__``, says where inside another estimator the classifier is.
    """
    grid: Iterable[Mapping[str, Any]] = ParameterGrid(GRIDS.get(classifier, {})) if tune else [{}]
    return [
        Candidate(layer, tuple((prefix + name, value) for name, value in sorted(parameters.items())))
        for layer, parameters in itertools.product(layers, list(grid))
    ]


def make_task_classifier(task: Task, candidate: Candidate | None = None) -> BaseEstimator:
    """Build a task's untrained classifier, with a candidate's parameters."""
    estimator = make_classifier(
        task.classifier, random_state=task.random_state, class_weight=task.class_weight
    )
    if task.mixed_layers:
        estimator[-1].set_params(num_layers=len(task.mixed_layers))
    if isinstance(task.cache, FusedCache):
        estimator = task.cache.fitted_as(estimator, task.pooling, max(1, len(task.mixed_layers)))
    if ":" not in task.classifier:  # a stranger's device may be spelled otherwise
        devices = [name for name in estimator.get_params() if name.rpartition("__")[2] == "device"]
        estimator.set_params(**dict.fromkeys(devices, task.device))
    return estimator.set_params(**dict(candidate.parameters)) if candidate else estimator


def run(task: Task) -> Outcome:
    """Choose, fit and predict in every fold.

    Raises
    ------
    CacheError
        Where the cache can't be read.
    ValueError
        Where the classifier can't learn from a training part, or nothing can be chosen inside it.
    """
    try:
        return _run(task)
    except CacheError:
        raise
    except ValueError as error:
        raise ValueError(_told(error, task)) from error


def _told(error: ValueError, task: Task) -> str:
    """Return an error with the row that it came from, the names of labels, and where there are fewest to learn from."""
    layers = {candidate.layer for candidate in task.candidates}
    layer = "all" if task.mixed_layers else "best" if len(layers) > 1 else min(layers)
    names = task.labels or tuple(map(str, range(int(task.targets.max()) + 1)))
    # The package's own classifiers name a label so; it is an index here.
    text = re.sub(r"(?<=of ')\d+(?=')", lambda match: names[int(match[0])], str(error))
    counts = [
        (count, str(fold.name), names[target])
        for fold in task.folds
        for target, count in collections.Counter(task.targets[fold.train].tolist()).items()
    ]
    count, fold, label = min(counts)
    return (
        f"{task.cache.name}, layer {layer}, {task.pooling}, {task.classifier}: {text.rstrip('.')}. The label with fewest "
        f"rows to learn from is {label}, with {count} in fold {fold!r}; leave it out, or choose another classifier."
    )


def _run(task: Task) -> Outcome:
    started = time.perf_counter()
    # Matrices of one fold are small, and processes use the cores: threads below would only contend.
    with threadpool_limits(1), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        parts = [(fold.train, fold.test) for fold in task.folds]
        chosen = choose(task)
        found: dict[int, Fitted] = {}
        for layer in sorted({candidate.layer for candidate in chosen}):
            places = [i for i, candidate in enumerate(chosen) if candidate.layer == layer]
            jobs = [(*parts[i], chosen[i]) for i in places]
            found.update(zip(places, _fit_predict(task, features_of(task, layer), jobs), strict=True))
    messages = collections.Counter(
        f"{warning.category.__name__}: {str(warning.message).strip().splitlines()[0]}" for warning in caught
    )
    return Outcome(
        predictions=[found[i].predictions for i in range(len(parts))],
        confidences=[sure for i in range(len(parts)) if (sure := found[i].confidences) is not None],
        chosen=chosen,
        seconds=time.perf_counter() - started,
        warnings=messages,
        layer_weights=[found[i].layer_weights for i in range(len(parts))] if task.mixed_layers else [],
    )


def join_outcomes(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the outcome of a task whose folds were done apart."""
    if len(outcomes) == 1:
        return outcomes[0]
    return Outcome(
        predictions=[part for outcome in outcomes for part in outcome.predictions],
        confidences=[part for outcome in outcomes for part in outcome.confidences],
        chosen=[candidate for outcome in outcomes for candidate in outcome.chosen],
        seconds=sum(outcome.seconds for outcome in outcomes),
        warnings=sum((outcome.warnings for outcome in outcomes), collections.Counter()),
        layer_weights=[weights for outcome in outcomes for weights in outcome.layer_weights],
    )


def choose(task: Task) -> list[Candidate]:
    """Return the candidate that each fold's training part scores highest, in cross-validation over its speakers.

    The score is the balanced accuracy pooled over inner folds; the first of equal candidates is taken. Test parts
    are not looked at, and a candidate that can't learn from an inner part is not taken. ``halving`` lets all candidates learn from few rows first, and each third that does best from three
    times as many (Jamieson and Talwalkar, 2016, "Non-stochastic best arm identification and hyperparameter
    optimization", AISTATS): cheaper than the whole grid, and it may miss what needs many rows to shine.
    """
    if len(task.candidates) == 1:
        return [task.candidates[0]] * len(task.folds)
    inner = [_inner_parts(task, fold) for fold in task.folds]
    scores = np.zeros((len(task.candidates), len(task.folds)))
    for done, share in enumerate(_shares(task, inner), start=1):
        few = [[(_sample(task, train, share), test) for train, test in parts] for parts in inner]
        scores = _score(task, few, scores > -np.inf)
        if share < 1:
            kept = math.ceil(len(task.candidates) / HALVING_FACTOR**done)
            worst = np.argsort(-scores, axis=0, kind="stable")[kept:]
            np.put_along_axis(scores, worst, -np.inf, axis=0)
    chosen = [task.candidates[best] for best in scores.argmax(axis=0)]
    for fold in np.flatnonzero(np.isneginf(scores.max(axis=0))).tolist():
        jobs = [(*part, chosen[fold]) for part in inner[fold]]
        # Says why no candidate can learn.
        list(_fit_predict(task, features_of(task, chosen[fold].layer), jobs))
    return chosen


Parts = list[tuple[NDArray[np.intp], NDArray[np.intp]]]


def _score(task: Task, inner: Sequence[Parts], alive: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the score of each candidate in each fold, (candidate, fold), -inf where it isn't alive."""
    scores = np.full(alive.shape, -np.inf)
    num_labels = int(task.targets.max()) + 1
    for layer in sorted({task.candidates[i].layer for i in np.flatnonzero(alive.any(axis=1)).tolist()}):
        features = features_of(task, layer)
        for fold, parts in enumerate(inner):
            places = [i for i in np.flatnonzero(alive[:, fold]).tolist() if task.candidates[i].layer == layer]
            if not places:
                continue
            truth = task.targets[np.concatenate([test for _, test in parts])]
            for i, predicted in _predict_inner(task, features, parts, places).items():
                counts = count_confusions(truth, predicted, np.zeros_like(truth), (1, num_labels))
                scores[i, fold] = score_confusions(counts)[0, 1]
    return scores


def _predict_inner(
    task: Task, features: NDArray[np.float32], parts: Parts, places: Sequence[int]
) -> dict[int, NDArray[np.int64]]:
    """Return what the candidates at those places predict, part by part; without those that can't learn from some part."""
    jobs = [(train, test, task.candidates[i]) for i in places for train, test in parts]
    try:
        found = [fitted.predictions for fitted in _fit_predict(task, features, jobs)]
    except ValueError:
        alone = [[i] for i in places] if len(places) > 1 else []
        return dict(pair for one in alone for pair in _predict_inner(task, features, parts, one).items())
    starts = range(0, len(jobs), len(parts))
    return {
        i: np.concatenate(found[start : start + len(parts)]) for i, start in zip(places, starts, strict=True)
    }


def _shares(task: Task, inner: Sequence[Parts]) -> list[float]:
    """Return the shares of the inner training rows that candidates learn from, round by round; the last is 1."""
    if task.search == "grid":
        return [1.0]
    fewest = min(len(train) for parts in inner for train, _ in parts)
    least = ROWS_PER_LABEL * len(np.unique(task.targets)) / fewest
    rounds = math.floor(math.log(len(task.candidates), HALVING_FACTOR) + 1e-9)
    shares = {float(HALVING_FACTOR) ** -i for i in range(rounds + 1)}
    return sorted(share for share in shares if share >= least or share == 1)


def _sample(task: Task, rows: NDArray[np.intp], share: float) -> NDArray[np.intp]:
    """Return a share of each label's rows, at least two; a smaller share is part of a larger one."""
    if share == 1:
        return rows
    order = np.random.default_rng(task.random_state).permutation(rows)
    ranks, totals = np.empty(len(order)), np.empty(len(order))
    for target in np.unique(task.targets[order]):
        own = np.flatnonzero(task.targets[order] == target)
        ranks[own], totals[own] = np.arange(len(own)), len(own)
    return np.sort(order[ranks < np.maximum(np.ceil(share * totals), 2)])


def _inner_parts(task: Task, fold: Fold) -> Parts:
    """Return the inner folds of a training part that can be learnt from: with two rows of each label, or of two labels.

    Raises
    ------
    ValueError
        Where there is none.
    """
    speakers, targets = task.speakers[fold.train], task.targets[fold.train]
    splits = min(INNER_FOLDS, len(set(speakers)))
    splitter = StratifiedGroupKFold(splits) if splits > 1 else StratifiedKFold(INNER_FOLDS)
    parts, whole = [], []
    for train, test in splitter.split(fold.train, targets, speakers):
        counts = np.unique(targets[train], return_counts=True)[1]
        if len(counts) > 1 and len(test):
            parts.append((fold.train[train], fold.train[test]))
            whole += [parts[-1]] if counts.min() > 1 else []
    if not parts:
        msg = f"nothing can be chosen inside the training part of fold {fold.name!r}, as no inner part of it has two labels"
        raise ValueError(msg)
    return whole or parts


def features_of(task: Task, layer: int) -> NDArray[Any]:
    """Return what the classifier takes of each of the task's rows."""
    if task.pooling == NO_POOLING:
        return np.log(task.cache.num_samples[task.rows, None]).astype(np.float32)
    if task.pooling == FRAMES:
        return _frames(task, layer)
    layers = task.mixed_layers or (layer,)
    features = np.concatenate([task.cache.features(each, task.pooling)[task.rows] for each in layers], axis=1)
    if task.speaker_norm:
        for speaker in np.unique(task.speakers):
            own = task.speakers == speaker
            features[own] = StandardScaler().fit_transform(features[own])
    return features


def _frames(task: Task, layer: int) -> NDArray[Any]:
    """Return an array of arrays, as utterances have no common number of frames."""
    found = np.empty(len(task.rows), dtype=object)
    for place, row in enumerate(task.rows.tolist()):
        found[place] = task.cache.frames(row, layer)
    if task.speaker_norm:
        for speaker in np.unique(task.speakers):
            own = np.flatnonzero(task.speakers == speaker).tolist()
            scaler = StandardScaler().fit(np.concatenate(found[own].tolist()))
            for place in own:
                found[place] = scaler.transform(found[place])
    return found


class Fitted(NamedTuple):
    """What one job found; ``confidences`` are the highest probabilities, where the classifier gives any."""

    predictions: NDArray[np.int64]
    confidences: NDArray[np.float32] | None
    layer_weights: tuple[float, ...] = ()


Job = tuple[NDArray[np.intp], NDArray[np.intp], Candidate]


def _fit_predict(task: Task, features: NDArray[np.float32], jobs: Sequence[Job]) -> Iterator[Fitted]:
    """Yield the predictions of each job's test rows and its layer weights, in the order of the jobs."""
    estimator = make_task_classifier(task)
    if isinstance(estimator, Pipeline) and isinstance(estimator[-1], FeedforwardClassifier):
        yield from _fit_predict_together(task, features, jobs, estimator)
        return
    by_part: dict[tuple[bytes, bytes], list[int]] = {}
    for place, (train, test, _) in enumerate(jobs):
        by_part.setdefault((train.tobytes(), test.tobytes()), []).append(place)
    several, most_rows = len(by_part) < len(jobs), max(len(train) for train, _, _ in jobs)
    if task.pooling != FRAMES and is_served(estimator, most_rows, features.shape[1], several=several):
        yield from _fit_predict_by_products(task, features, jobs, estimator, by_part.values())
        return
    for train, test, candidate in jobs:
        fitted = clone(estimator).set_params(**dict(candidate.parameters))
        fitted.fit(features[train], task.targets[train], **fit_arguments(estimator, task.speakers[train]))
        yield _predicted(fitted, features[test])


def _fit_predict_together(
    task: Task, features: NDArray[np.float32], jobs: Sequence[Job], estimator: BaseEstimator
) -> Iterator[Fitted]:
    """Do as the plain loop does, with the heads of many jobs trained as one program."""
    at_once = max(1, TOGETHER_BYTES // max(features.nbytes, 1))
    if len(jobs) > at_once:
        for start in range(0, len(jobs), at_once):
            yield from _fit_predict_together(task, features, jobs[start : start + at_once], estimator)
        return
    pipelines = [clone(estimator).set_params(**dict(candidate.parameters)) for _, _, candidate in jobs]
    arguments = [
        {
            "X": pipeline[:-1].fit_transform(features[train], task.targets[train]),
            "y": task.targets[train],
            "groups": task.speakers[train],
        }
        for pipeline, (train, _, _) in zip(pipelines, jobs, strict=True)
    ]
    fit_together([pipeline[-1] for pipeline in pipelines], arguments)
    for pipeline, (_, test, _) in zip(pipelines, jobs, strict=True):
        yield _predicted(pipeline, features[test], tuple(pipeline[-1].layer_weights_.tolist()))


def _fit_predict_by_products(
    task: Task,
    features: NDArray[np.float32],
    jobs: Sequence[Job],
    estimator: BaseEstimator,
    by_part: Iterable[Sequence[int]],
) -> Iterator[Fitted]:
    """Do as the plain loop does, with the rows of each part multiplied once for all of its jobs."""
    found: dict[int, Fitted] = {}
    for places in by_part:
        train, test, _ = jobs[places[0]]
        gram = Gram(features[train], features[test])
        for place in places:
            pipeline = clone(estimator).set_params(**dict(jobs[place][2].parameters))
            found[place] = Fitted(gram.fit_predict(pipeline[-1], task.targets[train]), None)
    yield from (found[place] for place in range(len(jobs)))


def _predicted(
    fitted: BaseEstimator, features: NDArray[Any], layer_weights: tuple[float, ...] = ()
) -> Fitted:
    predictions = fitted.predict(features)
    if not hasattr(fitted, "predict_proba"):
        return Fitted(predictions, None, layer_weights)
    sure = np.asarray(fitted.predict_proba(features).max(axis=1), dtype=np.float32)
    # What overflowed in some fold, or is no probability after all, says nothing; predictions stand all the same.
    return Fitted(predictions, sure if ((sure >= 0) & (sure <= 1 + 1e-6)).all() else None, layer_weights)
