"""The bytes of a cache file: where each dataset lies in them, and the file they are read from."""

import dataclasses
import math
import os
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from cache.schema import CacheError


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


class _RawFile(FileIO):
    """A file that closes with its owner, without a warning: readers need not be closed by hand."""

    def __del__(self) -> None:
        self.close()


def open_raw(path: Path) -> FileIO:
    """Open a cache's bytes for reading.

    Raises
    ------
    CacheError
        Where the file is missing, can't be read, or doesn't begin as HDF5 does.
    """
    try:
        raw = _RawFile(path)
    except OSError as error:
        msg = f"{path}: {error.strerror}."
        raise CacheError(msg) from error
    if raw.read(8) != b"\x89HDF\r\n\x1a\n":
        raw.close()
        msg = f"{path}: not an HDF5 file, so not a feature cache."
        raise CacheError(msg)
    return raw


def identity(raw: FileIO) -> tuple[int, int, int, int]:
    """Return what changes when another file takes the name."""
    found = os.fstat(raw.fileno())
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
