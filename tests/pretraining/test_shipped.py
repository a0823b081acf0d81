"""The encoder in the package: what its card promises."""

import re

import numpy as np
import pytest
import torch
from transformers import HubertModel

from pretraining.objective import encoder_config
from pretraining.targets import PROSODY, describe
from sslfeat.encoder import EMBEDDED, EMBEDDED_DIRECTORY, Encoder


@pytest.fixture(scope="module")
def shipped():
    model, report = HubertModel.from_pretrained(EMBEDDED_DIRECTORY, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    return model.eval()


def test_weights_are_finite_small_and_as_many_as_the_card_says(shipped):
    assert (EMBEDDED_DIRECTORY / "model.safetensors").stat().st_size < 12e6
    assert all(torch.isfinite(weight).all() for weight in shipped.parameters())
    card = (EMBEDDED_DIRECTORY / "README.md").read_text()
    promised = int(re.search(r"([\d,]+) weights, float32", card)[1].replace(",", ""))
    assert sum(weight.numel() for weight in shipped.parameters()) == promised
    assert {weight.dtype for weight in shipped.parameters()} == {torch.float32}


def test_architecture_is_the_one_that_is_trained(shipped):
    expected = encoder_config().to_diff_dict()
    found = shipped.config.to_dict()
    differing = {
        name: (found[name], value)
        for name, value in expected.items()
        if name not in {"transformers_version", "architectures", "dtype"}
        and found[name] != value
        and found[name] != list(np.atleast_1d(value))
    }
    assert differing == {}


def test_its_frames_say_energy_and_voicing_better_than_a_random_twins():
    """Two tones and noise, switched on and off: a linear readout learnt on the first half holds on the second."""
    rng = np.random.default_rng(0)
    time = np.arange(16_000 * 8) / 16_000
    voiced = np.sin(2 * np.pi * 0.9 * time) > 0
    pitch = np.where(time % 1.7 < 0.8, 130, 210)
    tone = ((np.cumsum(pitch) / 16_000) % 1 - 0.5) * voiced
    waveform = (
        0.3 * tone + 0.05 * rng.normal(size=time.size) * (np.sin(2 * np.pi * 0.37 * time) + 1.2)
    ).astype(np.float32)
    torch.manual_seed(0)
    encoders = {
        "shipped": Encoder.load(EMBEDDED, device="cpu"),
        "random": Encoder(HubertModel(encoder_config()), model_id="random", device="cpu"),
    }
    prosody = describe(torch.from_numpy(waveform)[None]).prosody[0].numpy()
    for name, floor in (("voicing", 0.7), ("energy", 0.7)):
        truth = prosody[:, PROSODY.index(name)]
        explained = {}
        for which, encoder in encoders.items():
            frames = encoder.hidden_states(waveform)[0]
            half = len(frames) // 2
            centre = frames[:half].mean(axis=0)
            train, test = frames[:half] - centre, frames[half:] - centre
            solution = np.linalg.solve(
                train.T @ train + 1.0 * np.eye(train.shape[1]), train.T @ (truth[:half] - truth[:half].mean())
            )
            said = test @ solution + truth[:half].mean()
            explained[which] = 1 - np.mean((said - truth[half:]) ** 2) / truth[half:].var()
        assert explained["shipped"] > floor, explained
        assert explained["shipped"] > explained["random"] + 0.1, explained
