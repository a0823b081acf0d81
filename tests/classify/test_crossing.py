import functools

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

import classify.compare
from cache import CacheError
from classify.crossing import cross
from classify.estimators import make_classifier

compare = functools.partial(classify.compare.compare, baselines=False)


@pytest.fixture
def caches(make_cache):
    """Three corpora; the second calls anger fury, the third's fear is boredom."""
    bored = {
        f"third/{speaker:02d}t{text}fear": {"label": "boredom"} for speaker in range(6) for text in range(4)
    }
    angry = {
        f"second/{speaker:02d}t{text}anger": {"label": "fury"} for speaker in range(6) for text in range(4)
    }
    return [
        make_cache("first", corpus="first"),
        make_cache("second", corpus="second", change=angry),
        make_cache("third", corpus="third", change=bored),
    ]


def test_every_pair_is_a_fold_over_the_labels_that_all_have(caches, tmp_path):
    crossing = cross(caches, caches, tmp_path / "joint.h5", merge_labels={"fury": "anger"})
    assert crossing.unshared_labels == ("boredom", "fear")
    assert crossing.mapping == (
        "Labels of all 3 caches: anger, joy. Left out: boredom (only in third), fear (only in first, second)."
    )
    comparison = compare(
        [crossing.cache],
        classifiers=["nearest-centroid"],
        layers=[2],
        protocol=crossing.protocol,
        exclude_labels=crossing.unshared_labels,
        merge_labels={"fury": "anger"},
    )
    names = ["first", "second", "third"]
    pairs = [f"{a} to {b}" for a in names for b in names if a != b]
    assert list(comparison.folds[0].names) == pairs
    assert comparison.labels == ("anger", "joy")
    assert crossing.mapping in comparison.folds[0].claim
    (row,) = comparison.results
    (note,) = [note for note in comparison.notes if "pair by pair" in note]
    predictions, tested = np.array(row.predictions), np.array(comparison.folds[0].tested_in)
    labels = np.array(comparison.labels)
    by_name = dict(zip(names, caches, strict=True))
    for number, pair in enumerate(pairs):
        mine, other = (by_name[name] for name in pair.split(" to "))
        # The plain way: fit on one cache, predict the other.
        sides = []
        for cache in (mine, other):
            y = np.where(cache.labels == "fury", "anger", cache.labels)
            sides.append((cache.features(2)[np.isin(y, labels)], y[np.isin(y, labels)]))
        expected = make_classifier("nearest-centroid").fit(*sides[0]).predict(sides[1][0])
        repetition, places = np.nonzero(tested == number)
        np.testing.assert_array_equal(labels[predictions[repetition, places]], expected)
        assert f"{pair} {100 * balanced_accuracy_score(sides[1][1], expected):.1f} %" in note


def test_only_the_asked_pairs_are_made(caches, tmp_path):
    crossing = cross(caches[:1], caches[1:2], tmp_path / "joint.h5", exclude_labels=["fury", "anger"])
    comparison = compare(
        [crossing.cache],
        classifiers=["ridge"],
        layers=[1],
        protocol=crossing.protocol,
        exclude_labels=["fury", "anger"],
    )
    assert comparison.folds[0].names == ("first to second",)
    assert comparison.labels == ("fear", "joy")
    predictions = np.array(comparison.results[0].predictions[0])
    trained = np.array([name.startswith("first") for name in comparison.utterance_ids])
    assert (predictions[trained] == -1).all()
    assert (predictions[~trained] >= 0).all()


def test_a_speaker_in_two_caches_is_a_leak(make_cache, tmp_path):
    known = {f"second/00t{text}joy": {"speaker": "first:00"} for text in range(4)}
    caches = [make_cache("first", corpus="first"), make_cache("second", corpus="second", change=known)]
    crossing = cross(caches[:1], caches[1:], tmp_path / "joint.h5")
    with pytest.raises(ValueError, match="speaker 'first:00' is in both training and test"):
        compare([crossing.cache], classifiers=["majority"], layers=[1], protocol=crossing.protocol)


def test_a_copied_recording_is_not_tested(make_cache, tmp_path):
    copied = {"second/00t0joy": {"audio_hash": "hash of first/00t0joy"}}
    caches = [make_cache("first", corpus="first"), make_cache("second", corpus="second", change=copied)]
    crossing = cross(caches[:1], caches[1:], tmp_path / "joint.h5")
    comparison = compare([crossing.cache], classifiers=["majority"], layers=[1], protocol=crossing.protocol)
    assert "second/00t0joy" not in comparison.utterance_ids
    assert any(
        "1 utterance is not in joint, because it is an exact copy of another." in n for n in comparison.notes
    )


def test_what_can_not_be_crossed_is_refused(make_cache, caches, tmp_path):
    path = tmp_path / "joint.h5"
    for sides in (([], caches), (caches[:1], caches[:1])):
        with pytest.raises(ValueError, match="needs a cache to train on and another to test on"):
            cross(*sides, path)
    with pytest.raises(
        ValueError,
        match=r"share at least two labels: first has anger, fear; third has anger, boredom. Join .*--merge-labels",
    ):
        cross(caches[:1], caches[2:], path, exclude_labels=["joy"])
    with pytest.raises(CacheError, match=r"again.h5: caches to cross must hold different utterances. first/"):
        cross(caches[:1], [make_cache("again", corpus="first")], path)
    with pytest.raises(CacheError, match="weights_hash"):
        cross(caches[:1], [make_cache("other", corpus="other", seed=1)], path)
    assert not path.exists()
