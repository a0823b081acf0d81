"""Chunks of long audio: where they lie, what they merge to, and what a whole run makes of them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from cache import FeatureCache, Utterance
from sslfeat.audio import decode
from sslfeat.chunking import Layout, Merged
from sslfeat.embed import Budget, embed_all, embed_long
from sslfeat.embedder import embed_files
from sslfeat.encoder import Encoder
from sslfeat.extract import extract
from sslfeat.reading import read_windows, stream_again

LAYOUT = Layout.of(chunk_samples=16_000, sample_rate=16_000, min_samples=400, frame_shift=320)


def noise(num_samples: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal(num_samples)).astype(np.float32)


def test_a_second_is_49_frames_with_8_of_context() -> None:
    assert (LAYOUT.num_frames, LAYOUT.num_context) == (49, 8)
    minute = Layout.of(chunk_samples=960_000, sample_rate=16_000, min_samples=400, frame_shift=320)
    assert (minute.num_frames, minute.num_context) == (2_999, 250)


@given(num_samples=st.integers(400, 200_000), piece=st.integers(1, 70_000))
@settings(max_examples=60, deadline=None)
def test_the_frames_of_all_chunks_are_those_of_the_whole(num_samples: int, piece: int) -> None:
    # A stand-in for an encoder that says where each frame begins.
    waveform = np.arange(num_samples, dtype=np.float32)
    begins: list[float] = []
    context = (LAYOUT.num_context, LAYOUT.num_context)
    pieces = (waveform[start : start + piece] for start in range(0, num_samples, piece))
    chunks = list(LAYOUT.cut(pieces))
    for place, chunk in enumerate(chunks):
        count = (len(chunk.waveform) - 400) // 320 + 1
        frames = chunk.waveform[np.arange(count) * 320]
        kept = frames[chunk.kept]
        # Context on both sides, but where the recording begins and ends.
        before, after = np.searchsorted(frames, kept[0]), count - 1 - np.searchsorted(frames, kept[-1])
        assert (before, after) == (context[0] * (place > 0), context[1] * (place < len(chunks) - 1))
        assert len(chunk.waveform) < 16_000 + 320
        begins += kept.tolist()
    assert begins == [320.0 * k for k in range((num_samples - 400) // 320 + 1)]


def test_merged_statistics_are_those_of_all_frames() -> None:
    # Far from zero, where a difference of mean squares would cancel.
    frames = 1e4 + np.random.default_rng(1).standard_normal((2, 300, 5))
    merged = Merged()
    names = ("mean", "std", "max", "min")
    for part in np.split(frames, [1, 40, 41, 200], axis=1):
        pooled = {name: getattr(np, name)(part, axis=1).astype(np.float64) for name in names}
        merged.add(pooled, part.shape[1])  # type: ignore[arg-type]  # float64, to tell rounding from the formula
    assert merged.num_frames == 300
    found = merged.pooled(names)
    for name in names:
        np.testing.assert_allclose(found[name], getattr(np, name)(frames, axis=1), rtol=1e-6)
    assert Merged.needed(("std", "max")) == ("std", "max", "mean")
    assert Merged.needed(("max",)) == ("max",)


def test_chunks_as_numpy_would_join_them(encoder: Encoder) -> None:
    spec = encoder.spec(pooling=("std", "max"), frames=True, chunk_seconds=1.0)
    waveform = noise(57_777)
    frames = np.concatenate(
        [encoder.hidden_states(chunk.waveform)[:, chunk.kept] for chunk in LAYOUT.cut([waveform])], axis=1
    )
    found = embed_long(encoder, spec, [waveform[:30_000], waveform[30_000:]])
    assert found.num_frames == frames.shape[1] == (57_777 - 400) // 320 + 1
    assert found.frames is not None
    assert np.linalg.norm(found.frames - frames) < 1e-5 * np.linalg.norm(frames)
    for name in ("std", "max"):
        expected = getattr(np, name)(frames.astype(np.float64), axis=1)
        assert np.linalg.norm(found.pooled[name] - expected) < 1e-5 * np.linalg.norm(expected)


def test_only_what_is_longer_is_cut(encoder: Encoder) -> None:
    waveforms = [noise(16_000), noise(40_000), noise(500)]
    spec = encoder.spec(chunk_seconds=1.0)
    found = embed_all(encoder, spec, waveforms, Budget(100_000))
    whole = embed_all(encoder, encoder.spec(chunk_seconds=0), waveforms, Budget(100_000))
    for place in (0, 2):
        np.testing.assert_allclose(
            found[place].pooled["mean"], whole[place].pooled["mean"], rtol=1e-4, atol=1e-6
        )
    cut, uncut = found[1].pooled["mean"], whole[1].pooled["mean"]
    np.testing.assert_array_equal(cut, embed_long(encoder, spec, [waveforms[1]]).pooled["mean"])
    assert found[1].num_frames == whole[1].num_frames
    # Near, for speech means the same in both, and not equal, for attention ends at the seams.
    assert 0 < np.linalg.norm(cut - uncut) < 0.3 * np.linalg.norm(uncut)


def test_chunks_of_less_than_a_second_are_refused(encoder: Encoder) -> None:
    with pytest.raises(ValueError, match=r"chunk_seconds must be 0, .* or at least 1\. Got 0\.5 instead"):
        encoder.spec(chunk_seconds=0.5)


@pytest.fixture
def recordings(tmp_path: Path) -> list[Utterance]:
    folder = tmp_path / "calls"
    folder.mkdir()
    for name, seconds in (("long", 3.3), ("short", 0.7), ("copy", 3.3)):
        soundfile.write(folder / f"{name}.wav", noise(round(44_100 * seconds)), 44_100)
    names = [
        ("a", "long", 0.0, float("inf")),
        ("b", "short", 0.0, float("inf")),
        ("c", "copy", 0.0, float("inf")),
    ]
    names.append(("d", "long", 0.5, 2.5))
    return [
        Utterance(id=one, path=f"{name}.wav", start=start, end=end, speaker="s", label="x")
        for one, name, start, end in names
    ]


def test_a_run_over_long_audio(
    encoder: Encoder, recordings: list[Utterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = encoder.spec(pooling=("mean", "std"), chunk_seconds=1.0)
    root = tmp_path / "calls"
    done = extract(recordings, tmp_path / "calls.h5", root=root, encoder=encoder, spec=spec)
    assert (done.num_written, [one.id for one in done.duplicates], done.failures) == (3, ["c"], [])
    with FeatureCache(tmp_path / "calls.h5") as cache:
        assert cache.spec.chunk_seconds == 1.0
        for row, one in zip([0, 1, 2], [recordings[0], recordings[1], recordings[3]], strict=True):
            waveform = decode(root / one.path, start=one.start, end=one.end).waveform
            (expected,) = embed_all(encoder, spec, [waveform], Budget(10**6))
            for name in spec.pooling:
                for layer in spec.layers:
                    got = cache.features(layer=layer, pooling=name)[row]
                    np.testing.assert_allclose(got, expected.pooled[name][layer], rtol=1e-4, atol=1e-5)
            assert cache.column("num_samples")[row] == len(waveform)
    again = extract(recordings, tmp_path / "calls.h5", root=root, encoder=encoder, spec=spec)
    assert (again.num_written, again.num_kept) == (0, 4)
    ((readings, embeddings),) = embed_files(encoder, spec, [root / "long.wav", root / "short.wav"])
    assert all(reading.recording for reading in readings)
    with FeatureCache(tmp_path / "calls.h5") as cache:
        np.testing.assert_allclose(
            embeddings[0].pooled["mean"][1], cache.features(layer=1)[0], rtol=1e-4, atol=1e-5
        )


def test_a_file_that_changes_between_the_looks(
    encoder: Encoder, recordings: list[Utterance], tmp_path: Path
) -> None:
    windows = read_windows(
        recordings[:1], tmp_path / "calls", sample_rate=16_000, min_samples=400, max_samples=16_000, jobs=1
    )
    ((reading,),) = windows
    assert reading.recording is not None
    assert not reading.recording.is_kept
    assert sum(map(len, stream_again(reading, sample_rate=16_000))) == reading.recording.num_samples == 52_800
    soundfile.write(reading.path, noise(100_000), 44_100)
    with pytest.raises(ValueError, match=r"long\.wav: changed while it was being read"):
        list(stream_again(reading, sample_rate=16_000))
    gone = dataclasses.replace(reading, path=tmp_path / "gone.wav")
    with pytest.raises(ValueError, match=r"gone\.wav: no such file"):
        list(stream_again(gone, sample_rate=16_000))
