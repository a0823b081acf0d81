"""Rows as columns: the utterance, failure and duplicate tables between their nouns and arrays of fixed width."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.schema import CacheError, Duplicate, Failure, Row, Utterance

Record = tuple[bytes | int | float, ...]


def _fields(noun: type) -> dict[str, type]:
    return {field.name: field.type for field in dataclasses.fields(noun) if isinstance(field.type, type)}


_ROW_FIELDS = {name: kind for name, kind in _fields(Row).items() if name != "utterance"}

# A column is as wide as its longest text, and a merge's as the longest of all.
MAX_TEXT_BYTES = 2**16

# The columns of each table with the Python type of their values, in the order of a record.
TABLES: Mapping[str, Mapping[str, type]] = {
    "utterances": {**_fields(Utterance), **_ROW_FIELDS},
    "failures": _fields(Failure),
    "duplicates": _fields(Duplicate),
}
# Columns that older files lack; the nouns' defaults stand for them.
LATER_COLUMNS = frozenset({"duplicates/start", "duplicates/end"})
KINDS = {str: "S", int: "i", float: "f"}

_VALUES: Mapping[type, Callable[[Any], tuple[Any, ...]]] = {
    Row: attrgetter(*(f"utterance.{name}" for name in _fields(Utterance)), *_ROW_FIELDS),
    Failure: attrgetter(*TABLES["failures"]),
    Duplicate: attrgetter(*TABLES["duplicates"]),
}


def encode(text: str) -> bytes:
    """Return the bytes that stand for ``text`` in a column: UTF-8, file names of other bytes as they are.

    Raises
    ------
    CacheError
        Where the text has a NUL, which ends a stored string, or a lone surrogate that stands for no byte, or is longer
        than ``MAX_TEXT_BYTES``.
    """
    try:
        encoded = text.encode("utf-8", "surrogateescape")
        lossless = text.isascii() or encoded.decode("utf-8", "surrogateescape") == text
    except UnicodeEncodeError:
        encoded, lossless = b"", False
    if "\0" in text or not lossless:
        msg = f"text must be Unicode, or a file name in other bytes, without NUL. Got {text!r} instead."
        raise CacheError(msg)
    if len(encoded) > MAX_TEXT_BYTES:
        msg = f"text must be at most {MAX_TEXT_BYTES} bytes. Got {len(encoded)} instead, {text[:40]!r} and so on."
        raise CacheError(msg)
    return encoded


def decode(column: NDArray[np.bytes_]) -> NDArray[np.str_]:
    """Return the texts of a column; ``encode`` undone."""
    if not column.size:
        return np.empty(0, dtype=np.str_)
    codes = np.ascontiguousarray(column).view(np.uint8)
    if codes.max() < 128:
        # ASCII, as nearly every column is: each byte is its character's number. 20 times as fast.
        return codes.astype(np.uint32).view(f"U{column.dtype.itemsize}")
    return np.asarray(np.strings.decode(column, "utf-8", "surrogateescape"))


def record(noun: Row | Failure | Duplicate) -> Record:
    """Return the noun's values in the order of its table's columns, texts encoded.

    Raises
    ------
    CacheError
        Where a value can't be stored; the message begins with the utterance's id.
    """
    kinds = TABLES[table_of(noun)]
    values: list[bytes | int | float] = []
    for (name, kind), value in zip(kinds.items(), _VALUES[type(noun)](noun), strict=True):
        try:
            values.append(_stored(kind, value))
        except (AttributeError, TypeError, ValueError, OverflowError) as error:
            owner = noun.utterance.id if isinstance(noun, Row) else noun.id
            msg = f"{owner!r}: {name} can't be stored: {error}"
            raise CacheError(msg) from error
    return tuple(values)


def _stored(kind: type, value: Any) -> bytes | int | float:
    if kind is str:
        return encode(value)
    if kind is int:
        return int(np.int64(value))
    if math.isnan(number := float(value)):
        msg = "it is not a number."
        raise CacheError(msg)
    return number


def table_of(noun: Row | Failure | Duplicate) -> str:
    """Return the name of the table that ``noun`` is a row of."""
    return {Row: "utterances", Failure: "failures", Duplicate: "duplicates"}[type(noun)]


def columns(table: str, records: Sequence[Record]) -> dict[str, NDArray[Any]]:
    """Return records as one array per column, texts as fixed-width bytes."""
    values = list(zip(*records, strict=True)) or [()] * len(TABLES[table])
    dtypes = {str: np.bytes_, int: np.int64, float: np.float64}
    return {
        name: np.array(column, dtype=dtypes[kind])
        for (name, kind), column in zip(TABLES[table].items(), values, strict=True)
    }


def nouns(table: str, arrays: Mapping[str, NDArray[Any]]) -> Iterator[Row | Failure | Duplicate]:
    """Yield the rows of a table from its columns, texts decoded; ``record`` and ``columns`` undone."""
    lists = [column.tolist() for column in arrays.values()]
    for values in zip(*lists, strict=True):
        named = dict(zip(arrays, values, strict=True))
        if table == "failures":
            yield Failure(**named)
        elif table == "duplicates":
            yield Duplicate(**named)
        else:
            measured = {name: named.pop(name) for name in _ROW_FIELDS}
            yield Row(utterance=Utterance(**named), **measured)
