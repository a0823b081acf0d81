"""What a reader must know beside the numbers, in sentences."""

import collections
from collections.abc import Iterator, Sequence

import numpy as np

from classify.protocols import TEST_SIZE, Fold, Protocol
from classify.results import Result
from classify.selection import Selection
from classify.statistics import FEW_SPEAKERS, count_confusions, score_confusions

LIKE_SIZE = 0.85  # of training parts: with fewer utterances than that, scores are lower for that alone


def make_notes(
    selection: Selection, folds: Sequence[Fold], protocol: Protocol, results: Sequence[Result]
) -> Iterator[str]:
    """Yield sentences on few speakers, what is not tested, partial folds, what was chosen, pairs of corpora, and how much is optimism."""
    tested = np.unique(np.concatenate([fold.test for fold in folds]))
    speakers = len(np.unique(np.asarray(selection.table.speakers)[tested]))
    if speakers < FEW_SPEAKERS:
        yield (
            f"{speakers} speaker{' is' if speakers == 1 else 's are'} few: the intervals can't be trusted to hold the score on new speakers "
            "95 times in 100."
        )
    used = np.union1d(tested, np.concatenate([fold.train for fold in folds]))
    if left := len(selection.targets) - len(used):
        yield f"{left} of {len(selection.targets)} utterances are in neither part of any fold."
    labels = set(selection.targets[tested].tolist())
    if untested := [label for i, label in enumerate(selection.labels) if i not in labels]:
        yield f"No utterance of {', '.join(untested)} is tested: scores are over {len(labels)} of {len(selection.labels)} labels."
    partial = [fold.name for fold in folds if len(set(selection.targets[fold.test])) < len(labels)]
    if partial:
        yield (
            f"{len(partial)} of {len(folds)} folds {'tests' if len(partial) == 1 else 'test'} some labels only, so means over folds average fewer "
            "recalls there; pooled scores don't."
        )
    honest = [row for row in results if row.protocol == protocol.name and row.selection != "none"]
    for result in honest:
        if result.chosen:
            often = collections.Counter(result.chosen).most_common()
            stability = "; ".join(f"{choice} in {count} of {len(folds)} folds" for choice, count in often[:3])
            yield f"{result.title} chose {stability}" + ("; others elsewhere." if len(often) > 3 else ".")
    if "cross-corpus" in protocol.name:
        best = max(honest, key=lambda result: result.balanced_accuracy.value)
        yield f"{best.title}, pair by pair: {_pairs(best, folds, selection)}."
    if any(result.transductive for result in results):
        yield (
            "Features are standardised per speaker (transductive): scores hold where many utterances of a new speaker "
            "are there at once, without their labels."
        )
    if "paper" in {result.protocol for result in results} - {protocol.name}:
        yield _optimism(selection, folds, protocol, results)


def _optimism(
    selection: Selection, folds: Sequence[Fold], protocol: Protocol, results: Sequence[Result]
) -> str:
    """Return by how much scores are higher under ``paper``, and how much of that is optimism."""
    scores = {(*row.system, row.layers, row.protocol): row.balanced_accuracy.value for row in results}
    learnt = [row for row in results if row.protocol == protocol.name and row.selection != "none"]
    gaps = [
        100 * (scores[(*row.system, row.layers, "paper")] - row.balanced_accuracy.value) for row in learnt
    ]
    mean = float(np.mean(gaps))
    rows = (
        f" in the mean over {len(gaps)} rows (single rows: {min(gaps):.1f} to {max(gaps):.1f})"
        if len(gaps) > 1
        else ""
    )
    size = np.mean([len(fold.train) for fold in folds]) / ((1 - TEST_SIZE) * len(selection.targets))
    meant = "about that much is optimism"
    if mean <= 0:
        meant = "no optimism shows"
    elif size < LIKE_SIZE:
        meant = (
            f"some of that is optimism, and some that training parts under {protocol.name} are smaller, with "
            f"{100 * size:.0f} % as many utterances"
        )
    return (
        f"Under paper, where test speakers may be in training too, balanced accuracy is {abs(mean):.1f} points "
        f"{'higher' if mean > 0 else 'lower'}{rows}: {meant}."
    )


def _pairs(result: Result, folds: Sequence[Fold], selection: Selection) -> str:
    predictions, words = np.array(result.predictions), []
    for fold in folds:
        truth, zeros = selection.targets[fold.test], np.zeros(len(fold.test), dtype=np.int64)
        counts = count_confusions(
            truth, predictions[fold.repetition, fold.test], zeros, (1, len(selection.labels))
        )
        words.append(f"{fold.name} {100 * score_confusions(counts)[0, 1]:.1f} %")
    return "; ".join(words)
