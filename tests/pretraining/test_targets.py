import numpy as np
import pytest
import scipy.fft
import torch
from scipy.signal.windows import hann
from transformers import HubertModel

from pretraining.objective import encoder_config
from pretraining.targets import (
    NUM_LAGS,
    PITCH_BINS,
    PROSODY,
    VOICED_ONLY,
    autocorrelation,
    candidate_lags,
    cosine_transform,
    deltas,
    describe,
    frame_targets,
    mel_filters,
    power_spectrum,
    windows,
    zero_crossings,
)


def sawtooth(frequency, num_samples=16_000):
    return 2 * ((np.arange(num_samples) * frequency / 16_000) % 1).astype(np.float32) - 1


def prosody(crops, name):
    return describe(crops).prosody[..., PROSODY.index(name)]


@pytest.mark.parametrize("num_samples", [400, 719, 720, 16_000, 24_321])
def test_frames_are_the_encoders(num_samples):
    descriptors = describe(torch.randn(2, num_samples))
    expected = HubertModel(encoder_config())._get_feat_extract_output_lengths(num_samples)
    for field in ("mel", "mfcc", "correlogram", "prosody", "voiced"):
        assert getattr(descriptors, field).shape[:2] == (2, expected)


def test_windows_are_centred_on_the_encoders_receptive_field():
    ramp = torch.arange(2000.0)[None]
    torch.testing.assert_close(windows(ramp, 400)[0, 3], torch.arange(960.0, 1360.0))
    wider = windows(ramp, 1024)[0, 3]
    torch.testing.assert_close(wider[312:712], torch.arange(960.0, 1360.0))
    assert windows(ramp, 1024)[0, 0, :312].abs().max() == 0


def test_power_is_that_of_a_plain_transform():
    waveform = torch.randn(1, 4000)
    power = power_spectrum(waveform, window_length=512, fft_length=512)
    window = hann(512, sym=False)
    samples = np.pad(waveform[0].numpy(), 56)
    for frame in (0, 5, 11):
        expected = (
            np.abs(np.fft.rfft(samples[320 * frame : 320 * frame + 512] * window)) ** 2 / (window**2).sum()
        )
        np.testing.assert_allclose(power[0, frame], expected, rtol=1e-3, atol=1e-5)
    lowest = power_spectrum(waveform, window_length=512, fft_length=512, num_bins=9)
    torch.testing.assert_close(lowest, power[..., :9])


def test_mel_filters_peak_at_evenly_spaced_mels_and_sum_to_one():
    filters = mel_filters()
    torch.testing.assert_close(filters.sum(dim=1), torch.ones(40))
    centres = filters.argmax(dim=1) * 16_000 / 512
    mels = 2595 * np.log10(1 + centres.numpy() / 700)
    lowest, highest = (2595 * np.log10(1 + frequency / 700) for frequency in (40, 8000))
    expected = np.linspace(lowest, highest, 42)[1:-1]
    # a bin is 31 Hz, and mels are densest at the lowest
    assert np.abs(mels - expected).max() < 2595 * np.log10(1 + 31.25 / 740)


def test_cosine_transform_is_scipys():
    frames = np.random.default_rng(0).normal(size=(5, 40)).astype(np.float32)
    expected = scipy.fft.dct(frames, type=2, norm="ortho")[:, :21]
    np.testing.assert_allclose(frames @ cosine_transform(40, 21).numpy().T, expected, atol=1e-5)


def test_deltas_are_htks(crops):
    frames = torch.randn(2, 9, 3)
    expected = torch.zeros_like(frames)
    for frame in range(9):
        for reach in (1, 2):
            later, earlier = frames[:, min(frame + reach, 8)], frames[:, max(frame - reach, 0)]
            expected[:, frame] += reach * (later - earlier) / 10
    torch.testing.assert_close(deltas(frames), expected)


def test_autocorrelation_is_that_of_the_samples():
    # band-limited, so that the bins kept hold all of its power
    time = np.arange(1024) / 16_000
    samples = sum(np.sin(2 * np.pi * 130 * harmonic * time + harmonic) / harmonic for harmonic in range(1, 9))
    window = hann(1024, sym=False)
    tapered = samples * window
    spectrum = np.abs(np.fft.rfft(tapered, 2048)) ** 2
    curve = autocorrelation(torch.from_numpy(spectrum[None, None, :PITCH_BINS].astype(np.float32)))[0, 0]
    for index in (40, 90, 150):
        lag = round(float(candidate_lags()[index]))
        nearest = int((candidate_lags() - lag).abs().argmin())
        own = (window[:-lag] * window[lag:]).sum() / (window**2).sum()
        expected = (tapered[:-lag] * tapered[lag:]).sum() / (tapered**2).sum() / own
        # neighbouring candidates are 1.1 % apart
        assert abs(curve[nearest] - expected) < 0.06


@pytest.mark.parametrize("frequency", [75.0, 121.0, 200.0, 333.0, 450.0])
def test_pitch_of_a_sawtooth_is_found(frequency):
    descriptors = describe(torch.from_numpy(sawtooth(frequency))[None])
    assert descriptors.voiced.float().mean() > 0.95
    found = 2 ** descriptors.prosody[0, 3:-3, PROSODY.index("log_f0")]
    np.testing.assert_allclose(found, frequency, rtol=0.025)
    assert descriptors.correlogram.shape[-1] == NUM_LAGS


def test_noise_is_unvoiced(crops):
    voiced = describe(crops).voiced
    assert voiced[1].float().mean() < 0.1
    assert voiced[0].float().mean() > 0.3


def test_tilt_and_slopes_follow_the_spectrum():
    rng = np.random.default_rng(0)
    spectrum = np.fft.rfft(rng.normal(size=16_000))
    frequencies = np.fft.rfftfreq(16_000, 1 / 16_000)
    dull = np.fft.irfft(spectrum / np.maximum(frequencies, 50) ** 1.0)
    noises = torch.from_numpy(np.stack([np.fft.irfft(spectrum), dull]).astype(np.float32))
    for name in ("alpha_ratio", "hammarberg"):
        bright, tilted = prosody(noises, name).mean(dim=1)
        assert tilted > bright + 2
    for name in ("centroid", "slope_500_1500", "zero_crossings", "flatness"):
        bright, tilted = prosody(noises, name).mean(dim=1)
        assert tilted < bright
    assert abs(float(prosody(noises, "centroid")[0].mean()) - 4.0) < 0.2


def test_zero_crossings_of_a_sine():
    sine = torch.sin(2 * torch.pi * 1000 * (torch.arange(16_000) + 0.5) / 16_000)[None]
    torch.testing.assert_close(zero_crossings(sine), torch.full((1, 49), 2000 / 16_000), rtol=0, atol=3e-3)


@pytest.mark.parametrize("gain", [0.01, 30.0])
def test_gain_and_offset_change_nothing(crops, gain):
    louder = describe(gain * crops + 0.3)
    for one, other in zip(frame_targets(describe(crops)), frame_targets(louder), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2)


def test_frame_targets_weigh_voice_by_voicing(crops):
    descriptors = describe(crops)
    targets, weights = frame_targets(descriptors)
    assert targets.shape == weights.shape
    assert torch.isfinite(targets).all()
    asks_for_voice = torch.zeros(targets.shape[2], dtype=torch.bool)
    asks_for_voice[[PROSODY.index(name) for name in VOICED_ONLY]] = True
    assert (weights[..., ~asks_for_voice] == 1).all()
    expected = descriptors.voiced[..., None].expand(-1, -1, len(VOICED_ONLY)).float()
    assert torch.equal(weights[..., asks_for_voice], expected)
