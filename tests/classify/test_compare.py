import functools
import json
import warnings

import joblib
import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score
from sklearn.model_selection import LeaveOneGroupOut, ParameterGrid, StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import classify.compare
from cache import CacheError
from classify import Bundle, FeedforwardClassifier
from classify.estimators import FACTORIES, GRIDS, MIXERS, make_classifier
from classify.results import Comparison

compare = functools.partial(classify.compare.compare, baselines=False)


class Spy(ClassifierMixin, BaseEstimator):
    """Predicts the most frequent training label, and remembers what it was shown."""

    seen: list = []  # noqa: RUF012

    def fit(self, X, y, groups):
        self.classes_ = np.unique(y)
        Spy.seen.append((X, np.asarray(groups)))
        return self

    def predict(self, X):
        return np.full(len(X), self.classes_[0])


class Worrier(Spy):
    def fit(self, X, y, groups=None):
        warnings.warn("did not converge\nat all", ConvergenceWarning, stacklevel=1)
        return super().fit(X, y, groups)


def rows_of(comparison):
    return {result.title: result for result in comparison.results}


@pytest.mark.parametrize("classifier", ["logistic", "feedforward", "svm", "majority"])
def test_predictions_are_those_of_scikit_learns_own_loop(make_cache, monkeypatch, classifier):
    monkeypatch.setitem(FACTORIES, "feedforward", small_head)  # fewer epochs, the same for both sides
    cache = make_cache("one")
    (result,) = compare([cache], classifiers=[classifier], layers=[2], random_state=3).results
    targets = np.unique(cache.labels, return_inverse=True)[1]
    predicted = cross_val_predict(
        make_classifier(classifier, random_state=3),
        cache.features(2, "mean"),
        targets,
        groups=cache.speakers,
        cv=LeaveOneGroupOut(),
    )
    np.testing.assert_array_equal(result.predictions[0], predicted)
    assert result.accuracy.value == pytest.approx(accuracy_score(targets, predicted))
    assert result.balanced_accuracy.value == pytest.approx(balanced_accuracy_score(targets, predicted))
    assert result.f1_macro.value == pytest.approx(f1_score(targets, predicted, average="macro"))
    assert result.confusion == tuple(map(tuple, confusion_matrix(targets, predicted).tolist()))
    assert result.recall == pytest.approx(np.diag(result.confusion) / np.sum(result.confusion, axis=1))
    by_speaker = [
        (targets[cache.speakers == s], predicted[cache.speakers == s]) for s in sorted(set(cache.speakers))
    ]
    assert list(result.speaker_scores.values()) == pytest.approx(
        [balanced_accuracy_score(*part) for part in by_speaker]
    )
    assert result.fold_accuracy.mean == pytest.approx(np.mean([accuracy_score(*part) for part in by_speaker]))
    women = cache.sexes == "female"
    assert result.sex_scores["female"] == pytest.approx(
        balanced_accuracy_score(targets[women], predicted[women])
    )


def test_every_cache_layer_pooling_and_classifier_has_its_row(make_cache):
    comparison = compare(
        [make_cache("one"), make_cache("two", seed=1)],
        classifiers=["majority", "nearest-centroid"],
        poolings=["mean", "mean+std"],
        exclude_labels=["fear"],
        command="sslfeat fit one.h5 two.h5",
    )
    assert len(comparison.results) == 2 * 3 * 2 * 2
    assert "two, layer 1, mean+std, nearest-centroid" in rows_of(comparison)
    assert comparison.labels == ("anger", "joy")
    assert comparison.caches["two"]["layers"] == [0, 1, 2]
    assert comparison.command == "sslfeat fit one.h5 two.h5"
    assert {"numpy", "python", "scikit-learn", "torch"} <= set(comparison.versions)
    assert Comparison.from_json(comparison.to_json()) == comparison
    best = comparison.best
    assert best.balanced_accuracy.value == max(r.balanced_accuracy.value for r in comparison.results)
    tested = np.array(comparison.folds[0].tested_in[0])
    assert [comparison.folds[0].names[i] for i in tested] == list(comparison.speakers)


