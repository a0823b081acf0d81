"""Parts on the disk: whose they are, what is done about damaged ones, and where none can be written."""

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import sslfeat.extract
from cache import CacheError, FeatureCache, FeatureSpec
from sslfeat.encoder import Encoder
from sslfeat.extract import Extraction, Progress
from sslfeat.parts import HeldError, Parts, check_target, when_free

Run = Callable[..., Extraction]


@pytest.fixture
def folder(out: Path) -> Path:
    return out.with_name("out.h5.parts")


@pytest.fixture
def spec(encoder: Encoder) -> FeatureSpec:
    return encoder.spec(pooling=("mean", "std"))


@pytest.fixture
def interrupted(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The parts of a run that was stopped after half of the corpus."""

    def stop(progress: Progress) -> None:
        if progress.done >= 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sslfeat.extract, "_PART_BYTES", 1)
        with pytest.raises(KeyboardInterrupt):
            run(progress=stop)
    return sorted(folder.glob("part-*.h5"))


@pytest.fixture
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the parts."""
    program = (
        "import sys; from pathlib import Path; from cache import FeatureSpec; from sslfeat.parts import Parts\n"
        "parts = Parts(Path(sys.argv[1]), None); parts.__enter__(); print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(folder.with_suffix(""))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_parts_are_caches_that_are_joined_in_order(
    run: Run, interrupted: list[Path], spec: FeatureSpec, out: Path, folder: Path
) -> None:
    assert len(interrupted) >= 2
    for part in interrupted:
        with FeatureCache(part) as cache:
            assert cache.verify() == []
            assert cache.spec == spec
            assert not cache.complete
    with Parts(out, spec) as parts:
        assert [cache.path for cache in parts.caches()] == interrupted
        assert parts.next_path().name == f"part-{len(interrupted) + 1:08d}.h5"
        assert parts.finish({"sslfeat": "1"})
        assert [cache.path for cache in parts.caches()] == [out]
        assert not parts.finish({})
    assert not folder.exists()
    with FeatureCache(out) as cache:
        assert cache.complete
        assert cache.software == {"sslfeat": "1"}
    assert run().num_kept == 6


# One run at a time


def test_a_second_run_says_who_holds_it(run: Run, folder: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(
        CacheError,
        match=rf"out\.h5: being written by process {holder.pid} on .+; wait for it, or choose another",
    ):
        run(overwrite=True)
    assert folder.is_dir()


def test_the_lock_of_a_dead_process_is_no_obstacle(
    run: Run, folder: Path, holder: subprocess.Popen[str]
) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (folder / "lock").read_text().startswith(f"process {holder.pid} on")
    assert run().num_written == 12
    assert not folder.exists()


def test_runs_that_take_turns_never_meet(out: Path, spec: FeatureSpec) -> None:
    """The folder and its lock come and go while others reach for them."""
    inside, met, turns = [], [], []

    def take_turns() -> None:
        while len(turns) < 200:
            try:
                with Parts(out, spec):
                    inside.append(1)
                    met.extend(inside[1:])
                    turns.append(1)
                    inside.pop()
            except CacheError as error:
                if "being written by" not in str(error):
                    met.append(error)
                    raise

    threads = [threading.Thread(target=take_turns) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(turns) >= 200
    assert met == []


# Damage


@pytest.mark.parametrize("damage", ["cut short", "flipped bit", "empty", "text"])
def test_a_damaged_part_is_set_aside_and_done_again(
    run: Run, interrupted: list[Path], out: Path, folder: Path, tmp_path: Path, damage: str,
    assert_equal_caches: Callable[[Path, Path], None],
) -> None:  # fmt: skip
    part = interrupted[1]
    content = bytearray(part.read_bytes())
    with FeatureCache(part) as cache:
        lost = len(cache)
        offset = cache._file.extents["features/std"].offset
    if damage == "flipped bit":
        content[offset + 5] ^= 4
    part.write_bytes(
        {"cut short": content[: len(content) // 2], "empty": b"", "text": b"text"}.get(damage, content)
    )
    done = run()
    assert (done.num_kept, done.num_written) == (6 - lost, 6 + lost)
    assert len(done.set_aside) == 1
    assert done.set_aside[0].startswith(f"{part}: ")
    assert [path.name for path in folder.iterdir() if path.name != "lock"] == [f"{part.stem}.damaged"]
    run(cache_path=tmp_path / "undisturbed.h5")
    assert_equal_caches(out, tmp_path / "undisturbed.h5")
    # It is told once, and goes with everything else.
    assert run().set_aside == []
    run(overwrite=True)
    assert not folder.exists()


def test_parts_set_aside_keep_their_numbers(interrupted: list[Path], out: Path, spec: FeatureSpec) -> None:
    interrupted[-1].write_bytes(b"")
    with Parts(out, spec) as parts:
        assert parts.next_path().name == f"part-{len(interrupted) + 1:08d}.h5"


def test_parts_made_under_another_spec(run: Run, interrupted: list[Path], folder: Path) -> None:
    with pytest.raises(
        CacheError, match=r"part-00000001\.h5: made under another spec: layers \(0, 1, 2\) \(there\)"
    ):
        run(layers=[1])
    assert sorted(folder.glob("part-*.h5")) == interrupted
    assert run(layers=[1], overwrite=True).num_written == 12


@pytest.mark.parametrize("overwrite", [False, True])
def test_no_link_is_followed_out_of_the_folder(run: Run, out: Path, folder: Path, overwrite: bool) -> None:
    """Parts may come from a stranger, who would have a file of ours emptied or folders of ours cleared."""
    elsewhere = out.with_name("elsewhere")
    elsewhere.mkdir()
    precious, part = out.with_name("precious"), elsewhere / "part-00000001.h5"
    precious.write_text("mine")
    part.write_text("mine too")
    folder.mkdir()
    (folder / "lock").symlink_to(precious)
    with pytest.raises(CacheError, match=r"out\.h5: can't be written \(.*: .*out\.h5\.parts/lock\)"):
        run(overwrite=overwrite)
    (folder / "lock").unlink()
    folder.rmdir()
    for name in (folder.name, "out.h5.shards"):
        link = out.with_name(name)
        link.symlink_to(elsewhere)
        with pytest.raises(
            CacheError, match=rf"{name}: a link, where a folder of unfinished work is kept; rem"
        ):
            run(overwrite=overwrite)
        link.unlink()
    assert (precious.read_text(), part.read_text()) == ("mine", "mine too")
    assert [path.name for path in elsewhere.iterdir()] == [part.name]


def test_a_pipe_among_the_parts_is_not_waited_for(run: Run, out: Path, folder: Path) -> None:
    folder.mkdir()
    os.mkfifo(folder / "part-00000007.h5")
    (folder / "part-one.txt").write_text("of no part")
    done = run()
    assert done.set_aside[0].endswith("part-00000007.h5: not an HDF5 file, so not a feature cache.")
    assert FeatureCache(out).verify() == []


def test_what_killed_runs_were_writing_is_swept(run: Run, out: Path, folder: Path) -> None:
    folder.mkdir()
    swept = [out.with_name(".out.h5.123-0a1b2c3d.tmp"), folder / ".part-00000007.h5.123-0a1b2c3d.tmp"]
    kept = [out.with_name(".out.h5.old.h5.123-0a1b2c3d.tmp"), out.with_name(".other.h5.123-0a1b2c3d.tmp")]
    for path in (*swept, *kept):
        path.touch()
    run()
    assert [path.exists() for path in (*swept, *kept)] == [False, False, True, True]
    assert not folder.exists()


def test_a_file_that_is_no_cache(run: Run, out: Path) -> None:
    out.write_text("my thesis")
    with pytest.raises(
        CacheError, match=r"out\.h5: not an HDF5 file, so not a feature cache\. To replace it, overwrite it\."
    ):
        run()
    assert out.read_text() == "my thesis"
    assert run(overwrite=True).num_written == 12


def test_a_final_file_that_is_damaged_is_left_alone(run: Run, wav: Path, out: Path) -> None:
    run()
    content = bytearray(out.read_bytes())
    with FeatureCache(out) as cache:
        content[cache._file.extents["features/mean"].offset] ^= 1
    out.write_bytes(content)
    (wav / "03a01Wa.wav").write_bytes((wav / "09a01Na.wav").read_bytes()[:-100])
    with pytest.raises(CacheError, match=r"out\.h5: 'features/mean' is damaged, its checksum doesn't fit"):
        run()
    assert out.read_bytes() == content
    assert run(overwrite=True).num_written == 12


# Where nothing can be written


def test_the_folder_is_not_there(run: Run, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"out\.h5: the folder .+/no is not there; make it first\."):
        run(cache_path=tmp_path / "no" / "out.h5")
    with pytest.raises(CacheError, match="is not there; make it first"):
        check_target(tmp_path / "no" / "out.h5")


def test_the_name_is_a_folders(run: Run, out: Path) -> None:
    out.mkdir()
    with pytest.raises(CacheError, match=r"out\.h5: a folder has this name; give a file's, as emodb\.h5\."):
        run()


def test_the_folder_of_parts_can_not_be_made(run: Run, out: Path, folder: Path) -> None:
    folder.touch()
    with pytest.raises(CacheError, match=rf"out\.h5: can't be written \(File exists: {folder}\)\."):
        run()


def test_the_folder_can_not_be_written(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir(mode=0o500)
    if os.access(target, os.W_OK):
        target = Path("/proc")  # root may write everywhere else
    with pytest.raises(CacheError, match=r"out\.h5: can't be written \(.+: .+/out\.h5\.parts\)\."):
        run(cache_path=target / "out.h5")


def test_a_full_disk_is_told_in_one_sentence(spec: FeatureSpec, out: Path) -> None:
    """Not even the lock's few bytes fit."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with (
            pytest.raises(CacheError, match=r"out\.h5: can't be written \(File too large\)\."),
            Parts(out, spec),
        ):
            pytest.fail("the lock was taken")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with Parts(out, spec):
        assert (out.with_name("out.h5.parts") / "lock").exists()


# Shards


def test_a_shard_that_is_still_being_written_is_waited_for(
    run: Run, spec: FeatureSpec, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a worker that outlives the run that started it by the batch that it is at."""
    shards = Parts(out, spec).make_shards()
    shard = shards / "1-of-2.h5"
    with Parts(shard, spec):
        monkeypatch.setattr("sslfeat.parts._ADOPTION_PATIENCE", 0.3)
        with pytest.raises(HeldError, match=r"1-of-2\.h5: being written by process \d+ on .*; wait for it"):
            run()
    monkeypatch.setattr("sslfeat.parts._ADOPTION_PATIENCE", 60.0)
    run(cache_path=shard)
    held = Parts(shard, spec)
    held.__enter__()
    threading.Timer(0.3, held.__exit__, (None, None, None)).start()
    done = run()
    assert (done.num_kept, done.num_written) == (12, 0)
    assert not shards.exists()


def test_a_shard_cut_off_in_the_middle_of_a_file_leaves_its_parts(
    run: Run, interrupted: list[Path], spec: FeatureSpec, out: Path, folder: Path
) -> None:
    with FeatureCache(interrupted[0]) as cache:
        kept = len(cache)
    shards = Parts(out, spec).make_shards()
    parts = shards / "2-of-3.h5.parts"
    parts.mkdir()
    for part in interrupted[1:]:
        part.unlink()
    interrupted[0].rename(parts / "part-00000001.h5")
    (parts / ".part-00000002.h5.1-ab.tmp").write_bytes(b"half")
    (shards / ".2-of-3.h5.1-ab.tmp").write_bytes(b"half")
    done = run()
    assert (done.num_kept, done.num_written) == (kept, 12 - kept)
    assert sorted(path.name for path in out.parent.glob("out.h5*")) == ["out.h5"]


def test_only_what_is_held_is_tried_again() -> None:
    tried: list[int] = []

    def attempt() -> int:
        tried.append(1)
        if len(tried) < 3:
            raise HeldError("held")
        return 7

    assert when_free(attempt, patience=60.0) == 7
    assert len(tried) == 3
    tried.clear()
    with pytest.raises(HeldError):
        when_free(attempt, patience=-1.0)
    assert len(tried) == 1
    with pytest.raises(CacheError, match="another"):
        when_free(lambda: _raise(CacheError("another")), patience=60.0)


def _raise(error: Exception) -> None:
    raise error
