"""Run every classifier on every layer of every cache under one protocol, and keep each prediction."""

import dataclasses
import importlib.metadata
import itertools
import platform
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from joblib import Parallel, delayed, effective_n_jobs
from numpy.typing import NDArray

from cache.schema import CacheError
from classify.calibration import measure_calibration
from classify.checkpoint import Checkpoint
from classify.differences import describe_differences, find_differences
from classify.estimators import BASELINES, FRAME_READERS, GRIDS, MIXERS, make_classifier
from classify.fitting import (
    FRAMES,
    NO_POOLING,
    SEARCHES,
    Candidate,
    Outcome,
    Task,
    candidates_of,
    join_outcomes,
    run,
)
from classify.fusion import FusedCache, describe_features, fuse
from classify.notes import make_notes
from classify.projection import project_best
from classify.protocols import Fold, Protocol, find_protocol, make_folds
from classify.results import Comparison, Folds, Result
from classify.selection import Selection, name_caches, select
from classify.statistics import (
    count_confusions,
    estimate_scores,
    score_confusions,
    spread_scores,
)

if TYPE_CHECKING:
    from cache import FeatureCache

Progress = Callable[[int, int, str], None]
ROUNDS_AT_ONCE = 4  # of tasks per worker, where finished ones come in batches only
PACKAGES = ("sslfeat", "numpy", "scipy", "scikit-learn", "torch")


@dataclasses.dataclass(frozen=True, slots=True)
class _Row:
    """What names a row of the table, and its work; a row that has to choose does so fold by fold."""

    name: str
    layer: int | None
    selection: str
    protocol: Protocol
    task: Task

    @property
    def tuned(self) -> bool:
        return any(candidate.parameters for candidate in self.task.candidates)

    @property
    def parts(self) -> list[Task]:
        if len(self.task.candidates) == 1:
            return [self.task]
        return [dataclasses.replace(self.task, folds=[fold]) for fold in self.task.folds]

    @property
    def title(self) -> str:
        return (
            f"{self.name}, layer {self.selection or self.layer}, {self.task.pooling}, {self.task.classifier}"
        )


