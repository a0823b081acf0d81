"""The encoder in the box on real speech: learnt weights, whose activations are not those of random ones."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from cache import FeatureCache
from sslfeat.audio import decode
from sslfeat.encoder import EMBEDDED, EMBEDDED_DIRECTORY, Encoder, normalise
from sslfeat.forward import Wav2Vec2Forward
from tests.conftest import Outcome

Call = Callable[..., Outcome]
DEMO = Path(__file__).parents[2] / "demo/emodb"
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load(EMBEDDED, device="cpu")


@pytest.fixture(scope="module")
def model() -> transformers.HubertModel:
    return transformers.HubertModel.from_pretrained(EMBEDDED_DIRECTORY).eval()


@pytest.fixture(scope="module")
def speech() -> list[np.ndarray]:
    """The shortest and the longest clip of the demo, and some between, in no order of length."""
    clips = sorted((decode(path).waveform for path in DEMO.glob("*.flac")), key=len)
    return [clips[index] for index in (40, 0, -1, 20, 60)]


def layers_alone(model: transformers.HubertModel, waveform: np.ndarray) -> list[np.ndarray]:
    """Return what transformers itself makes of one utterance, normalised as its own feature extractor does."""
    extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(EMBEDDED_DIRECTORY)
    given = extractor(waveform, sampling_rate=16_000, return_tensors="pt").input_values
    with torch.inference_mode():
        output = model(given, output_hidden_states=True)
    states = [*output.hidden_states[: model.config.num_hidden_layers], output.last_hidden_state]
    return [state[0].numpy() for state in states]


def layers_together(encoder: Encoder, waveforms: list[np.ndarray]) -> list[list[np.ndarray]]:
    """Return, for each waveform, its layers out of one padded batch."""
    with torch.inference_mode():
        num_frames, states = encoder.encode(waveforms)
        layers = [layer.numpy() for layer in states]
    return [[layer[row, : int(num_frames[row])] for layer in layers] for row in range(len(waveforms))]


def assert_same(got: list[np.ndarray], expected: list[np.ndarray]) -> None:
    """Assert that every layer is the same as a whole, and in its worst frame."""
    assert len(got) == len(expected)
    for layer, reference in zip(got, expected, strict=True):
        assert layer.shape == reference.shape
        error = np.linalg.norm(layer - reference, axis=1)
        assert np.linalg.norm(error) <= TOLERANCE * np.linalg.norm(reference)
        assert error.max() <= TOLERANCE * np.linalg.norm(reference, axis=1).max()


def test_the_encoder_in_the_box_takes_the_exact_path(encoder):
    assert encoder.pads
    assert isinstance(encoder._forward, Wav2Vec2Forward)
    assert encoder.normalise


def test_every_layer_of_a_batch_of_speech_is_transformers_alone(encoder, model, speech):
    for waveform, layers in zip(speech, layers_together(encoder, speech), strict=True):
        assert_same(layers, layers_alone(model, waveform))


def test_one_utterance_alone_is_transformers_alone(encoder, model, speech):
    assert_same(list(encoder.hidden_states(speech[0])), layers_alone(model, speech[0]))


def test_neighbours_and_order_in_the_batch_change_nothing(encoder, speech):
    forwards, backwards = layers_together(encoder, speech), layers_together(encoder, speech[::-1])[::-1]
    for first, second, waveform in zip(forwards, backwards, speech, strict=True):
        assert_same(first, second)
        assert_same(first, list(encoder.hidden_states(waveform)))


def test_a_single_frame_beside_real_speech(encoder, model, speech):
    cut = speech[2][8_000:8_400]
    layers = layers_together(encoder, [cut, speech[2]])
    assert_same(layers[0], layers_alone(model, cut))
    assert_same(layers[1], layers_alone(model, speech[2]))


@pytest.mark.parametrize("spoil", ["clipped", "offset", "mostly silent", "whispered beside shouting"])
def test_hard_audio_is_as_exact(encoder, model, speech, spoil):
    waveform = speech[3]
    spoiled = {
        "clipped": lambda: np.clip(30 * waveform, -1, 1),
        "offset": lambda: waveform + np.float32(0.7),
        "mostly silent": lambda: np.concatenate([np.zeros(60_000, np.float32), waveform[:8_000]]),
        "whispered beside shouting": lambda: np.concatenate([1e-3 * waveform, waveform]),
    }[spoil]().astype(np.float32)
    together = layers_together(encoder, [speech[1], spoiled])
    assert_same(together[1], layers_alone(model, spoiled))


def test_large_activations_are_as_exact(model, speech):
    """Learnt models have outlying units; with some weights ten times larger, these have them at every layer."""
    loud = transformers.HubertModel.from_pretrained(EMBEDDED_DIRECTORY).eval()
    with torch.no_grad():
        for block in loud.encoder.layers:
            block.final_layer_norm.weight[:2] *= 10
        loud.encoder.layer_norm.weight[:2] *= 10
    encoder = Encoder(loud, model_id="loud", device="cpu")
    together = layers_together(encoder, speech[:3])
    for layer, usual in zip(together[0], layers_alone(model, speech[0]), strict=True):
        assert np.abs(layer).max() > 2 * np.abs(usual).max()
    for waveform, layers in zip(speech[:3], together, strict=True):
        assert_same(layers, layers_alone(loud, waveform))


def test_padding_through_transformers_itself_would_not_be_exact(model, speech):
    """What the promise is worth: zeros behind an utterance move the group norm of the same weights."""
    short = normalise(speech[1])
    padded = np.pad(short, (0, len(speech[2]) - len(short)))
    alone = layers_alone(model, speech[1])
    with torch.inference_mode():
        states = model(torch.from_numpy(padded)[None], output_hidden_states=True).hidden_states
    moved = states[0][0, : len(alone[0])].numpy() - alone[0]
    assert np.linalg.norm(moved) > 1e3 * TOLERANCE * np.linalg.norm(alone[0])


def test_from_speech_to_predictions_without_naming_a_model(sslfeat: Call, encoder, tmp_path):
    cache, results = tmp_path / "demo.h5", tmp_path / "results"
    done = sslfeat("extract", DEMO, "-o", cache, "--quiet")
    assert (done.status, done.out) == (0, f"{cache}\n")
    assert "the small encoder in the package; --model names another" in done.err
    clips = sorted(DEMO.glob("*.flac"))
    with FeatureCache(cache) as features:
        assert len(features.labels) == len(clips)
        assert features.spec.weights_hash == encoder.weights_hash
        labels = features.labels
        wanted = encoder.hidden_states(decode(clips[0]).waveform)
        for layer, frames in enumerate(wanted):
            np.testing.assert_allclose(features.features(layer, "mean")[0], frames.mean(axis=0), atol=2e-5)
            np.testing.assert_allclose(features.features(layer, "std")[0], frames.std(axis=0), atol=2e-5)
    options = ["--classifier", "logistic", "--layer", "0", "--pooling", "mean+std", "--jobs", 1, "--quiet"]
    fitted = sslfeat("fit", cache, "-o", results, *options)
    assert fitted.status == 0, fitted.err
    said = sslfeat("predict", results / "bundle", *clips[::8], "--format", "json", "--quiet")
    assert said.status == 0, said.err
    rows = json.loads(said.out)
    assert [row["file"] for row in rows] == [str(path) for path in clips[::8]]
    # the bundle has learnt from these very clips, so what it hears in them is mostly what they are
    assert np.mean([row["label"] for row in rows] == labels[::8]) > 0.8
    (scored,) = (
        row for row in csv.DictReader(io.StringIO(fitted.out), delimiter="\t") if row["layer"] == "0"
    )
    # speakers it never heard, seven emotions: far above the 1/7 of chance, and below what it was fitted to
    assert 0.4 < float(scored["balanced_accuracy"]) < 0.95
