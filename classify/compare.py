"""Run every classifier on every layer of every cache under one protocol, and keep each prediction."""

import collections
import dataclasses
import importlib.metadata
import itertools
import json
import platform
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from cache.schema import CacheError
from classify.estimators import fit_arguments, make_classifier
from classify.feedforward import FeedforwardClassifier, fit_together
from classify.protocols import Fold, Protocol, find_protocol, make_folds
from classify.results import Comparison, Folds, Result
from classify.selection import Selection, name_caches, select
from classify.statistics import (
    FEW_SPEAKERS,
    count_confusions,
    estimate_scores,
    score_confusions,
    spread_scores,
)

if TYPE_CHECKING:
    from cache import FeatureCache

Progress = Callable[[int, int, str], None]
PACKAGES = ("sslfeat", "numpy", "scipy", "scikit-learn", "torch")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What one worker does in one go: one row of the table. It holds the cache's path, not its features."""

    cache: "FeatureCache"
    name: str
    rows: NDArray[np.intp]
    layer: int
    pooling: str
    classifier: str
    protocol: Protocol
    folds: list[Fold]
    targets: NDArray[np.int64]
    speakers: NDArray[Any]
    random_state: int
    device: str

    @property
    def title(self) -> str:
        """The row in words."""
        return f"{self.name}, layer {self.layer}, {self.pooling}, {self.classifier}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a task found: the predicted label index of each fold's test rows, and how it went."""

    predictions: list[NDArray[np.int64]]
    seconds: float
    warnings: tuple[str, ...]


def compare(
    caches: "Sequence[FeatureCache]",
    *,
    classifiers: Sequence[str],
    layers: str | Sequence[int] = "all",
    poolings: Sequence[str] = ("mean",),
    protocol: str = "leave-one-speaker-out",
    report_optimism: bool = False,
    exclude_labels: Collection[str] = (),
    merge_labels: Mapping[str, str] | None = None,
    n_jobs: int = 1,
    random_state: int = 0,
    device: str = "cpu",
    command: str = "",
    progress: Progress | None = None,
) -> Comparison:
    """Compare classifiers on cached embeddings.

    Whatever is learnt (scaling, weights, number of epochs) is learnt from a fold's training part; the test part
    is predicted once. All scores are computed from those predictions.

    Parameters
    ----------
    caches : sequence of FeatureCache
        Compared on the utterances that all of them hold.
    classifiers : sequence of str
        Names for ``classify.estimators.make_classifier``.
    layers : "all" or sequence of int
        Of each cache.
    poolings : sequence of str
        Stored statistics; ``mean+std`` puts two side by side.
    protocol : str
        Name for ``classify.protocols.find_protocol``.
    report_optimism : bool
        Whether to run ``paper`` too and note how much higher its scores are.
    exclude_labels : collection of str
        Labels whose utterances are left out, after merging.
    merge_labels : mapping of str to str
        Old label to new one.
    n_jobs : int
        Processes, as joblib counts them; -1 for all cores. An active ``joblib.parallel_config`` decides where.
    random_state : int
    device : str
        Where feed-forward heads are trained.
    command : str
        The command line, for the record.
    progress : callable, optional
        Called as ``progress(done, total, description)`` after each row.

    Raises
    ------
    CacheError
        Where a cache lacks a layer or pooling, or the caches don't belong together.
    ValueError
        Where a name is unknown, or the utterances can't be divided or leak; see ``make_folds`` and ``select``.
    """
    named = name_caches(caches)
    for name in classifiers:
        make_classifier(name)  # a wrong name should fail before the first hour of work
    protocols = [find_protocol(name) for name in (protocol, *(["paper"] if report_optimism else []))]
    selection = select(named, exclude_labels=exclude_labels, merge_labels=merge_labels)
    divided = {p.name: make_folds(p, selection.table, random_state=random_state) for p in protocols}
    tasks = [
        Task(
            cache=named[name],
            name=name,
            rows=selection.rows[name],
            layer=layer,
            pooling=pooling,
            classifier=classifier,
            protocol=p,
            folds=divided[p.name][0],
            targets=selection.targets,
            speakers=selection.table.speakers,
            random_state=random_state,
            device=device,
        )
        for p in protocols
        for name in named
        for pooling, classifier in itertools.product(poolings, classifiers)
        for layer in _layers_of(named[name], layers, pooling)
    ]
    outcomes = _run_all(tasks, n_jobs=n_jobs, progress=progress)
    results = tuple(_result(task, outcome, selection) for task, outcome in zip(tasks, outcomes, strict=True))
    table = selection.table
    return Comparison(
        labels=selection.labels,
        utterance_ids=tuple(table.utterance_ids.tolist()),
        speakers=tuple(table.speakers.tolist()),
        sexes=tuple(table.sexes.tolist()),
        truth=tuple(selection.targets.tolist()),
        folds=tuple(_folds(p, *divided[p.name], len(table)) for p in protocols),
        results=results,
        caches={name: json.loads(cache.spec.to_json()) for name, cache in named.items()},
        notes=(*selection.notes, *_notes(selection, divided[protocols[0].name][0], protocols[0], results)),
        command=command,
        versions=software_versions(),
        random_state=random_state,
    )


