"""Loading encoders and running them on batches."""

import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers

from sslfeat.encoder import Encoder, EncoderError, choose_device, exact_products, hash_weights, normalise

_TINY: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embedding_groups": 4,
}


def make_waveforms(*lengths: int) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [(0.1 * generator.standard_normal(length) + 0.05).astype(np.float32) for length in lengths]


@pytest.fixture
def copied(model_directory: Path, tmp_path: Path) -> Path:
    """A copy of the model directory that a test may spoil."""
    return Path(shutil.copytree(model_directory, tmp_path / "model"))


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def states_of(encoder: Encoder, waveforms: list[np.ndarray]) -> list[list[np.ndarray]]:
    with torch.inference_mode():
        num_frames, states = encoder.encode(waveforms)
        layers = [layer.float().numpy() for layer in states]
    return [[layer[row, : int(num_frames[row])] for layer in layers] for row in range(len(waveforms))]


def assert_equal_to_alone(encoder: Encoder, model: Any, waveforms: list[np.ndarray]) -> None:
    """Assert that each layer of each utterance is what transformers makes of that utterance alone."""
    for waveform, layers in zip(waveforms, states_of(encoder, waveforms), strict=True):
        given = normalise(waveform) if encoder.normalise else waveform
        with torch.inference_mode():
            output = model(torch.from_numpy(given)[None], output_hidden_states=True)
        expected = [*output.hidden_states[: encoder.num_hidden_layers], output.last_hidden_state]
        assert len(layers) == len(expected)
        for got, state in zip(layers, expected, strict=True):
            reference = state[0].numpy()
            assert got.shape == reference.shape
            assert np.linalg.norm(got - reference) < 1e-5 * np.linalg.norm(reference)


def test_load_from_a_directory(model_directory: Path) -> None:
    encoder = Encoder.load(str(model_directory), device="cpu")
    model = transformers.Wav2Vec2Model.from_pretrained(model_directory).eval()
    assert_equal_to_alone(encoder, model, make_waveforms(400, 5_000, 16_399))
    assert (encoder.model_id, encoder.revision) == ("tiny-wav2vec2-randomly-initialised", "local")
    assert (encoder.num_hidden_layers, encoder.hidden_size, encoder.min_samples) == (2, 32, 400)


def test_a_revision_of_a_directory(model_directory: Path) -> None:
    with pytest.raises(
        EncoderError, match=r"a revision is of a hub model, and this is a directory\. Got 'v1'\."
    ):
        Encoder.load(str(model_directory), revision="v1", device="cpu")
    with pytest.raises(EncoderError, match=r"^embedded: a revision is of a hub model"):
        Encoder.load("embedded", revision="v1", device="cpu")


@pytest.mark.parametrize("seconds", [math.inf, math.nan, 0.5, -1])
def test_chunks_of_no_length(model_directory: Path, seconds: float) -> None:
    with pytest.raises(
        ValueError, match=rf"chunk_seconds must be 0, .* or at least 1\. Got {seconds:g} instead\."
    ):
        Encoder.load(str(model_directory), device="cpu").spec(chunk_seconds=seconds)


def test_hidden_states_of_one_utterance(model_directory: Path) -> None:
    encoder = Encoder.load(str(model_directory), device="cpu")
    (waveform,) = make_waveforms(16_000)
    states = encoder.hidden_states(waveform)
    assert states.shape == (3, 49, 32)
    np.testing.assert_array_equal(states, states_of(encoder, [waveform])[0])


def test_spec_states_the_model_and_asks_for_all_layers(model_directory: Path) -> None:
    encoder = Encoder.load(str(model_directory), device="cpu", precision="bfloat16")
    spec = encoder.spec(pooling=("std", "mean"))
    assert spec.layers == (0, 1, 2)
    assert spec.pooling == ("mean", "std")
    assert (spec.precision, spec.architecture, spec.normalise, spec.tf32) == (
        "bfloat16",
        "wav2vec2",
        True,
        False,
    )
    assert spec.weights_hash == encoder.weights_hash
    with pytest.raises(ValueError, match=r"layers must be in 0\.\.2, at least one. Got 3"):
        encoder.spec(layers=[3])


