import json

import numpy as np
import pytest
import soundfile
import torch

from pretraining.recordings import (
    CropSampler,
    Recordings,
    RecordingsError,
    change_speed,
    find_audio,
    scaled_to_snr,
)


def write(folder, name, seconds, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * 16_000))
    soundfile.write(folder / name, samples, 16_000, subtype="PCM_16")
    return folder / name


@pytest.fixture
def speech(tmp_path):
    folder = tmp_path / "speech"
    write(folder, "b.wav", 3.0, 1)
    write(folder, "a.wav", 2.0, 2)
    write(folder / "deeper", "c.wav", 0.5, 3)
    return Recordings.decoded(find_audio([folder]), tmp_path / "store")


def test_audio_is_found_at_any_depth_and_sorted(tmp_path):
    write(tmp_path / "one", "b.wav", 0.1)
    write(tmp_path / "one" / "x", "a.wav", 0.1)
    write(tmp_path / "two", "0.wav", 0.1)
    (tmp_path / "one" / "notes.txt").write_text("no audio")
    found = find_audio([tmp_path / "one", tmp_path / "two"])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        "one/b.wav",
        "one/x/a.wav",
        "two/0.wav",
    ]


def test_a_folder_without_audio_is_refused(tmp_path):
    with pytest.raises(RecordingsError, match=r"no audio files; expected some of .*\.wav"):
        find_audio([tmp_path])


def test_samples_are_those_of_the_files(speech):
    for index, path in enumerate(speech.paths):
        expected, _ = soundfile.read(path, dtype="int16")
        np.testing.assert_array_equal(np.round(speech[index] * 32768).astype(np.int16), expected)
    assert speech.lengths.tolist() == [32_000, 48_000, 8_000]
    assert speech.seconds == 5.5


def test_a_store_of_the_same_files_is_mapped_and_of_others_made_anew(tmp_path, speech):
    files = find_audio([tmp_path / "speech"])
    decoded = []
    again = Recordings.decoded(files, tmp_path / "store", progress=decoded.append)
    assert decoded == []
    assert isinstance(again.samples, np.memmap)
    np.testing.assert_array_equal(again.samples, speech.samples)
    fewer = Recordings.decoded(files[:1], tmp_path / "store", progress=decoded.append)
    assert decoded == [1]
    assert fewer.lengths.tolist() == [32_000]


def test_a_store_cut_off_before_its_index_is_made_anew(tmp_path, speech):
    files = find_audio([tmp_path / "speech"])
    (tmp_path / "store.json").unlink()
    (tmp_path / "store.npy").write_bytes(b"half")
    again = Recordings.decoded(files, tmp_path / "store")
    assert again.bounds.tolist() == speech.bounds.tolist()
    assert json.loads((tmp_path / "store.json").read_text())["paths"] == [str(path) for path in files]


def test_a_batch_is_a_function_of_seed_and_step(speech):
    sampler = CropSampler(speech, speech, crop_seconds=(0.25, 1.0), batch_seconds=4.0)
    for step in range(5):
        for one, other in zip(sampler.batch(step), sampler.batch(step), strict=True):
            assert torch.equal(one, other)
    drawn = {sampler.batch(step)[0].sum().item() for step in range(5)}
    assert len(drawn) == 5
    other_seed = CropSampler(speech, speech, crop_seconds=(0.25, 1.0), batch_seconds=4.0, seed=1)
    assert other_seed.batch(0)[0].sum() != sampler.batch(0)[0].sum()


def test_crops_are_stretches_of_one_recording_where_speed_is_kept(speech):
    sampler = CropSampler(speech, None, crop_seconds=(1.0,), batch_seconds=8.0, max_speed=1.0)
    clean, heard = sampler.batch(3)
    assert clean.shape == (8, 16_000)
    assert heard is clean
    for crop in clean.numpy():
        places = [
            np.flatnonzero(np.isclose(recording[: len(recording) - len(crop) + 1], crop[0]))
            for recording in (speech[0], speech[1])
        ]
        matches = [
            np.array_equal(speech[index][start : start + len(crop)], crop)
            for index, starts in enumerate(places)
            for start in starts
        ]
        assert any(matches)


def test_recordings_shorter_than_a_crop_are_never_drawn_and_all_short_is_refused(speech):
    sampler = CropSampler(speech, None, crop_seconds=(2.5,), batch_seconds=20.0, max_speed=1.0)
    clean, _ = sampler.batch(0)
    assert clean.shape == (8, 40_000)
    with pytest.raises(
        RecordingsError, match=r"every recording is shorter than 9\.00 s; pass shorter crop_seconds"
    ):
        CropSampler(speech, None, crop_seconds=(9.0,), max_speed=1.0).batch(0)


def test_noise_is_added_to_its_share_of_crops_at_the_ratio_asked_for(speech):
    sampler = CropSampler(
        speech, speech, crop_seconds=(0.5,), batch_seconds=100.0, noisy=0.4, snr=(10.0, 10.0)
    )
    clean, heard = sampler.batch(0)
    noise = (heard - clean).square().mean(dim=1)
    noisy = noise > 0
    assert 0.28 < noisy.float().mean() < 0.52
    ratios = 10 * torch.log10(clean.square().mean(dim=1) / noise)[noisy]
    torch.testing.assert_close(ratios, torch.full_like(ratios, 10.0), rtol=0, atol=0.01)


def test_noise_for_silence_is_silent():
    assert scaled_to_snr(torch.randn(100), torch.zeros(100), 10.0).abs().max() == 0


@pytest.mark.parametrize("speed", [0.8, 1.0, 1.25])
def test_speed_multiplies_frequency_and_keeps_amplitude(speed):
    time = torch.arange(round(16_000 * speed)) / 16_000
    changed = change_speed(torch.sin(2 * torch.pi * 200 * time)[None], 16_000)[0]
    expected = torch.sin(2 * torch.pi * 200 * speed * torch.arange(16_000) / 16_000)
    torch.testing.assert_close(changed, expected, rtol=0, atol=2e-3)
