import json
import multiprocessing
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from cache import (
    CacheError,
    CacheWriter,
    Duplicate,
    Failure,
    FeatureCache,
    FeatureSpec,
    Row,
    Utterance,
    merge,
)

VERSION_1 = Path(__file__).parents[1] / "data" / "cache-v1.h5"


def write_version_1(path):
    """Write the file kept in tests/data; run once per schema version, by hand."""
    spec = FeatureSpec(
        model_id="example/tiny",
        revision="0123abc",
        weights_hash="f" * 64,
        architecture="hubert",
        num_hidden_layers=3,
        hidden_size=4,
        layers=(0, 2, 3),
        pooling=("mean", "std"),
        normalise=True,
        frames=True,
    )
    with CacheWriter(path, spec, complete=False, software={"sslfeat": "0.1.0"}) as writer:
        for number, name in enumerate(["tiny/c", "tiny/ä", "tiny/a"]):
            utterance = Utterance(
                id=name,
                path=f"wav/{name[-1]}.wav",
                corpus="tiny",
                speaker=f"tiny:{number % 2}",
                sex=("female", "male")[number % 2],
                label=("anger", "fear", "neutral")[number],
                native_label="WAN"[number],
                text="a07",
                session="s1",
                split="train",
                intensity=("", "strong", "normal")[number],
                start=0.5 * number,
            )
            row = Row(
                utterance=utterance,
                audio_hash=f"{number:032x}",
                num_samples=400 + 320 * number,
                num_frames=number + 1,
                file_size=1000 + number,
                file_mtime_ns=1_600_000_000_000_000_001 + number,
            )
            values = 100 * number + np.arange(12, dtype=np.float32).reshape(3, 4)
            frames = np.stack([values + 0.25 * frame for frame in range(number + 1)], axis=1)
            writer.add(row, {"mean": values, "std": -values}, frames)
        writer.add_failure(
            Failure(id="tiny/f", path="wav/f.wav", reason="silent", file_size=7, file_mtime_ns=8)
        )
        writer.add_duplicate(
            Duplicate(
                id="tiny/d",
                path="wav/d.wav",
                original_id="tiny/a",
                label="fear",
                original_label="neutral",
                audio_hash=f"{2:032x}",
                file_size=9,
                file_mtime_ns=10,
            )
        )


def test_schema_version_1_reads_for_ever():
    with FeatureCache(VERSION_1) as cache:
        assert len(cache) == 3
        assert cache.utterance_ids.tolist() == ["tiny/a", "tiny/c", "tiny/ä"]
        assert cache.paths.tolist() == ["wav/a.wav", "wav/c.wav", "wav/ä.wav"]
        assert cache.corpora.tolist() == ["tiny"] * 3
        assert cache.speakers.tolist() == ["tiny:0", "tiny:0", "tiny:1"]
        assert cache.sexes.tolist() == ["female", "female", "male"]
        assert cache.labels.tolist() == ["neutral", "anger", "fear"]
        assert cache.column("native_label").tolist() == ["N", "W", "A"]
        assert cache.texts.tolist() == ["a07"] * 3
        assert cache.sessions.tolist() == ["s1"] * 3
        assert cache.splits.tolist() == ["train"] * 3
        assert cache.intensities.tolist() == ["normal", "", "strong"]
        assert cache.column("start").tolist() == [1.0, 0.0, 0.5]
        assert cache.column("end").tolist() == [np.inf] * 3
        assert cache.audio_hashes.tolist() == [f"{number:032x}" for number in (2, 0, 1)]
        assert cache.num_samples.tolist() == [1040, 400, 720]
        assert cache.num_frames.tolist() == [3, 1, 2]
        assert cache.column("file_size").tolist() == [1002, 1000, 1001]
        assert cache.column("file_mtime_ns").tolist()[0] == 1_600_000_000_000_000_003
        assert cache.layers == (0, 2, 3)
        assert cache.poolings == ("mean", "std")
        assert cache.spec.model_id == "example/tiny"
        assert cache.fingerprint == "5c9bc848475765842a27698d3f5644fcab6b9909c018f21255d32dc234317def"
        assert cache.software == {"sslfeat": "0.1.0"}
        assert cache.complete is False
        assert cache.features(2).tolist() == [[204, 205, 206, 207], [4, 5, 6, 7], [104, 105, 106, 107]]
        assert cache.features(3, "std").tolist()[1] == [-8, -9, -10, -11]
        assert cache.frames("tiny/ä", 0).tolist() == [[100, 101, 102, 103], [100.25, 101.25, 102.25, 103.25]]
        assert cache.failures == [
            Failure(id="tiny/f", path="wav/f.wav", reason="silent", file_size=7, file_mtime_ns=8)
        ]
        (duplicate,) = cache.duplicates
        assert (duplicate.id, duplicate.original_id, duplicate.label) == ("tiny/d", "tiny/a", "fear")
        assert cache.verify() == []


