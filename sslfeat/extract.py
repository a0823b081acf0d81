"""Utterances in, a cache out: decoded ahead, encoded in batches, committed in parts."""

import contextlib
import dataclasses
import importlib.metadata
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cache import CacheError, CacheWriter, Duplicate, Failure, FeatureSpec, Row, Utterance
from sslfeat.audio import Recording
from sslfeat.batching import make_batches
from sslfeat.encoder import Encoder, exact_products
from sslfeat.parts import Parts
from sslfeat.pooling import pool
from sslfeat.reading import Reading, read_windows, stamp

# Small batches of near-equal length win on a CPU, large ones on a GPU.
BATCH_SECONDS = {"cpu": 12.0, "cuda": 320.0}

# A part is committed when it holds this much, or has been open for so long: what a kill may cost.
_PART_BYTES = 2**28
_PART_SECONDS = 30.0

_SOFTWARE = ("sslfeat", "torch", "transformers", "soundfile", "soxr", "h5py", "numpy")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is; ``done`` and ``total`` count the utterances that it has to do."""

    done: int
    total: int
    audio_seconds: float
    wall_seconds: float
    num_failures: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """What a run did.

    Parameters
    ----------
    cache_path : Path
    num_written, num_kept : int
        Rows that this run made, and utterances that an earlier one had settled.
    audio_seconds, wall_seconds : float
        Of this run's rows, and of the run.
    failures : list of Failure
        All there are in the cache, of this run and earlier ones.
    duplicates : list of Duplicate
        Likewise.
    gone : list of str
        Ids in the cache whose utterances are not in the corpus any more; their rows are kept.
    set_aside : list of str
        What was wrong with parts of an earlier run, which were done again.
    """

    cache_path: Path
    num_written: int
    num_kept: int
    audio_seconds: float
    wall_seconds: float
    failures: list[Failure]
    duplicates: list[Duplicate]
    gone: list[str]
    set_aside: list[str]


def extract(
    utterances: Sequence[Utterance],
    cache_path: str | Path,
    *,
    root: str | Path,
    encoder: Encoder,
    spec: FeatureSpec,
    batch_seconds: float | None = None,
    jobs: int = 2,
    overwrite: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Extraction:
    """Extract the features of utterances into a cache, going on from where an earlier run ended.

    Parameters
    ----------
    utterances : sequence of Utterance
        With distinct ids.
    cache_path : str or Path
        The cache, new or of an earlier run under an equal spec. An utterance that it holds, from a file of the
        same size and time and with the same labels, is not done again; failures are tried again.
    root : str or Path
        What relative paths of utterances start from.
    encoder : Encoder
    spec : FeatureSpec
        As ``encoder.spec`` makes it.
    batch_seconds : float, optional
        Most seconds of audio, padding counted, that are encoded at once; ``BATCH_SECONDS`` by default. A batch
        that does not fit into memory is halved, and so are those after it.
    jobs : int
        Threads that decode.
    overwrite : bool
        Whether a cache and the parts of an earlier run under that name are thrown away first.
    progress : callable, optional
        Called with a `Progress` after each batch.

    Returns
    -------
    Extraction

    Raises
    ------
    CacheError
        Where the cache can't be read or written, or is being written by another process.
    SpecMismatchError
        Where the cache was made under another spec.
    """
    started = time.monotonic()
    cache_path = Path(cache_path)
    with Parts(cache_path, spec, overwrite=overwrite) as parts:
        todo, settled = _plan(utterances, parts, Path(root))
        run = _Run(parts, encoder, spec, settled, batch_seconds or BATCH_SECONDS[encoder.device.type])

        def report() -> None:
            if progress is not None:
                progress(run.progress(len(todo), time.monotonic() - started))

        windows = read_windows(
            todo, Path(root), sample_rate=spec.sample_rate, min_samples=encoder.min_samples, jobs=jobs
        )
        with contextlib.closing(windows), torch.inference_mode(), exact_products():
            run.go(windows, report)
        parts.finish(software_versions())
        failures, duplicates, gone = [], [], []
        asked = {utterance.id for utterance in utterances}
        corpora = {utterance.corpus for utterance in utterances}
        for cache in parts.caches():
            failures, duplicates = cache.failures, cache.duplicates
            held = zip(cache.utterance_ids.tolist(), cache.corpora.tolist(), strict=True)
            gone = [identity for identity, corpus in held if corpus in corpora and identity not in asked]
    return Extraction(
        cache_path=cache_path,
        num_written=run.num_written,
        num_kept=len(utterances) - len(todo),
        audio_seconds=run.audio_seconds,
        wall_seconds=time.monotonic() - started,
        failures=failures,
        duplicates=duplicates,
        gone=gone,
        set_aside=parts.set_aside,
    )


def software_versions() -> dict[str, str]:
    """Return the versions of what makes features, for a cache's attributes."""
    versions = {"python": platform.python_version()}
    for name in _SOFTWARE:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


