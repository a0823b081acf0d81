"""Several caches joined into one: how a run is finished or resumed, and how devices and machines come together."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.durable import check_free
from cache.schema import (
    CacheError,
    Duplicate,
    Failure,
    SpecMismatchError,
    describe_differences,
)
from cache.store import CacheFile, NewCache
from cache.table import TABLES, columns, decode, encode, record

# Numbers held at once while they are copied: what bounds the memory of a merge of any size.
BUFFER_BYTES = 2**26
# Rows or frames read at once from one input.
LINES_PER_READ = 8192

Index = NDArray[np.signedinteger[Any]]


def merge(
    out_path: str | Path,
    cache_paths: Sequence[str | Path],
    *,
    complete: bool | None = None,
    software: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> None:
    """Join caches made under one spec into one file, which appears whole or not at all.

    What the latest cache of the sequence says about an utterance holds, be it a row, a failure or a duplicate.
    Of rows with one audio hash the one with the smallest id stays, the others become duplicates of it. A
    duplicate of which no row has the hash any more becomes a failure of size and time 0, so that the next
    extraction reads its audio again.

    Parameters
    ----------
    out_path : str or Path
        May be one of the inputs.
    cache_paths : sequence of str or Path
        Oldest first.
    complete : bool, optional
        Whether the run that made the result came to its end; by default where all the inputs' did.
    software : mapping of str to str, optional
        Versions recorded in the result; those of the last input by default.
    overwrite : bool
        Whether a file at ``out_path`` that is no input is replaced.

    Raises
    ------
    CacheError
        Where there is no input, one can't be read, or the result exists or can't be written.
    SpecMismatchError
        Where the inputs' numbers were made differently; the message names the fields.
    """
    out_path, paths = Path(out_path), [Path(path) for path in cache_paths]
    if not paths:
        msg = f"{out_path}: nothing to merge; name at least one cache."
        raise CacheError(msg)
    caches = _opened(paths)
    if not overwrite and not (out_path.exists() and any(out_path.samefile(path) for path in paths)):
        check_free(out_path)
    spec = caches[0].spec
    rows, failures, duplicates = _resolved(caches)
    if software is None:
        software = caches[-1].software
    if complete is None:
        complete = all(cache.complete for cache in caches)
    with NewCache(out_path, spec, complete=complete, software=software) as new:
        for table, nouns in (("failures", failures), ("duplicates", duplicates)):
            new.write_table(table, columns(table, sorted(map(record, nouns))))
        names = [f"utterances/{name}" for name in TABLES["utterances"]]
        names += [f"features/{name}" for name in spec.pooling]
        _copy(new, caches, names, rows, rows.place, np.arange(len(rows) + 1))
        if spec.frames:
            starts, offsets = _frame_places(caches, rows)
            new.write_column("frames/offsets", offsets)
            _copy(new, caches, ["frames/values"], rows, starts, offsets)


@dataclasses.dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of several tables: which input each comes from, and its place there."""

    source: Index
    place: Index

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, chosen: NDArray[Any] | slice) -> "_Rows":
        return _Rows(self.source[chosen], self.place[chosen])

    def by_source(self) -> Iterator[tuple[int, Index]]:
        """Yield each input that any row comes from, with the indices of those rows, ascending."""
        order = np.argsort(self.source, kind="stable")
        sources, starts = np.unique(self.source[order], return_index=True)
        yield from zip(sources.tolist(), np.split(order, starts[1:]), strict=False)

    def column(self, caches: Sequence[CacheFile], dataset: str) -> NDArray[Any]:
        """Return the rows' values of a column, as they are stored."""
        dtypes = [caches[source].extents[dataset].dtype for source in np.unique(self.source)]
        gathered = np.empty(len(self), np.result_type(*dtypes) if dtypes else np.bytes_)
        for indices, values in self.blocks(caches, dataset):
            gathered[indices] = values
        return gathered

    def blocks(self, caches: Sequence[CacheFile], dataset: str) -> Iterator[tuple[Index, NDArray[Any]]]:
        """Yield the indices of some rows and their values of a column, until all were had."""
        for source, indices in self.by_source():
            with caches[source] as cache:
                for chosen, values in _read_lines(cache, dataset, None, self.place[indices]):
                    yield indices[chosen], values

    def texts(self, caches: Sequence[CacheFile], dataset: str) -> list[str]:
        """Return the rows' values of a column of texts."""
        return list(map(str, decode(self.column(caches, dataset))))


def _opened(paths: Sequence[Path]) -> list[CacheFile]:
    """Return the inputs, checked and of one spec; closed, since there may be more than a process can hold open."""
    caches: list[CacheFile] = []
    for path in paths:
        with CacheFile(path) as cache:
            caches.append(cache)
        if differences := caches[0].spec.differences(cache.spec):
            clause = describe_differences(differences, mine=caches[0].path.name, theirs=path.name)
            msg = f"{path}: can't be merged, its numbers were made differently: {clause}."
            raise SpecMismatchError(msg)
    return caches


