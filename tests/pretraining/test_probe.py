import json

import numpy as np
import pytest
import soundfile
import torch
from transformers import HubertModel

from pretraining.objective import encoder_config
from pretraining.pretrain import export
from pretraining.probe import embed, main, score
from sslfeat.encoder import Encoder


@pytest.fixture(scope="module")
def encoder_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)

    config = encoder_config(conv_dim=(8,) * 7, hidden_size=32, num_hidden_layers=1, intermediate_size=32)
    export(HubertModel(config), folder)
    return folder


@pytest.fixture(scope="module")
def corpus_dir(tmp_path_factory):
    """Every emotion by speakers 20 to 34, each emotion a pitch of its own."""
    folder = tmp_path_factory.mktemp("banglaser")
    rng = np.random.default_rng(0)
    for speaker in range(20, 35):
        for emotion, pitch in (("01", 120), ("02", 400)):
            tone = np.sin(2 * np.pi * pitch * np.arange(8000) / 16_000)
            samples = 0.3 * tone + 0.01 * rng.normal(size=8000)
            soundfile.write(folder / f"03-01-{emotion}-01-01-01-{speaker}.ogg", samples, 16_000)
    return folder


def test_features_are_mean_and_deviation_of_every_layer(encoder_dir, corpus_dir):
    encoder = Encoder.load(str(encoder_dir), device="cpu")
    files = sorted(corpus_dir.glob("*.ogg"))[:2]
    features = embed(encoder, files)
    assert features.shape == (2, 2, 64)
    model = HubertModel.from_pretrained(encoder_dir, dtype=torch.float32).eval()
    samples, _ = soundfile.read(files[1], dtype="float32")
    with torch.no_grad():
        waveform = torch.from_numpy((samples - samples.mean()) / samples.std())[None]
        frames = model(waveform, output_hidden_states=True).hidden_states[1][0].numpy()
    expected = np.concatenate([frames.mean(0), frames.std(0)])
    np.testing.assert_allclose(features[1, 1], expected, atol=1e-3)


def test_scores_tell_signal_from_chance_and_speakers_apart():
    rng = np.random.default_rng(0)
    speakers = np.repeat(np.arange(1, 35), 10)
    labels = np.tile(np.array(["01", "02"]), 170)
    features = rng.normal(size=(340, 6))
    chance = score(features, labels, speakers)
    assert 0.3 < chance["held_out_speakers"] < 0.7
    features[:, 2] += 12 * (labels == "02")
    assert score(features, labels, speakers) == {"held_out_speakers": 1.0, "all_speakers": 1.0}
    # where the signal turns round in the held-out speakers, only their score falls to nothing
    features[speakers >= 27, 2] *= -1
    features[speakers >= 27, 2] += 12
    turned = score(features, labels, speakers)
    assert turned["held_out_speakers"] < 0.1
    assert turned["all_speakers"] > 0.5


def test_the_command_prints_a_line_per_layer(encoder_dir, corpus_dir, capsys):
    assert main([str(encoder_dir), str(corpus_dir)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["layer"] for line in lines] == [0, 1]
    assert all(line["held_out_speakers"] > 0.9 for line in lines)
