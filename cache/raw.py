"""The bytes of a cache file: where each dataset lies in them, and the reading of them, checked."""

import dataclasses
import math
import os
import stat
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.checksum import BLOCK_BYTES, checksums
from cache.schema import CacheError

# Read and checked at once: small enough to be still in the processor's own cache when it is checked, and large enough
# that threads seldom wait for each other's turn in Python; of 1 to 4 MiB, 3 was the fastest. Ranges of less than
# THREADED_BYTES are done before threads have started.
SLAB_BYTES = 12 * BLOCK_BYTES
THREADED_BYTES = 2**23
THREADS = min(4, os.cpu_count() or 1)


@dataclasses.dataclass(frozen=True, slots=True)
class Extent:
    """Where a dataset lies in its file: ``nbytes`` from ``offset`` on, in C order."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def line_bytes(self) -> int:
        """Size of one element of a column, or of one utterance's numbers in a layer, in bytes."""
        return math.prod(self.shape[2:]) * self.dtype.itemsize


class _File(FileIO):
    """A file that closes with its owner, without a warning: readers need not be closed by hand."""

    def __del__(self) -> None:
        self.close()


class RawFile:
    """The bytes of a finished cache; they may be read by several threads, and after a fork.

    Parameters
    ----------
    path : Path

    Attributes
    ----------
    file : FileIO
        As it was opened last.

    Raises
    ------
    CacheError
        Where the file is missing, can't be read, or doesn't begin as HDF5 does.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = _opened(path)
        self._identity = _identity(self.file)

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self._identity[2]

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        self.file.close()

    def read(self, name: str, extent: Extent, sums: Extent, start: int, stop: int) -> NDArray[np.uint8]:
        """Return a range of a dataset's bytes, checked together with the rest of the blocks that it touches.

        Parameters
        ----------
        name : str
            For errors.
        extent, sums : Extent
            Of the dataset and of its checksums.
        start, stop : int
            In bytes.

        Raises
        ------
        CacheError
            Where they can't be read or a checksum doesn't fit.
        """
        first, last = start // BLOCK_BYTES, -(-stop // BLOCK_BYTES)
        begin, end = first * BLOCK_BYTES, min(last * BLOCK_BYTES, extent.nbytes)
        buffer = np.empty(max(0, end - begin), np.uint8)
        expected = np.empty(max(0, last - first), "<u8")
        if not buffer.size:
            return buffer
        raw = self._reopened()
        slabs = deque(range(0, len(buffer), SLAB_BYTES))

        def fill() -> None:
            # Each thread takes the next slab, so that one on a busy core holds up no other.
            while slabs:
                try:
                    here = slabs.popleft()
                except IndexError:  # another thread took the last one
                    return
                fill_slab(here)

        def fill_slab(here: int) -> None:
            slab = buffer[here : here + SLAB_BYTES]
            self._read_into(raw, name, slab, extent.offset + begin + here)
            wanted = expected[here // BLOCK_BYTES : (here + SLAB_BYTES) // BLOCK_BYTES]
            if not np.array_equal(checksums(slab), wanted):
                msg = (
                    f"{self.path}: {name!r} is damaged, its checksum doesn't fit; "
                    "restore the file or extract again."
                )
                raise CacheError(msg)

        self._read_into(raw, name, expected.view(np.uint8), sums.offset + first * 8)
        if len(buffer) < THREADED_BYTES:
            fill()
        else:
            with ThreadPoolExecutor(THREADS) as pool:
                others = [pool.submit(fill) for _ in range(THREADS - 1)]
                fill()
                for other in others:
                    other.result()
        return buffer[start - begin : stop - begin]

    def _read_into(self, raw: FileIO, name: str, buffer: NDArray[np.uint8], offset: int) -> None:
        view, read = buffer.data, 0
        try:
            while read < len(view) and (count := os.preadv(raw.fileno(), [view[read:]], offset + read)):
                read += count
        except OSError as error:
            msg = f"{self.path}: {name!r} can't be read: {error.strerror}."
            raise CacheError(msg) from error
        if read < len(view):
            msg = f"{self.path}: {name!r} is cut short; restore the file or extract again."
            raise CacheError(msg)

    def _reopened(self) -> FileIO:
        raw = self.file
        if raw.closed:
            raw = _opened(self.path)
            if _identity(raw) != self._identity:
                raw.close()
                msg = f"{self.path}: replaced by another file since it was opened; open it anew."
                raise CacheError(msg)
            self.file = raw
        return raw


def _opened(path: Path) -> FileIO:
    try:
        # A pipe would be waited for.
        raw = _File(path, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    except OSError as error:
        msg = f"{path}: {error.strerror}."
        raise CacheError(msg) from error
    if not stat.S_ISREG(os.fstat(raw.fileno()).st_mode) or raw.read(8) != b"\x89HDF\r\n\x1a\n":
        raw.close()
        msg = f"{path}: not an HDF5 file, so not a feature cache."
        raise CacheError(msg)
    return raw


def _identity(raw: FileIO) -> tuple[int, int, int, int]:
    """Return what changes when another file takes the name."""
    found = os.fstat(raw.fileno())
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
