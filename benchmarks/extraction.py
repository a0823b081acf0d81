"""Extraction raced against what a user would otherwise run: the same files, all layers, mean and std, from audio on disk to features on disk.

    python benchmarks/extraction.py [--device cuda] [--arch base|large] [--corpus DIR] [--every N] [--only NAME ...] [-o JSON]

The encoder has the published configuration of wav2vec2-base (or of wav2vec2-large-960h) and random weights, which are saved and loaded as any
checkpoint is. Each contestant is a process of its own, so that its peak of memory is its own, and idle while the others run. The files are
dealt into rounds; in each round every contestant does that round's files, in rotated order, so that ratios are of runs that lie beside each
other (on a GPU, where they take seconds, every round is all files). Loading, exporting and three files of warm-up come before the clock.
TF32 is off throughout: float32 means float32.

The share of the peak is FLOP per second over what ``torch.mm`` reaches in the same process in the same precision. An encoder's FLOP per second
of audio are those of its products: 2 x taps x channels in x channels out x frames a second for each convolution (channels in of one group),
2 x inputs x outputs x frames a second for each linear layer; 13.9 GFLOP for base. Attention scores, which grow with the utterance, are not in it.
What is read past an utterance's end is not counted either, so that padding shows as a smaller share.

The error is the largest over utterances and layers of the norm of the difference from the first contestant over the norm, on mean and std
together. ``tables.py`` puts the results into the documents.
"""

import argparse
import contextlib
import functools
import gc
import importlib.metadata
import itertools
import json
import math
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import soundfile
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.machine import memory, processor
from cache import FeatureCache, Utterance
from sslfeat.encoder import Encoder
from sslfeat.extract import extract

RESULTS = Path(__file__).parent / "results"
EMODB = Path(__file__).parents[2] / "shared/corpora/emodb/wav"
RATE = 16_000
CONFIGURATIONS = {
    "base": {},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
}  # fmt: skip
WARM_UP_FILES = 3
PEAK_SIZE = {"cpu": 2048, "cuda": 8192}
PEAK_REPEATS = 4
BATCH, BATCH_SECONDS = 32, 600


def flop_per_second(config):
    """Return the FLOP that the encoder's products cost for one second of audio."""
    flop, channels, frames = 0, 1, RATE
    for taps, stride, made in zip(config.conv_kernel, config.conv_stride, config.conv_dim, strict=True):
        frames /= stride
        flop += 2 * taps * channels * made * frames
        channels = made
    hidden = config.hidden_size
    flop += 2 * channels * hidden * frames
    flop += (
        2 * config.num_conv_pos_embeddings * hidden // config.num_conv_pos_embedding_groups * hidden * frames
    )
    block = 4 * hidden * hidden + 2 * hidden * config.intermediate_size
    return flop + 2 * config.num_hidden_layers * block * frames


def read(path):
    waveform, _ = soundfile.read(path, dtype="float32")
    return waveform


def states_of(output):
    """Return all layers of what transformers returned; the last as all its versions agree on it."""
    return [*output.hidden_states[:-1], output.last_hidden_state]


def load(setting):
    model = transformers.AutoModel.from_pretrained(setting["model"]).eval().to(setting["device"])
    return model, transformers.AutoFeatureExtractor.from_pretrained(setting["model"])


def one_at_a_time(setting, *, autocast=False):
    """As EmoBox, FunASR and most scripts do."""
    model, normalise = load(setting)
    device = setting["device"]

    @torch.inference_mode()
    def run(files, folder):
        features = []
        for file in files:
            inputs = normalise(read(file), sampling_rate=RATE, return_tensors="pt").input_values.to(device)
            with torch.autocast(device.partition(":")[0], torch.bfloat16, enabled=autocast):
                states = torch.stack(states_of(model(inputs, output_hidden_states=True)))[:, 0].float()
            pooled = torch.cat([states.mean(1), states.std(1, correction=0)], 1)
            features.append(pooled.cpu().numpy())
        np.save(folder / "features.npy", np.stack(features))

    return run, lambda folder, _: np.load(folder / "features.npy")


def pool_padded(model, normalise, waveforms, device):
    """Return mean and std over the frames that the attention mask leaves, (utterance, layer, 2 x hidden)."""
    inputs = normalise(
        waveforms, sampling_rate=RATE, padding=True, return_attention_mask=True, return_tensors="pt"
    ).to(device)
    states = torch.stack(states_of(model(**inputs, output_hidden_states=True)), 1)
    mask = model._get_feature_vector_attention_mask(states.shape[2], inputs.attention_mask)
    mask = mask[:, None, :, None].float()
    count = mask.sum(2)
    mean = (states * mask).sum(2) / count
    variance = ((states - mean[:, :, None]) ** 2 * mask).sum(2) / count
    return torch.cat([mean, variance.sqrt()], 2).cpu().numpy()


