"""Look a corpus over without extracting it: read every file, and say what is off."""

import dataclasses
import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cache.schema import Duplicate, Failure, Utterance
from sslfeat.audio import Recording, decode, parse_channel
from sslfeat.containers import AudioError
from sslfeat.corpora import CorpusListing
from sslfeat.labels import LABELS, unknown_labels

NUM_COMPARED = (
    10  # unknown labels whose nearest known one is sought; a wrong column has as many as there are rows
)
IN_FLIGHT = 8  # decoded recordings that may wait for one another, per thread


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """One readable utterance, without its samples."""

    utterance: Utterance
    seconds: float
    sample_rate: int
    num_channels: int
    num_clipped: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What :func:`check` found.

    Parameters
    ----------
    listing : CorpusListing
        What the names alone say: notes, unexpected and missing files.
    heard : list of Heard
        The readable utterances, in the listing's order, duplicates among them.
    failures : list of Failure
        Those whose audio can't be used, with the reason: unreadable, truncated, empty, silent, too short.
    duplicates : list of Duplicate
        Those whose decoded samples are those of an earlier one.
    """

    listing: CorpusListing
    heard: list[Heard]
    failures: list[Failure]
    duplicates: list[Duplicate]

    @property
    def clipped(self) -> list[Heard]:
        """Utterances with three or more samples in a row at full scale, worst first."""
        return sorted((each for each in self.heard if each.num_clipped), key=lambda each: -each.num_clipped)

    @property
    def sample_rates(self) -> dict[int, int]:
        """Rate in Hz -> utterances, most frequent first."""
        return dict(Counter(each.sample_rate for each in self.heard).most_common())

    @property
    def channels(self) -> dict[int, int]:
        """Number of channels -> utterances, most frequent first."""
        return dict(Counter(each.num_channels for each in self.heard).most_common())

    @property
    def hours(self) -> float:
        """Duration of all readable utterances together."""
        return sum(each.seconds for each in self.heard) / 3600

    @property
    def durations(self) -> tuple[float, float, float]:
        """Shortest, median and longest utterance, in seconds; zeros where none is readable."""
        seconds = [each.seconds for each in self.heard] or [0.0]
        return min(seconds), float(np.median(seconds)), max(seconds)

    @property
    def labels_by_speaker(self) -> dict[str, dict[str, int]]:
        """Speaker -> label -> utterances listed, both in alphabetical order; a label no one has is absent."""
        counts = Counter((each.speaker, each.label) for each in self.listing.utterances)
        table: dict[str, dict[str, int]] = {}
        for (speaker, label), count in sorted(counts.items()):
            table.setdefault(speaker, {})[label] = count
        return table

    @property
    def published_labels(self) -> dict[str, int]:
        """Label -> published number of utterances; empty where it isn't known."""
        counts: Counter[str] = Counter()
        if entry := self.listing.entry:
            for code, count in entry.counts.items():
                counts[entry.labels[code][1]] += count
        return dict(counts)

    @property
    def unlabelled(self) -> int:
        """Utterances without a label."""
        return sum(not each.label for each in self.listing.utterances)

    @property
    def unknown_labels(self) -> dict[str, str]:
        """Label that is none of the shared ones -> the nearest of those, or nothing where none is close."""
        words = dict.fromkeys(each.label for each in self.listing.utterances if each.label not in LABELS)
        words.pop("", None)
        return dict.fromkeys(words, "") | unknown_labels(itertools.islice(words, NUM_COMPARED))

    def summary(self) -> dict[str, Any]:
        """Return everything found, as JSON can hold it."""
        listing = self.listing
        return {
            "corpus": listing.name,
            "root": str(listing.root),
            "notes": listing.notes,
            "utterances": len(listing.utterances),
            "is_off": self.is_off,
            "labels_by_speaker": self.labels_by_speaker,
            "published_labels": self.published_labels,
            "unlabelled": self.unlabelled,
            "unknown_labels": self.unknown_labels,
            "missing": listing.missing,
            "unexpected": listing.unexpected,
            "repeated": listing.repeated,
            "failures": [{"id": one.id, "path": one.path, "reason": one.reason} for one in self.failures],
            "duplicates": [
                {
                    "id": one.id,
                    "label": one.label,
                    "original": one.original_id,
                    "original_label": one.original_label,
                }
                for one in self.duplicates
            ],
            "clipped": [
                {"id": one.utterance.id, "path": one.utterance.path, "samples": one.num_clipped}
                for one in self.clipped
            ],
            "hours": self.hours,
            "durations": dict(zip(("shortest", "median", "longest"), self.durations, strict=True)),
            "sample_rates": self.sample_rates,
            "channels": self.channels,
        }

    @property
    def is_off(self) -> bool:
        """Whether anything differs from a whole corpus: names, counts, labels, readable and distinct audio.

        A label that is unknown counts where it is close to a known one, and so likely misspelt. Clipping, rates and durations are told and don't count: they are how a corpus was recorded.
        """
        is_misspelt = any(self.unknown_labels.values())
        return bool(
            self.failures or self.duplicates or self.unlabelled or is_misspelt or not self.listing.is_complete
        )


