"""A user's own corpus, named in a table: CSV, TSV or JSON lines.

The reader returns the :class:`~sslfeat.corpora.CorpusListing` that a known corpus gives, so nothing after it differs.
"""

import contextlib
import csv
import dataclasses
import gc
import itertools
import json
import math
import operator
import os
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cache.schema import Utterance
from sslfeat.containers import is_respelt
from sslfeat.corpora import CorpusListing, nearest_of
from sslfeat.labels import harmonise, unknown_labels
from sslfeat.values import MISSING, ManifestError, clean, facts_of, seconds_of

# Field -> the column names it is guessed from, best first; case, spaces and hyphens don't matter. EmoBox's JSONL
# (key, wav, emo, spk, dataset) and MSP-Podcast's consensus table are among them.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "path": (
        *("path", "file", "filename", "file_name", "filepath", "file_path", "wav", "audio", "audio_path"),
        *("wav_path", "audio_file", "audio_filepath", "wav_file", "uri"),
    ),
    "label": ("label", "emotion", "emo", "emotion_label", "emoclass", "class", "category", "target"),
    "speaker": ("speaker", "speaker_id", "spk", "spk_id", "spkid", "spkrid", "actor", "actor_id", "talker"),
    "sex": ("sex", "gender", "gd"),
    "text": ("text_id", "sentence_id", "text", "sentence", "transcript", "transcription"),
    "session": ("session", "session_id", "dialogue", "dialogue_id", "dialog"),
    "split": ("split", "split_set", "subset", "partition", "dset", "set"),
    "intensity": ("intensity", "emotion_intensity", "emotional_intensity", "emotion_level"),
    "id": ("id", "utterance_id", "utt_id", "uttid", "utt", "key", "segment_id", "name"),
    "corpus": ("corpus", "dataset", "database", "db"),
    "start": ("start", "start_time", "begin", "onset", "offset"),
    "end": ("end", "end_time", "stop"),
    "duration": ("duration", "dur", "length"),
}
NUM_SOUGHT = 20  # paths looked for before a wrong root is suspected
NUM_TOLD = 10  # unknown labels; a wrong column has as many as there are rows
SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson")


# A frozen dataclass sets its fields one by one through object.__setattr__, a third of the time that a million rows take.
# They are set on a twin that isn't frozen, and that then becomes an Utterance.
_Draft: Any = dataclasses.make_dataclass(
    "_Draft", [(field.name, field.type) for field in dataclasses.fields(Utterance)], slots=True, kw_only=True
)


def read_manifest(
    manifest: str | Path,
    *,
    root: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    corpus: str = "",
) -> CorpusListing:
    """List the utterances that a table names: CSV (any of , ; | as separator), TSV, or JSON lines.

    Parameters
    ----------
    manifest : str or Path
        A file named .csv, .tsv, .txt, .jsonl or .ndjson, in UTF-8; a CSV has its column names in the first line.
    root : str or Path, optional
        The folder that relative paths start from; the manifest's own by default.
    columns : mapping of str to str, optional
        Field of ``COLUMNS`` -> the column it is in, for those that aren't to be guessed.
    corpus : str
        The name that ids and speakers carry where no column gives one; the manifest's by default.

    Returns
    -------
    CorpusListing
        The utterances, sorted by id; notes say which columns were taken, and which labels are unknown.

    Raises
    ------
    ManifestError
        Where the file is missing, named otherwise, no table, or not UTF-8; where a column or a field is unknown, no path column is
        found, a row has another number of values than the header, a time is none, or an id comes twice; where none of
        the first files exists.

    Notes
    -----
    The id of an utterance is its column's, or the path without suffix; a segment's start and end are added to it. A
    duration only counts beside a start.
    """
    source = Path(manifest)
    base = Path(root) if root is not None else source.parent
    name = corpus or source.stem
    taken, rows = _open_table(source, columns or {})
    utterances = utterances_of(source, rows, name)
    shown = (f"{field} from {taken[field]!r}" for field in COLUMNS if field in taken)
    notes = [f"Columns: {', '.join(shown)}."]
    return listing_of(source, base, name, utterances, notes)


