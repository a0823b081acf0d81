"""A corpus extracted on the workers of a Dask cluster, all of which see the same files."""

import contextlib
import importlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cache import Utterance
from sslfeat.extract import Extraction, Progress
from sslfeat.spread import Report, Share, Work, WorkerError, extract_share, spread

# Shares are what workers take from one another: several for each, so that none waits long for the last, and none so
# large that its description is a burden to the scheduler.
_SHARES_PER_WORKER = 4
_MOST_PER_SHARE = 2000

_CONNECT_SECONDS = 10


def extract_on_cluster(
    utterances: Sequence[Utterance],
    cache_path: str | Path,
    *,
    work: Work,
    scheduler: str,
    device: str = "auto",
    overwrite: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Extraction:
    """Extract the features of utterances into a cache by the workers of a Dask cluster.

    Each worker reads the audio and the encoder, and writes beside the cache, under the paths that they have here. The
    share of a worker that is lost is taken up by another, from what was committed on. Workers want one thread each:
    one share is done at a time in one process.

    Parameters
    ----------
    utterances, cache_path, overwrite, progress
        As `sslfeat.extract.extract` takes them; ``progress`` is called after each share.
    work : Work
    scheduler : str
        Address of the scheduler, as ``tcp://10.0.0.1:8786``.
    device : str
        As `choose_device` reads it, on each worker.

    Returns
    -------
    Extraction

    Raises
    ------
    WorkerError
        Where Dask is not installed, no scheduler answers, a share failed, or several workers were lost doing it.
    CacheError, SpecMismatchError, ValueError
        As `spread` raises them.
    """
    with _connected(scheduler) as client:

        def crew(shares: Sequence[Share], report: Report) -> Sequence[Extraction]:
            return _attend(client, work, shares, device, report)

        wanted = _SHARES_PER_WORKER * max(1, len(client.nthreads()))
        return spread(
            utterances,
            cache_path,
            work=work,
            num_shares=max(wanted, math.ceil(len(utterances) / _MOST_PER_SHARE)),
            crew=crew,
            overwrite=overwrite,
            progress=progress,
        )


def _attend(
    client: Any, work: Work, shares: Sequence[Share], device: str, report: Report
) -> list[Extraction]:
    """Hand out the shares, wait for them, and tell which are done."""
    # A share that was handed out before may have failed: it is not to be answered from memory.
    futures = [client.submit(extract_share, work, share, device, pure=False) for share in shares]
    places = {future.key: index for index, future in enumerate(futures)}
    done: dict[int, Extraction] = {}
    try:
        for future in _distributed().as_completed(futures, loop=client.loop):
            index = places[future.key]
            done[index] = _result(future, shares[index])
            size = len(shares[index].utterances)
            report(
                index,
                Progress(
                    done=size,
                    total=size,
                    audio_seconds=done[index].audio_seconds,
                    wall_seconds=done[index].wall_seconds,
                    num_failures=len(done[index].failures),
                ),
            )
    finally:
        client.cancel(futures)
    return [done[index] for index in range(len(shares))]


def _result(future: Any, share: Share) -> Extraction:
    try:
        result: Extraction = future.result()
    # Whatever was raised on the worker comes as it was raised there.
    except Exception as error:
        reason = str(error).rstrip(".") or type(error).__name__
        msg = f"share {share.cache_path.stem}: {reason}; what was committed is kept, and the same command goes on from there."
        raise WorkerError(msg) from error
    return result


def _distributed() -> Any:
    # Typed or not by its version, and not there at all without the extra.
    try:
        return importlib.import_module("distributed")
    except ImportError as error:
        msg = "a scheduler needs Dask, which is not installed; install sslfeat[dask]."
        raise WorkerError(msg) from error


@contextlib.contextmanager
def _connected(scheduler: str) -> Iterator[Any]:
    distributed = _distributed()
    try:
        client = distributed.Client(scheduler, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        msg = f"{scheduler}: no Dask scheduler answers; start one with `dask scheduler`, or give the address that it prints."
        raise WorkerError(msg) from error
    with client:
        yield client
