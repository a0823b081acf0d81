import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score

from classify.statistics import (
    count_confusions,
    estimate_scores,
    exchange_test,
    resampled_t_test,
    score_confusions,
    share_scores,
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


def test_shares_of_groups_add_up_to_the_score():
    counts = np.stack([confusions_of(*make_predictions(seed, skill=0.4 + seed / 5)) for seed in range(3)])
    counts[:, :, 2] = 0  # a label that no one said
    shares = share_scores(counts)
    assert shares.shape == (3, 8)
    np.testing.assert_allclose(shares.sum(-1), score_confusions(counts.sum(1))[:, 1])


def test_exchanges_of_two_rows_are_scipys_permutation_test():
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
    for p_values in exchange_test(share_scores(np.stack([first, second])), np.arange(2)):
        assert p_values[0, 1] == pytest.approx(theirs.pvalue)


@pytest.mark.parametrize("num_utterances", [7, 84, 535])
def test_exchanges_that_do_as_well_as_the_observed_one_count_whatever_their_rounding(num_utterances):
    right = np.random.default_rng(num_utterances).integers(0, 15, (40, 2, 7))
    for first, second in right:
        gap = first - second  # whole numbers: equal sums are equal
        flips = np.array(list(itertools.product([1, -1], repeat=7)))
        expected = np.mean(abs(flips @ gap) >= abs(gap.sum()))
        for p_values in exchange_test(np.stack([first, second]) / num_utterances, np.arange(2)):
            assert p_values[0, 1] == p_values[1, 0] == pytest.approx(expected)


def test_random_exchanges_come_close_to_all_of_them():
    generator = np.random.default_rng(0)
    shares, numbers = generator.normal([[0.5], [0.6], [0.7], [1.3]], 0.5, (4, 11)), np.arange(4)
    some, every = exchange_test(shares, numbers, num_permutations=1000), exchange_test(shares, numbers)
    np.testing.assert_allclose(some, every, atol=0.05)
    for p_values in exchange_test(shares[[0, 0]], np.arange(2)):
        assert (p_values == 1).all()


@pytest.mark.parametrize("systems", [(0, 0, 0, 0), (0, 0, 1, 1), (0, 0, 0, 1)], ids=str)
def test_corrected_p_values_are_those_of_the_step_down_procedure_done_plainly(systems):
    shares = np.random.default_rng(3).normal([[0.0], [0.1], [0.15], [0.6]], 0.3, (4, 6))
    numbers = range(4) if len(set(systems)) == 1 else systems
    best = {max((shares[i].sum(), i) for i in range(4) if numbers[i] == number)[1] for number in numbers}
    pairs = [(i, j) for i in range(4) for j in best if numbers[i] != numbers[j]]
    gaps = {(i, j): shares[i] - shares[j] for i, j in pairs}
    wider = np.sqrt(6 / 5) * stats.t.ppf(0.975, 5) / stats.norm.ppf(0.975)
    flips = list(itertools.product([1, -1], repeat=6))
    plain, corrected = exchange_test(shares, np.array(systems))
    worst = 0.0
    left = sorted(pairs, key=lambda pair: -gaps[pair].sum())
    while left:
        observed = gaps[left[0]].sum() - 1e-12
        equal = [wider * (gaps[pair] - gaps[pair].mean()) for pair in left]
        count = sum(max(gap @ flip for gap in equal) >= observed for flip in flips)
        alone = np.mean([abs(gaps[left[0]] @ flip) >= abs(observed + 1e-12) - 1e-12 for flip in flips])
        worst = max(worst, alone, (count + 1) / (len(flips) + 1))
        assert plain[left[0]] == pytest.approx(alone)
        assert corrected[left[0]] == pytest.approx(worst)
        left = left[1:]
    assert plain[0, 0] == corrected[0, 0] == 1


def draw_shares(generator, systems, *, speakers=24, gain=0.0):
    """What speakers add to the scores of rows that differ in skill by nothing but the first system's gain.

    Systems hold so many rows each. Some speakers, and some of 4 x 10 utterances, are hard for all rows; some speakers
    are hard for one system, or for one row, only.
    """
    hard = generator.normal(0, 0.7, (speakers, 1)) + 1.5 * generator.normal(size=(speakers, 40))
    shares = []
    for place, rows in enumerate(systems):
        for_system = generator.normal(0, 0.25, (speakers, 1))
        for _ in range(rows):
            logit = 0.5 + gain * (place == 0) + hard + for_system + generator.normal(0, 0.25, (speakers, 1))
            right = generator.random((speakers, 40)) < 1 / (1 + np.exp(-logit))
            shares.append(right.mean(1) / speakers)
    return np.array(shares)


def best_against_worst(systems, trials, **world):
    """Return how often the data support that the best row is better than at least one other."""
    generator = np.random.default_rng(sum(systems))
    found = 0
    for _ in range(trials):
        shares = draw_shares(generator, systems, **world)
        numbers = np.repeat(np.arange(len(systems)), systems)
        _, p_values = exchange_test(shares, numbers, num_permutations=299)
        found += p_values[shares.sum(1).argmax()].min() <= 0.05
    return found / trials


@pytest.mark.parametrize("systems", [[1, 1], [13, 1], [13], [1] * 13, [25, 1]], ids=str)
def test_equal_rows_are_told_apart_no_more_often_than_stated(systems):
    # Whichever of them is the best one, and whichever layer was picked: 5 % and the error of the simulation.
    assert best_against_worst(systems, 400) <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / 400)


@pytest.mark.parametrize("systems", [[1, 1], [13, 13]], ids=str)
def test_a_system_that_is_better_is_found_among_many_rows(systems):
    generator = np.random.default_rng(0)
    found = 0
    for _ in range(50):
        shares = draw_shares(generator, systems, gain=0.8)
        _, p_values = exchange_test(shares, np.repeat(np.arange(2), systems), num_permutations=299)
        scores, m = shares.sum(1), systems[0]
        found += p_values[scores[:m].argmax(), m + scores[m:].argmax()] <= 0.05
    assert found >= 40


def test_resampled_t_test_without_its_correction_is_students():
    differences = np.random.default_rng(0).normal(0.02, 0.05, 10)
    assert resampled_t_test(differences, test_share=0) == pytest.approx(
        stats.ttest_1samp(differences, 0).pvalue
    )
    corrected = differences.mean() / np.sqrt((1 / 10 + 1 / 9) * differences.var(ddof=1))
    assert resampled_t_test(differences, test_share=1 / 9) == pytest.approx(2 * stats.t.sf(abs(corrected), 9))
    assert resampled_t_test(np.zeros(4), test_share=0.25) == 1
    # Three gaps of 0.1, which are not equal to the last digit.
    for alike in ([0.3 - 0.2, 0.4 - 0.3, 0.5 - 0.4], [0.01, 0.01]):
        assert resampled_t_test(np.array(alike), test_share=1) is None
    with pytest.raises(ValueError, match=r"needs at least two folds. Got 1"):
        resampled_t_test(np.zeros(1), test_share=0.25)
