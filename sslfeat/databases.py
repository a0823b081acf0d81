"""Corpora kept by other libraries: audformat databases and Hugging Face datasets on disk, each behind an extra."""

import importlib
import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sslfeat.corpora import CorpusListing, nearest_of
from sslfeat.manifest import COLUMNS, columns_of, listing_of, utterances_of
from sslfeat.values import ManifestError

# What a container's first bytes say, for audio that is stored without a name.
_SUFFIXES = {
    b"RIFF": ".wav",
    b"fLaC": ".flac",
    b"OggS": ".ogg",
    b"FORM": ".aiff",
    b"ID3": ".mp3",
    b"\xff\xfb": ".mp3",
}


def read_audformat(
    db_dir: str | Path, *, label: str = "emotion", tables: Sequence[str] | None = None, corpus: str = ""
) -> CorpusListing:
    """List the utterances of an audformat database (``db.yaml`` and its tables), as audb and audEERING release them.

    Parameters
    ----------
    db_dir : str or Path
        The database's folder.
    label : str
        The column that holds the label.
    tables : sequence of str, optional
        The tables to take it from; by default all that have the column. Where two name the same file and segment, the
        first in order of name says the label, and the first that belongs to a split says that.
    corpus : str
        The name that ids and speakers carry; the database's by default.

    Returns
    -------
    CorpusListing
        Speakers come from the first table with a column ``speaker``, their sexes from that column's scheme.

    Raises
    ------
    ManifestError
        Where audformat is not installed, the folder is no database, no table has the column, or a table is kept as a
        pickle alone.
    """
    root = Path(db_dir)
    _library("audformat", root)
    try:
        db = _loaded(root)
    except ManifestError:
        raise
    except Exception as error:
        msg = f"{root}: no audformat database that can be read ({error})."
        raise ManifestError(msg) from error
    chosen = (
        list(tables)
        if tables is not None
        else sorted(name for name in db.tables if label in db[name].columns)
    )
    if absent := [name for name in chosen if name not in db.tables or label not in db[name].columns]:
        msg = f"{root}: no table {absent[0]!r} with a column {label!r}; tables are {', '.join(db.tables)}."
        raise ManifestError(msg)
    if not chosen:
        columns = sorted({column for name in db.tables for column in db[name].columns})
        msg = (
            f"{root}: no table has a column {label!r}{nearest_of(label, columns)}; columns are {', '.join(columns)}. Say which "
            "one holds the label."
        )
        raise ManifestError(msg)
    speakers, sexes = _speakers(db)
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for name in chosen:
        split_id = db[name].split_id
        split = str(db.splits[split_id].type) if split_id else ""
        for index, value in db[name].get()[label].items():
            file, *times = index if isinstance(index, tuple) else (index,)
            start, end = (_time(time) for time in times) if times else ("", "")
            speaker = speakers.get(file, "")
            row = rows.setdefault(
                (file, start, end),
                {
                    "path": file, "label": _plain(value), "speaker": speaker, "sex": sexes.get(speaker, ""),
                    "start": start, "end": end, "split": "",
                },
            )  # fmt: skip
            row["split"] = row["split"] or split
    name = corpus or str(db.name)
    values = (
        (number, [row.get(field, "") for field in COLUMNS]) for number, row in enumerate(rows.values(), 1)
    )
    utterances = utterances_of(root, values, name)
    return listing_of(root, root, name, utterances, [f"Tables: {', '.join(chosen)}."])


def _loaded(root: Path) -> Any:
    """Load a database, but nothing that could run code: audformat's own loader unpickles tables, and builds whatever
    objects the header names.
    """  # noqa: D205 - one sentence
    audformat, yaml = (importlib.import_module(name) for name in ("audformat", "yaml"))
    with (root / "db.yaml").open(encoding="utf-8") as text:
        header = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    db = audformat.Database.load_header_from_yaml(header)
    with tempfile.TemporaryDirectory() as name:
        for number, table in enumerate((*db.misc_tables, *db.tables)):
            linked = Path(name, str(number))
            kept = [root / f"db.{table}{suffix}" for suffix in (".csv", ".parquet")]
            for file in kept:
                if file.exists():
                    linked.with_suffix(file.suffix).symlink_to(file.resolve())
            if not any(file.exists() for file in kept):
                msg = (
                    f"{root}: no {' or '.join(file.name for file in kept)}, and a table is read from one of them, never "
                    "from a pickle, which could run code. Save the database as CSV where it can be trusted."
                )
                raise ManifestError(msg)
            db[table].load(str(linked))
    return db


