"""Caches held against their audio: sound ones, damaged ones, and those whose audio or encoder is another."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cache import CacheWriter, FeatureCache, SpecMismatchError
from sslfeat.verify import Comparison, compare_again
from tests.conftest import Outcome

Call = Callable[..., Outcome]


@pytest.fixture
def compare(cache_path: Path, corpus_dir: Path, model_directory: Path) -> Callable[..., Comparison]:
    def compare(path: Path = cache_path, root: Path = corpus_dir, *, count: int = 5) -> Comparison:
        with FeatureCache(path) as cache:
            return compare_again(cache, count, root=root, model_id=str(model_directory), device="cpu")

    return compare


def rewritten(path: Path, target: Path, change: Callable[..., object]) -> Path:
    """Copy a cache row by row, changed."""
    with FeatureCache(path) as cache, CacheWriter(target, cache.spec) as writer:
        for place, row in enumerate(cache.rows()):
            pooled = {name: cache.embeddings(name)[place].copy() for name in cache.poolings}
            writer.add(change(row, pooled) or row, pooled)
    return target


def test_a_sound_cache(compare: Callable[..., Comparison]) -> None:
    found = compare()
    assert len(found.differences) == len({one.id for one in found.differences}) == 5
    assert not found.is_off
    assert max(one.error for one in found.differences) < 1e-5
    assert found.lines()[-1].startswith("5 made again, each alone: largest relative difference ")
    assert len(compare(count=1000).differences) == 24


def test_numbers_that_are_not_the_encoders(
    compare: Callable[..., Comparison], cache_path: Path, tmp_path: Path
) -> None:
    def change(row: object, pooled: dict[str, np.ndarray]) -> None:
        pooled["std"][1, 3] *= 1.01

    found = compare(rewritten(cache_path, tmp_path / "other.h5", change))
    assert found.is_off
    assert {one.layer for one in found.differences} == {1}
    assert "layer 1), MORE than the 1e-05 that rounding explains." in found.lines()[-1]


def test_audio_that_is_gone_or_another(
    compare: Callable[..., Comparison], corpus_dir: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(corpus_dir, tmp_path / "wav"))
    first, second, *_ = sorted(root.iterdir())
    first.unlink()
    soundfile.write(second, np.random.default_rng(0).normal(0, 0.1, 8_000), 16_000)
    found = compare(root=root, count=24)
    assert found.is_off
    told = found.lines()
    assert len(told) == 3
    assert told[0].endswith(f"{first}: no such file.")
    assert told[1].endswith(f"{second.name}: holds other audio than was extracted")
    assert told[2].startswith("22 made again")


def test_a_path_that_leads_out_is_not_followed(
    compare: Callable[..., Comparison], cache_path: Path, corpus_dir: Path, tmp_path: Path
) -> None:
    def change(row: object, pooled: dict[str, np.ndarray]) -> object:
        path = f"../{corpus_dir.name}/{row.utterance.path}"  # type: ignore[attr-defined]
        return dataclasses.replace(row, utterance=dataclasses.replace(row.utterance, path=path))  # type: ignore[type-var, attr-defined]

    inner = corpus_dir.parent / "inner"
    inner.mkdir(exist_ok=True)
    found = compare(rewritten(cache_path, tmp_path / "other.h5", change), root=inner)
    assert all(one.reason.endswith(f"leads out of {inner.resolve()}") for one in found.differences)


def test_another_encoder(cache_path: Path, corpus_dir: Path) -> None:
    with (
        FeatureCache(cache_path) as cache,
        pytest.raises(SpecMismatchError, match=r"not made by embedded as it is now: weights_hash "),
    ):
        compare_again(cache, 1, root=corpus_dir, model_id="embedded", device="cpu")


def test_the_command(
    sslfeat: Call, cache_path: Path, corpus_dir: Path, model_directory: Path, tmp_path: Path
) -> None:
    done = sslfeat("verify", cache_path)
    assert (done.status, done.out) == (0, f"{cache_path}: 24 utterances, all checksums hold.\n")
    done = sslfeat("verify", cache_path, "--sample", 3, "--root", corpus_dir, "--model", model_directory)
    assert done.status == 0
    assert "3 made again, each alone: largest relative difference " in done.out
    done = sslfeat("verify", cache_path, "--sample", 3, "--root", corpus_dir)
    assert done.status == 2
    assert "was a local directory; name it with --model." in done.err
    done = sslfeat("verify", cache_path, "--sample", 3, "--root", tmp_path, "--model", model_directory)
    assert done.status == 1
    assert done.out.count("not compared: ") == 3
    damaged = Path(shutil.copy(cache_path, tmp_path / "damaged.h5"))
    with damaged.open("r+b") as file:
        file.seek(-100, 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    done = sslfeat("verify", damaged)
    assert done.status == 1
    assert f"{damaged}: " in done.err
