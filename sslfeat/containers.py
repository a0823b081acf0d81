"""Audio files opened, whatever their format, and read block by block.

libsndfile reads wav, flac, ogg, opus, mp3, aiff and their kin, PyAV (where it is installed) m4a, mp4 and webm. A file
that is cut short or damaged is an :class:`AudioError`, never a guess.
"""

import contextlib
import dataclasses
import functools
import importlib
import math
import mmap
import os
import re
import unicodedata
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from sslfeat.mp3 import walk_frames

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
        ".sph",
    )
)
PYAV_SUFFIXES = frozenset((".m4a", ".m4b", ".mp4", ".m4v", ".3gp", ".webm", ".mkv", ".mka", ".mov"))
# Not read, and listed all the same, so that each is told as one that can't be used.
UNREAD_SUFFIXES = frozenset((".wma", ".aac", ".ac3", ".amr", ".ra", ".ape", ".wv", ".mpc"))
AUDIO_SUFFIXES = SOUNDFILE_SUFFIXES | PYAV_SUFFIXES

SAMPLE_RATES = (1_000, 768_000)  # Hz; a header outside is damage, and soxr's memory grows with the ratio
# mp3 headers count whole frames of up to 1152 samples, so the last 36 ms (576 samples at 16 kHz) may be padding.
TRUNCATION_TOLERANCE = 0.05  # seconds
MP4_TOLERANCE = 0.25  # seconds; what an edit list leaves out may be counted
SEGMENT_TOLERANCE = 0.1  # seconds by which a segment's end may overshoot, for manifests that round
BLOCK_VALUES = 1 << 20  # samples times channels held at once: 4 MiB

# How libsndfile's log tells of a size in the header that the file doesn't hold; the sizes that programs write when
# they don't know the length yet (ffmpeg 0xFFFFFFFF, SoX 0x7FFFF000 and up) promise nothing.
_PROMISE = re.compile(
    r"^\s*(?:data|SSND|Data Size|Riff size|riff)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE
)
_UNKNOWN_SIZE = 0x7FFFF000
# Where it finds nothing that it knows behind the audio: a recorder that crashed leaves a size that the audio outgrew.
_OUTGROWN = re.compile(r"Unknown chunk marker \(\w+\) at position (\d+)")
_MOST_OUTGROWN = 0.1  # of the file
_UNKNOWN_LENGTH = 1 << 62  # samples; libsndfile's word for a FLAC written to a pipe
# The formats of which it shows whether they were cut short. libsndfile reads a dozen more, to whatever end it finds.
_FORMATS = frozenset(("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3", "NIST"))
_NIST_LENGTH = re.compile(rb"^sample_count -i (\d+)", re.MULTILINE)
_NIST_HEADER = 1024  # bytes
_OGG_MAX_PAGE = 65_307  # bytes, RFC 3533 section 6
_OGG_END_OF_STREAM = 0x04
_OGG_LATER_PAGE, _OGG_FIRST_PAGE = re.compile(rb"OggS\0[\0\1\4\5]"), re.compile(rb"OggS\0[\2\6]\0{8}")
_MP3_FRAMES_WITHOUT_SOUND = (
    4  # at most: the header's own, and the padding at both ends that it lets players skip
)
_EBML_HEADER, _MATROSKA_SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # RFC 8794, RFC 9559
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"

Block = npt.NDArray[np.float32]  # (num_samples, num_channels)


class AudioError(ValueError):
    """A file whose audio can't be used; the message leads with its path."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """An opened file: its rate, its channels, and the segment's samples block by block."""

    sample_rate: int
    num_channels: int
    blocks: Iterator[Block]


@contextlib.contextmanager
def open_audio(path: Path, start: float, end: float) -> Iterator[Stream]:
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
        hint = ""
        if is_respelt(path):
            hint = " One whose accents are coded otherwise is there, as macOS writes them; rename it."
        msg = f"{path}: no such file.{hint}"
        raise AudioError(msg) from None
    except (OSError, ValueError) as error:
        if isinstance(error, AudioError):
            raise
        msg = f"{path}: can't be opened ({getattr(error, 'strerror', None) or error})."
        raise AudioError(msg) from error
    if not head:
        msg = f"{path}: an empty file (0 bytes). Fetch it again or leave it out."
        raise AudioError(msg)
    if head.startswith(_LFS_POINTER):
        msg = (
            f"{path}: a Git-LFS pointer, not the audio it stands for. Run `git lfs pull` where it was cloned."
        )
        raise AudioError(msg)
    is_pyav = head[4:8] == b"ftyp" or head.startswith(_EBML_HEADER)  # MP4 and its kin, Matroska and WebM
    with (_open_pyav if is_pyav else _open_soundfile)(path, start, end) as stream:
        if not SAMPLE_RATES[0] <= stream.sample_rate <= SAMPLE_RATES[1]:
            msg = (
                f"{path}: a sample rate of {stream.sample_rate} Hz, and {SAMPLE_RATES[0]}..{SAMPLE_RATES[1]} are "
                "read. Its header is likely damaged."
            )
            raise AudioError(msg)
        yield stream