def padded_batches(setting):
    """As Decoding-Emotions and mteb do, with the mask that transformers' documentation asks for."""
    model, normalise = load(setting)

    @torch.inference_mode()
    def run(files, folder):
        features = []
        for begin in range(0, len(files), BATCH):
            waveforms = [read(file) for file in files[begin : begin + BATCH]]
            features.append(pool_padded(model, normalise, waveforms, setting["device"]))
        np.save(folder / "features.npy", np.concatenate(features))

    return run, lambda folder, _: np.load(folder / "features.npy")


def long_batches(setting):
    """As lhotse does: 600 s of padded audio in file order, read ahead, one dataset per utterance, written behind."""
    model, normalise = load(setting)

    def batches(files):
        batch, longest = [], 0.0
        for file in files:
            longest = max(longest, soundfile.info(file).duration)
            if batch and longest * (len(batch) + 1) > BATCH_SECONDS:
                yield batch
                batch, longest = [], soundfile.info(file).duration
            batch.append(file)
        yield batch

    @torch.inference_mode()
    def run(files, folder):
        def write(names, features):
            for name, values in zip(names, features, strict=True):
                store.create_dataset(name.stem, data=values)
            store.flush()

        with h5py.File(folder / "features.h5", "w") as store, ThreadPoolExecutor(1) as writer:
            with ThreadPoolExecutor(1) as reader:
                ahead = reader.map(lambda batch: (batch, [read(file) for file in batch]), batches(files))
                written = [
                    writer.submit(write, batch, pool_padded(model, normalise, waveforms, setting["device"]))
                    for batch, waveforms in ahead
                ]
            for future in written:
                future.result()

    def found(folder, files):
        with h5py.File(folder / "features.h5") as store:
            return np.stack([store[file.stem][()] for file in files])

    return run, found


def one_layer_per_run(setting):
    """As nkululeko does: the encoder cut off after a layer, one file at a time, all again for the next layer."""
    model, normalise = load(setting)
    blocks = model.encoder.layers

    @torch.inference_mode()
    def run(files, folder):
        for layer in range(len(blocks) + 1):
            model.encoder.layers = blocks[:layer]
            features = []
            for file in files:
                inputs = normalise(read(file), sampling_rate=RATE, return_tensors="pt").input_values
                state = model(inputs.to(setting["device"])).last_hidden_state[0]
                features.append(torch.cat([state.mean(0), state.std(0, correction=0)]).cpu().numpy())
            np.save(folder / f"{layer}.npy", np.stack(features))

    return run, lambda folder, _: np.stack([np.load(folder / f"{k}.npy") for k in range(len(blocks) + 1)], 1)


class Pooled(torch.nn.Module):
    """The model with its pooling, as one graph."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, inputs):
        states = torch.stack(states_of(self.model(inputs, output_hidden_states=True)))[:, 0]
        return torch.cat([states.mean(1), states.std(1, correction=0)], 1)


def export_onnx(model_directory, path):
    model = transformers.AutoModel.from_pretrained(model_directory).eval()
    samples = torch.export.Dim("samples", min=400, max=60 * 60 * RATE)
    exported = torch.onnx.export(
        Pooled(model).eval(), (torch.randn(1, 3 * RATE),), dynamo=True, dynamic_shapes=({1: samples},), verbose=False
    )  # fmt: skip
    exported.save(path, external_data=True)


def onnx_runtime(setting):
    """The model exported once, all layers pooled in the graph, one file at a time."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    provider = "CPUExecutionProvider" if setting["device"] == "cpu" else "CUDAExecutionProvider"
    session = onnxruntime.InferenceSession(setting["onnx"], options, providers=[provider])
    name = session.get_inputs()[0].name
    normalise = transformers.AutoFeatureExtractor.from_pretrained(setting["model"])

    def run(files, folder):
        features = []
        for file in files:
            inputs = normalise(read(file), sampling_rate=RATE, return_tensors="np").input_values
            features.append(session.run(None, {name: inputs.astype(np.float32)})[0])
        np.save(folder / "features.npy", np.stack(features))

    return run, lambda folder, _: np.load(folder / "features.npy")


