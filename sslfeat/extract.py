"""Utterances in, a cache out: decoded ahead, encoded in batches, committed in parts."""

import contextlib
import dataclasses
import importlib.metadata
import platform
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from cache import CacheError, CacheWriter, Duplicate, Failure, FeatureSpec, Row, Utterance
from cache.durable import uninterrupted
from sslfeat.audio import Recording
from sslfeat.chunking import max_whole_samples
from sslfeat.embed import Embedded, embed_batches, embed_reading, make_budget
from sslfeat.encoder import Encoder
from sslfeat.parts import Parts
from sslfeat.plan import Outcome, Plan, make_plan, see_outcome
from sslfeat.reading import Reading, read_windows

# A part is committed when it holds this much, or has been open for so long: what a kill may cost.
_PART_BYTES = 2**28
_PART_SECONDS = 30.0
# Recordings whose copies are known at once; a copy of an older one is encoded too, and found when the parts are joined.
_RECENT = 2**17

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
    outdated : list of str
        Ids of rows that are kept as they were though something else was asked of them, since their files are not
        there.
    clipped : list of str
        Ids of this run's rows whose recordings have three or more samples in a row at full scale.
    sample_rates : dict of int to int
        Rate in Hz -> the files of this run's rows that have it; some duplicates count too, which were encoded
        before their originals were known.
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
    outdated: list[str] = dataclasses.field(default_factory=list)
    clipped: list[str] = dataclasses.field(default_factory=list)
    sample_rates: dict[int, int] = dataclasses.field(default_factory=dict)
    durations: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @classmethod
    def of(
        cls,
        plan: Plan,
        outcome: Outcome,
        *,
        cache_path: Path,
        wall_seconds: float,
        set_aside: list[str],
        clipped: list[str],
        sample_rates: Counter[int],
    ) -> Self:
        """Return what a run did that had this plan and outcome."""
        seconds = outcome.seconds if outcome.seconds.size else np.zeros(1)
        doubled = {duplicate.id for duplicate in outcome.duplicates}
        return cls(
            cache_path=cache_path,
            num_written=len(outcome.seconds),
            num_kept=len(plan.asked) - len(plan.todo),
            audio_seconds=float(seconds.sum()),
            failures=outcome.failures,
            duplicates=outcome.duplicates,
            gone=outcome.gone,
            outdated=plan.outdated,
            wall_seconds=wall_seconds,
            set_aside=set_aside,
            clipped=sorted(set(clipped) - doubled),
            sample_rates=dict(sample_rates.most_common()),
            durations=(float(seconds.min()), float(np.median(seconds)), float(seconds.max())),
        )


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
        outcome = see_outcome(plan, parts)
    return Extraction.of(
        plan,
        outcome,
        cache_path=cache_path,
        wall_seconds=time.monotonic() - started,
        set_aside=parts.set_aside,
        clipped=run.clipped,
        sample_rates=run.sample_rates,
    )


def software_versions() -> dict[str, str]:
    """Return the versions of what makes features, for a cache's attributes."""
    versions = {"python": platform.python_version()}
    for name in _SOFTWARE:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


class _Run:
    """One run's encoding: windows in, committed parts out."""

    def __init__(
        self, parts: Parts, plan: Plan, encoder: Encoder, spec: FeatureSpec, batch_seconds: float | None
    ) -> None:
        self.parts = parts
        self.encoder = encoder
        self.spec = spec
        self.software = software_versions()
        self.num_done = self.num_failures = 0
        self.audio_seconds = 0.0
        self.clipped: list[str] = []
        self.sample_rates: Counter[int] = Counter()
        self._budget = make_budget(encoder, batch_seconds)
        # Audio hash -> the row of this run that has it. A dict finds its oldest entry by walking over all that are gone.
        self._originals = OrderedDict[str, Utterance]()
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
        repeats: list[tuple[Reading, str, Utterance]] = []
        for reading in window:
            if reading.recording is None:
                self._fail(reading, reading.reason)
                continue
            audio_hash = reading.recording.audio_hash
            original = self._original(reading.utterance, audio_hash)
            if original is reading.utterance and audio_hash not in self._unusable:
                firsts.append((reading, reading.recording))
            else:
                repeats.append((reading, audio_hash, original))
        longs = [first for first in firsts if not first[1].is_kept]
        firsts = [first for first in firsts if first[1].is_kept]
        waveforms = [recording.waveform for _, recording in firsts]
        for batch in embed_batches(self.encoder, self.spec, waveforms, self._budget):
            with uninterrupted():
                for embedded in batch:
                    self._keep(*firsts[embedded.index], embedded)
            report()
            self._commit_where_due()
        for reading, recording in longs:
            embedded = embed_reading(self.encoder, self.spec, reading)
            with uninterrupted():
                self._keep(reading, recording, embedded)
            report()
            self._commit_where_due()
        for repeat in repeats:
            self._repeat(*repeat)
        report()
        self._commit_where_due()

    def _original(self, utterance: Utterance, audio_hash: str) -> Utterance:
        """Return the first recent utterance with these samples, of the smallest id as they come by id."""
        original = self._originals.setdefault(audio_hash, utterance)
        if len(self._originals) > _RECENT:
            self._originals.popitem(last=False)
        return original

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
        self.num_done += 1
        self.audio_seconds += recording.num_samples / self.spec.sample_rate
        self.sample_rates[recording.native_sample_rate] += 1
        if recording.num_clipped:
            self.clipped.append(reading.utterance.id)

    def _repeat(self, reading: Reading, audio_hash: str, original: Utterance) -> None:
        if audio_hash in self._unusable:
            self._fail(reading, self._unusable[audio_hash])
            return
        duplicate = Duplicate(
            id=reading.utterance.id,
            path=reading.utterance.path,
            original_id=original.id,
            label=reading.utterance.label,
            original_label=original.label,
            audio_hash=audio_hash,
            file_size=reading.file_size,
            file_mtime_ns=reading.file_mtime_ns,
            start=reading.utterance.start,
            end=reading.utterance.end,
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
            with uninterrupted(), self._part:
                pass  # leaving the block writes the part
        self._open_part()
