"""The cache file: an HDF5 file in which every dataset lies in one piece, with checksums. The only user of h5py.

HDF5 says what the file holds and where; the numbers themselves are read and written as plain ranges of bytes. That is as
fast as a raw file, needs no lock between threads or processes, and no failing disk can bring HDF5 down.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from cache.checksum import BLOCK_BYTES, RunningChecksums
from cache.durable import DurableFile, uninterrupted
from cache.raw import Extent, RawFile
from cache.schema import FORMAT_NAME, SCHEMA_VERSION, CacheError, Duplicate, Failure, FeatureSpec, Row
from cache.table import KINDS, LATER_COLUMNS, MAX_TEXT_BYTES, TABLES, decode, nouns

# Since this version every structure of an HDF5 file has a checksum of its own; HDF5 1.10 and later read it.
LIBRARY_VERSION = ("v110", "v110")


class CacheFile:
    """A finished cache, opened for reading; it may be used by several threads, and after a fork.

    Parameters
    ----------
    path : Path

    Attributes
    ----------
    spec, software, complete
        As written.
    num_utterances : int
    extents : dict of str to Extent
        The datasets; ``utterances/id``, for one.

    Raises
    ------
    CacheError
        Where the file is missing, no HDF5 file, cut short, damaged, of another format, of a schema version that
        this release can't read, or where its parts disagree with one another.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.extents: dict[str, Extent] = {}
        self._raw = RawFile(path)
        try:
            with (
                uninterrupted(),
                self._explained(),
                h5py.File(path, "r", driver="fileobj", fileobj=self._raw.file) as file,
            ):
                self._read_attributes(file)
                directory = _Directory(path, file, self._raw.size)
                self.num_utterances = self._read_structure(directory)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        self._raw.close()

    def read(
        self, dataset: str, start: int = 0, stop: int | None = None, *, position: int | None = None
    ) -> NDArray[Any]:
        """Return part of a dataset as it lies in the file: texts as bytes, numbers in their stored type.

        Parameters
        ----------
        dataset : str
            Name inside the file, as ``features/mean``.
        start, stop : int
            Range of rows or frames, everything by default.
        position : int, optional
            Place among the layers; without it a matrix is returned whole.

        Raises
        ------
        CacheError
            Where it can't be read or its checksum doesn't fit.
        """
        extent = self.extents[dataset]
        if len(extent.shape) > 1 and position is None:
            return self._read(dataset, 0, extent.nbytes).view(extent.dtype).reshape(extent.shape)
        length = extent.shape[-2] if len(extent.shape) > 1 else extent.shape[0]
        start, stop, _ = slice(start, stop).indices(length)
        stop = max(start, stop)
        first = (position or 0) * length
        found = self._read(dataset, (first + start) * extent.line_bytes, (first + stop) * extent.line_bytes)
        return found.view(extent.dtype).reshape(stop - start, *extent.shape[2:])

    def nouns(self, table: str) -> Iterator[Row | Failure | Duplicate]:
        """Yield the rows of ``utterances``, ``failures`` or ``duplicates``, by id."""
        arrays = {
            name: self.read(f"{table}/{name}") for name in TABLES[table] if f"{table}/{name}" in self.extents
        }
        for name, values in arrays.items():
            if TABLES[table][name] is str:
                arrays[name] = decode(values)
        return nouns(table, arrays)

    def ids(self, table: str) -> NDArray[np.bytes_]:
        """Return the ids that a table states, ascending.

        Raises
        ------
        CacheError
            Where they can't be read, or are in another order.
        """
        ids: NDArray[np.bytes_] = self.read(f"{table}/id")
        if np.any(ids[1:] <= ids[:-1]):
            msg = f"{self.path}: {f'{table}/id'!r} is not in ascending order; extract again."
            raise CacheError(msg)
        return ids

    def frame_offsets(self) -> NDArray[np.int64]:
        """Return where the frames of each row begin, and where the last one's end, in a cache that has frames.

        Raises
        ------
        CacheError
            Where they can't be read, or are not those of as many frames as the rows have.
        """
        lengths: NDArray[np.int64] = self.read("utterances/num_frames")
        offsets: NDArray[np.int64] = self.read("frames/offsets")
        if offsets[0] != 0 or lengths.min(initial=0) < 0 or not np.array_equal(np.diff(offsets), lengths):
            msg = f"{self.path}: 'frames/offsets' disagrees with 'utterances/num_frames'; extract again."
            raise CacheError(msg)
        return offsets

    def _read(self, dataset: str, start: int, stop: int) -> NDArray[np.uint8]:
        return self._raw.read(
            dataset, self.extents[dataset], self.extents[f"checksums/{dataset}"], start, stop
        )

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        # What h5py raises on damaged structures is any of these.
        try:
            yield
        except CacheError:
            raise
        except (
            OSError,
            RuntimeError,
            LookupError,
            ArithmeticError,
            ValueError,
            TypeError,
            AttributeError,
        ) as error:
            what = "cut short" if "truncated file" in str(error) else f"damaged ({error})"
            msg = f"{self.path}: {what}; restore the file or extract again."
            raise CacheError(msg) from error

    def _read_attributes(self, file: h5py.File) -> None:
        if _text(file.attrs.get("format", "")) != FORMAT_NAME:
            msg = f"{self.path}: not a feature cache; its format isn't {FORMAT_NAME!r}."
            raise CacheError(msg)
        version = int(file.attrs["schema_version"])
        if not 1 <= version <= SCHEMA_VERSION:
            msg = f"{self.path}: written by schema {version}; this version reads 1..{SCHEMA_VERSION}; upgrade sslfeat."
            raise CacheError(msg)
        try:
            self.spec = FeatureSpec.from_json(_text(file.attrs["spec"]))
        except CacheError as error:
            msg = f"{self.path}: {error}."
            raise CacheError(msg) from error
        if self.spec.fingerprint != _text(file.attrs["fingerprint"]):
            msg = f"{self.path}: the fingerprint doesn't fit the feature spec; the file was altered."
            raise CacheError(msg)
        software = json.loads(_text(file.attrs["software"]))
        self.software = {str(name): str(version) for name, version in software.items()}
        self.complete = bool(file.attrs["complete"])

    def _read_structure(self, directory: "_Directory") -> int:
        """Find what the spec promises; return the number of utterances."""
        for table, kinds in TABLES.items():
            lengths = {
                self._found(directory, f"{table}/{name}", KINDS[kind], 1)[0]
                for name, kind in kinds.items()
                if f"{table}/{name}" not in LATER_COLUMNS or directory.has(f"{table}/{name}")
            }
            if len(lengths) != 1:
                msg = f"{self.path}: the columns of {table!r} differ in length."
                raise CacheError(msg)
        (num_utterances,) = self.extents["utterances/id"].shape
        matrices = {f"features/{name}": num_utterances for name in self.spec.pooling}
        if self.spec.frames:
            (num_offsets,) = self._found(directory, "frames/offsets", "i", 1)
            if num_offsets != num_utterances + 1:
                msg = f"{self.path}: 'frames/offsets' has {num_offsets} numbers, not {num_utterances + 1}."
                raise CacheError(msg)
            matrices["frames/values"] = int(self.read("frames/offsets", num_utterances)[0])
        for name, length in matrices.items():
            found = self._found(directory, name, "f", 3)
            expected = (len(self.spec.layers), length, self.spec.hidden_size)
            if found != expected or self.extents[name].dtype != self.spec.dtype:
                msg = (
                    f"{self.path}: {name!r} must be {self.spec.dtype} of shape {expected}. "
                    f"Got {self.extents[name].dtype} of shape {found} instead."
                )
                raise CacheError(msg)
        return num_utterances

    def _found(self, directory: "_Directory", name: str, kind: str, rank: int) -> tuple[int, ...]:
        """Note where a dataset and its checksums lie; return its shape."""
        extent = directory.extent(name, kind, rank)
        sums = directory.extent(f"checksums/{name}", "u", 1)
        if sums.nbytes != 8 * -(-extent.nbytes // BLOCK_BYTES):
            msg = f"{self.path}: {name!r} has {sums.shape[0]} checksums; not one for each block."
            raise CacheError(msg)
        self.extents[name], self.extents[f"checksums/{name}"] = extent, sums
        return extent.shape


class _Directory:
    """Finds datasets in an open HDF5 file, and refuses what doesn't lie in one piece in this very file."""

    def __init__(self, path: Path, file: h5py.File, size: int) -> None:
        self.path = path
        self._size = size
        self._groups: dict[str, Any] = {"": file.id}

    def extent(self, name: str, kind: str, rank: int) -> Extent:
        """Return where a dataset lies, which must have that kind of numbers and that many axes."""
        dataset = self._opened(name)
        if not isinstance(dataset, h5py.h5d.DatasetID):
            msg = f"{self.path}: {name!r} is no dataset."
            raise CacheError(msg)
        layout = dataset.get_create_plist()
        if layout.get_layout() != h5py.h5d.CONTIGUOUS or layout.get_external_count():
            msg = f"{self.path}: {name!r} doesn't lie in one piece in this file."
            raise CacheError(msg)
        shape, dtype = dataset.shape or (), dataset.dtype
        if dtype.kind != kind or dtype.newbyteorder("<") != dtype or len(shape) != rank:
            msg = f"{self.path}: {name!r} has type {dtype} and {len(shape)} axes, not those of the format."
            raise CacheError(msg)
        if kind == "S" and dtype.itemsize > MAX_TEXT_BYTES:
            msg = f"{self.path}: {name!r} has texts of {dtype.itemsize} bytes, and {MAX_TEXT_BYTES} are the most."
            raise CacheError(msg)
        extent = Extent(shape, np.dtype(dtype.str), dataset.get_offset() or 0)
        if extent.offset + extent.nbytes > self._size or (extent.nbytes and not extent.offset):
            msg = f"{self.path}: {name!r} is cut short; restore the file or extract again."
            raise CacheError(msg)
        return extent

    def has(self, name: str) -> bool:
        """Return whether there is something of this name in a group that is there."""
        folder, _, member = name.rpartition("/")
        return member.encode() in self._group(folder)

    def _group(self, name: str) -> Any:
        if name not in self._groups:
            self._groups[name] = self._opened(name)
        return self._groups[name]

    def _opened(self, name: str) -> Any:
        folder, _, member = name.rpartition("/")
        group = self._group(folder)
        if not isinstance(group, h5py.h5g.GroupID) or member.encode() not in group:
            msg = f"{self.path}: {name!r} is missing."
            raise CacheError(msg)
        if group.links.get_info(member.encode()).type != h5py.h5l.TYPE_HARD:
            msg = f"{self.path}: {name!r} is a link; a cache holds all its numbers itself."
            raise CacheError(msg)
        return h5py.h5o.open(group, member.encode())


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
        self._extents: dict[str, Extent] = {}
        self._sums: dict[str, RunningChecksums] = {}
        # Space is taken at once and never filled: its place must be known, and every byte of it will be written.
        self._layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        self._layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        self._layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        self._layout.set_obj_track_times(False)
        self._links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
        self._links.set_create_intermediate_group(True)

    def __enter__(self) -> Self:
        with self._explained():
            self._target = DurableFile(self.path)
        try:
            with uninterrupted():
                self._file = h5py.File(
                    self.path, "w", driver="fileobj", fileobj=self._target, libver=LIBRARY_VERSION
                )
                self._write_attributes()
        except BaseException:
            self._target.discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._explained():
                with uninterrupted():
                    try:
                        if kind is None:
                            self._write_checksums()
                    finally:
                        self._file.close()
                if kind is None:
                    self._target.commit()
        finally:
            self._target.discard()

    def create(self, dataset: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Make room for a column, or for a matrix of shape (layers, rows or frames, hidden_size)."""
        stored = h5py.string_dtype("utf-8", dtype.itemsize) if dtype.kind == "S" else dtype.newbyteorder("<")
        with uninterrupted():
            made = h5py.h5d.create(
                self._file.id,
                dataset.encode(),
                h5py.h5t.py_create(stored, logical=True),
                h5py.h5s.create_simple(shape),
                self._layout,
                self._links,
            )
        extent = Extent(shape, np.dtype(stored.str), made.get_offset() or 0)
        self._extents[dataset], self._sums[dataset] = extent, RunningChecksums(extent.nbytes)

    def append(self, dataset: str, values: NDArray[Any]) -> None:
        """Write the numbers that come next in a dataset; a matrix is written layer after layer.

        Raises
        ------
        CacheError
            Where the disk doesn't take them.
        """
        extent, sums = self._extents[dataset], self._sums[dataset]
        data = np.ascontiguousarray(values, extent.dtype).reshape(-1).view(np.uint8)
        self._target.seek(extent.offset + sums.taken)
        self._target.write(data.data)
        sums.take(data)
        with self._explained():
            self._target.check()

    def write_column(self, dataset: str, values: NDArray[Any]) -> None:
        """Create and write a whole column."""
        self.create(dataset, values.shape, values.dtype)
        self.append(dataset, values)

    def write_table(self, table: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Create and write all columns of a table."""
        for name in TABLES[table]:
            self.write_column(f"{table}/{name}", arrays[name])

    def _write_attributes(self) -> None:
        attributes = {
            "format": FORMAT_NAME,
            "spec": self.spec.to_json(),
            "fingerprint": self.spec.fingerprint,
            "software": json.dumps(self._software, sort_keys=True),
        }
        for name, text in attributes.items():
            # Of fixed length, as texts of variable length lie where no checksum covers them.
            encoded = text.encode()
            self._file.attrs.create(name, encoded, dtype=h5py.string_dtype("utf-8", len(encoded)))
        self._file.attrs["schema_version"] = SCHEMA_VERSION
        self._file.attrs["complete"] = self._complete

    def _write_checksums(self) -> None:
        for dataset, sums in list(self._sums.items()):
            if sums.taken != sums.nbytes:
                msg = f"{self.path}: {dataset!r} was left unfinished: {sums.taken} of {sums.nbytes} bytes."
                raise CacheError(msg)
            self.write_column(f"checksums/{dataset}", sums.result())

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            msg = (
                f"{self.path}: can't be written: {error.strerror or error}; nothing was left under that name."
            )
            raise CacheError(msg) from error


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