@pytest.mark.parametrize("family", ["WavLM", "Data2VecAudio", "UniSpeechSat", "Wav2Vec2Conformer"])
def test_other_encoders_run_through_transformers(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = {**_TINY, "num_conv_pos_embeddings": 16, "conv_pos_kernel_size": 5}
    getattr(transformers, f"{family}Model")(
        getattr(transformers, f"{family}Config")(**options)
    ).save_pretrained(tmp_path)
    encoder = Encoder.load(str(tmp_path), device="cpu")
    assert not encoder.pads
    # Only a group norm was trained on raw waveforms.
    assert encoder.normalise == (family == "Data2VecAudio")
    model = getattr(transformers, f"{family}Model").from_pretrained(tmp_path).eval()
    assert_equal_to_alone(encoder, model, make_waveforms(5_000, 5_000))
    with pytest.raises(ValueError, match=r"take batches of one length. Got lengths 400 to 5000"):
        states_of(encoder, make_waveforms(400, 5_000))


def test_wav2vec2_bert_takes_its_own_input(tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    model = transformers.Wav2Vec2BertModel(transformers.Wav2Vec2BertConfig(**options)).eval()
    model.save_pretrained(tmp_path)
    extractor = transformers.SeamlessM4TFeatureExtractor()
    extractor.save_pretrained(tmp_path)
    encoder = Encoder.load(str(tmp_path), device="cpu")
    waveforms = make_waveforms(encoder.min_samples, 8_000)
    for waveform in waveforms:
        inputs = extractor(waveform, sampling_rate=16_000, return_tensors="pt")
        with torch.inference_mode():
            expected = model(inputs["input_features"]).last_hidden_state[0].numpy()
        (layers,) = states_of(encoder, [waveform])
        assert len(layers) == 3
        assert np.linalg.norm(layers[-1] - expected) < 1e-5 * np.linalg.norm(expected)
    with pytest.raises(ValueError, match=f"at least {encoder.min_samples} are needed"):
        states_of(encoder, make_waveforms(encoder.min_samples - 1))


def test_a_waveform_without_a_frame_is_refused(model_directory: Path) -> None:
    encoder = Encoder.load(str(model_directory), device="cpu")
    with pytest.raises(ValueError, match="waveform has 399 samples; at least 400 are needed for one frame"):
        states_of(encoder, make_waveforms(5_000, 399))


def test_the_preprocessor_decides_about_normalising(copied: Path) -> None:
    assert Encoder.load(str(copied), device="cpu").normalise
    settings = json.loads((copied / "preprocessor_config.json").read_text())
    settings["do_normalize"] = False
    (copied / "preprocessor_config.json").write_text(json.dumps(settings))
    assert not Encoder.load(str(copied), device="cpu").normalise


def test_the_front_end_decides_where_there_is_no_preprocessor(copied: Path, tmp_path: Path) -> None:
    (copied / "preprocessor_config.json").unlink()
    assert not Encoder.load(str(copied), device="cpu").normalise
    config = transformers.HubertConfig(**_TINY, feat_extract_norm="layer", do_stable_layer_norm=True)
    transformers.HubertModel(config).save_pretrained(tmp_path / "layer")
    assert Encoder.load(str(tmp_path / "layer"), device="cpu").normalise


def test_normalise_is_transformers_own() -> None:
    (waveform,) = make_waveforms(7_000)
    expected = transformers.Wav2Vec2FeatureExtractor().zero_mean_unit_var_norm([waveform], None)[0]
    np.testing.assert_allclose(normalise(waveform), expected, rtol=1e-4, atol=1e-6)
    assert normalise(waveform).dtype == np.float32


def test_weights_hash_sees_each_weight_and_no_container(copied: Path) -> None:
    before = Encoder.load(str(copied), device="cpu").weights_hash
    weights = safetensors.torch.load_file(copied / "model.safetensors")
    # A checkpoint for training carries one parameter more, drawn at random.
    weights["masked_spec_embed"] = torch.rand(32)
    torch.save(weights, copied / "pytorch_model.bin")
    (copied / "model.safetensors").unlink()
    assert Encoder.load(str(copied), device="cpu").weights_hash == before
    weights["encoder.layers.1.final_layer_norm.bias"][7] += 1e-6
    torch.save(weights, copied / "pytorch_model.bin")
    assert Encoder.load(str(copied), device="cpu").weights_hash != before


def test_weights_hash_is_sha256_of_names_shapes_and_values() -> None:
    layer = torch.nn.Linear(2, 1)
    digest = hashlib.sha256()
    digest.update(b"bias (1,)\n" + layer.bias.detach().numpy().tobytes())
    digest.update(b"weight (1, 2)\n" + layer.weight.detach().numpy().tobytes())
    assert hash_weights(layer) == digest.hexdigest()


def test_old_checkpoints_with_split_weight_norm_load(copied: Path) -> None:
    """Checkpoints from before torch 2.1 name the positional convolution's weights otherwise."""
    expected = Encoder.load(str(copied), device="cpu").weights_hash
    weights = safetensors.torch.load_file(copied / "model.safetensors")
    stem = "encoder.pos_conv_embed.conv"
    for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
        weights[f"{stem}.{old}"] = weights.pop(f"{stem}.parametrizations.weight.{new}")
    safetensors.torch.save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    assert Encoder.load(str(copied), device="cpu").weights_hash == expected


def test_missing_weights_are_an_error(copied: Path) -> None:
    weights = safetensors.torch.load_file(copied / "model.safetensors")
    del weights["encoder.layers.1.attention.q_proj.weight"]
    safetensors.torch.save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        EncoderError, match=r"lacks 1 weights of its own architecture \(encoder.layers.1.attention"
    ):
        Encoder.load(str(copied), device="cpu")


def test_a_cut_checkpoint_is_an_error(copied: Path) -> None:
    whole = (copied / "model.safetensors").read_bytes()
    (copied / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EncoderError, match="transformers can't load a model from this directory"):
        Encoder.load(str(copied), device="cpu")


def test_a_pickle_is_never_run(copied: Path, tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    (copied / "model.safetensors").unlink()
    torch.save({"weight": Hostile()}, copied / "pytorch_model.bin")
    with pytest.raises(EncoderError, match="transformers can't load a model"):
        Encoder.load(str(copied), device="cpu")
    assert not (tmp_path / "ran").exists()


def edit_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation"])
def test_no_code_for_attention_is_fetched_by_the_name_in_a_configuration(copied: Path, name: str) -> None:
    """With the package `kernels` transformers would run what the repository of that name holds."""
    expected = Encoder.load(str(copied), device="cpu").weights_hash
    edit_config(copied, **{name: "stranger/attention"})
    assert Encoder.load(str(copied), device="cpu").weights_hash == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 4}},
            r"its weights are quantised; choose the model that",
        ),
        ({"num_hidden_layers": 10**9}, r"it claims 1000000000 layers; at most 1000 are believed"),
    ],
)
def test_what_a_configuration_may_not_ask_for(copied: Path, changes: dict[str, Any], message: str) -> None:
    edit_config(copied, **changes)
    with pytest.raises(EncoderError, match=message):
        Encoder.load(str(copied), device="cpu")