def _resolved(caches: Sequence[CacheFile]) -> tuple[_Rows, list[Failure], list[Duplicate]]:
    """Return what holds: the newest statement about each id, and one row for each audio hash; rows by id."""
    statements, tables = _latest(caches)
    rows = statements[tables == 0]
    failures: list[Failure] = _nouns(caches, "failures", statements[tables == 1])
    stated: list[Duplicate] = _nouns(caches, "duplicates", statements[tables == 2])
    alike = _alike(caches, rows, [encode(noun.audio_hash) for noun in stated])
    hashes = rows[alike].column(caches, "utterances/audio_hash")
    by_hash = np.argsort(hashes, kind="stable")
    ordered, alike = hashes[by_hash], alike[by_hash]
    repeats = np.zeros(len(alike), dtype=bool)
    repeats[1:] = (ordered[1:] == ordered[:-1]) & (ordered[1:] != b"")
    # The first of each run of equal hashes has the smallest id, as the sort is stable.
    first = np.maximum.accumulate(np.where(repeats, 0, np.arange(len(alike))))
    original = np.arange(len(rows))
    original[alike] = alike[first]
    is_row = original == np.arange(len(rows))

    duplicates = _found(caches, rows, np.flatnonzero(~is_row), original)
    hashless = any(not noun.audio_hash for noun in stated)
    ids = rows.column(caches, "utterances/id") if hashless else np.empty(0, np.bytes_)
    places = np.empty(len(stated), np.int64)
    for index, noun in enumerate(stated):
        if noun.audio_hash:
            places[index] = _place(ordered, encode(noun.audio_hash), alike)
        else:
            places[index] = _place(ids, encode(noun.original_id), original)
    found = rows[places[places >= 0]]
    texts = zip(found.texts(caches, "utterances/id"), found.texts(caches, "utterances/label"), strict=True)
    for noun, place in zip(stated, places, strict=True):
        if place < 0:
            reason = f"it was a duplicate of {noun.original_id!r}, which is gone or changed; extract again"
            failures.append(Failure(id=noun.id, path=noun.path, reason=reason))
        else:
            original_id, label = next(texts)
            duplicates.append(dataclasses.replace(noun, original_id=original_id, original_label=label))
    return rows[is_row], failures, duplicates


def _latest(caches: Sequence[CacheFile]) -> tuple[_Rows, NDArray[np.int8]]:
    """Return the newest statement about each id, by id, and which table each is in."""
    extents = [cache.extents[f"{table}/id"] for cache in caches for table in TABLES]
    lengths = [extent.shape[0] for extent in extents]
    ids = np.empty(sum(lengths), np.result_type(*(extent.dtype for extent in extents)))
    bounds = np.cumsum([0, *lengths])
    for source, cache in enumerate(caches):
        with cache:
            for number, table in enumerate(TABLES, source * len(TABLES)):
                ids[bounds[number] : bounds[number + 1]] = cache.ids(table)
    order = np.argsort(ids, kind="stable")
    newest = np.ones(len(order), dtype=bool)
    for start in range(0, len(order) - 1, LINES_PER_READ):
        some = ids[order[start : start + LINES_PER_READ + 1]]
        newest[start : start + len(some) - 1] = some[1:] != some[:-1]
    chosen = order[newest]
    numbers = np.searchsorted(bounds, chosen, side="right") - 1
    sources, tables = np.divmod(numbers, len(TABLES))
    places = chosen - bounds[numbers]
    return _Rows(sources.astype(np.int32), places.astype(np.int32)), tables.astype(np.int8)


def _alike(caches: Sequence[CacheFile], rows: _Rows, wanted: Sequence[bytes]) -> Index:
    """Return the rows, ascending, that may have one audio hash with another row or be wanted; few others.

    They are found by eight bytes each, where the hashes themselves would take most of the memory of a merge.
    """
    keys = np.empty(len(rows), np.int64)
    for indices, hashes in rows.blocks(caches, "utterances/audio_hash"):
        keys[indices] = list(map(hash, hashes.tolist()))
    may_be = np.isin(keys, np.array(list(map(hash, wanted)), np.int64))
    order = np.argsort(keys, kind="stable")
    equal = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
    may_be[order[equal]] = may_be[order[equal + 1]] = True
    return np.flatnonzero(may_be)


def _place(values: NDArray[np.bytes_], wanted: bytes, places: Index) -> int:
    """Return which place belongs to a value, -1 where there is none; values ascend, and the first one counts."""
    at = int(np.searchsorted(values, wanted))
    return int(places[at]) if at < len(values) and values[at] == wanted else -1


def _nouns(caches: Sequence[CacheFile], table: str, statements: _Rows) -> list[Any]:
    found: list[Any] = []
    for source, indices in statements.by_source():
        with caches[source] as cache:
            nouns = list(cache.nouns(table))
        found += [nouns[place] for place in statements.place[indices]]
    return found


