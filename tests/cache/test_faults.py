"""What disks, power cuts and kill signals do to a cache."""

import errno
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from cache import CacheError, Duplicate, Failure, FeatureCache, merge, raw
from cache.durable import DurableFile
from cache.table import TABLES


@pytest.fixture
def whole(write_cache, make_spec, make_row):
    spec = make_spec(frames=True, hidden_size=32)
    rows = [make_row(f"tiny/{number:03d}ü", text="t" * number) for number in range(40)]
    failures = [Failure(id="f", path="f.wav", reason="silent")]
    duplicates = [Duplicate(id="d", path="d.wav", original_id="tiny/001ü")]
    return write_cache("whole.h5", rows, failures, duplicates, spec=spec, software={"sslfeat": "1"})


def everything(path):
    """All that a cache promises, or CacheError."""
    with FeatureCache(path) as cache:
        columns = {name: cache.column(name).tolist() for name in TABLES["utterances"]}
        features = [cache.embeddings(name).tobytes() for name in cache.poolings]
        frames = [
            cache.frames(index, layer).tobytes() for index in range(len(cache)) for layer in cache.layers
        ]
        facts = (cache.spec, cache.fingerprint, cache.software, cache.complete)
        return columns, features, frames, facts, cache.failures, cache.duplicates


def check_flips(path, flips):
    content, expected = path.read_bytes(), everything(path)
    silent = 0
    for generator in map(random.Random, range(flips)):
        changed = bytearray(content)
        for _ in range(generator.choice([1, 1, 2, 5])):
            changed[generator.randrange(len(changed))] ^= 1 << generator.randrange(8)
        path.write_bytes(changed)
        try:
            found = everything(path)
        except CacheError:
            continue
        assert found == expected
        silent += 1
    # Most of the file is numbers: nearly every flip must be seen.
    assert silent < flips / 3


def test_flipped_bits_are_never_silent(whole):
    check_flips(whole, 150)


@pytest.mark.slow
def test_more_flipped_bits_are_never_silent(whole):
    check_flips(whole, 20_000)


def test_every_byte_of_the_promised_numbers_is_covered(whole):
    with FeatureCache(whole) as cache:
        extents = {name: extent for name, extent in cache._file.extents.items() if extent.nbytes}
    content = whole.read_bytes()
    generator = random.Random(0)
    for name, extent in extents.items():
        changed = bytearray(content)
        changed[extent.offset + generator.randrange(extent.nbytes)] ^= 1 << generator.randrange(8)
        whole.write_bytes(changed)
        dataset = name.removeprefix("checksums/")
        with pytest.raises(CacheError, match=f"whole.h5: '{dataset}' is damaged"):
            everything(whole)


def test_a_lost_or_misplaced_sector_is_seen(whole):
    with FeatureCache(whole) as cache:
        extent = cache._file.extents["frames/values"]
    content = whole.read_bytes()
    for size in (512, 4096):
        for source in (None, extent.offset + 8192):
            changed = bytearray(content)
            changed[extent.offset : extent.offset + size] = (
                bytes(size) if source is None else content[source : source + size]
            )
            whole.write_bytes(changed)
            with pytest.raises(CacheError, match="'frames/values' is damaged"):
                everything(whole)


def test_cut_short_at_any_length(whole):
    content = whole.read_bytes()
    lengths = {
        0,
        1,
        7,
        8,
        9,
        47,
        48,
        100,
        len(content) - 1,
        *np.linspace(10, len(content), 60, dtype=int) - 1,
    }
    for length in sorted(lengths):
        whole.write_bytes(content[:length])
        with pytest.raises(CacheError, match=r"whole\.h5: (cut short|damaged|not an HDF5 file)"):
            FeatureCache(whole)


def test_cut_short_while_it_is_open(whole):
    with FeatureCache(whole) as cache:
        with whole.open("r+b") as file:
            file.truncate(cache._file.extents["features/mean"].offset + 10)
        with pytest.raises(CacheError, match=r"whole\.h5: 'features/mean' is cut short"):
            cache.features(0)


def test_other_bytes_behind_the_file_do_no_harm(whole):
    expected = everything(whole)
    with whole.open("ab") as file:
        file.write(b"tail" * 100)
    assert everything(whole) == expected