def is_respelt(path: Path) -> bool:
    """Return whether there is a file of that path if its accents are parts of their letters, or characters of their own."""
    if str(path).isascii():
        return False
    # os.path's doesn't raise where a name gets too long.
    return any(os.path.exists(unicodedata.normalize(form, str(path))) for form in ("NFC", "NFD"))  # noqa: PTH110


@contextlib.contextmanager
def _open_soundfile(path: Path, start: float, end: float) -> Iterator[Stream]:
    try:
        file = soundfile.SoundFile(os.fsencode(path))
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: .raw, which has no header to read
        msg = f"{path}: no audio format that can be read. Convert it to wav or flac, or leave it out."
        raise AudioError(msg) from error
    with file:
        if file.format not in _FORMATS:
            msg = f"{path}: {file.format}, of which it can't be seen whether all is there. Convert it to wav or flac."
            raise AudioError(msg)
        if _is_cut_short(path, file):
            msg = f"{path}: truncated, its header promises more than the file holds. Fetch it again."
            raise AudioError(msg)
        if (end_of_audio := _OUTGROWN.search(file.extra_info)) and (
            int(end_of_audio[1]) < (1 - _MOST_OUTGROWN) * path.stat().st_size
        ):
            msg = f"{path}: its header promises less than the file holds, and what follows is none of its parts. Export it again."
            raise AudioError(msg)
        if file.format == "OGG" and _once(_is_chained, path):
            msg = f"{path}: several recordings one after another, of which one would be read. Convert it to wav or flac."
            raise AudioError(msg)
        if file.frames >= _UNKNOWN_LENGTH or (file.format == "MP3" and _is_misjudged(path, file)):
            with _open_pyav(path, start, end) as stream:
                yield stream
            return
        yield Stream(
            sample_rate=file.samplerate,
            num_channels=file.channels,
            blocks=_soundfile_blocks(path, file, start, end),
        )


