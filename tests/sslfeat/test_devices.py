"""A process for each device: real ones, on the CPU, some of them killed."""

import dataclasses
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import sslfeat.devices
from cache import FeatureCache, FeatureSpec, Utterance
from sslfeat.devices import extract_on_devices
from sslfeat.encoder import Encoder, EncoderError
from sslfeat.extract import Extraction, Progress
from sslfeat.spread import Work, WorkerError

Run = Callable[..., Extraction]
Listing = Callable[[], list[Utterance]]
Check = Callable[[Path, Path], None]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.h5"


@pytest.fixture
def work(model_directory: Path, encoder: Encoder, wav: Path) -> Work:
    spec: FeatureSpec = encoder.spec(pooling=("mean", "std"))
    return Work.plan(str(model_directory), spec, wav, batch_seconds=0.2, jobs=1)


def test_a_worker_is_killed_and_the_same_call_goes_on(
    run: Run, work: Work, utterances: Listing, wav: Path, out: Path, assert_equal_caches: Check, tmp_path: Path
) -> None:
    (wav / "16a01Wa.wav").write_bytes((wav / "03a01Wa.wav").read_bytes())
    (wav / "16a01Na.wav").write_bytes(b"")
    killed: list[int] = []

    def kill_one(progress: Progress) -> None:
        # Both are at work by now, or about to be.
        if progress.done >= 1 and not killed:
            killed.append(next(one.pid for one in multiprocessing.active_children() if one.pid))
            os.kill(killed[0], signal.SIGKILL)

    with pytest.raises(
        WorkerError,
        match=r"the worker on cpu, process \d+, was killed by SIGKILL; what was committed is kept, and the same command goes on",
    ) as raised:
        extract_on_devices(utterances(), out, work=work, devices=["cpu", "cpu"], progress=kill_one)
    assert f"process {killed[0]}," in str(raised.value)
    assert not multiprocessing.active_children()
    held: set[str] = set()
    for path in tmp_path.rglob("*.h5"):
        with FeatureCache(path) as cache:
            assert cache.verify() == []
            held.update(cache.utterance_ids.tolist())

    seen: list[Progress] = []
    done = extract_on_devices(utterances(), out, work=work, devices=["cpu", "cpu"], progress=seen.append)
    assert (done.num_written, done.num_written + done.num_kept) == (12 - len(held), 14 - 2 + done.num_kept - len(held))
    assert (seen[-1].done, seen[-1].total) == (14 - done.num_kept, 14 - done.num_kept)
    assert [failure.id for failure in done.failures] == ["own/16a01Na"]
    assert [one.id for one in done.duplicates] == ["own/16a01Wa"]
    run(cache_path=tmp_path / "plain.h5")
    assert_equal_caches(out, tmp_path / "plain.h5")
    assert sorted(path.name for path in tmp_path.glob("*.h5*")) == ["out.h5", "plain.h5"]
