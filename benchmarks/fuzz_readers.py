"""Feed mutated files to the audio and manifest readers; anything but a result or their own error is a finding.

    python benchmarks/fuzz_readers.py --runs 100000

Workers run under a memory limit and are killed where one input takes too long, so a crash of the C libraries, a hang and a
blow-up are findings too, kept as files. The seeds in tests/data/seeds are what ``--write-seeds`` writes; those in m4a, mp4
and webm are written and read where PyAV is installed, and left out where it isn't.
"""

import argparse
import importlib.util
import multiprocessing
import os
import random
import resource
import sys
import time
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).parents[1]
SEEDS = ROOT / "tests/data/seeds"
AUDIO = (
    ("pcm16.wav", "WAV", "PCM_16"), ("pcm24.wav", "WAV", "PCM_24"), ("u8.wav", "WAV", "PCM_U8"),
    ("float.wav", "WAV", "FLOAT"), ("double.wav", "WAV", "DOUBLE"), ("ulaw.wav", "WAV", "ULAW"),
    ("adpcm.wav", "WAV", "IMA_ADPCM"), ("gsm.wav", "WAV", "GSM610"), ("extensible.wav", "WAVEX", "PCM_16"),
    ("rf64.wav", "RF64", "PCM_16"), ("w64.w64", "W64", "PCM_16"), ("flac.flac", "FLAC", "PCM_16"),
    ("vorbis.ogg", "OGG", "VORBIS"), ("opus.opus", "OGG", "OPUS"), ("mp3.mp3", "MP3", "MPEG_LAYER_III"),
    ("aiff.aiff", "AIFF", "PCM_16"), ("au.au", "AU", "PCM_16"), ("caf.caf", "CAF", "PCM_16"),
)  # fmt: skip
VIDEO = ("aac.m4a", "film.mp4", "opus.webm")  # read by PyAV
TABLES = {
    "own.csv": 'path,label,speaker,sex,start,end\na.wav,angry,s1,F,0.5,1.5\n"b, c.wav",joy,s2,m,00:00:01.5,\n',
    "own.tsv": "file\temotion\tspk\na.wav\tsad\t3\nb.wav\thapiness\t4\n",
    "own.jsonl": '{"key": "u1", "wav": "a.wav", "emo": "hap", "length": 3.2}\n{"key": "u2", "wav": "b.wav", "emo": null}\n',
}
INTERESTING = (
    b"\x00",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\x00\x00\x00\x80",
    b"\x01\x00\x00\x00",
    b"\n",
    b'"',
)


def write_seeds() -> None:
    """Write the kept seeds: 60 ms of two tones and noise in every format, and three small tables.

    The mp4 has pictures too, as MELD's have.
    """
    SEEDS.mkdir(parents=True, exist_ok=True)
    t = np.arange(960) / 16_000
    noise = np.random.default_rng(0).normal(0, 0.02, len(t))
    wave = 0.3 * np.sin(2 * np.pi * 220 * t) + 0.2 * np.sin(2 * np.pi * 1_700 * t) + noise
    for name, container, subtype in AUDIO:
        soundfile.write(
            SEEDS / name,
            np.stack([wave, -0.5 * wave], 1) if "24" in name else wave,
            16_000,
            subtype,
            format=container,
        )
    for name, content in TABLES.items():
        (SEEDS / name).write_text(content, encoding="utf-8")
    if importlib.util.find_spec("av"):
        for name in VIDEO:
            write_container(SEEDS / name, wave.astype(np.float32))


def write_container(path: Path, wave: "np.typing.NDArray[np.float32]") -> None:
    """Write a waveform at 16 kHz with PyAV, beside three small pictures where it is an mp4."""
    import av

    with av.open(str(path), "w") as container:
        audio = container.add_stream(
            "libopus" if path.suffix == ".webm" else "aac", rate=16_000, layout="mono"
        )
        if path.suffix == ".mp4":
            pictures = container.add_stream("mpeg4", rate=25, width=16, height=16, pix_fmt="yuv420p")
            for shade in (0, 100, 200):
                picture = av.VideoFrame.from_ndarray(np.full((16, 16, 3), shade, np.uint8), format="rgb24")
                container.mux(pictures.encode(picture))
            container.mux(pictures.encode(None))
        sound = av.AudioFrame.from_ndarray(wave[None], format="flt", layout="mono")
        sound.sample_rate, sound.pts = (
            16_000,
            0,
        )  # so that the container says how much of the start is padding
        container.mux(audio.encode(sound))
        container.mux(audio.encode(None))


