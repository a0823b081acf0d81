"""Read a corpus folder: file names in, utterances out. All of a corpus's own spelling ends here.

What is known of each corpus is its entry in :mod:`sslfeat.catalogue`; this is the one reader for all of them.
"""

import dataclasses
import difflib
import functools
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cache.schema import Utterance
from sslfeat.catalogue import CORPORA
from sslfeat.containers import AUDIO_SUFFIXES, UNREAD_SUFFIXES
from sslfeat.corpus import Corpus, CorpusError, Fields

__all__ = ["CORPORA", "Corpus", "CorpusError", "CorpusListing", "audio_files", "guess_corpus", "read_corpus"]

NUM_EXAMPLES = 3
# Of an utterance in several formats the first is read: what nothing was lost in, then by what it costs to decode.
FORMATS = (
    *(".wav", ".wave", ".flac", ".aiff", ".aif", ".aifc", ".w64", ".caf", ".au", ".sph"),
    *(
        ".opus",
        ".ogg",
        ".oga",
        ".mp3",
        ".m4a",
        ".m4b",
        ".mka",
        ".webm",
        ".mp4",
        ".m4v",
        ".mov",
        ".mkv",
        ".3gp",
    ),
)

SEXES = {
    **dict.fromkeys(("f", "female", "woman", "w"), "female"),
    **dict.fromkeys(("m", "male", "man"), "male"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusListing:
    """What a corpus folder holds, from its names alone.

    Parameters
    ----------
    name : str
        Key of the corpus in ``CORPORA``.
    guessed : bool
        Whether the key was guessed from the names.
    root : Path
        The folder.
    utterances : list of Utterance
        Sorted by id; ``path`` is relative to ``root``.
    notes : list of str
        Sentences on what was skipped, and on counts that differ from the published ones.
    unexpected : list of str
        Audio files whose names don't fit, relative to ``root``.
    missing : list of str
        Names that aren't there, for corpora whose names are known one by one or listed by their tables.
    is_complete : bool
        Whether files and names are exactly the published ones.
    repeated : list of str
        Utterances named like another one in another folder, relative to ``root``.
    entry : Corpus or None
        The catalogue's entry that the folder was read by.
    """

    name: str
    guessed: bool
    root: Path
    utterances: list[Utterance]
    notes: list[str]
    unexpected: list[str]
    missing: list[str]
    is_complete: bool
    repeated: list[str] = dataclasses.field(default_factory=list)
    entry: Corpus | None = None


def guess_corpus(corpus_dir: str | Path) -> str:
    """Return the key of the one corpus whose naming scheme fits the folder's audio files best.

    Raises
    ------
    CorpusError
        Where the folder is missing, is a file or has no audio; where the names fit no corpus, or several alike.
    """
    root = Path(corpus_dir)
    return _guess(root, audio_files(root))


def read_corpus(corpus_dir: str | Path, corpus: str | None = None) -> CorpusListing:
    """List the utterances of a corpus folder.

    Parameters
    ----------
    corpus_dir : str or Path
        The folder, at any level above the audio.
    corpus : str, optional
        Key in ``CORPORA``; guessed from the names where it isn't given.

    Returns
    -------
    CorpusListing
        Utterances sorted by id, and what is to be said of the folder.

    Raises
    ------
    CorpusError
        Where the folder is missing, is a file or has no audio; where the corpus is unknown, can't be guessed, or isn't
        the one the names are of; where a table that its labels stand in is missing or damaged.
    """
    if corpus is not None and corpus not in CORPORA:
        msg = f"no corpus {corpus!r}{nearest_of(corpus, CORPORA)}; known are {', '.join(CORPORA)}."
        raise CorpusError(msg)
    root = Path(corpus_dir)
    paths = audio_files(root)
    entry = CORPORA[corpus or _guess(root, paths)]
    notes = []
    skipped = [path for path in paths if set(path.split("/")[:-1]) & set(entry.skipped_folders)]
    if skipped:
        folders = sorted({part for path in skipped for part in path.split("/")} & set(entry.skipped_folders))
        notes.append(f"{', '.join(folders)}: {_files(len(skipped))} skipped, they are no utterances.")
    candidates = sorted(set(paths) - set(skipped))
    named = {path: fields for path in candidates if (fields := _match(entry, path)) is not None}
    unexpected = [path for path in candidates if path not in named]
    if len(named) <= len(unexpected):
        _refuse_misfit(root, entry, paths, len(named))
    listed: frozenset[str] = frozenset()
    if entry.annotate:
        annotations = entry.annotate(root)
        completed = {path: annotations.complete(path, fields) for path, fields in named.items()}
        named = {path: fields for path, fields in completed.items() if fields is not None}
        listed = frozenset(name for name, code in annotations.listed.items() if code in entry.labels)
        if left_out := len(completed) - len(named):
            notes.append(f"{_files(left_out)} left out, {annotations.left_out}.")
    if again := _in_other_formats(entry, named):
        named = {path: fields for path, fields in named.items() if path not in again}
        notes.append(
            f"{_files(len(again))} skipped, the same names in another format: {_examples(sorted(again))}."
        )
    published = frozenset(entry.names()) if entry.names else None
    taken: set[str] = set()
    seen: Counter[str] = Counter()
    codes: Counter[str] = Counter()
    utterances, unpublished, repeated, other_labels = [], [], [], 0
    for path, fields in named.items():
        if fields["label"] not in entry.labels:
            if fields["label"] in CORPORA[entry.family].labels:
                other_labels += 1
            else:
                unexpected.append(path)
            continue
        name = entry.name.format(**fields)
        if published is not None and name not in published:
            unpublished.append(path)
            continue
        seen[name] += 1
        if seen[name] == 1:
            codes[fields["label"]] += 1
        else:
            repeated.append(path)
        identity = f"{entry.family}/{name}"
        if identity in taken:
            identity = f"{entry.family}/{path.rpartition('.')[0]}"
        if identity in taken:  # the same path with two suffixes
            identity = f"{entry.family}/{path}"
        taken.add(identity)
        utterances.append(_utterance(entry, identity, path, fields))
    if other_labels:
        kept = dict.fromkeys(noun for _, noun in entry.labels.values())
        notes.append(f"{_files(other_labels)} left out, their label is none of {', '.join(kept)}.")
    missing = sorted((published or listed) - seen.keys())
    notes += _remarks_on_names(entry, unexpected, unpublished, seen)
    differences = _differences(entry, codes, missing)
    return CorpusListing(
        name=entry.key,
        guessed=corpus is None,
        root=root,
        utterances=sorted(utterances, key=lambda utterance: utterance.id),
        notes=notes + differences,
        unexpected=sorted(unexpected + unpublished),
        missing=missing,
        is_complete=not (unexpected or unpublished or differences or repeated),
        repeated=repeated,
        entry=entry,
    )


def audio_files(root: Path) -> list[str]:
    """Return the audio files under a folder, sorted, relative to it, following links but no folder twice.

    Raises
    ------
    CorpusError
        Where the folder is missing, is a file or has no audio, a folder in it can't be read, or a name is no text, which no
        id could hold.
    """
    if not root.exists():
        msg = f"{root}: no such folder."
        raise CorpusError(msg)
    if not root.is_dir():
        msg = f"{root}: a file, and a corpus is a folder. Give the folder that holds its audio, or a table of it as manifest."
        raise CorpusError(msg)
    paths: list[str] = []
    suffixes = AUDIO_SUFFIXES | UNREAD_SUFFIXES
    visited: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=_refuse_unreadable):
        real = os.path.realpath(folder)
        if real in visited:
            subfolders.clear()
            continue
        visited.add(real)
        # macOS leaves ._name beside a file and __MACOSX in a zip: same suffix, no audio.
        subfolders[:] = sorted(
            name for name in subfolders if not name.startswith((".", "__MACOSX", "lost+found"))
        )
        prefix = Path(folder).relative_to(root).as_posix() + "/"
        prefix = "" if prefix == "./" else prefix
        paths += [
            prefix + name
            for name in names
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes  # noqa: PTH122
        ]
    if not paths:
        msg = f"{root}: no audio in it ({', '.join(sorted(AUDIO_SUFFIXES))}). Give the folder that holds the corpus."
        raise CorpusError(msg)
    for path in paths:
        if not path.isprintable() and path != path.encode(errors="replace").decode():
            msg = f"{root}: a file name is no UTF-8 text: {os.fsencode(path)!r}. Rename it."
            raise CorpusError(msg)
    return sorted(paths)


def _refuse_unreadable(error: OSError) -> None:
    msg = (
        f"{error.filename}: a folder that can't be read ({error.strerror}). Allow it, or take the folder out."
    )
    raise CorpusError(msg) from error


def nearest_of(word: str, known: Iterable[str]) -> str:
    """Return what a message says after a word that isn't among the known ones: which of them is closest, if any is.

    Examples
    --------
    >>> nearest_of("Emo-DB", ["emodb", "tess"])
    ", the nearest is 'emodb'"
    """
    plain = {re.sub(r"[\W_]+", "", each).lower(): each for each in reversed(list(known))}
    close = difflib.get_close_matches(re.sub(r"[\W_]+", "", word).lower(), plain, n=1)
    return f", the nearest is {plain[close[0]]!r}" if close else ""


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(f"(?:^|/){pattern}$")


def _search(entry: Corpus, name: str) -> re.Match[str] | None:
    """Match a path without its suffix; nothing where it isn't named as in the corpus."""
    match = _compiled(entry.pattern).search(name)
    if match and not entry.annotate and match["label"] not in entry.labels:
        return None
    return match


def _match(entry: Corpus, path: str) -> Fields | None:
    """Return the groups of a name, and its stem."""
    name = path.rpartition(".")[0]
    match = _search(entry, name)
    if match is None:
        return None
    return {"stem": name.rpartition("/")[2]} | {key: value or "" for key, value in match.groupdict().items()}


def _in_other_formats(entry: Corpus, named: Mapping[str, Fields]) -> set[str]:
    """Return the files whose utterance is there in a better format, as CREMA-D comes with AudioWAV and AudioMP3."""
    ranks = {path: _rank(path) for path in named}
    names = {path: entry.name.format(**fields) for path, fields in named.items()}
    best: dict[str, int] = {}
    for path, name in names.items():
        best[name] = min(ranks[path], best.get(name, len(FORMATS)))
    return {path for path, name in names.items() if ranks[path] > best[name]}


def _rank(path: str) -> int:
    suffix = path[path.rindex(".") :].lower()
    return FORMATS.index(suffix) if suffix in FORMATS else len(FORMATS)


def _utterance(entry: Corpus, identity: str, path: str, fields: Fields) -> Utterance:
    native_label, label = entry.labels[fields["label"]]
    speaker = fields.get("speaker", "")
    return Utterance(
        id=identity,
        path=path,
        corpus=entry.family,
        speaker=f"{entry.family}:{speaker}" if speaker else "",
        sex=SEXES.get(fields.get("sex", "").lower(), "") or entry.sexes.get(speaker, ""),
        label=label,
        native_label=native_label,
        text=fields.get("text", ""),
        session=fields.get("session", ""),
        split=fields.get("split", ""),
        intensity=entry.intensities.get(fields.get("intensity", ""), ""),
    )


def _fits(paths: Sequence[str]) -> dict[str, int]:
    """Return how many of the paths fit each corpus, best first, without those that none fits."""
    counts = {
        entry.key: _count_fits(entry, paths)
        for entry in CORPORA.values()
        if not entry.variant_of or entry.pattern != CORPORA[entry.variant_of].pattern
    }
    return dict(sorted(((key, n) for key, n in counts.items() if n), key=lambda item: -item[1]))


def _count_fits(entry: Corpus, paths: Sequence[str]) -> int:
    """Return how many paths are named as in a corpus, and are of its files where those are known one by one.

    RAVDESS's films fit the pattern of BanglaSER, where the same codes mean other emotions.
    """
    fits = [fields for path in paths if (fields := _match(entry, path)) is not None]
    if not fits or entry.names is None:
        return len(fits)
    published = frozenset(entry.names())
    return sum(entry.name.format(**fields) in published for fields in fits)


def _fits_in_another_case(entry: Corpus, paths: Sequence[str]) -> bool:
    names = [path.rpartition(".")[0] for path in paths]
    compiled = re.compile(f"(?:^|/){entry.pattern}$", re.IGNORECASE)
    return 2 * sum(compiled.search(name) is not None for name in names) > len(names)


def _guess(root: Path, paths: Sequence[str]) -> str:
    fits = _fits(paths)
    best = [key for key, count in fits.items() if count == max(fits.values())]
    if len(best) == 1 and 2 * fits[best[0]] > len(paths):
        return best[0]
    shown = f"The names ({_examples(paths)}) fit "
    if len(best) > 1:
        msg = f"{root}: can't tell which corpus this is. {shown}{' and '.join(best)}; name one of them."
    elif best:
        msg = (
            f"{root}: can't tell which corpus this is. {shown}{best[0]} in {fits[best[0]]} of {len(paths)} files "
            f"only; name one of {', '.join(CORPORA)}."
        )
    elif spelt := [key for key in CORPORA if _fits_in_another_case(CORPORA[key], paths)]:
        msg = (
            f"{root}: can't tell which corpus this is. {shown}none that is known. But for upper and lower case they "
            f"would fit {spelt[0]} ({', '.join(CORPORA[spelt[0]].examples)}); rename them so."
        )
    else:
        msg = (
            f"{root}: can't tell which corpus this is. {shown}none that is known: {', '.join(CORPORA)}. "
            "Describe a corpus of your own by a manifest, a pattern, or folders named by label."
        )
    raise CorpusError(msg)


def _refuse_misfit(root: Path, entry: Corpus, paths: Sequence[str], num_read: int) -> None:
    """Raise where the names are another corpus's, or nobody's."""
    least = max(num_read, len(paths) // 2)
    better = [key for key, count in _fits(paths).items() if count > least and key != entry.family]
    if num_read and not better:
        return
    came = f"{num_read} of {len(paths)} files" if num_read else "no file"
    fit = f" They fit {better[0]}." if better else ""
    msg = (
        f"{root}: {came} named as in {entry.key} ({', '.join(entry.examples)}). The names look like "
        f"{_examples(paths)}.{fit}"
    )
    raise CorpusError(msg)


def _remarks_on_names(
    entry: Corpus, unexpected: Sequence[str], unpublished: Sequence[str], seen: Counter[str]
) -> list[str]:
    notes = []
    if unexpected:
        notes.append(
            f"{_files(len(unexpected))} skipped, not named as in {entry.key}: {_examples(unexpected)}."
        )
    if unpublished:
        notes.append(
            f"{_files(len(unpublished))} skipped, not among the {entry.num_files} that {entry.key} published: "
            f"{_examples(unpublished)}."
        )
    copies = seen.total() - len(seen)
    if copies:
        repeated = [name for name, count in seen.items() if count > 1]
        notes.append(
            f"{_files(copies)} named like another one ({_examples(repeated)}); whether they are copies shows when they "
            "are decoded."
        )
    return notes


def _differences(entry: Corpus, codes: Counter[str], missing: Sequence[str]) -> list[str]:
    """Return what differs from the published counts, as sentences."""
    notes = []
    if entry.num_files and codes.total() != entry.num_files:
        tail = f" Missing: {_examples(missing)}." if missing else ""
        notes.append(f"{codes.total()} utterances, {entry.key} has {entry.num_files}.{tail}")
    elif missing:
        notes.append(f"{_files(len(missing))} missing that the corpus's tables list: {_examples(missing)}.")
    off = [
        f"{entry.labels[code][0]} {codes[code]} of {count}"
        for code, count in entry.counts.items()
        if codes[code] != count
    ]
    if off:
        notes.append(f"Counts that differ from the published ones: {', '.join(off)}.")
    return notes


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _examples(names: Iterable[str]) -> str:
    """Return up to three names, and how many more there are: ``a.wav, b.wav, c.wav, ... (4 more)``."""
    names = list(names)
    more = len(names) - NUM_EXAMPLES
    return ", ".join(names[:NUM_EXAMPLES]) + (f", ... ({more} more)" if more > 0 else "")
