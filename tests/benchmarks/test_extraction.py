"""What the race computes beside the clock, and that every contestant makes the numbers of the first."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.extraction import (
    BATCH,
    CONFIGURATIONS,
    CONTESTANTS,
    IN_BFLOAT16,
    ONNX,
    RATE,
    REFERENCE,
    Stopwatch,
    flop_per_second,
    relative_error,
    summary,
)


def test_the_flop_of_a_second_are_those_that_torch_counts(model_directory):
    assert flop_per_second(transformers.Wav2Vec2Config(**CONFIGURATIONS["base"])) == pytest.approx(13.9e9, rel=0.002)  # fmt: skip
    model = transformers.AutoModel.from_pretrained(model_directory).eval()
    # The counter hides the parts that the weight is computed from.
    torch.nn.utils.parametrize.remove_parametrizations(model.encoder.pos_conv_embed.conv, "weight")
    seconds = 20
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.randn(1, seconds * RATE), output_hidden_states=True)
    counted = counter.get_flop_counts()["Global"]
    scores = sum(flop for operation, flop in counted.items() if "attention" in str(operation) or "bmm" in str(operation))  # fmt: skip
    assert flop_per_second(model.config) * seconds == pytest.approx(sum(counted.values()) - scores, rel=0.01)


@pytest.mark.parametrize("name", [name for name in CONTESTANTS if name != ONNX and name not in IN_BFLOAT16])
def test_a_contestant_makes_the_numbers_of_the_first(name, model_directory, make_emodb, tmp_path):
    files = sorted(make_emodb(tmp_path / "wav", speakers=2, emotions="WN", seconds=0.3).glob("*.wav"))
    setting = {"device": "cpu", "model": str(model_directory)}
    features = []
    for number, contestant in enumerate((REFERENCE, name)):
        folder = tmp_path / str(number)
        folder.mkdir()
        run, found = CONTESTANTS[contestant](setting)
        run(files, folder)
        features.append(found(folder, files))
    assert features[0].shape == (len(files), 3, 64)
    error = relative_error(features[1], features[0])
    if "padded" in name:
        # The group norm of the padded batch reads the padding, mask or not; unless all are of one length.
        assert 0 < error < 1
    else:
        assert error < 1e-5


def test_padded_batches_of_one_length_are_exact(model_directory, tmp_path):
    import soundfile

    files = [tmp_path / f"{number:03d}.wav" for number in range(BATCH + 2)]
    for number, file in enumerate(files):
        soundfile.write(file, 0.1 * np.random.default_rng(number).standard_normal(4000), RATE)
    setting = {"device": "cpu", "model": str(model_directory)}
    made = []
    for name in (REFERENCE, f"padded batches of {BATCH}, masked"):
        run, found = CONTESTANTS[name](setting)
        run(files, tmp_path)
        made.append(found(tmp_path, files))
    assert relative_error(made[1], made[0]) < 1e-5


def test_the_stopwatch_counts_the_encoder_and_not_what_is_done_with_a_layer(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("benchmarks.extraction.time", SimpleNamespace(perf_counter=lambda: clock.now))

    def layers():
        for layer in (1, 2):
            clock.now += 1
            yield layer

    def encode(waveforms):
        clock.now += 10
        return len(waveforms), layers()

    encoder = SimpleNamespace(device=torch.device("cpu"), encode=encode)
    watch = Stopwatch(encoder)
    for _ in range(2):
        count, states = encoder.encode([0, 0, 0])
        for _ in states:
            clock.now += 100
    assert (count, watch.seconds()) == (3, 24)
    watch.start()
    encoder.encode([0])
    assert watch.seconds() == 10


def test_the_stopwatch_takes_the_mean_of_threads_that_encode_at_once():
    watch = Stopwatch(SimpleNamespace(device=torch.device("cpu"), encode=None))
    watch._spans = [(0, 4), (4, 9)]
    assert watch.seconds() == 9
    watch._spans = [(0, 4), (3, 9)]
    assert watch.seconds() == 5


def test_ratios_are_of_neighbouring_rounds_and_their_median():
    def raced(seconds):
        rounds = [
            {"audio_seconds": 10, "seconds": one, "peak_megabytes": 5, "peak_flop": 100} for one in seconds
        ]
        return SimpleNamespace(rounds=rounds, error=0.5)

    made = summary(raced([1, 2, 40]), raced([2, 6, 80]), flop=4)
    assert made["audio_seconds_per_second"] == 5
    assert made["ratio"] == 2
    assert made["share_of_matrix_peak"] == pytest.approx(4 * 5 / 100)
    assert "share_outside_encoder" not in made
