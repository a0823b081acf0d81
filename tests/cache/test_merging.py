import dataclasses
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cache.merging
from cache import CacheError, CacheWriter, Duplicate, Failure, FeatureCache, SpecMismatchError, merge


@pytest.fixture(params=[2**29, 200], ids=["one pass", "many passes"])
def buffer(request, monkeypatch):
    """Copy everything at once, or one layer of a few rows at a time; then all short keys of hashes are equal, too."""
    monkeypatch.setattr(cache.merging, "BUFFER_BYTES", request.param)
    if request.param < 1000:
        monkeypatch.setattr(cache.merging, "LINES_PER_READ", 3)
        monkeypatch.setattr(cache.merging, "hash", lambda _: 0, raising=False)


def plain_merge(inputs):
    """The rules of ``merge`` with dictionaries; returns rows, failures and duplicates by id."""
    newest = {}
    for statements in inputs:
        newest |= {_id(noun): noun for noun in statements}
    rows, failures, duplicates, by_hash = {}, {}, {}, {}
    kept_as = {}
    for name in sorted(newest, key=str.encode):
        noun = newest[name]
        if isinstance(noun, Failure):
            failures[name] = noun
        elif not isinstance(noun, Duplicate):
            original = by_hash.setdefault(noun.audio_hash, noun) if noun.audio_hash else noun
            kept_as[name] = original.utterance
            if original is noun:
                rows[name] = noun
            else:
                duplicates[name] = Duplicate(
                    id=name,
                    path=noun.utterance.path,
                    original_id=original.utterance.id,
                    label=noun.utterance.label,
                    original_label=original.utterance.label,
                    audio_hash=noun.audio_hash,
                    file_size=noun.file_size,
                    file_mtime_ns=noun.file_mtime_ns,
                )
    for name, noun in newest.items():
        if isinstance(noun, Duplicate):
            if noun.audio_hash:
                original = by_hash[noun.audio_hash].utterance if noun.audio_hash in by_hash else None
            else:
                original = kept_as.get(noun.original_id)
            if original is None:
                reason = (
                    f"it was a duplicate of {noun.original_id!r}, which is gone or changed; extract again"
                )
                failures[name] = Failure(id=name, path=noun.path, reason=reason)
            else:
                duplicates[name] = dataclasses.replace(
                    noun, original_id=original.id, original_label=original.label
                )
    return rows, failures, duplicates


def _id(noun):
    return noun.id if isinstance(noun, Failure | Duplicate) else noun.utterance.id


names = st.sampled_from(["a", "b", "c", "ä", "aa", "", "zebra" * 9])
contents = st.sampled_from(["", "x", "y", "z"])
statements = st.one_of(
    st.tuples(st.just("row"), contents, st.integers(1, 5), st.sampled_from(["anger", "fear"])),
    st.tuples(st.just("failure"), contents, st.just(0), st.just("")),
    st.tuples(st.just("duplicate"), contents, st.just(0), names),
)


@settings(
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(st.dictionaries(names, statements), min_size=1, max_size=4))
def test_the_newest_statement_holds(buffer, write_cache, tmp_path, make_spec, make_row, numbers_of, inputs):
    spec = make_spec(frames=True)
    paths, made = [], []
    for number, stated in enumerate(inputs):
        nouns = []
        for name, (kind, content, num_frames, extra) in stated.items():
            row = make_row(
                name, content=content, num_frames=max(1, num_frames), label=extra, text=str(number)
            )
            other = {
                "row": row,
                "failure": Failure(id=name, path=content, reason=f"silent {number}", file_size=number),
                "duplicate": Duplicate(
                    id=name, path="", original_id=extra, label="joy", audio_hash=row.audio_hash
                ),
            }
            nouns.append(other[kind])
        kinds = [[noun for noun in nouns if isinstance(noun, kind)] for kind in (Failure, Duplicate)]
        rows = [noun for noun in nouns if not isinstance(noun, Failure | Duplicate)]
        paths.append(write_cache(f"{number}.h5", rows, *kinds, spec=spec, overwrite=True))
        made.append(nouns)
    merge(tmp_path / "out.h5", paths, overwrite=True)
    rows, failures, duplicates = plain_merge(made)
    with FeatureCache(tmp_path / "out.h5") as joined:
        assert list(joined.rows()) == [rows[name] for name in sorted(rows, key=str.encode)]
        assert joined.failures == [failures[name] for name in sorted(failures, key=str.encode)]
        assert joined.duplicates == [duplicates[name] for name in sorted(duplicates, key=str.encode)]
        for index, row in enumerate(joined.rows()):
            features, frames = numbers_of(spec, row)
            for name in spec.pooling:
                assert np.array_equal(joined.embeddings(name)[index], features[name])
            for position, layer in enumerate(spec.layers):
                assert np.array_equal(joined.frames(index, layer), frames[position])
        assert joined.verify() == []


