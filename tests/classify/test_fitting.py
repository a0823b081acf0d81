import functools
import itertools
import math

import joblib
import numpy as np
import pytest
from joblib._parallel_backends import ThreadingBackend
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import LeaveOneGroupOut, ParameterGrid, StratifiedGroupKFold, cross_val_predict

import classify.compare
from classify import fitting
from classify.bundle import Bundle
from classify.estimators import GRIDS, make_classifier
from classify.protocols import Fold

compare = functools.partial(classify.compare.compare, baselines=False)


def targets_of(cache):
    return np.unique(cache.labels, return_inverse=True)[1]


def test_halving_starts_with_few_rows_and_ends_with_the_best_third(make_cache, monkeypatch):
    tried = []
    plain = fitting._fit_predict

    def spy(task, features, jobs):
        tried.extend((len(train), candidate) for train, _, candidate in jobs)
        return plain(task, features, jobs)

    monkeypatch.setattr(fitting, "_fit_predict", spy)
    monkeypatch.setattr(fitting, "ROWS_PER_LABEL", 1)
    cache = make_cache("one")
    options = {"classifiers": ["logistic"], "layers": "best", "tune": True}
    (row,) = compare([cache], **options, search="halving").results
    outer = [candidate for rows, candidate in tried if rows == 60]  # five speakers of six
    assert len(outer) == 6
    rounds = {}
    for rows, candidate in tried:
        if rows != 60:
            rounds.setdefault(rows, []).append(candidate)
    # Inner training parts hold 36 to 48 of 60 rows; three labels share each sample evenly.
    few, some, all_ = (
        [candidate for rows, members in rounds.items() if low <= rows <= high for candidate in members]
        for low, high in ((1, 8), (9, 18), (30, 50))
    )
    candidates = 3 * len(GRIDS["logistic"]["logisticregression__C"])
    assert [len(few), len(some), len(all_)] == [
        6 * 3 * n for n in (candidates, math.ceil(candidates / 3), math.ceil(candidates / 9))
    ]
    assert set(row.chosen) <= {candidate.describe() for candidate in all_}
    assert row.tuned
    # The layers that hold the label are found from few rows too.
    assert all(choice.startswith("layer 2") for choice in row.chosen)


def test_halving_of_what_survives_takes_the_best_of_the_grid(make_cache, monkeypatch):
    cache = make_cache("one")
    options = {"classifiers": ["ridge"], "layers": [1], "tune": True}
    grid = compare([cache], **options).results[0]
    # With a share of all rows wanted from the start, nothing is left to halve.
    monkeypatch.setattr(fitting, "ROWS_PER_LABEL", 10**6)
    assert compare([cache], **options, search="halving").results[0].chosen == grid.chosen


def test_a_sample_holds_a_share_of_each_label_and_lies_in_a_larger_one(make_cache):
    cache = make_cache("one")
    task = fitting.Task(
        cache=cache, rows=np.arange(len(cache)), pooling="mean", classifier="ridge", folds=[], candidates=[],
        targets=targets_of(cache), speakers=cache.speakers, speaker_norm=False, random_state=3, device="cpu",
    )  # fmt: skip
    rows = np.arange(0, len(cache), 2)
    samples = [fitting._sample(task, rows, share) for share in (0.01, 1 / 9, 1 / 3, 1.0)]
    for smaller, larger in itertools.pairwise(samples):
        assert set(smaller) <= set(larger)
    counts = [np.bincount(task.targets[sample]) for sample in samples]
    whole = np.bincount(task.targets[rows])
    np.testing.assert_array_equal(counts, [np.full(3, 2), np.ceil(whole / 9), np.ceil(whole / 3), whole])


def test_an_unknown_search_is_refused(make_cache):
    with pytest.raises(ValueError, match=r"search must be one of grid, halving. Got 'random' instead"):
        compare([make_cache("one")], classifiers=["ridge"], search="random")