def test_no_one_is_asked_whether_to_run_a_strangers_code(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*_: object) -> str:
        pytest.fail("asked")

    monkeypatch.setattr("builtins.input", ask)
    ran = tmp_path / "ran"
    config = transformers.Wav2Vec2BertConfig(**{**_TINY, "feature_projection_input_dim": 160})
    transformers.Wav2Vec2BertModel(config).save_pretrained(tmp_path / "bert")
    for directory in (copied, tmp_path / "bert"):
        (directory / "theirs.py").write_text(f"open({str(ran)!r}, 'w')\nclass Theirs: pass\n")
        told = {"feature_extractor_type": "Theirs", "auto_map": {"AutoFeatureExtractor": "theirs.Theirs"}}
        (directory / "preprocessor_config.json").write_text(json.dumps(told))
    Encoder.load(str(copied), device="cpu")
    with pytest.raises(EncoderError, match="bert: "):
        Encoder.load(str(tmp_path / "bert"), device="cpu")
    edit_config(
        copied, model_type="theirs", auto_map={"AutoConfig": "theirs.Theirs", "AutoModel": "theirs.Theirs"}
    )
    with pytest.raises(EncoderError, match="can't load a model from this directory"):
        Encoder.load(str(copied), device="cpu")
    assert not ran.exists()


def test_a_directory_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"a model directory holds config\.json; this one holds none"):
        Encoder.load(str(tmp_path))


@pytest.mark.parametrize("name", ["/no/such/model", "./model", "~/model", "a/b/c"])
def test_a_path_that_does_not_exist(name: str) -> None:
    with pytest.raises(EncoderError, match=f"{name}: no such directory"):
        Encoder.load(name)


def test_an_unknown_hub_id_without_network() -> None:
    with pytest.raises(
        EncoderError, match="nobody/no-such-encoder: no such model on the hub, or the hub can't be reached"
    ):
        Encoder.load("nobody/no-such-encoder")


def test_a_model_of_text_is_refused(tmp_path: Path) -> None:
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=8
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match="a 'bert' model is no audio encoder with hidden states"):
        Encoder.load(str(tmp_path))


def test_an_unknown_precision(model_directory: Path) -> None:
    with pytest.raises(
        EncoderError, match=r"precision must be one of float32, bfloat16, float16. Got 'int8'"
    ):
        Encoder.load(str(model_directory), precision="int8")


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert choose_device("auto").type == "cpu"
    with pytest.raises(EncoderError, match="'cuda:1' is not there: this machine shows 0 CUDA devices"):
        choose_device("cuda:1")
    with pytest.raises(EncoderError, match=r"device must be auto, cpu, cuda or cuda:N\. Got 'gpu0'"):
        choose_device("gpu0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto").type == "cuda"
    assert choose_device("cuda:1").index == 1


def test_exact_products_turns_tf32_off_and_back() -> None:
    torch.backends.cudnn.allow_tf32 = True
    with exact_products():
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.allow_tf32
