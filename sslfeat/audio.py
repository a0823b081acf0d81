"""Decode one file, or a segment of one, to float32 mono at the encoder's rate.

Every corpus's own rate, channels and containers end here. A file that can't be used is an `AudioError`, never a guess.
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import soxr  # type: ignore[import-untyped]

from sslfeat.containers import AudioError, Block, open_audio

MAX_SECONDS = 6 * 3600.0  # one utterance; a few hundred kB of constant FLAC can promise days
FULL_SCALE = 32767 / 32768  # what +1.0 becomes in 16 bits
SILENCE = 1 / 32768  # peak to peak, one 16-bit step


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recording:
    """What decoding one utterance gave.

    Parameters
    ----------
    waveform : ndarray of shape (num_samples,)
        float32 mono at the rate that was asked for, C-contiguous; not clipped, so it may pass 1. Empty where it
        would be longer than was asked to be kept.
    num_samples : int
        Length at that rate, kept or not.
    audio_hash : str
        128-bit BLAKE2b, in hexadecimal, of the decoded samples at their own rate (float32, all channels) with that
        rate and the number of channels; equal for exact copies under any name or lossless format.
    native_sample_rate : int
        Rate of the file, in Hz.
    native_num_samples : int
        Length at that rate, in samples of one channel.
    num_channels : int
        Channels of the file.
    peak : float
        Largest magnitude over all channels; 1 is full scale.
    num_clipped : int
        Values, over all channels, that are the third or later in a row at 16-bit full scale or beyond: one alone may be
        the peak of a normalised recording, a row of them was cut off.
    """

    waveform: npt.NDArray[np.float32]
    num_samples: int
    audio_hash: str
    native_sample_rate: int
    native_num_samples: int
    num_channels: int
    peak: float
    num_clipped: int

    @property
    def is_kept(self) -> bool:
        """Whether the waveform is here."""
        return len(self.waveform) == self.num_samples

    @property
    def seconds(self) -> float:
        """Duration, in seconds."""
        return self.native_num_samples / self.native_sample_rate


def decode(
    path: str | Path,
    *,
    sample_rate: int = 16_000,
    channel: int | Literal["mean"] = "mean",
    start: float = 0.0,
    end: float = math.inf,
    min_samples: int = 400,
    max_samples: float = math.inf,
) -> Recording:
    """Decode one file, or the segment of it between two times.

    The file is read, mixed down and resampled (soxr, quality HQ) in blocks, so memory is bounded by the result; the
    numbers don't depend on the blocks. ``n`` samples at rate ``r`` become ``floor(n * sample_rate / r + 1/2)``.

    Parameters
    ----------
    path : str or Path
        The file.
    sample_rate : int
        Rate of the result, in Hz.
    channel : int or "mean"
        The channel to take, from 0, or the mean of all.
    start, end : float
        The segment in seconds, cut at the nearest samples of the file; only it is read. Matroska counts time in
        milliseconds, and is cut within one.
    min_samples : int
        The least length of the result, in samples: 400 are one frame of a Wav2Vec2 encoder.
    max_samples : float
        A longer waveform is looked at but not kept, so that memory doesn't grow with it; :func:`stream` gives it.

    Returns
    -------
    Recording
        The waveform and what else was seen of the file.

    Raises
    ------
    AudioError
        Where the file is missing, a folder, a Git-LFS pointer, no audio, damaged, truncated or empty; lacks the
        channel or the segment; is silent, not finite, too long, or shorter than ``min_samples``; or needs PyAV and
        that is not installed.
    """
    path = Path(path)
    if not 0 <= start < end:
        msg = (
            f"{path}: a segment must have 0 <= start < end. Got start={start:g}, end={end:g} seconds instead."
        )
        raise AudioError(msg)
    digest = hashlib.blake2b(digest_size=16)
    pieces: list[npt.NDArray[np.float32]] = []
    num_samples, length, num_clipped, peak, low, high = 0, 0, 0, 0.0, math.inf, -math.inf
    with open_audio(path, start, end) as stream:
        rate, num_channels = stream.sample_rate, stream.num_channels
        if channel != "mean" and not 0 <= channel < num_channels:
            msg = f"{path}: no channel {channel}; the file has {num_channels}, counted from 0."
            raise AudioError(msg)
        digest.update(f"{rate} {num_channels} ".encode())
        resample = _resampler(rate, sample_rate)
        loud = np.zeros((0, num_channels), bool)  # at full scale: the last two samples and the block
        for block in stream.blocks:
            num_samples += len(block)
            if num_samples > MAX_SECONDS * rate:
                msg = (
                    f"{path}: longer than {MAX_SECONDS / 3600:g} hours, the most that one utterance may last. "
                    "Name its parts by start and end in a manifest."
                )
                raise AudioError(msg)
            digest.update(block.data)
            block_peak = max(float(block.max()), -float(block.min()))  # NaN comes through
            if not math.isfinite(block_peak):
                msg = f"{path}: holds samples that are NaN or infinite. Export it again from its source."
                raise AudioError(msg)
            peak = max(peak, block_peak)
            loud = (
                np.concatenate([loud[-2:], np.abs(block) >= FULL_SCALE])
                if block_peak >= FULL_SCALE
                else loud[:0]
            )
            num_clipped += int(np.count_nonzero(loud[2:] & loud[1:-1] & loud[:-2]))
            mono = _mix(block, channel)
            low, high = min(low, float(mono.min())), max(high, float(mono.max()))
            pieces.append(resample(mono))
            length += len(pieces[-1])
            if length > max_samples:
                pieces.clear()
    if not num_samples:
        msg = f"{path}: no audio in it (0 samples). Fetch it again or leave it out."
        raise AudioError(msg)
    if high - low <= SILENCE:
        taken = "the mean of its channels" if channel == "mean" else f"channel {channel}"
        msg = f"{path}: silent ({num_samples / rate:.2f} s without a change). Fetch it again or leave it out."
        if num_channels > 1 and peak > max(abs(low), abs(high)) + SILENCE:
            msg = (
                f"{path}: silent in {taken}, though not in all of its {num_channels}. Choose another channel."
            )
        raise AudioError(msg)
    pieces.append(resample(None))
    length += len(pieces[-1])
    if length < min_samples:
        msg = (
            f"{path}: {length} samples at {sample_rate} Hz, at least {min_samples} are needed "
            f"({1000 * min_samples / sample_rate:g} ms). Leave it out."
        )
        raise AudioError(msg)
    kept = pieces if length <= max_samples else [np.empty(0, np.float32)]
    return Recording(
        waveform=np.ascontiguousarray(np.concatenate(kept)),
        num_samples=length,
        audio_hash=digest.hexdigest(),
        native_sample_rate=rate,
        native_num_samples=num_samples,
        num_channels=num_channels,
        peak=peak,
        num_clipped=num_clipped,
    )


def stream(
    path: str | Path,
    *,
    sample_rate: int = 16_000,
    channel: int | Literal["mean"] = "mean",
    start: float = 0.0,
    end: float = math.inf,
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the waveform that :func:`decode` returns, piece by piece, in memory that doesn't grow with it.

    What `decode` refuses for its samples, as silence, is not looked for again.

    Raises
    ------
    AudioError
        Where the file can't be read, or to its end.
    """
    path = Path(path)
    with open_audio(path, start, end) as opened:
        resample = _resampler(opened.sample_rate, sample_rate)
        for block in opened.blocks:
            yield resample(_mix(block, channel))
        yield resample(None)


