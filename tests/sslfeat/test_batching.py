"""Batches under a budget."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sslfeat.batching import make_batches

LENGTHS = st.lists(st.integers(1, 500), max_size=60)


@given(lengths=LENGTHS, budget=st.integers(1, 2000), equal=st.booleans())
def test_each_utterance_comes_once_and_the_budget_holds(lengths: list[int], budget: int, equal: bool) -> None:
    batches = list(make_batches(lengths, max_padded_samples=budget, equal_lengths=equal))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[index] for index in batch)
        assert len(batch) == 1 or longest * len(batch) <= budget
        assert not equal or len({lengths[index] for index in batch}) == 1


@given(lengths=LENGTHS, budget=st.integers(1, 2000))
def test_no_batch_could_have_taken_the_next_utterance(lengths: list[int], budget: int) -> None:
    batches = list(make_batches(lengths, max_padded_samples=budget))
    longest = [max(lengths[index] for index in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)
    for batch, length in zip(batches[:-1], longest[:-1], strict=True):
        assert length * (len(batch) + 1) > budget


def test_near_lengths_waste_little() -> None:
    lengths = list(range(20_000, 80_000, 150))
    batches = list(make_batches(lengths, max_padded_samples=640_000))
    padded = sum(max(lengths[i] for i in batch) * len(batch) for batch in batches)
    assert padded < 1.05 * sum(lengths)


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"max_padded_samples must be at least 1\. Got 0"):
        list(make_batches([1], max_padded_samples=0))
