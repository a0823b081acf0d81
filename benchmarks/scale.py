"""What a run costs as the corpus grows: planning, writing, merging, resuming, reading back and verifying, in seconds and memory.

    python benchmarks/scale.py [--rows 10000 100000 1000000] [--folder DIR] [-o JSON]

The corpus is made: wav files of 25 ms of noise, a thousand to a folder. The encoder is a stub, here and nowhere else: it "encodes" an utterance
by copying its first samples, one layer of 16 numbers, so that what is timed is everything around an encoder: listing, decoding, hashing, parts,
checksums, merging; and what comes out can be checked against the files. A million rows need 5 GB, mostly of wav files.

Each stage is a process of its own. Its memory is what it had at its highest less what it had with the list of utterances made and the libraries
loaded, which is told apart. Writing ends before the parts are merged, so that merging is seen by itself; resuming is the same command again on
the finished cache. The times are with warm page caches: the files were just written.
"""

import argparse
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.machine import memory, processor
from cache import FeatureCache, FeatureSpec, Utterance
from sslfeat.extract import extract, software_versions
from sslfeat.parts import Parts
from sslfeat.plan import make_plan

RATE, SAMPLES, HIDDEN, FILES_PER_FOLDER = 16_000, 400, 16, 1000
# RIFF, 16-bit mono; sizes are those of SAMPLES.
HEADER = (
    b"RIFF" + (36 + 2 * SAMPLES).to_bytes(4, "little") + b"WAVEfmt " + (16).to_bytes(4, "little")
    + b"\1\0\1\0" + RATE.to_bytes(4, "little") + (2 * RATE).to_bytes(4, "little") + b"\2\0\x10\0"
    + b"data" + (2 * SAMPLES).to_bytes(4, "little")
)  # fmt: skip
SPEC = FeatureSpec(
    model_id="stub", revision="none", weights_hash="", architecture="none", num_hidden_layers=0,
    hidden_size=HIDDEN, layers=(0,), pooling=("mean",), normalise=False,
)  # fmt: skip


class StubEncoder:
    """Makes vectors of what it is given, as fast as an encoder can't."""

    device = torch.device("cpu")
    sample_rate, min_samples, pads = RATE, SAMPLES, True

    def encode(self, waveforms):
        frames = np.stack([waveform[:HIDDEN] for waveform in waveforms])[:, None]
        return torch.ones(len(waveforms), dtype=torch.int64), iter([torch.from_numpy(frames)])


def samples(number):
    """Return the samples of a folder's files, (file, sample)."""
    return np.random.default_rng(number).integers(-(2**15), 2**15, (FILES_PER_FOLDER, SAMPLES), np.int16)


def make_files(folder, rows):
    for number in range(-(-rows // FILES_PER_FOLDER)):
        own = folder / f"wav/{number:04d}"
        own.mkdir(parents=True)
        for place, waveform in enumerate(samples(number)[: rows - number * FILES_PER_FOLDER]):
            (own / f"{place:03d}.wav").write_bytes(HEADER + waveform.tobytes())


def list_utterances(rows):
    return [
        Utterance(
            id=f"made/{number:07d}", path=f"wav/{number // FILES_PER_FOLDER:04d}/{number % FILES_PER_FOLDER:03d}.wav",
            corpus="made", speaker=f"made:{number % 500:03d}", sex=("female", "male")[number % 2],
            label=("anger", "neutral", "sadness")[number % 3],
        )
        for number in range(rows)
    ]  # fmt: skip


def plan(folder, utterances):
    """Compare what is asked with nothing at all."""
    with Parts(folder / "all.h5", SPEC) as parts:
        if len(make_plan(utterances, parts, folder).todo) != len(utterances):
            raise SystemExit("the plan lacks utterances")


def write(folder, utterances):
    Parts.finish = lambda parts, software: False
    extract(utterances, folder / "all.h5", root=folder, encoder=StubEncoder(), spec=SPEC)


def merge(folder, utterances):
    with Parts(folder / "all.h5", SPEC) as parts:
        parts.finish(software_versions())


def resume(folder, utterances):
    done = extract(utterances, folder / "all.h5", root=folder, encoder=StubEncoder(), spec=SPEC)
    if (done.num_kept, done.num_written) != (len(utterances), 0):
        raise SystemExit(f"{done.num_kept} of {len(utterances)} rows kept, {done.num_written} written")


def read_back(folder, utterances):
    with FeatureCache(folder / "all.h5") as cache:
        features = cache.features(0)
        if cache.utterance_ids[-1] != utterances[-1].id:
            raise SystemExit("the rows are not in the order of the ids")
    expected = samples(0)[: len(utterances), :HIDDEN].astype(np.float32) / 2**15
    if len(features) != len(utterances) or not np.array_equal(features[: len(expected)], expected):
        raise SystemExit("not the numbers that were written")


def verify(folder, utterances):
    with FeatureCache(folder / "all.h5") as cache:
        if found := cache.verify():
            raise SystemExit(found[0])


STAGES = (plan, write, merge, resume, read_back, verify)


def measured(stage, folder, rows, queue):
    empty = memory("VmRSS")
    utterances = list_utterances(rows)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    begin, used = time.perf_counter(), time.process_time()
    stage(folder, utterances)
    queue.put({
        "seconds": round(time.perf_counter() - begin, 3),
        "processor_seconds": round(time.process_time() - used, 3),
        "megabytes": round(memory("VmHWM") - before),
        "list_megabytes": round(before - empty),
    })  # fmt: skip


def scale(folder, rows):
    make_files(folder, rows)
    context, results = multiprocessing.get_context("spawn"), {}
    for stage in STAGES:
        queue = context.Queue()
        process = context.Process(target=measured, args=(stage, folder, rows, queue))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{stage.__name__}: exit status {process.exitcode}")
        results[stage.__name__] = queue.get()
        print(f"{rows:8} {stage.__name__:10} {results[stage.__name__]}", flush=True)
    results["file_megabytes"] = round((folder / "all.h5").stat().st_size / 1e6, 1)
    return results


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder by default")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "scale.json")
    options = parser.parse_args()
    record = {
        "device": f"{processor()}, {os.cpu_count()} cores, {platform.system()}",
        "versions": software_versions(),
        "load_before": [round(load, 1) for load in os.getloadavg()],
        "rows": {},
    }
    for rows in options.rows:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            record["rows"][str(rows)] = scale(Path(folder), rows)
    record["load_after"] = [round(load, 1) for load in os.getloadavg()]
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
