import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score

from classify.statistics import (
    adjust_holm,
    count_confusions,
    estimate_scores,
    permutation_test,
    resampled_t_test,
    score_confusions,
    spread_scores,
)


def make_predictions(seed=0, n=300, labels=5, speakers=8, skill=0.6):
    generator = np.random.default_rng(seed)
    truth, speaker = generator.integers(0, labels, n), generator.integers(0, speakers, n)
    predicted = np.where(generator.random(n) < skill, truth, generator.integers(0, labels, n))
    return truth, predicted, speaker


def confusions_of(truth, predicted, speaker, labels=5, speakers=8):
    return count_confusions(truth, predicted, speaker, (speakers, labels))


def test_counts_are_scikit_learns():
    truth, predicted, speaker = make_predictions()
    counts = confusions_of(truth, predicted, speaker)
    for i in range(8):
        mine = speaker == i
        np.testing.assert_array_equal(
            counts[i], confusion_matrix(truth[mine], predicted[mine], labels=range(5))
        )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("present", [[0, 1, 2, 3, 4], [1, 3], [2]])
def test_scores_are_scikit_learns_over_the_labels_present(seed, present):
    truth, predicted, _ = make_predictions(seed)
    keep = np.isin(truth, present)
    truth, predicted = truth[keep], predicted[keep]
    scores = score_confusions(count_confusions(truth, predicted, np.zeros_like(truth), (1, 5)))[0]
    recalls = [(predicted[truth == label] == label).mean() for label in present]
    assert scores == pytest.approx(
        [
            accuracy_score(truth, predicted),
            np.mean(recalls),
            f1_score(truth, predicted, labels=present, average="macro"),
        ]
    )
    if len(present) == 5:
        assert scores[1] == pytest.approx(balanced_accuracy_score(truth, predicted))


def test_no_predictions_give_no_scores():
    assert np.isnan(score_confusions(np.zeros((2, 3, 3)))).all()


def test_spread_is_over_folds():
    counts = confusions_of(*make_predictions())
    each = [score_confusions(matrix)[1] for matrix in counts]
    spread = spread_scores(counts)[1]
    assert spread.mean == pytest.approx(np.mean(each))
    assert spread.std == pytest.approx(np.std(each))


def test_interval_is_the_one_of_resampled_speakers():
    truth, predicted, speaker = make_predictions(n=400)
    estimates = estimate_scores(confusions_of(truth, predicted, speaker), num_resamples=4000)
    generator = np.random.default_rng(7)
    tail = stats.norm.cdf(np.sqrt(8 / 7) * stats.t.ppf(0.025, 7))
    resampled = []
    for _ in range(1500):  # the plain way: gather the utterances of the speakers drawn, and ask scikit-learn
        rows = np.concatenate([np.flatnonzero(speaker == i) for i in generator.integers(0, 8, 8)])
        resampled.append(balanced_accuracy_score(truth[rows], predicted[rows]))
    low, high = np.quantile(resampled, [tail, 1 - tail])
    assert estimates[1].value == pytest.approx(balanced_accuracy_score(truth, predicted))
    assert estimates[1].low == pytest.approx(low, abs=0.01)
    assert estimates[1].high == pytest.approx(high, abs=0.01)


def test_interval_repeats_itself_and_leaves_silent_speakers_out():
    counts = confusions_of(*make_predictions())
    assert estimate_scores(counts) == estimate_scores(counts)
    with_silent = np.concatenate([counts, np.zeros((3, 5, 5), dtype=int)])
    assert estimate_scores(with_silent) == estimate_scores(counts)


def test_one_speaker_says_nothing_about_others():
    estimate = estimate_scores(confusions_of(*make_predictions(speakers=1))[:1])[0]
    assert (estimate.low, estimate.high) == (0, 1)


def test_a_perfect_row_keeps_its_value_inside_the_interval():
    counts = np.stack([np.diag([3, 4, 5])] * 4)
    for estimate in estimate_scores(counts):
        assert estimate.low == estimate.value == estimate.high == 1


