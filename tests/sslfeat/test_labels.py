import pytest
from hypothesis import given
from hypothesis import strategies as st

from sslfeat.labels import LABELS, harmonise, nearest, unknown_labels


def test_no_word_means_two_nouns():
    spelt = [word for noun, synonyms in LABELS.items() for word in {noun, *synonyms}]
    assert len(spelt) == len(set(spelt))
    assert all(word == word.lower() for word in spelt)


@given(st.sampled_from([(word, noun) for noun, words in LABELS.items() for word in (noun, *words)]))
def test_a_synonym_in_any_case_is_its_noun(pair):
    word, noun = pair
    assert harmonise(f" {word.upper()} ") == harmonise(word) == noun
    assert harmonise(noun) == noun


@given(st.sampled_from([noun for noun in LABELS if len(noun) > 5]), st.data())
def test_a_letter_that_is_missing_still_finds_the_noun(noun, data):
    gap = data.draw(st.integers(0, len(noun) - 1))
    misspelt = noun[:gap] + noun[gap + 1 :]
    assert harmonise(misspelt) == "" or harmonise(misspelt) == noun
    assert nearest(misspelt) == noun


def test_accents_taken_apart_are_the_same_word():
    assert harmonise("De\u0301gou\u0302t") == harmonise("D\u00e9go\u00fbt") == "disgust"


@pytest.mark.parametrize("word", ["pleasant_surprised", "Pleasant-Surprise", " pleasant  surprise"])
def test_words_are_joined_by_whatever_a_folder_allows(word):
    assert harmonise(word) == "surprise"


@pytest.mark.parametrize(
    "word", ["hapy", "angryy", "neutrality", "fearless", "unhappy", "not angry", "0", "sadd"]
)
def test_no_word_becomes_a_noun_by_chance(word):
    assert harmonise(word) == ""


def test_unknown_labels_come_once_each():
    assert unknown_labels(["sad", "", "sadd", "sadd", "zzz"]) == {"sadd": "sadness", "zzz": ""}