def parse_channel(channels: str) -> int | Literal["mean"]:
    """Return what a spec's ``channels`` means for :func:`decode`.

    Raises
    ------
    ValueError
        Where it is neither ``mean`` nor a number.

    Examples
    --------
    >>> parse_channel("mean"), parse_channel("1")
    ('mean', 1)
    """
    if channels == "mean":
        return "mean"
    if not (channels.isascii() and channels.isdigit()):
        msg = f"channels must be mean, or one channel's number, counted from 0. Got {channels!r} instead."
        raise ValueError(msg)
    return int(channels)


def _resampler(rate: int, wanted: int) -> Callable[[npt.NDArray[np.float32] | None], npt.NDArray[np.float32]]:
    """Return what resamples a stream piece by piece; None ends it and gives the rest."""
    nothing = np.empty(0, np.float32)
    if rate == wanted:
        return lambda piece: nothing if piece is None else piece
    soxr_stream = soxr.ResampleStream(rate, wanted, 1, dtype="float32", quality="HQ")
    return lambda piece: soxr_stream.resample_chunk(nothing if piece is None else piece, last=piece is None)


def _mix(block: Block, channel: int | Literal["mean"]) -> npt.NDArray[np.float32]:
    if channel != "mean":
        return np.ascontiguousarray(block[:, channel])
    num_channels = block.shape[1]
    if num_channels == 1:
        return block[:, 0]
    mono = block[:, 0] + block[:, 1]
    for other in range(2, num_channels):  # five times as fast as a mean over so short an axis
        mono += block[:, other]
    mono /= num_channels
    return mono
