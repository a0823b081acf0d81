"""A cache as stage 2 sees it: labels, speakers and ids as columns, one layer's embeddings as a matrix."""

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cache.schema import FORMAT_NAME, SCHEMA_VERSION, CacheError, Duplicate, Failure, Row
from cache.store import CacheFile
from cache.table import TABLES, decode, nouns

# Read at once when a whole file is checked.
READ_BYTES = 2**24

ALL_ROWS = slice(None)


class FeatureCache:
    """A cache opened for reading; rows are in the order of ``utterance_ids``.

    It holds no numbers, only the path and, per process, an open file: it pickles as its path and may be
    used after a fork.

    Parameters
    ----------
    cache_path : str or Path

    Raises
    ------
    CacheError
        Where the file is missing, no HDF5 file, cut short, damaged, of another format, of a schema version that
        this release can't read, or where its parts disagree with one another.
    """

    def __init__(self, cache_path: str | Path) -> None:
        self.path = Path(cache_path)
        self._file = CacheFile(self.path)
        self._columns: dict[str, NDArray[Any]] = {}
        self._offsets: NDArray[np.int64] | None = None
        self.spec = self._file.spec
        self.fingerprint = self.spec.fingerprint
        self.software = self._file.software
        self.complete = self._file.complete

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return self.path.stem

    @property
    def layers(self) -> tuple[int, ...]:
        """The stored layers, ascending."""
        return self.spec.layers

    @property
    def poolings(self) -> tuple[str, ...]:
        """The stored statistics over frames."""
        return self.spec.pooling

    @property
    def utterance_ids(self) -> NDArray[np.str_]:
        """Ids of the rows, in their order."""
        return self.column("id")

    @property
    def labels(self) -> NDArray[np.str_]:
        """Emotion of each row."""
        return self.column("label")

    @property
    def speakers(self) -> NDArray[np.str_]:
        """Speaker of each row, as ``emodb:03``."""
        return self.column("speaker")

    @property
    def sexes(self) -> NDArray[np.str_]:
        """``female``, ``male`` or unknown, for each row."""
        return self.column("sex")

    @property
    def texts(self) -> NDArray[np.str_]:
        """Name of the sentence spoken in each row."""
        return self.column("text")

    @property
    def sessions(self) -> NDArray[np.str_]:
        """Recording session of each row."""
        return self.column("session")

    @property
    def splits(self) -> NDArray[np.str_]:
        """The corpus's own train, dev or test, for each row."""
        return self.column("split")

    @property
    def intensities(self) -> NDArray[np.str_]:
        """How strongly each row's emotion was acted, in its corpus's own word."""
        return self.column("intensity")

    @property
    def corpora(self) -> NDArray[np.str_]:
        """Corpus of each row."""
        return self.column("corpus")

    @property
    def audio_hashes(self) -> NDArray[np.str_]:
        """Hash of the decoded samples of each row."""
        return self.column("audio_hash")

    @property
    def paths(self) -> NDArray[np.str_]:
        """Audio file of each row."""
        return self.column("path")

    @property
    def num_samples(self) -> NDArray[np.int64]:
        """Length of each row at the encoder's sample rate, in samples."""
        return self.column("num_samples")

    @property
    def num_frames(self) -> NDArray[np.int64]:
        """Frames that the encoder made of each row."""
        return self.column("num_frames")

    @property
    def failures(self) -> list[Failure]:
        """Utterances whose audio can't be used, by id."""
        return [noun for noun in self._file.nouns("failures") if isinstance(noun, Failure)]

    @property
    def duplicates(self) -> list[Duplicate]:
        """Utterances whose samples are those of a row, by id."""
        return [noun for noun in self._file.nouns("duplicates") if isinstance(noun, Duplicate)]

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._file.num_utterances

    def __repr__(self) -> str:
        return f"FeatureCache({str(self.path)!r})"

    def __reduce__(self) -> tuple[type[Self], tuple[Path]]:
        # Absolute, because the process that reads it may have another working folder.
        return type(self), (self.path.absolute(),)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        self._file.close()

    def column(self, name: str, rows: slice = ALL_ROWS) -> NDArray[Any]:
        """Return a column of the utterance table: text, int64 or float64 of shape (utterances,), read-only.

        Parameters
        ----------
        name : str
        rows : slice
            Without a step; all rows by default, which are kept in memory from then on.

        Raises
        ------
        CacheError
            Where there is no such column, it can't be read, or ids are repeated or out of order.
        """
        if name not in TABLES["utterances"]:
            msg = f"{self.path}: no column {name!r}; the columns are {', '.join(TABLES['utterances'])}."
            raise CacheError(msg)
        if name in self._columns:
            return self._columns[name][rows]
        if name == "id" and rows == ALL_ROWS:
            stored = self._file.ids("utterances")  # by which rows of several caches are brought together
        else:
            stored = self._file.read(f"utterances/{name}", *rows.indices(len(self))[:2])
        values = decode(stored) if TABLES["utterances"][name] is str else stored
        values.setflags(write=False)
        if rows == ALL_ROWS:
            self._columns[name] = values
        return values

    def rows(self) -> Iterator[Row]:
        """Yield the rows in their order."""
        return (noun for noun in self._file.nouns("utterances") if isinstance(noun, Row))

    def row(self, index: int) -> Row:
        """Return the row at ``index``.

        Raises
        ------
        IndexError
            Where there are not so many.
        """
        index = range(len(self))[index]
        one = {name: self.column(name)[index : index + 1] for name in TABLES["utterances"]}
        return next(noun for noun in nouns("utterances", one) if isinstance(noun, Row))

    def index(self, utterance_id: str) -> int:
        """Return the place of an utterance among the rows.

        Raises
        ------
        CacheError
            Where it has no row.
        """
        ids = self.column("id")
        found = np.flatnonzero(ids == utterance_id)
        if not found.size:
            msg = f"{self.path}: no row {utterance_id!r}."
            raise CacheError(msg)
        return int(found[0])

    def features(
        self, layer: int, pooling: str = "mean", *, start: int = 0, stop: int | None = None
    ) -> NDArray[np.float32]:
        """Return one layer's embeddings, as the matrix that a classifier takes.

        Parameters
        ----------
        layer : int
            0 is the input of the first transformer block.
        pooling : str
            A stored statistic, or several joined by ``+``, whose numbers are then side by side.
        start, stop : int
            The rows, all by default.

        Returns
        -------
        ndarray of shape (utterances, hidden_size), or (utterances, hidden_size * statistics)

        Raises
        ------
        CacheError
            Where the layer or the statistic isn't stored, or the numbers can't be read.
        """
        position, names = self._position(layer), pooling.split("+")
        for name in names:
            self._check_pooling(name)
        blocks = [self._file.read(f"features/{name}", start, stop, position=position) for name in names]
        features = blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)
        return features.astype(np.float32, copy=False)

    def embeddings(self, pooling: str = "mean") -> NDArray[np.float32]:
        """Return every stored layer of a statistic, of shape (utterances, layers, hidden_size).

        Raises
        ------
        CacheError
            Where the statistic isn't stored, or the numbers can't be read.
        """
        self._check_pooling(pooling)
        stored = self._file.read(f"features/{pooling}").astype(np.float32, copy=False)
        return stored.swapaxes(0, 1)  # (utterances, layers, hidden_size)

    def frames(self, utterance: int | str, layer: int) -> NDArray[np.float32]:
        """Return the frames of one utterance, of shape (num_frames, hidden_size).

        Parameters
        ----------
        utterance : int or str
            Place among the rows, or id.
        layer : int

        Raises
        ------
        CacheError
            Where frames aren't stored, or not of that utterance or layer, or can't be read.
        IndexError
            Where there are not so many rows.
        """
        if not self.spec.frames:
            msg = f"{self.path}: no frames are stored; extract with --frames."
            raise CacheError(msg)
        index = self.index(utterance) if isinstance(utterance, str) else range(len(self))[utterance]
        position = self._position(layer)
        if self._offsets is None:
            self._offsets = self._file.frame_offsets()
        start, stop = self._offsets[index : index + 2].tolist()
        return self._file.read("frames/values", start, stop, position=position).astype(np.float32, copy=False)

    def verify(self) -> list[str]:
        """Read the whole file and return what is wrong with it, one sentence each; none if it is sound."""
        found: list[str] = []
        for table in TABLES:
            columns = [f"{table}/{name}" for name in TABLES[table]]
            damage = [self._damage(column) for column in columns if column in self._file.extents]
            found += itertools.chain.from_iterable(damage) if any(damage) else _refusal(self._file.ids, table)
        matrices = [f"features/{name}" for name in self.poolings]
        if self.spec.frames:
            found += self._damage("frames/offsets")
            found += [] if found else _refusal(self._file.frame_offsets)
            matrices.append("frames/values")
        for dataset in matrices:
            for position in range(len(self.layers)):
                found += self._damage(dataset, position)
        return found

    def summary(self) -> dict[str, Any]:
        """Return what the cache holds, as values that JSON knows."""
        by_speaker: dict[str, Counter[str]] = {}
        for speaker, label in zip(self.speakers.tolist(), self.labels.tolist(), strict=True):
            by_speaker.setdefault(speaker, Counter())[label] += 1
        return {
            "path": str(self.path),
            "file_size": self.path.stat().st_size,
            "format": FORMAT_NAME,
            "schema_version": SCHEMA_VERSION,
            "complete": self.complete,
            "fingerprint": self.fingerprint,
            "spec": json.loads(self.spec.to_json()),
            "software": self.software,
            "utterances": len(self),
            "duration_seconds": float(self.num_samples.sum() / self.spec.sample_rate),
            "frames": int(self.num_frames.sum()),
            "labels": dict(sorted(Counter(self.labels.tolist()).items())),
            "labels_by_speaker": {
                speaker: dict(sorted(counts.items())) for speaker, counts in sorted(by_speaker.items())
            },
            "failures": [{"id": f.id, "path": f.path, "reason": f.reason} for f in self.failures],
            "duplicates": [{"id": d.id, "original_id": d.original_id} for d in self.duplicates],
        }

    def _position(self, layer: int) -> int:
        if layer not in self.layers:
            msg = f"{self.path}: no layer {layer}; stored layers are {_span(self.layers)}."
            raise CacheError(msg)
        return self.layers.index(layer)

    def _check_pooling(self, name: str) -> None:
        if name not in self.poolings:
            msg = f"{self.path}: no pooling {name!r}; stored are {', '.join(self.poolings) or 'none'}."
            raise CacheError(msg)

    def _damage(self, dataset: str, position: int | None = None) -> list[str]:
        where = repr(dataset) if position is None else f"{dataset!r}, layer {self.layers[position]},"
        extent = self._file.extents[dataset]
        step = max(1, READ_BYTES // extent.line_bytes)
        for start in range(0, extent.shape[0 if position is None else 1], step):
            try:
                block = self._file.read(dataset, start, start + step, position=position)
            except CacheError as error:
                return [str(error)]
            if position is not None and not np.isfinite(block).all():
                return [f"{self.path}: {where} has numbers that aren't finite."]
        return []


def _refusal(read: Callable[..., object], *arguments: str) -> list[str]:
    try:
        read(*arguments)
    except CacheError as error:
        return [str(error)]
    return []


def _span(layers: tuple[int, ...]) -> str:
    if len(layers) > 2 and layers == tuple(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}..{layers[-1]}"
    return ", ".join(map(str, layers))