@pytest.mark.parametrize("speakers", [20, 40])
def test_the_interval_covers_the_truth_as_often_as_it_says(speakers):
    # Speakers differ in how well each of four labels is recognised; the truth is the mean over all speakers.
    generator = np.random.default_rng(speakers)
    covered, trials = 0, 400
    base = np.array([0.5, 0.6, 0.7, 0.8])
    for _ in range(trials):
        # Beta with mean `base`: its mean is the population's recall exactly.
        recall = generator.beta(base * 8, (1 - base) * 8, (speakers, 4))
        right = generator.binomial(12, recall)
        confusions = np.zeros((speakers, 4, 4), dtype=int)
        for label in range(4):
            confusions[:, label, label] = right[:, label]
            confusions[:, label, (label + 1) % 4] = 12 - right[:, label]
        estimate = estimate_scores(confusions, num_resamples=1000)[1]
        covered += estimate.low <= base.mean() <= estimate.high
    assert 0.92 <= covered / trials <= 0.98


def test_permutation_test_is_scipys():
    first = confusions_of(*make_predictions(0, skill=0.7))
    truth, _, speaker = make_predictions(0, skill=0.7)
    second = confusions_of(truth, np.where(np.random.default_rng(4).random(300) < 0.55, truth, 0), speaker)

    def statistic(exchange, axis):
        def difference(sides):
            a = np.where(sides[:, None, None] > 0, first, second).sum(0)
            b = np.where(sides[:, None, None] > 0, second, first).sum(0)
            return score_confusions(a)[1] - score_confusions(b)[1]

        return np.apply_along_axis(difference, axis, exchange)

    # Under permutation_type="samples" scipy flips the signs of one sample: each speaker's side.
    theirs = stats.permutation_test(
        (np.ones(8),), statistic, permutation_type="samples", vectorized=True, n_resamples=np.inf
    )
    assert permutation_test(first, second) == pytest.approx(theirs.pvalue)


def test_permutation_test_by_sampling_comes_close_to_all_exchanges():
    generator = np.random.default_rng(0)
    first, second = (generator.integers(0, 6, (10, 3, 3)) + np.eye(3, dtype=int) * more for more in (4, 2))
    exact = permutation_test(first, second)
    assert permutation_test(first, second, num_permutations=1000) == pytest.approx(exact, abs=0.04)
    assert permutation_test(first, first) == 1
    assert 0 < permutation_test(first, first * 0 + np.eye(3, dtype=int) * 9, num_permutations=500) < 0.05


def test_permutation_test_is_right_as_often_as_it_says_where_there_is_no_difference():
    generator = np.random.default_rng(1)
    p_values = []
    for _ in range(300):
        counts = generator.multinomial(12, [0.4, 0.1, 0.1, 0.4], (2, 8)).reshape(2, 8, 2, 2)
        p_values.append(permutation_test(*counts))
    for level in (0.05, 0.2):
        assert np.mean(np.array(p_values) <= level) <= level + 2.5 * np.sqrt(level * (1 - level) / 300)


def test_resampled_t_test_without_its_correction_is_students():
    differences = np.random.default_rng(0).normal(0.02, 0.05, 10)
    assert resampled_t_test(differences, test_share=0) == pytest.approx(
        stats.ttest_1samp(differences, 0).pvalue
    )
    corrected = differences.mean() / np.sqrt((1 / 10 + 1 / 9) * differences.var(ddof=1))
    assert resampled_t_test(differences, test_share=1 / 9) == pytest.approx(2 * stats.t.sf(abs(corrected), 9))
    assert resampled_t_test(np.zeros(4), test_share=0.25) == 1
    assert resampled_t_test(np.full(4, 0.5), test_share=0.25) == 0
    with pytest.raises(ValueError, match=r"needs at least two folds. Got 1"):
        resampled_t_test(np.zeros(1), test_share=0.25)


def test_holm_rejects_what_the_closed_test_of_bonferroni_rejects():
    # Holm's procedure is the closed testing procedure over Bonferroni tests; ask that one by brute force.
    generator = np.random.default_rng(0)
    for _ in range(50):
        p_values = generator.random(5) ** 3
        adjusted = adjust_holm(p_values)
        for i in range(5):
            sets = [s for size in range(1, 6) for s in itertools.combinations(range(5), size) if i in s]
            closed = max(min(1, len(s) * min(p_values[list(s)])) for s in sets)
            assert adjusted[i] == pytest.approx(closed)
    assert adjust_holm(np.array([])).size == 0
