"""Decode one file, or a segment of one, to float32 mono at the encoder's rate.

Every container format ends here: libsndfile reads wav, flac, ogg, opus, mp3, aiff and their kin, PyAV (where it is
installed) m4a, mp4 and webm. A file that can't be used is an :class:`AudioError`, never a guess.
"""

import contextlib
import dataclasses
import hashlib
import importlib
import math
import os
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import soundfile
import soxr  # type: ignore[import-untyped]

SOUNDFILE_SUFFIXES = frozenset(
    (
        ".wav",
        ".wave",
        ".flac",
        ".ogg",
        ".oga",
        ".opus",
        ".mp3",
        ".aif",
        ".aiff",
        ".aifc",
        ".au",
        ".caf",
        ".w64",
    )
)
PYAV_SUFFIXES = frozenset((".m4a", ".mp4", ".webm", ".mkv", ".mov"))
AUDIO_SUFFIXES = SOUNDFILE_SUFFIXES | PYAV_SUFFIXES

SAMPLE_RATES = (1_000, 768_000)  # Hz; a header outside is damage, and soxr's memory grows with the ratio
MAX_SECONDS = 6 * 3600.0  # one utterance; a few hundred kB of constant FLAC can promise days
FULL_SCALE = 32767 / 32768  # what +1.0 becomes in 16 bits
SILENCE = 1 / 32768  # peak to peak, one 16-bit step
# mp3 headers count whole frames of up to 1152 samples, so the last 36 ms (576 samples at 16 kHz) may be padding.
TRUNCATION_TOLERANCE = 0.05  # seconds
SEGMENT_TOLERANCE = 0.1  # seconds by which a segment's end may overshoot, for manifests that round
BLOCK_VALUES = 1 << 20  # samples times channels held at once: 4 MiB

# How libsndfile's log tells of a size in the header that the file doesn't hold; the sizes that programs write when
# they don't know the length yet (ffmpeg 0xFFFFFFFF, SoX 0x7FFFF000 and up) promise nothing.
_PROMISE = re.compile(
    r"^\s*(?:data|SSND|Data Size|Riff size|riff)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE
)
_UNKNOWN_SIZE = 0x7FFFF000
_OGG_MAX_PAGE = 65_307  # bytes, RFC 3533 section 6
_OGG_END_OF_STREAM = 0x04
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"

Block = npt.NDArray[np.float32]  # (num_samples, num_channels)


class AudioError(ValueError):
    """A file whose audio can't be used; the message leads with its path."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recording:
    """What decoding one utterance gave.

    Parameters
    ----------
    waveform : ndarray of shape (num_samples,)
        float32 mono at the rate that was asked for, C-contiguous; not clipped, so it may pass 1.
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
    audio_hash: str
    native_sample_rate: int
    native_num_samples: int
    num_channels: int
    peak: float
    num_clipped: int

    @property
    def seconds(self) -> float:
        """Duration, in seconds."""
        return self.native_num_samples / self.native_sample_rate


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Stream:
    """An opened file: its rate, its channels, and the segment's samples block by block."""

    sample_rate: int
    num_channels: int
    blocks: Iterator[Block]


