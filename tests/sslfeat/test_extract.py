"""Extracting a corpus: the numbers, what a second run does, and what is no use."""

import dataclasses
import os
import resource
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import transformers

import sslfeat.embed
import sslfeat.extract
from cache import CacheError, FeatureCache, SpecMismatchError, Utterance
from sslfeat.audio import decode
from sslfeat.encoder import Encoder
from sslfeat.extract import Extraction, Progress, software_versions

Run = Callable[..., Extraction]
Listing = Callable[[], list[Utterance]]


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """What is in a folder, and whether it was written again."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


def rewrite(path: Path, waveform: np.ndarray) -> None:
    """Change a file's content, and its time even where the clock stands still."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    soundfile.write(path, waveform, 16_000)
    os.utime(path, ns=(before + 10**9, before + 10**9))


def noise(seconds: float, seed: int = 99) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(round(16_000 * seconds))


def reasons(extraction: Extraction) -> dict[str, str]:
    return {failure.id: failure.reason for failure in extraction.failures}


def decoding_threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith(("decode", "window"))]


# The numbers


@pytest.mark.parametrize(("batch_seconds", "jobs"), [(0.01, 1), (0.7, 3), (60.0, 2), (None, 2)])
def test_rows_are_those_of_one_utterance_at_a_time(
    run: Run, encoder: Encoder, wav: Path, out: Path, batch_seconds: float | None, jobs: int
) -> None:
    done = run(batch_seconds=batch_seconds, jobs=jobs, pooling=("mean", "std", "max", "min"))
    assert (done.num_written, done.num_kept, done.failures, done.duplicates) == (12, 0, [], [])
    paths = sorted(wav.glob("*.wav"))
    with FeatureCache(out) as cache:
        assert cache.complete
        assert cache.software == software_versions()
        assert cache.utterance_ids.tolist() == [f"own/{path.stem}" for path in paths]
        assert done.audio_seconds == pytest.approx(cache.num_samples.sum() / 16_000)
        for index, path in enumerate(paths):
            recording = decode(path)
            states = encoder.hidden_states(recording.waveform)
            row = cache.row(index)
            assert (row.audio_hash, row.num_samples) == (recording.audio_hash, len(recording.waveform))
            assert (row.num_frames, row.utterance.path) == (states.shape[1], path.name)
            assert (row.file_size, row.file_mtime_ns) == (path.stat().st_size, path.stat().st_mtime_ns)
            for pooling in cache.poolings:
                expected = getattr(np, pooling)(states.astype(np.float64), axis=1)
                found = cache.embeddings(pooling)[index]
                assert found.shape == expected.shape == (3, 32)
                error = np.linalg.norm(found - expected, axis=1)
                assert (error < 1e-5 * np.linalg.norm(expected, axis=1)).all()


def test_some_layers_and_frames_in_half_precision(run: Run, encoder: Encoder, wav: Path, out: Path) -> None:
    run(layers=[2, 0], pooling=("max",), frames=True, dtype="float16")
    with FeatureCache(out) as cache:
        assert (cache.layers, cache.spec.dtype) == ((0, 2), "float16")
        for index, path in enumerate(sorted(wav.glob("*.wav"))):
            states = encoder.hidden_states(decode(path).waveform)
            for layer in cache.layers:
                # Half precision has 11 significant bits.
                np.testing.assert_allclose(cache.frames(index, layer), states[layer], rtol=2**-10, atol=1e-5)
                found = cache.features(layer, "max")[index]
                np.testing.assert_allclose(found, states[layer].max(0), rtol=2**-10, atol=1e-5)


def test_frames_alone(run: Run, encoder: Encoder, wav: Path, out: Path) -> None:
    run(layers=[1], pooling=(), frames=True)
    states = encoder.hidden_states(decode(wav / "03a01Wa.wav").waveform)
    with FeatureCache(out) as cache:
        found = cache.frames("own/03a01Wa", 1)
    assert np.linalg.norm(found - states[1]) < 1e-5 * np.linalg.norm(states[1])


