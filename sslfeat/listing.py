"""One way in for every kind of corpus: options decide how it is read, and where they don't, what the folder holds."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from sslfeat.corpora import CORPORA, CorpusError, CorpusListing, guess_corpus, read_corpus
from sslfeat.databases import read_audformat, read_dataset
from sslfeat.folders import read_kaldi, read_labelled_folders, read_pattern
from sslfeat.manifest import read_manifest

# The files by which a folder shows what it is. Kaldi's wav.scp and the files of a dataset name or hold the audio
# themselves; db.yaml may lie beside the names of a known corpus, as audEERING releases them.
_MARKERS = {
    "wav.scp": "a Kaldi data folder",
    "dataset_dict.json": "a Hugging Face dataset",
    "state.json": "a Hugging Face dataset",
    "dataset_info.json": "a Hugging Face dataset",
    "db.yaml": "an audformat database",
}
# Argument -> the kinds of corpus that read it; the others would ignore it in silence.
_READ_BY = {
    "root": ("a manifest", "a Kaldi data folder"),
    "columns": ("a manifest", "a Hugging Face dataset", "an audformat database"),
    "export_dir": ("a Hugging Face dataset",),
}


class RequestError(CorpusError):
    """Arguments that contradict one another, or that nothing would read."""


def list_corpus(
    corpus_dir: str | Path | None = None,
    *,
    corpus: str = "",
    manifest: str | Path | None = None,
    root: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    pattern: str = "",
    labels_from_folders: bool = False,
    export_dir: str | Path | None = None,
) -> CorpusListing:
    """List the utterances of a corpus of any kind.

    A manifest, a pattern or folders named by label are read where they are asked for, a known corpus where ``corpus`` is
    its key. Otherwise the folder shows what it is: ``wav.scp`` a Kaldi data folder, ``dataset_info.json`` and its kin a
    Hugging Face dataset, ``db.yaml`` an audformat database (unless its names are a known corpus's and neither ``corpus``
    nor ``columns`` is given), anything else a known corpus by its names.

    Parameters
    ----------
    corpus_dir : str or Path, optional
        The folder; beside a manifest, what its relative paths start from.
    corpus : str
        Key in ``CORPORA``, or the name that ids and speakers carry where the corpus is the user's own.
    manifest : str or Path, optional
        As :func:`~sslfeat.manifest.read_manifest` takes it.
    root : str or Path, optional
        Where the relative paths of a manifest or of ``wav.scp`` start; by default where those lie.
    columns : mapping of str to str, optional
        Field -> column, for those that aren't to be guessed; an audformat database only takes ``label``.
    pattern : str
        As :func:`~sslfeat.folders.read_pattern` takes it.
    labels_from_folders : bool
        Whether each subfolder's name is its files' label.
    export_dir : str or Path, optional
        Where the audio goes that a Hugging Face dataset holds as bytes; ``{dataset}-audio`` beside it by default.

    Returns
    -------
    CorpusListing
        Its notes say how the folder was read, where that wasn't asked for.

    Raises
    ------
    RequestError
        Where nothing or too much says what to read, or an argument is given that this kind of corpus doesn't read.
    CorpusError
        Where the corpus can't be read.
    """
    if manifest is not None and corpus_dir is not None and root is not None:
        msg = "a manifest's paths start from the corpus folder or from root. Give one of them."
        raise RequestError(msg)
    kind, marker = _kind(corpus_dir, corpus, manifest, pattern, labels_from_folders, columns)
    _refuse_unread(kind, {"root": root, "columns": columns, "export_dir": export_dir})
    if kind == "a manifest":
        base = corpus_dir if root is None else root
        return read_manifest(str(manifest), root=base, columns=columns, corpus=corpus)
    folder = Path(str(corpus_dir))
    if kind == "files named by a pattern":
        return read_pattern(folder, pattern, corpus=corpus)
    if kind == "folders named by label":
        return read_labelled_folders(folder, corpus=corpus)
    if kind == "a known corpus":
        return read_corpus(folder, corpus or None)
    note = f"Read as {kind}, for its {marker}."
    if kind == "a Kaldi data folder":
        listing = read_kaldi(folder, root=root, corpus=corpus)
    elif kind == "an audformat database":
        if unread := sorted(set(columns or {}) - {"label"}):
            msg = f"{folder}: of an audformat database only the column of the label can be set. Got {unread[0]!r}."
            raise RequestError(msg)
        listing = read_audformat(folder, label=(columns or {}).get("label", "emotion"), corpus=corpus)
    else:
        whole = folder.resolve()
        kept = Path(export_dir) if export_dir is not None else whole.with_name(f"{whole.name}-audio")
        listing = read_dataset(folder, kept, columns=columns, corpus=corpus)
        note += f" Audio that it holds as bytes is kept in {kept}."
    return dataclasses.replace(listing, notes=[note, *listing.notes])


def _kind(
    corpus_dir: str | Path | None,
    corpus: str,
    manifest: str | Path | None,
    pattern: str,
    labels_from_folders: bool,  # noqa: FBT001 - an argument of the caller, handed on
    columns: Mapping[str, str] | None,
) -> tuple[str, str]:
    """Return what is to be read, and the file that showed it."""
    asked = {
        "manifest": ("a manifest", manifest is not None),
        "pattern": ("files named by a pattern", bool(pattern)),
        "labels-from-folders": ("folders named by label", labels_from_folders),
    }
    given = [option for option, (_, is_given) in asked.items() if is_given]
    if len(given) > 1:
        msg = f"{' and '.join(given)} can't be combined; choose one."
        raise RequestError(msg)
    if corpus_dir is None and "manifest" not in given:
        msg = "a corpus folder or a manifest is needed."
        raise RequestError(msg)
    if given:
        return asked[given[0]][0], ""
    folder = Path(str(corpus_dir))
    marker = next((name for name in _MARKERS if (folder / name).is_file()), "")
    if not marker or corpus in CORPORA:
        return "a known corpus", ""
    if marker == "db.yaml" and not corpus and not columns and _has_known_names(folder):
        return "a known corpus", ""
    return _MARKERS[marker], marker


def _has_known_names(folder: Path) -> bool:
    try:
        guess_corpus(folder)
    except CorpusError:
        return False
    return True


def _refuse_unread(kind: str, arguments: Mapping[str, object]) -> None:
    for name, value in arguments.items():
        if value and kind not in _READ_BY[name]:
            option = name.replace("_", "-")
            msg = f"{option} is for {' or '.join(_READ_BY[name])}, and this is {kind}. Leave it out."
            raise RequestError(msg)
