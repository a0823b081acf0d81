"""Which differences between rows the data support."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from classify.results import Difference, Folds, Result
from classify.statistics import (
    count_confusions,
    exchange_test,
    resampled_t_test,
    score_confusions,
    share_scores,
)

SIGNIFICANCE = 0.05


def find_differences(
    results: Sequence[Result],
    folds: Folds,
    *,
    truth: NDArray[np.integer],
    speakers: NDArray[np.str_],
    num_labels: int,
    test_share: float,
    random_state: int = 0,
) -> tuple[Difference, ...]:
    """Test the best row against the best of every other system, or against its own other layers where there is one system.

    A system is a cache, a pooling and a classifier; its rows differ by their layer. Best rows are picked by the
    scores that are tested, so p values are corrected for all rows, those included that are not listed.

    Parameters
    ----------
    results : sequence of Result
        All rows of a comparison; baselines and those of another protocol than the folds' are not tested.
    folds : Folds
    truth, speakers : ndarray of shape (utterance,)
    num_labels : int
    test_share : float
        Mean over folds of the size of the test part over that of the training part.
    random_state : int

    Returns
    -------
    tuple of Difference
        Smallest p value first; empty where there is nothing to compare.
    """
    rows = _tested(results, folds.protocol)
    if len(rows) < 2:
        return ()
    names, numbers = np.unique(speakers, return_inverse=True)
    tested_in = np.array(folds.tested_in)
    repetitions, utterances = np.nonzero(tested_in >= 0)
    fold_numbers = tested_in[repetitions, utterances]

    def counts(row: int, groups: NDArray[np.intp], num_groups: int) -> NDArray[np.int64]:
        predicted = np.array(results[row].predictions)[repetitions, utterances]
        return count_confusions(truth[utterances], predicted, groups, (num_groups, num_labels))

    def fold_scores(row: int) -> NDArray[np.float64]:
        return score_confusions(counts(row, fold_numbers, len(folds.names)))[:, 1]

    shares = np.array([share_scores(counts(row, numbers[utterances], len(names))) for row in rows])
    heard = np.isin(np.arange(len(names)), numbers[utterances])
    systems = [results[row].system for row in rows]
    groups = np.array([systems.index(system) for system in systems])
    plain, corrected = exchange_test(shares[:, heard], groups, random_state=random_state)
    best, *others = _rivals(results, rows)
    place = {row: i for i, row in enumerate(rows)}
    differences = [
        Difference(
            first=best,
            second=other,
            difference=results[best].balanced_accuracy.value - results[other].balanced_accuracy.value,
            p_permutation=float(plain[place[best], place[other]]),
            p_corrected=float(corrected[place[best], place[other]]),
            p_resampled_t=resampled_t_test(fold_scores(best) - fold_scores(other), test_share=test_share)
            if len(folds.names) > 1
            else None,
        )
        for other in others
    ]
    return tuple(
        sorted(differences, key=lambda difference: (difference.p_corrected, difference.p_permutation))
    )


def describe_differences(differences: Sequence[Difference], results: Sequence[Result]) -> str:
    """Return a plain sentence on which differences the data support."""
    best = results[differences[0].first].title
    supported = [difference for difference in differences if difference.p_corrected <= SIGNIFICANCE]
    several = _systems(results, differences) > 1
    others = "the best rows of the other systems" if several else "the other layers"
    protocol = results[differences[0].first].protocol
    num_rows = len(_tested(results, protocol))
    how = "permutation test over speakers"
    how += f", corrected for picking the best out of {num_rows} rows" if num_rows > 2 else ""
    single = "the best row of the other system" if several else "the other layer"
    if not supported:
        smallest = min(difference.p_corrected for difference in differences)
        unbeaten = single if len(differences) == 1 else f"any of {others}"
        return f"The data don't support that {best} is better than {unbeaten} ({how}: p ≥ {smallest:.3f})."
    named = "; ".join(results[difference.second].title for difference in supported[:5])
    more = f"; and {len(supported) - 5} more" if len(supported) > 5 else ""
    if len(differences) == 1:
        beaten = single
    elif len(supported) == len(differences):
        beaten = f"all of {others}"
    else:
        beaten = f"{len(supported)} of {len(differences)} of {others}"
    return (
        f"The data support that {best} is better than {beaten} "
        f"({how}: p ≤ {max(difference.p_corrected for difference in supported):.3f}): {named}{more}."
    )


def _tested(results: Sequence[Result], protocol: str) -> list[int]:
    return [i for i, row in enumerate(results) if row.protocol == protocol and row.selection != "none"]


def _rivals(results: Sequence[Result], rows: Sequence[int]) -> list[int]:
    ranked = sorted(rows, key=lambda i: -results[i].balanced_accuracy.value)
    if len({results[i].system for i in rows}) == 1:
        return ranked
    best_of: dict[tuple[str, ...], int] = {}
    for i in ranked:
        best_of.setdefault(results[i].system, i)
    return list(best_of.values())


def _systems(results: Sequence[Result], differences: Sequence[Difference]) -> int:
    return len(
        {results[i].system for difference in differences for i in (difference.first, difference.second)}
    )