def listing_of(
    source: Path,
    root: Path,
    name: str,
    utterances: list[Utterance],
    notes: list[str],
    unexpected: Iterable[str] = (),
) -> CorpusListing:
    """Make a listing, once some of its first files were found and its labels compared with the known ones."""
    if not utterances:
        msg = f"{source}: no utterance in it."
        raise ManifestError(msg)
    step = 1 + (len(utterances) - 1) // NUM_SOUGHT
    sought = [root / utterance.path for utterance in utterances[::step]]
    if not any(os.path.exists(path) or is_respelt(path) for path in sought):  # noqa: PTH110 - a name may be too long
        msg = (
            f"{source}: none of {len(sought)} files that were looked for exists, as {sought[0]}. Give the folder they "
            "start from as root."
        )
        raise ManifestError(msg)
    words = Counter(utterance.native_label for utterance in utterances)
    unknown = [word for word in words if word and not harmonise(word)]
    for word, close in unknown_labels(unknown[:NUM_TOLD]).items():
        hint = f"; the nearest known is {close!r}" if close else ""
        notes.append(f"Label {word!r} of {words[word]} utterances is unknown and kept as it is{hint}.")
    if more := unknown[NUM_TOLD:]:
        notes.append(f"{len(more)} more labels are unknown and kept as they are.")
    if words[""]:
        notes.append(f"{words['']} utterances have no label.")
    unknown_speakers = sum(not utterance.speaker for utterance in utterances)
    if 0 < unknown_speakers < len(utterances):
        notes.append(f"{unknown_speakers} utterances have no speaker, and others have one.")
    return CorpusListing(
        name=name,
        guessed=False,
        root=root,
        utterances=utterances,
        notes=notes,
        unexpected=sorted(unexpected),
        missing=[],
        is_complete=not unexpected,
    )


def _open_table(
    source: Path, columns: Mapping[str, str]
) -> tuple[dict[str, str], Iterator[tuple[int, Sequence[str]]]]:
    """Return which column each field is in, and the rows as line number and values in the order of ``COLUMNS``."""
    if unknown := [field for field in columns if field not in COLUMNS]:
        msg = f"{source}: no field {unknown[0]!r}{nearest_of(unknown[0], COLUMNS)}; fields are {', '.join(COLUMNS)}."
        raise ManifestError(msg)
    if source.is_dir():
        msg = f"{source}: a folder, and a manifest is a file. Name the table itself."
        raise ManifestError(msg)
    if source.suffix.lower() not in SUFFIXES:
        came = source.suffix or "no suffix"
        msg = f"{source}: a manifest is named {', '.join(SUFFIXES)}. Got {came}; save it as CSV, or as JSON lines."
        raise ManifestError(msg)
    if source.suffix.lower() in (".jsonl", ".ndjson"):
        objects = _json_lines(source)
        first = next(objects, None)
        if first is None:
            msg = f"{source}: an empty table. Name one utterance in each line."
            raise ManifestError(msg)
        # What a later object holds may not be in the first one.
        taken = columns_of(source, list(dict.fromkeys(columns.values()) | first[1]), columns)
        return taken, _objects(source, itertools.chain([first], objects), taken, columns)
    rows = _csv_rows(source)
    header = next(rows, None)
    if header is None:
        msg = f"{source}: an empty table. Name the columns in the first line."
        raise ManifestError(msg)
    taken = columns_of(source, header[1], columns)
    width = len(header[1])  # and behind the last value an empty one, for fields that no column holds
    places = [header[1].index(taken[field]) if field in taken else width for field in COLUMNS]
    return taken, _picked(source, rows, places, width)


