"""The cache against what a user would otherwise write, and at a million rows.

    python benchmarks/cache.py [--rows 10000 100000 1000000] [--folder DIR]

The race: 2000 utterances of 13 layers of 768 numbers, mean and std, written and then read one layer at a time, by the cache, as one .npy
file per utterance, as one HDF5 dataset per utterance, and as one .npy file per layer. The scale table: parts of 20000 rows with ids interleaved as
batches sorted by length leave them, merged into one cache; vectors are made, not extracted. Each step of it is a process of its own, so that
its peak of memory is its own.
"""

import argparse
import json
import multiprocessing
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

from cache import CacheWriter, FeatureCache, FeatureSpec, Row, Utterance, merge

UTTERANCES, LAYERS, HIDDEN = 2000, 13, 768
PART_ROWS, SCALE_LAYERS, SCALE_HIDDEN = 20_000, 3, 256


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


def median_seconds(work, repeats=7):
    taken = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


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


def write_parts(folder, rows):
    spec, parts = make_spec(SCALE_LAYERS, SCALE_HIDDEN, ("mean",)), -(-rows // PART_ROWS)
    generator = np.random.default_rng(0)
    for part in range(parts):
        with CacheWriter(folder / f"part{part:04d}.h5", spec) as writer:
            for number in range(part, rows, parts):
                vectors = generator.standard_normal((SCALE_LAYERS, SCALE_HIDDEN), dtype=np.float32)
                writer.add(make_row(number), {"mean": vectors})


def merge_parts(folder, rows):
    merge(folder / "all.h5", sorted(folder.glob("part*.h5")))


def list_rows(folder, rows):
    """What a run that finds its work done has to read."""
    cache = FeatureCache(folder / "all.h5")
    known = dict(zip(cache.utterance_ids.tolist(), zip(cache.column("file_size").tolist(),
                 cache.column("file_mtime_ns").tolist(), strict=True), strict=True))  # fmt: skip
    if len(known) != rows:
        raise SystemExit(f"{len(known)} of {rows} rows")


def read_layer(folder, rows):
    FeatureCache(folder / "all.h5").features(1)


def verify(folder, rows):
    if found := FeatureCache(folder / "all.h5").verify():
        raise SystemExit(found[0])


def measured(step, folder, rows, queue):
    begin = time.perf_counter()
    step(folder, rows)
    seconds = time.perf_counter() - begin
    # Not getrusage: there a new process begins with the peak of the one that started it.
    (peak,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    queue.put((seconds, int(peak.split()[1]) / 1000))


def scale(folder, rows):
    context, results = multiprocessing.get_context("spawn"), {}
    for step in (write_parts, merge_parts, list_rows, read_layer, verify):
        queue = context.Queue()
        process = context.Process(target=measured, args=(step, folder, rows, queue))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{step.__name__}: exit status {process.exitcode}")
        seconds, megabytes = queue.get()
        results[step.__name__] = {"seconds": round(seconds, 3), "peak_megabytes": round(megabytes)}
        print(f"{rows:8} {step.__name__:12} {results[step.__name__]}", flush=True)
    cache = FeatureCache(folder / "all.h5")
    np.save(folder / "layer.npy", cache.features(1))
    plain = median_seconds(lambda: np.load(folder / "layer.npy"))
    ours = median_seconds(lambda: cache.features(1))
    results["layer"] = {
        "megabytes": round((folder / "layer.npy").stat().st_size / 1e6, 1),
        "read_ms": round(1000 * ours, 2),
        "numpy_load_ms": round(1000 * plain, 2),
        "share_of_numpy_load": round(plain / ours, 2),
    }
    results["file_megabytes"] = round(folder_size(folder / "all.h5") / 1e6, 1)
    print(f"{rows:8} {'layer':12} {results['layer']}", flush=True)
    return results


def processor():
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder by default")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "cache.json")
    options = parser.parse_args()
    results = {
        "device": f"{processor()}, {os.cpu_count()} cores, {platform.system()}",
        "load_before": [round(load, 1) for load in os.getloadavg()],
        "versions": {"numpy": np.__version__, "h5py": h5py.__version__, "hdf5": h5py.version.hdf5_version},
        "race": {"utterances": UTTERANCES, "layers": LAYERS, "hidden_size": HIDDEN, "statistics": 2},
        "scale": {"part_rows": PART_ROWS, "layers": SCALE_LAYERS, "hidden_size": SCALE_HIDDEN, "rows": {}},
    }
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        results["race"]["results"] = race(Path(folder))
    for rows in options.rows:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            results["scale"]["rows"][str(rows)] = scale(Path(folder), rows)
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