@dataclasses.dataclass(slots=True)
class _Settled:
    """What earlier runs and this one have found out so far."""

    originals: dict[str, tuple[str, str]]  # audio hash -> id, label
    failures: dict[str, str]  # id -> reason


def _plan(utterances: Iterable[Utterance], parts: Parts, root: Path) -> tuple[list[Utterance], _Settled]:
    """Return what is left to do, by id, and what is settled."""
    statements: dict[str, tuple[Utterance | str, int, int]] = {}
    hashes: dict[str, str] = {}
    settled = _Settled({}, {})
    for cache in parts.caches():
        for row in cache.rows():
            statements[row.utterance.id] = (row.utterance, row.file_size, row.file_mtime_ns)
            hashes[row.utterance.id] = row.audio_hash
            settled.failures.pop(row.utterance.id, None)
        for duplicate in cache.duplicates:
            statements[duplicate.id] = (duplicate.label, duplicate.file_size, duplicate.file_mtime_ns)
            hashes.pop(duplicate.id, None)
        for failure in cache.failures:
            statements.pop(failure.id, None)
            hashes.pop(failure.id, None)
            settled.failures[failure.id] = failure.reason
    todo = []
    for utterance in sorted(utterances, key=lambda utterance: utterance.id):
        seen = stamp(root / utterance.path)
        if statements.get(utterance.id) not in ((utterance, *seen), (utterance.label, *seen)):
            todo.append(utterance)
            hashes.pop(utterance.id, None)
    for identity, audio_hash in hashes.items():
        held = statements[identity][0]
        settled.originals[audio_hash] = (identity, held.label if isinstance(held, Utterance) else held)
    return todo, settled


