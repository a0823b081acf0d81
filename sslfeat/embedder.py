"""The encoder as a scikit-learn transformer: audio in, vectors out."""

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from cache.schema import FeatureSpec, Utterance
from sslfeat.audio import decode
from sslfeat.batching import make_batches
from sslfeat.encoder import Encoder, EncoderError, exact_products
from sslfeat.extract import BATCH_SECONDS, embed
from sslfeat.reading import Reading, read_windows

Audio = str | os.PathLike[str] | NDArray[np.floating]


class SSLEmbedder(TransformerMixin, BaseEstimator):
    """Embed recordings by one layer of a self-supervised encoder.

    The encoder is frozen: nothing is learnt by `fit`, which loads it and pins its weights, so that a saved
    pipeline refuses to go on with others.

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
    batch_seconds : float or None
        Most seconds of audio, padding counted, that are encoded at once.

    Attributes
    ----------
    spec_ : FeatureSpec
        Everything that changes the numbers.
    n_features_out_ : int

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> pipeline = make_pipeline(SSLEmbedder("facebook/wav2vec2-base", layer=9), LogisticRegression())
    """

    spec_: FeatureSpec
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
        batch_seconds: float | None = None,
    ) -> None:
        self.model_id = model_id
        self.layer = layer
        self.pooling = pooling
        self.revision = revision
        self.device = device
        self.precision = precision
        self.batch_seconds = batch_seconds

    def fit(self, X: Sequence[Audio], y: object = None) -> Self:
        """Load the encoder; neither the audio nor the labels are looked at.

        Raises
        ------
        EncoderError
            Where the encoder can't be loaded.
        ValueError
            Where it lacks the layer, or the pooling is unknown.
        """
        encoder = self._load()
        self.spec_ = self._spec(encoder)
        self.n_features_out_ = len(self.spec_.pooling) * self.spec_.hidden_size
        return self

    def transform(self, X: Sequence[Audio]) -> NDArray[np.float32]:
        """Embed recordings.

        Parameters
        ----------
        X : sequence of path, or of ndarray of shape (num_samples,)
            Audio files, or mono waveforms at 16 kHz.

        Returns
        -------
        ndarray of shape (n, n_features_out_)
            float32, in the order of ``X``.

        Raises
        ------
        AudioError
            Where a file's audio can't be used.
        ValueError
            Where a waveform is not one-dimensional, not finite, or too short for one frame.
        EncoderError
            Where the encoder that is found now has other weights than the one that was fitted.
        """
        check_is_fitted(self, "spec_")
        encoder = self._load()
        if encoder.weights_hash != self.spec_.weights_hash:
            msg = f"{self.model_id}: its weights are not those that the embedder was fitted with; find those, or fit again."
            raise EncoderError(msg)
        waveforms = [self._waveform(audio, encoder) for audio in X]
        embeddings = embed_all(encoder, self.spec_, waveforms, batch_seconds=self.batch_seconds)
        asked = self.pooling.split("+")
        return np.concatenate([embeddings[name][:, 0] for name in asked], axis=1)

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
        """Return names such as ``mean_0``; what went in has none."""
        check_is_fitted(self, "spec_")
        size = self.spec_.hidden_size
        names = [f"{name}_{index}" for name in self.pooling.split("+") for index in range(size)]
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

    def _spec(self, encoder: Encoder) -> FeatureSpec:
        layer = encoder.num_hidden_layers if self.layer is None else self.layer
        return encoder.spec(layers=[layer], pooling=self.pooling.split("+"))

    def _waveform(self, audio: Audio, encoder: Encoder) -> NDArray[np.float32]:
        if isinstance(audio, (str, os.PathLike)):
            recording = decode(Path(audio), sample_rate=encoder.sample_rate, min_samples=encoder.min_samples)
            return recording.waveform
        waveform = np.asarray(audio, dtype=np.float32)
        if waveform.ndim != 1 or not np.isfinite(waveform).all():
            msg = f"a waveform must be one-dimensional and finite. Got shape {waveform.shape} instead."
            raise ValueError(msg)
        return waveform


def embed_all(
    encoder: Encoder,
    spec: FeatureSpec,
    waveforms: Sequence[NDArray[np.float32]],
    *,
    batch_seconds: float | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Embed waveforms in batches and return them in their own order.

    Returns
    -------
    dict of str to ndarray of shape (n, layers, hidden_size)
        One array per pooling of the spec.

    Raises
    ------
    ValueError
        Where a waveform is too short for one frame.
    """
    shape = (len(waveforms), len(spec.layers), spec.hidden_size)
    embeddings = {name: np.empty(shape, np.float32) for name in spec.pooling}
    seconds = batch_seconds or BATCH_SECONDS[encoder.device.type]
    batches = make_batches(
        [len(waveform) for waveform in waveforms],
        max_padded_samples=math.ceil(seconds * spec.sample_rate),
        equal_lengths=not encoder.pads,
    )
    with torch.inference_mode(), exact_products():
        for batch in batches:
            made = embed(encoder, spec, [waveforms[index] for index in batch])
            for index, (pooled, _, _) in zip(batch, made, strict=True):
                for name, vectors in pooled.items():
                    embeddings[name][index] = vectors
    return embeddings


def embed_files(
    encoder: Encoder, spec: FeatureSpec, paths: Sequence[Path], *, jobs: int = 2
) -> Iterator[tuple[list[Reading], dict[str, NDArray[np.float32]]]]:
    """Decode and embed audio files, some minutes of audio at a time.

    Yields
    ------
    readings : list of Reading
        In the order of the paths; those without a recording say why.
    embeddings : dict of str to ndarray of shape (n, layers, hidden_size)
        Of the readings with a recording, in their order.
    """
    utterances = [Utterance(id=str(path), path=str(path)) for path in paths]
    windows = read_windows(
        utterances, Path(), sample_rate=spec.sample_rate, min_samples=encoder.min_samples, jobs=jobs
    )
    for window in windows:
        waveforms = [reading.recording.waveform for reading in window if reading.recording]
        yield window, embed_all(encoder, spec, waveforms)
