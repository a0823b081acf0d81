import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache import CacheError, CacheWriter, Duplicate, Failure, FeatureCache


@pytest.fixture
def writer(tmp_path, make_spec):
    return CacheWriter(tmp_path / "a.h5", make_spec())


ids = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ids, unique=True, max_size=9), st.randoms(use_true_random=False))
def test_whatever_is_added_comes_back(write_cache, make_row, make_spec, numbers_of, names, random):
    """Rows in any order, among failures and duplicates, in any writing of the world."""
    spec = make_spec(frames=True)
    split = sorted((random.randrange(len(names) + 1), random.randrange(len(names) + 1)))
    rows = [make_row(name, num_frames=random.randrange(1, 4), text=name) for name in names[: split[0]]]
    failures = [Failure(id=name, path=name, reason=name) for name in names[split[0] : split[1]]]
    duplicates = [Duplicate(id=name, path=name, original_id=name[::-1]) for name in names[split[1] :]]
    path = write_cache("any.h5", rows, failures, duplicates, spec=spec, overwrite=True)
    with FeatureCache(path) as cache:
        rows.sort(key=lambda row: row.utterance.id.encode())
        assert list(cache.rows()) == rows
        assert cache.failures == sorted(failures, key=lambda failure: failure.id.encode())
        assert cache.duplicates == sorted(duplicates, key=lambda duplicate: duplicate.id.encode())
        for index, row in enumerate(rows):
            features, frames = numbers_of(spec, row)
            for name in spec.pooling:
                assert np.array_equal(cache.embeddings(name)[index], features[name])
            for position, layer in enumerate(spec.layers):
                assert np.array_equal(cache.frames(index, layer), frames[position])
        assert cache.verify() == []


def test_nothing_is_there_before_the_block_ends(tmp_path, writer, make_row, make_spec, numbers_of):
    with writer:
        row = make_row("a")
        writer.add(row, *numbers_of(make_spec(), row))
        assert list(tmp_path.iterdir()) == []
        assert len(writer) == 1
        assert writer.nbytes == 2 * 3 * 5 * 4
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


def test_nothing_is_there_after_an_error(tmp_path, writer, make_row, make_spec, numbers_of):
    def fill():
        with writer:
            row = make_row("a")
            writer.add(row, *numbers_of(make_spec(), row))
            msg = "stop"
            raise RuntimeError(msg)

    with pytest.raises(RuntimeError, match="stop"):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_an_error_while_writing_leaves_the_old_file(tmp_path, write_cache, make_spec, monkeypatch):
    old = write_cache("a.h5", ["old"]).read_bytes()

    def failing(*_):
        msg = "stop"
        raise KeyboardInterrupt(msg)

    monkeypatch.setattr("cache.store.NewCache.append", failing)
    with pytest.raises(KeyboardInterrupt):
        write_cache("a.h5", ["new"], overwrite=True)
    assert (tmp_path / "a.h5").read_bytes() == old
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


def test_existing_file_is_kept_unless_told(write_cache):
    path = write_cache("a.h5", ["a"])
    with pytest.raises(CacheError, match=r"a\.h5: exists already; choose another name or overwrite it\."):
        write_cache("a.h5", ["b"])
    assert FeatureCache(path).utterance_ids.tolist() == ["a"]
    write_cache("a.h5", ["b"], overwrite=True)
    assert FeatureCache(path).utterance_ids.tolist() == ["b"]