class _Run:
    """One run's encoding: windows in, committed parts out."""

    def __init__(
        self, parts: Parts, encoder: Encoder, spec: FeatureSpec, settled: _Settled, batch_seconds: float
    ) -> None:
        self.parts = parts
        self.encoder = encoder
        self.spec = spec
        self.settled = settled
        self.max_padded_samples = max(1, round(batch_seconds * spec.sample_rate))
        self.num_done = self.num_written = self.num_failures = 0
        self.audio_seconds = 0.0
        self._open_part()

    def progress(self, total: int, wall_seconds: float) -> Progress:
        """Return how far the run is."""
        return Progress(
            done=self.num_done,
            total=total,
            audio_seconds=self.audio_seconds,
            wall_seconds=wall_seconds,
            num_failures=self.num_failures,
        )

    def go(self, windows: Iterable[list[Reading]], report: Callable[[], None]) -> None:
        """Encode the windows and commit them in parts; what was encoded before an interruption is committed too."""
        report()
        try:
            for window in windows:
                for batch in self._batches(window):
                    self._encode_batch(batch)
                    report()
                report()
                if self._part.nbytes > _PART_BYTES or time.monotonic() > self._due:
                    self._commit()
        except KeyboardInterrupt:
            self._commit()
            raise
        self._commit()

    def _open_part(self) -> None:
        self._part = CacheWriter(
            self.parts.next_path(), self.spec, complete=False, software=software_versions()
        )
        self._num_statements = 0
        self._due = time.monotonic() + _PART_SECONDS

    def _commit(self) -> None:
        if self._num_statements:
            with self._part:
                pass  # leaving the block writes the part
        self._open_part()

    def _batches(self, window: Sequence[Reading]) -> Iterator[list[tuple[Reading, Recording]]]:
        """Settle what can't or needn't be encoded, and yield the rest in batches."""
        usable: list[tuple[Reading, Recording]] = []
        for read in window:
            if read.recording is None:
                self._fail(read, read.reason)
                continue
            utterance, audio_hash = read.utterance, read.recording.audio_hash
            original, label = self.settled.originals.setdefault(audio_hash, (utterance.id, utterance.label))
            if original == utterance.id:
                usable.append((read, read.recording))
            else:
                self._repeat(read, audio_hash, original, label)
        lengths = [len(recording.waveform) for _, recording in usable]
        batches = make_batches(
            lengths, max_padded_samples=self.max_padded_samples, equal_lengths=not self.encoder.pads
        )
        for batch in batches:
            yield [usable[index] for index in batch]

    def _encode_batch(self, batch: list[tuple[Reading, Recording]]) -> None:
        longest = len(batch[0][1].waveform)
        if len(batch) > 1 and longest * len(batch) > self.max_padded_samples:
            half = len(batch) // 2
            self._encode_batch(batch[:half])
            self._encode_batch(batch[half:])
            return
        try:
            features = list(embed(self.encoder, self.spec, [recording.waveform for _, recording in batch]))
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                seconds = longest / self.spec.sample_rate
                self._fail(
                    batch[0][0],
                    f"{seconds:.0f} s of audio do not fit into the memory of {self.encoder.device}.",
                )
                return
            self.max_padded_samples = longest * len(batch) // 2
            torch.cuda.empty_cache()
            self._encode_batch(batch)
            return
        for (read, recording), (pooled, frames, num_frames) in zip(batch, features, strict=True):
            row = Row(
                utterance=read.utterance,
                audio_hash=recording.audio_hash,
                num_samples=len(recording.waveform),
                num_frames=num_frames,
                file_size=read.file_size,
                file_mtime_ns=read.file_mtime_ns,
            )
            try:
                self._part.add(row, pooled, frames)
            except CacheError as error:
                self._fail(read, str(error).removeprefix(f"{self._part.path}: "))
                continue
            self._num_statements += 1
            self.num_written += 1
            self.num_done += 1
            self.audio_seconds += len(recording.waveform) / self.spec.sample_rate

    def _fail(self, read: Reading, reason: str) -> None:
        self.num_done += 1
        self.num_failures += 1
        # Failures are tried again by every run; one that fails as before leaves nothing to write.
        if self.settled.failures.get(read.utterance.id) != reason:
            failure = Failure(
                id=read.utterance.id,
                path=read.utterance.path,
                reason=reason,
                file_size=read.file_size,
                file_mtime_ns=read.file_mtime_ns,
            )
            self._part.add_failure(failure)
            self._num_statements += 1

    def _repeat(self, read: Reading, audio_hash: str, original: str, original_label: str) -> None:
        self.num_done += 1
        duplicate = Duplicate(
            id=read.utterance.id,
            path=read.utterance.path,
            original_id=original,
            label=read.utterance.label,
            original_label=original_label,
            audio_hash=audio_hash,
            file_size=read.file_size,
            file_mtime_ns=read.file_mtime_ns,
        )
        self._part.add_duplicate(duplicate)
        self._num_statements += 1


def embed(
    encoder: Encoder, spec: FeatureSpec, waveforms: Sequence[NDArray[np.float32]]
) -> Iterator[tuple[dict[str, NDArray[np.float32]], NDArray[np.float32] | None, int]]:
    """Encode and pool one batch.

    Parameters
    ----------
    encoder : Encoder
    spec : FeatureSpec
        Which layers, poolings and frames to make.
    waveforms : sequence of ndarray of shape (num_samples,)
        As `Encoder.encode` takes them.

    Yields
    ------
    pooled : dict of str to ndarray of shape (layers, hidden_size)
    frames : ndarray of shape (layers, num_frames, hidden_size) or None
    num_frames : int
    """
    counts, states = encoder.encode(waveforms)
    pooled: dict[str, list[torch.Tensor]] = {name: [] for name in spec.pooling}
    frames: list[torch.Tensor] = []
    for layer, hidden in enumerate(states):
        if layer in spec.layers:
            for name, vectors in pool(hidden, counts, spec.pooling).items():
                pooled[name].append(vectors)
            if spec.frames:
                frames.append(hidden.float())
        if layer == spec.layers[-1]:
            break
    arrays = {name: torch.stack(vectors, 1).cpu().numpy() for name, vectors in pooled.items()}
    kept = torch.stack(frames, 1).cpu().numpy() if spec.frames else None  # (utterance, layer, frame, hidden)
    for index, count in enumerate(counts.tolist()):
        one = {name: array[index] for name, array in arrays.items()}
        yield one, None if kept is None else kept[index, :, :count], count
