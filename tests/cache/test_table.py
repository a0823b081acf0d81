import os

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cache import CacheError, Duplicate, Failure, Row, Utterance
from cache.table import LATER_COLUMNS, TABLES, columns, decode, encode, nouns, record

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


def test_columns_are_those_of_schema_1():
    # The format's own list: a new field of a noun is a new column, and a matter for docs/cache-format.md.
    assert list(TABLES["utterances"]) == [
        "id",
        "path",
        "corpus",
        "speaker",
        "sex",
        "label",
        "native_label",
        "text",
        "session",
        "split",
        "intensity",
        "start",
        "end",
        "audio_hash",
        "num_samples",
        "num_frames",
        "file_size",
        "file_mtime_ns",
    ]
    assert list(TABLES["failures"]) == ["id", "path", "reason", "file_size", "file_mtime_ns"]
    assert list(TABLES["duplicates"]) == [
        "id",
        "path",
        "original_id",
        "label",
        "original_label",
        "audio_hash",
        "file_size",
        "file_mtime_ns",
        "start",
        "end",
    ]
    assert {name.partition("/")[2] for name in LATER_COLUMNS} == {"start", "end"}


@given(st.lists(texts))
@example(["", " ", "a\u0000"[:1], "\ufeff", "e\u0301", "\U0001f3a4 \n"])
def test_texts_come_back(values):
    column = np.array([encode(value) for value in values], dtype=np.bytes_)
    assert decode(column).tolist() == values


@given(st.binary().map(lambda name: name.replace(b"\0", b"")))
@example(b"\xe4rger.wav")
@example(b"\xff\xfe")
def test_file_names_in_any_bytes_come_back(name):
    text = os.fsdecode(name)
    encoded = encode(text)
    assert encoded == name
    assert decode(np.array([encoded], dtype=np.bytes_)).tolist() == [text]


@pytest.mark.parametrize("text", ["a\0", "\0", "\ud800", "\udcc3\udca9"])
def test_what_would_not_come_back_is_refused(text):
    with pytest.raises(CacheError, match=r"text must be Unicode, or a file name .* Got "):
        encode(text)


def test_a_text_that_would_widen_a_column_without_bound_is_refused():
    assert encode("ä" * 2**15) == b"\xc3\xa4" * 2**15
    with pytest.raises(CacheError, match=r"at most 65536 bytes\. Got 65537 instead, 'aaaa"):
        encode("a" * 65537)


integers = st.integers(-(2**63), 2**63 - 1)
failures = st.builds(Failure, id=texts, path=texts, reason=texts, file_size=integers, file_mtime_ns=integers)
duplicates = st.builds(
    Duplicate,
    **dict.fromkeys(["id", "path", "original_id", "label", "original_label", "audio_hash"], texts),
    file_size=integers,
    file_mtime_ns=integers,
)
utterances = st.builds(
    Utterance,
    **dict.fromkeys(["id", "path", "corpus", "speaker", "sex", "label", "native_label"], texts),
    text=texts,
    session=texts,
    split=texts,
    intensity=texts,
    start=st.floats(allow_nan=False),
    end=st.floats(allow_nan=False),
)
rows = st.builds(
    Row, utterance=utterances, audio_hash=texts, **dict.fromkeys(["num_samples", "num_frames"], integers)
)


@given(st.tuples(*(st.lists(noun, max_size=4) for noun in (rows, failures, duplicates))))
def test_nouns_come_back_from_columns(tables):
    for name, made in zip(TABLES, tables, strict=True):
        arrays = columns(name, [record(noun) for noun in made])
        assert {array.dtype.kind for array in arrays.values()} <= set("Sif")
        texts = {column for column, kind in TABLES[name].items() if kind is str}
        decoded = {column: decode(array) if column in texts else array for column, array in arrays.items()}
        assert list(nouns(name, decoded)) == made


@pytest.mark.parametrize(
    ("noun", "message"),
    [
        (Failure(id="x", path="a\0b", reason=""), r"'x': path can't be stored: text must be Unicode"),
        (Failure(id="x", path="", reason="", file_size=2**63), "'x': file_size can't be stored"),
        (Failure(id="x", path=None, reason=""), "'x': path can't be stored"),
        (
            Row(
                utterance=Utterance(id="ä", path="", end=float("nan")),
                audio_hash="",
                num_samples=1,
                num_frames=1,
            ),
            "'ä': end can't be stored: it is not a number",
        ),
    ],
)
def test_what_cannot_be_stored_is_named(noun, message):
    with pytest.raises(CacheError, match=message):
        record(noun)
