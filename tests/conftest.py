"""A tiny saved encoder and small corpora that tests share."""

import re
import tracemalloc
import wave
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner

from cli import main
from sslfeat.corpora import CORPORA

# Tests run in several processes at once, and their models are too narrow to share among threads.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def traced() -> Callable[..., tuple[Any, int]]:
    """Call something; returns its result, and the most bytes that Python and numpy held beyond what was there."""

    def traced(call: Callable[..., Any], *arguments: Any) -> tuple[Any, int]:
        tracemalloc.start()
        try:
            return call(*arguments), tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    return traced


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


class Outcome(NamedTuple):
    """What a command left: its exit status, standard output and standard error."""

    status: int
    out: str
    err: str


def run_sslfeat(*arguments: object) -> Outcome:
    """Run ``sslfeat`` in this process; what would have been a traceback is raised."""
    done = CliRunner().invoke(main, [str(one) for one in arguments], prog_name="sslfeat")
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert "Traceback" not in done.stderr
    return Outcome(done.exit_code, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def sslfeat() -> Callable[..., Outcome]:
    return run_sslfeat


@pytest.fixture(scope="session")
def fails(sslfeat: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """Run a command that is to fail with one sentence, given as a pattern, and nothing on standard output."""

    def fails(*arguments: object, match: str, status: int = 1) -> Outcome:
        done = sslfeat(*arguments)
        assert (done.status, done.out) == (status, "")
        sentence = done.err.splitlines()[-1]
        assert re.search(f"^Error: {match}", sentence), sentence
        assert sentence.endswith((".", "?", ")"))
        return done

    return fails


@pytest.fixture(scope="session")
def corpus_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 files that Emo-DB published: 4 speakers, anger, happiness and neutral, 0.3 to 0.4 s each."""
    names = CORPORA["emodb"].names
    assert names is not None
    directory = tmp_path_factory.mktemp("corpora") / "wav"
    for speaker in ("03", "08", "09", "10"):
        for emotion in "FNW":
            said = sorted(name for name in names() if name[:2] == speaker and name[5] == emotion)
            for name in said[:2]:
                seed = zlib.crc32(name.encode())
                write_wav(directory / f"{name}.wav", make_tone(0.3 + 0.01 * (seed % 11), seed=seed))
    return directory


@pytest.fixture(scope="session")
def extracted(
    corpus_dir: Path, model_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Outcome]:
    """The corpus in a cache, layers 0 to 2, and what the command said; for reading only."""
    path = tmp_path_factory.mktemp("caches") / "emodb.h5"
    done = run_sslfeat("extract", corpus_dir, "-o", path, "--model", model_directory, "--device", "cpu")
    assert done.status == 0, done.err
    return path, done


@pytest.fixture(scope="session")
def cache_path(extracted: tuple[Path, Outcome]) -> Path:
    return extracted[0]


@pytest.fixture(scope="session")
def fitted(cache_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """The results of two classifiers on that cache, and what the command said; for reading only."""
    path = tmp_path_factory.mktemp("fitted") / "results"
    arguments = ["--classifier", "logistic", "--classifier", "gaussian-nb", "--jobs", 1]
    done = run_sslfeat("fit", cache_path, "-o", path, *arguments)
    assert done.status == 0, done.err
    return path, done


@pytest.fixture(scope="session")
def results_dir(fitted: tuple[Path, Outcome]) -> Path:
    return fitted[0]


@pytest.fixture(scope="session")
def real_emodb() -> Path:
    """The real corpus beside the checkout, where it is there."""
    directory = Path(__file__).resolve().parents[2] / "shared" / "corpora" / "emodb" / "wav"
    if not directory.is_dir():
        pytest.skip("the real Emo-DB is not beside the checkout")
    return directory