def test_it_learns_what_there_is_to_learn(make_cache):
    rows = rows_of(compare([make_cache("one")], classifiers=["logistic", "majority"], layers=[0, 2]))
    scores = {title: row.balanced_accuracy.value for title, row in rows.items()}
    # Layer 2 of these caches holds the label, layer 0 noise only.
    assert scores["one, layer 2, mean, logistic"] > 0.8 > 0.55 > scores["one, layer 0, mean, logistic"]
    assert scores["one, layer 2, mean, majority"] == pytest.approx(1 / 3)


def test_nothing_is_learnt_from_the_test_part(make_cache):
    Spy.seen.clear()
    cache = make_cache("one")
    compare([cache], classifiers=[f"{__name__}:Spy"], layers=[1])
    assert len(Spy.seen) == 6
    for features, groups in Spy.seen:
        assert len(set(groups)) == 5
        np.testing.assert_allclose(features.mean(0), 0, atol=1e-5)  # scaled by the training part alone
        np.testing.assert_allclose(features.std(0), 1, atol=1e-4)


def test_processes_change_nothing(make_cache):
    cache = make_cache("one")
    one, two = (
        compare([cache], classifiers=["logistic", "random-forest"], layers=[2], n_jobs=jobs)
        for jobs in (1, 2)
    )
    assert [row.predictions for row in one.results] == [row.predictions for row in two.results]
    with joblib.parallel_config(backend="threading", n_jobs=2):
        threaded = compare([cache], classifiers=["logistic"], layers=[2], n_jobs=2)
    assert threaded.results[0].predictions == one.results[0].predictions


@pytest.mark.parametrize(("layers", "tune"), [("best", False), ([1], True), ("best", True)])
@pytest.mark.parametrize("classifier", ["ridge", "feedforward"])
def test_choices_are_made_inside_the_training_part(make_cache, monkeypatch, classifier, layers, tune):
    monkeypatch.setitem(FACTORIES, "feedforward", small_head)
    monkeypatch.setitem(GRIDS, "feedforward", {"feedforwardclassifier__dropout": [0.0, 0.6]})
    cache = make_cache("one")
    comparison = compare([cache], classifiers=[classifier], layers=layers, tune=tune)
    (row,) = comparison.results
    targets = np.unique(cache.labels, return_inverse=True)[1]
    grid = list(ParameterGrid(GRIDS[classifier])) if tune else [{}]
    for number, (train, test) in enumerate(LeaveOneGroupOut().split(targets, groups=cache.speakers)):
        best = -1.0
        for layer in (0, 1, 2) if layers == "best" else layers:
            X = cache.features(layer)
            for (
                parameters
            ) in grid:  # the plain way: scikit-learn's own loop, in each fold's training part alone
                estimator = make_classifier(classifier).set_params(**parameters)
                predicted = cross_val_predict(
                    estimator,
                    X[train],
                    targets[train],
                    groups=cache.speakers[train],
                    cv=StratifiedGroupKFold(3),
                )
                score = balanced_accuracy_score(targets[train], predicted)
                if score > best + 1e-12:
                    best, words = score, [f"layer {layer}"]
                    words += [
                        f"{name.rpartition('__')[2]}={value}" for name, value in sorted(parameters.items())
                    ]
                    expected = estimator.fit(X[train], targets[train]).predict(X[test])
        assert row.chosen[number] == ", ".join(words)
        np.testing.assert_array_equal(np.array(row.predictions[0])[test], expected)
    assert (row.tuned, row.layer) == (tune, None if layers == "best" else 1)
    assert any(note.startswith(f"{row.title} chose layer") for note in comparison.notes)


