"""Utterances in, a cache out: decoded ahead, encoded in batches, committed in parts."""

import contextlib
import dataclasses
import importlib.metadata
import os
import platform
import signal
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, repeat
from operator import attrgetter
from pathlib import Path

import numpy as np

from cache import CacheError, CacheWriter, Duplicate, Failure, FeatureSpec, Row, Utterance
from sslfeat.audio import Recording
from sslfeat.chunking import max_whole_samples
from sslfeat.embed import Embedded, embed_batches, embed_reading, make_budget
from sslfeat.encoder import Encoder
from sslfeat.parts import Parts
from sslfeat.reading import Reading, read_windows, stamp

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
        Of the utterances that were asked for, those that have no row, found by this run or an earlier one.
    duplicates : list of Duplicate
        Likewise.
    gone : list of str
        Ids in the cache whose utterances, or their files, are not in the corpus any more; their rows are kept.
    set_aside : list of str
        What was wrong with parts of an earlier run, which were done again.
    clipped : list of str
        Ids of this run's rows whose recordings have three or more samples in a row at full scale.
    sample_rates : dict of int to int
        Rate in Hz -> this run's rows whose files have it.
    durations : tuple of float
        Shortest, median and longest of this run's rows, in seconds; zeros where it made none.
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
    clipped: list[str] = dataclasses.field(default_factory=list)
    sample_rates: dict[int, int] = dataclasses.field(default_factory=dict)
    durations: tuple[float, float, float] = (0.0, 0.0, 0.0)


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
        The cache, new or of an earlier run under an equal spec. An utterance that it holds unchanged, from a file
        of the same size and time or one that is not there any more, is not done again; failures are tried again.
    root : str or Path
        What relative paths of utterances start from.
    encoder : Encoder
    spec : FeatureSpec
        As ``encoder.spec`` makes it.
    batch_seconds : float, optional
        Most seconds of audio, padding counted, that are encoded at once; what suits the device by default. A batch
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
    ValueError
        Where two utterances have one id.
    """
    started = time.monotonic()
    cache_path, root = Path(cache_path), Path(root)
    with Parts(cache_path, spec, overwrite=overwrite) as parts:
        plan = make_plan(utterances, parts, root)
        run = _Run(parts, plan, encoder, spec, batch_seconds)

        def report() -> None:
            if progress is not None:
                progress(run.progress(len(plan.todo), time.monotonic() - started))

        windows = read_windows(
            plan.todo,
            root,
            sample_rate=spec.sample_rate,
            channels=spec.channels,
            min_samples=encoder.min_samples,
            max_samples=max_whole_samples(spec.chunk_seconds, spec.sample_rate),
            jobs=jobs,
        )
        with contextlib.closing(windows):
            run.go(windows, report)
        parts.finish(run.software)
        failures, duplicates, gone = parts.outcome(utterances)
    lasted = run.durations or (0.0,)
    return Extraction(
        cache_path=cache_path,
        num_written=run.num_written,
        num_kept=len(utterances) - len(plan.todo),
        audio_seconds=run.audio_seconds,
        wall_seconds=time.monotonic() - started,
        failures=failures,
        duplicates=duplicates,
        gone=sorted(gone | set(plan.unreachable)),
        set_aside=parts.set_aside,
        clipped=sorted(run.clipped),
        sample_rates=dict(run.sample_rates.most_common()),
        durations=(min(lasted), float(np.median(lasted)), max(lasted)),
    )


def software_versions() -> dict[str, str]:
    """Return the versions of what makes features, for a cache's attributes."""
    versions = {"python": platform.python_version()}
    for name in _SOFTWARE:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is left to do, and what earlier runs found out that bears on it."""

    todo: list[Utterance]  # by id
    originals: dict[str, tuple[str, str]]  # audio hash -> id and label of the row that has it
    failures: dict[str, str]  # id -> reason
    unreachable: list[str]  # ids of what is held, but has no file any more


def make_plan(utterances: Sequence[Utterance], parts: Parts, root: Path) -> Plan:
    """Compare what is asked with what is committed, by columns: there may be a million rows."""
    place = {utterance.id: index for index, utterance in enumerate(utterances)}
    if len(place) < len(utterances):
        twice = next(one.id for index, one in enumerate(utterances) if place[one.id] != index)
        msg = f"utterances must have distinct ids. Got {twice!r} twice."
        raise ValueError(msg)
    folder = os.path.join(root, "")  # noqa: PTH118  (see stamp)
    paths = map(attrgetter("path"), utterances)
    files = (path if path.startswith("/") else folder + path for path in paths)
    stamps = np.fromiter(chain.from_iterable(map(stamp, files)), np.int64).reshape(-1, 2)
    missing = (stamps == 0).all(axis=1)
    settled = np.zeros(len(utterances), bool)
    failures: dict[str, str] = {}
    duplicates: dict[str, Duplicate] = {}
    for cache in parts.caches():  # the newest statement about an utterance holds
        ids = cache.utterance_ids.tolist()
        places = np.fromiter(map(place.get, ids, repeat(-1)), np.intp, len(ids))
        rows = np.flatnonzero(places >= 0)
        places = places[rows]
        asked = list(map(utterances.__getitem__, places.tolist()))
        held = np.stack([cache.column(name)[rows] for name in ("file_size", "file_mtime_ns")], axis=1)
        same = missing[places] | (held == stamps[places]).all(axis=1)
        for field in dataclasses.fields(Utterance):
            wanted = np.array(list(map(attrgetter(field.name), asked)), dtype=field.type)
            same &= cache.column(field.name)[rows] == wanted
        settled[places] = same
        for identity in (failures.keys() | duplicates.keys()).intersection(ids):
            failures.pop(identity, None)
            duplicates.pop(identity, None)
        for duplicate in cache.duplicates:
            duplicates[duplicate.id] = duplicate
            failures.pop(duplicate.id, None)
        for failure in cache.failures:
            failures[failure.id] = failure.reason
            duplicates.pop(failure.id, None)
        unsettled = [place[identity] for identity in (duplicates.keys() | failures.keys()) & place.keys()]
        settled[unsettled] = False
    originals: dict[str, tuple[str, str]] = {}
    if duplicates or not settled.all():
        redone = {utterances[index].id for index in np.flatnonzero(~settled).tolist()}
        originals = _originals(parts, redone)
    # A duplicate is settled as long as its original is.
    for identity in duplicates.keys() & place.keys():
        index, duplicate = place[identity], duplicates[identity]
        settled[index] = (
            duplicate.audio_hash in originals
            and (duplicate.path, duplicate.label) == (utterances[index].path, utterances[index].label)
            and (missing[index] or stamps[index].tolist() == [duplicate.file_size, duplicate.file_mtime_ns])
        )
    todo = [utterances[index] for index in np.flatnonzero(~settled).tolist()]
    return Plan(
        todo=sorted(todo, key=attrgetter("id")),
        originals=originals,
        failures=failures,
        unreachable=[utterances[index].id for index in np.flatnonzero(settled & missing).tolist()],
    )


def _originals(parts: Parts, redone: set[str]) -> dict[str, tuple[str, str]]:
    """Return audio hash -> id and label of the rows that stay as they are; of equal ones the smallest id."""
    held: dict[str, tuple[str, str]] = {}  # id -> audio hash, label
    for cache in parts.caches():
        labelled = zip(cache.audio_hashes.tolist(), cache.labels.tolist(), strict=True)
        held.update(zip(cache.utterance_ids.tolist(), labelled, strict=True))
        for identity in [one.id for one in cache.failures] + [one.id for one in cache.duplicates]:
            held.pop(identity, None)
    return {held[one][0]: (one, held[one][1]) for one in sorted(held.keys() - redone, reverse=True)}


class _Run:
    """One run's encoding: windows in, committed parts out."""

    def __init__(
        self, parts: Parts, plan: Plan, encoder: Encoder, spec: FeatureSpec, batch_seconds: float | None
    ) -> None:
        self.parts = parts
        self.encoder = encoder
        self.spec = spec
        self.software = software_versions()
        self.num_done = self.num_written = self.num_failures = 0
        self.audio_seconds = 0.0
        self.durations = array("d")
        self.clipped: list[str] = []
        self.sample_rates: Counter[int] = Counter()
        self._budget = make_budget(encoder, batch_seconds)
        self._originals = plan.originals
        self._known_failures = plan.failures
        self._unusable: dict[str, str] = {}  # audio hash -> reason
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
        """Encode the windows and commit them in parts; what was encoded before an error or Ctrl-C is committed too."""
        report()
        try:
            for window in windows:
                self._do(window, report)
        finally:
            self._commit()

    def _do(self, window: Sequence[Reading], report: Callable[[], None]) -> None:
        firsts: list[tuple[Reading, Recording]] = []
        repeats: list[tuple[Reading, Recording]] = []
        for reading in window:
            if reading.recording is None:
                self._fail(reading, reading.reason)
            else:
                is_first = self._is_first(reading.utterance, reading.recording.audio_hash)
                (firsts if is_first else repeats).append((reading, reading.recording))
        longs = [first for first in firsts if not first[1].is_kept]
        firsts = [first for first in firsts if first[1].is_kept]
        waveforms = [recording.waveform for _, recording in firsts]
        for batch in embed_batches(self.encoder, self.spec, waveforms, self._budget):
            with _uninterrupted():
                for embedded in batch:
                    self._keep(*firsts[embedded.index], embedded)
            report()
            self._commit_where_due()
        for reading, recording in longs:
            embedded = embed_reading(self.encoder, self.spec, reading)
            with _uninterrupted():
                self._keep(reading, recording, embedded)
            report()
            self._commit_where_due()
        for reading, recording in repeats:
            self._repeat(reading, recording.audio_hash)
        report()
        self._commit_where_due()

    def _is_first(self, utterance: Utterance, audio_hash: str) -> bool:
        """Return whether no utterance of a smaller id has these samples, and note it as the one that has them."""
        held = self._originals.get(audio_hash)
        if audio_hash in self._unusable or (held is not None and held[0] < utterance.id):
            return False
        self._originals[audio_hash] = (utterance.id, utterance.label)
        return True

    def _keep(self, reading: Reading, recording: Recording, embedded: Embedded) -> None:
        reason = embedded.reason
        if not reason:
            row = Row(
                utterance=reading.utterance,
                audio_hash=recording.audio_hash,
                num_samples=recording.num_samples,
                num_frames=embedded.num_frames,
                file_size=reading.file_size,
                file_mtime_ns=reading.file_mtime_ns,
            )
            try:
                self._part.add(row, embedded.pooled, embedded.frames)
            except CacheError as error:
                reason = str(error).removeprefix(f"{self._part.path}: {reading.utterance.id!r}: ")
        if reason:
            self._unusable[recording.audio_hash] = reason
            self._fail(reading, reason)
            return
        self._num_statements += 1
        self.num_written += 1
        self.num_done += 1
        self.durations.append(recording.num_samples / self.spec.sample_rate)
        self.audio_seconds += self.durations[-1]
        self.sample_rates[recording.native_sample_rate] += 1
        if recording.num_clipped:
            self.clipped.append(reading.utterance.id)

    def _repeat(self, reading: Reading, audio_hash: str) -> None:
        if audio_hash in self._unusable:
            self._fail(reading, self._unusable[audio_hash])
            return
        original_id, original_label = self._originals[audio_hash]
        duplicate = Duplicate(
            id=reading.utterance.id,
            path=reading.utterance.path,
            original_id=original_id,
            label=reading.utterance.label,
            original_label=original_label,
            audio_hash=audio_hash,
            file_size=reading.file_size,
            file_mtime_ns=reading.file_mtime_ns,
        )
        self._part.add_duplicate(duplicate)
        self._num_statements += 1
        self.num_done += 1

    def _fail(self, reading: Reading, reason: str) -> None:
        self.num_done += 1
        self.num_failures += 1
        # Failures are tried again by every run; one that fails as before leaves nothing to write.
        if self._known_failures.get(reading.utterance.id) != reason:
            failure = Failure(
                id=reading.utterance.id,
                path=reading.utterance.path,
                reason=reason,
                file_size=reading.file_size,
                file_mtime_ns=reading.file_mtime_ns,
            )
            self._part.add_failure(failure)
            self._num_statements += 1

    def _open_part(self) -> None:
        self._part = CacheWriter(self.parts.next_path(), self.spec, complete=False, software=self.software)
        self._num_statements = 0
        self._due = time.monotonic() + _PART_SECONDS

    def _commit_where_due(self) -> None:
        if self._part.nbytes > _PART_BYTES or time.monotonic() > self._due:
            self._commit()

    def _commit(self) -> None:
        if self._num_statements:
            with _uninterrupted(), self._part:
                pass  # leaving the block writes the part
        self._open_part()


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put Ctrl-C off to the end of the block, for work that must not be left half done."""
    if threading.current_thread() is not threading.main_thread():
        yield  # where it never arrives
        return
    arrived: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: arrived.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if arrived:
            signal.raise_signal(signal.SIGINT)
