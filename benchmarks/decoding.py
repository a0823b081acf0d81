"""How fast audio is decoded, and how fast a long manifest is read: ``python -m benchmarks.decoding``.

Speech-like noise of 4 s a file is written to a temporary folder in each format; every file is decoded once to warm the
page cache, then timed: seconds of audio per second of processor time of one thread, and per second of wall clock with
several threads. The parts are timed alone on the same 48 kHz wav, so that the whole can be compared with their sum. The
loop that a user would write instead (soundfile, mean, scipy's polyphase filter) stands beside it.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

import numpy as np
import scipy
import soundfile
import soxr

from benchmarks.machine import memory, processor
from sslfeat.audio import decode
from sslfeat.manifest import read_manifest

SECONDS, NUM_FILES = 4, 50
FORMATS = (
    ("wav", 16_000, 1, "PCM_16"), ("wav", 44_100, 1, "PCM_16"), ("wav", 48_000, 1, "PCM_16"),
    ("wav", 48_000, 2, "PCM_24"), ("flac", 48_000, 1, "PCM_16"), ("ogg", 48_000, 1, "VORBIS"),
    ("mp3", 48_000, 1, "MPEG_LAYER_III"),
)  # fmt: skip


def per_processor_second(work: Callable[[], object], repeats: int) -> float:
    """Return seconds of audio per processor second, the best of some repeats."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return SECONDS * NUM_FILES / min(times)


def formats(folder: Path, repeats: int, threads: Sequence[int]) -> dict[str, dict[str, float]]:
    """Decode each format alone and in threads."""
    results = {}
    for suffix, rate, channels, subtype in FORMATS:
        noise = np.random.default_rng(0).normal(0, 0.1, (NUM_FILES, SECONDS * rate, channels)).clip(-1, 1)
        paths = [folder / f"{rate}-{channels}-{i}.{suffix}" for i in range(NUM_FILES)]
        for path, samples in zip(paths, noise, strict=True):
            soundfile.write(path, samples, rate, subtype)
            decode(path)
        row = {
            "one_thread": per_processor_second(lambda paths=paths: [decode(path) for path in paths], repeats)
        }
        for count in threads:
            with ThreadPoolExecutor(count) as pool:
                times = []
                for _ in range(repeats):
                    began = time.perf_counter()
                    list(pool.map(decode, paths))
                    times.append(time.perf_counter() - began)
            row[f"{count}_threads_wall"] = SECONDS * NUM_FILES / min(times)
        results[f"{suffix} {rate} Hz x{channels} {subtype}"] = row
    return results


def parts(folder: Path, repeats: int) -> dict[str, float]:
    """Time the parts of decoding, and the loop that a user would write, on 48 kHz mono wav."""
    paths = [folder / f"48000-1-{i}.wav" for i in range(NUM_FILES)]
    waves = [soundfile.read(path, dtype="float32")[0] for path in paths]
    loop = lambda path: scipy.signal.resample_poly(soundfile.read(path, dtype="float32")[0], 1, 3)  # noqa: E731
    return {
        "soundfile.read": per_processor_second(
            lambda: [soundfile.read(p, dtype="float32") for p in paths], repeats
        ),
        "soxr.resample HQ": per_processor_second(
            lambda: [soxr.resample(w, 48_000, 16_000) for w in waves], repeats
        ),
        "blake2b": per_processor_second(lambda: [blake2b(w.data) for w in waves], repeats),
        "soundfile and resample_poly": per_processor_second(lambda: [loop(p) for p in paths], repeats),
    }


def manifest(folder: Path, num_rows: int) -> dict[str, dict[str, float]]:
    """Read a manifest of many segments as a table and as JSON lines."""
    (folder / "audio/0000").mkdir(parents=True)
    (folder / "audio/0000/0000000.wav").touch()
    columns = ("file", "emotion", "speaker", "gender", "start", "end", "split")
    rows = [
        (
            f"audio/{i // 1000:04}/{i:07}.wav", ("angry", "happy", "sad", "neutral")[i % 4], f"s{i % 5000}", "MF"[i % 2],
            i % 100 / 2, i % 100 / 2 + 2.5, "train",
        )
        for i in range(num_rows)
    ]  # fmt: skip
    with (folder / "long.csv").open("w") as file:
        file.writelines(",".join(map(str, row)) + "\n" for row in (columns, *rows))
    with (folder / "long.jsonl").open("w") as file:
        file.writelines(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as alone:
        return {path.suffix: alone.submit(read, path).result() for path in sorted(folder.glob("long.*"))}


def read(path: Path) -> dict[str, float]:
    """Read one manifest, in a process that held nothing before."""
    before = memory("VmRSS")
    began, used = time.perf_counter(), time.process_time()
    count = len(read_manifest(path).utterances)
    return {
        "rows": count,
        "file_mb": path.stat().st_size / 1e6,
        "wall_s": time.perf_counter() - began,
        "processor_s": time.process_time() - used,
        "memory_mb": memory("VmHWM") - before,
    }


def main() -> None:
    """Run, print, and keep the numbers with the machine's name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="*", default=[2])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results = {
            "machine": f"{os.cpu_count()} x {processor()}",
            "load": os.getloadavg()[0],
            "soundfile": soundfile.__version__,
            "soxr": soxr.__version__,
            "unit": "seconds of audio per second",
            "manifest": manifest(folder, options.rows),
            "formats": formats(folder, options.repeats, options.threads),
            "parts of wav 48000 Hz x1": parts(folder, options.repeats),
        }
    text = json.dumps(results, indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
