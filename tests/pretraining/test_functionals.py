import itertools

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter1d
from scipy.stats import skew

from pretraining.functionals import (
    APART,
    APART_MFCC,
    MEL_GROUPS,
    OCTAVES,
    PEAK_WINDOW,
    distribution,
    functionals,
    masked_moments,
    modulations,
)
from pretraining.targets import FRAME_SHIFT, PROSODY, SAMPLE_RATE, VOICED_ONLY, Descriptors, describe

FRAME_RATE = SAMPLE_RATE / FRAME_SHIFT


def moments(rows):
    """Mean and deviation of rows, as they are where there is none."""
    if not len(rows):
        return [np.zeros(rows.shape[1]), np.full(rows.shape[1], 1e-3)]
    return [rows.mean(0), np.maximum(rows.std(0), 1e-3)]


def one_by_one(frames):
    yield frames.mean(0)
    yield frames.std(0, ddof=1)
    yield from np.quantile(frames, [0.1, 0.5, 0.9], axis=0)
    yield np.abs(np.diff(frames, axis=0)).mean(0)
    yield skew(frames, axis=0) * (1 - 1 / len(frames)) ** 1.5


def of_voice(track, voiced):
    kept = track[voiced]
    if len(kept) < 5:
        return np.zeros(6)
    steps = [abs(track[i + 1] - track[i]) for i in range(len(track) - 1) if voiced[i] and voiced[i + 1]]
    quantiles = np.quantile(kept, [0.1, 0.5, 0.9])
    return np.array([kept.mean(), kept.std(ddof=1), *quantiles, np.mean(steps) if steps else 0])


def of_movement(pitch, energy, voiced):
    places = range(len(pitch) - 1)
    steps = np.array([[pitch[i + 1] - pitch[i]] for i in places if voiced[i] and voiced[i + 1]]).reshape(
        -1, 1
    )
    triples = [i for i in range(len(pitch) - 2) if voiced[i : i + 3].all()]
    yield from moments(steps[steps[:, 0] > 0])
    yield from moments(steps[steps[:, 0] < 0])
    yield np.mean(steps[:, 0] > 0) if len(steps) else 0
    for track in (pitch, energy):
        bends = [abs(track[i + 2] - 2 * track[i + 1] + track[i]) for i in triples]
        yield np.mean(bends) if bends else 0
    rises = np.diff(energy)[:, None]
    yield from moments(rises[rises[:, 0] > 0])
    yield from moments(rises[rises[:, 0] < 0])


def of_rhythm(energy, voiced):
    smooth = uniform_filter1d(energy, PEAK_WINDOW, mode="nearest")
    inner = range(1, len(smooth) - 1)
    peaks = [i for i in inner if smooth[i] > smooth[i - 1] and smooth[i] >= smooth[i + 1]]
    yield len(peaks) / len(inner)
    yield from moments(smooth[peaks][:, None])
    starts = sum(bool(voiced[i + 1] and not voiced[i]) for i in range(len(voiced) - 1))
    yield voiced.mean()
    yield starts / (len(voiced) - 1)
    yield voiced.sum() / (starts + 1)
    yield (~voiced).sum() / (starts + 1)


def in_octaves(tracks):
    smooth = [uniform_filter1d(tracks, width, axis=0, mode="nearest") for width in OCTAVES]
    for fine, coarse in itertools.pairwise(smooth):
        yield (fine - coarse).std(0, ddof=1)