def small_head(seed):
    return make_pipeline(
        StandardScaler(), FeedforwardClassifier(max_epochs=5, hidden_layer_sizes=(8,), random_state=seed)
    )


@pytest.mark.parametrize("tune", [False, True])
def test_the_best_of_one_layer_is_that_layer(make_cache, tune):
    cache = make_cache("one", spec={"layers": (2,)})
    (row,) = compare([cache], classifiers=["ridge"], layers="best", tune=tune).results
    assert (row.layer, row.selection, row.tuned) == (2, "", tune)
    assert Bundle.fit(cache, row).layers == (2,)


def test_a_row_that_is_asked_for_twice_is_one_row(make_cache):
    options = {"classifiers": ["ridge", "ridge"], "layers": [1, 1], "poolings": ["mean", "mean"]}
    assert len(compare([make_cache("one")], **options).results) == 1


def test_warnings_are_kept_and_not_shown(make_cache):
    (row,) = compare([make_cache("one")], classifiers=[f"{__name__}:Worrier"], layers=[1]).results
    assert row.warnings == ("ConvergenceWarning: did not converge (6 times)",)
    # A row that chooses is done fold by fold: three inner parts for each of three layers, and the fold itself.
    (row,) = compare([make_cache("two")], classifiers=[f"{__name__}:Worrier"], layers="best").results
    assert row.warnings == (f"ConvergenceWarning: did not converge ({6 * (3 * 3 + 1)} times)",)


def test_progress_counts_rows(make_cache):
    calls = []
    compare(
        [make_cache("one")], classifiers=["majority"], progress=lambda *call: calls.append(call), n_jobs=1
    )
    assert [call[:2] for call in calls] == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert calls[-1][2].startswith("one, layer ")