class Stopwatch:
    """How long an encoder computes: on a CPU of each thread's time, on a GPU of the device's."""

    def __init__(self, encoder):
        self._on_gpu = encoder.device.type == "cuda"
        self._encode = encoder.encode
        self.start()
        encoder.encode = self.encode

    def start(self):
        self._spans = []
        self._origin = self._now()

    def _now(self):
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _timed(self, work, *arguments):
        begin = self._now()
        try:
            return work(*arguments)
        finally:
            self._spans.append((begin, self._now()))

    def encode(self, waveforms):
        num_frames, states = self._timed(self._encode, waveforms)
        return num_frames, self._layers(iter(states))

    def _layers(self, states):
        while (state := self._timed(next, states, None)) is not None:
            yield state

    def seconds(self):
        """Return the seconds that were spent in the encoder: the GPU's, or the mean of its threads on a CPU."""
        if not self._on_gpu:
            steps = sorted([(begin, 1) for begin, _ in self._spans] + [(end, -1) for _, end in self._spans])
            num_threads = max(itertools.accumulate(step for _, step in steps))
            return sum(end - begin for begin, end in self._spans) / num_threads
        torch.cuda.synchronize()
        at = sorted((self._origin.elapsed_time(a), self._origin.elapsed_time(b)) for a, b in self._spans)
        busy = reached = 0.0
        for begin, end in at:
            busy += max(0.0, end - max(begin, reached))
            reached = max(reached, end)
        return busy / 1000


def ours(setting, *, precision="float32"):
    """The library's own function: reading ahead, parts, merge and all."""
    encoder = Encoder.load(setting["model"], device=setting["device"], precision=precision)
    stopwatch = Stopwatch(encoder)
    spec = encoder.spec(pooling=("mean", "std"))

    def run(files, folder):
        utterances = [Utterance(id=f"{number:08d}", path=str(file)) for number, file in enumerate(files)]
        stopwatch.start()
        done = extract(utterances, folder / "features.h5", root="/", encoder=encoder, spec=spec)
        if done.failures:
            raise SystemExit(f"{done.failures[0].path}: {done.failures[0].reason}")
        return stopwatch.seconds()

    def found(folder, files):
        with FeatureCache(folder / "features.h5") as cache:
            rows = np.concatenate([cache.embeddings("mean"), cache.embeddings("std")], 2)
            place = {name: row for row, name in enumerate(cache.utterance_ids.tolist())}
            place |= {one.id: place[one.original_id] for one in cache.duplicates}
        return rows[[place[f"{number:08d}"] for number in range(len(files))]]

    return run, found


REFERENCE = "transformers, one file at a time"
CONTESTANTS = {
    REFERENCE: one_at_a_time,
    "the same under autocast to bfloat16": functools.partial(one_at_a_time, autocast=True),
    f"padded batches of {BATCH}, masked": padded_batches,
    f"padded batches of {BATCH_SECONDS} s, as lhotse": long_batches,
    "one layer per run, as nkululeko": one_layer_per_run,
    "ONNX Runtime, one file at a time": onnx_runtime,
    "sslfeat": ours,
    "sslfeat, bfloat16": functools.partial(ours, precision="bfloat16"),
}
ONE_LAYER, ONNX = "one layer per run, as nkululeko", "ONNX Runtime, one file at a time"
IN_BFLOAT16 = {name for name in CONTESTANTS if "bfloat16" in name}


def why_skipped(name, setting):
    if name in IN_BFLOAT16 and setting["device"] == "cpu" and not torch.cpu._is_amx_tile_supported():
        return "this CPU has no AMX; --only bfloat16 runs it all the same"
    if name == ONNX:
        try:
            import onnxruntime
        except ImportError:
            return "onnxruntime isn't installed: pip install onnxruntime onnx onnxscript"
        if (
            setting["device"] != "cpu"
            and "CUDAExecutionProvider" not in onnxruntime.get_available_providers()
        ):
            return "this onnxruntime has no CUDA"
    return ""


def peak_flop(setting, dtype):
    """Return the FLOP per second that a large product of matrices reaches now, the best of several."""
    kind = setting["device"].partition(":")[0]
    size = PEAK_SIZE[kind]
    one, other = (torch.randn(size, size, device=setting["device"]).to(dtype) for _ in range(2))
    best = math.inf
    for _ in range(PEAK_REPEATS):
        begin = time.perf_counter()
        for _ in range(10 if kind == "cuda" else 1):
            one @ other
        if kind == "cuda":
            torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - begin) / (10 if kind == "cuda" else 1))
    return 2 * size**3 / best


