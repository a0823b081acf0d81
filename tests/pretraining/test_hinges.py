import numpy as np
import pytest
import torch
from torch.nn.functional import gelu
from transformers import HubertModel

from pretraining.hinges import (
    DESCRIPTORS_A_HINGE,
    FRAME_RATE,
    LEVEL,
    LINEAR_SHARE,
    PROSODY_COPIES,
    descriptor_order,
    set_hinges,
    time_filter,
)
from pretraining.objective import encoder_config
from pretraining.targets import NUM_MEL, NUM_MFCC, PROSODY


@pytest.fixture(scope="module")
def projected():
    return [torch.randn(4, 150, 64, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]


@pytest.fixture(scope="module")
def drawn():
    torch.manual_seed(0)
    return HubertModel(encoder_config(hidden_size=64, intermediate_size=32))


@pytest.fixture(scope="module")
def hinged(drawn, projected):
    model = HubertModel(drawn.config)
    model.load_state_dict(drawn.state_dict())
    set_hinges(model, projected, np.random.default_rng(0))
    return model.eval()


def test_every_descriptor_comes_once_before_any_comes_again():
    order = descriptor_order(200, np.random.default_rng(0))
    one = PROSODY_COPIES * len(PROSODY) + NUM_MEL + NUM_MFCC
    spectrum = set(range(len(PROSODY), len(PROSODY) + NUM_MEL + NUM_MFCC))
    assert len(order) == 200
    for begin in (0, one):
        counts = np.bincount(order[begin : begin + one])
        assert (counts[: len(PROSODY)] == PROSODY_COPIES).all()
        assert set(np.flatnonzero(counts == 1)) == spectrum
    assert (order[:one] != order[one : 2 * one]).any()


def test_filters_over_time_pass_levels_slopes_and_modulations():
    rng = np.random.default_rng(0)
    filters = np.stack([time_filter(64, rng) for _ in range(600)])
    filters /= np.abs(filters).sum(axis=1, keepdims=True)
    frequencies = np.fft.rfftfreq(512, 1 / FRAME_RATE)
    passed = np.abs(np.fft.rfft(filters, 512))
    best = frequencies[passed.argmax(axis=1)]
    level = np.abs(filters.sum(axis=1))
    assert 0.2 < np.mean(level > 0.99) < 0.5
    # of a slope the level is next to nothing, and a ramp goes through
    slopes = level < 1e-2
    assert 0.2 < slopes.mean() < 0.7
    assert np.mean((best >= 1) & (best <= 12)) > 0.3


def test_each_hinge_reads_as_many_descriptors_of_its_group_as_it_says(hinged):
    read = hinged.encoder.pos_conv_embed.conv.weight.abs().amax(dim=2) > 1e-9
    assert (read.sum(dim=1) == DESCRIPTORS_A_HINGE).all()


def test_inputs_of_the_hinges_have_their_level_and_thresholds(drawn, hinged, projected):
    conv = hinged.encoder.pos_conv_embed.conv
    with torch.no_grad():
        inputs = torch.cat(
            [
                conv(LINEAR_SHARE * rows.transpose(1, 2))[..., :150].transpose(0, 1).flatten(1)
                for rows in projected
            ],
            dim=1,
        )
        said = gelu(inputs)
    torch.testing.assert_close(inputs.std(dim=1), torch.full((64,), LEVEL), rtol=1e-3, atol=1e-3)
    middles = inputs.mean(dim=1) / LEVEL
    assert 0.3 < float(middles.std()) < 0.7
    # a hinge neither always shut nor always open
    share_open = (said > 0.1).float().mean(dim=1)
    assert ((share_open > 0.02) & (share_open < 0.98)).all()


def test_the_projection_is_scaled_down_to_its_share(drawn, hinged):
    for name in ("weight", "bias"):
        before = getattr(drawn.feature_projection.projection, name)
        after = getattr(hinged.feature_projection.projection, name)
        torch.testing.assert_close(after, LINEAR_SHARE * before)


def test_hinges_repeat_for_their_generator(drawn, hinged, projected):
    again = HubertModel(drawn.config)
    again.load_state_dict(drawn.state_dict())
    set_hinges(again, projected, np.random.default_rng(0))
    torch.testing.assert_close(
        again.encoder.pos_conv_embed.conv.weight, hinged.encoder.pos_conv_embed.conv.weight
    )