def test_optimism_is_measured_and_marked(make_cache):
    cache = make_cache("one", shared=False)
    comparison = compare([cache], classifiers=["knn"], layers=[2], report_optimism=True)
    honest, paper = comparison.results
    assert (honest.optimistic, paper.optimistic) == (False, True)
    assert [folds.protocol for folds in comparison.folds] == ["leave-one-speaker-out", "paper"]
    assert comparison.best is honest
    predictions, tested = np.array(paper.predictions), np.array(comparison.folds_of(paper).tested_in)
    assert predictions.shape == (5, len(cache))
    np.testing.assert_array_equal(predictions == -1, tested == -1)
    assert (tested >= 0).sum() == 5 * -(-len(cache) // 5)
    gap = 100 * (paper.balanced_accuracy.value - honest.balanced_accuracy.value)
    assert gap > 10
    assert comparison.notes[-1] == (
        "Under paper, where test speakers may be in training too, balanced accuracy is "
        f"{gap:.1f} points higher: about that much is optimism."
    )


def test_notes_say_what_a_reader_must_know(make_cache):
    drop = {f"emodb/00t{text}fear": {"label": "joy"} for text in range(4)}
    notes = compare(
        [make_cache("one", change=drop)], classifiers=["majority"], layers=[0, 1], tune=True
    ).notes
    assert "majority has no grid to be tuned by." in notes
    assert any(note.startswith("6 speakers are few: the intervals can't be trusted") for note in notes)
    assert any(note.startswith("1 of 6 folds tests some labels only") for note in notes)


def test_what_is_not_tested_is_named_and_not_counted(make_cache):
    parts = {0: "test", 1: "test", 2: "dev"}
    splits = {
        f"emodb/{speaker:02d}t{text}{label}": {
            "split": parts.get(speaker, "train") if label != "joy" or speaker > 1 else "dev"
        }
        for speaker in range(6) for text in range(4) for label in ("anger", "fear", "joy")
    }  # fmt: skip
    comparison = compare(
        [make_cache("one", change=splits)], classifiers=["lda"], layers=[2], protocol="predefined"
    )
    assert comparison.tested_labels == ("anger", "fear")
    assert (comparison.num_tested_speakers, len(comparison.of_tested(comparison.truth))) == (2, 16)
    assert "20 of 72 utterances are in neither part of any fold." in comparison.notes
    assert "No utterance of joy is tested: scores are over 2 of 3 labels." in comparison.notes
    assert not any("test some labels only" in note for note in comparison.notes)
    assert comparison.audit.startswith("Checked in the one fold: ")


def test_what_is_not_there_fails_before_any_work(make_cache):
    cache = make_cache("one")
    for options, error, message in (
        ({"layers": [7]}, CacheError, r"one.h5: no layer 7; stored layers are 0, 1, 2"),
        ({"layers": "last"}, ValueError, "layers must be 'all', 'best' or layer numbers. Got 'last'"),
        ({"poolings": ["max"]}, CacheError, r"one.h5: no pooling 'max'; stored are mean, std"),
        ({"classifiers": ["magic"]}, ValueError, "classifier must be one of"),
        ({"protocol": "loso"}, ValueError, "protocol must be one of"),
        ({"random_state": -1}, ValueError, r"random_state must be in 0..4294967295. Got -1"),
        ({"n_jobs": 0}, ValueError, "n_jobs must be a number of processes, or -1 for all cores. Got 0"),
    ):
        with pytest.raises(error, match=message):
            compare([cache], **({"classifiers": ["majority"]} | options))


def test_baselines_see_no_embedding(make_cache):
    longer = {
        f"emodb/{speaker:02d}t{text}joy": {"num_samples": 64000} for speaker in range(6) for text in range(4)
    }
    comparison = compare(
        [make_cache("one", change=longer)], classifiers=["ridge"], layers=[0], baselines=True
    )
    ridge, majority, duration = comparison.results
    assert [row.title for row in (majority, duration)] == ["baseline majority", "baseline duration"]
    assert (duration.layer, duration.selection, duration.encoder) == (None, "none", "none")
    assert majority.balanced_accuracy.value == pytest.approx(1 / 3)
    assert duration.recall[comparison.labels.index("joy")] == 1
    assert duration.balanced_accuracy.value > ridge.balanced_accuracy.value  # layer 0 is noise
    assert comparison.best is ridge
    assert comparison.differences == ()


def test_speaker_norm_standardises_each_speaker_and_is_marked(make_cache):
    Spy.seen.clear()
    cache = make_cache("one")
    comparison = compare([cache], classifiers=[f"{__name__}:Spy"], layers=[1], speaker_norm=True)
    for features, groups in Spy.seen:
        for speaker in set(groups):
            np.testing.assert_allclose(features[groups == speaker].mean(0), 0, atol=1e-5)
    assert comparison.results[0].transductive
    assert comparison.results[0].title.endswith("per speaker (transductive)")
    assert any("standardised per speaker (transductive)" in note for note in comparison.notes)


def test_a_stopped_comparison_goes_on_where_it_was(make_cache, tmp_path, monkeypatch):
    options = {
        "caches": [make_cache("one")], "classifiers": ["ridge", "lda"], "layers": "best", "tune": True,
        "checkpoint": tmp_path / "progress.jsonl",
    }  # fmt: skip
    calls = []

    def stop(done, total, _):
        calls.append(done)
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(**options, progress=stop)
    with options["checkpoint"].open("a") as file:
        file.write('{"key": "a line that was cu')
    resumed = compare(**options, progress=lambda done, total, _: calls.append((done, total)))
    assert calls[6] == (5, 12)
    plain = compare(**options | {"checkpoint": None})
    assert [row.predictions for row in resumed.results] == [row.predictions for row in plain.results]
    assert [row.chosen for row in resumed.results] == [row.chosen for row in plain.results]

    def fail(*_):
        raise AssertionError

    monkeypatch.setattr("classify.compare.run", fail)
    again = compare(**options)
    assert again.results == resumed.results
    for change in ({"random_state": 1}, {"exclude_labels": ["joy"]}, {"tune": False}, {"speaker_norm": True}):
        with pytest.raises(AssertionError):  # another comparison's predictions are not taken
            compare(**options | change)


@pytest.mark.parametrize(
    "change",
    [
        {"predictions": [[10**12] * 12] * 6},
        {"predictions": [[0]] * 6},
        {"predictions": "none"},
        {"confidences": [[float("nan")] * 12] * 6},
        {"chosen": [[99, []]] * 6},
        {"chosen": []},
        {"seconds": float("inf")},
        {"warnings": []},
        {"layer_weights": [[1.0]] * 6},
    ],
)
def test_finished_work_that_can_not_be_is_done_again(make_cache, tmp_path, change):
    path = tmp_path / "progress.jsonl"
    options = {"caches": [make_cache("one")], "classifiers": ["lda"], "layers": [2]}
    plain = compare(**options, checkpoint=path)
    record = json.loads(path.read_text())
    assert {len(part) for part in record["predictions"]} == {12}
    path.write_text(json.dumps(record | change) + "\n")
    again = compare(**options, checkpoint=path)
    assert again.results[0].predictions == plain.results[0].predictions
    assert len(path.read_text().splitlines()) == 2


def test_finished_work_is_added_to_no_file_that_a_link_leads_to(make_cache, tmp_path):
    path, precious = tmp_path / "progress.jsonl", tmp_path / "precious"
    precious.write_text("mine")
    path.symlink_to(precious)
    with pytest.raises(
        OSError, match=r"progress\.jsonl: unfinished work is kept in a plain file\. This is none"
    ):
        compare([make_cache("one")], classifiers=["lda"], layers=[2], checkpoint=path)
    assert precious.read_text() == "mine"


def test_a_strangers_classifier_is_fitted_anew(make_cache, tmp_path):
    # Its code may have changed under its name.
    options = {"caches": [make_cache("one")], "layers": [1], "checkpoint": tmp_path / "progress.jsonl"}
    for _ in range(2):
        Spy.seen.clear()
        compare(classifiers=[f"{__name__}:Spy"], **options)
        assert len(Spy.seen) == 6
    assert not options["checkpoint"].exists()


def test_a_weighted_sum_takes_all_layers_and_tells_their_shares(make_cache, monkeypatch, tmp_path):
    monkeypatch.setitem(MIXERS, "weighted-sum", small_head)
    cache = make_cache("one")
    comparison = compare([cache], classifiers=["weighted-sum"], poolings=["mean+std"])
    (row,) = comparison.results
    assert (row.layer, row.layers, np.shape(row.layer_weights)) == (None, "all", (6, 3))
    targets = np.unique(cache.labels, return_inverse=True)[1]
    X = np.concatenate([cache.features(layer, "mean+std") for layer in (0, 1, 2)], axis=1)
    pipeline = small_head(0).set_params(feedforwardclassifier__num_layers=3)
    for fold, (train, test) in enumerate(LeaveOneGroupOut().split(X, groups=cache.speakers)):
        pipeline.fit(X[train], targets[train])
        np.testing.assert_array_equal(np.array(row.predictions[0])[test], pipeline.predict(X[test]))
        np.testing.assert_array_equal(row.layer_weights[fold], pipeline[-1].layer_weights_.tolist())
    assert Comparison.from_json(comparison.to_json()) == comparison
    options = {
        "classifiers": ["weighted-sum"],
        "poolings": ["mean+std"],
        "checkpoint": tmp_path / "progress.jsonl",
    }
    assert compare([cache], **options).results[0].layer_weights == row.layer_weights
    assert compare([cache], **options).results[0].layer_weights == row.layer_weights
    (some,) = compare([cache], classifiers=["weighted-sum"], layers=[1, 2]).results
    assert np.shape(some.layer_weights) == (6, 2)