def chosen_seeds(suffixes: list[str]) -> list[str]:
    """Return the names of the seeds that can be read here, of these suffixes or of all."""
    has_pyav = importlib.util.find_spec("av") is not None
    names = sorted(path.name for path in SEEDS.iterdir() if has_pyav or path.name not in VIDEO)
    return [name for name in names if not suffixes or Path(name).suffix in suffixes]


def mutate(content: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """Change a few places, headers more often than the rest: bits, numbers, lengths, or a piece of another seed."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 6)):
        end = max(1, min(len(data), 128) if chance.random() < 0.6 else len(data))
        place = chance.randrange(end)
        kind = chance.randrange(7)
        if not data:
            data = bytearray(chance.randbytes(chance.randint(1, 64)))
        elif kind == 0:
            data[min(place, len(data) - 1)] ^= 1 << chance.randrange(8)
        elif kind == 1:
            value = chance.choice(INTERESTING)
            data[place : place + len(value)] = value
        elif kind == 2:
            data[place : place + 4] = chance.randbytes(4)
        elif kind == 3:
            del data[place : place + chance.randint(1, 64)]
        elif kind == 4:
            data[place:place] = data[place : place + chance.randint(1, 64)]
        elif kind == 5:
            del data[place:]
        else:
            other = chance.choice(others)
            begin = chance.randrange(len(other))
            data[place:place] = other[begin : begin + chance.randint(1, 256)]
    return bytes(data)


def work(
    first: int,
    last: int,
    names: list[str],
    folder: Path,
    memory: int,
    done: "multiprocessing.sharedctypes.Synchronized[int]",
) -> None:
    """Run the inputs of one range; an unexpected error ends the process with the input kept."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libmpg123 reports every damage it meets
    sys.path.insert(0, str(ROOT))
    from sslfeat.audio import decode
    from sslfeat.containers import AudioError
    from sslfeat.manifest import ManifestError, read_manifest

    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    seeds = {name: (SEEDS / name).read_bytes() for name in names}
    (folder / "a.wav").touch()
    target = folder / "input"
    for number in range(first, last):
        chance = random.Random(number)
        name = chance.choice(names)
        target.unlink(missing_ok=True)
        target = folder / f"input{Path(name).suffix}"
        target.write_bytes(mutate(seeds[name], list(seeds.values()), chance))
        options = {"start": 0.01, "end": 0.03} if chance.random() < 0.2 else {}
        try:
            if name in TABLES:
                read_manifest(target)
            else:
                decode(target, **options)
        except (AudioError, ManifestError) as error:
            if not str(error).startswith(f"{target}: "):
                raise
        done.value = number + 1


def main() -> None:
    """Spread the runs over processes, watch them, and keep what they fell over."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first input, to continue or repeat"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="most that one input may take")
    parser.add_argument("--memory", type=int, default=1 << 30, help="address space of a worker, in bytes")
    parser.add_argument(
        "--suffixes", nargs="*", default=[], help="seeds to start from, as .mp4; all of them by default"
    )
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--write-seeds", action="store_true")
    options = parser.parse_args()
    if options.write_seeds:
        write_seeds()
        return
    names = chosen_seeds(options.suffixes)
    options.findings.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    began, number, last, findings = time.monotonic(), options.first, options.first + options.runs, 0
    while number < last:
        folder = options.findings / "now"
        folder.mkdir(exist_ok=True)
        done = context.Value("q", number)
        process = context.Process(target=work, args=(number, last, names, folder, options.memory, done))
        process.start()
        seen, since = number, time.monotonic()
        while process.is_alive():
            process.join(0.5)
            if done.value != seen:
                seen, since = done.value, time.monotonic()
            elif time.monotonic() - since > options.seconds + 20 * (
                seen == number
            ):  # the imports take their time
                process.kill()
                process.join()
        number = done.value
        if number < last:
            findings += 1
            for path in folder.glob("input*"):
                path.rename(options.findings / f"{number}-exit{process.exitcode}{path.suffix}")
            number += 1
    print(
        f"{options.runs} inputs from {len(names)} seeds ({', '.join(names)}) in {time.monotonic() - began:.0f} s, "
        f"{findings} findings in {options.findings}"
    )
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