# Writes caches a, b, ... for ever: even rounds by CacheWriter, odd ones by merge; says when it begins.
WRITING = """
import itertools, sys
import numpy as np
from cache import CacheWriter, FeatureSpec, Row, Utterance, merge

spec = FeatureSpec(model_id="", revision="", weights_hash="", architecture="", num_hidden_layers=1, hidden_size=256,
                   layers=(0, 1), pooling=("mean",), normalise=True)

def write(path, first):
    with CacheWriter(path, spec, overwrite=True) as writer:
        for number in range(first, first + 300):
            row = Row(utterance=Utterance(id=f"{number:06d}", path=""), audio_hash="", num_samples=1, num_frames=1)
            writer.add(row, {"mean": np.full((2, 256), number, np.float32)})

folder = sys.argv[1]
write(folder + "/all.h5", 0)
print("ready", flush=True)
for number in itertools.count():
    write(folder + "/part.h5", 300 * number)
    print("part", flush=True)
    merge(folder + "/all.h5", [folder + "/all.h5", folder + "/part.h5"])
    print("merged", number, flush=True)
"""


def check_kills(folder, kills):
    """Kill the writer at any instant: all that is under a final name is whole, and what it reported is in it."""
    for seed in range(kills):
        generator = random.Random(seed)
        process = subprocess.Popen(
            [sys.executable, "-c", WRITING, str(folder)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "ready\n"
        time.sleep(generator.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        reported = process.stdout.read().splitlines()
        process.wait()
        process.stdout.close()
        merged = sum(line.startswith("merged") for line in reported)
        for path in folder.glob("*.h5"):
            with FeatureCache(path) as cache:
                assert cache.verify() == []
                numbers = np.array(cache.utterance_ids, dtype=float)
                assert np.array_equal(cache.features(1), np.repeat(numbers[:, None], 256, axis=1))
                if path.name == "all.h5":
                    assert np.array_equal(numbers, np.arange(len(numbers)))
                    assert len(numbers) >= max(300, 300 * merged)
                else:
                    assert len(numbers) == 300
        # What is left has no final name, and can be told from what has.
        for path in set(folder.iterdir()) - set(folder.glob("*.h5")):
            assert path.name.startswith((".all.h5.", ".part.h5."))
            assert path.suffix == ".tmp"
            path.unlink()
        if (folder / "part.h5").exists():
            merge(folder / "all.h5", [folder / "all.h5", folder / "part.h5"])


def test_killed_at_any_instant(tmp_path):
    check_kills(tmp_path, 15)


@pytest.mark.slow
def test_killed_at_many_instants(tmp_path):
    check_kills(tmp_path, 150)


@pytest.mark.parametrize("method", ["write", "flush", "truncate"])
def test_ctrl_c_while_hdf5_writes_is_still_one(whole, tmp_path, monkeypatch, method):
    """HDF5 calls these, and would make an error of its own of what they raise."""
    original = getattr(DurableFile, method)

    def interrupted(self, *arguments):
        signal.raise_signal(signal.SIGINT)
        return original(self, *arguments)

    monkeypatch.setattr(DurableFile, method, interrupted)
    with pytest.raises(KeyboardInterrupt):
        merge(tmp_path / "merged.h5", [whole])
    assert [path.name for path in tmp_path.iterdir()] == ["whole.h5"]


def test_ctrl_c_while_hdf5_reads_is_still_one(whole, monkeypatch):
    class Interrupting(raw._File):
        def readinto(self, block):
            signal.raise_signal(signal.SIGINT)
            return super().readinto(block)

    monkeypatch.setattr("cache.raw._File", Interrupting)
    with pytest.raises(KeyboardInterrupt):
        FeatureCache(whole)


def test_a_disk_that_cannot_be_read_is_named(whole, monkeypatch):
    def failing(*_):
        raise OSError(errno.EIO, "Input/output error")

    with FeatureCache(whole) as cache:
        monkeypatch.setattr("os.preadv", failing)
        with pytest.raises(
            CacheError, match=r"whole\.h5: 'features/mean' can't be read: Input/output error\."
        ):
            cache.features(0)
