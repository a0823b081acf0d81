"""A corpus of a dozen short recordings, and ways to extract it and to look at what came out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache import FeatureCache, Utterance
from cache.table import TABLES
from sslfeat.encoder import Encoder
from sslfeat.extract import Extraction, extract
from sslfeat.spread import Work


@pytest.fixture(scope="session")
def encoder(model_directory: Path) -> Encoder:
    return Encoder.load(str(model_directory), device="cpu")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The cache that a test writes."""
    return tmp_path / "out.h5"


@pytest.fixture
def wav(make_emodb: Callable[..., Path], tmp_path: Path) -> Path:
    """The corpus folder: 3 speakers, 2 emotions, 2 sentences, 0.2 to 0.32 s each."""
    return make_emodb(tmp_path / "wav", speakers=3, emotions="WN", seconds=0.2)


@pytest.fixture
def work(model_directory: Path, encoder: Encoder, wav: Path) -> Work:
    """The corpus folder as a worker is told of it."""
    spec = encoder.spec(pooling=("mean", "std"))
    return Work.plan(str(model_directory), spec, wav, batch_seconds=0.2, jobs=1)


@pytest.fixture(scope="session")
def list_files() -> Callable[[Path], list[Utterance]]:
    """List what is in a corpus folder."""

    def list_files(folder: Path) -> list[Utterance]:
        labels = {"W": "anger", "N": "neutral"}
        return [
            Utterance(
                id=f"own/{path.stem}",
                path=path.name,
                corpus="own",
                speaker=f"own:{path.stem[:2]}",
                label=labels[path.stem[5]],
                text=path.stem[2:5],
            )
            for path in sorted(folder.glob("*.wav"))
        ]

    return list_files


@pytest.fixture
def utterances(wav: Path, list_files: Callable[[Path], list[Utterance]]) -> Callable[[], list[Utterance]]:
    """List the corpus folder as it is then."""
    return lambda: list_files(wav)


@pytest.fixture
def run(
    encoder: Encoder, wav: Path, utterances: Callable[[], list[Utterance]], tmp_path: Path
) -> Callable[..., Extraction]:
    """Extract the corpus folder, as it is then, to ``out.h5``."""

    def run(**options: Any) -> Extraction:
        chosen: dict[str, Any] = {"encoder": encoder, "pooling": ("mean", "std"), "batch_seconds": 0.7}
        chosen |= {"utterances": None, "cache_path": tmp_path / "out.h5", "root": wav} | options
        spec_options = {
            name: chosen.pop(name) for name in ("layers", "pooling", "frames", "dtype") if name in chosen
        }
        asked = chosen.pop("utterances")
        spec = chosen["encoder"].spec(**spec_options)
        return extract(
            utterances() if asked is None else asked, chosen.pop("cache_path"), spec=spec, **chosen
        )

    return run


def _contents(cache_path: Path) -> dict[str, Any]:
    with FeatureCache(cache_path) as cache:
        assert cache.verify() == []
        columns = {name: cache.column(name).tolist() for name in TABLES["utterances"]}
        return {
            "columns": columns,
            "embeddings": {name: np.array(cache.embeddings(name)) for name in cache.poolings},
            "failures": cache.failures,
            "duplicates": cache.duplicates,
        }


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, Any]]:
    """Read everything that a cache says, after checking that it is sound."""
    return _contents


@pytest.fixture(scope="session")
def assert_equal_caches() -> Callable[[Path, Path], None]:
    """Assert that two caches say the same, features within 1e-5."""

    def check(one: Path, other: Path) -> None:
        found, expected = _contents(one), _contents(other)
        for name in ("columns", "failures", "duplicates"):
            assert found[name] == expected[name], name
        assert found["embeddings"].keys() == expected["embeddings"].keys()
        for name, reference in expected["embeddings"].items():
            error = np.linalg.norm(found["embeddings"][name] - reference, axis=2)
            assert (error <= 1e-5 * np.linalg.norm(reference, axis=2)).all()

    return check
