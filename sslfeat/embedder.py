"""The encoder as a scikit-learn transformer: audio in, vectors out."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from cache.schema import FeatureSpec, Utterance, describe_differences
from sslfeat.audio import decode, parse_channel
from sslfeat.chunking import max_whole_samples
from sslfeat.embed import Embedded, embed_all, embed_reading, make_budget
from sslfeat.encoder import Encoder, EncoderError
from sslfeat.reading import Reading, read_windows

Audio = str | os.PathLike[str] | NDArray[np.floating]

# Recordings whose audio is held at once.
_BLOCK = 512


class SSLEmbedder(TransformerMixin, BaseEstimator):
    """Embed recordings by one layer of a self-supervised encoder.

    The encoder is frozen: nothing is learnt by `fit`, which loads it and pins its weights, so that a saved
    pipeline refuses to go on with others. Recordings of more than a minute are encoded in overlapping chunks.

    Parameters
    ----------
    model_id : str
        As ``Encoder.load`` takes it: ``embedded``, a hub id, or a directory.
    layer : int or None
        0 is the input of the first transformer block, ``k`` the output of block ``k``; None is the last.
    pooling : str
        ``mean``, ``std``, ``max``, ``min``, or several side by side as in ``mean+std``.
    revision : str or None
    device, precision : str
        As ``Encoder.load`` takes them.
    channels : str
        How several channels of a file become one: ``mean``, or the number of the one to take, from 0.
    batch_seconds : float or None
        Most seconds of audio, padding counted, that are encoded at once.

    Attributes
    ----------
    spec_ : FeatureSpec
        Everything that changes the numbers.
    poolings_ : tuple of str
        In the order of the columns.
    n_features_out_ : int

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> pipeline = make_pipeline(SSLEmbedder("facebook/wav2vec2-base", layer=9), LogisticRegression())
    """

    spec_: FeatureSpec
    poolings_: tuple[str, ...]
    n_features_out_: int

    def __init__(
        self,
        model_id: str = "embedded",
        *,
        layer: int | None = None,
        pooling: str = "mean",
        revision: str | None = None,
        device: str = "auto",
        precision: str = "float32",
        channels: str = "mean",
        batch_seconds: float | None = None,
    ) -> None:
        self.model_id = model_id
        self.layer = layer
        self.pooling = pooling
        self.revision = revision
        self.device = device
        self.precision = precision
        self.channels = channels
        self.batch_seconds = batch_seconds

    def fit(self, X: Sequence[Audio], y: object = None) -> Self:
        """Load the encoder; neither the audio nor the labels are looked at.

        Raises
        ------
        EncoderError
            Where the encoder can't be loaded.
        ValueError
            Where it lacks the layer, or the pooling or the channels are none.
        """
        encoder = self._load()
        self.poolings_ = tuple(self.pooling.split("+"))
        layer = encoder.num_hidden_layers if self.layer is None else self.layer
        self.spec_ = encoder.spec(layers=[layer], pooling=self.poolings_, channels=self.channels)
        self.n_features_out_ = len(self.poolings_) * self.spec_.hidden_size
        return self

    def transform(self, X: Sequence[Audio]) -> NDArray[np.float32]:
        """Embed recordings.

        Parameters
        ----------
        X : sequence of path, or of ndarray of shape (num_samples,)
            Audio files, or mono waveforms at 16 kHz, as floating point numbers in -1..1.

        Returns
        -------
        ndarray of shape (n, n_features_out_)
            float32, in the order of ``X``.

        Raises
        ------
        AudioError
            Where a file's audio can't be used.
        ValueError
            Where ``X`` is one path, or a waveform is not one-dimensional, floating point, finite, and long enough for
            one frame.
        EncoderError
            Where the encoder that is found now is not the one that was fitted, or its numbers overflow.
        """
        check_is_fitted(self, "spec_")
        if isinstance(X, (str, os.PathLike)):
            msg = f"X must be a sequence of recordings. Got the one path {os.fspath(X)!r} instead; put it into a list."
            raise ValueError(msg)
        encoder = self._load()
        found_now = encoder.spec(
            layers=self.spec_.layers, pooling=self.spec_.pooling, channels=self.spec_.channels
        )
        if differences := found_now.differences(self.spec_, ignore=("model_id", "revision")):
            told = describe_differences(differences, mine="found", theirs="fitted")
            msg = f"{self.model_id}: not the encoder that the embedder was fitted with: {told}. Find that one, or fit again."
            raise EncoderError(msg)
        channel = parse_channel(self.spec_.channels)
        budget = make_budget(encoder, self.batch_seconds)
        embeddings = np.empty((len(X), self.n_features_out_), np.float32)
        for start in range(0, len(X), _BLOCK):
            block = [
                _waveform(audio, index, encoder, channel)
                for index, audio in enumerate(X[start : start + _BLOCK], start)
            ]
            for one in embed_all(encoder, self.spec_, block, budget):
                index = start + one.index
                if one.reason:
                    msg = f"{_name(X[index], index)}: {one.reason}"
                    raise EncoderError(msg)
                embeddings[index] = np.concatenate([one.pooled[name][0] for name in self.poolings_])
        return embeddings

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
        """Return names such as ``mean_0``; what went in has none."""
        check_is_fitted(self, "spec_")
        size = self.spec_.hidden_size
        names = [f"{name}_{index}" for name in self.poolings_ for index in range(size)]
        return np.array(names, dtype=object)

    def __getstate__(self) -> dict[str, Any]:
        # The weights stay where they are; who loads the pipeline needs the same encoder.
        return {name: value for name, value in super().__getstate__().items() if name != "_encoder"}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags

    def _load(self) -> Encoder:
        asked = (self.model_id, self.revision, self.device, self.precision)
        held: tuple[tuple[object, ...], Encoder] | None = getattr(self, "_encoder", None)
        if held is None or held[0] != asked:
            encoder = Encoder.load(
                self.model_id, revision=self.revision, device=self.device, precision=self.precision
            )
            held = self._encoder = (asked, encoder)
        return held[1]


def embed_files(
    encoder: Encoder, spec: FeatureSpec, paths: Sequence[Path], *, jobs: int = 2
) -> Iterator[tuple[list[Reading], list[Embedded]]]:
    """Decode and embed audio files, some minutes of audio at a time.

    Yields
    ------
    readings : list of Reading
        In the order of the paths; those without a recording say why.
    embeddings : list of Embedded
        Of the readings with a recording, in their order. A reading whose numbers overflow has none.
    """
    utterances = [Utterance(id=str(path), path=str(path)) for path in paths]
    budget = make_budget(encoder)
    windows = read_windows(
        utterances,
        Path(),
        sample_rate=spec.sample_rate,
        channels=spec.channels,
        min_samples=encoder.min_samples,
        max_samples=max_whole_samples(spec.chunk_seconds, spec.sample_rate),
        jobs=jobs,
    )
    with contextlib.closing(windows):
        for window in windows:
            recordings = [reading.recording for reading in window if reading.recording]
            waveforms = [recording.waveform for recording in recordings if recording.is_kept]
            found = iter(embed_all(encoder, spec, waveforms, budget))
            readings: list[Reading] = []
            embeddings: list[Embedded] = []
            for reading in window:
                if reading.recording is None:
                    readings.append(reading)
                    continue
                one = next(found) if reading.recording.is_kept else embed_reading(encoder, spec, reading)
                if one.reason:
                    readings.append(dataclasses.replace(reading, recording=None, reason=one.reason))
                else:
                    readings.append(reading)
                    embeddings.append(one)
            yield readings, embeddings


def _name(audio: Audio, index: int) -> str:
    return os.fspath(audio) if isinstance(audio, (str, os.PathLike)) else f"X[{index}]"


def _waveform(
    audio: Audio, index: int, encoder: Encoder, channel: int | Literal["mean"]
) -> NDArray[np.float32]:
    if isinstance(audio, (str, os.PathLike)):
        recording = decode(
            Path(audio), sample_rate=encoder.sample_rate, channel=channel, min_samples=encoder.min_samples
        )
        return recording.waveform
    waveform = np.asarray(audio)
    # Integers would be full scale at 32768, or at anything else.
    if waveform.ndim != 1 or waveform.dtype.kind != "f":
        msg = f"X[{index}]: a waveform must be one-dimensional and floating point. Got {waveform.dtype} of shape {waveform.shape} instead."
        raise ValueError(msg)
    if not np.isfinite(waveform).all():
        msg = f"X[{index}]: a waveform must be finite. Got NaN or infinity instead."
        raise ValueError(msg)
    if len(waveform) < encoder.min_samples:
        msg = f"X[{index}]: a waveform must have at least {encoder.min_samples} samples, for one frame. Got {len(waveform)} instead."
        raise ValueError(msg)
    return waveform.astype(np.float32, copy=False)