def _layers_of(cache: "FeatureCache", layers: str | Sequence[int], pooling: str) -> Sequence[int]:
    if isinstance(layers, str) and layers != "all":
        msg = f"layers must be 'all' or layer numbers. Got {layers!r} instead."
        raise ValueError(msg)
    for name in pooling.split("+"):
        if name not in cache.poolings:
            msg = f"{cache.path}: no pooling {name!r}; stored are {', '.join(cache.poolings)}."
            raise CacheError(msg)
    wanted = cache.layers if isinstance(layers, str) else layers
    for layer in wanted:
        if layer not in cache.layers:
            stored = ", ".join(map(str, cache.layers))
            msg = f"{cache.path}: no layer {layer}; stored layers are {stored}."
            raise CacheError(msg)
    return wanted


def _run_all(tasks: Sequence[Task], *, n_jobs: int, progress: Progress | None) -> list[Outcome]:
    outcomes: dict[int, Outcome] = {}
    if progress is not None:
        progress(0, len(tasks), "")
    pool = Parallel(n_jobs=n_jobs, return_as="generator_unordered")
    for i, outcome in pool(delayed(_run)(i, task) for i, task in enumerate(tasks)):
        outcomes[i] = outcome
        if progress is not None:
            progress(len(outcomes), len(tasks), tasks[i].title)
    return [outcomes[i] for i in range(len(tasks))]


def _run(number: int, task: Task) -> tuple[int, Outcome]:
    started = time.perf_counter()
    # Matrices of one fold are small, and processes use the cores: threads below would only contend.
    with threadpool_limits(1), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        features = task.cache.features(task.layer, task.pooling)[task.rows]
        predictions = list(_predictions(task, features))
    messages = collections.Counter(
        f"{warning.category.__name__}: {str(warning.message).strip().splitlines()[0]}" for warning in caught
    )
    return number, Outcome(
        predictions=predictions,
        seconds=time.perf_counter() - started,
        warnings=tuple(f"{message} ({count} times)" for message, count in sorted(messages.items())),
    )


def _predictions(task: Task, features: NDArray[np.float32]) -> Iterator[NDArray[np.int64]]:
    """Yield the predictions of each fold's test rows, in the order of the folds."""
    estimator = make_classifier(task.classifier, random_state=task.random_state)
    if isinstance(estimator, Pipeline) and isinstance(estimator[-1], FeedforwardClassifier):
        yield from _predictions_together(task, features, estimator)
        return
    for fold in task.folds:
        fitted = clone(estimator).fit(
            features[fold.train],
            task.targets[fold.train],
            **fit_arguments(estimator, task.speakers[fold.train]),
        )
        yield fitted.predict(features[fold.test])


def _predictions_together(
    task: Task, features: NDArray[np.float32], estimator: Pipeline
) -> Iterator[NDArray[np.int64]]:
    """Do as the plain loop does, with the heads of all folds trained as one program."""
    preparations = [clone(estimator[:-1]) for _ in task.folds]
    heads = [clone(estimator[-1]).set_params(device=task.device) for _ in task.folds]
    fit_together(
        heads,
        [
            {
                "X": preparation.fit_transform(features[fold.train], task.targets[fold.train]),
                "y": task.targets[fold.train],
                "groups": task.speakers[fold.train],
            }
            for preparation, fold in zip(preparations, task.folds, strict=True)
        ],
    )
    for preparation, head, fold in zip(preparations, heads, task.folds, strict=True):
        yield head.predict(preparation.transform(features[fold.test]))


