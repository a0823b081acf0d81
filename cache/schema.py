"""The nouns that both stages share: what a row is, what made its numbers, and what can be wrong with a cache.

Exceptions
----------
CacheError(ValueError)
    A cache that can't be read, or that lacks what was asked.
└── SpecMismatchError
    Two caches, or a cache and a request, whose numbers were made differently.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, Self, get_args, get_origin

FORMAT_NAME = "sslfeat-cache"
SCHEMA_VERSION = 1
SPEC_VERSION = 1
POOLINGS = ("mean", "std", "max", "min")
DTYPES = ("float32", "float16")
LAYER_CONVENTION = (
    "0 = input of the first transformer block; k = output of block k; the last is last_hidden_state"
)

# Fields that say which part of the numbers is kept, or under which name the encoder was found, and
# change no number: a bundle doesn't demand them.
SELECTION_FIELDS = frozenset({"model_id", "revision", "layers", "pooling", "frames", "dtype"})


class CacheError(ValueError):
    """A cache that can't be read, or that lacks what was asked."""


class SpecMismatchError(CacheError):
    """Two caches, or a cache and a request, whose numbers were made differently."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """One labelled recording, as a corpus reader found it; an unknown text field is the empty string.

    Parameters
    ----------
    id : str
        Unique within a cache, and the order of its rows: corpus and name, as in ``emodb/03a01Fa``.
    path : str
        The audio file, relative to the corpus folder with forward slashes, or absolute.
    corpus, speaker, sex, text, session, split, intensity : str
        ``speaker`` carries the corpus (``emodb:03``), so that joined caches can't confuse two people;
        ``sex`` is ``female`` or ``male``; ``text`` names the sentence spoken; ``split`` is the corpus's own
        train, dev or test; ``intensity`` is how strongly the emotion was acted, in the corpus's own word.
    label : str
        The emotion as a lower-case noun shared by all corpora: anger, boredom, disgust, fear, ...
    native_label : str
        The emotion in the corpus's own word or code.
    start, end : float
        The part of the file that is the utterance, in seconds; ``end`` is infinite where it is all the rest.
    """

    id: str
    path: str
    corpus: str = ""
    speaker: str = ""
    sex: str = ""
    label: str = ""
    native_label: str = ""
    text: str = ""
    session: str = ""
    split: str = ""
    intensity: str = ""
    start: float = 0.0
    end: float = math.inf


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An utterance together with what decoding and encoding it found: one row of the utterance table.

    Parameters
    ----------
    utterance : Utterance
    audio_hash : str
        128-bit BLAKE2b of the decoded samples, in hexadecimal; equal for exact copies under any name.
    num_samples : int
        Length at the encoder's sample rate, in samples.
    num_frames : int
        Frames the encoder made of them.
    file_size, file_mtime_ns : int
        Size in bytes and modification time in nanoseconds of the audio file when it was read: where both are
        unchanged a later run need not read it again.
    """

    utterance: Utterance
    audio_hash: str
    num_samples: int
    num_frames: int
    file_size: int = 0
    file_mtime_ns: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An utterance that has no row because its audio can't be used, and why."""

    id: str
    path: str
    reason: str
    file_size: int = 0
    file_mtime_ns: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate:
    """An utterance that has no row because its samples are those of another, named by ``original_id``.

    ``audio_hash`` is that of both: where the original's row has another one by now, this is no duplicate any more. Of
    the file at ``path`` it is the part from ``start`` to ``end``, in seconds.
    """

    id: str
    path: str
    original_id: str
    label: str = ""
    original_label: str = ""
    audio_hash: str = ""
    file_size: int = 0
    file_mtime_ns: int = 0
    start: float = 0.0
    end: float = math.inf


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSpec:
    """Everything that changes a cache's numbers, and nothing else.

    Batch size, device and worker count are not in it, because no number depends on them but by rounding.

    Parameters
    ----------
    model_id, revision : str
        Hub name and commit hash, or the name of a local folder and ``local``.
    weights_hash : str
        SHA-256 of the encoder's weights.
    architecture : str
        transformers' ``model_type``, as ``wav2vec2``.
    num_hidden_layers, hidden_size : int
        Transformer blocks, and the size of a hidden state.
    layers : tuple of int
        The stored layers, ascending; 0 is the input of the first block.
    pooling : tuple of str
        The stored statistics over frames, out of ``POOLINGS``; their order is that of ``POOLINGS``.
    frames : bool
        Whether the frames themselves are stored too.
    normalise : bool
        Whether each waveform is brought to zero mean and unit variance before the encoder.
    precision : str
        Arithmetic of the encoder: float32, bfloat16 or float16.
    dtype : str
        Type of the stored numbers, one of ``DTYPES``.
    sample_rate : int
        The encoder's rate, in Hz.
    channels, resampler : str
        How several channels become one, and what changes the sample rate.
    tf32 : bool
        Whether float32 products may use TF32.
    chunk_seconds : float
        Longer audio is encoded in overlapping chunks of this length; 0 means always in one piece.
    layer_convention : str
        What layer ``k`` means.
    pooling_ddof : int
        Delta degrees of freedom of ``std``.
    spec_version : int
        Raised whenever a release changes numbers under an otherwise equal spec.
    """

    model_id: str
    revision: str
    weights_hash: str
    architecture: str
    num_hidden_layers: int
    hidden_size: int
    layers: tuple[int, ...]
    pooling: tuple[str, ...]
    normalise: bool
    frames: bool = False
    precision: str = "float32"
    dtype: str = "float32"
    sample_rate: int = 16000
    channels: str = "mean"
    resampler: str = "soxr-HQ"
    tf32: bool = False
    chunk_seconds: float = 0.0
    layer_convention: str = LAYER_CONVENTION
    pooling_ddof: int = 0
    spec_version: int = SPEC_VERSION

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.pooling) - set(POOLINGS)):
            msg = f"pooling must be out of {', '.join(POOLINGS)}. Got {', '.join(unknown)} instead."
            raise ValueError(msg)
        if self.dtype not in DTYPES:
            msg = f"dtype must be one of {', '.join(DTYPES)}. Got {self.dtype!r} instead."
            raise ValueError(msg)
        outside = [layer for layer in self.layers if not 0 <= layer <= self.num_hidden_layers]
        if outside or not self.layers:
            got = ", ".join(map(str, outside[:3])) + (", ..." if len(outside) > 3 else "") or "none"
            msg = f"layers must be in 0..{self.num_hidden_layers}, at least one. Got {got} instead."
            raise ValueError(msg)
        if self.sample_rate < 1:
            msg = f"sample_rate must be at least 1. Got {self.sample_rate} instead."
            raise ValueError(msg)
        # One spelling for one meaning, so that equal requests have equal fingerprints.
        object.__setattr__(self, "layers", tuple(sorted(set(self.layers))))
        object.__setattr__(self, "pooling", tuple(name for name in POOLINGS if name in self.pooling))

    def to_json(self) -> str:
        """Return the canonical JSON text that the fingerprint is the digest of."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a spec back from its JSON text.

        Raises
        ------
        CacheError
            Where the text is no JSON object, or its fields are not a spec's.
        """
        try:
            values: dict[str, Any] = dict(json.loads(text))
            values["layers"] = tuple(values["layers"])
            values["pooling"] = tuple(values["pooling"])
            for field in dataclasses.fields(cls):
                if field.name in values:
                    _check_type(field.name, field.type, values[field.name])
            return cls(**values)
        except (TypeError, ValueError, KeyError, OverflowError, RecursionError) as error:
            msg = f"the feature spec can't be read ({error})"
            raise CacheError(msg) from error

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def differences(self, other: "FeatureSpec", *, ignore: Iterable[str] = ()) -> dict[str, tuple[Any, Any]]:
        """Return the fields that differ, each with this spec's value and the other's."""
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        return {
            name: (mine[name], theirs[name])
            for name in mine
            if name not in set(ignore) and mine[name] != theirs[name]
        }


def _check_type(name: str, kind: Any, value: Any) -> None:
    if get_origin(kind) is tuple:
        for one in value:
            _check_type(name, get_args(kind)[0], one)
        return
    fits = type(value) is kind or (kind is float and type(value) is int)
    if not fits or (kind is float and not math.isfinite(value)):
        msg = f"{name} must be {kind.__name__}. Got {value!r:.80} instead."
        raise ValueError(msg)


def describe_differences(
    differences: Mapping[str, tuple[Any, Any]], *, mine: str, theirs: str, limit: int = 6
) -> str:
    """Return differing fields as one clause of an error: ``precision 'float32' (cache) vs 'bfloat16' (request)``."""
    shown = [
        f"{name} {a!r} ({mine}) vs {b!r} ({theirs})" for name, (a, b) in list(differences.items())[:limit]
    ]
    if len(differences) > limit:
        shown.append(f"and {len(differences) - limit} more")
    return "; ".join(shown)