@pytest.mark.parametrize("interleaved", [True, False])
def test_many_parts_make_the_file_of_one_run(buffer, write_cache, tmp_path, make_row, make_spec, interleaved):
    spec = make_spec(frames=True, hidden_size=16)
    rows = [make_row(f"{number:03d}", num_frames=1 + number % 7) for number in range(90)]
    parts = [rows[start::9] if interleaved else rows[10 * start : 10 * start + 10] for start in range(9)]
    paths = [write_cache(f"part{number}.h5", part, spec=spec) for number, part in enumerate(parts)]
    merge(tmp_path / "joined.h5", paths)
    assert (tmp_path / "joined.h5").read_bytes() == write_cache("run.h5", rows, spec=spec).read_bytes()


def test_the_result_may_be_an_input(write_cache, tmp_path):
    old = write_cache("out.h5", ["a", "b"], software={"sslfeat": "1"})
    new = write_cache("new.h5", ["c"], [Failure(id="a", path="", reason="silent")], software={"sslfeat": "2"})
    merge(old, [tmp_path / "." / "out.h5", new], complete=False)
    with FeatureCache(old) as joined:
        assert joined.utterance_ids.tolist() == ["b", "c"]
        assert [failure.id for failure in joined.failures] == ["a"]
        assert joined.complete is False
        assert joined.software == {"sslfeat": "2"}
    merge(old, [old], software={"sslfeat": "3"})
    assert FeatureCache(old).software == {"sslfeat": "3"}
    assert FeatureCache(old).complete is False
    merge(old, [new], overwrite=True)
    assert FeatureCache(old).complete is True
    assert FeatureCache(old).complete is True


def test_a_result_that_exists_is_kept_unless_told(write_cache):
    paths = [write_cache(f"{name}.h5", [name]) for name in "ab"]
    with pytest.raises(CacheError, match=r"a\.h5: exists already; choose another name or overwrite it\."):
        merge(paths[0], paths[1:])
    merge(paths[0], paths[1:], overwrite=True)
    assert FeatureCache(paths[0]).utterance_ids.tolist() == ["b"]


def test_other_numbers_are_refused_with_the_fields_named(write_cache, make_spec, tmp_path):
    paths = [
        write_cache("a.h5", ["a"]),
        write_cache("b.h5", ["b"], spec=make_spec(precision="bfloat16", layers=(1,))),
    ]
    message = re.escape(
        "b.h5: can't be merged, its numbers were made differently: layers (0, 1, 2) (a.h5) vs (1,) (b.h5); "
        "precision 'float32' (a.h5) vs 'bfloat16' (b.h5)."
    )
    with pytest.raises(SpecMismatchError, match=message):
        merge(tmp_path / "out.h5", paths)
    assert not (tmp_path / "out.h5").exists()


def test_nothing_to_merge(tmp_path):
    with pytest.raises(CacheError, match=r"out\.h5: nothing to merge; name at least one cache\."):
        merge(tmp_path / "out.h5", [])