def test_functionals_are_numpys(crops):
    descriptors = describe(crops)
    found = functionals(descriptors).numpy()
    assert len(found) == len(crops)
    for row, crop in enumerate(found):
        prosody, mel, mfcc = (
            getattr(descriptors, name)[row].double().numpy() for name in ("prosody", "mel", "mfcc")
        )
        track = {name: prosody[:, index] for index, name in enumerate(PROSODY)}
        voiced = descriptors.voiced[row].numpy()
        always = np.stack([track[name] for name in PROSODY if name not in VOICED_ONLY], axis=1)
        spectrum = np.column_stack([*(track[name] for name in APART), mfcc[:, :APART_MFCC]])
        held = np.where(voiced, track["log_f0"], track["log_f0"][voiced].mean() if voiced.any() else 0)
        bands = mel.reshape(len(mel), MEL_GROUPS, -1).mean(2)
        expected = [
            *one_by_one(np.concatenate([always, mfcc], axis=1)),
            *(of_voice(track[name], voiced) for name in VOICED_ONLY),
            mel.mean(0),
            mel.std(0, ddof=1),
            *moments(spectrum[voiced]),
            *moments(spectrum[~voiced]),
            *moments(track["voicing"][voiced][:, None]),
            *of_movement(track["log_f0"], track["energy"], voiced),
            *of_rhythm(track["energy"], voiced),
            *in_octaves(
                np.column_stack(
                    [track["energy"], held, track["voicing"], track["alpha_ratio"], track["centroid"], bands]
                )
            ),
        ]
        np.testing.assert_allclose(
            crop, np.concatenate([np.atleast_1d(part) for part in expected]), rtol=2e-3, atol=1e-3
        )


@pytest.mark.parametrize("gain", [0.01, 30.0])
def test_gain_and_offset_change_nothing(crops, gain):
    one, other = functionals(describe(crops)), functionals(describe(gain * crops + 0.3))
    # a peak or a voiced frame more or less is all that rounding may do
    close = torch.isclose(one, other, rtol=2e-2, atol=2e-2)
    assert close.float().mean() > 0.99


def test_a_crop_without_voice_has_finite_functionals():
    silent = describe(torch.zeros(2, 16_000))
    assert not silent.voiced.any()
    assert torch.isfinite(functionals(silent)).all()


def test_each_octave_is_of_its_own_rates():
    time, rates = torch.arange(1000) / FRAME_RATE, torch.arange(0.5, 25, 0.25)
    waves = torch.sin(2 * torch.pi * rates * time[:, None] + 0.3)[None]
    octaves = torch.stack(modulations(waves))[:, 0]  # (octave, wave)
    assert rates[octaves.argmax(dim=1)].tolist() == pytest.approx([25, 9, 4, 2], rel=0.15)
    assert (octaves[:, 0] < octaves.amax(dim=1) / 2).all()


def test_masked_moments_are_those_of_the_kept_frames():
    tracks, kept = torch.randn(2, 30, 3), (torch.rand(2, 30, 1) < 0.5).float()
    kept[1] = 0
    mean, spread = masked_moments(tracks, kept)
    chosen = tracks[0][kept[0, :, 0] > 0]
    torch.testing.assert_close(mean[0], chosen.mean(dim=0))
    torch.testing.assert_close(spread[0], chosen.std(dim=0, correction=0))
    assert mean[1].abs().max() == 0
    torch.testing.assert_close(spread[1], torch.full((3,), 1e-3))


def test_skewness_tells_which_tail_is_long():
    tail = torch.rand(1, 2000, 1, generator=torch.Generator().manual_seed(0)) ** 4
    assert float(distribution(tail)[-1]) > 1
    torch.testing.assert_close(distribution(-tail)[-1], -distribution(tail)[-1], rtol=1e-3, atol=1e-3)


def test_rising_and_falling_pitch_are_told_apart():
    """A voice that rises slowly and falls fast: the steps up are many and small."""
    num_frames = 100
    prosody = torch.zeros(1, num_frames, len(PROSODY))
    glide = torch.tensor([*np.linspace(0, 1, 8, endpoint=False), *np.linspace(1, 0, 2, endpoint=False)])
    prosody[..., PROSODY.index("log_f0")] = glide.float().repeat(10)
    flat = torch.zeros(1, num_frames, 1)
    said = functionals(
        Descriptors(
            flat.expand(-1, -1, 40), flat.expand(-1, -1, 20), flat, prosody, torch.ones(1, num_frames) > 0
        )
    )
    for value in (0.125, -0.5, 80 / 99):
        assert (said - value).abs().min() < 1e-3, value