def reset_peak_memory(setting):
    gc.collect()
    if setting["device"] == "cpu":
        Path("/proc/self/clear_refs").write_text("5")
    else:
        torch.cuda.reset_peak_memory_stats()


def peak_memory(setting):
    """Return the most memory held since the reset, in MB: of the process, or of the GPU."""
    if setting["device"] != "cpu":
        return torch.cuda.max_memory_allocated() / 1e6
    return memory("VmHWM")


def work(name, setting, connection):
    """Be one contestant: do each round's files when they come, and tell how it went."""
    try:
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        if setting["device"] != "cpu":
            torch.cuda.set_device(setting["device"])
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        dtype = torch.bfloat16 if name in IN_BFLOAT16 else torch.float32
        run, found = CONTESTANTS[name](setting)
        with tempfile.TemporaryDirectory(dir=setting["folder"]) as folder:
            run(setting["warm_up"], Path(folder))
        connection.send({"threads": torch.get_num_threads()})
        while files := connection.recv():
            peak = peak_flop(setting, dtype)
            reset_peak_memory(setting)
            with tempfile.TemporaryDirectory(dir=setting["folder"]) as folder:
                begin = time.perf_counter()
                encoding = run(files, Path(folder))
                seconds = time.perf_counter() - begin
                told = {"seconds": seconds, "peak_megabytes": peak_memory(setting), "peak_flop": peak}
                if encoding is not None:
                    told["encoder_seconds"] = encoding
                connection.send(told | {"features": found(Path(folder), files)})
    except Exception as error:
        with contextlib.suppress(OSError):
            connection.send({"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"})
        raise


