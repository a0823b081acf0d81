"""The cache file: one HDF5 file per cache, read lazily and written whole. The only module that knows HDF5."""

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from cache.durable import DurableFile
from cache.schema import (
    FORMAT_NAME,
    SCHEMA_VERSION,
    CacheError,
    Duplicate,
    Failure,
    FeatureSpec,
    Row,
)
from cache.table import KINDS, TABLES, decode, nouns

# One layer of 128 rows: a layer of all rows is read without touching the others, and a chunk of the largest
# published encoders (1280 numbers a row) is still below HDF5's 1 MiB chunk buffer.
ROWS_PER_CHUNK = 128
FRAMES_PER_CHUNK = 256
COLUMN_CHUNK_BYTES = 2**18
# Since this version every structure of the file carries a checksum of its own; HDF5 1.10 and later read it.
LIBRARY_VERSION = ("v110", "v110")


class CacheFile:
    """The file of a finished cache, opened for reading when needed and once per process.

    Parameters
    ----------
    path : Path

    Attributes
    ----------
    spec, software, complete
        As written.
    num_utterances : int
    dtypes : dict of str to dtype
        Stored type of each dataset; for texts it says how many bytes they have room for.
    lengths : dict of str to int
        First axis of each dataset.

    Raises
    ------
    CacheError
        Where the file is missing, no HDF5 file, cut short, damaged, of another format, of a schema version that
        this release can't read, or where its parts disagree with one another.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.dtypes: dict[str, np.dtype[Any]] = {}
        self.lengths: dict[str, int] = {}
        self._handle: tuple[int, h5py.File] | None = None
        file = self._file()
        with self._naming("/"):
            self._check_format(file)
            self.spec = self._read_spec(file)
            self.software: dict[str, str] = json.loads(_text(file.attrs["software"]))
            self.complete = bool(file.attrs["complete"])
            self.num_utterances = self._check_structure(file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        if self._handle is not None:
            self._handle[1].close()
            self._handle = None

    def read(
        self, dataset: str, start: int = 0, stop: int | None = None, *, position: int | None = None
    ) -> NDArray[Any]:
        """Return part of a dataset as it lies in the file: texts as bytes, numbers in their stored type.

        Parameters
        ----------
        dataset : str
            Name inside the file, as ``features/mean``.
        start, stop : int
            Range along the first axis, everything by default.
        position : int, optional
            Place on the second axis, that of the layers.

        Raises
        ------
        CacheError
            Where it can't be read or its checksum doesn't fit.
        """
        rows = slice(start, stop)
        with self._naming(dataset):
            found = self._file()[dataset]
            return np.asarray(found[rows] if position is None else found[rows, position])

    def nouns(self, table: str) -> Iterator[Row | Failure | Duplicate]:
        """Yield the rows of ``utterances``, ``failures`` or ``duplicates``, by id."""
        arrays = {name: self.read(f"{table}/{name}") for name in TABLES[table]}
        for name, kind in TABLES[table].items():
            if kind is str:
                arrays[name] = decode(arrays[name])
        return nouns(table, arrays)

    def _file(self) -> h5py.File:
        handle = self._handle
        if handle is None or handle[0] != os.getpid():
            handle = (os.getpid(), _open(self.path))
            self._handle = handle
        return handle[1]

    @contextlib.contextmanager
    def _naming(self, dataset: str) -> Iterator[None]:
        # h5py gives OSError for a bad checksum or a short read, and RuntimeError, KeyError or ValueError for
        # damaged structures.
        try:
            yield
        except CacheError:
            raise
        except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
            msg = f"{self.path}: {dataset!r} is damaged ({error}); restore the file or extract it again."
            raise CacheError(msg) from error

    def _check_format(self, file: h5py.File) -> None:
        if _text(file.attrs.get("format", "")) != FORMAT_NAME:
            msg = f"{self.path}: not a feature cache; its format isn't {FORMAT_NAME!r}."
            raise CacheError(msg)
        version = int(file.attrs["schema_version"])
        if not 1 <= version <= SCHEMA_VERSION:
            msg = (
                f"{self.path}: written by schema {version}; this version reads 1..{SCHEMA_VERSION}; "
                "upgrade sslfeat."
            )
            raise CacheError(msg)

    def _read_spec(self, file: h5py.File) -> FeatureSpec:
        try:
            spec = FeatureSpec.from_json(_text(file.attrs["spec"]))
        except CacheError as error:
            msg = f"{self.path}: {error}."
            raise CacheError(msg) from error
        if spec.fingerprint != _text(file.attrs["fingerprint"]):
            msg = f"{self.path}: the fingerprint doesn't fit the feature spec; the file was altered."
            raise CacheError(msg)
        return spec

    def _check_structure(self, file: h5py.File) -> int:
        """Check that what the spec promises is there, in this file, and of one length; return that length."""
        sizes = {}
        for table, kinds in TABLES.items():
            lengths = {
                len(self._dataset(file, f"{table}/{name}", KINDS[kind], 1)) for name, kind in kinds.items()
            }
            if len(lengths) != 1:
                msg = f"{self.path}: the columns of {table!r} differ in length."
                raise CacheError(msg)
            sizes[table] = lengths.pop()
        num_utterances = sizes["utterances"]
        matrices = {f"features/{name}": num_utterances for name in self.spec.pooling}
        if self.spec.frames:
            offsets = self._dataset(file, "frames/offsets", "i", 1)
            if len(offsets) != num_utterances + 1:
                msg = f"{self.path}: 'frames/offsets' has {len(offsets)} numbers, not {num_utterances + 1}."
                raise CacheError(msg)
            matrices["frames/values"] = int(offsets[-1])
        for name, length in matrices.items():
            found = self._dataset(file, name, "f", 3)
            expected = (length, len(self.spec.layers), self.spec.hidden_size)
            if found.shape != expected or found.dtype != self.spec.dtype:
                msg = (
                    f"{self.path}: {name!r} must be {self.spec.dtype} {expected}. "
                    f"Got {found.dtype} {found.shape} instead."
                )
                raise CacheError(msg)
        return num_utterances

    def _dataset(self, file: h5py.File, name: str, kind: str, rank: int) -> h5py.Dataset:
        """Return a dataset that lies in this very file and holds plain numbers or texts."""
        group: Any = file
        for part in name.split("/"):
            if not isinstance(group, h5py.Group) or part not in group:
                msg = f"{self.path}: {name!r} is missing."
                raise CacheError(msg)
            if not isinstance(group.get(part, getlink=True), h5py.HardLink):
                msg = f"{self.path}: {name!r} is a link; a cache holds all its numbers itself."
                raise CacheError(msg)
            group = group[part]
        if not isinstance(group, h5py.Dataset) or group.is_virtual or group.external:
            msg = f"{self.path}: {name!r} doesn't hold its numbers itself."
            raise CacheError(msg)
        if group.dtype.kind != kind or group.ndim != rank:
            msg = f"{self.path}: {name!r} has type {group.dtype} and {group.ndim} axes; not what the format says."
            raise CacheError(msg)
        self.dtypes[name], self.lengths[name] = np.dtype(group.dtype.str), len(group)
        return group


class NewCache:
    """A cache being written: it gets its final name when the block ends well, and is removed when it doesn't.

    Parameters
    ----------
    cache_path : Path
    spec : FeatureSpec
    complete : bool
        Whether the corpus is all in it.
    software : mapping of str to str
        Versions that made it; no part of its identity.

    Raises
    ------
    CacheError
        Where the file can't be created or written.
    """

    def __init__(
        self, cache_path: Path, spec: FeatureSpec, *, complete: bool, software: Mapping[str, str]
    ) -> None:
        self.path = cache_path
        self.spec = spec
        self._complete = complete
        self._software = dict(software)

    def __enter__(self) -> Self:
        try:
            self._target = DurableFile(self.path)
        except OSError as error:
            raise self._unwritable(error) from error
        self._file = h5py.File(self.path, "w", driver="fileobj", fileobj=self._target, libver=LIBRARY_VERSION)
        attributes = {
            "format": FORMAT_NAME,
            "spec": self.spec.to_json(),
            "fingerprint": self.spec.fingerprint,
            "software": json.dumps(self._software, sort_keys=True),
        }
        for name, text in attributes.items():
            encoded = text.encode()
            self._file.attrs.create(name, encoded, dtype=h5py.string_dtype("utf-8", len(encoded)))
        self._file.attrs["schema_version"] = SCHEMA_VERSION
        self._file.attrs["complete"] = self._complete
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()
            if kind is None:
                self._target.commit()
        except OSError as failure:
            raise self._unwritable(failure) from failure
        finally:
            self._target.discard()

    def create(self, dataset: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Make room for a dataset; its second axis, where it has one, is that of the layers."""
        stored = h5py.string_dtype("utf-8", dtype.itemsize) if dtype.kind == "S" else dtype
        if math.prod(shape) == 0:
            self._file.create_dataset(dataset, shape, stored)
            return
        if len(shape) == 1:
            chunks: tuple[int, ...] = (max(1, min(shape[0], COLUMN_CHUNK_BYTES // dtype.itemsize)),)
        else:
            rows = FRAMES_PER_CHUNK if dataset.startswith("frames/") else ROWS_PER_CHUNK
            chunks = (min(shape[0], rows), 1, shape[2])
        self._file.create_dataset(dataset, shape, stored, chunks=chunks, fletcher32=True)

    def write(self, dataset: str, start: int, values: NDArray[Any], *, position: int | None = None) -> None:
        """Write ``values`` from row ``start`` on, of the layer at ``position`` where there are layers.

        Raises
        ------
        CacheError
            Where the disk doesn't take them.
        """
        if not values.size:
            return
        rows = slice(start, start + len(values))
        target = self._file[dataset]
        # HDF5 doesn't convert between character sets: the type must say UTF-8, as the file does.
        target[rows if position is None else (rows, position)] = values.view(target.dtype)
        try:
            self._target.check()
        except OSError as error:
            raise self._unwritable(error) from error

    def write_table(self, table: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Create and write a whole table."""
        for name in TABLES[table]:
            self.write_column(f"{table}/{name}", arrays[name])

    def write_column(self, dataset: str, values: NDArray[Any]) -> None:
        """Create and write a whole dataset of one axis."""
        self.create(dataset, values.shape, values.dtype)
        self.write(dataset, 0, values)

    def _unwritable(self, error: OSError) -> CacheError:
        return CacheError(
            f"{self.path}: can't be written ({error.strerror or error}); nothing was left under that name."
        )


def check_free(cache_path: Path) -> None:
    """Raise where there is something under ``cache_path`` already.

    Raises
    ------
    CacheError
        So.
    """
    if cache_path.exists():
        msg = f"{cache_path}: exists already; choose another name or overwrite it."
        raise CacheError(msg)


def _open(path: Path) -> h5py.File:
    try:
        with path.open("rb") as file:
            signature = file.read(8)
        if signature != b"\x89HDF\r\n\x1a\n":
            msg = f"{path}: not an HDF5 file, so not a feature cache."
            raise CacheError(msg)
        return h5py.File(path, "r")
    except OSError as error:
        if error.strerror is not None:
            msg = f"{path}: {error.strerror}."
        elif "truncated file" in str(error):
            msg = f"{path}: cut short; restore the file or extract it again."
        else:
            msg = f"{path}: damaged ({error}); restore the file or extract it again."
        raise CacheError(msg) from error


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
