"""A process for each device: real ones, on the CPU, some of them killed."""

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

import sslfeat.devices
from cache import FeatureCache, Utterance
from sslfeat.devices import _be_worker, _see_only, extract_on_devices
from sslfeat.encoder import EncoderError
from sslfeat.extract import Extraction, Progress
from sslfeat.spread import Share, Work, WorkerError

Run = Callable[..., Extraction]
Listing = Callable[[], list[Utterance]]
Check = Callable[[Path, Path], None]


def test_a_worker_is_killed_and_the_same_call_goes_on(
    run: Run,
    work: Work,
    utterances: Listing,
    wav: Path,
    out: Path,
    assert_equal_caches: Check,
    tmp_path: Path,
) -> None:
    (wav / "16a01Wa.wav").write_bytes((wav / "03a01Wa.wav").read_bytes())
    (wav / "16a01Na.wav").write_bytes(b"")
    killed: list[int] = []
    # joblib keeps processes of its own from one test to the next.
    strangers = set(multiprocessing.active_children())

    def workers() -> list[BaseProcess]:
        return [one for one in multiprocessing.active_children() if one not in strangers]

    def kill_one(progress: Progress) -> None:
        # Both are at work by now, or about to be.
        if progress.done >= 1 and not killed:
            killed.append(next(one.pid for one in workers() if one.pid))
            os.kill(killed[0], signal.SIGKILL)

    with pytest.raises(
        WorkerError,
        match=r"the worker on cpu, process \d+, was killed by SIGKILL; what was committed is kept, and the same command goes on",
    ) as raised:
        extract_on_devices(utterances(), out, work=work, devices=["cpu", "cpu"], progress=kill_one)
    assert f"process {killed[0]}," in str(raised.value)
    assert not workers()
    held: set[str] = set()
    for path in tmp_path.rglob("*.h5"):
        with FeatureCache(path) as cache:
            assert cache.verify() == []
            held.update(cache.utterance_ids.tolist())

    seen: list[Progress] = []
    done = extract_on_devices(utterances(), out, work=work, devices=["cpu", "cpu"], progress=seen.append)
    assert done.num_written == 12 - len(held)
    assert {one.total for one in seen} == {14 - done.num_kept}
    assert seen[-1].done == 14 - done.num_kept
    assert [failure.id for failure in done.failures] == ["own/16a01Na"]
    assert [one.id for one in done.duplicates] == ["own/16a01Wa"]
    run(cache_path=tmp_path / "plain.h5")
    assert_equal_caches(out, tmp_path / "plain.h5")
    assert sorted(path.name for path in tmp_path.glob("*.h5*")) == ["out.h5", "plain.h5"]


def test_a_device_that_is_not_there(work: Work, utterances: Listing, out: Path) -> None:
    with pytest.raises(EncoderError, match=r"device 'cuda:98' is not there"):
        extract_on_devices(utterances(), out, work=work, devices=["cpu", "cuda:98"])
    assert not list(out.parent.glob("out.h5*"))


# One worker, in this process


@pytest.fixture
def share(utterances: Listing, out: Path) -> Share:
    return Share(cache_path=out, utterances=utterances())


def messages(near_end: Connection) -> Iterator[Any]:
    """What a worker has told, up to its end."""
    with contextlib.suppress(EOFError):
        while True:
            yield near_end.recv()


def test_a_worker_tells_how_far_it_is_and_what_it_did(work: Work, share: Share, out: Path) -> None:
    near_end, far_end = multiprocessing.Pipe()
    _be_worker(far_end, work, share, "cpu", 1)
    far_end.close()
    *progress, done = messages(near_end)
    assert [one.done for one in progress] == sorted(one.done for one in progress)
    assert (progress[0].done, progress[-1].done, progress[-1].total) == (0, 12, 12)
    assert (done.num_written, done.cache_path) == (12, out)