class Contestant:
    """A contestant's process, as the race sees it."""

    def __init__(self, name, setting):
        context = multiprocessing.get_context("spawn")
        self.name, self.rounds, self.error, self.failure = name, [], 0.0, ""
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=work, args=(name, setting, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self.threads = self._told().get("threads")

    def _told(self):
        try:
            told = self._connection.recv()
        except EOFError:
            self._process.join()
            told = {"error": f"its process ended with status {self._process.exitcode}"}
        if "error" in told:
            self.failure = told["error"]
            print(f"{self.name}: failed: {self.failure}", flush=True)
        return told

    def race(self, files, seconds):
        self._connection.send(files)
        told = self._told()
        features = told.pop("features", None)
        if not self.failure:
            self.rounds.append({"audio_seconds": sum(seconds[file] for file in files)} | told)
        return features

    def close(self):
        with contextlib.suppress(OSError):
            self._connection.send([])
        self._process.join()


def relative_error(features, expected):
    difference = np.linalg.norm(features.astype(np.float64) - expected, axis=2)
    return float((difference / np.linalg.norm(expected.astype(np.float64), axis=2)).max())


def summary(contestant, reference, flop):
    """Return what the table shows of one contestant."""
    rounds = contestant.rounds
    speeds = [one["audio_seconds"] / one["seconds"] for one in rounds]
    first = [one["audio_seconds"] / one["seconds"] for one in reference.rounds]
    made = {
        "audio_seconds_per_second": statistics.median(speeds),
        "ratio": statistics.median(ours / theirs for ours, theirs in zip(speeds, first, strict=True)),
        "peak_megabytes": round(max(one["peak_megabytes"] for one in rounds)),
        "share_of_matrix_peak": flop * statistics.median(speeds) / max(one["peak_flop"] for one in rounds),
        "matrix_peak_gflops": max(one["peak_flop"] for one in rounds) / 1e9,
        "error": contestant.error,
        "rounds": rounds,
    }
    if "encoder_seconds" in rounds[0]:
        made["share_outside_encoder"] = statistics.median(
            1 - one["encoder_seconds"] / one["seconds"] for one in rounds
        )
        inside = sum(one["audio_seconds"] for one in rounds) / sum(one["encoder_seconds"] for one in rounds)
        made["share_of_matrix_peak_inside_encoder"] = flop * inside / max(one["peak_flop"] for one in rounds)
    return made


def show(name, made):
    outside = made.get("share_outside_encoder")
    print(
        f"{name:38} {made['audio_seconds_per_second']:9.1f} {made['ratio']:7.2f} {made['peak_megabytes']:8} "
        f"{made['share_of_matrix_peak']:6.0%} {made['error']:9.1e} {'' if outside is None else f'{outside:.0%}':>8}",
        flush=True,
    )


def device_name(device):
    if device != "cpu":
        return torch.cuda.get_device_name(device)
    return f"{processor()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"


def versions():
    found = {"python": platform.python_version()}
    for name in ("torch", "transformers", "onnxruntime", "soundfile", "h5py", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--arch", choices=list(CONFIGURATIONS), default="base")
    parser.add_argument("--corpus", type=Path, default=EMODB, help="folder of 16 kHz wav files")
    parser.add_argument("--every", type=int, default=1, help="take every Nth file")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--only", nargs="+", default=[], help="parts of names; the first always runs")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    device = "cuda:0" if options.device == "cuda" else options.device
    files = sorted(options.corpus.resolve().rglob("*.wav"))[:: options.every]
    if len(files) < options.rounds:
        raise SystemExit(f"{options.corpus}: {len(files)} wav files; {options.rounds} rounds need as many.")
    seconds = {file: soundfile.info(file).duration for file in files}
    dealt = [files[number :: options.rounds] for number in range(options.rounds)]
    if device != "cpu":
        dealt = [files] * options.rounds
    chosen = [
        name for name in CONTESTANTS
        if not options.only or name == REFERENCE or any(part in name for part in options.only)
    ]  # fmt: skip
    record = {
        "device": device_name(device), "arch": options.arch, "versions": versions(),
        "corpus": options.corpus.resolve().parent.name, "files": len(files), "audio_seconds": round(sum(seconds.values()), 1),
        "load_before": [round(load, 1) for load in os.getloadavg()], "skipped": {}, "results": {},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        setting = {
            "device": device, "folder": folder, "model": f"{folder}/model", "onnx": f"{folder}/model.onnx",
            "warm_up": sorted(files, key=seconds.get)[:WARM_UP_FILES],
        }  # fmt: skip
        transformers.utils.logging.disable_progress_bar()
        torch.manual_seed(0)
        config = transformers.Wav2Vec2Config(**CONFIGURATIONS[options.arch])
        transformers.Wav2Vec2Model(config).save_pretrained(setting["model"])
        # As the published checkpoints' own: normalised, and no mask.
        transformers.Wav2Vec2FeatureExtractor(return_attention_mask=False).save_pretrained(setting["model"])
        flop = record["flop_per_audio_second"] = flop_per_second(config)
        for name in chosen:
            reason = why_skipped(name, setting)
            if reason and not (name in IN_BFLOAT16 and any("bfloat16" in part for part in options.only)):
                record["skipped"][name] = reason
        if ONNX in chosen and ONNX not in record["skipped"]:
            exporting = multiprocessing.get_context("spawn").Process(
                target=export_onnx, args=(setting["model"], setting["onnx"])
            )
            exporting.start()
            exporting.join()
            if exporting.exitcode:
                record["skipped"][ONNX] = f"the export ended with status {exporting.exitcode}"
        for name, reason in record["skipped"].items():
            print(f"{name}: skipped: {reason}.", flush=True)
        racing = [Contestant(name, setting) for name in chosen if name not in record["skipped"]]
        for number, own in enumerate(dealt):
            found, kept = {}, {}
            turn = number % len(racing)
            for contestant in racing[turn:] + racing[:turn]:
                # A run per layer takes as long as all the rest together.
                kept[contestant.name] = (
                    own[:: config.num_hidden_layers + 1] if contestant.name == ONE_LAYER else own
                )
                if not contestant.failure:
                    found[contestant.name] = contestant.race(kept[contestant.name], seconds)
            expected = found[REFERENCE]
            for contestant in racing:
                if not contestant.failure:
                    beside = expected[[own.index(file) for file in kept[contestant.name]]]
                    contestant.error = max(contestant.error, relative_error(found[contestant.name], beside))
            print(f"round {number + 1} of {options.rounds} done", flush=True)
        for contestant in racing:
            contestant.close()
    record["load_after"] = [round(load, 1) for load in os.getloadavg()]
    record["threads"] = racing[0].threads
    print(f"\n{'':38} {'audio s/s':>9} {'ratio':>7} {'peak MB':>8} {'share':>6} {'error':>9} {'outside':>8}")
    for contestant in racing:
        if contestant.failure:
            record["skipped"][contestant.name] = contestant.failure
            continue
        made = record["results"][contestant.name] = summary(contestant, racing[0], flop)
        if contestant.name == ONE_LAYER:
            made["files"] = sum(len(own[:: config.num_hidden_layers + 1]) for own in dealt)
        show(contestant.name, made)
    if made := record["results"].get(ONE_LAYER):
        print(
            f"{ONE_LAYER}: its rate was taken on {made['files']} files, each {config.num_hidden_layers + 1} times."
        )
    kind = device.partition(":")[0]
    path = options.output or RESULTS / f"extraction-{options.arch}-{kind}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