def _speakers(db: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Return file -> speaker and speaker -> sex, as far as a database says them."""
    speakers: dict[str, str] = {}
    sexes: dict[str, str] = {}
    for name in sorted(name for name in db.tables if "speaker" in db[name].columns):
        for index, value in db[name].get()["speaker"].items():
            speakers.setdefault(index[0] if isinstance(index, tuple) else index, _plain(value))
        scheme = db[name].columns["speaker"].scheme_id
        labels = db.schemes[scheme].labels if scheme else None
        if isinstance(labels, str):  # the name of a misc table
            labels = db[labels].get().to_dict("index")
        if isinstance(labels, Mapping):
            facts = {str(speaker): fact for speaker, fact in labels.items() if isinstance(fact, Mapping)}
            sexes |= {speaker: _plain(fact.get("gender", fact.get("sex"))) for speaker, fact in facts.items()}
    return speakers, sexes


def read_dataset(
    dataset_dir: str | Path,
    export_dir: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    corpus: str = "",
) -> CorpusListing:
    """List the utterances of a Hugging Face dataset on disk (``save_to_disk``), its audio written out as files once.

    Parameters
    ----------
    dataset_dir : str or Path
        The folder that ``save_to_disk`` wrote, of one split or of several.
    export_dir : str or Path
        Where audio goes that the dataset holds as bytes: unchanged, and not again where it lies there already.
    columns : mapping of str to str, optional
        Field -> column, as :func:`~sslfeat.manifest.read_manifest` takes it; the audio column is the one of that type.
    corpus : str
        The name that ids and speakers carry; the folder's by default.

    Returns
    -------
    CorpusListing
        Utterances below ``export_dir``, numbered as in the dataset where it has no ids.

    Raises
    ------
    ManifestError
        Where datasets is not installed, the folder is no dataset, a split's name could not be a folder's, or no column
        is audio.
    """
    source, root = Path(dataset_dir), Path(export_dir)
    datasets = _library("datasets", source)
    try:
        loaded = datasets.load_from_disk(str(source))
    except Exception as error:
        msg = f"{source}: no dataset that can be read ({error})."
        raise ManifestError(msg) from error
    splits = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"": loaded}
    rows: list[tuple[int, Sequence[str]]] = []
    notes: dict[str, None] = {}  # one for each way that the splits name their columns
    for split, part in splits.items():
        if split and not re.fullmatch(r"\w[\w.-]*", split):  # its audio goes into a folder of that name
            msg = f"{source}: a split is named by letters and digits. Got {split!r} instead."
            raise ManifestError(msg)
        audio = next((name for name, kind in part.features.items() if isinstance(kind, datasets.Audio)), None)
        if audio is None:
            msg = f"{source}: no column is audio; its columns are {', '.join(part.features)}."
            raise ManifestError(msg)
        taken = columns_of(source, list(part.features), {**(columns or {}), "path": audio})
        notes[f"Columns: {', '.join(f'{field} from {column!r}' for field, column in taken.items())}."] = None
        classes = {
            name: kind.names for name, kind in part.features.items() if isinstance(kind, datasets.ClassLabel)
        }
        needed = part.select_columns(list(taken.values())).cast_column(audio, datasets.Audio(decode=False))
        for number, row in enumerate(needed):
            words = {field: _word(row[column], classes.get(column)) for field, column in taken.items()}
            words["path"] = _exported(row[audio], root, Path(split) / f"{number:07}")
            words.setdefault("split", split)
            words.setdefault("id", f"{split}/{number:07}" if split else f"{number:07}")
            rows.append((number, [words.get(field, "") for field in COLUMNS]))
    name = corpus or source.resolve().name
    utterances = utterances_of(source, rows, name)
    return listing_of(source, root, name, utterances, list(notes))


def _library(name: str, source: Path) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        msg = f"{source}: reading it needs {name}. Run `pip install sslfeat[{name}]`."
        raise ManifestError(msg) from None


def _plain(value: Any) -> str:
    """Return a table's value as text, and nothing for a missing one, which is not equal to itself."""
    return "" if value is None or str(value) in ("nan", "NaT", "<NA>") else str(value)


def _time(value: Any) -> str:
    """Return a timedelta as seconds, and nothing for an open end."""
    seconds = value.total_seconds()
    return "" if math.isnan(seconds) else repr(seconds)


def _word(value: Any, names: Sequence[str] | None) -> str:
    """Return a label in words; numbers of no name, as -1, are those of a label that is not known."""
    if names and isinstance(value, int):
        return names[value] if 0 <= value < len(names) else ""
    return _plain(value)


def _exported(audio: Mapping[str, Any], root: Path, stem: Path) -> str:
    """Write a dataset's audio as a file, if it isn't one, and return its path relative to the root."""
    content, path = audio["bytes"], audio["path"] or ""
    if content is None:
        return str(path)
    suffix = next(
        (kind for start, kind in _SUFFIXES.items() if content.startswith(start)), Path(path).suffix or ".wav"
    )
    target = root / stem.with_suffix(suffix)
    if not target.exists() or target.read_bytes() != content:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".part")
        partial.write_bytes(content)
        partial.replace(target)
    return stem.with_suffix(suffix).as_posix()