@pytest.mark.parametrize(
    "rows", [slice(1), slice(1, 2), slice(1, 99), slice(2, 1), slice(-1, None), slice(None)]
)
@pytest.mark.parametrize("is_held", [False, True])
def test_some_rows_of_a_column(cache_path, rows, is_held):
    with FeatureCache(cache_path) as cache:
        whole = {name: cache.column(name).tolist() for name in ("id", "start")}
    with FeatureCache(cache_path) as cache:
        for name, values in whole.items():
            if is_held:
                cache.column(name)
            assert cache.column(name, rows).tolist() == values[rows]
            assert not cache.column(name, rows).flags.writeable
            assert cache.column(name).tolist() == values


@pytest.fixture
def filled(write_cache, make_spec, make_row, numbers_of):
    """A cache of seven rows with frames, and the plain truth about it."""
    spec = make_spec(layers=(0, 2), frames=True)
    rows = [
        make_row(
            name, num_frames=1 + place, speaker=f"tiny:{place % 2}", label=("anger", "fear")[place % 3 == 0]
        )
        for place, name in enumerate(["g", "é", "a", "𝄞", "b", "", "z z"])
    ]
    path = write_cache("filled.h5", rows, spec=spec)
    rows.sort(key=lambda row: row.utterance.id)
    return FeatureCache(path), rows, [numbers_of(spec, row) for row in rows]


def test_rows_are_sorted_by_id_and_complete(filled):
    cache, rows, _ = filled
    assert list(cache.rows()) == rows
    assert [cache.row(index) for index in range(len(cache))] == rows
    assert cache.row(-1) == rows[-1]
    assert [cache.index(row.utterance.id) for row in rows] == list(range(7))
    with pytest.raises(IndexError):
        cache.row(7)
    with pytest.raises(CacheError, match=r"filled\.h5: no row 'nobody'\."):
        cache.index("nobody")


def test_features_are_those_added(filled):
    cache, _, numbers = filled
    for position, layer in enumerate(cache.layers):
        for name in cache.poolings:
            expected = np.stack([features[name][position] for features, _ in numbers])
            found = cache.features(layer=layer, pooling=name)
            assert found.dtype == np.float32
            assert found.flags.c_contiguous
            assert np.array_equal(found, expected)
            assert np.array_equal(cache.features(layer, name, start=2, stop=5), expected[2:5])
            assert np.array_equal(cache.embeddings(name)[:, position], expected)
        both = cache.features(layer, "std+mean")
        assert np.array_equal(both, np.hstack([cache.features(layer, "std"), cache.features(layer, "mean")]))
    found[:] = 0  # what is returned belongs to the caller
    assert cache.features(layer, name).any()


def test_frames_are_those_added(filled):
    cache, rows, numbers = filled
    for index, (row, (_, frames)) in enumerate(zip(rows, numbers, strict=True)):
        for position, layer in enumerate(cache.layers):
            assert np.array_equal(cache.frames(row.utterance.id, layer), frames[position])
            assert np.array_equal(cache.frames(index, layer), frames[position])
    assert np.array_equal(cache.frames(-1, 2), numbers[-1][1][1])


def test_what_is_not_stored_is_named_with_what_is(filled, write_cache, make_spec):
    cache, _, _ = filled
    with pytest.raises(CacheError, match=r"filled\.h5: no layer 1; stored layers are 0, 2\."):
        cache.features(1)
    with pytest.raises(CacheError, match=r"filled\.h5: no layer -1; stored layers"):
        cache.frames(0, -1)
    with pytest.raises(CacheError, match=r"filled\.h5: no pooling 'max'; stored are mean, std\."):
        cache.features(0, "mean+max")
    with pytest.raises(CacheError, match=r"filled\.h5: no pooling 'mean\+std'"):
        cache.embeddings("mean+std")
    with pytest.raises(CacheError, match=r"filled\.h5: no column 'emotion'; the columns are id, path, "):
        cache.column("emotion")
    plain = FeatureCache(write_cache("plain.h5", ["a"]))
    with pytest.raises(CacheError, match=r"plain\.h5: no layer 13; stored layers are 0\.\.2\."):
        plain.features(13)
    with pytest.raises(CacheError, match=r"plain\.h5: no frames are stored; extract with --frames\."):
        plain.frames(0, 0)
    none = FeatureCache(write_cache("none.h5", ["a"], spec=make_spec(pooling=(), layers=(1,))))
    with pytest.raises(CacheError, match=r"none\.h5: no pooling 'mean'; stored are none\."):
        none.features(1)


def test_columns_cannot_be_changed_by_accident(filled):
    cache, _, _ = filled
    with pytest.raises(ValueError, match="read-only"):
        cache.labels[0] = "joy"


def test_float16_is_returned_as_float32(write_cache, make_spec, make_row, numbers_of):
    spec = make_spec(dtype="float16", frames=True)
    cache = FeatureCache(write_cache("half.h5", ["a", "b"], spec=spec))
    features, frames = numbers_of(spec, make_row("b"))
    assert cache.features(1).dtype == cache.frames(1, 1).dtype == cache.embeddings().dtype == np.float32
    assert np.array_equal(cache.features(1)[1], features["mean"][1])
    assert np.array_equal(cache.frames("b", 2), frames[2])