def test_a_damaged_input_is_named_and_nothing_is_written(write_cache, tmp_path):
    paths = [write_cache("a.h5", ["a"]), write_cache("b.h5", ["b"])]
    content = bytearray(paths[1].read_bytes())
    values = FeatureCache(paths[1]).features(1, "std").tobytes()
    content[content.index(values) + 3] ^= 4
    paths[1].write_bytes(content)
    with pytest.raises(CacheError, match=r"b\.h5: 'features/std' is damaged, its checksum doesn't fit"):
        merge(tmp_path / "out.h5", paths)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "b.h5"]


@pytest.mark.parametrize("order", [[1, 0, 2], [2, 0, 1], [0, 0, 1]])
@pytest.mark.parametrize("table", ["utterances", "failures"])
def test_an_input_out_of_order_is_refused(write_cache, write_altered, tmp_path, table, order):
    failures = [Failure(id=name, path="", reason="") for name in "xyz"]
    bad = write_altered("bad.h5", "bca", failures, dataset=f"{table}/id", change=lambda ids: ids[order])
    with FeatureCache(bad) as cache:
        assert cache.verify() == [f"{bad}: '{table}/id' is not in ascending order; extract again."]
        if table == "utterances":
            with pytest.raises(CacheError, match="is not in ascending order"):
                cache.utterance_ids  # noqa: B018
    with pytest.raises(
        CacheError, match=rf"bad\.h5: '{table}/id' is not in ascending order; extract again\."
    ):
        merge(tmp_path / "out.h5", [write_cache("a.h5", ["a"]), bad])


def test_only_failures(write_cache, tmp_path):
    paths = [write_cache(f"{name}.h5", failures=[Failure(id=name, path="", reason="")]) for name in "ab"]
    merge(tmp_path / "out.h5", paths)
    with FeatureCache(tmp_path / "out.h5") as joined:
        assert len(joined) == 0
        assert [failure.id for failure in joined.failures] == ["a", "b"]


def test_more_inputs_than_files_may_be_open(write_cache, tmp_path):
    resource = pytest.importorskip("resource")
    paths = [write_cache(f"{number:03d}.h5", [f"{number:03d}"]) for number in range(60)]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(entry.name) for entry in (tmp_path / "/proc/self/fd").iterdir()) + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, limits[1]))
    try:
        merge(tmp_path / "out.h5", paths)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(FeatureCache(tmp_path / "out.h5")) == 60


def test_memory_is_bounded_by_the_buffer(tmp_path, make_spec, make_row, monkeypatch, traced):
    spec = make_spec(layers=tuple(range(3)), hidden_size=1024)
    paths = []
    for part in range(4):
        paths.append(tmp_path / f"{part}.h5")
        with CacheWriter(paths[-1], spec) as writer:
            for number in range(150):
                numbers = np.full((3, 1024), number, np.float32)
                writer.add(make_row(f"{number:03d}/{part}"), {"mean": numbers, "std": numbers})
    monkeypatch.setattr(cache.merging, "BUFFER_BYTES", 2**20)
    monkeypatch.setattr(cache.merging, "LINES_PER_READ", 128)
    _, peak = traced(merge, tmp_path / "out.h5", paths)
    assert (tmp_path / "out.h5").stat().st_size > 14 * 2**20
    assert peak < 5 * 2**20


def test_a_row_costs_a_few_bytes(tmp_path, make_spec, make_row, monkeypatch, traced):
    spec = make_spec(layers=(0,), hidden_size=1, pooling=("mean",))
    paths, num_rows = [tmp_path / f"{part}.h5" for part in range(4)], 4 * 5000
    for part, path in enumerate(paths):
        with CacheWriter(path, spec) as writer:
            for number in range(part, num_rows, 4):
                writer.add(make_row(f"{number:06d}"), {"mean": np.ones((1, 1), np.float32)})
    monkeypatch.setattr(cache.merging, "BUFFER_BYTES", 2**18)
    monkeypatch.setattr(cache.merging, "LINES_PER_READ", 512)
    _, peak = traced(merge, tmp_path / "out.h5", paths)
    assert peak < 70 * num_rows + 3 * 2**20
