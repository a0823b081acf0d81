"""A corpus extracted on several devices of this machine: a process for each, watched by the one that started them."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch

from cache import Utterance
from sslfeat.encoder import choose_device
from sslfeat.extract import Extraction, Progress
from sslfeat.spread import Report, Share, Work, WorkerError, extract_share, spread

# How long a worker may go on with its batch, or with loading its encoder, once it is told to end.
_STOP_PATIENCE = 60.0


def extract_on_devices(
    utterances: Sequence[Utterance],
    cache_path: str | Path,
    *,
    work: Work,
    devices: Sequence[str],
    overwrite: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Extraction:
    """Extract the features of utterances into a cache by one process for each device of this machine.

    The processes are spawned: a script calls this under ``if __name__ == "__main__"``.

    Parameters
    ----------
    utterances, cache_path, overwrite, progress
        As `sslfeat.extract.extract` takes them.
    work : Work
    devices : sequence of str
        As `choose_device` reads them. One may come several times; those on the CPU divide its threads.

    Returns
    -------
    Extraction

    Raises
    ------
    EncoderError
        Where a device is not there.
    CacheError, SpecMismatchError, ValueError, WorkerError
        As `spread` raises them.
    """
    names = [str(choose_device(device)) for device in devices]

    def crew(shares: Sequence[Share], report: Report) -> Sequence[Extraction]:
        num_threads = max(1, torch.get_num_threads() // max(1, names[: len(shares)].count("cpu")))
        with _deaf_to_ctrl_c():
            pairs = zip(shares, names, strict=False)
            workers = [_Worker(work, share, device, num_threads) for share, device in pairs]
        try:
            return _attend(workers, report)
        finally:
            _end(workers)

    return spread(
        utterances,
        cache_path,
        work=work,
        num_shares=len(names),
        crew=crew,
        overwrite=overwrite,
        progress=progress,
    )


class _Worker:
    """A process that does one share, seen from the one that starts it."""

    def __init__(self, work: Work, share: Share, device: str, num_threads: int) -> None:
        self.device = device
        # A pipe each: a process that is killed while it writes to a queue leaves the queue locked for all.
        self.connection, far_end = multiprocessing.Pipe()
        self.process = SpawnProcess(
            target=_be_worker, args=(far_end, work, share, device, num_threads), daemon=True
        )
        self.process.start()
        far_end.close()

    def receive(self) -> Progress | Extraction:
        try:
            message = self.connection.recv()
        except (EOFError, OSError) as error:
            self.process.join()
            status = self.process.exitcode or 0
            signalled = f"was killed by {signal.Signals(-status).name}" if status < 0 else ""
            raise self._error(signalled or f"ended with exit status {status}") from error
        if isinstance(message, str):
            failed = f"failed: {message}"
            raise self._error(failed)
        received: Progress | Extraction = message
        return received

    def _error(self, what: str) -> WorkerError:
        return WorkerError(
            f"the worker on {self.device}, process {self.process.pid}, {what.rstrip('.')}; what was committed is kept, and the same command goes on from there."
        )


def _attend(workers: Sequence[_Worker], report: Report) -> list[Extraction]:
    """Wait for workers and pass on how far they are."""
    done: dict[int, Extraction] = {}
    waiting = dict(enumerate(workers))
    while waiting:
        ready = wait([worker.connection for worker in waiting.values()])
        for index, worker in list(waiting.items()):
            if worker.connection in ready:
                message = worker.receive()
                if isinstance(message, Progress):
                    report(index, message)
                else:
                    done[index] = message
                    del waiting[index]
    return [done[index] for index in range(len(workers))]


def _end(workers: Sequence[_Worker]) -> None:
    """Have workers commit what they have and end."""
    for worker in workers:
        with contextlib.suppress(BrokenPipeError):
            worker.connection.send(None)
    deadline = time.monotonic() + _STOP_PATIENCE
    for worker in workers:
        worker.process.join(max(0.0, deadline - time.monotonic()))
        worker.process.kill()
        worker.process.join()
        worker.connection.close()


@contextlib.contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Have processes that are started in the block not hear Ctrl-C, which reaches all processes of a terminal.

    The one that starts them does, and tells them to end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # where signals can't be set
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _be_worker(connection: Connection, work: Work, share: Share, device: str, num_threads: int) -> None:
    """Do a share and tell the process that started this one; end with it, and at its word."""
    if device == "cpu":
        torch.set_num_threads(num_threads)
    elif device.startswith("cuda"):
        device = _see_only(device)

    def report(progress: Progress) -> None:
        if connection.poll():  # the word to end, or the end of the other process
            raise KeyboardInterrupt
        connection.send(progress)

    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError, ConnectionResetError):
        try:
            connection.send(extract_share(work, share, device, report))
        except (ValueError, OSError, MemoryError, RuntimeError) as error:
            notes = getattr(error, "__notes__", [])
            connection.send(" ".join([str(error) or type(error).__name__, *notes]))


def _see_only(device: str) -> str:
    """Hide all GPUs but one from this process, so that whatever has no device named means that one."""
    _, _, index = device.partition(":")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name for name in visible.split(",") if name]
    os.environ["CUDA_VISIBLE_DEVICES"] = names[int(index or 0)] if names else index or "0"
    return "cuda"
