"""What stands in the cells of a user's table, spelt as one: words, missing ones, and times."""

import math
import re
import unicodedata
from pathlib import Path

from sslfeat.corpora import SEXES, CorpusError
from sslfeat.labels import harmonise

SPLITS = {"validation": "dev", "valid": "dev", "val": "dev", "development": "dev", "training": "train"}
MISSING = frozenset(("nan", "NaN", "NaT", "<NA>", "None", "null"))  # as pandas, Python and JSON write it
_CLOCK = re.compile(r"(?:(\d+) days? )?(?:(\d+):)?(\d+):(\d+(?:\.\d*)?)")  # audformat: 0 days 00:00:01.898250


class ManifestError(CorpusError):
    """A manifest, a pattern or a folder that doesn't describe a corpus; the message leads with it."""


def clean(text: str) -> str:
    """Return a value as all spell it: without edges, accents as one character, whole numbers without a point, or nothing."""
    text = text.strip()
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    if text in MISSING:
        return ""
    # pandas makes 3.0 of 3 where another value is missing.
    return text[:-2] if text.endswith(".0") and text[:-2].isdecimal() else text


def facts_of(
    name: str, corpus: str, label: str, speaker: str, sex: str, session: str, split: str, intensity: str
) -> tuple[str, str, str, str, str, str, str, str]:
    """Return corpus, label, native label, speaker, sex, session, split and intensity as an utterance has them."""
    corpus, label, speaker, sex, session, split, intensity = map(
        clean, (corpus, label, speaker, sex, session, split, intensity)
    )
    corpus, split = corpus or name, split.lower()
    if speaker and not speaker.startswith(f"{corpus}:"):
        speaker = f"{corpus}:{speaker}"
    return (
        corpus,
        harmonise(label) or label.lower(),
        label,
        speaker,
        SEXES.get(sex.lower(), ""),
        session,
        SPLITS.get(split, split),
        intensity,
    )


def seconds_of(source: Path, number: int, text: str) -> float:
    """Read a time as seconds, or as days, hours, minutes and seconds."""
    try:
        seconds = float(text)
    except ValueError:
        match = _CLOCK.fullmatch(text.strip())
        if match is None:
            msg = f"{source}: line {number}: a time in seconds, or as 00:00:01.5. Got {text!r} instead."
            raise ManifestError(msg) from None
        days, hours, minutes, rest = (float(part or 0) for part in match.groups())
        seconds = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    if not 0 <= seconds < math.inf:
        msg = f"{source}: line {number}: a time from 0 on. Got {text!r} instead."
        raise ManifestError(msg)
    return seconds
