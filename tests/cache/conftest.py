import hashlib

import numpy as np
import pytest
from hypothesis import settings

from cache import CacheWriter, FeatureSpec, Row, Utterance
from cache.store import NewCache

# The same examples on every run, however slow the disk.
settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def nothing_is_synchronised(monkeypatch):
    """Spare the disk: a test process can be killed without losing what it wrote, only power cuts lose that."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture
def make_spec():
    def make(**changes):
        fields = {
            "model_id": "tiny",
            "revision": "local",
            "weights_hash": "0" * 64,
            "architecture": "wav2vec2",
            "num_hidden_layers": 2,
            "hidden_size": 5,
            "layers": (0, 1, 2),
            "pooling": ("mean", "std"),
            "normalise": True,
        }
        return FeatureSpec(**(fields | changes))

    return make


@pytest.fixture
def make_row():
    """Build a row whose facts follow from its id."""

    def make(utterance_id, *, content=None, num_frames=3, **fields):
        content = utterance_id if content is None else content
        fields = {"path": f"{utterance_id}.wav", "label": "anger", "speaker": "tiny:1"} | fields
        return Row(
            utterance=Utterance(id=utterance_id, **fields),
            audio_hash=content and hashlib.blake2b(content.encode(), digest_size=16).hexdigest(),
            num_samples=400 * num_frames,
            num_frames=num_frames,
            file_size=44 + 800 * num_frames,
            file_mtime_ns=1_700_000_000_123_456_789,
        )

    return make


@pytest.fixture
def numbers_of():
    """Return the numbers of an utterance, which follow from its id: per statistic, and the frames."""

    def numbers(spec, row):
        digest = hashlib.sha256(row.utterance.id.encode("utf-8", "surrogateescape")).digest()
        generator = np.random.default_rng(list(digest))
        shape = (len(spec.layers), spec.hidden_size)
        features = {name: generator.standard_normal(shape).astype(spec.dtype) for name in spec.pooling}
        frames = generator.standard_normal((shape[0], row.num_frames, shape[1])).astype(spec.dtype)
        return features, frames if spec.frames else None

    return numbers


@pytest.fixture
def write_cache(tmp_path, make_spec, make_row, numbers_of):
    """Write a cache of rows (or of ids), failures and duplicates, and return its path."""

    def write(name, rows=(), failures=(), duplicates=(), *, spec=None, **options):
        spec = spec or make_spec()
        with CacheWriter(tmp_path / name, spec, **options) as writer:
            for row in rows:
                made = make_row(row) if isinstance(row, str) else row
                writer.add(made, *numbers_of(spec, made))
            for failure in failures:
                writer.add_failure(failure)
            for duplicate in duplicates:
                writer.add_duplicate(duplicate)
        return tmp_path / name

    return write


@pytest.fixture
def write_altered(write_cache, monkeypatch):
    """Write a cache of which one dataset was changed before its checksums were made."""

    def write(*arguments, dataset, change, **options):
        append = NewCache.append

        def append_changed(new, name, values):
            append(new, name, change(values) if name == dataset else values)

        with monkeypatch.context() as patch:
            patch.setattr(NewCache, "append", append_changed)
            return write_cache(*arguments, **options)

    return write
