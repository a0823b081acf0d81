import dataclasses
import functools

import numpy as np
import pytest
from scipy import stats

import classify.compare
from classify.differences import describe_differences, find_differences
from classify.results import Difference
from classify.statistics import count_confusions, exchange_test, score_confusions, share_scores

compare = functools.partial(classify.compare.compare, baselines=False)


@pytest.fixture
def systems(make_cache):
    return compare(
        [make_cache("one"), make_cache("two", shared=False)], classifiers=["ridge", "majority"], layers=[1, 2]
    )


def test_the_best_row_is_tested_against_the_best_of_each_other_system(systems):
    titles = [systems.results[d.second].title for d in systems.differences]
    assert systems.results[systems.differences[0].first] is systems.best
    assert len(titles) == 3
    for cache, classifier in (("one", "majority"), ("two", "ridge"), ("two", "majority")):
        rows = [r for r in systems.results if (r.cache, r.classifier) == (cache, classifier)]
        best = max(rows, key=lambda row: row.balanced_accuracy.value)
        assert best.title in titles


def test_p_values_are_those_of_the_predictions(systems):
    truth = np.array(systems.truth)
    names, speakers = np.unique(systems.speakers, return_inverse=True)
    counts = [
        count_confusions(truth, np.array(row.predictions[0]), speakers, (len(names), 3))
        for row in systems.results
    ]
    # All rows pay for the correction, those too that are no system's best.
    numbers = np.repeat(np.arange(4), 2)  # two layers of each cache and classifier
    plain, corrected = exchange_test(share_scores(np.array(counts)), numbers)
    assert len(counts) == 8
    assert [d.p_permutation for d in systems.differences] == [
        plain[d.first, d.second] for d in systems.differences
    ]
    assert [d.p_corrected for d in systems.differences] == [
        corrected[d.first, d.second] for d in systems.differences
    ]
    for d in systems.differences:  # folds are speakers here
        gaps = score_confusions(counts[d.first])[:, 1] - score_confusions(counts[d.second])[:, 1]
        if np.ptp(gaps) < 1e-12:  # ridge is always right, and the other always a third of the time
            assert d.p_resampled_t is None
        else:
            t = gaps.mean() / np.sqrt((1 / 6 + 1 / 5) * gaps.var(ddof=1))
            assert d.p_resampled_t == pytest.approx(2 * stats.t.sf(abs(t), 5))
        assert d.difference == pytest.approx(
            systems.results[d.first].balanced_accuracy.value
            - systems.results[d.second].balanced_accuracy.value
        )


def test_a_sentence_says_what_the_data_support(systems):
    # Six speakers allow no p value below 2 / 64; rows that agree add nothing to it.
    sentence = describe_differences(systems.differences, systems.results)
    assert sentence == systems.notes[-1]
    assert sentence.startswith(
        "The data support that one, layer 2, mean, ridge is better than all of the best rows of the other systems "
        "(permutation test over speakers, corrected for picking the best out of 8 rows: p ≤ 0.031): "
    )
    unsure = [dataclasses.replace(d, p_corrected=0.07 + i) for i, d in enumerate(systems.differences)]
    assert describe_differences(unsure, systems.results) == (
        "The data don't support that one, layer 2, mean, ridge is better than any of the best rows of the other systems "
        "(permutation test over speakers, corrected for picking the best out of 8 rows: p ≥ 0.070)."
    )


def test_a_supported_difference_is_named(make_cache):
    caches = [make_cache("one"), make_cache("two", shared=False)]
    comparison = compare(caches, classifiers=["ridge"], layers=[2])
    assert comparison.notes[-1] == (
        "The data support that one, layer 2, mean, ridge is better than the best row of the other system "
        "(permutation test over speakers: p ≤ 0.031): two, layer 2, mean, ridge."
    )


@pytest.mark.parametrize(
    ("rivals", "beaten"),
    [
        ([("two", True)], "the best row of the other system"),
        ([("two", True), ("three", True)], "all of the best rows of the other systems"),
        ([("two", True), ("three", False)], "1 of 2 of the best rows of the other systems"),
        ([("one", True)], "the other layer"),
        ([("one", True), ("one", True)], "all of the other layers"),
    ],
)
def test_a_sentence_counts_what_is_beaten(systems, rivals, beaten):
    row = systems.results[0]
    results = [
        dataclasses.replace(row, cache=name, layer=i) for i, (name, _) in enumerate([("one", 0), *rivals])
    ]
    differences = [
        Difference(first=0, second=i, difference=0.1, p_permutation=p, p_resampled_t=p, p_corrected=p)
        for i, (_, supported) in enumerate(rivals, 1)
        for p in [0.01 if supported else 0.5]
    ]
    assert f"is better than {beaten} (permutation" in describe_differences(differences, results)
    unsure = [dataclasses.replace(difference, p_corrected=0.5) for difference in differences]
    others = (
        beaten if len(rivals) == 1 else "any of " + beaten.split("of ", maxsplit=1)[1].removeprefix("2 of ")
    )
    assert f"don't support that {results[0].title} is better than {others} (" in describe_differences(
        unsure, results
    )


def test_layers_of_one_system_are_tested_among_themselves(make_cache):
    comparison = compare([make_cache("one")], classifiers=["ridge"])
    assert sorted(comparison.results[d.second].layer for d in comparison.differences) == [0, 1]
    assert "any of the other layers" in comparison.notes[-1] or "of the other layers" in comparison.notes[-1]


def test_one_row_has_no_rival(make_cache):
    comparison = compare([make_cache("one")], classifiers=["ridge"], layers=[1])
    assert comparison.differences == ()
    assert find_differences(
        comparison.results, comparison.folds[0], truth=np.array(comparison.truth), test_share=0.2,
        speakers=np.array(comparison.speakers), num_labels=3,
    ) == ()  # fmt: skip


def test_one_fold_has_no_t_test(make_cache):
    held = {
        f"emodb/{speaker:02d}t{text}{label}": {"split": "test" if speaker < 2 else "train"}
        for speaker in range(6) for text in range(4) for label in ("anger", "fear", "joy")
    }  # fmt: skip
    comparison = compare(
        [make_cache("one", change=held)], classifiers=["ridge", "majority"], layers=[2], protocol="predefined"
    )
    assert [d.p_resampled_t for d in comparison.differences] == [None]
    assert (
        comparison.differences[0].p_permutation == 0.5
    )  # two speakers: four exchanges, of which two are as extreme


def test_repetitions_are_counted_together(make_cache):
    comparison = compare([make_cache("one")], classifiers=["ridge", "majority"], layers=[2], protocol="paper")
    (difference,) = comparison.differences
    assert difference.p_permutation == pytest.approx(2 / 64)
