"""The cache against what a user would otherwise write, and one layer of it against numpy.load of the same bytes.

    python benchmarks/cache.py [--rows 2000 20000 100000] [--folder DIR]

The race: 2000 utterances of 13 layers of 768 numbers, mean and std, written and then read one layer at a time, by the cache, as one .npy
file per utterance, as one HDF5 dataset per utterance, and as one .npy file per layer. Then one layer of so many rows, read by turns by the
cache, which checks every block, and by numpy.load, which checks nothing; the best of each, and the median of the ratios of neighbours. Page
caches are warm. ``scale.py`` has the million rows.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.machine import processor
from cache import CacheWriter, FeatureCache, FeatureSpec, Row, Utterance

UTTERANCES, LAYERS, HIDDEN = 2000, 13, 768
READ_LAYERS, READ_REPEATS = 2, 21


def make_spec(layers, hidden, pooling):
    return FeatureSpec(
        model_id="made up", revision="none", weights_hash="", architecture="none", num_hidden_layers=layers - 1,
        hidden_size=hidden, layers=tuple(range(layers)), pooling=pooling, normalise=False,
    )  # fmt: skip


def make_row(number):
    utterance = Utterance(
        id=f"corpus/{number:08d}", path=f"wav/{number % 1000:03d}/{number:08d}.wav", corpus="corpus",
        speaker=f"corpus:{number % 500:03d}", sex="female", label="neutral",
    )  # fmt: skip
    return Row(
        utterance=utterance, audio_hash=f"{number:032x}", num_samples=32000, num_frames=99,
        file_size=64044, file_mtime_ns=1_700_000_000_000_000_000 + number,
    )  # fmt: skip


def seconds_of(work):
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def median_seconds(work, repeats=7):
    return statistics.median(seconds_of(work) for _ in range(repeats))


def folder_size(path):
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")))


def race(folder):
    numbers = np.random.default_rng(0).standard_normal((UTTERANCES, 2, LAYERS, HIDDEN), dtype=np.float32)

    def write_cache(path):
        with CacheWriter(path, make_spec(LAYERS, HIDDEN, ("mean", "std")), overwrite=True) as writer:
            for number in range(UTTERANCES):
                writer.add(make_row(number), {"mean": numbers[number, 0], "std": numbers[number, 1]})

    def write_npy(path):
        path.mkdir(exist_ok=True)
        for number in range(UTTERANCES):
            np.save(path / f"{number:08d}.npy", numbers[number])

    def write_datasets(path):
        with h5py.File(path, "w") as file:
            for number in range(UTTERANCES):
                file.create_dataset(f"{number:08d}", data=numbers[number])

    def write_layers(path):
        path.mkdir(exist_ok=True)
        for layer in range(LAYERS):
            np.save(path / f"{layer}.npy", numbers[:, 0, layer])
            np.save(path / f"{layer}.std.npy", numbers[:, 1, layer])

    def read_datasets(path):
        with h5py.File(path) as file:
            return np.stack([file[name][0, 9] for name in sorted(file)])

    contestants = {
        "cache": (write_cache, lambda path: FeatureCache(path).features(9)),
        "one .npy per utterance": (
            write_npy,
            lambda path: np.stack([np.load(file, mmap_mode="r")[0, 9] for file in sorted(path.iterdir())]),
        ),
        "one HDF5 dataset per utterance": (write_datasets, read_datasets),
        "one .npy per layer, no ids or checksums": (write_layers, lambda path: np.load(path / "9.npy")),
    }
    results = {}
    for name, (write, read) in contestants.items():
        path = folder / name.replace(" ", "_").replace(".", "")
        write_seconds = median_seconds(lambda write=write, path=path: write(path), 3)
        if not np.array_equal(read(path), numbers[:, 0, 9]):
            raise SystemExit(f"{name}: not the numbers that were written")
        results[name] = {
            "write_seconds": round(write_seconds, 3),
            "read_layer_ms": round(1000 * median_seconds(lambda read=read, path=path: read(path)), 2),
            "megabytes": round(folder_size(path) / 1e6, 1),
        }
        print(f"{name:42} {results[name]}", flush=True)
    return results


def layer_read(folder, rows):
    """Read one layer by turns as the cache does, every block checked, and as numpy.load does the same bytes."""
    generator = np.random.default_rng(0)
    with CacheWriter(folder / "cache.h5", make_spec(READ_LAYERS, HIDDEN, ("mean",))) as writer:
        for number in range(rows):
            vectors = generator.standard_normal((READ_LAYERS, HIDDEN), dtype=np.float32)
            writer.add(make_row(number), {"mean": vectors})
    cache = FeatureCache(folder / "cache.h5")
    np.save(folder / "layer.npy", cache.features(1))
    if not np.array_equal(cache.features(1), np.load(folder / "layer.npy")):
        raise SystemExit("not the numbers that were written")
    ours, plain = [], []
    for _ in range(READ_REPEATS):
        plain.append(seconds_of(lambda: np.load(folder / "layer.npy")))
        ours.append(seconds_of(lambda: cache.features(1)))
    found = {
        "megabytes": round((folder / "layer.npy").stat().st_size / 1e6, 1),
        "read_ms": round(1000 * min(ours), 2),
        "numpy_load_ms": round(1000 * min(plain), 2),
        "share_of_numpy_load": round(min(plain) / min(ours), 2),
        "median_share": round(statistics.median(b / a for a, b in zip(ours, plain, strict=True)), 2),
    }
    print(f"{rows:8} rows, one layer {found}", flush=True)
    return found


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="*", default=[2000, 20_000, 100_000])
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder by default")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "cache.json")
    options = parser.parse_args()
    results = {
        "device": f"{processor()}, {os.cpu_count()} cores, {platform.system()}",
        "load_before": [round(load, 1) for load in os.getloadavg()],
        "versions": {"numpy": np.__version__, "h5py": h5py.__version__, "hdf5": h5py.version.hdf5_version},
        "race": {"utterances": UTTERANCES, "layers": LAYERS, "hidden_size": HIDDEN, "statistics": 2},
        "layer": {"hidden_size": HIDDEN, "repeats": READ_REPEATS, "rows": {}},
    }
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        results["race"]["results"] = race(Path(folder))
    for rows in options.rows:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            results["layer"]["rows"][str(rows)] = layer_read(Path(folder), rows)
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
