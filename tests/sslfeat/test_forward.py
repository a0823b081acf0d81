"""The forward pass against transformers run one utterance at a time."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers.activations import ACT2FN

from sslfeat.forward import Wav2Vec2Forward, _activation, supports

_GROUP: dict[str, Any] = {"feat_extract_norm": "group", "conv_bias": False, "do_stable_layer_norm": False}
_LAYER: dict[str, Any] = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
_NARROW: dict[str, Any] = {
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "conv_dim": (32,) * 7,
    "num_conv_pos_embedding_groups": 4,
}

# The published configurations in all but width, and depth where it only repeats.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "wav2vec2-base": ("Wav2Vec2", {**_GROUP, "num_hidden_layers": 12}),
    "wav2vec2-large-960h": ("Wav2Vec2", {**_GROUP, "num_hidden_layers": 24}),
    "wav2vec2-large-lv60": ("Wav2Vec2", {**_LAYER, "num_hidden_layers": 24}),
    "wav2vec2-xls-r-2b": ("Wav2Vec2", {**_LAYER, "num_hidden_layers": 48}),
    "hubert-base-ls960": ("Hubert", {**_GROUP, "num_hidden_layers": 12}),
    "hubert-large-ll60k": ("Hubert", {**_LAYER, "num_hidden_layers": 24}),
    "distilhubert": ("Hubert", {**_GROUP, "num_hidden_layers": 2, "feat_proj_layer_norm": False}),
    "chinese-hubert-large": ("Hubert", {**_LAYER, "conv_bias": False, "num_hidden_layers": 1}),
}


def make_model(name: str) -> Any:
    """Return the narrow copy of a published encoder, in evaluation mode."""
    family, options = ARCHITECTURES[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**_NARROW, **options)
    return getattr(transformers, f"{family}Model")(config).eval()


def encode_alone(model: Any, waveform: torch.Tensor) -> list[torch.Tensor]:
    """Return transformers' own states: the last by its own name, for what hidden_states[-1] is depends on the version."""
    output = model(waveform[None], output_hidden_states=True)
    states = [*output.hidden_states[: model.config.num_hidden_layers], output.last_hidden_state]
    return [state[0] for state in states]