def decode(
    path: str | Path,
    *,
    sample_rate: int = 16_000,
    channel: int | Literal["mean"] = "mean",
    start: float = 0.0,
    end: float = math.inf,
    min_samples: int = 400,
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
    num_samples, num_clipped, peak, low, high = 0, 0, 0.0, math.inf, -math.inf
    with _open(path, start, end) as stream:
        rate, num_channels = stream.sample_rate, stream.num_channels
        if channel != "mean" and not 0 <= channel < num_channels:
            msg = f"{path}: no channel {channel}; the file has {num_channels}, counted from 0."
            raise AudioError(msg)
        digest.update(f"{rate} {num_channels} ".encode())
        resampler = None
        if rate != sample_rate:
            resampler = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32", quality="HQ")
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
            pieces.append(resampler.resample_chunk(mono) if resampler else mono)
    if not num_samples:
        msg = f"{path}: no audio in it (0 samples). Fetch it again or leave it out."
        raise AudioError(msg)
    if high - low <= SILENCE:
        msg = f"{path}: silent ({num_samples / rate:.2f} s without a change). Fetch it again or leave it out."
        raise AudioError(msg)
    if resampler:
        pieces.append(resampler.resample_chunk(np.empty(0, np.float32), last=True))
    waveform = np.ascontiguousarray(np.concatenate(pieces))
    if len(waveform) < min_samples:
        msg = (
            f"{path}: {len(waveform)} samples at {sample_rate} Hz, at least {min_samples} are needed "
            f"({1000 * min_samples / sample_rate:g} ms). Leave it out."
        )
        raise AudioError(msg)
    return Recording(
        waveform=waveform,
        audio_hash=digest.hexdigest(),
        native_sample_rate=rate,
        native_num_samples=num_samples,
        num_channels=num_channels,
        peak=peak,
        num_clipped=num_clipped,
    )


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


@contextlib.contextmanager
def _open(path: Path, start: float, end: float) -> Iterator[_Stream]:
    """Open a file with the library that its first bytes ask for, and check its rate."""
    try:
        if path.is_dir():
            msg = f"{path}: a folder, and one audio file was asked for."
            raise AudioError(msg)
        if path.exists() and not path.is_file():  # opening a pipe would wait for its writer
            msg = f"{path}: no regular file. Copy its audio to one."
            raise AudioError(msg)
        with path.open("rb") as file:
            head = file.read(64)
    except FileNotFoundError:
        msg = f"{path}: no such file."
        raise AudioError(msg) from None
    except (OSError, ValueError) as error:
        if isinstance(error, AudioError):
            raise
        msg = f"{path}: can't be opened ({error})."
        raise AudioError(msg) from error
    if not head:
        msg = f"{path}: an empty file (0 bytes). Fetch it again or leave it out."
        raise AudioError(msg)
    if head.startswith(_LFS_POINTER):
        msg = (
            f"{path}: a Git-LFS pointer, not the audio it stands for. Run `git lfs pull` where it was cloned."
        )
        raise AudioError(msg)
    is_pyav = head[4:8] == b"ftyp" or head.startswith(b"\x1aE\xdf\xa3")  # MP4 and its kin, Matroska and WebM
    with (_open_pyav if is_pyav else _open_soundfile)(path, start, end) as stream:
        if not SAMPLE_RATES[0] <= stream.sample_rate <= SAMPLE_RATES[1]:
            msg = (
                f"{path}: a sample rate of {stream.sample_rate} Hz, and {SAMPLE_RATES[0]}..{SAMPLE_RATES[1]} are "
                "read. Its header is likely damaged."
            )
            raise AudioError(msg)
        yield stream


@contextlib.contextmanager
def _open_soundfile(path: Path, start: float, end: float) -> Iterator[_Stream]:
    try:
        file = soundfile.SoundFile(os.fsencode(path))
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: .raw, which has no header to read
        msg = f"{path}: no audio format that can be read. Convert it to wav or flac, or leave it out."
        raise AudioError(msg) from error
    with file:
        if _is_cut_short(path, file):
            msg = f"{path}: truncated, its header promises more than the file holds. Fetch it again."
            raise AudioError(msg)
        yield _Stream(
            sample_rate=file.samplerate,
            num_channels=file.channels,
            blocks=_soundfile_blocks(path, file, start, end),
        )


def _soundfile_blocks(path: Path, file: soundfile.SoundFile, start: float, end: float) -> Iterator[Block]:
    rate, promised = file.samplerate, file.frames
    first, last = round(start * rate), promised
    if first:
        if first >= promised:
            msg = f"{path}: no segment at {start:g} s, the file lasts {promised / rate:g} s."
            raise AudioError(msg)
        _checked(path, file.seek, first)
    if math.isfinite(end):
        if end > promised / rate + SEGMENT_TOLERANCE:
            msg = f"{path}: no segment up to {end:g} s, the file lasts {promised / rate:g} s."
            raise AudioError(msg)
        last = min(promised, round(end * rate))
    block_size = max(1, BLOCK_VALUES // file.channels)
    position = first
    while position < last:
        block = _checked(path, file.read, min(block_size, last - position), dtype="float32", always_2d=True)
        if not len(block):
            break
        position += len(block)
        yield block
    if last - position > TRUNCATION_TOLERANCE * rate:
        msg = (
            f"{path}: truncated, {position / rate:.2f} s could be read of the {promised / rate:.2f} s that its header "
            "promises. Fetch it again."
        )
        raise AudioError(msg)


def _checked(path: Path, call: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return call(*args, **kwargs)
    except (soundfile.LibsndfileError, MemoryError) as error:
        msg = f"{path}: truncated or damaged, decoding it failed part of the way. Fetch it again."
        raise AudioError(msg) from error


def _is_cut_short(path: Path, file: soundfile.SoundFile) -> bool:
    """Return whether a format that libsndfile reads to whatever end it finds was meant to be longer."""
    if file.format == "OGG":
        return _lacks_last_page(path)
    for promised, held in _PROMISE.findall(file.extra_info):
        missing = 1 - int(held) / max(1, int(promised))
        if int(promised) < _UNKNOWN_SIZE and missing > 0:
            seconds = file.frames / file.samplerate * missing / max(1e-9, 1 - missing)
            return bool(seconds > TRUNCATION_TOLERANCE)
    return False


def _lacks_last_page(path: Path) -> bool:
    """Return whether an Ogg file doesn't end in a whole page with the end-of-stream flag (RFC 3533 section 6)."""
    with path.open("rb") as raw:
        raw.seek(max(0, path.stat().st_size - 2 * _OGG_MAX_PAGE))
        tail = raw.read()
    page = tail[max(0, tail.rfind(b"OggS\0")) :]
    if len(page) < 27 or not page[5] & _OGG_END_OF_STREAM:
        return True
    table = page[27 : 27 + page[26]]  # the lengths of the page's segments
    return len(page) < 27 + page[26] + sum(table)


@contextlib.contextmanager
def _open_pyav(path: Path, start: float, end: float) -> Iterator[_Stream]:
    try:
        av = importlib.import_module("av")
    except ImportError:
        msg = f"{path}: m4a, mp4 and webm need PyAV. Run `pip install sslfeat[video]`, or convert the file to wav."
        raise AudioError(msg) from None
    try:
        opened = av.open(os.fspath(path), metadata_errors="replace")  # a title in Latin-1 is no damage
    except (av.FFmpegError, ValueError, MemoryError) as error:
        msg = f"{path}: no audio format that can be read. Convert it to wav or flac, or leave it out."
        raise AudioError(msg) from error
    with opened as container:
        tracks = container.streams.audio
        if not tracks:
            msg = f"{path}: no audio track in it. Leave it out."
            raise AudioError(msg)
        audio = next((track for track in tracks if track.codec_context is not None), None)
        if audio is None:
            msg = (
                f"{path}: no audio track in it that can be read. Convert it to wav or flac, or leave it out."
            )
            raise AudioError(msg)
        yield _Stream(
            sample_rate=audio.sample_rate,
            num_channels=audio.channels,
            blocks=_pyav_blocks(path, av, container, audio, start, end),
        )


def _pyav_blocks(
    path: Path, av: Any, container: Any, audio: Any, start: float, end: float
) -> Iterator[Block]:
    rate, num_channels = audio.sample_rate, audio.channels
    to_float = av.AudioResampler(format="flt", layout=audio.layout, rate=rate)
    origin = (audio.start_time or 0) * (audio.time_base or Fraction(1))
    first, last = round(start * rate), math.inf if math.isinf(end) else round(end * rate)
    position = None  # of the next sample, counted from the start of the track
    try:
        if first:  # a little early: the decoder's first frame after a jump starts from nothing
            container.seek(int((origin + Fraction(max(0.0, start - 0.5))) / audio.time_base), stream=audio)
        for frame in container.decode(audio):
            if position is None:
                position = round((frame.pts * frame.time_base - origin) * rate) if first else 0
            for part in to_float.resample(frame):
                block = part.to_ndarray().reshape(-1, num_channels)  # packed: (1, num_samples * num_channels)
                begin, position = position, position + len(block)
                kept = block[max(0, first - begin) : max(0, int(min(last, position)) - begin)]
                if len(kept):
                    yield np.ascontiguousarray(kept)
            if position >= last:
                return
    except (av.FFmpegError, ValueError, MemoryError) as error:  # ValueError: the rate or the channels change
        msg = f"{path}: truncated or damaged, decoding it failed part of the way. Fetch it again."
        raise AudioError(msg) from error
    length = (position or 0) / rate
    if first and first >= (position or 0):
        msg = f"{path}: no segment at {start:g} s, the file lasts {length:g} s."
        raise AudioError(msg)
    if math.isfinite(end) and end > length + SEGMENT_TOLERANCE:
        msg = f"{path}: no segment up to {end:g} s, the file lasts {length:g} s."
        raise AudioError(msg)
