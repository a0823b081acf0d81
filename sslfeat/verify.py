"""Hold a cache against its audio: all checksums, and some utterances made again, one at a time."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache import FeatureCache, Row
from cache.schema import FeatureSpec, SpecMismatchError, describe_differences
from sslfeat.audio import decode, parse_channel
from sslfeat.containers import AudioError
from sslfeat.embed import Budget, embed_all
from sslfeat.encoder import Encoder

# Norm of the difference over norm: what float32 leaves, and what the lower types may.
_TOLERANCES = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 5e-2}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How far one utterance's stored vectors are from those made again.

    Parameters
    ----------
    id : str
    error : float
        Norm of the difference over norm, the largest over layers and statistics; NaN where there are none.
    layer : int
        Where it is largest.
    reason : str
        Why nothing could be compared; empty where it could.
    """

    id: str
    error: float = math.nan
    layer: int = -1
    reason: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What some utterances of a cache, made again, say about it.

    Parameters
    ----------
    differences : list of Difference
        In the order of the cache.
    tolerance : float
        Largest error that the cache's precision explains.
    """

    differences: list[Difference]
    tolerance: float

    @property
    def is_off(self) -> bool:
        """Whether an utterance differs by more than the tolerance, or couldn't be compared."""
        return any(one.reason or not one.error <= self.tolerance for one in self.differences)

    def lines(self) -> list[str]:
        """Return what is to be told, the largest difference last."""
        told = [f"not compared: {one.id}: {one.reason}" for one in self.differences if one.reason]
        compared = [one for one in self.differences if not one.reason]
        if compared:
            worst = max(compared, key=lambda one: math.inf if math.isnan(one.error) else one.error)
            verdict = "no more" if worst.error <= self.tolerance else "MORE"
            told.append(
                f"{len(compared)} made again, each alone: largest relative difference {worst.error:.1e} "
                f"({worst.id}, layer {worst.layer}), {verdict} than the {self.tolerance:g} that rounding explains."
            )
        return told


def compare_again(
    cache: FeatureCache,
    num_utterances: int,
    *,
    root: str | Path,
    model_id: str,
    revision: str | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Make some utterances again, each alone, and compare.

    Parameters
    ----------
    cache : FeatureCache
    num_utterances : int
        So many are drawn without replacement; all where the cache has no more.
    root : str or Path
        The folder that the cache's paths start from. One that leads out of it is not followed, for a cache may come
        from a stranger.
    model_id, revision, device : str
        As `Encoder.load` takes them.
    seed : int
        Of the draw.
    progress : callable, optional
        Called with how many are done, and how many there are.

    Returns
    -------
    Comparison

    Raises
    ------
    EncoderError
        Where the encoder can't be loaded.
    SpecMismatchError
        Where it is not the one that made the cache; the message names the differing fields.
    """
    spec = cache.spec
    encoder = Encoder.load(model_id, revision=revision, device=device, precision=spec.precision)
    # With all its layers, since another encoder may not have those of the cache.
    now = encoder.spec(
        pooling=spec.pooling,
        frames=spec.frames,
        dtype=spec.dtype,
        channels=spec.channels,
        chunk_seconds=spec.chunk_seconds,
    )
    if found := now.differences(spec, ignore=("model_id", "revision", "layers")):
        told = describe_differences(found, mine="encoder", theirs="cache")
        msg = f"{cache.path}: not made by {encoder.model_id} as it is now: {told}."
        raise SpecMismatchError(msg)
    count = min(num_utterances, len(cache))
    places = np.sort(np.random.default_rng(seed).choice(len(cache), count, replace=False))
    pooled_only = dataclasses.replace(now, layers=spec.layers, frames=False)
    compared: list[Difference] = []
    for place in places.tolist():
        compared.append(_compare(cache, cache.row(place), Path(root).resolve(), encoder, pooled_only))
        if progress is not None:
            progress(len(compared), count)
    return Comparison(
        differences=compared, tolerance=max(_TOLERANCES[spec.precision], _TOLERANCES[spec.dtype])
    )


def _compare(cache: FeatureCache, row: Row, folder: Path, encoder: Encoder, spec: FeatureSpec) -> Difference:
    one = row.utterance
    path = (folder / one.path).resolve()
    if not path.is_relative_to(folder):
        return Difference(id=one.id, reason=f"{one.path}: leads out of {folder}")
    try:
        recording = decode(
            path,
            sample_rate=spec.sample_rate,
            channel=parse_channel(spec.channels),
            start=one.start,
            end=one.end,
            min_samples=encoder.min_samples,
        )
    except AudioError as error:
        return Difference(id=one.id, reason=str(error))
    if recording.audio_hash != row.audio_hash:
        return Difference(id=one.id, reason=f"{one.path}: holds other audio than was extracted")
    (made,) = embed_all(encoder, spec, [recording.waveform], Budget(1))
    if made.reason:
        return Difference(id=one.id, reason=made.reason)
    place = cache.index(one.id)
    worst, layer = -1.0, spec.layers[0]
    for name in spec.pooling:
        for position, number in enumerate(spec.layers):
            stored = cache.features(number, name, start=place, stop=place + 1)[0]
            distance = _relative_error(stored, made.pooled[name][position])
            if distance > worst:
                worst, layer = distance, number
    return Difference(id=one.id, error=worst, layer=layer)


def _relative_error(got: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    precise = expected.astype(np.float64)
    norm = float(np.linalg.norm(precise))
    error = float(np.linalg.norm(got - precise))
    # One frame has no deviation.
    return error / norm if norm > 0 else error
