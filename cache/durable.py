"""A file that appears under its final name whole and on the disk, or never; and work that Ctrl-C must not cut in two."""

import contextlib
import os
import secrets
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from cache.schema import CacheError


def check_free(cache_path: Path) -> None:
    """Refuse to replace what is there.

    Raises
    ------
    CacheError
        Where there is a file or folder under that name.
    """
    if cache_path.exists():
        msg = f"{cache_path}: exists already; choose another name or overwrite it."
        raise CacheError(msg)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Put Ctrl-C off to the end of the block."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or handler is None:
        yield  # where it never arrives, or isn't Python's to put off
        return
    arrived: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: arrived.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if arrived:
            signal.raise_signal(signal.SIGINT)


class DurableFile:
    """A binary file written under a temporary name beside its final one.

    It has the methods that HDF5 asks of a file object, and never fails in them: HDF5 can't recover from a disk
    that is full (it ends the process with a segmentation fault when it closes), so the first failure is kept,
    later writes go to memory, and ``commit`` or ``check`` raises it. HDF5 is to be called `uninterrupted`, since it makes
    an error of its own of Ctrl-C in one of them.

    Parameters
    ----------
    path : Path
        The final name. The temporary one is ``.{name}.{process id}-{random}.tmp`` in the same folder.

    Raises
    ------
    OSError
        Where the temporary file can't be created.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
        self._file = self.temporary.open("x+b", buffering=0)
        self._offset = 0
        self._failure: OSError | None = None
        self._unwritten: list[tuple[int, bytes]] = []

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to ``offset`` from the start, from here or from the end, in bytes."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._offset, os.SEEK_END: self._size()}[whence]
        self._offset = origin + offset
        return self._offset

    def tell(self) -> int:
        """Return the position, in bytes."""
        return self._offset

    def write(self, block: bytes | memoryview) -> int:
        """Write the whole block, to the file or, once that has failed, to memory."""
        view = memoryview(block)
        if self._failure is None:
            try:
                self._file.seek(self._offset)
                written = 0
                while written < len(view):
                    written += self._file.write(view[written:])
            except OSError as error:
                self._failure = error
        if self._failure is not None:
            self._unwritten.append((self._offset, bytes(view)))
        self._offset += len(view)
        return len(view)

    def readinto(self, block: memoryview) -> int:
        """Fill ``block`` from here on, with zeros beyond the end."""
        start = self._offset
        if not self._file.closed:
            self._file.seek(start)
        read = 0
        while read < len(block) and not self._file.closed and (count := self._file.readinto(block[read:])):
            read += count
        block[read:] = bytes(len(block) - read)
        for offset, late in self._unwritten:
            first, last = max(start, offset), min(start + len(block), offset + len(late))
            if first < last:
                block[first - start : last - start] = late[first - offset : last - offset]
        self._offset += len(block)
        return len(block)

    def truncate(self, size: int) -> int:
        """Cut or extend the file to ``size`` bytes."""
        if self._failure is None:
            try:
                self._file.truncate(size)
            except OSError as error:
                self._failure = error
        return size

    def flush(self) -> None:
        """Do nothing: nothing is buffered here, and ``commit`` brings the file to the disk."""

    def check(self) -> None:
        """Raise the first failure, if there was one.

        Raises
        ------
        OSError
            As the system gave it: disk full, quota, input/output error.
        """
        if self._failure is not None:
            raise self._failure

    def commit(self) -> None:
        """Bring the file to the disk and give it its final name, in the place of any file of that name.

        Raises
        ------
        OSError
            Where writing failed, now or before; the final name is as it was.
        """
        self.check()
        os.fsync(self._file.fileno())
        self._file.close()
        self.temporary.replace(self.path)
        # The new name is on the disk only when its folder is.
        if hasattr(os, "O_DIRECTORY"):
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def discard(self) -> None:
        """Remove the temporary file, if it is still there, and take further writes to memory."""
        if self._failure is None:
            self._failure = OSError(f"{self.path}: discarded")
        self._file.close()
        self.temporary.unlink(missing_ok=True)

    def _size(self) -> int:
        written = 0 if self._file.closed else os.fstat(self._file.fileno()).st_size
        return max([written, *(offset + len(block) for offset, block in self._unwritten)])