@pytest.mark.parametrize("name", ["logistic", "svm", "linear-svm", "ridge", "random-forest"])
def test_rare_labels_count_as_much_as_frequent_ones(make_cache, name):
    rare = [f"emodb/{speaker:02d}t{text}fear" for speaker in range(6) for text in (1, 2, 3)]
    cache = make_cache("one", skip=rare)
    comparison = compare([cache], classifiers=[name], layers=[0], class_weight="balanced")
    estimator = make_classifier(name)
    last = estimator if name == "random-forest" else estimator[-1]
    last.set_params(class_weight="balanced")
    expected = cross_val_predict(
        estimator, cache.features(0), targets_of(cache), groups=cache.speakers, cv=LeaveOneGroupOut()
    )
    np.testing.assert_array_equal(comparison.results[0].predictions[0], expected)
    plain = compare([cache], classifiers=[name], layers=[0]).results[0]
    assert plain.predictions != comparison.results[0].predictions
    assert "In training, labels count in inverse proportion to their number." in comparison.notes
    kept = Bundle.fit(cache, comparison.best, class_weight="balanced").predict(cache.features(0))
    fitted = estimator.fit(cache.features(0), cache.labels)
    np.testing.assert_array_equal(kept, fitted.predict(cache.features(0)))


def test_what_can_not_weigh_labels_says_so(make_cache):
    with pytest.raises(ValueError, match=r"class weights need a classifier that takes them. knn doesn't"):
        compare([make_cache("one")], classifiers=["ridge", "knn"], class_weight="balanced")
    with_baselines = classify.compare.compare(
        [make_cache("two")], classifiers=["ridge"], layers=[1], class_weight="balanced"
    )
    assert [row.classifier for row in with_baselines.results] == ["ridge", "majority", "duration"]


class InBatches(ThreadingBackend):
    """Hands results over all at once, as Dask's backend does."""

    supports_return_generator = False


def test_a_cluster_that_answers_in_batches_gives_the_same(make_cache, tmp_path):
    joblib.register_parallel_backend("in-batches", InBatches)
    cache = make_cache("one")
    options = {"classifiers": ["nearest-centroid", "ridge"], "layers": "best"}
    calls = []
    with joblib.parallel_config("in-batches", n_jobs=2):
        found = compare(
            [cache],
            **options,
            n_jobs=2,
            checkpoint=tmp_path / "finished.jsonl",
            progress=lambda *call: calls.append(call[:2]),
        )
    assert calls == [(done, 12) for done in range(13)]
    assert len((tmp_path / "finished.jsonl").read_text().splitlines()) == 12
    alone = compare([cache], **options)
    assert [row.predictions for row in found.results] == [row.predictions for row in alone.results]


def test_the_grid_is_searched_by_speakers(make_cache):
    cache = make_cache("one")
    (row,) = compare([cache], classifiers=["knn"], layers=[1], tune=True).results
    train = np.flatnonzero(cache.speakers != cache.speakers[0])
    scores = [
        balanced_accuracy_score(
            targets_of(cache)[train],
            cross_val_predict(
                make_classifier("knn").set_params(**parameters),
                cache.features(1)[train],
                targets_of(cache)[train],
                groups=cache.speakers[train],
                cv=StratifiedGroupKFold(3),
            ),
        )
        for parameters in ParameterGrid(GRIDS["knn"])
    ]
    best = list(ParameterGrid(GRIDS["knn"]))[int(np.argmax(scores))]
    assert row.chosen[0] == f"layer 1, n_neighbors={best['kneighborsclassifier__n_neighbors']}"


def test_sentences_are_kept_apart_where_asked(make_cache):
    cache = make_cache("one")
    options = {"classifiers": ["majority"], "layers": [1], "audit_text": True}
    with pytest.raises(ValueError, match="leave-one-speaker-out, fold 'emodb:00': text 't0' is in both"):
        compare([cache], **options)
    audit = compare([cache], **options, protocol="speaker-and-text-disjoint").folds[0].audit
    assert "no text" in audit
    unknown = {"emodb/03t1joy": {"text": ""}}
    with pytest.raises(ValueError, match="1 of 72 utterances have no text, as emodb/03t1joy; name it"):
        compare([make_cache("two", change=unknown)], **options)


