import json
import shutil
import threading

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache import CacheError
from cache.checksum import BLOCK_BYTES, checksums
from cache.raw import SLAB_BYTES
from cache.store import CacheFile, NewCache, _Directory


@settings(max_examples=10)
@given(st.lists(st.integers(0, BLOCK_BYTES), max_size=8))
def test_a_dataset_may_be_written_in_pieces_of_any_size(tmp_path_factory, make_spec_once, lengths):
    values = np.random.default_rng(0).integers(-(2**62), 2**62, sum(lengths))
    path = tmp_path_factory.getbasetemp() / "pieces.h5"
    with NewCache(path, make_spec_once, complete=True, software={}) as new:
        new.create("piecemeal", values.shape, values.dtype)
        for end, length in zip(np.cumsum(lengths), lengths, strict=True):
            new.append("piecemeal", values[end - length : end])
        new.write_column("at_once", values)
    with h5py.File(path) as file:
        assert np.array_equal(file["piecemeal"], values)
        assert np.array_equal(file["checksums/piecemeal"], file["checksums/at_once"])
        assert np.array_equal(file["checksums/at_once"], checksums(values.view(np.uint8)))


@pytest.fixture(scope="module")
def make_spec_once():
    from cache import FeatureSpec

    return FeatureSpec(
        model_id="tiny",
        revision="local",
        weights_hash="",
        architecture="wav2vec2",
        num_hidden_layers=1,
        hidden_size=1,
        layers=(0,),
        pooling=(),
        normalise=True,
    )