def _objects(
    source: Path,
    rows: Iterator[tuple[int, dict[str, object]]],
    taken: dict[str, str],
    columns: Mapping[str, str],
) -> Iterator[tuple[int, Sequence[str]]]:
    """Yield the values of JSON objects; what is first found in a later one is added to ``taken``."""
    keys: dict[str, object] = {}
    places: list[tuple[int, str]] = []
    blank = [""] * len(COLUMNS)
    for number, row in rows:
        if not keys.keys() >= row.keys():
            keys |= row
            taken |= columns_of(source, list(dict.fromkeys(taken.values()) | keys), taken)
            places = [(place, taken[field]) for place, field in enumerate(COLUMNS) if field in taken]
        values = blank.copy()
        for place, column in places:
            if column in row:
                value = row[column]
                # Python spells a number as JSON does, and sooner.
                values[place] = (
                    value if type(value) is str else repr(value) if type(value) is float else _text(value)
                )
        yield number, values
    if absent := [column for column in columns.values() if column not in keys]:
        raise _no_column(source, absent[0], list(keys))


def _picked(
    source: Path, rows: Iterator[tuple[int, list[str]]], places: list[int], width: int
) -> Iterator[tuple[int, Sequence[str]]]:
    pick = operator.itemgetter(*places)
    for number, row in rows:
        if not row[0].strip() and not any(map(str.strip, row)):
            continue  # as spreadsheets leave them below a table
        if len(row) != width:
            msg = f"{source}: line {number}: {len(row)} values, and the header names {width}."
            raise ManifestError(msg)
        row.append("")
        yield number, pick(row)


def _csv_rows(source: Path) -> Iterator[tuple[int, list[str]]]:
    number = 0
    try:
        with source.open(encoding="utf-8-sig", newline="") as file:
            start = file.readline()
            file.seek(0)
            separator = "\t" if source.suffix.lower() == ".tsv" else max(",;\t|", key=start.count)
            is_spaced = 0 < start.count(separator) == start.count(separator + " ")
            reader = csv.reader(file, delimiter=separator, strict=True, skipinitialspace=is_spaced)
            for row in reader:
                number = reader.line_num
                if row:
                    yield number, row
    except csv.Error as error:
        msg = f"{source}: line {number + 1}: no row of a table ({error}). Look at its quotes."
        raise ManifestError(msg) from error
    except (OSError, UnicodeError) as error:
        raise unreadable(source, error) from error


def _json_lines(source: Path) -> Iterator[tuple[int, dict[str, object]]]:
    decode = json.JSONDecoder().raw_decode
    try:
        with source.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(map(str.strip, file), 1):
                if not line:
                    continue
                try:
                    row, end = decode(line)
                except (ValueError, RecursionError) as error:
                    msg = f"{source}: line {number}: no JSON ({error})."
                    raise ManifestError(msg) from error
                if end < len(line):
                    msg = f"{source}: line {number}: one JSON object was expected. Got more behind it: {line[end:][:40]!r}."
                    raise ManifestError(msg)
                if not isinstance(row, dict):
                    msg = f"{source}: line {number}: a JSON object was expected. Got a {type(row).__name__} instead."
                    raise ManifestError(msg)
                yield number, row
    except (OSError, UnicodeError) as error:
        raise unreadable(source, error) from error


def unreadable(source: Path, error: Exception) -> ManifestError:
    """Say why a text file couldn't be read."""
    if isinstance(error, FileNotFoundError):
        return ManifestError(f"{source}: no such file.")
    if isinstance(error, UnicodeError):
        return ManifestError(f"{source}: not UTF-8 text. Save it as UTF-8.")
    return ManifestError(f"{source}: no table that can be read ({error}).")


def _text(value: object) -> str:
    return "" if value is None else json.dumps(value)


def columns_of(source: Path, header: list[str], columns: Mapping[str, str]) -> dict[str, str]:
    """Return field -> column, those asked for and those guessed; no column serves two fields."""
    for column in columns.values():
        if column not in header:
            raise _no_column(source, column, header)
    spelt = {re.sub(r"[\s-]+", "_", column.strip().lower()): column for column in reversed(header)}
    taken = dict(columns)
    for field, names in COLUMNS.items():
        for guess in names:
            found = spelt.get(guess)
            if field not in taken and found is not None and found not in taken.values():
                taken[field] = found
    if "path" not in taken:
        msg = f"{source}: no column for the path among {', '.join(header)}. Say which one it is, or name it in the first line."
        raise ManifestError(msg)
    if twice := [column for column in taken.values() if header.count(column) > 1]:
        msg = f"{source}: {header.count(twice[0])} columns named {twice[0]!r}. Give them names of their own."
        raise ManifestError(msg)
    return {field: taken[field] for field in COLUMNS if field in taken}


