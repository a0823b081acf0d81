"""Decoding ahead: in order, in bounded windows, and stopping when asked."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sslfeat.reading
from cache import Utterance
from sslfeat.audio import decode
from sslfeat.reading import Reading, read_windows, stamp
from tests.conftest import make_tone, write_wav

Listing = Callable[[], list[Utterance]]


def read(utterances: list[Utterance], root: Path, jobs: int = 2) -> list[list[Reading]]:
    return list(read_windows(utterances, root, sample_rate=16_000, min_samples=400, jobs=jobs))


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_order_and_content_are_those_of_a_plain_loop(utterances: Listing, wav: Path, jobs: int) -> None:
    listed = utterances()[::-1]
    (window,) = read(listed, wav, jobs)
    assert [reading.utterance for reading in window] == listed
    for reading in window:
        path = wav / reading.utterance.path
        expected = decode(path)
        assert reading.recording is not None
        assert reading.recording.audio_hash == expected.audio_hash
        assert (reading.recording.waveform == expected.waveform).all()
        assert (reading.file_size, reading.file_mtime_ns) == stamp(path)
        assert reading.reason == ""


def test_windows_are_bounded_in_seconds_and_in_number(
    utterances: Listing, wav: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sslfeat.reading, "_WINDOW_SECONDS", 0.5)
    windows = read(utterances(), wav)
    assert [reading.utterance for window in windows for reading in window] == utterances()
    for window in windows:
        lengths = [len(reading.recording.waveform) for reading in window if reading.recording]
        assert sum(lengths[:-1]) < 8_000  # the last one passed the limit
    assert len(windows) >= 5
    monkeypatch.setattr(sslfeat.reading, "_WINDOW_UTTERANCES", 1)
    assert [len(window) for window in read(utterances(), wav)] == [1] * 12


def test_nothing_to_read(wav: Path) -> None:
    assert read([], wav) == []


def test_what_can_not_be_read_says_why_and_not_where(wav: Path) -> None:
    (wav / "03a01Wa.wav").write_bytes(b"")
    listed = [Utterance(id="a", path="03a01Wa.wav"), Utterance(id="b", path=str(wav / "no.wav"))]
    ((empty, missing),) = read(listed, wav)
    assert (empty.recording, missing.recording) == (None, None)
    assert empty.reason.startswith("an empty file")
    assert (missing.reason, missing.file_size, missing.file_mtime_ns) == ("no such file.", 0, 0)


def test_a_segment_and_a_short_one(wav: Path) -> None:
    listed = [
        Utterance(id="a", path="03a01Wa.wav", start=0.05, end=0.15),
        Utterance(id="b", path="03a01Wa.wav", end=0.02),
    ]
    ((part, short),) = read(listed, wav)
    assert part.recording is not None
    assert (part.recording.waveform == decode(wav / "03a01Wa.wav").waveform[800:2_400]).all()
    assert "at least 400 are needed" in short.reason


def test_only_two_windows_are_decoded_ahead(
    utterances: Listing, wav: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever encodes slowly is not drowned in audio."""
    decoded: list[str] = []

    def counted(path: Path, **options: Any) -> Any:
        decoded.append(path.name)
        return decode(path, **options)

    monkeypatch.setattr(sslfeat.reading, "decode", counted)
    monkeypatch.setattr(sslfeat.reading, "_WINDOW_UTTERANCES", 2)
    listed = utterances() * 5
    windows = read_windows(listed, wav, sample_rate=16_000, min_samples=400, jobs=1)
    for taken in range(1, 6):
        next(windows)
        settled = -1
        while settled != len(decoded):  # until the threads have nothing more to do
            settled = len(decoded)
            time.sleep(0.1)
        # One window more, and what one thread was given beyond it.
        assert 2 * taken < len(decoded) <= 2 * (taken + 1) + 4
    windows.close()


@pytest.mark.parametrize("fault", ["close", "throw"])
def test_stopping_does_not_wait_for_the_rest(
    utterances: Listing, wav: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    started: list[Path] = []
    go_on = threading.Event()

    def slow(path: Path, **options: Any) -> Any:
        started.append(path)
        if len(started) > 2:
            go_on.wait(10)
        return decode(path, **options)

    monkeypatch.setattr(sslfeat.reading, "decode", slow)
    monkeypatch.setattr(sslfeat.reading, "_WINDOW_UTTERANCES", 2)
    windows = read_windows(utterances(), wav, sample_rate=16_000, min_samples=400, jobs=1)
    next(windows)
    threading.Timer(0.2, go_on.set).start()
    if fault == "close":
        windows.close()
    else:
        with pytest.raises(KeyboardInterrupt):
            windows.throw(KeyboardInterrupt)
    assert len(started) == 3  # the one that was being decoded, and none of those that waited
    assert not [one for one in threading.enumerate() if one.name.startswith(("decode", "window"))]


def test_an_unforeseen_error_names_the_file(
    utterances: Listing, wav: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flaky(path: Path, **options: Any) -> Any:
        if path.name == "08b02Na.wav":
            raise MemoryError
        return decode(path, **options)

    monkeypatch.setattr(sslfeat.reading, "decode", flaky)
    with pytest.raises(MemoryError) as raised:
        read(utterances(), wav)
    assert raised.value.__notes__ == [f"while decoding {wav / '08b02Na.wav'}"]


def test_one_channel_or_the_mean(tmp_path: Path) -> None:
    left, right = make_tone(0.2, seed=1), make_tone(0.2, seed=2)
    path = write_wav(tmp_path / "a.wav", np.stack([left, right], axis=1))
    listed = [Utterance(id="a", path="a.wav")]
    heard = {}
    for channels in ("mean", "0", "1", "2"):
        windows = read_windows(
            listed, tmp_path, sample_rate=16_000, min_samples=400, jobs=1, channels=channels
        )
        ((heard[channels],),) = windows
    for channels, expected in (("mean", (left + right) / 2), ("0", left), ("1", right)):
        recording = heard[channels].recording
        assert recording is not None
        assert np.abs(recording.waveform - expected).max() < 1e-4
        assert recording.audio_hash == decode(path).audio_hash
    assert heard["2"].reason == "no channel 2; the file has 2, counted from 0."
