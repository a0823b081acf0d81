"""One vocabulary of emotions for all corpora: lower-case nouns, and the words that mean each of them."""

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping

# Noun -> the words by which corpora call it; the noun itself is always one of them.
LABELS: Mapping[str, tuple[str, ...]] = {
    "anger": ("angry", "ang", "anger", "wut", "ärger", "rabbia", "colère", "ira", "enojo", "生气"),
    "anxiety": ("anxious",),
    "apology": ("apologetic",),
    "assertiveness": ("assertive",),
    "boredom": ("bored", "boring", "langeweile", "bor"),
    "calm": ("calmness", "cal"),
    "concern": ("concerned",),
    "contempt": ("contemptuous",),
    "disgust": ("disgusted", "dis", "disg", "ekel", "disgusto", "dégoût", "asco"),
    "encouragement": ("encouraging",),
    "excitement": ("excited", "exc"),
    "fear": ("fearful", "fea", "scared", "angst", "paura", "peur", "miedo"),
    "frustration": ("frustrated", "fru"),
    "happiness": ("happy", "hap", "joy", "joyful", "freude", "gioia", "joie", "felicidad", "快乐"),
    "neutral": ("neu", "neutralität", "neutrale", "neutre", "neutro", "中立"),
    "other": ("oth",),
    "sadness": ("sad", "trauer", "tristezza", "tristesse", "tristeza", "伤心"),
    "surprise": (
        "surprised", "sur", "pleasant surprise", "pleasant surprised", "ps", "sorpresa", "惊喜", "überraschung",
    ),
}  # fmt: skip


def _plain(word: str) -> str:
    """Return a word without case and edges, its accents as one character each: macOS file names take them apart."""
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFC", word)).strip().lower()


_NOUNS = {_plain(word): noun for noun, words in LABELS.items() for word in (noun, *words)}


def harmonise(word: str) -> str:
    """Return the shared noun for a corpus's own word, or the empty string where none is known.

    Examples
    --------
    >>> harmonise("Wut"), harmonise("surprised"), harmonise("smug")
    ('anger', 'surprise', '')
    """
    return _NOUNS.get(_plain(word), "")


def nearest(word: str) -> str:
    """Return the shared noun whose spelling, or a synonym's, is closest to a word; empty where none is close.

    Examples
    --------
    >>> nearest("hapiness"), nearest("angrry"), nearest("xyz")
    ('happiness', 'anger', '')
    """
    close = difflib.get_close_matches(_plain(word), _NOUNS, n=1, cutoff=0.7)
    return _NOUNS[close[0]] if close else ""


def unknown_labels(words: Iterable[str]) -> dict[str, str]:
    """Return the words that no noun is known for, each with the nearest noun or the empty string.

    Examples
    --------
    >>> unknown_labels(["angry", "hapiness", "smug"])
    {'hapiness': 'happiness', 'smug': ''}
    """
    return {word: nearest(word) for word in dict.fromkeys(words) if word and not harmonise(word)}