def _result(task: Task, outcome: Outcome, selection: Selection) -> Result:
    rows = np.concatenate([fold.test for fold in task.folds])
    predicted = np.concatenate(outcome.predictions)
    truth, num_labels = selection.targets[rows], len(selection.labels)

    def by(groups: NDArray[Any]) -> tuple[list[str], NDArray[np.int64]]:
        names, numbers = np.unique(groups, return_inverse=True)
        return names.tolist(), count_confusions(truth, predicted, numbers, (len(names), num_labels))

    speakers, speaker_confusions = by(selection.table.speakers[rows])
    sexes, sex_confusions = by(selection.table.sexes[rows])
    fold_numbers = np.repeat(np.arange(len(task.folds)), [len(fold.test) for fold in task.folds])
    confusion = speaker_confusions.sum(0)
    accuracy, balanced_accuracy, f1_macro = estimate_scores(
        speaker_confusions, random_state=task.random_state
    )
    fold_accuracy, fold_balanced_accuracy, fold_f1_macro = spread_scores(by(fold_numbers)[1])
    table = np.full((max(fold.repetition for fold in task.folds) + 1, len(selection.targets)), -1)
    for fold, values in zip(task.folds, outcome.predictions, strict=True):
        table[fold.repetition, fold.test] = values
    return Result(
        cache=task.name,
        encoder=task.cache.spec.model_id,
        layer=task.layer,
        pooling=task.pooling,
        classifier=task.classifier,
        protocol=task.protocol.name,
        optimistic=task.protocol.optimistic,
        accuracy=accuracy,
        balanced_accuracy=balanced_accuracy,
        f1_macro=f1_macro,
        fold_accuracy=fold_accuracy,
        fold_balanced_accuracy=fold_balanced_accuracy,
        fold_f1_macro=fold_f1_macro,
        recall=tuple(float(row[i] / row.sum()) if row.sum() else None for i, row in enumerate(confusion)),
        confusion=tuple(map(tuple, confusion.tolist())),
        speaker_scores=_balanced(speakers, speaker_confusions),
        sex_scores={sex: score for sex, score in _balanced(sexes, sex_confusions).items() if sex},
        seconds=outcome.seconds,
        predictions=tuple(map(tuple, table.tolist())),
        warnings=outcome.warnings,
    )


def _balanced(names: Sequence[str], confusions: NDArray[np.int64]) -> dict[str, float]:
    return dict(zip(names, score_confusions(confusions)[:, 1].tolist(), strict=True))


def _folds(protocol: Protocol, folds: Sequence[Fold], audit: str, num_utterances: int) -> Folds:
    tested_in = np.full((max(fold.repetition for fold in folds) + 1, num_utterances), -1)
    for i, fold in enumerate(folds):
        tested_in[fold.repetition, fold.test] = i
    return Folds(
        protocol=protocol.name,
        claim=protocol.claim,
        optimistic=protocol.optimistic,
        names=tuple(fold.name for fold in folds),
        tested_in=tuple(map(tuple, tested_in.tolist())),
        audit=audit,
    )


def _notes(
    selection: Selection, folds: Sequence[Fold], protocol: Protocol, results: Sequence[Result]
) -> Iterator[str]:
    speakers = len(set(selection.table.speakers))
    if speakers < FEW_SPEAKERS:
        yield (
            f"{speakers} speakers are few: the intervals can't be trusted to hold the score on new speakers "
            "95 times in 100."
        )
    partial = [fold.name for fold in folds if len(set(selection.targets[fold.test])) < len(selection.labels)]
    if partial:
        yield (
            f"{len(partial)} of {len(folds)} folds test some labels only, so means over folds average fewer "
            "recalls there; pooled scores don't."
        )
    honest = [result for result in results if result.protocol == protocol.name]
    if len(honest) > 1:
        yield (
            f"The best of {len(honest)} rows is chosen by the scores shown, which flatters it: expect less of it on "
            "new data."
        )
    paper = {_key(result): result for result in results if result.protocol == "paper"}
    if paper and protocol.name != "paper":
        gaps = [
            paper[_key(result)].balanced_accuracy.value - result.balanced_accuracy.value for result in honest
        ]
        yield (
            f"Under paper, with every test speaker in training, balanced accuracy is {100 * np.mean(gaps):.1f} points "
            f"higher in the mean over {len(gaps)} rows ({100 * min(gaps):.1f} to {100 * max(gaps):.1f}): that much is "
            "optimism."
        )


def _key(result: Result) -> tuple[object, ...]:
    return result.cache, result.layers, result.pooling, result.classifier


def software_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that change a score, as far as they are installed."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