def _found(caches: Sequence[CacheFile], rows: _Rows, repeated: Index, original: Index) -> list[Duplicate]:
    """Return the rows at ``repeated`` as duplicates of those that ``original`` points to."""
    if not repeated.size:
        return []
    mine, theirs = rows[repeated], rows[original[repeated]]
    texts = {
        "id": mine.texts(caches, "utterances/id"),
        "path": mine.texts(caches, "utterances/path"),
        "label": mine.texts(caches, "utterances/label"),
        "audio_hash": mine.texts(caches, "utterances/audio_hash"),
        "original_id": theirs.texts(caches, "utterances/id"),
        "original_label": theirs.texts(caches, "utterances/label"),
        "file_size": mine.column(caches, "utterances/file_size").tolist(),
        "file_mtime_ns": mine.column(caches, "utterances/file_mtime_ns").tolist(),
        "start": mine.column(caches, "utterances/start").tolist(),
        "end": mine.column(caches, "utterances/end").tolist(),
    }
    return [
        Duplicate(**dict(zip(texts, values, strict=True))) for values in zip(*texts.values(), strict=True)
    ]


def _frame_places(caches: Sequence[CacheFile], rows: _Rows) -> tuple[Index, Index]:
    """Return where each row's frames begin in its input, and the offsets of all in the result."""
    starts, lengths = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
    for source, indices in rows.by_source():
        with caches[source] as cache:
            offsets = cache.frame_offsets()
        starts[indices] = offsets[rows.place[indices]]
        lengths[indices] = np.diff(offsets)[rows.place[indices]]
    return starts, np.concatenate([[0], np.cumsum(lengths)])


@dataclasses.dataclass(frozen=True, slots=True)
class _Slab:
    """A column, or one layer of a matrix: what is copied line by line."""

    dataset: str
    position: int | None
    dtype: np.dtype[Any]
    tail: tuple[int, ...]

    def empty(self, lines: int) -> NDArray[Any]:
        return np.empty((lines, *self.tail), self.dtype)


def _copy(
    new: NewCache,
    caches: Sequence[CacheFile],
    datasets: Sequence[str],
    rows: _Rows,
    starts: Index,
    offsets: Index,
) -> None:
    """Copy datasets in which row ``i`` is the lines from ``starts[i]`` in its input and ``offsets[i]`` in the result."""
    spec, total = new.spec, int(offsets[-1])
    slabs: list[_Slab] = []
    for dataset in datasets:
        if dataset.startswith("utterances/"):
            dtype = max((cache.extents[dataset].dtype for cache in caches), key=attrgetter("itemsize"))
            new.create(dataset, (total,), dtype)
            slabs.append(_Slab(dataset, None, dtype, ()))
        else:
            dtype = np.dtype(spec.dtype)
            new.create(dataset, (len(spec.layers), total, spec.hidden_size), dtype)
            slabs += [
                _Slab(dataset, position, dtype, (spec.hidden_size,)) for position in range(len(spec.layers))
            ]
    for group, first, last in _passes(slabs, offsets):
        chosen = rows[first:last]
        buffers = [slab.empty(int(offsets[last] - offsets[first])) for slab in group]
        for source, indices in chosen.by_source():
            lengths = np.diff(offsets[first : last + 1])[indices]
            here = _lines(starts[first:last][indices], lengths)
            there = _lines(offsets[first:last][indices] - offsets[first], lengths)
            with caches[source] as cache:
                for slab, buffer in zip(group, buffers, strict=True):
                    for some, lines in _read_lines(cache, slab.dataset, slab.position, here):
                        buffer[there[some]] = lines
        for slab, buffer in zip(group, buffers, strict=True):
            new.append(slab.dataset, buffer)


def _passes(slabs: Sequence[_Slab], offsets: Index) -> Iterator[tuple[list[_Slab], int, int]]:
    """Yield which slabs and which range of rows to copy next, so that they fit the buffer.

    As many slabs at once as fit whole, so that each input is opened rarely; a slab that doesn't fit goes in ranges.
    """
    total, group, size = int(offsets[-1]), list[_Slab](), 0
    for slab in slabs:
        needed = slab.empty(1).nbytes * total
        if group and size + needed > BUFFER_BYTES:
            yield from _ranges(group, offsets)
            group, size = [], 0
        group.append(slab)
        size += needed
    yield from _ranges(group, offsets)


def _ranges(group: list[_Slab], offsets: Index) -> Iterator[tuple[list[_Slab], int, int]]:
    lines = max(1, BUFFER_BYTES // sum(slab.empty(1).nbytes for slab in group))
    first, num_rows = 0, len(offsets) - 1
    while first < num_rows:
        last = int(np.searchsorted(offsets, offsets[first] + lines, side="right")) - 1
        last = min(max(last, first + 1), num_rows)
        yield group, first, last
        first = last


def _lines(starts: Index, lengths: Index) -> Index:
    """Return the numbers from each start on, as many as its length, one after the other."""
    ends = np.cumsum(lengths)
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1] if ends.size else 0)


def _read_lines(
    cache: CacheFile, dataset: str, position: int | None, here: Index
) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Yield the lines ``here`` (ascending) of a dataset in bounded reads, and which of them those are."""
    begin = 0
    while begin < len(here):
        start = int(here[begin])
        end = int(np.searchsorted(here, start + LINES_PER_READ))
        block = cache.read(dataset, start, int(here[end - 1]) + 1, position=position)
        yield slice(begin, end), block[here[begin:end] - start]
        begin = end