def check(
    listing: CorpusListing,
    *,
    channels: str = "mean",
    min_samples: int = 400,
    jobs: int = 1,
    progress: Callable[[int], None] | None = None,
) -> CheckReport:
    """Decode every utterance of a listing and keep what is worth telling; memory holds a few recordings at a time.

    Parameters
    ----------
    listing : CorpusListing
        From :func:`~sslfeat.corpora.read_corpus` or a manifest.
    channels : str
        ``mean``, or the number of the one to take, from 0.
    min_samples : int
        As :func:`~sslfeat.audio.decode` takes it, so that a file fails here where extraction would fail.
    jobs : int
        Threads that decode; they release the GIL.
    progress : callable, optional
        Called with the number of utterances done so far, after each.

    Returns
    -------
    CheckReport
        Everything found, in the listing's order whatever the number of threads.
    """
    heard, failures, duplicates = [], [], []
    originals: dict[str, Utterance] = {}
    outcomes = _decoded(listing.root, listing.utterances, parse_channel(channels), min_samples, jobs)
    for done, (utterance, outcome) in enumerate(zip(listing.utterances, outcomes, strict=True), 1):
        if isinstance(outcome, AudioError):
            path = str(listing.root / utterance.path)
            reason = str(outcome).removeprefix(f"{path}: ")
            failures.append(Failure(id=utterance.id, path=utterance.path, reason=reason))
        else:
            original = originals.setdefault(outcome[0], utterance)
            if original is not utterance:
                duplicates.append(
                    Duplicate(
                        id=utterance.id,
                        path=utterance.path,
                        original_id=original.id,
                        label=utterance.label,
                        original_label=original.label,
                        audio_hash=outcome[0],
                    )
                )
            heard.append(outcome[1])
        if progress:
            progress(done)
    return CheckReport(listing=listing, heard=heard, failures=failures, duplicates=duplicates)


def _decoded(
    root: Path,
    utterances: list[Utterance],
    channel: int | Literal["mean"],
    min_samples: int,
    jobs: int,
) -> Iterator[tuple[str, Heard] | AudioError]:
    """Yield each utterance's hash and facts, or why there are none, in order, a bounded number ahead."""

    def listen(utterance: Utterance) -> tuple[str, Heard] | AudioError:
        try:
            recording: Recording = decode(
                root / utterance.path,
                channel=channel,
                start=utterance.start,
                end=utterance.end,
                min_samples=min_samples,
                max_samples=0,  # facts, and no waveform
            )
        except AudioError as error:
            return error
        return recording.audio_hash, Heard(
            utterance=utterance,
            seconds=recording.seconds,
            sample_rate=recording.native_sample_rate,
            num_channels=recording.num_channels,
            num_clipped=recording.num_clipped,
        )

    with ThreadPoolExecutor(jobs) as pool:
        waiting = iter(utterances)
        ahead: deque[Future[tuple[str, Heard] | AudioError]] = deque(
            pool.submit(listen, utterance) for utterance in itertools.islice(waiting, IN_FLIGHT * jobs)
        )
        while ahead:
            yield ahead.popleft().result()
            ahead.extend(pool.submit(listen, utterance) for utterance in itertools.islice(waiting, 1))
