import errno
import io
import os
from io import FileIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.durable import DurableFile


def test_commit_gives_the_final_name_and_replaces(tmp_path):
    path = tmp_path / "a.h5"
    path.write_bytes(b"old")
    target = DurableFile(path)
    target.write(b"new")
    assert path.read_bytes() == b"old"
    assert target.temporary.name.startswith(f".a.h5.{os.getpid()}-")
    target.commit()
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]
    target.discard()
    assert path.read_bytes() == b"new"


def test_discard_leaves_nothing(tmp_path):
    target = DurableFile(tmp_path / "a.h5")
    target.write(b"new")
    target.discard()
    target.discard()
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_name_do_not_meet(tmp_path):
    first, second = DurableFile(tmp_path / "a"), DurableFile(tmp_path / "a")
    first.write(b"first")
    second.write(b"second")
    second.commit()
    first.commit()
    assert (tmp_path / "a").read_bytes() == b"first"


def test_missing_folder_is_the_systems_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        DurableFile(tmp_path / "no" / "a")


def test_data_reach_the_disk_before_the_name_does(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: calls.append(os.fstat(descriptor).st_ino))
    target = DurableFile(tmp_path / "a")
    target.commit()
    assert calls == [(tmp_path / "a").stat().st_ino, tmp_path.stat().st_ino]


operations = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 40), st.binary(max_size=30)),
        st.tuples(st.just("read"), st.integers(0, 60), st.integers(0, 30)),
        st.tuples(st.just("end"), st.just(0), st.just(0)),
    ),
    max_size=20,
)


@given(operations, st.integers(0, 20))
def test_it_reads_back_what_was_written_though_the_disk_fills_up(tmp_path_factory, operations, failing):
    """After any write fails, the file object must go on as if it hadn't: against one in memory."""
    target, plain = DurableFile(tmp_path_factory.getbasetemp() / "a"), io.BytesIO()
    disk, done = target._file, []

    class FullDisk:
        closed = False

        def write(self, block):
            # What a full disk does: takes a part, then nothing.
            if len(done) - 1 == failing:
                disk.write(bytes(block[: len(block) // 2]))
                raise OSError(errno.ENOSPC, "No space left on device")
            return disk.write(block)

        def __getattr__(self, name):
            return getattr(disk, name)

    target._file = FullDisk()
    for operation, offset, value in operations:
        done.append(operation)
        if operation == "end":
            assert target.seek(0, os.SEEK_END) == plain.seek(0, os.SEEK_END)
            continue
        target.seek(offset)
        plain.seek(offset)
        if operation == "write":
            # HDF5 never writes nothing, and BytesIO doesn't grow by it as a file wouldn't.
            assert target.write(value or b"x") == plain.write(value or b"x")
        else:
            found = bytearray(value)
            target.readinto(memoryview(found))
            assert bytes(found) == plain.read(value).ljust(value, b"\0")
        assert target.tell() == (offset + value if operation == "read" else plain.tell())
    if any(operation == "write" for operation, _, _ in operations[failing : failing + 1]):
        with pytest.raises(OSError, match="No space left"):
            target.commit()
    target.discard()


def test_first_failure_is_the_one_reported(tmp_path):
    target = DurableFile(tmp_path / "a")
    target._file.close()
    target._file = FileIO(target.temporary)  # a write fails: not opened for writing
    target.write(b"lost")
    target.truncate(100)
    with pytest.raises(OSError, match="not open for writing"):
        target.check()
    with pytest.raises(OSError, match="not open for writing"):
        target.commit()
    target.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_discarded_file_can_still_be_written_to(tmp_path):
    target = DurableFile(tmp_path / "a")
    target.write(b"ab")
    target.discard()
    assert target.write(b"cd") == 2
    block = bytearray(2)
    target.seek(2)
    target.readinto(memoryview(block))
    assert block == b"cd"