def test_an_encoder_that_runs_through_transformers(run: Run, wav: Path, out: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.WavLMConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8,) * 7,
        num_conv_pos_embedding_groups=4,
        num_conv_pos_embeddings=16,
    )
    transformers.WavLMModel(config).save_pretrained(tmp_path / "wavlm")
    wavlm = Encoder.load(str(tmp_path / "wavlm"), device="cpu")
    rewrite(wav / "03a01Wa.wav", noise(0.3, seed=1))
    rewrite(wav / "08a01Wa.wav", noise(0.3, seed=2))  # two of one length
    run(encoder=wavlm, batch_seconds=60.0)
    with FeatureCache(out) as cache:
        for index, path in enumerate(sorted(wav.glob("*.wav"))):
            expected = wavlm.hidden_states(decode(path).waveform).mean(1)
            error = np.linalg.norm(cache.embeddings("mean")[index] - expected, axis=1)
            assert (error < 1e-5 * np.linalg.norm(expected, axis=1)).all()


def test_segments_of_one_file(run: Run, encoder: Encoder, wav: Path, out: Path) -> None:
    rewrite(wav / "long.wav", noise(1.0))
    segments = [
        Utterance(id="b", path="long.wav", start=0.0, end=0.4),
        Utterance(id="a", path=str(wav / "long.wav"), start=0.4),
    ]
    run(utterances=segments)
    waveform = decode(wav / "long.wav").waveform
    with FeatureCache(out) as cache:
        assert cache.utterance_ids.tolist() == ["a", "b"]
        for index, part in enumerate((waveform[6_400:], waveform[:6_400])):
            expected = encoder.hidden_states(part)[2].mean(0)
            assert np.linalg.norm(cache.features(2)[index] - expected) < 1e-5 * np.linalg.norm(expected)
    assert run(utterances=segments).num_kept == 2


def test_progress(run: Run) -> None:
    seen: list[Progress] = []
    run(progress=seen.append)
    assert (seen[0].done, seen[0].total) == (0, 12)
    assert seen[-1].done == 12
    assert [one.done for one in seen] == sorted(one.done for one in seen)
    assert seen[-1].audio_seconds > 2
    assert seen[-1].wall_seconds > 0


def test_two_utterances_of_one_id(run: Run) -> None:
    twins = [
        Utterance(id="a", path="a.wav"),
        Utterance(id="b", path="b.wav"),
        Utterance(id="a", path="c.wav"),
    ]
    with pytest.raises(ValueError, match=r"utterances must have distinct ids\. Got 'a' twice\."):
        run(utterances=twins)


# A second run


def test_nothing_is_written_where_nothing_is_left(run: Run, out: Path, tmp_path: Path) -> None:
    run()
    before, content = stamps(tmp_path), out.read_bytes()
    done = run(batch_seconds=3.0, jobs=1)
    assert (done.num_written, done.num_kept, done.gone) == (0, 12, [])
    assert stamps(tmp_path) == before
    assert out.read_bytes() == content


def test_overwrite_starts_again(run: Run, out: Path) -> None:
    run(layers=[0])
    done = run(overwrite=True)
    assert (done.num_written, done.num_kept) == (12, 0)
    with FeatureCache(out) as cache:
        assert cache.layers == (0, 1, 2)


def test_another_spec_is_refused(run: Run, out: Path) -> None:
    run(layers=[0, 1])
    content = out.read_bytes()
    with pytest.raises(
        SpecMismatchError,
        match=r"out\.h5: made under another spec: layers \(0, 1\) \(there\) vs \(2,\) \(asked\); "
        r"pooling \('mean', 'std'\) \(there\) vs \('max',\) \(asked\)\. Choose another name, or overwrite it\.",
    ):
        run(layers=[2], pooling=["max"])
    assert out.read_bytes() == content