def test_empty_cache(write_cache, make_spec):
    failure = Failure(id="a", path="a.wav", reason="empty")
    cache = FeatureCache(write_cache("empty.h5", failures=[failure], spec=make_spec(frames=True)))
    assert len(cache) == 0
    assert cache.features(0, "mean+std").shape == (0, 10)
    assert cache.embeddings().shape == (0, 3, 5)
    assert cache.labels.tolist() == []
    assert cache.failures == [failure]
    assert list(cache.rows()) == cache.verify() == []
    assert cache.summary()["utterances"] == 0


def test_summary_is_json(filled):
    cache, rows, _ = filled
    summary = json.loads(json.dumps(cache.summary()))
    assert summary["utterances"] == 7
    assert summary["labels"] == {"anger": 4, "fear": 3}
    by_speaker = {
        speaker: {
            label: sum(row.utterance.speaker == speaker and row.utterance.label == label for row in rows)
            for label in ("anger", "fear")
        }
        for speaker in ("tiny:0", "tiny:1")
    }
    assert summary["labels_by_speaker"] == by_speaker
    assert summary["duration_seconds"] == pytest.approx(sum(row.num_samples for row in rows) / 16000)
    assert summary["spec"]["layers"] == [0, 2]
    assert summary["fingerprint"] == cache.fingerprint
    assert summary["file_size"] == cache.path.stat().st_size


def test_name_and_repr(filled):
    cache, _, _ = filled
    assert cache.name == "filled"
    assert repr(cache) == f"FeatureCache({str(cache.path)!r})"


def test_pickles_as_its_path(filled, tmp_path, monkeypatch):
    cache, _, _ = filled
    expected = cache.features(2)
    monkeypatch.chdir(tmp_path)
    relative = FeatureCache("filled.h5")
    relative.labels  # noqa: B018  # cached columns must not travel
    pickled = pickle.dumps(relative)
    assert len(pickled) < 300
    monkeypatch.chdir("/")
    assert np.array_equal(pickle.loads(pickled).features(2), expected)
    (tmp_path / "filled.h5").unlink()
    with pytest.raises(CacheError, match="No such file"):
        pickle.loads(pickled)


def sums(cache, queue):
    queue.put(
        (os.getpid(), [float(cache.features(layer).sum()) for layer in cache.layers], len(cache.labels))
    )


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_readers_in_other_processes(filled, method):
    cache, _, _ = filled
    expected = [float(cache.features(layer).sum()) for layer in cache.layers]
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    # The forked ones inherit an open file and read it at the same time as this process.
    processes = [context.Process(target=sums, args=(cache, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    found = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert [float(cache.features(layer).sum()) for layer in cache.layers] == expected
    assert [(layers, rows) for _, layers, rows in found] == [(expected, 7)] * 2
    assert os.getpid() not in {pid for pid, _, _ in found}


def test_no_file_is_left_open(filled):
    cache, _, _ = filled
    cache.features(0)
    cache.close()
    cache.close()
    targets = (
        {str(link.resolve()) for link in Path("/proc/self/fd").iterdir()} if Path("/proc").exists() else set()
    )
    assert str(cache.path.resolve()) not in targets
    assert cache.features(0).any()  # and it opens again


def test_verify_names_each_damage(filled):
    cache, _, _ = filled
    assert cache.verify() == []
    extents = cache._file.extents
    damaged = ["utterances/label", "failures/reason", "features/std", "frames/offsets", "frames/values"]
    with cache.path.open("r+b") as file:
        for name in damaged:
            file.seek(extents[name].offset if extents[name].nbytes else extents["utterances/text"].offset)
            file.write(b"\xa5")
    found = "\n".join(cache.verify())
    for name in ("utterances/label", "utterances/text", "features/std", "frames/offsets", "frames/values"):
        assert re.search(f"filled.h5: '{name}' is damaged, its checksum doesn't fit", found)
    assert "features/mean" not in found
    assert "utterances/id" not in found


@pytest.mark.parametrize("offsets", [[0, 1, 4], [-3, 3, 6], [1, 4, 7], [0, 6, 3], [0, 3, 99]])
def test_frames_of_another_utterance_are_never_returned(write_altered, make_spec, tmp_path, offsets):
    path = write_altered(
        "bad.h5", ["a", "b", "c"], spec=make_spec(frames=True), dataset="frames/offsets",
        change=lambda values: np.array([*offsets, values[-1]]),
    )  # fmt: skip
    told = r"bad\.h5: 'frames/offsets' disagrees with 'utterances/num_frames'; extract again\."
    with FeatureCache(path) as cache:
        assert cache.verify() == [
            f"{path}: 'frames/offsets' disagrees with 'utterances/num_frames'; extract again."
        ]
        for index in range(3):
            with pytest.raises(CacheError, match=told):
                cache.frames(index, 0)
    with pytest.raises(CacheError, match=told):
        merge(tmp_path / "out.h5", [path])
