"""A user's own corpus, described by its folders: names by a pattern, subfolders by label, or a Kaldi data folder.

Every reader returns the :class:`~sslfeat.corpora.CorpusListing` that a known corpus gives, so nothing after it differs.
"""

import dataclasses
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cache.schema import Utterance
from sslfeat.corpora import CorpusListing, audio_files
from sslfeat.manifest import COLUMNS, listing_of, unreadable, utterances_of
from sslfeat.values import ManifestError, clean, facts_of

_PLACEHOLDER = re.compile(r"\{(\w*)\}|\*")
_PATTERN_FIELDS = ("label", "speaker", "sex", "text", "session", "split", "intensity")


def read_pattern(corpus_dir: str | Path, pattern: str, *, corpus: str = "") -> CorpusListing:
    """List the audio files whose path, from any folder on, is spelt as a pattern says.

    Parameters
    ----------
    corpus_dir : str or Path
        The folder.
    pattern : str
        As in ``{speaker}_{text}_{label}.wav`` or ``{label}/{speaker}-*.flac``: fields are label, speaker, sex, text,
        session, split and intensity; ``*`` or ``{}`` is anything; none of them crosses a slash. Without a suffix, any
        audio fits.
    corpus : str
        The name that ids and speakers carry; the folder's by default.

    Returns
    -------
    CorpusListing
        The utterances; files that don't fit are ``unexpected``. Accents fit however they are coded.

    Raises
    ------
    ManifestError
        Where the pattern has an unknown field, no label, or two fields with nothing between them, or no file fits.
    CorpusError
        Where the folder is missing, is a file or has no audio.
    """
    root = Path(corpus_dir)
    compiled = _compile(pattern)
    name = corpus or root.resolve().name
    utterances, unexpected = [], []
    for path in audio_files(root):
        if match := compiled.search(unicodedata.normalize("NFC", path)):  # macOS takes accents apart
            utterances.append(_named(name, path, match.groupdict()))
        else:
            unexpected.append(path)
    if not utterances:
        msg = f"{root}: no file fits {pattern!r}. The names look like {', '.join(unexpected[:3])}."
        raise ManifestError(msg)
    notes = []
    if unexpected:
        notes.append(
            f"{len(unexpected)} files skipped, they don't fit {pattern!r}: {', '.join(unexpected[:3])}."
        )
    return _told_apart(listing_of(root, root, name, utterances, notes, unexpected))


def read_labelled_folders(corpus_dir: str | Path, *, corpus: str = "") -> CorpusListing:
    """List the audio files of a folder whose subfolders are named by label; speakers are unknown.

    Raises
    ------
    ManifestError
        Where no file lies in a subfolder.
    CorpusError
        Where the folder is missing, is a file or has no audio.
    """
    root = Path(corpus_dir)
    name = corpus or root.resolve().name
    paths = audio_files(root)
    within = [path for path in paths if "/" in path]
    unexpected = [path for path in paths if "/" not in path]
    if not within:
        msg = f"{root}: its audio lies in no subfolder, and those are to name the labels. Give the folder above."
        raise ManifestError(msg)
    utterances = [_named(name, path, {"label": path.split("/")[-2]}) for path in within]
    notes = (
        [f"{len(unexpected)} files skipped, they lie in no subfolder: {', '.join(unexpected[:3])}."]
        if unexpected
        else []
    )
    return _told_apart(listing_of(root, root, name, utterances, notes, unexpected))


def read_kaldi(data_dir: str | Path, *, root: str | Path | None = None, corpus: str = "") -> CorpusListing:
    """List the utterances of a Kaldi data folder: ``wav.scp``, and where they are there ``segments``, ``utt2spk``,
    ``utt2emo``, ``spk2gender`` and ``text``.

    Raises
    ------
    ManifestError
        Where ``wav.scp`` is missing or holds a command instead of a file, a line is incomplete, or a name comes twice.
    """  # noqa: D205 - the list of names is one sentence
    folder = Path(data_dir)
    base = Path(root) if root is not None else folder
    name = corpus or folder.resolve().name
    recordings = _pairs(folder / "wav.scp")
    for identity, path in recordings.items():
        if path.endswith("|"):
            msg = f"{folder / 'wav.scp'}: {identity} is a command, and files are read. Run it once and name what it wrote."
            raise ManifestError(msg)
    speakers, emotions = (_pairs(folder / part, needed=False) for part in ("utt2spk", "utt2emo"))
    texts = _pairs(folder / "text", needed=False, bare=True)
    sexes = _pairs(folder / "spk2gender", needed=False)
    segments = _pairs(folder / "segments", needed=False) or {identity: identity for identity in recordings}

    def rows() -> Iterator[tuple[int, Sequence[str]]]:
        for number, (identity, segment) in enumerate(segments.items(), 1):
            recording, *times = segment.split()
            if recording not in recordings or len(times) not in (0, 2):
                msg = f"{folder / 'segments'}: line {number}: a recording of wav.scp, a start and an end. Got {segment!r}."
                raise ManifestError(msg)
            speaker = speakers.get(identity, "")
            start, end = times or ("", "")
            end = "" if end == "-1" else end  # to the end of the recording
            values = {
                "path": recordings[recording], "label": emotions.get(identity, ""), "speaker": speaker,
                "sex": sexes.get(speaker, ""), "text": texts.get(identity, ""), "id": identity, "start": start, "end": end,
            }  # fmt: skip
            yield number, [values.get(field, "") for field in COLUMNS]

    utterances = utterances_of(folder / "segments", rows(), name)
    listing = listing_of(folder, base, name, utterances, [])
    unused = recordings.keys() - {segment.split()[0] for segment in segments.values()}
    absent = sorted((speakers.keys() | emotions.keys()) - segments.keys())
    notes = [*listing.notes]
    if unused:
        notes.append(f"{len(unused)} recordings of wav.scp have no segment: {', '.join(sorted(unused)[:3])}.")
    if absent:
        notes.append(
            f"{len(absent)} utterances have a speaker or an emotion, and no audio: {', '.join(absent[:3])}."
        )
    return dataclasses.replace(listing, notes=notes, missing=absent, is_complete=not absent)


