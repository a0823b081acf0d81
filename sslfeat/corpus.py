"""What is known of a corpus before its folder is looked at: the shape of an entry in the catalogue."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from sslfeat.labels import harmonise

Fields = dict[str, str]  # label, speaker, sex, text, session, split, intensity; and what else a name says


class CorpusError(ValueError):
    """A folder that can't be read as the corpus it was said or guessed to be; the message leads with it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Annotations:
    """What a corpus's tables say of its files, beyond their names.

    Parameters
    ----------
    complete : callable
        Takes a path relative to the corpus folder and the fields of its name, and returns the fields with what the
        tables add, or None where the file is to be left out.
    listed : mapping of str to str
        Names, as the entry's ``name`` makes them, that the tables list with a label -> its code.
    left_out : str
        Why files are left out, as the end of a sentence that begins "12 files left out, ...".
    """

    complete: Callable[[str, Fields], Fields | None]
    listed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    left_out: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
    r"""One corpus: how its files are named, and what was published of it.

    Parameters
    ----------
    key : str
        What the user types.
    title : str
        The full name.
    pattern : str
        Regular expression of the names: it matches a file's path inside the corpus folder, without the suffix and from
        any folder boundary on. Its groups ``label`` (a code of ``labels``), ``intensity`` (one of ``intensities``),
        ``speaker``, ``sex``, ``text``, ``session`` and ``split`` become the utterance's fields; others only serve
        ``name`` and ``annotate``.
    examples : tuple of str
        Names as they come, for messages.
    labels : mapping of str to (str, str)
        Code -> the corpus's own word and the shared noun; see :func:`words`.
    intensities : mapping of str to str
        Code -> the corpus's own word for how strongly the emotion was acted; a code that isn't there says nothing.
    counts : mapping of str to int
        Code -> published number of files; empty where only the total is known.
    num_files, num_speakers : int
        Published totals; 0 where they differ by release or weren't published.
    hours : float
        Total duration; 0 likewise.
    languages : tuple of str
        Languages spoken, in English.
    licence, citation, url : str
        Terms, what to cite, and where to get it.
    sexes : mapping of str to str
        Speaker as named -> female or male, where the names don't say it.
    name : str
        What an utterance is called in its id, made from the fields and ``stem``.
    names : callable, optional
        Returns the published names, where they are known one by one; a file that fits the pattern and isn't among
        them is not read.
    annotate : callable, optional
        Reads the corpus's own tables, given its folder.
    skipped_folders : tuple of str
        Folders that hold audio which is no utterance.
    variant_of : str
        The corpus this is another reading of: ids and speakers carry that key.
    remarks : tuple of str
        What trips users.
    sources : tuple of str
        Where facts were read that the citation doesn't give: what they are, a colon, and the address.
    """

    key: str
    title: str
    pattern: str
    examples: tuple[str, ...]
    labels: Mapping[str, tuple[str, str]]
    intensities: Mapping[str, str] = dataclasses.field(default_factory=dict)
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    num_files: int = 0
    num_speakers: int = 0
    hours: float = 0.0
    languages: tuple[str, ...]
    licence: str
    citation: str
    url: str
    sexes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    name: str = "{stem}"
    names: Callable[[], Iterable[str]] | None = None
    annotate: Callable[[Path], Annotations] | None = None
    skipped_folders: tuple[str, ...] = ()
    variant_of: str = ""
    remarks: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        """The key that ids and speakers carry."""
        return self.variant_of or self.key


def words(mapping: Mapping[str, str] | None = None, /, **codes: str) -> dict[str, tuple[str, str]]:
    """Return code -> (the corpus's own word, the shared noun for it).

    Examples
    --------
    >>> words(W="Wut")
    {'W': ('Wut', 'anger')}
    """
    return {code: (word, harmonise(word)) for code, word in (dict(mapping or {}) | codes).items()}


def numbered(*native: str) -> dict[str, tuple[str, str]]:
    """Return the same for the codes 01, 02, ..."""
    return words({f"{number:02}": word for number, word in enumerate(native, 1)})


def odd_male(count: int) -> dict[str, str]:
    """Return the sexes of actors 01, 02, ... of whom the odd ones are men."""
    return {f"{number:02}": "male" if number % 2 else "female" for number in range(1, count + 1)}
