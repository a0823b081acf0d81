"""A tiny saved encoder and small corpora that tests share."""

import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

# Tests run in several processes at once, and their models are too narrow to share among threads.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved group-norm encoder of two blocks, as a user's local directory would be."""
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("models") / "tiny-wav2vec2-randomly-initialised"
    config = transformers.Wav2Vec2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=(16,) * 7,
        num_conv_pos_embedding_groups=4,
    )
    transformers.Wav2Vec2Model(config).save_pretrained(directory)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(directory)
    return directory


def write_wav(path: Path, waveform: np.ndarray, sample_rate: int = 16_000) -> Path:
    """Write float samples in [-1, 1] as 16-bit mono or, where two-dimensional, (sample, channel)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.atleast_2d(waveform.T).T
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(np.round(samples * 32767).astype("<i2").tobytes())
    return path


def make_tone(seconds: float, *, seed: int, sample_rate: int = 16_000) -> np.ndarray:
    """Return a noisy tone whose pitch and noise are the seed's."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    pitch = 90 + 300 * generator.random()
    tone = np.sin(2 * np.pi * pitch * time * (1 + 0.1 * np.sin(3 * time)))
    return 0.3 * tone + 0.05 * generator.standard_normal(len(time))


@pytest.fixture(scope="session")
def make_emodb() -> Callable[..., Path]:
    """Write a small corpus under Emo-DB's names: every speaker says two sentences in every emotion."""

    def make(directory: Path, *, speakers: int = 4, emotions: str = "WNF", seconds: float = 0.5) -> Path:
        names = ["03", "08", "09", "10", "11", "12", "13", "14", "15", "16"][:speakers]
        for row, speaker in enumerate(names):
            for column, emotion in enumerate(emotions):
                for text in ("a01", "b02"):
                    seed = 100 * row + 10 * column + (text == "b02")
                    length = seconds * (1 + 0.1 * (seed % 7))
                    write_wav(directory / f"{speaker}{text}{emotion}a.wav", make_tone(length, seed=seed))
        return directory

    return make


@pytest.fixture(scope="session")
def real_emodb() -> Path:
    """The real corpus beside the checkout, where it is there."""
    directory = Path(__file__).resolve().parents[2] / "shared" / "corpora" / "emodb" / "wav"
    if not directory.is_dir():
        pytest.skip("the real Emo-DB is not beside the checkout")
    return directory
