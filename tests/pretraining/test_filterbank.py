import numpy as np
import pytest
import torch
from torch.nn.functional import gelu
from transformers import HubertModel

from pretraining.filterbank import (
    STAGES,
    Channels,
    Stage,
    at_every_tap,
    band_pass,
    channel_scale,
    low_pass,
    set_filterbank,
    solve,
)
from pretraining.objective import encoder_config


@pytest.fixture(scope="module")
def noise():
    crops = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 16_000)).astype(np.float32))
    return crops / crops.std(dim=1, keepdim=True)


@pytest.fixture(scope="module")
def model(noise):
    torch.manual_seed(0)
    model = HubertModel(encoder_config()).eval()
    set_filterbank(model, noise)
    return model


def activations(model, waveforms):
    """Return what each convolution gives on, after its GELU."""
    states, found = waveforms[:, None], []
    with torch.no_grad():
        for layer in model.feature_extractor.conv_layers:
            states = layer(states)
            found.append(states)
    return found


def test_a_pair_holds_the_signal_and_its_size():
    x = torch.linspace(-6, 6, 101, dtype=torch.float64)
    torch.testing.assert_close(gelu(x) - gelu(-x), x)
    both = gelu(x) + gelu(-x)
    assert (both[x.abs() > 2] / x.abs()[x.abs() > 2] > 0.95).all()


def test_filters_at_every_tap_are_the_composed_convolutions():
    rng = np.random.default_rng(0)
    filters, kernel, hop = rng.normal(size=(2, 7)), 3, 4
    mixing = rng.normal(size=(1, kernel, 2))
    waveform = rng.normal(size=40)
    first = np.array(
        [filters @ waveform[start : start + 7] for start in range(0, 34, hop)]
    )  # (frame, filter)
    expected = sum(mixing[0, tap] @ first[2 + tap] for tap in range(kernel))
    composed = mixing.reshape(1, -1) @ at_every_tap(filters, kernel, hop)
    assert composed.shape == (1, 7 + 2 * hop)
    np.testing.assert_allclose(composed[0] @ waveform[8 : 8 + 15], expected)


def test_solve_finds_what_the_available_filters_span():
    rng = np.random.default_rng(0)
    available, weights = rng.normal(size=(5, 20)), rng.normal(size=(2, 5))
    np.testing.assert_allclose(solve(available, weights @ available), weights, atol=2e-3)


def test_low_pass_keeps_what_is_below_its_cutoff():
    filters = low_pass(151, Stage(6, 1000.0), hop=40)
    response = np.abs(np.fft.rfft(filters, 3200, axis=1))  # bins of 5 Hz
    assert filters.shape == (6, 151)
    np.testing.assert_allclose(response[2:4, 20:160], 1, atol=0.15)
    assert response[2:4, 260:].max() < 0.15
    places = np.abs(filters).argmax(axis=1)
    np.testing.assert_allclose(np.diff(places), 40 / 6, atol=1)


def test_a_full_band_is_carried_as_samples():
    np.testing.assert_array_equal(low_pass(20, Stage(10, 8000.0), hop=10), np.eye(20)[5:15])


def test_band_pass_peaks_in_its_band():
    filters = band_pass(150, (500.0, 700.0, 1000.0))
    response = np.abs(np.fft.rfft(filters, 16_000, axis=1))
    np.testing.assert_allclose(response.argmax(axis=1), [600, 600, 850, 850], atol=25)


def test_the_carried_signal_is_the_waveforms(model, noise):
    found = activations(model, noise)
    first = found[0][:, 0:20:2] - found[0][:, 1:20:2]
    picked = torch.from_numpy(low_pass(10, STAGES[0], hop=5)).float()
    assert picked.sum(dim=0)[2:7].min() >= 1  # five neighbours, which is all that a hop of five needs
    samples = picked @ noise.unfold(1, 10, 5).transpose(1, 2)
    samples = samples - samples.mean(dim=2, keepdim=True)
    torch.testing.assert_close(
        first, samples / samples.std(dim=2, keepdim=True, correction=0), rtol=1e-3, atol=1e-3
    )
    # the third convolution samples below 2 kHz six times in its 20 samples
    third = found[2][:, 0:12:2] - found[2][:, 1:12:2]
    filters = low_pass(40 - 5 - 5, STAGES[2], hop=20)
    expected = torch.from_numpy(filters).float() @ noise[:, 5:-5].unfold(1, 30, 20).transpose(1, 2)
    num_frames = min(third.shape[2], expected.shape[2])
    for channel in range(6):
        correlation = np.corrcoef(
            third[:, channel, :num_frames].flatten(), expected[:, channel, :num_frames].flatten()
        )
        assert correlation[0, 1] > 0.95


def test_envelopes_follow_their_bands(model, noise):
    time = torch.arange(6400) / 16_000
    # newest bands come first among the envelopes
    middles = [
        (low + high) / 2
        for stage in reversed(STAGES)
        for low, high in zip(stage.bands, stage.bands[1:], strict=False)
    ]
    rest = activations(model, noise[:1, :6400])[-1][0, : len(middles)].mean(dim=1)
    strongest = []
    for frequency in middles:
        tone = np.sqrt(2) * torch.sin(2 * torch.pi * frequency * time)[None] + 0.05 * noise[:1, :6400]
        envelopes = activations(model, tone)[-1][0, : len(middles)].mean(dim=1) / rest
        strongest.append(int(envelopes.argmax()))
    near = np.abs(np.array(strongest) - np.arange(len(middles))) <= 1
    assert near.mean() > 0.85


def test_channels_are_scaled(noise):
    outputs = torch.randn(4, 9, 500) * torch.arange(1.0, 10.0)[:, None]
    now = Channels(np.zeros((1, 5)), 1, 1)
    assert len(now) == 7
    scaled = (outputs * channel_scale(outputs, now)[:, None]).square().mean(dim=(0, 2)).sqrt()
    torch.testing.assert_close(
        scaled[2:], torch.tensor([2.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0]), rtol=1e-3, atol=1e-3
    )
    assert scaled[1] / scaled[0] == pytest.approx(2, rel=0.1)


def test_a_narrow_layer_is_refused(noise):
    model = HubertModel(encoder_config(conv_dim=(20, 36, 30, 64, 64, 64, 64)))
    with pytest.raises(ValueError, match=r"convolution 2 must have at least 40 channels\. Got 30 instead"):
        set_filterbank(model, noise)


def test_the_least_widths_are_those_promised(noise):
    set_filterbank(HubertModel(encoder_config(conv_dim=(20, 36, 40, 48, 52, 48, 32))), noise)