def test_missing_folder_and_folder_in_the_way(write_cache, tmp_path):
    with pytest.raises(CacheError, match=r"no/a\.h5: can't be written: No such file or directory"):
        write_cache("no/a.h5", ["a"])
    (tmp_path / "b.h5").mkdir()
    with pytest.raises(CacheError, match=r"b\.h5: can't be written: Is a directory"):
        write_cache("b.h5", ["a"], overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["b.h5"]


def test_facts_of_the_file(write_cache):
    cache = FeatureCache(write_cache("a.h5", ["a"], complete=False, software={"torch": "2.13", "a": "ü"}))
    assert cache.complete is False
    assert cache.software == {"torch": "2.13", "a": "ü"}
    assert FeatureCache(write_cache("b.h5")).complete is True


def test_caller_may_reuse_its_arrays(writer, make_row, make_spec, numbers_of):
    features, _ = numbers_of(make_spec(), make_row("a"))
    expected = features["mean"].copy()
    with writer:
        writer.add(make_row("a"), features)
        features["mean"][:] = 0
    assert np.array_equal(FeatureCache(writer.path).embeddings()[0], expected)


@pytest.mark.parametrize("again", ["row", "failure", "duplicate"])
def test_an_id_is_stated_once(writer, make_row, make_spec, numbers_of, again):
    writer.add_failure(Failure(id="a", path="", reason=""))
    statements = {
        "row": lambda: writer.add(make_row("a"), *numbers_of(make_spec(), make_row("a"))),
        "failure": lambda: writer.add_failure(Failure(id="a", path="", reason="")),
        "duplicate": lambda: writer.add_duplicate(Duplicate(id="a", path="", original_id="b")),
    }
    with pytest.raises(CacheError, match=r"a\.h5: 'a' was added before; an id is stated once\."):
        statements[again]()
    assert len(writer) == writer.nbytes == 0


def test_text_that_cannot_be_stored_is_refused_at_once(writer, make_row, make_spec, numbers_of):
    row = make_row("a", text="one\0two")
    with pytest.raises(CacheError, match=r"a\.h5: 'a': text can't be stored: text must be Unicode"):
        writer.add(row, *numbers_of(make_spec(), row))
    row = make_row("a")
    writer.add(row, *numbers_of(make_spec(), row))  # the id is still free
    with pytest.raises(CacheError, match="'b': reason can't be stored"):
        writer.add_failure(Failure(id="b", path="", reason="\ud800"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_numbers_must_be_finite(tmp_path, make_spec, make_row, numbers_of, value, dtype):
    spec = make_spec(layers=(0, 2), dtype=dtype, frames=True)
    writer = CacheWriter(tmp_path / "a.h5", spec)
    features, frames = numbers_of(spec, make_row("x"))
    features["std"][1, 3] = value
    with pytest.raises(CacheError, match=r"a\.h5: 'x': std of layer 2 is not finite\."):
        writer.add(make_row("x"), features, frames)
    features["std"][1, 3] = 0
    frames[0, 2, 4] = value
    with pytest.raises(CacheError, match=r"a\.h5: 'x': frames of layer 0 is not finite\."):
        writer.add(make_row("x"), features, frames)
    assert len(writer) == writer.nbytes == 0


@pytest.mark.parametrize(
    ("value", "fits"), [(65504, True), (-65504, True), (65504.1, False), (-70000, False)]
)
def test_range_of_float16(tmp_path, make_spec, make_row, value, fits):
    spec = make_spec(dtype="float16", pooling=("max",))
    values = np.zeros((3, 5), np.float32)
    values[1, 2] = value
    with CacheWriter(tmp_path / "a.h5", spec) as writer:
        if fits:
            writer.add(make_row("x"), {"max": values})
        else:
            message = (
                r"a\.h5: 'x': max of layer 1 reaches (65504\.1|70000), beyond the range of float16 "
                r"\(\+-65504\); store float32\."
            )
            with pytest.raises(CacheError, match=message):
                writer.add(make_row("x"), {"max": values})
    if fits:
        assert FeatureCache(tmp_path / "a.h5").features(1, "max")[0, 2] == value


def test_range_of_float32(writer, make_row):
    large = np.full((3, 5), 1e39)
    with pytest.raises(CacheError, match=r"'x': mean of layer 0 reaches 1e\+39, beyond the range of float32"):
        writer.add(make_row("x"), {"mean": large, "std": large})


def test_features_must_be_those_of_the_spec(tmp_path, writer, make_row, make_spec, numbers_of):
    row = make_row("x")
    features, _ = numbers_of(make_spec(), row)
    with pytest.raises(CacheError, match=r"'x': features must be mean, std\. Got mean instead\."):
        writer.add(row, {"mean": features["mean"]})
    with pytest.raises(CacheError, match=r"'x': features must be mean, std\. Got mean, std, max instead\."):
        writer.add(row, features | {"max": features["mean"]})
    with pytest.raises(CacheError, match=r"'x': std must have shape \(3, 5\)\. Got \(5, 3\) instead\."):
        writer.add(row, {"mean": features["mean"], "std": features["std"].T})
    with pytest.raises(CacheError, match=r"'x': frames can't be given; that is what the feature spec says\."):
        writer.add(row, features, np.zeros((3, 3, 5)))
    framed = CacheWriter(tmp_path / "b.h5", make_spec(frames=True))
    with pytest.raises(CacheError, match=r"'x': frames must be given; that is what"):
        framed.add(row, features)
    with pytest.raises(
        CacheError, match=r"'x': frames must have shape \(3, 3, 5\)\. Got \(3, 4, 5\) instead\."
    ):
        framed.add(row, features, np.zeros((3, 4, 5)))


FULL_DISK = """
import resource, sys
import numpy as np
from cache import CacheError, CacheWriter, FeatureSpec, Row, Utterance, merge

path, limit, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
spec = FeatureSpec(model_id="", revision="", weights_hash="", architecture="", num_hidden_layers=1, hidden_size=64,
                   layers=(0, 1), pooling=("mean",), normalise=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    if how == "merge":
        merge(path, [path.replace("a.h5", "whole.h5")])
    else:
        with CacheWriter(path, spec) as writer:
            for number in range(500):
                row = Row(utterance=Utterance(id=str(number), path=""), audio_hash="", num_samples=1, num_frames=1)
                writer.add(row, {"mean": np.ones((2, 64))})
except CacheError as error:
    print(error)
"""


@pytest.mark.parametrize("how", ["write", "merge"])
@pytest.mark.parametrize("limit", [0, 3000, 262_144, 290_000])
def test_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, make_spec, make_row, limit, how):
    """A limit on the size of files stands for the disk: the system's answer comes from the same calls."""
    spec = make_spec(
        model_id="", revision="", architecture="", weights_hash="", num_hidden_layers=1, hidden_size=64,
        layers=(0, 1), pooling=("mean",),
    )  # fmt: skip
    with CacheWriter(tmp_path / "whole.h5", spec) as writer:
        for number in range(500):
            writer.add(make_row(str(number)), {"mean": np.ones((2, 64))})
    assert (tmp_path / "whole.h5").stat().st_size > 290_000
    arguments = [sys.executable, "-c", FULL_DISK, str(tmp_path / "a.h5"), str(limit), how]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr  # HDF5 itself would end the process with SIGSEGV here
    assert done.stderr == ""
    assert "a.h5: can't be written: File too large; nothing was left under that name." in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["whole.h5"]


def test_read_only_folder(tmp_path, write_cache):
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(0o555)
    try:
        (folder / "probe").touch()
    except PermissionError:
        with pytest.raises(CacheError, match=r"closed/a\.h5: can't be written: Permission denied"):
            write_cache("closed/a.h5", ["a"])
    else:
        pytest.skip("this user may write everywhere")
