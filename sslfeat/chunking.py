"""Long audio in overlapping chunks: where they lie, which of their frames count, and how statistics become one.

Each chunk goes through the encoder as an utterance of its own; of two that overlap, a frame is taken from the one
where it has context on both sides. The frames of all chunks together are those of the whole, in number and in time.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

# Attention's cost grows with the square of the length, and no utterance of an acted corpus is as long.
CHUNK_SECONDS = 60.0
# Shorter chunks leave the frames between their seams too little context to mean anything.
MIN_CHUNK_SECONDS = 1.0
_CONTEXT_SECONDS = 5.0
# Of a short chunk, the most that each seam may cost.
_CONTEXT_SHARE = 6


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """One chunk: its samples, and which of the frames that they make count.

    Parameters
    ----------
    waveform : ndarray of shape (num_samples,)
    kept : slice
        Of its frames.
    """

    waveform: NDArray[np.float32]
    kept: slice


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """Lengths of chunks, as an encoder's frames lie.

    Parameters
    ----------
    min_samples, frame_shift : int
        Samples of the first frame, and from one frame to the next.
    num_frames : int
        Of a chunk.
    num_context : int
        Frames that are dropped on either side of a seam.
    """

    min_samples: int
    frame_shift: int
    num_frames: int
    num_context: int

    @classmethod
    def of(cls, *, chunk_samples: int, sample_rate: int, min_samples: int, frame_shift: int) -> "Layout":
        """Lay out chunks of at most so many samples."""
        num_frames = (chunk_samples - min_samples) // frame_shift + 1
        context = round(_CONTEXT_SECONDS * sample_rate / frame_shift)
        return cls(min_samples, frame_shift, num_frames, min(context, num_frames // _CONTEXT_SHARE))

    def cut(self, pieces: Iterable[NDArray[np.float32]]) -> Iterator[Chunk]:
        """Cut a waveform that arrives piece by piece; no more than two chunks and a piece are held at once."""
        size = (self.num_frames - 1) * self.frame_shift + self.min_samples
        hop = (self.num_frames - 2 * self.num_context) * self.frame_shift
        held = np.empty(0, np.float32)
        first = 0
        for piece in pieces:
            held = np.concatenate([held, piece])
            # A chunk is the last one where nothing beyond it would make a frame of its own.
            while len(held) >= size + self.frame_shift:
                yield Chunk(
                    waveform=held[:size].copy(), kept=slice(first, self.num_frames - self.num_context)
                )
                held, first = held[hop:], self.num_context
        yield Chunk(waveform=held, kept=slice(first, None))


class Merged:
    """Statistics over the frames of several chunks, as if over all frames at once.

    Means and variances are joined by the formula of Chan, Golub and LeVeque ("Updating Formulae and a Pairwise
    Algorithm for Computing Sample Variances", 1979), in float64.
    """

    def __init__(self) -> None:
        self.num_frames = 0
        self._mean: NDArray[np.float64] = np.zeros(())
        self._squares: NDArray[np.float64] = np.zeros(())  # of deviations from the mean, summed
        self._max: NDArray[np.float32] = np.array(-np.inf, np.float32)
        self._min: NDArray[np.float32] = np.array(np.inf, np.float32)

    @staticmethod
    def needed(poolings: Sequence[str]) -> tuple[str, ...]:
        """Return what chunks must be pooled by, so that these can be told of the whole."""
        return (*poolings, "mean") if "std" in poolings and "mean" not in poolings else tuple(poolings)

    def add(self, pooled: Mapping[str, NDArray[np.float32]], num_frames: int) -> None:
        """Join one chunk's statistics, as `needed` names them."""
        total = self.num_frames + num_frames
        if "mean" in pooled:
            shift = pooled["mean"] - self._mean
            self._mean = self._mean + shift * (num_frames / total)
            if "std" in pooled:
                own = pooled["std"].astype(np.float64) ** 2 * num_frames
                self._squares = self._squares + own + shift**2 * (self.num_frames * num_frames / total)
        if "max" in pooled:
            self._max = np.maximum(self._max, pooled["max"])
        if "min" in pooled:
            self._min = np.minimum(self._min, pooled["min"])
        self.num_frames = total

    def pooled(self, poolings: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Return the statistics of the whole, float32."""
        found = {
            "mean": self._mean,
            "std": np.sqrt(self._squares / max(1, self.num_frames)),
            "max": self._max,
            "min": self._min,
        }
        return {name: found[name].astype(np.float32) for name in poolings}


def max_whole_samples(chunk_seconds: float, sample_rate: int) -> float:
    """Return the most samples that are encoded in one piece; infinite where nothing is cut."""
    return round(chunk_seconds * sample_rate) if chunk_seconds else math.inf
