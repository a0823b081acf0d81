import dataclasses
import functools
import pickle

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils.estimator_checks import parametrize_with_checks

import classify.compare
from cache import CacheError
from classify.bundle import Bundle, best_kept, why_not_kept
from classify.estimators import make_classifier
from classify.fusion import AveragingClassifier, describe_features, fuse
from classify.results import Comparison
from classify.selection import name_caches, select

compare = functools.partial(classify.compare.compare, baselines=False)


@parametrize_with_checks([AveragingClassifier()])
def test_it_keeps_scikit_learns_contract(estimator, check):
    check(estimator)


@pytest.fixture
def pair(make_cache):
    return [make_cache("one"), make_cache("two", seed=1, spec={"model_id": "random/other"})]


def fused_of(caches, how="concatenate"):
    named = name_caches(caches)
    return fuse(named, select(named).rows, how)


def row_of(comparison, name):
    (row,) = [result for result in comparison.results if result.cache == name]
    return row


def test_concatenated_features_predict_as_scikit_learn_does_on_them_side_by_side(pair):
    comparison = compare(pair, classifiers=["logistic"], layers=[1], fusion=["concatenate"])
    row = row_of(comparison, "one + two, concatenated")
    features = np.concatenate([cache.features(1) for cache in pair], axis=1)
    targets = np.unique(pair[0].labels, return_inverse=True)[1]
    predicted = cross_val_predict(
        make_classifier("logistic"), features, targets, groups=pair[0].speakers, cv=LeaveOneGroupOut()
    )
    np.testing.assert_array_equal(row.predictions[0], predicted)
    assert row.members == ("one", "two")
    assert row.encoder == "random/tiny-wav2vec2 + random/other"
    assert {result.cache for result in comparison.results} == {"one", "two", row.cache}


def test_averaged_probabilities_are_the_mean_of_a_classifier_for_each(pair):
    comparison = compare(pair, classifiers=["logistic"], layers=[1], fusion=["average"])
    row = row_of(comparison, "one + two, averaged")
    targets = np.unique(pair[0].labels, return_inverse=True)[1]
    shares = [
        cross_val_predict(
            make_classifier("logistic"), cache.features(1), targets, groups=cache.speakers,
            cv=LeaveOneGroupOut(), method="predict_proba",
        )
        for cache in pair
    ]  # fmt: skip
    np.testing.assert_array_equal(row.predictions[0], np.mean(shares, axis=0).argmax(1))
    assert row.calibration is not None


def test_utterances_are_joined_by_their_ids(make_cache):
    first, second = make_cache("one"), make_cache("two", seed=1, skip=("emodb/00t0anger", "emodb/03t2joy"))
    fused = fused_of([first, second])
    ids = sorted(set(first.utterance_ids) & set(second.utterance_ids))
    assert fused.utterance_ids.tolist() == ids
    assert len(ids) == len(first) - 2
    for place, utterance_id in enumerate(ids):
        expected = [cache.features(2, "mean+std")[cache.index(utterance_id)] for cache in (first, second)]
        np.testing.assert_array_equal(fused.features(2, "mean+std")[place], np.concatenate(expected))
    assert fused.audio_hashes.tolist() == [f"hash of {utterance_id}" for utterance_id in ids]
    assert pickle.loads(pickle.dumps(fused)).utterance_ids.tolist() == ids


@pytest.mark.parametrize(
    ("column", "value", "match"),
    [
        ("speaker", "emodb:05", "its speakers must be those"),
        ("label", "fear", "its labels must be those"),
        ("audio_hash", "other", "its audio_hashes must be those"),
    ],
)
def test_caches_that_disagree_are_not_joined(make_cache, column, value, match):
    caches = [make_cache("one"), make_cache("two", change={"emodb/00t0anger": {column: value}})]
    with pytest.raises(CacheError, match=match):
        compare(caches, classifiers=["logistic"], layers=[1], fusion=["concatenate"])


def test_a_weighted_sum_a_chosen_layer_and_tuning_work_on_both(pair):
    comparison = compare(
        pair,
        classifiers=["logistic", "weighted-sum"],
        layers="best",
        tune=True,
        fusion=["concatenate", "average"],
    )
    rows = {(row.cache, row.classifier): row for row in comparison.results}
    assert len(rows) == 8
    for how in ("concatenated", "averaged"):
        chosen = rows[f"one + two, {how}", "logistic"].chosen
        assert len(chosen) == 6
        assert all(
            choice.startswith("layer ") and "C=" in choice and "estimator" not in choice for choice in chosen
        )
        mixed = rows[f"one + two, {how}", "weighted-sum"]
        assert mixed.balanced_accuracy.value > 0.6
        assert mixed.tuned
        assert set(mixed.chosen) <= {"max_epochs=10", "max_epochs=50"}
    (weights, *_) = rows["one + two, concatenated", "weighted-sum"].layer_weights
    assert sum(weights) == pytest.approx(1)
    assert Comparison.from_json(comparison.to_json()) == comparison