def encode_together(forward: Wav2Vec2Forward, waveforms: list[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Return, for each waveform, its layers out of one padded batch."""
    num_samples = torch.tensor([len(waveform) for waveform in waveforms])
    num_frames = forward.num_frames(num_samples)
    batch = torch.zeros(len(waveforms), forward.padded_samples(int(num_frames.max())))
    for row, waveform in zip(batch, waveforms, strict=True):
        row[: len(waveform)] = waveform
    layers = list(forward(batch, num_samples))
    return [[layer[i, : num_frames[i]].float() for layer in layers] for i in range(len(waveforms))]


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    assert got.shape == expected.shape
    return float((got - expected).norm() / expected.norm())


def make_waveforms(*lengths: int, scale: float = 0.1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    # An offset too: the group norm's statistics must not take the mean to be zero.
    return [scale * (torch.randn(length, generator=generator) + 0.3) for length in lengths]


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_layer_of_a_batch_equals_transformers_alone(name: str) -> None:
    model = make_model(name)
    # The shortest that makes a frame, one sample short of two frames, and ends that make no whole frame.
    waveforms = make_waveforms(400, 719, 720, 5_000, 16_000, 23_459)
    together = encode_together(Wav2Vec2Forward(model), waveforms)
    for waveform, layers in zip(waveforms, together, strict=True):
        expected = encode_alone(model, waveform)
        assert len(layers) == len(expected) == model.config.num_hidden_layers + 1
        assert max(map(relative_error, layers, expected)) < 1e-5


@pytest.mark.parametrize("name", ["wav2vec2-base", "hubert-large-ll60k"])
def test_a_minute_beside_one_frame(name: str) -> None:
    model = make_model(name)
    model.encoder.layers = model.encoder.layers[:2]
    model.config.num_hidden_layers = 2
    waveforms = make_waveforms(400, 960_000)
    for waveform, layers in zip(waveforms, encode_together(Wav2Vec2Forward(model), waveforms), strict=True):
        assert max(map(relative_error, layers, encode_alone(model, waveform))) < 1e-5


@pytest.mark.parametrize("name", ["wav2vec2-base", "wav2vec2-large-lv60"])
@pytest.mark.parametrize("tile_frames", [None, 1, 7, 128])
def test_convolutions_in_tiles_and_over_the_whole_batch(name: str, tile_frames: int | None) -> None:
    # None is what a GPU does.
    model = make_model(name)
    forward = Wav2Vec2Forward(model)
    forward.tile_frames = tile_frames
    waveforms = make_waveforms(400, 4_879, 90_123, 719)
    for got, waveform in zip(encode_together(forward, waveforms), waveforms, strict=True):
        for layer, expected in zip(got, encode_alone(model, waveform), strict=True):
            assert relative_error(layer, expected) < 1e-5


def test_the_exact_gelu_is_computed_in_place() -> None:
    assert _activation(ACT2FN["gelu"]) is torch.ops.aten.gelu_
    other = ACT2FN["gelu_new"]
    assert _activation(other) is other


@pytest.mark.parametrize("scale", [1e-4, 30.0])
def test_quiet_and_loud_input(scale: float) -> None:
    model = make_model("wav2vec2-base")
    waveforms = make_waveforms(4_000, 9_000, scale=scale)
    for waveform, layers in zip(waveforms, encode_together(Wav2Vec2Forward(model), waveforms), strict=True):
        assert max(map(relative_error, layers, encode_alone(model, waveform))) < 1e-5


def test_large_activations() -> None:
    """Trained encoders have channels hundreds of times larger than the rest."""
    model = make_model("wav2vec2-large-lv60")
    with torch.no_grad():
        for block in model.encoder.layers:
            block.feed_forward.output_dense.weight[3] *= 100
    waveforms = make_waveforms(2_000, 8_000)
    for waveform, layers in zip(waveforms, encode_together(Wav2Vec2Forward(model), waveforms), strict=True):
        assert max(map(relative_error, layers, encode_alone(model, waveform))) < 1e-5


def test_transformers_itself_depends_on_the_batch() -> None:
    """What this pass is for: were it to fail, transformers would have been mended."""
    model = make_model("wav2vec2-base")
    short, long = make_waveforms(8_000, 16_000)
    batch = torch.zeros(2, 16_000)
    batch[0, :8_000], batch[1] = short, long
    mask = torch.zeros(2, 16_000, dtype=torch.long)
    mask[0, :8_000] = mask[1] = 1
    batched = model(batch, attention_mask=mask).last_hidden_state[0, :24]
    assert relative_error(batched, encode_alone(model, short)[-1]) > 1e-2


@pytest.mark.parametrize("name", ["wav2vec2-base", "wav2vec2-large-lv60"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_low_precision_stays_near_float32(name: str, dtype: torch.dtype, tolerance: float) -> None:
    model = make_model(name)
    waveforms = make_waveforms(3_000, 12_000)
    for waveform, layers in zip(
        waveforms, encode_together(Wav2Vec2Forward(model, dtype=dtype), waveforms), strict=True
    ):
        errors = list(map(relative_error, layers, encode_alone(model, waveform)))
        assert 1e-5 < max(errors) < tolerance


def test_frame_counts_are_those_of_the_convolutions() -> None:
    forward = Wav2Vec2Forward(make_model("distilhubert"))
    counts = forward.num_frames(torch.tensor([0, 399, 400, 719, 720, 16_000]))
    assert counts.tolist() == [0, 0, 1, 1, 2, 49]


def test_what_padding_holds_is_never_read() -> None:
    forward = Wav2Vec2Forward(make_model("wav2vec2-base"))
    (waveform,) = make_waveforms(4_321)
    num_samples = torch.tensor([4_321])
    num_frames = forward.num_frames(num_samples)
    batch = torch.zeros(1, forward.padded_samples(int(num_frames)))
    batch[0, :4_321] = waveform
    dirty = batch.clone()
    dirty[0, 4_321:] = np.e
    for clean, dirtied in zip(forward(batch, num_samples), forward(dirty, num_samples), strict=True):
        assert relative_error(dirtied[0, : num_frames[0]], clean[0, : num_frames[0]]) < 1e-6


@pytest.mark.parametrize(
    "options",
    [
        {"conv_stride": (5, 2, 2, 2, 2, 2, 3)},
        {"conv_kernel": (10, 3, 3, 3, 3, 2, 5)},
        {"add_adapter": True},
        {"feat_extract_norm": "layer", "adapter_attn_dim": 8},
    ],
)
def test_other_front_ends_are_left_to_transformers(options: dict[str, Any]) -> None:
    config = transformers.Wav2Vec2Config(**{**_NARROW, "num_hidden_layers": 1, **options})
    assert not supports(config)
    with pytest.raises(ValueError, match="parts that this pass lacks"):
        Wav2Vec2Forward(transformers.Wav2Vec2Model(config))


def test_batch_norm_before_the_positions_is_left_to_transformers() -> None:
    assert not supports(transformers.HubertConfig(**_NARROW, conv_pos_batch_norm=True))