def _soundfile_blocks(path: Path, file: soundfile.SoundFile, start: float, end: float) -> Iterator[Block]:
    rate, promised = file.samplerate, file.frames
    first, last = round(start * rate), promised
    if first >= promised > 0:
        msg = f"{path}: no segment at {start:g} s, the file lasts {promised / rate:g} s."
        raise AudioError(msg)
    if math.isfinite(end):
        if end > promised / rate + SEGMENT_TOLERANCE:
            msg = f"{path}: no segment up to {end:g} s, the file lasts {promised / rate:g} s."
            raise AudioError(msg)
        last = min(promised, round(end * rate))
    block_size = max(1, BLOCK_VALUES // file.channels)
    position = _sought(path, file, first)
    while position < last:
        block = _checked(path, file.read, min(block_size, last - position), dtype="float32", always_2d=True)
        if not len(block):
            break
        begin, position = position, position + len(block)
        if position > first:
            yield block[max(0, first - begin) :]
    if last - position > TRUNCATION_TOLERANCE * rate:
        msg = (
            f"{path}: truncated, {position / rate:.2f} s could be read of the {promised / rate:.2f} s that its header "
            "promises. Fetch it again."
        )
        raise AudioError(msg)


def _sought(path: Path, file: soundfile.SoundFile, first: int) -> int:
    """Go to a sample or before it, and return to which: what is decoded from there on is what the whole file has there."""
    if not first or not file.seekable():  # GSM
        return 0
    # An mp3 frame is coded in what is left of those before it.
    begin = max(0, first - file.samplerate // 2) if file.format == "MP3" else first
    _checked(path, file.seek, begin)
    return begin


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
    if file.format == "NIST":
        with path.open("rb") as raw:
            length = _NIST_LENGTH.search(raw.read(_NIST_HEADER))
        return length is not None and int(length[1]) - file.frames > TRUNCATION_TOLERANCE * file.samplerate
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


def _is_chained(path: Path) -> bool:
    """Return whether a stream of an Ogg file begins after another one did (RFC 3533 section 4); libsndfile reads the first."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        later = _OGG_LATER_PAGE.search(raw)
        return later is not None and _OGG_FIRST_PAGE.search(raw, later.end()) is not None


def _once(look: Callable[[Path], Any], path: Path) -> Any:
    """Look at a whole file once, though a manifest may name a thousand segments of it."""
    status = path.stat()
    return _remembered(look, path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _remembered(look: Callable[[Path], Any], path: Path, _size: int, _mtime_ns: int) -> Any:
    return look(path)


def _is_misjudged(path: Path, file: soundfile.SoundFile) -> bool:
    """Return whether libsndfile takes an mp3 for shorter or longer than it is, as it does by its size and first frame.

    Raises
    ------
    AudioError
        Where no header says how long the file is, and its end is inside of a frame.
    """
    frames = _once(walk_frames, path)
    if not frames.num_samples:
        return False
    if frames.states_length:  # libsndfile takes its word, and misses a second recording after it
        return bool(frames.num_samples - file.frames > _MP3_FRAMES_WITHOUT_SOUND * frames.samples_per_frame)
    if frames.is_cut:
        msg = f"{path}: truncated, it ends inside of a frame. Fetch it again."
        raise AudioError(msg)
    too_many: int = file.frames - frames.num_samples
    return not 0 <= too_many <= TRUNCATION_TOLERANCE * file.samplerate


@contextlib.contextmanager
def _open_pyav(path: Path, start: float, end: float) -> Iterator[Stream]:
    try:
        av = importlib.import_module("av")
    except ImportError:
        msg = (
            f"{path}: m4a, mp4 and webm need PyAV, and so does a file that doesn't say how long it is. Run `pip install "
            "sslfeat[video]`, or convert the file to wav."
        )
        raise AudioError(msg) from None
    try:
        opened = av.open(os.fspath(path), metadata_errors="replace")  # a title in Latin-1 is no damage
    except (av.FFmpegError, ValueError, MemoryError) as error:
        msg = f"{path}: damaged or cut short, opening it failed. Fetch it again or leave it out."
        raise AudioError(msg) from error
    with opened as container:
        if _lacks_end_of_segment(path):
            msg = f"{path}: truncated, its header promises more than the file holds. Fetch it again."
            raise AudioError(msg)
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
        yield Stream(
            sample_rate=audio.sample_rate,
            num_channels=audio.channels,
            blocks=_pyav_blocks(path, av, container, audio, start, end),
        )


def _lacks_end_of_segment(path: Path) -> bool:
    """Return whether a Matroska or WebM file is shorter than its segment says; FFmpeg reads it to whatever end it finds."""
    with path.open("rb") as raw:
        head = raw.read(256)
    if not head.startswith(_EBML_HEADER):
        return False
    start, size = _element_size(head, len(_EBML_HEADER))
    if not head.startswith(_MATROSKA_SEGMENT, start + size):
        return False
    start, size = _element_size(head, start + size + len(_MATROSKA_SEGMENT))
    return start + size > path.stat().st_size


def _element_size(head: bytes, place: int) -> tuple[int, int]:
    """Return where an element's content starts and its size, 0 where that is unknown (RFC 8794 section 4.1 and 6.2)."""
    length = 9 - head[place : place + 1].ljust(1, b"\1")[0].bit_length()
    ones = (1 << 7 * length) - 1
    size = int.from_bytes(head[place : place + length], "big") & ones
    return place + length, 0 if size == ones else size


def _pyav_blocks(
    path: Path, av: Any, container: Any, audio: Any, start: float, end: float
) -> Iterator[Block]:
    rate, num_channels = audio.sample_rate, audio.channels
    to_float = av.AudioResampler(format="flt", layout=audio.layout, rate=rate)
    origin = (audio.start_time or 0) * (audio.time_base or Fraction(1))
    first, last = round(start * rate), math.inf if math.isinf(end) else round(end * rate)
    position = None  # of the next sample, counted from the start of the track
    reached = 0.0  # likewise, by the file's own clock, which may skip parts
    try:
        if first:  # a little early: the decoder's first frame after a jump starts from nothing
            container.seek(int((origin + Fraction(max(0.0, start - 0.5))) / audio.time_base), stream=audio)
        for frame in container.decode(audio):
            if position is None:
                position = round((frame.pts * frame.time_base - origin) * rate) if first else 0
            if frame.pts is not None:
                reached = (frame.pts * frame.time_base - origin) * rate + frame.samples
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
    if "mp4" in container.format.name and audio.duration and position is not None:
        promised = audio.duration * audio.time_base * rate
        if promised - max(position, reached) > MP4_TOLERANCE * rate:
            msg = f"{path}: truncated, its header promises more than the file holds. Fetch it again."
            raise AudioError(msg)
    length = (position or 0) / rate
    if first and first >= (position or 0):
        lasting = f"the file lasts {length:g} s" if position else "the file ends before"
        msg = f"{path}: no segment at {start:g} s, {lasting}."
        raise AudioError(msg)
    if math.isfinite(end) and end > length + SEGMENT_TOLERANCE:
        msg = f"{path}: no segment up to {end:g} s, the file lasts {length:g} s."
        raise AudioError(msg)
