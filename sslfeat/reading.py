"""Decode utterances in threads, ahead of who encodes them, in memory bounded by two windows of audio."""

import dataclasses
import math
import os
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.schema import Utterance
from sslfeat.audio import Recording, decode, parse_channel, stream
from sslfeat.containers import AudioError

# Audio that is decoded together, so that batches find neighbours of their length: 20 minutes are 77 MB.
_WINDOW_SECONDS = 1200.0
_WINDOW_UTTERANCES = 4096


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """An utterance with its audio, or with the reason why there is none.

    Parameters
    ----------
    utterance : Utterance
    path : Path
        Of its file.
    file_size, file_mtime_ns : int
        As `stamp` returns them.
    recording : Recording or None
        With an empty waveform where that is too long to be kept; `stream_again` gives it.
    reason : str
        Why there is no recording, without the file's name.
    """

    utterance: Utterance
    path: Path
    file_size: int
    file_mtime_ns: int
    recording: Recording | None = None
    reason: str = ""


def stamp(path: str | Path) -> tuple[int, int]:
    """Return a file's size in bytes and modification time in nanoseconds; zeros where there is no file."""
    try:
        status = os.stat(path)  # noqa: PTH116  (half the time of a Path's, which counts for a million)
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def stream_again(
    reading: Reading, *, sample_rate: int, channels: str = "mean"
) -> Generator[NDArray[np.float32]]:
    """Yield the waveform of a reading whose recording was too long to keep one.

    Raises
    ------
    AudioError
        Where the file is not any more what it was.
    """
    num_samples = 0
    pieces = stream(
        reading.path,
        sample_rate=sample_rate,
        channel=parse_channel(channels),
        start=reading.utterance.start,
        end=reading.utterance.end,
    )
    for piece in pieces:
        num_samples += len(piece)
        yield piece
    if reading.recording is None or num_samples != reading.recording.num_samples:
        msg = f"{reading.path}: changed while it was being read. Run the same command again."
        raise AudioError(msg)


def read_windows(
    utterances: Sequence[Utterance],
    root: Path,
    *,
    sample_rate: int,
    min_samples: int,
    jobs: int,
    channels: str = "mean",
    max_samples: float = math.inf,
) -> Generator[list[Reading]]:
    """Yield readings in the order of the utterances, in lists of bounded duration, the next one under way.

    Parameters
    ----------
    utterances : sequence of Utterance
    root : Path
        What relative paths start from.
    sample_rate, min_samples, max_samples : int
        As `sslfeat.audio.decode` takes them.
    jobs : int
        Threads that decode.
    channels : str
        As in a spec: ``mean``, or the number of one.
    """
    channel = parse_channel(channels)

    def read(utterance: Utterance) -> Reading:
        path = root / utterance.path
        size, mtime_ns = stamp(path)
        try:
            recording = decode(
                path,
                sample_rate=sample_rate,
                channel=channel,
                start=utterance.start,
                end=utterance.end,
                min_samples=min_samples,
                max_samples=max_samples,
            )
        except AudioError as error:
            # A cache is carried to other machines, where this one's folders mean nothing.
            reason = str(error).removeprefix(f"{path}: ")
            return Reading(
                utterance=utterance, path=path, file_size=size, file_mtime_ns=mtime_ns, reason=reason
            )
        except Exception as error:
            error.add_note(f"while decoding {path}")
            raise
        return Reading(
            utterance=utterance, path=path, file_size=size, file_mtime_ns=mtime_ns, recording=recording
        )

    def windows() -> Iterator[list[Reading]]:
        waiting: deque[Future[Reading]] = deque()
        ahead = iter(utterances)
        window: list[Reading] = []
        seconds = 0.0
        while True:
            while len(waiting) < 4 * jobs and (utterance := next(ahead, None)) is not None:
                waiting.append(threads.submit(read, utterance))
            if not waiting:
                break
            window.append(waiting.popleft().result())
            recording = window[-1].recording
            seconds += len(recording.waveform) / sample_rate if recording else 0.0
            if seconds >= _WINDOW_SECONDS or len(window) >= _WINDOW_UTTERANCES:
                yield window
                window, seconds = [], 0.0
        if window:
            yield window

    with (
        ThreadPoolExecutor(jobs, thread_name_prefix="decode") as threads,
        ThreadPoolExecutor(1, thread_name_prefix="window") as gatherer,
    ):
        made = windows()
        under_way = gatherer.submit(next, made, None)
        try:
            while (window := under_way.result()) is not None:
                under_way = gatherer.submit(next, made, None)
                yield window
        finally:
            # After an error or Ctrl-C nobody waits for the rest of a window.
            threads.shutdown(wait=False, cancel_futures=True)