def _no_column(source: Path, column: str, header: Sequence[str]) -> ManifestError:
    return ManifestError(
        f"{source}: no column {column!r}{nearest_of(column, header)}; its columns are {', '.join(header)}."
    )


def utterances_of(source: Path, rows: Iterable[tuple[int, Sequence[str]]], name: str) -> list[Utterance]:
    """Return the utterances of a table, sorted by id.

    Raises
    ------
    ManifestError
        Where a row has no path or a time that is none, or an id comes twice.
    """
    lines = array("q")
    with _no_collections():
        utterances = list(_made(source, rows, name, lines))
        if len({utterance.id for utterance in utterances}) < len(utterances):
            first: dict[str, int] = {}
            for utterance, line in zip(utterances, lines, strict=True):
                if first.setdefault(utterance.id, line) != line:
                    msg = (
                        f"{source}: line {line}: {utterance.id} comes twice, first in line {first[utterance.id]}. Give "
                        "each utterance an id of its own."
                    )
                    raise ManifestError(msg)
        return sorted(utterances, key=operator.attrgetter("id"))


def _can_be_a_name(path: str) -> bool:
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False


def _made(
    source: Path, rows: Iterable[tuple[int, Sequence[str]]], name: str, lines: "array[int]"
) -> Iterator[Utterance]:
    """Yield each row's utterance, its line noted; what repeats is worked out once, so a million rows are quick and small."""
    known: dict[tuple[str, ...], tuple[str, ...]] = {}
    for number, values in rows:
        path, label, speaker, sex, text, session, split, intensity, identity, corpus, start, end, duration = (
            values
        )
        if not path:
            msg = f"{source}: line {number}: no path."
            raise ManifestError(msg)
        if not path.isprintable() and not _can_be_a_name(path):
            msg = f"{source}: line {number}: a path must be text without NUL. Got {path!r} instead."
            raise ManifestError(msg)
        if "\\" in path and "/" not in path:
            path = path.replace("\\", "/")
        key = (corpus, label, speaker, sex, session, split, intensity)
        facts = known.get(key)
        if facts is None:
            facts = known[key] = facts_of(name, *key)
        corpus, label, native_label, speaker, sex, session, split, intensity = facts
        begin, stop = 0.0, math.inf
        if (start or end) and (start in MISSING or end in MISSING or duration in MISSING):
            start, end, duration = ("" if time in MISSING else time for time in (start, end, duration))
        if start or end:
            begin = seconds_of(source, number, start or "0")
            if end:
                stop = seconds_of(source, number, end)
            elif duration:
                stop = begin + seconds_of(source, number, duration)
            if begin >= stop:
                msg = f"{source}: line {number}: a segment must end after its start. Got {begin:g} to {stop:g} seconds."
                raise ManifestError(msg)
        if not identity:
            identity, _, suffix = path.rpartition(".")
            if (
                "/" in suffix or not identity or identity[-1] == "/"
            ):  # no suffix: the dot is a folder's, or leads
                identity = path
            if start or end:
                identity = f"{identity}#{start}-{end or duration}"
        lines.append(number)
        draft = _Draft(
            id=f"{corpus}/{identity}",
            path=path,
            corpus=corpus,
            speaker=speaker,
            sex=sex,
            label=label,
            native_label=native_label,
            text=text and clean(text),
            session=session,
            split=split,
            intensity=intensity,
            start=begin,
            end=stop,
        )
        draft.__class__ = Utterance
        yield draft


@contextlib.contextmanager
def _no_collections() -> Iterator[None]:
    """Let no garbage collection walk a million new objects, none of them garbage: it is a quarter of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