def compare(
    caches: "Sequence[FeatureCache]",
    *,
    classifiers: Sequence[str],
    layers: str | Sequence[int] = "all",
    poolings: Sequence[str] = ("mean",),
    protocol: str | Protocol = "leave-one-speaker-out",
    audit_text: bool = False,
    tune: bool = False,
    search: str = "grid",
    class_weight: str | None = None,
    report_optimism: bool = False,
    fusion: Sequence[str] = (),
    exclude_labels: Collection[str] = (),
    merge_labels: Mapping[str, str] | None = None,
    speaker_norm: bool = False,
    baselines: bool = True,
    n_jobs: int = 1,
    random_state: int = 0,
    checkpoint: str | Path | None = None,
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
    layers : "all", "best" or sequence of int
        Rows for all layers of each cache or those given, or one row whose layer is chosen inside each training part.
        ``weighted-sum`` always has one row, of all these layers.
    poolings : sequence of str
        Stored statistics; ``mean+std`` puts two side by side.
    protocol : str or Protocol
        A name is for ``classify.protocols.find_protocol``.
    audit_text : bool
        Whether a sentence in both parts of a fold is an error, whatever the protocol promises.
    tune : bool
        Whether each training part chooses among the classifier's small grid of parameters.
    search : {"grid", "halving"}
        Whether what a training part chooses from is tried on all of it, or mostly on a few of its rows.
    class_weight : "balanced", optional
        Lets rare labels count as much as frequent ones in training; for classifiers that take it.
    report_optimism : bool
        Whether to run ``paper`` too and note how much higher its scores are.
    fusion : sequence of str
        Ways, out of ``classify.fusion.FUSIONS``, in which all caches together give rows too, on the layers that
        all of them store.
    exclude_labels : collection of str
        Labels whose utterances are left out, after merging.
    merge_labels : mapping of str to str
        Old label to new one.
    speaker_norm : bool
        Whether features are standardised per speaker, over tested utterances too; such rows are marked
        transductive.
    baselines : bool
        Whether to add rows for the most frequent label and for the utterances' lengths alone.
    n_jobs : int
        Processes, as joblib counts them; -1 for all cores. An active ``joblib.parallel_config`` decides where.
    random_state : int
    checkpoint : str or Path, optional
        File that finished work is kept in, and taken from where it is there already.
    device : str
        Where feed-forward heads are trained.
    command : str
        The command line, for the record.
    progress : callable, optional
        Called as ``progress(done, total, description)`` after each row, or each fold of a row that has to choose.

    Raises
    ------
    CacheError
        Where a cache lacks a layer or pooling, or the caches don't belong together.
    ValueError
        Where a name is unknown, or the utterances can't be divided or leak; see ``make_folds`` and ``select``.
    """
    named = name_caches(caches)
    # A row that stands twice would pay twice in the tests between rows.
    classifiers, poolings = tuple(dict.fromkeys(classifiers)), tuple(dict.fromkeys(poolings))
    layers = layers if isinstance(layers, str) else tuple(dict.fromkeys(layers))
    for name in classifiers:
        make_classifier(name, class_weight=class_weight)  # should fail before the first hour of work
    if search not in SEARCHES:
        msg = f"search must be one of {', '.join(SEARCHES)}. Got {search!r} instead."
        raise ValueError(msg)
    chosen = find_protocol(protocol) if isinstance(protocol, str) else protocol
    if audit_text and "texts" not in chosen.disjoint:
        chosen = dataclasses.replace(chosen, disjoint=(*chosen.disjoint, "texts"))
    if not 0 <= random_state < 2**32:
        msg = f"random_state must be in 0..{2**32 - 1}. Got {random_state} instead."
        raise ValueError(msg)
    if n_jobs == 0:
        msg = "n_jobs must be a number of processes, or -1 for all cores. Got 0 instead."
        raise ValueError(msg)
    protocols = [chosen]
    if report_optimism and chosen.name != "paper":
        protocols.append(find_protocol("paper"))
    selection = select(named, exclude_labels=exclude_labels, merge_labels=merge_labels)
    sources: dict[str, FeatureCache | FusedCache] = dict(named)
    places = dict(selection.rows)
    for how in dict.fromkeys(fusion):
        fused = fuse(named, selection.rows, how)
        sources[fused.name], places[fused.name] = fused, np.arange(len(selection.table))
        _require_probabilities(classifiers if how == "average" else ())
    divided = {p.name: make_folds(p, selection.table, random_state=random_state) for p in protocols}

    def make_task(name: str, p: Protocol, pooling: str, classifier: str, candidates: list[Candidate]) -> Task:
        return Task(
            cache=sources[name],
            rows=places[name],
            pooling=pooling,
            classifier=classifier,
            folds=divided[p.name][0],
            candidates=candidates,
            targets=selection.targets,
            speakers=selection.table.speakers,
            speaker_norm=speaker_norm,
            random_state=random_state,
            device=device,
            search=search,
            class_weight=class_weight,
            labels=selection.labels,
        )

    rows = []
    for p in protocols:
        for name, pooling, classifier in _contestants(sources, poolings, classifiers):
            groups = _layer_groups(sources[name], layers, pooling)
            prefix = "estimator__" if getattr(sources[name], "how", "") == "average" else ""
            if classifier in MIXERS:
                candidates = candidates_of(classifier, [0], tune=tune, prefix=prefix)
                task = make_task(name, p, pooling, classifier, candidates)
                task = dataclasses.replace(task, mixed_layers=tuple(itertools.chain.from_iterable(groups)))
                rows.append(_Row(name, None, "all", p, task))
                continue
            for group in groups:
                task = make_task(
                    name, p, pooling, classifier, candidates_of(classifier, group, tune=tune, prefix=prefix)
                )
                best = len(group) > 1
                rows.append(_Row(name, None if best else group[0], "best" if best else "", p, task))
        for classifier in BASELINES if baselines else ():
            name = next(iter(named))
            task = make_task(name, p, NO_POOLING, classifier, [Candidate(0)])
            task = dataclasses.replace(task, class_weight=None)
            rows.append(_Row(name, None, "none", p, task))
    finished = None if checkpoint is None else Checkpoint(checkpoint, software_versions())
    outcomes = _run_all(rows, n_jobs=n_jobs, progress=progress, checkpoint=finished)
    results = tuple(_result(row, outcome, selection) for row, outcome in zip(rows, outcomes, strict=True))
    table = selection.table
    folds = tuple(_folds(p, *divided[p.name], len(table)) for p in protocols)
    differences = find_differences(
        results,
        folds[0],
        truth=selection.targets,
        speakers=table.speakers,
        num_labels=len(selection.labels),
        test_share=float(
            np.mean([len(fold.test) / len(fold.train) for fold in divided[protocols[0].name][0]])
        ),
        random_state=random_state,
    )
    comparison = Comparison(
        labels=selection.labels,
        utterance_ids=tuple(table.utterance_ids.tolist()),
        speakers=tuple(table.speakers.tolist()),
        sexes=tuple(table.sexes.tolist()),
        truth=tuple(selection.targets.tolist()),
        folds=folds,
        results=results,
        differences=differences,
        caches={name: describe_features(cache) for name, cache in sources.items()},
        notes=(
            *selection.notes,
            *(["In training, labels count in inverse proportion to their number."] if class_weight else []),
            *(f"{name} has no grid to be tuned by." for name in classifiers if tune and name not in GRIDS),
            *make_notes(selection, divided[protocols[0].name][0], protocols[0], results),
            *([describe_differences(differences, results)] if differences else []),
        ),
        command=command,
        versions=software_versions(),
        random_state=random_state,
    )
    return dataclasses.replace(comparison, projection=project_best(comparison.best, sources, places))


def _contestants(
    sources: "Mapping[str, FeatureCache | FusedCache]", poolings: Sequence[str], classifiers: Sequence[str]
) -> Iterator[tuple[str, str, str]]:
    for name, pooling, classifier in itertools.product(sources, poolings, classifiers):
        if classifier not in FRAME_READERS:
            yield name, pooling, classifier
        # It pools by itself, once, over the frames of one encoder.
        elif pooling == poolings[0] and not isinstance(sources[name], FusedCache):
            yield name, FRAMES, classifier


def _require_probabilities(classifiers: Sequence[str]) -> None:
    for name in classifiers:
        if not hasattr(make_classifier(name), "predict_proba"):
            msg = f"averaging needs classifiers with probabilities. {name} has none; leave it out, or concatenate."
            raise ValueError(msg)


def _layer_groups(
    cache: "FeatureCache | FusedCache", layers: str | Sequence[int], pooling: str
) -> list[tuple[int, ...]]:
    """Return the layers that each row is about: one each, or all of them in one row that chooses."""
    if isinstance(layers, str) and layers not in ("all", "best"):
        msg = f"layers must be 'all', 'best' or layer numbers. Got {layers!r} instead."
        raise ValueError(msg)
    if pooling == FRAMES and not (isinstance(cache, FusedCache) or cache.spec.frames):
        msg = f"{cache.path}: attentive needs frames, and none are stored; extract again with --frames."
        raise CacheError(msg)
    for name in pooling.split("+") if pooling != FRAMES else ():
        if name not in cache.poolings:
            msg = f"{cache.path}: no pooling {name!r}; stored are {', '.join(cache.poolings)}."
            raise CacheError(msg)
    wanted = cache.layers if isinstance(layers, str) else layers
    for layer in wanted:
        if layer not in cache.layers:
            stored = ", ".join(map(str, cache.layers))
            msg = f"{cache.path}: no layer {layer}; stored layers are {stored}."
            raise CacheError(msg)
    return [tuple(wanted)] if layers == "best" else [(layer,) for layer in wanted]


def _run_all(
    rows: Sequence[_Row], *, n_jobs: int, progress: Progress | None, checkpoint: Checkpoint | None
) -> list[Outcome]:
    parts = [(i, part) for i, row in enumerate(rows) for part in row.parts]
    outcomes: dict[int, Outcome] = {}
    if checkpoint is not None:
        found = ((number, checkpoint.find(part)) for number, (_, part) in enumerate(parts))
        outcomes = {number: outcome for number, outcome in found if outcome is not None}
    if progress is not None:
        progress(len(outcomes), len(parts), "")
    todo = [number for number in range(len(parts)) if number not in outcomes]
    for number, outcome in _as_they_finish([(number, parts[number][1]) for number in todo], n_jobs):
        outcomes[number] = outcome
        if checkpoint is not None:
            checkpoint.add(parts[number][1], outcome)
        if progress is not None:
            progress(len(outcomes), len(parts), rows[parts[number][0]].title)
    return [
        join_outcomes([outcomes[number] for number, _ in members])
        for _, members in itertools.groupby(enumerate(parts), key=lambda member: member[1][0])
    ]


def _as_they_finish(tasks: Sequence[tuple[int, Task]], n_jobs: int) -> Iterator[tuple[int, Outcome]]:
    calls = [delayed(_run_numbered)(*task) for task in tasks]
    try:
        pool = Parallel(n_jobs=n_jobs, return_as="generator_unordered")
    except ValueError:  # a backend that hands results over all at once, as Dask's
        at_once = ROUNDS_AT_ONCE * effective_n_jobs(n_jobs)
        for start in range(0, len(calls), at_once):
            yield from Parallel(n_jobs=n_jobs)(calls[start : start + at_once])
    else:
        yield from pool(calls)


def _run_numbered(number: int, task: Task) -> tuple[int, Outcome]:
    return number, run(task)


def _result(row: _Row, outcome: Outcome, selection: Selection) -> Result:
    task = row.task
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
        cache=row.name,
        encoder=describe_features(task.cache)["model_id"] if row.selection != "none" else "none",
        layer=row.layer,
        selection=row.selection,
        tuned=row.tuned,
        class_weight=task.class_weight or "",
        transductive=task.speaker_norm and row.selection != "none",
        pooling=task.pooling,
        classifier=task.classifier,
        protocol=row.protocol.name,
        optimistic=row.protocol.optimistic,
        accuracy=accuracy,
        balanced_accuracy=balanced_accuracy,
        f1_macro=f1_macro,
        fold_accuracy=fold_accuracy,
        fold_balanced_accuracy=fold_balanced_accuracy,
        fold_f1_macro=fold_f1_macro,
        recall=tuple(
            float(counts[i] / counts.sum()) if counts.sum() else None for i, counts in enumerate(confusion)
        ),
        confusion=tuple(map(tuple, confusion.tolist())),
        speaker_scores=_balanced(speakers, speaker_confusions),
        sex_scores={sex: score for sex, score in _balanced(sexes, sex_confusions).items() if sex},
        seconds=outcome.seconds,
        predictions=tuple(map(tuple, table.tolist())),
        chosen=tuple(_described(chosen, task) for chosen in outcome.chosen)
        if len(task.candidates) > 1
        else (),
        mixed_layers=task.mixed_layers,
        layer_weights=tuple(outcome.layer_weights),
        warnings=tuple(
            f"{message} ({count} time{'s' if count > 1 else ''})"
            for message, count in sorted(outcome.warnings.items())
        ),
        members=tuple(task.cache.members) if isinstance(task.cache, FusedCache) else (),
        calibration=measure_calibration(np.concatenate(outcome.confidences), predicted == truth)
        if len(outcome.confidences) == len(task.folds)
        else None,
    )


def _described(chosen: Candidate, task: Task) -> str:
    return chosen.describe().removeprefix(f"layer {chosen.layer}, " if task.mixed_layers else "")


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


def software_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that change a score, as far as they are installed."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