def test_a_worker_that_is_told_to_end_commits_what_it_has(work: Work, share: Share, out: Path) -> None:
    near_end, far_end = multiprocessing.Pipe()
    told: list[Any] = []

    def listen() -> None:
        for message in messages(near_end):
            told.append(message)
            if message.done >= 2:
                near_end.send(None)
                return

    listener = threading.Thread(target=listen)
    listener.start()
    _be_worker(far_end, work, share, "cpu", 1)
    listener.join()
    parts = sorted(out.with_name("out.h5.parts").glob("part-*.h5"))
    # It may have been through before it looked.
    held = sum(len(FeatureCache(path)) for path in parts) if parts else len(FeatureCache(out))
    assert held >= told[-1].done >= 2


def test_a_worker_ends_with_the_process_that_started_it(work: Work, share: Share, out: Path) -> None:
    near_end, far_end = multiprocessing.Pipe()
    near_end.close()
    _be_worker(far_end, work, share, "cpu", 1)
    assert not out.exists()


def test_a_worker_that_fails_says_why(work: Work, share: Share, tmp_path: Path) -> None:
    near_end, far_end = multiprocessing.Pipe()
    _be_worker(far_end, dataclasses.replace(work, model_id=str(tmp_path)), share, "cpu", 1)
    far_end.close()
    (reason,) = messages(near_end)
    assert reason.startswith(f"{tmp_path}: a model directory holds config.json")


@pytest.mark.parametrize(
    ("visible", "device", "seen"),
    [
        (None, "cuda:1", "1"),
        (None, "cuda", "0"),
        ("", "cuda:0", "0"),
        ("4,6", "cuda:1", "6"),
        ("GPU-8f2e,MIG-7a", "cuda", "GPU-8f2e"),
    ],
)
def test_a_worker_sees_its_own_gpu_alone(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, device: str, seen: str
) -> None:
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with monkeypatch.context() as patch:
        patch.setattr(os, "environ", dict(os.environ))
        assert _see_only(device) == "cuda"
        assert os.environ["CUDA_VISIBLE_DEVICES"] == seen


# The processes of a run


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What workers are started with; each is a thread that does its share, or fails, as `behave` says."""
    arguments: list[tuple[Any, ...]] = []

    class Thread(threading.Thread):
        pid, exitcode = 4711, 7

        def __init__(self, *, target: Callable[..., None], args: tuple[Any, ...], daemon: bool) -> None:
            arguments.append(args)
            # The far end is closed by who started the process; a thread needs one of its own.
            end = Connection(os.dup(args[0].fileno()))
            super().__init__(target=lambda: (behave(end, *args[1:]), end.close()), daemon=daemon)

        def kill(self) -> None:
            pass

    def behave(end: Connection, work: Work, share: Share, device: str, num_threads: int) -> None:
        if "fail" in work.model_id:
            end.send("the disk is full.")
        elif "vanish" not in work.model_id:
            _be_worker(end, work, share, device, num_threads)

    monkeypatch.setattr(sslfeat.devices, "SpawnProcess", Thread)
    return arguments


def test_workers_divide_the_shares_and_the_threads(
    run: Run, work: Work, utterances: Listing, out: Path, tmp_path: Path, assert_equal_caches: Check,
    started: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    done = extract_on_devices(utterances(), out, work=work, devices=["cpu", "cpu", "cpu"])
    assert [(one[2].cache_path.name, one[3], one[4]) for one in started] == [
        (f"{number}-of-3.h5", "cpu", 2) for number in (1, 2, 3)
    ]
    assert [len(one[2].utterances) for one in started] == [4, 4, 4]
    assert done.num_written == 12
    run(cache_path=tmp_path / "plain.h5")
    assert_equal_caches(out, tmp_path / "plain.h5")


@pytest.mark.parametrize(
    ("how", "told"), [("fail", "failed: the disk is full"), ("vanish", "ended with exit status 7")]
)
def test_a_worker_that_is_lost_is_named(
    work: Work, utterances: Listing, out: Path, started: list[tuple[Any, ...]], how: str, told: str
) -> None:
    lost = dataclasses.replace(work, model_id=how)
    with pytest.raises(
        WorkerError,
        match=rf"^the worker on cpu, process 4711, {told}; what was committed is kept, and the same command goes on from there\.$",
    ):
        extract_on_devices(utterances(), out, work=lost, devices=["cpu", "cpu"])
    assert len(started) == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
