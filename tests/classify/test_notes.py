import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from classify.notes import make_notes
from classify.protocols import Fold
from classify.results import Estimate
from tests.classify.test_results import make_result


def rows_of(*pairs):
    """Return a row of each layer and protocol, from pairs of a score under a protocol of speakers and one under paper."""
    return [
        make_result(
            layer=layer, protocol=protocol, balanced_accuracy=Estimate(value=score, low=0.0, high=1.0)
        )
        for layer, pair in enumerate(pairs)
        for protocol, score in zip(("speaker-k-fold", "paper"), pair, strict=True)
    ]


def optimism(num_trained, rows):
    """Return the sentence for 100 utterances, of which each fold trains on so many."""
    table = SimpleNamespace(speakers=np.arange(100).astype(str))
    selection = SimpleNamespace(table=table, targets=np.arange(100) % 2, labels=("calm", "joy"))
    folds = [
        Fold("a", np.arange(num_trained), np.arange(100)),
        Fold("b", np.arange(num_trained), np.arange(100)),
    ]
    *_, sentence = make_notes(selection, folds, SimpleNamespace(name="speaker-k-fold"), rows)
    return sentence.removeprefix(
        "Under paper, where test speakers may be in training too, balanced accuracy is "
    )


@pytest.mark.parametrize(
    ("num_trained", "pairs", "sentence"),
    [
        (90, [(0.5, 0.607)], "10.7 points higher: about that much is optimism."),
        (80, [(0.5, 0.6), (0.4, 0.6)], "15.0 points higher in the mean over 2 rows (single rows: 10.0 to 20.0): about that much is optimism."),
        (90, [(0.5, 0.475)], "2.5 points lower: no optimism shows."),
        (
            50,
            [(0.5, 0.6)],
            "10.0 points higher: some of that is optimism, and some that training parts under speaker-k-fold are "
            "smaller, with 62 % as many utterances.",
        ),
    ],
)  # fmt: skip
def test_optimism_is_called_so_where_nothing_else_explains_it(num_trained, pairs, sentence):
    assert optimism(num_trained, rows_of(*pairs)) == sentence


def test_rows_are_paired_by_how_they_were_trained():
    tuned = [dataclasses.replace(row, tuned=True) for row in rows_of((0.4, 0.7))]
    assert optimism(90, [*rows_of((0.5, 0.6)), *tuned]) == (
        "20.0 points higher in the mean over 2 rows (single rows: 10.0 to 30.0): about that much is optimism."
    )