def test_an_unfinished_dataset_is_no_cache(tmp_path, make_spec_once):
    def write():
        with NewCache(tmp_path / "a.h5", make_spec_once, complete=True, software={}) as new:
            new.create("part", (3,), np.dtype(np.int64))
            new.append("part", np.ones(1, np.int64))

    with pytest.raises(CacheError, match=r"a\.h5: 'part' was left unfinished: 8 of 24 bytes"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_any_hdf5_reader_reads_it(write_cache, make_spec, make_row, numbers_of):
    spec = make_spec(layers=(0, 2))
    path = write_cache("a.h5", ["b", "ä", "a"], spec=spec, software={"sslfeat": "1"}, complete=False)
    with h5py.File(path) as file:
        assert file.attrs["format"] == b"sslfeat-cache" or file.attrs["format"] == "sslfeat-cache"
        assert file.attrs["schema_version"] == 1
        assert not file.attrs["complete"]
        assert file["utterances/id"].asstr()[:].tolist() == ["a", "b", "ä"]
        layer = file["features/std"][json.loads(file.attrs["spec"])["layers"].index(2)]
        expected = [numbers_of(spec, make_row(name))[0]["std"][1] for name in ("a", "b", "ä")]
        assert np.array_equal(layer, expected)


def test_two_writings_are_the_same_bytes(write_cache):
    first, second = (write_cache(name, ["a", "b"]) for name in ("1.h5", "2.h5"))
    assert first.read_bytes() == second.read_bytes()


def test_threads_read_at_once(write_cache, make_spec):
    spec = make_spec(hidden_size=64)
    cache = CacheFile(write_cache("a.h5", [f"{place:03d}" for place in range(200)], spec=spec))
    expected = cache.read("features/mean")
    cache.close()
    found = []

    def read():
        found.extend(cache.read("features/mean", position=1) for _ in range(50))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 200
    assert all(np.array_equal(layer, expected[1]) for layer in found)


def test_large_reads_in_several_slabs(tmp_path, make_spec_once, monkeypatch):
    values = np.random.default_rng(0).integers(-(2**62), 2**62, 3 * 16 * BLOCK_BYTES // 8 + 77)
    with NewCache(tmp_path / "a.h5", make_spec_once, complete=True, software={}) as new:
        for table in ("utterances", "failures", "duplicates"):
            new.write_table(table, EmptyColumns())
        new.write_column("large", values)
    with h5py.File(tmp_path / "a.h5") as file:
        offset = file["large"].id.get_offset()
        cache = CacheFile(tmp_path / "a.h5")
        cache._found(_Directory(tmp_path / "a.h5", file, (tmp_path / "a.h5").stat().st_size), "large", "i", 1)
    assert np.array_equal(cache.read("large"), values)
    assert np.array_equal(cache.read("large", 40_000, 1_500_000), values[40_000:1_500_000])
    # Whichever slab is damaged, and whichever thread has it.
    for place in range(values.nbytes - 5, -1, -SLAB_BYTES):
        with (tmp_path / "a.h5").open("r+b") as file:
            file.seek(offset + place)
            (sound,) = file.read(1)
            file.seek(offset + place)
            file.write(bytes([sound ^ 4]))
            file.flush()
            with pytest.raises(CacheError, match=r"a\.h5: 'large' is damaged, its checksum doesn't fit"):
                cache.read("large")
            sound_part = place // BLOCK_BYTES * BLOCK_BYTES // 8
            assert np.array_equal(cache.read("large", 0, sound_part), values[:sound_part])
            file.seek(offset + place)
            file.write(bytes([sound]))
    assert np.array_equal(cache.read("large"), values)


class EmptyColumns(dict):
    def __missing__(self, name):
        kinds = {"start": float, "end": float}
        numbers = ("num_samples", "num_frames", "file_size", "file_mtime_ns")
        return np.empty(0, np.int64 if name in numbers else kinds.get(name, "S1"))


# What is no cache, and the sentence that says so.


def test_missing_file(tmp_path):
    with pytest.raises(CacheError, match=r"no\.h5: No such file or directory\.$"):
        CacheFile(tmp_path / "no.h5")


def test_folder(tmp_path):
    with pytest.raises(CacheError, match=r": Is a directory\.$"):
        CacheFile(tmp_path)


@pytest.mark.parametrize("content", [b"", b"RIFF....WAVE", b"\x89HDF", b"\x89HDF\r\n\x1a\n"])
def test_no_hdf5_file(tmp_path, content):
    (tmp_path / "a.h5").write_bytes(content)
    with pytest.raises(
        CacheError, match=r"a\.h5: (not an HDF5 file, so not a feature cache|damaged|cut short)"
    ):
        CacheFile(tmp_path / "a.h5")


def test_another_format(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(CacheError, match=r"a\.h5: not a feature cache; its format isn't 'sslfeat-cache'"):
        CacheFile(tmp_path / "a.h5")


@pytest.fixture
def edited(write_cache):
    """Change a cache as h5py lets one, which leaves every structure of HDF5 sound."""

    def edit(change, **options):
        path = write_cache("a.h5", ["a", "b"], **options)
        with h5py.File(path, "r+") as file:
            change(file)
        return path

    return edit


def set_attribute(name, value):
    return lambda file: file.attrs.__setitem__(name, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            set_attribute("schema_version", 3),
            r"a\.h5: written by schema 3; this version reads 1\.\.1; upgrade sslfeat",
        ),
        (set_attribute("schema_version", 0), r"a\.h5: written by schema 0; this version reads"),
        (set_attribute("schema_version", "new"), r"a\.h5: damaged"),
        (lambda file: file.attrs.__delitem__("schema_version"), r"a\.h5: damaged"),
        (set_attribute("fingerprint", "0" * 64), r"a\.h5: the fingerprint doesn't fit the feature spec"),
        (set_attribute("spec", "{}"), r"a\.h5: the feature spec can't be read"),
        (set_attribute("software", "{"), r"a\.h5: damaged"),
    ],
)
def test_attributes_that_do_not_fit(edited, change, message):
    with pytest.raises(CacheError, match=message):
        CacheFile(edited(change))


def replaced(name, **options):
    def change(file):
        values = file[name][()]
        del file[name]
        file.create_dataset(name, **({"data": values} | options))

    return change


def linked(name, link):
    def change(file):
        del file[name]
        file[name] = link

    return change


def moved_group(file):
    file.move("utterances", "elsewhere")
    file["utterances"] = h5py.SoftLink("/elsewhere")


def virtual(file):
    shape, dtype = file["features/mean"].shape, file["features/mean"].dtype
    layout = h5py.VirtualLayout(shape, dtype)
    layout[:] = h5py.VirtualSource("other.h5", "x", shape)
    del file["features/mean"]
    file.create_virtual_dataset("features/mean", layout)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.__delitem__("utterances/sex"), "'utterances/sex' is missing"),
        (lambda file: file.__delitem__("failures"), "'failures' is missing"),
        (lambda file: file.__delitem__("features/std"), "'features/std' is missing"),
        (lambda file: file.__delitem__("checksums/features/std"), "'checksums/features/std' is missing"),
        (linked("features/mean", h5py.SoftLink("/features/std")), "'features/mean' is a link"),
        (linked("features/mean", h5py.ExternalLink("/etc/passwd", "x")), "'features/mean' is a link"),
        (moved_group, "'utterances' is a link"),
        (virtual, "'features/mean' doesn't lie in one piece"),
        (replaced("features/mean", external=[("x.raw", 0, 120)]), "'features/mean' doesn't lie in one piece"),
        (replaced("features/mean", chunks=True), "'features/mean' doesn't lie in one piece"),
        (replaced("features/mean", compression="gzip"), "'features/mean' doesn't lie in one piece"),
        (replaced("utterances/id", dtype=h5py.string_dtype()), "'utterances/id' has type object"),
        (replaced("utterances/id", data=np.ones(2)), "'utterances/id' has type float64"),
        (
            replaced("utterances/start", data=np.ones((2, 1))),
            "'utterances/start' has type float64 and 2 axes",
        ),
        (
            replaced("utterances/id", data=np.array([b"a" * 65537, b"b"])),
            "'utterances/id' has texts of 65537 bytes, and 65536 are the most",
        ),
        (replaced("features/mean", dtype=">f4"), "'features/mean' has type >f4"),
        (
            replaced("features/mean", dtype="f8"),
            r"'features/mean' must be float32 of shape \(3, 2, 5\)\. Got float64 of shape \(3, 2, 5\) instead",
        ),
        (
            replaced("features/mean", data=np.ones((3, 3, 5), "f4")),
            r"Got float32 of shape \(3, 3, 5\) instead",
        ),
        (replaced("utterances/start", data=np.ones(3)), "the columns of 'utterances' differ in length"),
        (linked("features/mean", h5py.Empty("f4")), "'features/mean' has type float32 and 0 axes"),
        (linked("utterances/id", np.dtype("f4")), "'utterances/id' is no dataset"),
        (
            replaced("checksums/features/mean", data=np.ones(2, "u8")),
            "'features/mean' has 2 checksums; not one for each block",
        ),
    ],
)
def test_structures_that_do_not_fit(edited, change, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # HDF5 makes the external file where it is run
    with pytest.raises(CacheError, match=message):
        CacheFile(edited(change))


def test_frame_offsets_that_do_not_fit(edited, make_spec):
    spec = make_spec(frames=True)
    with pytest.raises(CacheError, match="'frames/offsets' has 2 numbers, not 3"):
        CacheFile(edited(replaced("frames/offsets", data=np.zeros(2, np.int64)), spec=spec))


def test_a_shape_without_data_is_refused(edited):
    def change(file):
        del file["features/mean"]
        file.create_dataset("features/mean", (3, 2, 5), "f4")  # no space is taken until it is written

    with pytest.raises(CacheError, match="'features/mean' is cut short"):
        CacheFile(edited(change))


def test_additions_are_ignored(edited):
    def change(file):
        file["notes"] = h5py.ExternalLink("/etc/passwd", "x")
        file["features/median"] = np.ones(1)
        file.attrs["colour"] = "red"

    assert CacheFile(edited(change)).num_utterances == 2


def test_a_file_replaced_meanwhile_is_noticed(write_cache):
    cache = CacheFile(write_cache("a.h5", ["a"]))
    write_cache("a.h5", ["b"], overwrite=True)
    assert cache.read("utterances/id").tolist() == [b"a"]  # still the old file
    cache.close()
    with pytest.raises(CacheError, match=r"a\.h5: replaced by another file since it was opened"):
        cache.read("utterances/id")


def test_a_closed_file_is_opened_again(write_cache):
    with CacheFile(write_cache("a.h5", ["a"])) as cache:
        pass
    assert cache.read("utterances/id").tolist() == [b"a"]


def test_a_file_gone_meanwhile_is_named(write_cache, tmp_path):
    cache = CacheFile(write_cache("a.h5", ["a"]))
    shutil.move(tmp_path / "a.h5", tmp_path / "b.h5")
    cache.close()
    with pytest.raises(CacheError, match=r"a\.h5: No such file or directory"):
        cache.read("utterances/id")


@pytest.mark.parametrize(
    ("name", "value"),
    [("software", "[1]"), ("software", "[" * 100_000), ("schema_version", np.inf), ("schema_version", "x")],
)
def test_attributes_of_another_kind_are_refused(edited, name, value):
    def change(file):
        file.attrs[name] = value

    with pytest.raises(CacheError, match=r"a\.h5: (damaged \(|the feature spec)"):
        CacheFile(edited(change))
