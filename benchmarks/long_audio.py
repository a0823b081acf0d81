"""Peak memory by duration, and how far chunks are from the whole: ``python -m benchmarks.long_audio EMODB_DIR``.

Recordings of one minute, ten minutes and two hours are made of the corpus's files one after another, and each is extracted by the
command in a process of its own, whose peak of resident memory is told. The error is that of pooled mean and deviation, over
layers, of chunks against the same recording in one piece: the largest norm of the difference over the norm; two hours in one
piece would not fit.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.machine import processor
from cache import FeatureCache
from sslfeat.audio import decode

SECONDS = {"1 min": 60, "10 min": 600, "2 h": 7200}
COMMAND = """
import resource, sys
sys.argv = ["sslfeat", *sys.argv[1:]]
from cli import main
try:
    main()
finally:
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def make(path: Path, files: list[Path], seconds: int) -> None:
    """Write a recording of so many seconds, of the files over and over."""
    left = 16_000 * seconds
    with soundfile.SoundFile(path, "w", 16_000, 1) as out:
        while left:
            for file in files:
                samples = decode(file).waveform[:left]
                out.write(samples)
                left -= len(samples)


def run(
    audio: Path, folder: Path, model: str, chunk_seconds: float
) -> tuple[float, int, dict[str, np.ndarray]]:
    """Extract the audio; return the wall time, the peak in MB and the pooled layers."""
    cache_path = folder / "out.h5"
    began = time.perf_counter()
    done = subprocess.run(
        [
            *(sys.executable, "-c", COMMAND, "extract", str(audio), "--pattern", "{label}.wav"),
            *("-o", str(cache_path), "--model", model, "--chunk-seconds", str(chunk_seconds), "--overwrite", "--quiet"),
        ],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    wall = time.perf_counter() - began
    with FeatureCache(cache_path) as cache:
        pooled = {
            name: np.stack([cache.features(layer=layer, pooling=name)[0] for layer in cache.spec.layers])
            for name in ("mean", "std")
        }
    return wall, int(done.stdout.rsplit("peak", 1)[1]), pooled


def main() -> None:
    """Run, print, and keep the numbers with the machine's name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--chunk-seconds", type=float, default=60.0)
    parser.add_argument("--only", nargs="*", default=list(SECONDS), choices=list(SECONDS))
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    files = sorted(options.corpus.rglob("*.wav"))
    rows = {}
    for name in options.only:
        with tempfile.TemporaryDirectory() as text:
            folder = Path(text)
            (folder / "audio").mkdir()
            make(folder / "audio" / "speech.wav", files, SECONDS[name])
            wall, peak, pooled = run(folder / "audio", folder, options.model, options.chunk_seconds)
            row = {"wall_s": round(wall, 1), "peak_mb": peak}
            if SECONDS[name] <= 600:
                _, whole_peak, whole = run(folder / "audio", folder, options.model, 0)
                row["one_piece_peak_mb"] = whole_peak
                row["error"] = max(
                    float(np.linalg.norm(one - other) / np.linalg.norm(other))
                    for key in pooled
                    for one, other in zip(pooled[key], whole[key], strict=True)
                )
            rows[name] = row
            print(name, row, flush=True)
    text = json.dumps(
        {
            "machine": f"{os.cpu_count()} x {processor()}",
            "model": Path(options.model).name,
            "chunk_seconds": options.chunk_seconds,
            "load": os.getloadavg()[0],
            "rows": rows,
        },
        indent=2,
    )
    if options.output:
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
