"""One corpus extracted by several processes: divided into shares, each extracted to a cache, all of them joined."""

import dataclasses
import functools
import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from cache import FeatureSpec, SpecMismatchError, Utterance
from cache.schema import describe_differences
from sslfeat.encoder import EMBEDDED, Encoder
from sslfeat.extract import Extraction, Progress, extract, software_versions
from sslfeat.parts import Parts, when_free
from sslfeat.plan import make_plan, see_outcome

# Fields of a spec that are the request's own, whichever encoder it is made for.
_REQUESTED = ("frames", "dtype", "channels", "chunk_seconds")

# How long a share may be held by a worker that was given up as lost and goes on all the same.
_SHARE_PATIENCE = 600.0

# Two encoders at work in one process would change each other's settings of arithmetic.
_one_at_a_time = threading.Lock()


class WorkerError(ChildProcessError):
    """A worker that failed or was killed; what it had committed is kept."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a worker has to know: plain data, as each loads the encoder by itself.

    Parameters
    ----------
    model_id : str
        As `Encoder.load` takes it, a directory as an absolute path.
    revision : str or None
        The commit of a hub model.
    spec : FeatureSpec
        What the worker's encoder must agree with.
    root : Path
        What relative paths of utterances start from; absolute.
    batch_seconds : float, optional
    jobs : int
        As `sslfeat.extract.extract` takes them.
    """

    model_id: str
    revision: str | None
    spec: FeatureSpec
    root: Path
    batch_seconds: float | None
    jobs: int

    @classmethod
    def plan(
        cls,
        model_id: str,
        spec: FeatureSpec,
        root: str | Path,
        *,
        batch_seconds: float | None = None,
        jobs: int = 2,
    ) -> Self:
        """Return the work of making the features of a spec with the encoder that ``model_id`` names here."""
        directory = Path(model_id).expanduser()
        is_directory = model_id != EMBEDDED and directory.is_dir()
        return cls(
            model_id=str(directory.resolve()) if is_directory else model_id,
            revision=None if spec.revision == "local" else spec.revision,
            spec=spec,
            root=Path(root).resolve(),
            batch_seconds=batch_seconds,
            jobs=jobs,
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Some of the utterances, and the cache that a worker extracts them to."""

    cache_path: Path
    utterances: list[Utterance]


Report = Callable[[int, Progress], None]
# Has workers do every share, tells how far each is by its index, and returns what `extract_share` returned.
Crew = Callable[[Sequence[Share], Report], Sequence[Extraction]]


def choose_share(utterances: Sequence[Utterance], number: int, count: int) -> list[Utterance]:
    """Return one of so many shares, which are disjoint and together are all.

    Where an utterance belongs depends on its id alone, so that what is added to a corpus moves nothing from one
    share to another.

    Parameters
    ----------
    utterances : sequence of Utterance
    number, count : int
        Which share, from 1, and how many there are: that of an utterance is the 64-bit BLAKE2b of its id in
        UTF-8, big-endian, modulo ``count``, plus 1.
    """

    def number_of(utterance: Utterance) -> int:
        digest = hashlib.blake2b(utterance.id.encode(errors="surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "big") % count + 1

    return [utterance for utterance in utterances if number_of(utterance) == number]


def spread(
    utterances: Sequence[Utterance],
    cache_path: str | Path,
    *,
    work: Work,
    num_shares: int,
    crew: Crew,
    overwrite: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Extraction:
    """Extract the features of utterances into a cache by a crew of workers, going on from where a run ended.

    Parameters
    ----------
    utterances, cache_path, overwrite, progress
        As `sslfeat.extract.extract` takes them.
    work : Work
    num_shares : int
        Into how many shares to divide what is left to do.
    crew : callable
        What does the shares.

    Returns
    -------
    Extraction

    Raises
    ------
    CacheError, SpecMismatchError, ValueError
        As `sslfeat.extract.extract` raises them.
    WorkerError
        Where a worker fails.
    """
    started = time.monotonic()
    cache_path = Path(cache_path)
    with Parts(cache_path, work.spec, overwrite=overwrite) as parts:
        plan = make_plan(utterances, parts, work.root)
        count = min(num_shares, len(plan.todo))
        folder = parts.make_shards() if count else parts.shards
        shares = [
            Share(cache_path=folder / f"{one + 1}-of-{count}.h5", utterances=plan.todo[one::count])
            for one in range(count)
        ]
        latest: dict[int, Progress] = {}

        def report(index: int, of_share: Progress) -> None:
            latest[index] = of_share
            if progress is not None:
                seconds = time.monotonic() - started
                progress(_together(latest, [len(share.utterances) for share in shares], seconds))

        done: Sequence[Extraction] = []
        if shares:
            done = crew(shares, report)
            parts.adopt()
        parts.finish(software_versions())
        outcome = see_outcome(plan, parts)
    rates = Counter[int]()
    for one in done:
        rates.update(one.sample_rates)
    return Extraction.of(
        plan,
        outcome,
        cache_path=cache_path,
        wall_seconds=time.monotonic() - started,
        set_aside=parts.set_aside + [told for one in done for told in one.set_aside],
        clipped=[identity for one in done for identity in one.clipped],
        sample_rates=rates,
    )


def extract_share(
    work: Work, share: Share, device: str, progress: Callable[[Progress], None] | None = None
) -> Extraction:
    """Extract one share, in the process of a worker.

    Raises
    ------
    SpecMismatchError
        Where the worker's encoder would make other numbers.
    CacheError, EncoderError
        As `sslfeat.extract.extract` and `Encoder.load` raise them.
    """
    with _one_at_a_time:
        encoder = _load(work, device)
        task = functools.partial(
            extract,
            share.utterances,
            share.cache_path,
            root=work.root,
            encoder=encoder,
            spec=work.spec,
            batch_seconds=work.batch_seconds,
            jobs=work.jobs,
            progress=progress,
        )
        return when_free(task, patience=_SHARE_PATIENCE)


@functools.lru_cache(maxsize=1)
def _load(work: Work, device: str) -> Encoder:
    spec = work.spec
    encoder = Encoder.load(work.model_id, revision=work.revision, device=device, precision=spec.precision)
    own = encoder.spec(layers=spec.layers, pooling=spec.pooling)
    if differences := own.differences(spec, ignore=_REQUESTED):
        told = describe_differences(differences, mine="this worker", theirs="asked")
        msg = f"{work.model_id}: another encoder than where the run was started: {told}."
        raise SpecMismatchError(msg)
    return encoder


def _together(latest: dict[int, Progress], sizes: Sequence[int], wall_seconds: float) -> Progress:
    """Return how far the whole is; what a share had already when it was taken up again is not in its total."""
    return Progress(
        done=sum(sizes[index] - one.total + one.done for index, one in latest.items()),
        total=sum(sizes),
        audio_seconds=sum(one.audio_seconds for one in latest.values()),
        wall_seconds=wall_seconds,
        num_failures=sum(one.num_failures for one in latest.values()),
    )
