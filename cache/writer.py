"""A cache filled utterance by utterance and committed as one file."""

from collections.abc import Mapping
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cache.durable import check_free
from cache.schema import CacheError, Duplicate, Failure, FeatureSpec, Row
from cache.store import NewCache
from cache.table import TABLES, Record, columns, record, table_of


class CacheWriter:
    """Collects rows in memory, in any order, and writes them as one cache when its block ends well.

    Until then nothing is under the final name, and after an error nothing ever is.

    Parameters
    ----------
    cache_path : str or Path
    spec : FeatureSpec
        What the numbers are.
    complete : bool
        Whether the corpus is all in it.
    software : mapping of str to str, optional
        Versions that made it; no part of its identity.
    overwrite : bool
        Whether a file of that name is replaced.

    Raises
    ------
    CacheError
        Where the file exists and ``overwrite`` is not set, and, at the end of the block, where it can't be written.
    """

    def __init__(
        self,
        cache_path: str | Path,
        spec: FeatureSpec,
        *,
        complete: bool = True,
        software: Mapping[str, str] | None = None,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(cache_path)
        self.spec = spec
        if not overwrite:
            check_free(self.path)
        self._complete = complete
        self._software = dict(software or {})
        self._records: dict[str, list[Record]] = {table: [] for table in TABLES}
        self._features: dict[str, list[NDArray[Any]]] = {name: [] for name in spec.pooling}
        self._frames: list[NDArray[Any]] = []
        self._ids: set[str] = set()
        self._nbytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._write()

    def __len__(self) -> int:
        """Return the number of rows so far."""
        return len(self._records["utterances"])

    @property
    def nbytes(self) -> int:
        """Size of the numbers held in memory, in bytes."""
        return self._nbytes

    def add(self, row: Row, features: Mapping[str, NDArray[Any]], frames: NDArray[Any] | None = None) -> None:
        """Add an utterance with its numbers, which are copied.

        Parameters
        ----------
        row : Row
        features : mapping of str to ndarray of shape (layers, hidden_size)
            One matrix per statistic of the spec.
        frames : ndarray of shape (layers, num_frames, hidden_size), optional
            The hidden states; given where the spec has frames, and only there.

        Raises
        ------
        CacheError
            Where the id was added before, a text or number can't be stored, or the features don't fit the spec, aren't
            finite, or exceed the range of the stored type.
        """
        utterance_id = row.utterance.id
        if set(features) != set(self.spec.pooling):
            msg = (
                f"{self.path}: {utterance_id!r}: features must be {', '.join(self.spec.pooling) or 'none'}. "
                f"Got {', '.join(features) or 'none'} instead."
            )
            raise CacheError(msg)
        if (frames is not None) != self.spec.frames:
            wanted = "frames must be given" if self.spec.frames else "frames can't be given"
            msg = f"{self.path}: {utterance_id!r}: {wanted}; that is what the feature spec says."
            raise CacheError(msg)
        layers, hidden_size = len(self.spec.layers), self.spec.hidden_size
        pooled = {
            name: self._storable(utterance_id, name, matrix, (layers, hidden_size))
            for name, matrix in features.items()
        }
        shape = (layers, row.num_frames, hidden_size)
        kept = [] if frames is None else [self._storable(utterance_id, "frames", frames, shape)]
        self._add(utterance_id, row)
        self._frames += kept
        for name, matrix in pooled.items():
            self._features[name].append(matrix)
        self._nbytes += sum(values.nbytes for values in (*pooled.values(), *kept))

    def add_failure(self, failure: Failure) -> None:
        """Add an utterance that can't be used.

        Raises
        ------
        CacheError
            Where the id was added before, or a text or number can't be stored.
        """
        self._add(failure.id, failure)

    def add_duplicate(self, duplicate: Duplicate) -> None:
        """Add an utterance whose samples are those of another.

        Raises
        ------
        CacheError
            Where the id was added before, or a text or number can't be stored.
        """
        self._add(duplicate.id, duplicate)

    def _add(self, utterance_id: str, noun: Row | Failure | Duplicate) -> None:
        if utterance_id in self._ids:
            msg = f"{self.path}: {utterance_id!r} was added before; an id is stated once."
            raise CacheError(msg)
        try:
            self._records[table_of(noun)].append(record(noun))
        except CacheError as error:
            msg = f"{self.path}: {error}"
            raise CacheError(msg) from error
        self._ids.add(utterance_id)

    def _storable(
        self, utterance_id: str, name: str, values: NDArray[Any], shape: tuple[int, ...]
    ) -> NDArray[Any]:
        """Return a copy in the stored type, every number of it finite; the first axis is that of the layers."""
        where = f"{self.path}: {utterance_id!r}: {name}"
        if values.shape != shape:
            msg = f"{where} must have shape {shape}. Got {values.shape} instead."
            raise CacheError(msg)
        limit = float(np.finfo(self.spec.dtype).max)
        inner = tuple(range(1, values.ndim))
        # A comparison with NaN is false, so that one test finds NaN, infinity and what is too large.
        sound = (values.min(axis=inner, initial=0) >= -limit) & (values.max(axis=inner, initial=0) <= limit)
        if not sound.all():
            position = int(np.argmin(sound))
            layer, found = self.spec.layers[position], values[position]
            if np.isfinite(found).all():
                msg = (
                    f"{where} of layer {layer} reaches {float(np.abs(found).max()):.6g}, beyond the range of "
                    f"{self.spec.dtype} (+-{limit:.6g}); store float32."
                )
            else:
                msg = f"{where} of layer {layer} is not finite."
            raise CacheError(msg)
        return np.array(values, dtype=self.spec.dtype)

    def _write(self) -> None:
        records = self._records["utterances"]
        order = sorted(range(len(records)), key=lambda index: records[index][0])
        num_utterances, layers, hidden_size = len(order), len(self.spec.layers), self.spec.hidden_size
        dtype = np.dtype(self.spec.dtype)
        with NewCache(self.path, self.spec, complete=self._complete, software=self._software) as new:
            for table in (
                "failures",
                "duplicates",
                "utterances",
            ):  # as merge does, which makes the same bytes
                new.write_table(table, columns(table, sorted(self._records[table], key=itemgetter(0))))
            for name, matrices in self._features.items():
                new.create(f"features/{name}", (layers, num_utterances, hidden_size), dtype)
                for position in range(layers if order else 0):
                    new.append(f"features/{name}", np.stack([matrices[index][position] for index in order]))
            if self.spec.frames:
                lengths = [self._frames[index].shape[1] for index in order]
                offsets = np.cumsum([0, *lengths], dtype=np.int64)
                new.write_column("frames/offsets", offsets)
                new.create("frames/values", (layers, int(offsets[-1]), hidden_size), dtype)
                for position in range(layers if order else 0):
                    layer = np.concatenate([self._frames[index][position] for index in order])
                    new.append("frames/values", layer)