@pytest.mark.parametrize("protocol", ["leave-one-speaker-out", "speaker-3-fold"])
def test_a_planted_leak_is_caught(make_cache, protocol):
    # A copied file of a renamed speaker: only the hash of what was decoded gives it away.
    planted = {
        "emodb/05t2joy": {"speaker": "emodb:99", "audio_hash": "hash of emodb/00t0joy", "path": "other.wav"}
    }
    cache = make_cache("planted", change=planted)
    match = "a recording is in both training and test: .*(00t0joy.*05t2joy|05t2joy.*00t0joy).*remove the copy"
    with pytest.raises(ValueError, match=match):
        compare([cache], classifiers=["majority"], layers=[1], protocol=protocol)
    paper = compare([cache], classifiers=["majority"], layers=[1], protocol="paper")
    assert "exact copies of recordings are in both" in paper.folds[0].audit


def rarely(texts, label="pride", speakers=(0, 1)):
    """Let speakers say some sentences in an emotion that no one else has."""
    return {f"emodb/{speaker:02d}t{text}joy": {"label": label} for speaker in speakers for text in texts}


@pytest.mark.parametrize("classifier", ["logistic", "svm", "qda", "knn"])
def test_inner_parts_that_can_not_be_learnt_from_are_left_out(make_cache, classifier):
    # Two speakers have all there is of the second label: an inner part of the others has one label only.
    only = {
        f"emodb/{speaker:02d}t{text}{label}": {"label": "fear" if speaker > 1 or label == "anger" else "joy"}
        for speaker in range(6) for text in range(4) for label in ("anger", "fear", "joy")
    }  # fmt: skip
    cache = make_cache("one", change=only)
    (row,) = compare([cache], classifiers=[classifier], layers=[2], tune=True).results
    assert len(row.chosen) == 6


def test_one_label_in_every_inner_part_is_an_error(make_cache):
    # Under this fold one speaker alone is left to learn one of two labels from.
    cache = make_cache("one")
    targets = np.where(cache.speakers == "emodb:00", 1, 0)
    fold = Fold("a", np.flatnonzero(np.isin(cache.speakers, ["emodb:00", "emodb:01"])), np.arange(60, 72))
    task = fitting.Task(
        cache=cache, rows=np.arange(len(cache)), pooling="mean", classifier="ridge", folds=[fold],
        candidates=fitting.candidates_of("ridge", [1], tune=True), targets=targets, speakers=cache.speakers,
        speaker_norm=False, random_state=0, device="cpu", labels=("calm", "joy"),
    )  # fmt: skip
    with pytest.raises(
        ValueError,
        match=r"^one, layer 1, mean, ridge: nothing can be chosen inside the training part of fold 'a', as no inner "
        r"part of it has two labels\. The label with fewest rows to learn from is calm, with 12 in fold 'a'; leave",
    ):
        fitting.run(task)


def test_an_error_names_row_fold_and_label(make_cache):
    cache = make_cache(
        "one", change=rarely([0])
    )  # each has one utterance of it, so that folds learn from one
    with pytest.raises(
        ValueError,
        match=r"^one, layer 2, mean, qda: each label needs at least two rows, to have a covariance\. Got 1 sample of "
        r"'pride'\. The label with fewest rows to learn from is pride, with 1 in fold 'emodb:00'; leave it out, or",
    ):
        compare([cache], classifiers=["qda"], layers=[2])
    with pytest.raises(ValueError, match=r"^one, layer 2, mean, qda: each label needs at least two rows"):
        compare([cache], classifiers=["qda"], layers=[2], tune=True)


def test_a_candidate_that_can_not_learn_is_not_taken(make_cache):
    # Two or three rows of a label leave no variance to find a shrinkage by.
    cache = make_cache("one", change=rarely([0], speakers=(0, 1, 2, 3)))
    (row,) = compare([cache], classifiers=["qda"], layers=[2], tune=True).results
    assert not any("shrinkage=auto" in choice for choice in row.chosen)
