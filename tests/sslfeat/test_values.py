from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sslfeat.values import ManifestError, clean, facts_of, seconds_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" a b ", "a b"),
        ("cole\u0300re", "col\u00e8re"),
        ("3.0", "3"),
        ("03.0", "03"),  # no zeros are stripped
        ("3.5", "3.5"),
        ("v3.0", "v3.0"),
        (".0", ".0"),
        ("NaN", ""),
        ("none", "none"),  # a label, as some call neutral speech
        ("NA", "NA"),  # a speaker's initials
        ("", ""),
    ],
)
def test_values_are_spelt_as_one(text, expected):
    assert clean(text) == expected


@given(st.text(max_size=8))
def test_what_is_clean_has_no_edges(text):
    assert clean(text) == clean(text).strip()
    assert clean(text + " ") == clean(text)


def test_facts_are_harmonised_and_speakers_carry_the_corpus():
    assert facts_of("own", "", " Wut", "3.0", " F", "s", "Validation ", "") == (
        *("own", "anger", "Wut", "own:3", "female", "s", "dev", ""),
    )
    assert facts_of("own", "emodb", "Smug", "emodb:03", "?", "", "", "")[:5] == (
        *("emodb", "smug", "Smug", "emodb:03", ""),
    )
    assert facts_of("own", "", "nan", "None", "", "", "", "")[1:4] == ("", "", "")


@pytest.mark.parametrize(
    ("text", "expected"), [("1.5", 1.5), ("1:30", 90.0), ("0 days 00:00:01.5", 1.5), (" 2 ", 2.0)]
)
def test_times(text, expected):
    assert seconds_of(Path("own.csv"), 2, text) == expected


@pytest.mark.parametrize("text", ["soon", "1,5", "1500ms", "", "1:2:3:4"])
def test_what_is_no_time(text):
    with pytest.raises(ManifestError, match=r"own\.csv: line 2: a time in seconds, or as 00:00:01\.5\. Got"):
        seconds_of(Path("own.csv"), 2, text)