@pytest.mark.parametrize("stop_after", [1, 3, 12])
def test_ctrl_c_keeps_what_was_encoded(
    run: Run, out: Path, tmp_path: Path, stop_after: int, assert_equal_caches: Callable[[Path, Path], None]
) -> None:
    kept = 0

    def stop(progress: Progress) -> None:
        nonlocal kept
        kept = progress.done
        if progress.done >= stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(progress=stop)
    assert not out.exists()
    assert not decoding_threads()
    done = run()
    assert (done.num_kept, done.num_written) == (kept, 12 - kept)
    run(cache_path=tmp_path / "undisturbed.h5")
    assert_equal_caches(out, tmp_path / "undisturbed.h5")


def test_an_error_keeps_what_was_encoded(run: Run, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    encode, calls = encoder.encode, []

    def failing(waveforms: list[np.ndarray]) -> Any:
        calls.append(len(waveforms))
        if len(calls) == 3:
            msg = "CUDA error: device-side assert triggered"
            raise RuntimeError(msg)
        return encode(waveforms)

    with monkeypatch.context() as patch:
        patch.setattr(encoder, "encode", failing)
        with pytest.raises(RuntimeError, match="device-side assert"):
            run()
    assert run().num_kept == sum(calls[:2]) > 0


def test_parts_are_committed_within_a_window(
    run: Run, wav: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sslfeat.extract, "_PART_BYTES", 1)
    held: list[int] = []

    def count(_: Progress) -> None:
        held.append(len(list(out.with_name("out.h5.parts").glob("part-*.h5"))))

    run(progress=count)
    assert held[0] == 0
    assert max(held) >= 4
    assert not out.with_name("out.h5.parts").exists()
    monkeypatch.setattr(sslfeat.extract, "_PART_BYTES", 2**28)
    monkeypatch.setattr(sslfeat.extract, "_PART_SECONDS", 0.0)
    held.clear()
    run(progress=count, overwrite=True)
    assert max(held) >= 4


# A corpus that changes


def test_files_that_are_added_changed_and_removed(
    run: Run, wav: Path, out: Path, tmp_path: Path, assert_equal_caches: Callable[[Path, Path], None]
) -> None:
    run()
    rewrite(wav / "16a01Wa.wav", noise(0.25, seed=1))
    rewrite(wav / "03a01Wa.wav", noise(0.25, seed=2))
    (wav / "09b02Na.wav").unlink()
    done = run()
    assert (done.num_written, done.num_kept, done.gone) == (2, 10, ["own/09b02Na"])
    with FeatureCache(out) as cache:
        assert len(cache) == 13
        assert cache.row(cache.index("own/03a01Wa")).audio_hash == decode(wav / "03a01Wa.wav").audio_hash
    before = out.read_bytes()
    done = run()
    assert (done.num_written, done.num_kept, done.gone) == (0, 12, ["own/09b02Na"])
    assert out.read_bytes() == before


def test_a_row_outlives_its_file(run: Run, utterances: Listing, wav: Path, out: Path) -> None:
    """A manifest goes on naming files that are not there, or not there now: a disk that is not mounted."""
    listed = utterances()
    run(utterances=listed)
    before = out.read_bytes()
    wav.rename(wav.with_name("elsewhere"))
    done = run(utterances=listed)
    assert (done.num_written, done.num_kept, len(done.gone)) == (0, 12, 12)
    assert done.failures == []
    assert out.read_bytes() == before
    changed = [dataclasses.replace(listed[0], label="fear"), *listed[1:]]
    done = run(utterances=changed)
    assert (done.outdated, done.failures, len(done.gone)) == ([listed[0].id], [], 11)
    assert out.read_bytes() == before
    wav.with_name("elsewhere").rename(wav)
    assert run(utterances=changed).num_written == 1


@pytest.mark.parametrize(
    "change",
    [{"label": "fear"}, {"speaker": "emodb:99"}, {"split": "test"}, {"text": "x" * 99}, {"end": 0.1}],
)
def test_a_changed_field_is_brought_up_to_date(
    run: Run, utterances: Listing, wav: Path, out: Path, change: dict[str, Any]
) -> None:
    listed = utterances()
    run()
    changed = dataclasses.replace(listed[5], **change)
    done = run(utterances=[*listed[:5], changed, *listed[6:]])
    assert (done.num_written, done.num_kept) == (1, 11)
    with FeatureCache(out) as cache:
        assert [row.utterance for row in cache.rows()] == [*listed[:5], changed, *listed[6:]]


def test_two_corpora_in_one_cache(run: Run, wav: Path, out: Path) -> None:
    run()
    other = [Utterance(id="other/a", path="03a01Wa.wav", corpus="other", end=0.1)]
    done = run(utterances=other)
    assert (done.num_written, done.gone) == (1, [])
    with FeatureCache(out) as cache:
        assert len(cache) == 13


# Audio that is no use


def test_failures_are_told_and_tried_again(run: Run, utterances: Listing, wav: Path, out: Path) -> None:
    good = {path.name: path.read_bytes() for path in wav.glob("*.wav")}
    names = ["03a01Wa", "03b02Wa", "03a01Na", "03b02Na", "08a01Wa", "08b02Wa", "08a01Na"]
    empty, text, cut, silent, nan, short, missing = (wav / f"{name}.wav" for name in names)
    listed = utterances()
    empty.write_bytes(b"")
    text.write_text("not audio")
    cut.write_bytes(cut.read_bytes()[:1000])
    soundfile.write(silent, np.zeros(5_000), 16_000)
    soundfile.write(nan, np.full(5_000, np.nan), 16_000, subtype="FLOAT")
    soundfile.write(short, noise(0.02), 16_000)
    missing.unlink()
    done = run(utterances=listed)
    expected = {
        "03a01Wa": "an empty file (0 bytes)",
        "03b02Wa": "no audio format that can be read",
        "03a01Na": "truncated",
        "03b02Na": "silent",
        "08a01Wa": "NaN or infinite",
        "08b02Wa": "320 samples at 16000 Hz, at least 400 are needed",
        "08a01Na": "no such file",
    }
    told = reasons(done)
    assert told.keys() == {f"own/{name}" for name in expected}
    for name, reason in expected.items():
        assert reason in told[f"own/{name}"]
        assert str(wav) not in told[f"own/{name}"]
    assert (done.num_written, done.num_kept) == (5, 0)

    content = out.read_bytes()
    done = run(utterances=listed)
    assert (done.num_written, done.num_kept, reasons(done)) == (0, 5, told)
    assert out.read_bytes() == content

    for path in (empty, missing):
        path.write_bytes(good[path.name])
    silent.write_bytes(b"")
    done = run(utterances=listed)
    assert (done.num_written, done.num_kept) == (2, 5)
    assert reasons(done).keys() == told.keys() - {"own/03a01Wa", "own/08a01Na"}
    assert "an empty file" in reasons(done)["own/03b02Na"]

    for name, whole in good.items():
        (wav / name).write_bytes(whole)
    assert run(utterances=listed).failures == []
    with FeatureCache(out) as cache:
        assert (len(cache), cache.failures) == (12, [])


def test_a_row_whose_file_breaks_becomes_a_failure(run: Run, wav: Path, out: Path) -> None:
    run()
    (wav / "08a01Na.wav").write_bytes(b"RIFF")
    assert reasons(run()).keys() == {"own/08a01Na"}
    with FeatureCache(out) as cache:
        assert "own/08a01Na" not in cache.utterance_ids
    (wav / "08a01Na.wav").unlink()
    # Nobody asks for it any more.
    assert run().failures == []


def test_a_corpus_without_a_usable_file(run: Run, wav: Path, out: Path) -> None:
    for path in wav.glob("*.wav"):
        path.write_bytes(b"")
    assert len(run().failures) == 12
    with FeatureCache(out) as cache:
        assert (len(cache), len(cache.failures)) == (0, 12)


# Duplicates


# A copy farther away than what is remembered is encoded too, and nobody is told otherwise.
@pytest.mark.parametrize(("window", "recent"), [(2, 4096), (4096, 4096), (2, 1), (4096, 1)])
def test_duplicates_are_told_once_with_both_labels(
    run: Run, wav: Path, out: Path, monkeypatch: pytest.MonkeyPatch, window: int, recent: int
) -> None:
    monkeypatch.setattr("sslfeat.reading._WINDOW_UTTERANCES", window)
    monkeypatch.setattr("sslfeat.extract._RECENT", recent)
    for copy in ("16a01Wa", "08a01Na"):
        shutil.copy(wav / "03a01Na.wav", wav / f"{copy}.wav")
    done = run()
    assert (done.num_written, done.failures) == (11, [])
    told = [(one.id, one.original_id, one.label, one.original_label) for one in done.duplicates]
    assert told == [
        ("own/08a01Na", "own/03a01Na", "neutral", "neutral"),
        ("own/16a01Wa", "own/03a01Na", "anger", "neutral"),
    ]
    assert {one.audio_hash for one in done.duplicates} == {decode(wav / "03a01Na.wav").audio_hash}
    content = out.read_bytes()
    done = run()
    assert (done.num_written, done.num_kept, len(done.duplicates)) == (0, 13, 2)
    assert out.read_bytes() == content


@pytest.mark.parametrize("copy", ["16a01Wa", "02a01Wa"])
def test_a_copy_that_comes_later(
    run: Run,
    wav: Path,
    out: Path,
    tmp_path: Path,
    copy: str,
    assert_equal_caches: Callable[[Path, Path], None],
) -> None:
    """Whichever came first, the smallest id is the original: a cache doesn't tell in how many runs it was made."""
    original = Utterance(id="b", path="03a01Wa.wav", label="anger")
    later = Utterance(id={"16a01Wa": "c", "02a01Wa": "a"}[copy], path=f"{copy}.wav", label="fear")
    run(utterances=[original])
    shutil.copy(wav / "03a01Wa.wav", wav / f"{copy}.wav")
    done = run(utterances=[original, later])
    first, second = sorted([original, later], key=lambda one: one.id)
    assert [(one.id, one.original_id) for one in done.duplicates] == [(second.id, first.id)]
    run(utterances=[original, later], cache_path=tmp_path / "at-once.h5")
    assert_equal_caches(out, tmp_path / "at-once.h5")


def test_a_duplicate_gets_its_row_when_the_original_changes(run: Run, wav: Path, out: Path) -> None:
    shutil.copy(wav / "03a01Na.wav", wav / "16a01Wa.wav")
    assert len(run().duplicates) == 1
    rewrite(wav / "03a01Na.wav", noise(0.25))
    done = run()
    assert (done.num_written, done.duplicates, done.failures) == (2, [], [])
    with FeatureCache(out) as cache:
        assert len(cache) == 13


def test_a_duplicate_that_is_cut_anew_is_read_again(run: Run, wav: Path, out: Path) -> None:
    second = noise(1.0)
    soundfile.write(wav / "long.wav", np.concatenate([second, second, noise(1.0, seed=1)]), 16_000)
    first, copy = (
        Utterance(id=name, path="long.wav", start=at, end=at + 1) for name, at in (("a", 0.0), ("b", 1.0))
    )
    assert [one.id for one in run(utterances=[first, copy]).duplicates] == ["b"]
    assert run(utterances=[first, copy]).num_kept == 2
    done = run(utterances=[first, dataclasses.replace(copy, start=2.0, end=3.0)])
    assert (done.num_written, done.duplicates) == (1, [])
    with FeatureCache(out) as cache:
        assert cache.utterance_ids.tolist() == ["a", "b"]
        assert cache.column("start").tolist() == [0.0, 2.0]


def test_a_duplicate_whose_label_changes(run: Run, utterances: Listing, wav: Path, out: Path) -> None:
    shutil.copy(wav / "03a01Na.wav", wav / "16a01Wa.wav")
    listed = utterances()
    run()
    changed = [dataclasses.replace(one, label="fear") for one in listed]
    done = run(utterances=changed)
    assert [(one.label, one.original_label) for one in done.duplicates] == [("fear", "fear")]
    assert run(utterances=changed).num_written == 0


@pytest.mark.parametrize("recent", [1, 4096])
def test_copies_of_what_can_not_be_encoded_fail_alike(
    run: Run, encoder: Encoder, wav: Path, out: Path, monkeypatch: pytest.MonkeyPatch, recent: int
) -> None:
    monkeypatch.setattr("sslfeat.reading._WINDOW_UTTERANCES", 5)
    monkeypatch.setattr("sslfeat.extract._RECENT", recent)
    rewrite(wav / "03a01Na.wav", noise(2.0))
    for copy in ("03a01Wa", "16a01Wa"):  # in the same window, and in a later one
        shutil.copy(wav / "03a01Na.wav", wav / f"{copy}.wav")
    limit_memory(encoder, 16_000, monkeypatch)
    done = run()
    assert reasons(done).keys() == {"own/03a01Na", "own/03a01Wa", "own/16a01Wa"}
    assert done.duplicates == []
    assert all("2 s of audio don't fit" in reason for reason in reasons(done).values())
    content = out.read_bytes()
    assert len(run().failures) == 3
    assert out.read_bytes() == content


# Limits of machine and arithmetic


def limit_memory(encoder: Encoder, num_samples: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the encoder fail where a batch has more padded samples; return the sizes that it was asked for."""
    encode, asked = encoder.encode, []

    def limited(waveforms: list[np.ndarray]) -> Any:
        size = len(waveforms) * max(map(len, waveforms))
        asked.append(size)
        if size > num_samples:
            msg = "CUDA out of memory. Tried to allocate 2.00 GiB."
            raise torch.OutOfMemoryError(msg)
        return encode(waveforms)

    monkeypatch.setattr(encoder, "encode", limited)
    return asked


def test_a_batch_that_memory_does_not_hold_is_halved(
    run: Run, encoder: Encoder, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    assert_equal_caches: Callable[[Path, Path], None],
) -> None:  # fmt: skip
    run(cache_path=tmp_path / "undisturbed.h5")
    monkeypatch.setattr("sslfeat.reading._WINDOW_UTTERANCES", 6)
    asked = limit_memory(encoder, 12_000, monkeypatch)
    done = run(batch_seconds=60.0)
    assert (done.num_written, done.failures) == (12, [])
    # Learnt in the first window, and remembered in the second.
    too_large = [index for index, size in enumerate(asked) if size > 12_000]
    assert too_large == list(range(len(too_large)))
    assert 0 < len(too_large) < 4
    assert_equal_caches(out, tmp_path / "undisturbed.h5")


def test_float16_that_overflows_names_the_layer(
    run: Run, model_directory: Path, out: Path, tmp_path: Path
) -> None:
    large = transformers.Wav2Vec2Model.from_pretrained(model_directory)
    with torch.no_grad():
        large.encoder.layers[1].final_layer_norm.weight.fill_(60_000.0)
    large.save_pretrained(tmp_path / "large")
    shutil.copy(model_directory / "preprocessor_config.json", tmp_path / "large")
    half = Encoder.load(str(tmp_path / "large"), device="cpu", precision="float16")
    done = run(encoder=half)
    expected = "layer 2 overflows in float16; extract with precision bfloat16 or float32."
    assert set(reasons(done).values()) == {expected}
    assert len(done.failures) == 12
    # Layers below it are sound.
    assert run(encoder=half, layers=[0, 1], cache_path=tmp_path / "below.h5").num_written == 12


def test_storage_that_overflows_names_the_layer(
    run: Run, model_directory: Path, tmp_path: Path, encoder: Encoder
) -> None:
    large = transformers.Wav2Vec2Model.from_pretrained(model_directory)
    with torch.no_grad():
        large.encoder.layers[1].final_layer_norm.bias.fill_(70_000.0)
    large.save_pretrained(tmp_path / "large")
    shutil.copy(model_directory / "preprocessor_config.json", tmp_path / "large")
    done = run(encoder=Encoder.load(str(tmp_path / "large"), device="cpu"), dtype="float16", pooling=["max"])
    told = set(reasons(done).values())
    assert len(done.failures) == 12
    assert all(one.startswith("max of layer 2 reaches 7") for one in told)
    assert all(one.endswith("beyond the range of float16 (+-65504); store float32.") for one in told)


@pytest.fixture
def limit_file_size() -> Iterator[Callable[[int], None]]:
    """Let writing beyond so many bytes of a file fail, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(
    ("full_at", "margin", "named"), [(6, -1, r"out\.h5\.parts/part-\d+\.h5"), (12, 1_000, r"out\.h5")]
)
def test_a_disk_that_fills_up(
    run: Run, out: Path, monkeypatch: pytest.MonkeyPatch, limit_file_size: Callable[[int], None],
    full_at: int, margin: int, named: str,
) -> None:  # fmt: skip
    """While a part is written, or while all are joined."""
    monkeypatch.setattr(sslfeat.extract, "_PART_BYTES", 1)
    folder = out.with_name("out.h5.parts")
    committed: set[Path] = set()

    def fill(progress: Progress) -> None:
        if progress.done >= full_at and not committed:
            committed.update(folder.glob("part-*.h5"))
            limit_file_size(max(path.stat().st_size for path in committed) + margin)

    with pytest.raises(
        CacheError, match=rf"{named}: can't be written: File too large; nothing was left under that name"
    ):
        run(progress=fill, batch_seconds=0.4)
    limit_file_size(resource.RLIM_INFINITY)
    parts = set(folder.glob("part-*.h5"))
    assert committed
    assert committed <= parts
    assert not out.exists()
    for part in parts:
        assert FeatureCache(part).verify() == []
    held = sum(len(FeatureCache(part)) for part in parts)
    done = run()
    assert (done.num_kept, done.num_written) == (held, 12 - held)
    assert not folder.exists()


def test_an_unforeseen_error_while_decoding_surfaces(
    run: Run, wav: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flaky(path: Path, **options: Any) -> Any:
        if path.name == "09a01Wa.wav":
            msg = "unforeseen"
            raise ZeroDivisionError(msg)
        return decode(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr("sslfeat.reading._WINDOW_UTTERANCES", 4)
        patch.setattr("sslfeat.reading.decode", flaky)
        with pytest.raises(ZeroDivisionError, match="unforeseen") as raised:
            run()
    assert raised.value.__notes__ == [f"while decoding {wav / '09a01Wa.wav'}"]
    assert not decoding_threads()
    # The windows before it are kept.
    assert run().num_kept == 8


def test_clipping_is_not_told_of_a_copy(run: Run, wav: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sslfeat.extract._RECENT", 1)
    soundfile.write(wav / "16a01Wa.wav", np.clip(noise(0.3) * 40, -1, 1), 16_000)
    shutil.copy(wav / "16a01Wa.wav", wav / "16b01Wa.wav")
    soundfile.write(wav / "16a09Wa.wav", noise(0.3), 16_000)
    done = run()
    assert (done.clipped, [one.id for one in done.duplicates]) == (["own/16a01Wa"], ["own/16b01Wa"])


def test_clipping_and_rates_are_told_of_what_this_run_made(run: Run, wav: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 1, 16_000).clip(-0.9, 0.9)
    soundfile.write(wav / "03a01Wb.wav", np.where(np.abs(noise) < 0.5, noise, np.sign(noise)), 44_100)
    done = run()
    assert done.clipped == ["own/03a01Wb"]
    assert done.sample_rates == {16_000: 12, 44_100: 1}
    shortest, median, longest = done.durations
    assert (shortest, longest) == pytest.approx((0.2, 16_000 / 44_100), abs=1e-4)
    assert median == pytest.approx(
        np.median([soundfile.info(path).duration for path in wav.glob("*.wav")]), abs=1e-4
    )
    again = run()
    assert (again.clipped, again.sample_rates, again.durations) == ([], {}, (0.0, 0.0, 0.0))
