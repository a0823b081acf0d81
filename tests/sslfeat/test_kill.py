"""Kill the real process at any instant: no committed utterance is lost or doubled, and the next run finishes."""

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cache import FeatureCache, Utterance

# Runs the same extraction in a child process for each line that it reads, which is the cache's path and the kill: after
# so many seconds, or at a file operation in the folder of the cache, counted from 0. It prints the child's exit status
# (negative: by which signal), its seconds and its file operations. Parts are committed after every batch.
SERVER = """
import json, os, signal, sys, threading, time, traceback
from pathlib import Path
import torch
import sslfeat.extract
from cache import Utterance
from sslfeat.encoder import Encoder

torch.set_num_threads(1)
root, model, described = sys.argv[1:]
utterances = [Utterance(**fields) for fields in json.loads(described)]
encoder = Encoder.load(model, device="cpu")
sslfeat.extract._PART_BYTES = 1
WATCHED = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}

def extract(told, cache_path, seconds=None, operation=None, by="SIGKILL"):
    operations = []
    def watch(event, arguments):
        if event in WATCHED and str(arguments[0]).startswith(cache_path.rpartition("/")[0]):
            if len(operations) == operation:
                os.kill(os.getpid(), signal.SIGKILL)
            operations.append(event)
    sys.addaudithook(watch)
    if seconds is not None:
        threading.Thread(target=kill, args=(seconds, by), daemon=True).start()
    sslfeat.extract.extract(utterances, cache_path, root=root, encoder=encoder, spec=encoder.spec(), batch_seconds=0.7)
    os.write(told, json.dumps(operations).encode())

def kill(seconds, by):
    time.sleep(seconds)
    os.kill(os.getpid(), signal.Signals[by])

print("ready", flush=True)
for line in sys.stdin:
    order = json.loads(line)
    read, told = os.pipe()
    started = time.monotonic()
    child = os.fork()
    if not child:
        status = 1
        signal.alarm(120)  # what hangs is killed
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it starts in the background ignore it
        try:
            extract(told, **order)
            status = 0
        except KeyboardInterrupt:
            status = 130
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(told)
    with open(read) as pipe:
        operations = pipe.read()
    _, status = os.waitpid(child, 0)
    seconds = time.monotonic() - started
    answer = {"status": os.waitstatus_to_exitcode(status), "seconds": seconds, "operations": json.loads(operations or "[]")}
    print(json.dumps(answer), flush=True)
"""

Extract = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def extract(
    make_emodb: Callable[..., Path],
    list_files: Callable[[Path], list[Utterance]],
    model_directory: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Extract]:
    """Run the extraction in a process of its own, and perhaps kill it."""
    wav = make_emodb(tmp_path_factory.mktemp("corpus"), speakers=2, emotions="WN", seconds=0.2)
    (wav / "16a01Wa.wav").write_bytes((wav / "03a01Wa.wav").read_bytes())  # a duplicate
    (wav / "16a01Na.wav").write_bytes(b"")  # a failure
    fields = ("id", "path", "corpus", "label")
    described = [{name: getattr(one, name) for name in fields} for one in list_files(wav)]
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(wav), str(model_directory), json.dumps(described)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None
    assert stdout is not None

    def order(cache_path: Path, **kill: Any) -> dict[str, Any]:
        stdin.write(json.dumps({"cache_path": str(cache_path), **kill}) + "\n")
        stdin.flush()
        answer: dict[str, Any] = json.loads(stdout.readline())
        return answer

    with process:
        assert stdout.readline() == "ready\n"
        yield order
        stdin.close()


@pytest.fixture
def check(
    extract: Extract, tmp_path: Path, assert_equal_caches: Callable[[Path, Path], None]
) -> Callable[..., str]:
    """Kill one run, look at what it left, and let the same command finish; return how far it had come."""
    whole = tmp_path / "whole.h5"
    assert extract(whole)["status"] == 0

    def committed(folder: Path) -> dict[str, list[float]]:
        """What every file under a final name says; each must be readable."""
        found: dict[str, list[float]] = {}
        for path in sorted(folder.rglob("*.h5"), reverse=True):
            with FeatureCache(path) as cache:
                assert cache.verify() == []
                ids = cache.utterance_ids.tolist()
                assert len(set(ids)) == len(ids)
                found.update(zip(ids, cache.features(2).tolist(), strict=True))
        return found

    def check(name: str, **kill: Any) -> str:
        folder = tmp_path / name
        folder.mkdir()
        out = folder / "out.h5"
        killed = extract(out, **kill)
        assert killed["status"] in (0, -9 if kill.get("by") != "SIGINT" else 130)
        before = committed(folder)
        phase = (
            "finished" if killed["status"] == 0 else "final" if out.exists() else "part" if before else "none"
        )
        # The next run is killed too, and the one after that finishes.
        extract(out, **kill | {key: value / 2 for key, value in kill.items() if key != "by"})
        between = committed(folder)
        assert before.items() <= between.items()
        assert extract(out)["status"] == 0
        assert [path.name for path in folder.iterdir()] == ["out.h5"]
        assert_equal_caches(out, whole)
        return phase

    return check


def kill_at_random(
    extract: Extract, check: Callable[..., str], tmp_path: Path, kills: int, by: str = "SIGKILL"
) -> None:
    (tmp_path / "timed").mkdir()
    seconds = extract(tmp_path / "timed" / "out.h5")["seconds"]
    generator = random.Random(0)
    phases = [check(f"{kill}", seconds=generator.uniform(0, 1.05) * seconds, by=by) for kill in range(kills)]
    assert set(phases) != {"finished"}


def kill_at_operations(extract: Extract, check: Callable[..., str], tmp_path: Path, step: int) -> None:
    """Kill just before opening, renaming and removing files; the last ones are those of joining the parts."""
    (tmp_path / "counted").mkdir()
    operations = extract(tmp_path / "counted" / "out.h5")["operations"]
    assert {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"} <= set(operations)
    phases = [
        check(f"operation-{at}", operation=at)
        for at in sorted({*range(0, len(operations), step), len(operations) - 3})
    ]
    assert phases == sorted(phases, key=["none", "part", "final"].index)
    assert set(phases) == {"none", "part", "final"}


def test_killed_at_random_instants(extract: Extract, check: Callable[..., str], tmp_path: Path) -> None:
    kill_at_random(extract, check, tmp_path, 15)


def test_ctrl_c_at_random_instants(extract: Extract, check: Callable[..., str], tmp_path: Path) -> None:
    kill_at_random(extract, check, tmp_path, 4, "SIGINT")


def test_killed_at_file_operations(extract: Extract, check: Callable[..., str], tmp_path: Path) -> None:
    kill_at_operations(extract, check, tmp_path, 10)


@pytest.mark.slow
def test_killed_at_many_random_instants(extract: Extract, check: Callable[..., str], tmp_path: Path) -> None:
    kill_at_random(extract, check, tmp_path, 100)


@pytest.mark.slow
def test_ctrl_c_at_many_random_instants(extract: Extract, check: Callable[..., str], tmp_path: Path) -> None:
    kill_at_random(extract, check, tmp_path, 50, "SIGINT")


@pytest.mark.slow
def test_killed_at_every_file_operation(extract: Extract, check: Callable[..., str], tmp_path: Path) -> None:
    kill_at_operations(extract, check, tmp_path, 1)
