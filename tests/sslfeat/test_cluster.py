"""A Dask cluster of real worker processes on this machine, one of which is killed."""

import contextlib
import dataclasses
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sslfeat.cluster
from cache import Utterance
from sslfeat.cluster import extract_on_cluster
from sslfeat.extract import Extraction, Progress
from sslfeat.spread import Work, WorkerError

Run = Callable[..., Extraction]
Listing = Callable[[], list[Utterance]]
Check = Callable[[Path, Path], None]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    made = distributed.LocalCluster(
        processes=True, n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
    )
    with made, distributed.Client(made, set_as_default=False):
        yield made


def commit_often() -> int:
    """Run by a worker: have it commit a part after every batch."""
    import sslfeat.extract

    sslfeat.extract._PART_BYTES = 1
    return os.getpid()


def kill_midway(folder: Path, killed: list[int]) -> None:
    """Wait until a share has a part, and kill the worker that is at it."""
    for _ in range(120_000):
        for part in folder.glob("*.h5.parts/part-*.h5"):
            with contextlib.suppress(FileNotFoundError):
                holder = re.fullmatch(r"process (\d+) on .*", part.with_name("lock").read_text())
                if holder:
                    killed.append(int(holder[1]))
                    os.kill(killed[0], signal.SIGKILL)
                    return
        time.sleep(0.001)


def test_a_worker_is_killed_and_another_goes_on_with_its_share(
    cluster: Any, run: Run, work: Work, utterances: Listing, wav: Path, out: Path, tmp_path: Path,
    assert_equal_caches: Check, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (wav / "16a01Wa.wav").write_bytes((wav / "03a01Wa.wav").read_bytes())
    (wav / "16a01Na.wav").write_bytes(b"")
    distributed = pytest.importorskip("distributed")
    with distributed.Client(cluster, set_as_default=False) as client:
        workers = list(client.run(commit_often).values())
    assert len({*workers, os.getpid()}) == 3
    shares: list[Extraction] = []
    result = sslfeat.cluster._result
    monkeypatch.setattr(
        sslfeat.cluster, "_result", lambda *answer: shares.append(result(*answer)) or shares[-1]
    )
    monkeypatch.setattr(sslfeat.cluster, "_SHARES_PER_WORKER", 1)
    seen: list[Progress] = []
    killed: list[int] = []
    killer = threading.Thread(target=kill_midway, args=(out.with_name("out.h5.shards"), killed), daemon=True)
    killer.start()
    asked = {"work": work, "scheduler": cluster.scheduler_address, "device": "cpu", "progress": seen.append}
    done = extract_on_cluster(utterances(), out, **asked)
    killer.join()
    assert killed
    assert killed[0] in workers
    # One of the two was taken up from the parts that the killed worker had committed.
    assert sorted(one.num_kept > 0 for one in shares) == [False, True]
    assert [(one.done, one.total) for one in seen] == [(7, 14), (14, 14)]
    assert seen[-1].num_failures == 1
    assert (done.num_written, [one.id for one in done.failures]) == (12, ["own/16a01Na"])
    run(cache_path=tmp_path / "plain.h5")
    assert_equal_caches(out, tmp_path / "plain.h5")
    assert sorted(path.name for path in tmp_path.glob("*.h5*")) == ["out.h5", "plain.h5"]
    again = extract_on_cluster(utterances(), out, **asked)
    assert (again.num_written, again.num_kept) == (0, 13)


def test_a_share_that_fails_is_told_with_its_reason(
    cluster: Any, work: Work, utterances: Listing, out: Path, tmp_path: Path
) -> None:
    other = dataclasses.replace(work, model_id=str(tmp_path))
    with pytest.raises(
        WorkerError,
        match=r"share \d-of-8: .*: a model directory holds config\.json; .*; what was committed is kept, and the same command",
    ):
        extract_on_cluster(utterances(), out, work=other, scheduler=cluster.scheduler_address)
    assert not out.exists()


def test_no_scheduler_answers(work: Work, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("sslfeat.cluster._CONNECT_SECONDS", 0.5)
    for address in ("tcp://127.0.0.1:9", "nowhere://at-all"):
        with pytest.raises(WorkerError, match=rf"^{address}: no Dask scheduler answers; start one"):
            extract_on_cluster([], out, work=work, scheduler=address)


def test_dask_is_not_installed(work: Work, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(
        WorkerError, match=r"a scheduler needs Dask, which is not installed; install sslfeat\[dask\]\."
    ):
        extract_on_cluster([], out, work=work, scheduler="tcp://127.0.0.1:8786")