def test_blocks_of_several_layers_are_brought_together():
    rng = np.random.default_rng(0)
    layers = rng.normal(size=(30, 2, 5))  # the first block is 3 wide, the second 2
    labels = rng.integers(0, 2, 30)
    fitted = AveragingClassifier(block_sizes=(3, 2), num_layers=2).fit(layers.reshape(30, -1), labels)
    first, second = layers[:, :, :3].reshape(30, -1), layers[:, :, 3:].reshape(30, -1)
    shares = [LogisticRegression().fit(block, labels).predict_proba(block) for block in (first, second)]
    np.testing.assert_allclose(fitted.predict_proba(layers.reshape(30, -1)), np.mean(shares, axis=0))


class Hearer(LogisticRegression):
    heard: list = []  # noqa: RUF012

    def fit(self, X, y, groups=None):
        Hearer.heard.append(groups)
        return super().fit(X, y)


def test_groups_reach_who_takes_them():
    X, y = np.eye(4), np.array([0, 1, 0, 1])
    AveragingClassifier(make_pipeline(StandardScaler(), Hearer()), block_sizes=(2, 2)).fit(X, y, groups=y)
    assert [groups.tolist() for groups in Hearer.heard] == [y.tolist()] * 2


def test_what_made_them_is_said_of_all_members(pair):
    facts = describe_features(fused_of(pair))
    assert facts["hidden_size"] == 24
    assert describe_features(fused_of(pair, "average"))["hidden_size"] == [12, 12]
    assert facts["members"] == ["one", "two"]
    assert describe_features(pair[0])["weights_hash"] == f"{0:064x}"
    prints = {fused_of(pair).fingerprint, fused_of(pair, "average").fingerprint}
    assert len(prints | {fused_of([*pair[:1], pair[1]]).fingerprint}) == 2


def test_one_cache_an_unknown_way_or_no_shared_layer_is_refused(make_cache, pair):
    with pytest.raises(ValueError, match=r"fusion needs at least two caches. Got one only"):
        compare(pair[:1], classifiers=["logistic"], fusion=["average"])
    with pytest.raises(ValueError, match=r"fusion must be one of concatenate, average. Got 'stack' instead"):
        compare(pair, classifiers=["logistic"], fusion=["stack"])
    with pytest.raises(ValueError, match=r"averaging needs classifiers with probabilities. svm has none"):
        compare(pair, classifiers=["svm"], fusion=["average"])
    deep = make_cache("deep", spec={"layers": (4, 5, 6), "num_hidden_layers": 6})
    with pytest.raises(
        CacheError, match=r"joins layers of equal number. None is in all: one 0, 1, 2; deep 4"
    ):
        compare([pair[0], deep], classifiers=["logistic"], fusion=["concatenate"])


def test_wrong_blocks_and_margins_are_refused():
    X, y = np.eye(4), np.array([0, 1, 0, 1])
    with pytest.raises(ValueError, match=r"add up to the columns of X in each of 1 layers. Got 3, 2 for 4"):
        AveragingClassifier(block_sizes=(3, 2)).fit(X, y)
    with pytest.raises(ValueError, match=r"averaging needs a classifier with probabilities. SVC has none"):
        AveragingClassifier(SVC()).fit(X, y)


def test_a_fused_row_is_no_bundle(pair):
    row = row_of(
        compare(pair, classifiers=["logistic"], layers=[1], fusion=["average"]), "one + two, averaged"
    )
    assert why_not_kept(row) == "it needs the features of 2 encoders at once"
    with pytest.raises(
        ValueError, match=r"one \+ two, averaged, .* can't: it needs the features of 2 encoders"
    ):
        Bundle.fit(pair[0], row)


def test_the_best_row_that_can_be_one_becomes_the_bundle(pair):
    comparison = compare(pair, classifiers=["logistic"], layers=[1], fusion=["average"])
    fused, *alone = sorted(comparison.results, key=lambda row: -len(row.members))
    alone.sort(key=lambda row: -row.balanced_accuracy.value)
    assert best_kept(comparison) == alone[0]
    assert best_kept(dataclasses.replace(comparison, results=(fused,))) is None