def _compile(pattern: str) -> re.Pattern[str]:
    """Turn ``{speaker}_*_{label}.wav`` into a regular expression; a field that comes twice must say the same twice."""
    parts: list[str] = []
    named: set[str] = set()
    position = 0
    pattern = unicodedata.normalize("NFC", pattern)
    for match in _PLACEHOLDER.finditer(pattern):
        if match.start() == position > 0:
            msg = (
                f"{pattern}: nothing before {match[0]} says where the field before it ends. Put what is between them in "
                "the names, or name each file in a manifest."
            )
            raise ManifestError(msg)
        parts.append(re.escape(pattern[position : match.start()]))
        position = match.end()
        field: str = match[1] or ""  # nothing where it is *
        if not field:
            parts.append("[^/]*?")
        elif field not in _PATTERN_FIELDS:
            msg = f"{pattern}: no field {field!r}; a pattern's fields are {', '.join(_PATTERN_FIELDS)}, and {{}} or * for the rest."
            raise ManifestError(msg)
        else:
            parts.append(f"(?P={field})" if field in named else f"(?P<{field}>[^/]+?)")
            named.add(field)
    parts.append(re.escape(pattern[position:]))
    if "label" not in named:
        msg = f"{pattern}: a pattern must have {{label}}."
        raise ManifestError(msg)
    suffix = "" if re.search(r"\.\w+$", pattern) else r"\.\w+"
    return re.compile(f"(?:^|/){''.join(parts)}{suffix}$")


def _named(name: str, path: str, fields: Mapping[str, str]) -> Utterance:
    """Make an utterance from what its path says."""
    corpus, label, native_label, speaker, sex, session, split, intensity = facts_of(
        name,
        "",
        *(fields.get(field, "") for field in ("label", "speaker", "sex", "session", "split", "intensity")),
    )
    return Utterance(
        id=f"{corpus}/{path.rpartition('.')[0]}",
        path=path,
        corpus=corpus,
        speaker=speaker,
        sex=sex,
        label=label,
        native_label=native_label,
        text=clean(fields.get("text", "")),
        session=session,
        split=split,
        intensity=intensity,
    )


def _told_apart(listing: CorpusListing) -> CorpusListing:
    """Give those whose paths differ in their suffix alone ids with it, but for the first of them, and tell of them."""
    taken = set[str]()
    utterances, repeated = list[Utterance](), list[str]()
    for utterance in listing.utterances:
        if utterance.id in taken:
            repeated.append(utterance.path)
            utterance = dataclasses.replace(utterance, id=utterance.id + Path(utterance.path).suffix)
        taken.add(utterance.id)
        utterances.append(utterance)
    if not repeated:
        return listing
    note = (
        f"{len(repeated)} files named like another one but for their suffix: {', '.join(repeated[:3])}. Each counts as an "
        "utterance; keep one of them."
    )
    return dataclasses.replace(
        listing, utterances=utterances, repeated=repeated, notes=[*listing.notes, note], is_complete=False
    )


def _pairs(path: Path, *, needed: bool = True, bare: bool = False) -> dict[str, str]:
    """Read a Kaldi table: a key and the rest of the line, which may be nothing where keys may be bare."""
    if not needed and not path.exists():
        return {}
    pairs: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                key, *value = line.split(maxsplit=1)
                if not value and not bare:
                    msg = f"{path}: line {number}: a name and a value. Got {line.strip()!r} instead."
                    raise ManifestError(msg)
                if key in pairs:
                    msg = f"{path}: line {number}: {key!r} comes twice. Give each a name of its own."
                    raise ManifestError(msg)
                pairs[key] = value[0].strip() if value else ""
    except (OSError, UnicodeError) as error:
        raise unreadable(path, error) from error
    return pairs
