"""The encoder in scikit-learn's pipelines: fitted, cloned, saved, and refusing what it was not fitted with."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import safetensors.torch
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import sslfeat
import sslfeat.embedder
from classify import FeedforwardClassifier
from sslfeat.audio import decode
from sslfeat.containers import AudioError
from sslfeat.embedder import SSLEmbedder, embed_files
from sslfeat.encoder import Encoder, EncoderError
from tests.conftest import make_tone, write_wav


@pytest.fixture
def paths(wav: Path) -> list[Path]:
    return sorted(wav.glob("*.wav"))


@pytest.fixture
def labels(paths: list[Path]) -> list[str]:
    return [{"W": "anger", "N": "neutral"}[path.stem[5]] for path in paths]


@pytest.fixture
def embedder(model_directory: Path) -> SSLEmbedder:
    return SSLEmbedder(str(model_directory), layer=1, device="cpu")


@pytest.fixture
def copied(model_directory: Path, tmp_path: Path) -> Path:
    """A copy of the model directory that a test may spoil."""
    return Path(shutil.copytree(model_directory, tmp_path / "model"))


def test_embeddings_are_those_of_one_at_a_time(
    model_directory: Path, encoder: Encoder, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sslfeat.embedder, "_BLOCK", 5)
    embedder = SSLEmbedder(str(model_directory), pooling="std+mean", device="cpu", batch_seconds=0.7)
    found = embedder.fit_transform(paths)
    assert (found.shape, found.dtype) == ((12, 64), np.float32)
    assert embedder.n_features_out_ == 64
    assert embedder.get_feature_names_out()[[0, 31, 32]].tolist() == ["std_0", "std_31", "mean_0"]
    for row, path in zip(found, paths, strict=True):
        last = encoder.hidden_states(decode(path).waveform)[2]
        expected = np.concatenate([last.std(0), last.mean(0)])
        assert np.linalg.norm(row - expected) < 1e-5 * np.linalg.norm(expected)


def test_paths_and_waveforms_are_the_same(embedder: SSLEmbedder, paths: list[Path]) -> None:
    embedder.fit([])
    expected = embedder.transform(paths[:3])
    waveforms = [decode(path).waveform for path in paths[:3]]
    for given in (
        list(map(str, paths[:3])),
        np.array(list(map(str, paths[:3]))),
        waveforms,
        [paths[0], waveforms[1].astype(np.float64), str(paths[2])],
    ):
        np.testing.assert_array_equal(embedder.transform(given), expected)
    one_length = np.stack([waveform[:3_000] for waveform in waveforms])
    np.testing.assert_allclose(
        embedder.transform(one_length), embedder.transform(list(one_length)), rtol=1e-4
    )
    assert embedder.transform([]).shape == (0, 32)


@pytest.mark.parametrize(
    "classifier",
    [
        LogisticRegression(),
        FeedforwardClassifier(learning_rate=0.02, max_epochs=200, random_state=0),
    ],
)
def test_a_pipeline_from_files_to_labels(
    embedder: SSLEmbedder, paths: list[Path], labels: list[str], classifier: Any, tmp_path: Path
) -> None:
    pipeline = make_pipeline(embedder, StandardScaler(), classifier).fit(paths, labels)
    assert pipeline.score(paths, labels) == 1.0
    assert pipeline[:-1].get_feature_names_out()[0] == "mean_0"
    # The weights stay where they are: the encoder alone has 200 kB of them.
    content = pickle.dumps(pipeline)
    assert len(content) < 60_000
    joblib.dump(pipeline, tmp_path / "pipeline.joblib")
    for loaded in (pickle.loads(content), joblib.load(tmp_path / "pipeline.joblib")):
        np.testing.assert_array_equal(loaded.predict_proba(paths), pipeline.predict_proba(paths))


def test_cross_validation_and_search_over_layers(
    embedder: SSLEmbedder, paths: list[Path], labels: list[str]
) -> None:
    pipeline = make_pipeline(embedder, LogisticRegression())
    assert len(cross_val_predict(pipeline, paths, labels, cv=2)) == 12
    search = GridSearchCV(pipeline, {"sslembedder__layer": [0, 2]}, cv=2).fit(paths, labels)
    assert search.best_params_["sslembedder__layer"] in (0, 2)


def test_parameters(embedder: SSLEmbedder, paths: list[Path]) -> None:
    embedder.fit(paths)
    copy = clone(embedder)
    assert copy.get_params() == embedder.get_params()
    assert copy.get_params() == {
        "model_id": embedder.model_id,
        "layer": 1,
        "pooling": "mean",
        "revision": None,
        "device": "cpu",
        "precision": "float32",
        "channels": "mean",
        "batch_seconds": None,
    }
    with pytest.raises(NotFittedError):
        copy.transform(paths)
    with pytest.raises(NotFittedError):
        copy.get_feature_names_out()
    assert copy.set_params(layer=0, pooling="max+min").fit(paths).spec_.layers == (0,)
    assert copy.spec_.pooling == ("max", "min")


def test_the_encoder_is_loaded_once(
    embedder: SSLEmbedder, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    load, loaded = Encoder.load, list[str]()

    def counted(model_id: str, **options: Any) -> Encoder:
        loaded.append(options["precision"])
        return load(model_id, **options)

    monkeypatch.setattr(Encoder, "load", counted)
    embedder.fit(paths).transform(paths[:1])
    embedder.fit(paths).transform(paths[:1])
    assert loaded == ["float32"]
    embedder.set_params(precision="bfloat16").fit(paths)
    assert loaded == ["float32", "bfloat16"]
    pickle.loads(pickle.dumps(embedder)).transform(paths[:1])
    assert loaded == ["float32", "bfloat16", "bfloat16"]


def test_columns_are_those_that_were_fitted(embedder: SSLEmbedder, paths: list[Path]) -> None:
    expected = embedder.fit(paths).transform(paths)
    embedder.set_params(pooling="std", layer=2)
    np.testing.assert_array_equal(embedder.transform(paths), expected)


def test_other_weights_are_refused(copied: Path, paths: list[Path]) -> None:
    content = pickle.dumps(SSLEmbedder(str(copied), device="cpu").fit(paths))
    weights = safetensors.torch.load_file(copied / "model.safetensors")
    weights["encoder.layers.1.final_layer_norm.bias"][7] += 1e-3
    safetensors.torch.save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        EncoderError,
        match=r"model: not the encoder that the embedder was fitted with: weights_hash '\w+' \(found\) vs '\w+' "
        r"\(fitted\)\. Find that one, or fit again\.",
    ):
        pickle.loads(content).transform(paths)


def test_another_preprocessing_or_precision_is_refused(copied: Path, paths: list[Path]) -> None:
    embedder = SSLEmbedder(str(copied), device="cpu").fit(paths)
    content = pickle.dumps(embedder)
    settings = json.loads((copied / "preprocessor_config.json").read_text())
    (copied / "preprocessor_config.json").write_text(json.dumps(settings | {"do_normalize": False}))
    with pytest.raises(EncoderError, match=r"normalise False \(found\) vs True \(fitted\)"):
        pickle.loads(content).transform(paths)
    (copied / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(EncoderError, match=r"precision 'float16' \(found\) vs 'float32' \(fitted\)"):
        embedder.set_params(precision="float16").transform(paths)


def test_an_encoder_that_is_gone(copied: Path, paths: list[Path]) -> None:
    content = pickle.dumps(SSLEmbedder(str(copied), device="cpu").fit(paths))
    shutil.rmtree(copied)
    with pytest.raises(EncoderError, match="model: no such directory"):
        pickle.loads(content).transform(paths)


def test_what_the_encoder_does_not_have(model_directory: Path) -> None:
    with pytest.raises(ValueError, match=r"layers must be in 0\.\.2, at least one. Got 3 instead"):
        SSLEmbedder(str(model_directory), layer=3, device="cpu").fit([])
    with pytest.raises(ValueError, match=r"pooling must be out of mean, std, max, min\. Got median"):
        SSLEmbedder(str(model_directory), pooling="mean+median", device="cpu").fit([])


def test_audio_that_is_no_use(embedder: SSLEmbedder, paths: list[Path]) -> None:
    embedder.fit(paths)
    good = decode(paths[0]).waveform
    paths[1].write_bytes(b"")
    with pytest.raises(AudioError, match=rf"^{paths[1]}: an empty file"):
        embedder.transform(paths)
    with pytest.raises(
        ValueError,
        match=r"X must be a sequence of recordings. Got the one path 'a.wav' instead; put it into a list",
    ):
        embedder.transform("a.wav")
    with pytest.raises(
        ValueError,
        match=r"X\[1\]: a waveform must be one-dimensional and floating point. Got float32 of shape \(1, ",
    ):
        embedder.transform([good, good[None]])
    with pytest.raises(ValueError, match=r"X\[0\]: a waveform must be .+ floating point. Got int16 of shape"):
        embedder.transform([(good * 32767).astype(np.int16)])
    for bad in (np.nan, np.inf):
        with pytest.raises(
            ValueError, match=r"X\[0\]: a waveform must be finite. Got NaN or infinity instead"
        ):
            embedder.transform([np.append(good, np.float32(bad))])
    with pytest.raises(
        ValueError, match=r"X\[1\]: a waveform must have at least 400 samples, for one frame. Got 399 instead"
    ):
        embedder.transform([good, good[:399]])


@pytest.fixture
def overflowing(copied: Path) -> Path:
    weights = safetensors.torch.load_file(copied / "model.safetensors")
    weights["encoder.layers.1.final_layer_norm.weight"].fill_(60_000.0)
    safetensors.torch.save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    return copied


def test_numbers_that_overflow(overflowing: Path, paths: list[Path]) -> None:
    embedder = SSLEmbedder(str(overflowing), device="cpu", precision="float16").fit(paths)
    with pytest.raises(
        EncoderError, match=rf"^{paths[0]}: layer 2 overflows in float16; .+ bfloat16 or float32"
    ):
        embedder.transform(paths[:1])
    with pytest.raises(EncoderError, match=r"^X\[0\]: layer 2 overflows"):
        embedder.transform([decode(paths[0]).waveform])


def test_files_one_by_one_or_many(
    encoder: Encoder, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sslfeat.reading._WINDOW_UTTERANCES", 5)
    spec = encoder.spec(layers=[0, 2], pooling=("mean", "max"))
    paths[3].write_bytes(b"")
    found = list(embed_files(encoder, spec, paths[::-1]))
    assert [len(readings) for readings, _ in found] == [5, 5, 2]
    readings = [reading for window, _ in found for reading in window]
    assert [reading.utterance.path for reading in readings] == [str(path) for path in paths[::-1]]
    assert [reading.utterance.path for reading in readings if reading.reason] == [str(paths[3])]
    heard = [reading for reading in readings if reading.recording]
    for name in spec.pooling:
        matrices = np.array([one.pooled[name] for _, embeddings in found for one in embeddings])
        assert (matrices.shape, matrices.dtype) == ((11, 2, 32), np.float32)
        for matrix, reading in zip(matrices, heard, strict=True):
            states = encoder.hidden_states(decode(reading.utterance.path).waveform)[[0, 2]]
            expected = getattr(np, name)(states, axis=1)
            assert np.linalg.norm(matrix - expected) < 1e-5 * np.linalg.norm(expected)


def test_files_that_overflow_or_can_not_be_read(overflowing: Path, paths: list[Path]) -> None:
    half = Encoder.load(str(overflowing), device="cpu", precision="float16")
    paths[0].write_bytes(b"")
    ((readings, embeddings),) = embed_files(half, half.spec(), paths[:3])
    assert embeddings == []
    assert [reading.recording for reading in readings] == [None] * 3
    assert readings[0].reason.startswith("an empty file")
    assert readings[2].reason.startswith("layer 2 overflows in float16")


def test_one_channel_of_several(model_directory: Path, encoder: Encoder, tmp_path: Path) -> None:
    left, right = make_tone(0.3, seed=1), make_tone(0.3, seed=2)
    path = write_wav(tmp_path / "both.wav", np.stack([left, right], axis=1))
    alone = write_wav(tmp_path / "alone.wav", right)
    expected = encoder.hidden_states(decode(alone).waveform)[2].mean(0)
    embedder = SSLEmbedder(str(model_directory), device="cpu", channels="1").fit([])
    assert embedder.spec_.channels == "1"
    np.testing.assert_allclose(embedder.transform([path])[0], expected, rtol=1e-4, atol=1e-6)
    ((_, embeddings),) = embed_files(encoder, encoder.spec(layers=[2], channels="01"), [path])
    np.testing.assert_allclose(embeddings[0].pooled["mean"][0], expected, rtol=1e-4, atol=1e-6)
    assert encoder.spec(channels="01") == encoder.spec(channels="1") != encoder.spec()
    with pytest.raises(ValueError, match=r"channels must be mean, or one channel's number, .* Got 'left'"):
        encoder.spec(channels="left")


def test_a_random_state_is_no_part_of_it(embedder: SSLEmbedder, paths: list[Path]) -> None:
    first = embedder.fit(paths).transform(paths[:2])
    torch.manual_seed(1)
    np.testing.assert_array_equal(embedder.transform(paths[:2]), first)
    assert sslfeat.SSLEmbedder is SSLEmbedder
