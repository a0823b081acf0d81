"""Folders of speech as one flat file of samples, and random batches of crops drawn from it.

Audio is decoded once, to 16-bit samples on disk that every run maps into memory. A batch is a pure function of
the seed and of the step, so that a run that was killed sees, after it resumes, what it would have seen.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from sslfeat.audio import decode
from sslfeat.containers import AUDIO_SUFFIXES

SAMPLE_RATE = 16_000
FULL_SCALE = 32767 / 32768
Samples: TypeAlias = NDArray[np.float32]


class RecordingsError(ValueError):
    """A folder without audio, or audio too short to train on."""


def find_audio(folders: Iterable[Path]) -> list[Path]:
    """List the audio files under some folders, sorted within each.

    Raises
    ------
    RecordingsError
        If a folder holds none.
    """
    found = []
    for folder in folders:
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
        if not files:
            msg = f"{folder}: no audio files; expected some of {', '.join(sorted(AUDIO_SUFFIXES))}."
            raise RecordingsError(msg)
        found += files
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class Recordings:
    """Decoded audio of many files, end to end.

    Parameters
    ----------
    samples : int16 ndarray of shape (total_samples,)
        Mapped from disk.
    bounds : int64 ndarray of shape (n_files + 1,)
        File ``i`` is ``samples[bounds[i]:bounds[i + 1]]``.
    paths : tuple of str
        Where each file was read.
    """

    samples: NDArray[np.int16]
    bounds: NDArray[np.int64]
    paths: tuple[str, ...]

    @classmethod
    def decoded(
        cls, files: Sequence[Path], store: Path, *, progress: Callable[[int], None] = lambda _: None
    ) -> Self:
        """Decode files into a store of two files, or map what an earlier call left there for the same files.

        Parameters
        ----------
        files : sequence of Path
        store : Path
            ``store.npy`` and ``store.json`` are written beside each other, the second one last.
        progress : callable
            Called with the number of files done after each.
        """
        array, index = store.with_suffix(".npy"), store.with_suffix(".json")
        paths = tuple(str(path) for path in files)
        if index.exists():
            known = json.loads(index.read_text())
            if tuple(known["paths"]) == paths:
                return cls(np.load(array, mmap_mode="r"), np.array(known["bounds"]), paths)
        pieces, bounds = [], [0]
        for done, path in enumerate(files, 1):
            pieces.append((decode(path).waveform.clip(-1, FULL_SCALE) * 32768).astype(np.int16))
            bounds.append(bounds[-1] + pieces[-1].size)
            progress(done)
        store.parent.mkdir(parents=True, exist_ok=True)
        index.unlink(missing_ok=True)
        np.save(array, np.concatenate(pieces))
        scratch = index.with_suffix(".part")
        scratch.write_text(json.dumps({"paths": paths, "bounds": bounds}))
        scratch.replace(index)
        return cls(np.load(array, mmap_mode="r"), np.array(bounds), paths)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Samples of each file."""
        return np.diff(self.bounds)

    @property
    def seconds(self) -> float:
        """Length of all files together."""
        return float(self.bounds[-1]) / SAMPLE_RATE

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Samples:
        return (self.samples[self.bounds[index] : self.bounds[index + 1]] / 32768).astype(np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class CropSampler:
    """Random crops of equal length, changed in speed, with a noisy twin of each.

    Every second of audio is as likely as every other among the files that are long enough. Gain isn't varied: the
    front end's group norm takes it out. Speed is changed before the targets are made, so that a target says what
    the encoder hears: pitch is varied and not made to be ignored. Noise is what the encoder must hear through.

    Parameters
    ----------
    speech : Recordings
    noise : Recordings or None
    crop_seconds : tuple of float
        Each batch takes one of these lengths.
    batch_seconds : float
        Audio in one batch; sets the number of crops.
    max_speed : float
        Speed is log-uniform in ``1 / max_speed .. max_speed``, and 1 for a third of the batches.
    noisy : float
        Share of crops that get noise.
    snr : tuple of float
        Range of the signal-to-noise ratio in dB, uniform.
    seed : int
    """

    speech: Recordings
    noise: Recordings | None
    crop_seconds: tuple[float, ...] = (1.5, 2.0, 3.0, 4.0)
    batch_seconds: float = 48.0
    max_speed: float = 1.2
    noisy: float = 0.4
    snr: tuple[float, float] = (3.0, 25.0)
    seed: int = 0

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw the batch of one step.

        Returns
        -------
        clean, heard : float32 tensors of shape (n_crops, num_samples)
            The same crops without and with noise.
        """
        rng = np.random.default_rng((self.seed, step))
        seconds = rng.choice(self.crop_seconds)
        num_samples = round(seconds * SAMPLE_RATE)
        # one speed for a batch keeps its crops one FFT; a multiple of 320 samples keeps that FFT's length smooth
        speed = 1.0 if rng.random() < 1 / 3 else self.max_speed ** rng.uniform(-1, 1)
        taken = round(num_samples * speed / 320) * 320
        room = np.maximum(self.speech.lengths - taken + 1, 0)
        if not room.any():
            msg = f"every recording is shorter than {taken / SAMPLE_RATE:.2f} s; pass shorter crop_seconds."
            raise RecordingsError(msg)
        files = rng.choice(len(room), size=max(2, round(self.batch_seconds / seconds)), p=room / room.sum())
        starts = self.speech.bounds[files] + rng.integers(room[files])
        crops = np.stack([self.speech.samples[start : start + taken] for start in starts])
        clean = change_speed(torch.from_numpy(crops.astype(np.float32) / 32768), num_samples)
        return clean, clean if self.noise is None else self._noised(clean, self.noise, rng)

    def _noised(self, clean: torch.Tensor, noise: Recordings, rng: np.random.Generator) -> torch.Tensor:
        """Add a random stretch of noise to some of the crops."""
        heard = clean.clone()
        for row in np.flatnonzero(rng.random(len(clean)) < self.noisy):
            clip = torch.from_numpy(noise[int(rng.integers(len(noise)))])
            clip = clip.roll(int(rng.integers(len(clip)))).repeat(-(-clean.shape[1] // len(clip)))
            heard[row] += scaled_to_snr(clip[: clean.shape[1]], clean[row], rng.uniform(*self.snr))
        return heard


def change_speed(crops: torch.Tensor, num_samples: int) -> torch.Tensor:
    """Squeeze or stretch crops to a number of samples by cutting or padding their spectrum: speed and pitch change."""
    if crops.shape[1] == num_samples:
        return crops
    spectrum = torch.fft.rfft(crops)
    changed: torch.Tensor = torch.fft.irfft(spectrum, n=num_samples) * (num_samples / crops.shape[1])
    return changed


def scaled_to_snr(noise: torch.Tensor, speech: torch.Tensor, snr: float) -> torch.Tensor:
    """Scale noise so that adding it to speech gives a signal-to-noise ratio in dB; silence stays silent."""
    power = noise.square().mean().clamp_min(1e-10)
    loudness: torch.Tensor = speech.square().mean() / power * 10 ** (-snr / 10)
    return noise * loudness.sqrt()
