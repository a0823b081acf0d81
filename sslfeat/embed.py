"""Waveforms in, pooled layers out: in batches that fit into memory, each utterance checked on its own."""

import contextlib
import dataclasses
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cache.schema import FeatureSpec
from sslfeat.batching import make_batches
from sslfeat.chunking import Chunk, Layout, Merged, max_whole_samples
from sslfeat.containers import AudioError
from sslfeat.encoder import Encoder, exact_products
from sslfeat.pooling import pool
from sslfeat.reading import Reading, stream_again

# Small batches of near-equal length win on a CPU, large ones on a GPU.
BATCH_SECONDS = {"cpu": 6.0, "cuda": 320.0, "mps": 60.0}

# While one batch of a GPU waits for its copy to the host, the next one is under way.
_GPU_LANES = 2

_WHOLE = slice(None)

_WIDER = {"float16": "bfloat16 or float32", "bfloat16": "float32"}


@dataclasses.dataclass(slots=True)
class Budget:
    """Most padded samples that are encoded at once; it shrinks where memory ends, and stays so."""

    max_padded_samples: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """What became of one waveform.

    Parameters
    ----------
    index : int
        Its place among the waveforms.
    pooled : dict of str to ndarray of shape (layers, hidden_size)
        One matrix per pooling of the spec.
    frames : ndarray of shape (layers, num_frames, hidden_size) or None
        Where the spec has frames.
    num_frames : int
    reason : str
        Why the numbers can't be used, or why there are none; empty where all is well.
    """

    index: int
    pooled: dict[str, NDArray[np.float32]] = dataclasses.field(default_factory=dict)
    frames: NDArray[np.float32] | None = None
    num_frames: int = 0
    reason: str = ""


def make_budget(encoder: Encoder, batch_seconds: float | None = None) -> Budget:
    """Return the budget of so many seconds of audio, by default what suits the encoder's device.

    Raises
    ------
    ValueError
        Where the seconds are no positive number.
    """
    seconds = BATCH_SECONDS[encoder.device.type] if batch_seconds is None else batch_seconds
    if not 0 < seconds < math.inf:
        msg = f"batch_seconds must be a positive number. Got {seconds:g} instead."
        raise ValueError(msg)
    return Budget(max(1, round(seconds * encoder.sample_rate)))


def embed_batches(
    encoder: Encoder, spec: FeatureSpec, waveforms: Sequence[NDArray[np.float32]], budget: Budget
) -> Iterator[list[Embedded]]:
    """Encode and pool waveforms, batch by batch.

    Parameters
    ----------
    encoder : Encoder
    spec : FeatureSpec
        Which layers, poolings and frames to make.
    waveforms : sequence of ndarray of shape (num_samples,)
        As `Encoder.encode` takes them. One that is longer than the spec's chunks is encoded in them.
    budget : Budget
        A batch that memory doesn't hold is halved, and the budget with it.

    Yields
    ------
    list of Embedded
        Each waveform comes once, the longest first.

    Raises
    ------
    ValueError
        Where a waveform is too short for one frame.
    """
    lengths = [len(waveform) for waveform in waveforms]
    most = max_whole_samples(spec.chunk_seconds, spec.sample_rate)
    for index, waveform in enumerate(waveforms):
        if lengths[index] > most:
            yield [dataclasses.replace(embed_long(encoder, spec, [waveform]), index=index)]
    whole = [index for index, length in enumerate(lengths) if length <= most]
    grouped = make_batches(
        [lengths[index] for index in whole],
        max_padded_samples=budget.max_padded_samples,
        equal_lengths=not encoder.pads,
    )
    batches = deque([whole[place] for place in batch] for batch in grouped)
    waiting: deque[tuple[list[int], Future[list[Embedded] | None]]] = deque()
    crowded: deque[list[int]] = deque()  # what memory didn't hold beside what other lanes had in it
    with exact_products(), _lanes(encoder) as (num_lanes, submit):
        while batches or waiting or crowded:
            by_itself = not batches and not waiting
            if by_itself:
                batches.append(crowded.popleft())
            # Twice as many as lanes, so that none waits while the caller writes.
            while batches and len(waiting) < 2 * num_lanes:
                batch = batches.popleft()
                if len(batch) > 1 and lengths[batch[0]] * len(batch) > budget.max_padded_samples:
                    half = len(batch) // 2
                    batches.extendleft((batch[half:], batch[:half]))
                    continue
                own = [waveforms[index] for index in batch]
                waiting.append((batch, submit(_embed, encoder, spec, batch, own)))
            batch, future = waiting.popleft()
            found = future.result()
            if found is not None:
                yield found
                continue
            torch.cuda.empty_cache()
            if len(batch) > 1:
                smaller = lengths[batch[0]] * len(batch) // 2
                budget.max_padded_samples = min(budget.max_padded_samples, smaller)
                batches.appendleft(batch)
            elif not by_itself:
                crowded.append(batch)
            else:
                seconds = lengths[batch[0]] / spec.sample_rate
                reason = f"{seconds:.0f} s of audio don't fit into the memory of {encoder.device}; extract with a smaller chunk_seconds."
                yield [Embedded(index=batch[0], reason=reason)]


@contextlib.contextmanager
def _lanes(encoder: Encoder) -> Iterator[tuple[int, Callable[..., Future[list[Embedded] | None]]]]:
    """Give so many threads that encode at once, and what hands one a batch.

    On a CPU every core has a batch of its own: cores that share each product wait for each other between products.
    """
    is_cpu = encoder.device.type == "cpu"
    num_threads = torch.get_num_threads()
    num_lanes = num_threads if is_cpu else _GPU_LANES
    with ThreadPoolExecutor(num_lanes, thread_name_prefix="encode") as threads:

        def submit(*call: Any) -> Future[list[Embedded] | None]:
            if is_cpu:
                # The number is a thread's own, but new threads take the last one that was set anywhere.
                return threads.submit(_alone, *call)
            return threads.submit(*call)

        try:
            yield num_lanes, submit
        finally:
            threads.shutdown(cancel_futures=True)
            torch.set_num_threads(num_threads)


def _alone(call: Callable[..., list[Embedded] | None], *args: Any) -> list[Embedded] | None:
    torch.set_num_threads(1)
    return call(*args)


def embed_long(encoder: Encoder, spec: FeatureSpec, pieces: Iterable[NDArray[np.float32]]) -> Embedded:
    """Encode one waveform in chunks of the spec's length, and join what they say.

    Parameters
    ----------
    encoder : Encoder
    spec : FeatureSpec
        Its ``chunk_seconds`` is not 0.
    pieces : iterable of ndarray of shape (num_samples,)
        The waveform, in order; memory doesn't grow with their number, but for the frames where the spec has them.

    Returns
    -------
    Embedded
        With index 0.
    """
    layout = Layout.of(
        chunk_samples=int(max_whole_samples(spec.chunk_seconds, spec.sample_rate)),
        sample_rate=spec.sample_rate,
        min_samples=encoder.min_samples,
        frame_shift=encoder.frame_shift,
    )
    own_spec = dataclasses.replace(spec, pooling=Merged.needed(spec.pooling))
    merged, frames = Merged(), list[NDArray[np.float32]]()
    with exact_products(), _lanes(encoder) as (num_lanes, submit):
        chunks = layout.cut(pieces)
        waiting: deque[tuple[Chunk, Future[list[Embedded] | None]]] = deque()

        def encoded(chunk: Chunk) -> Future[list[Embedded] | None]:
            return submit(_embed, encoder, own_spec, [0], [chunk.waveform], chunk.kept)

        while True:
            while len(waiting) < num_lanes and (following := next(chunks, None)) is not None:
                waiting.append((following, encoded(following)))
            if not waiting:
                break
            chunk, future = waiting.popleft()
            found = future.result()
            if found is None:
                # Alone, once the other lanes have let go of their memory, and so are those that follow.
                num_lanes = 1
                wait(other for _, other in waiting)
                torch.cuda.empty_cache()
                found = encoded(chunk).result()
            if found is None:
                reason = f"chunks of {spec.chunk_seconds:g} s don't fit into the memory of {encoder.device}; extract with shorter ones."
                return Embedded(index=0, reason=reason)
            if found[0].reason:
                return found[0]
            merged.add(found[0].pooled, found[0].num_frames)
            if found[0].frames is not None:
                frames.append(found[0].frames)
    return Embedded(
        index=0,
        pooled=merged.pooled(spec.pooling),
        frames=np.concatenate(frames, axis=1) if frames else None,
        num_frames=merged.num_frames,
    )


def embed_reading(encoder: Encoder, spec: FeatureSpec, reading: Reading) -> Embedded:
    """Embed a reading whose waveform was too long to keep; where its file changed meanwhile, the reason says so."""
    try:
        return embed_long(
            encoder, spec, stream_again(reading, sample_rate=spec.sample_rate, channels=spec.channels)
        )
    except AudioError as error:
        return Embedded(index=0, reason=str(error).removeprefix(f"{reading.path}: "))


def embed_all(
    encoder: Encoder, spec: FeatureSpec, waveforms: Sequence[NDArray[np.float32]], budget: Budget
) -> list[Embedded]:
    """Return what `embed_batches` yields, in the order of the waveforms."""
    batches = embed_batches(encoder, spec, waveforms, budget)
    return sorted(itertools.chain.from_iterable(batches), key=attrgetter("index"))


def _embed(
    encoder: Encoder,
    spec: FeatureSpec,
    batch: Sequence[int],
    waveforms: Sequence[NDArray[np.float32]],
    kept: slice = _WHOLE,
) -> list[Embedded] | None:
    """Embed one batch, of more than one utterance only where all frames are kept; None where memory doesn't hold it."""
    try:
        return _embed_batch(encoder, spec, batch, waveforms, kept)
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
    # Returned outside the handler, which holds on to the memory of the attempt.
    return None


@torch.inference_mode()
def _embed_batch(
    encoder: Encoder,
    spec: FeatureSpec,
    batch: Sequence[int],
    waveforms: Sequence[NDArray[np.float32]],
    kept: slice,
) -> list[Embedded]:
    pooled: dict[str, list[torch.Tensor]] = {name: [] for name in spec.pooling}
    frames: list[torch.Tensor] = []
    counts, states = encoder.encode(waveforms)
    if kept != _WHOLE:
        start, stop, _ = kept.indices(int(counts[0]))
        counts = torch.full_like(counts, stop - start)
    for layer, hidden in enumerate(states):
        if layer in spec.layers:
            hidden = hidden[:, kept]
            for name, vectors in pool(hidden, counts, spec.pooling).items():
                pooled[name].append(vectors)
            if spec.frames:
                frames.append(hidden.float())
        if layer == spec.layers[-1]:
            break
    arrays = {name: torch.stack(vectors, 1).cpu().numpy() for name, vectors in pooled.items()}
    stored = torch.stack(frames, 1).cpu().numpy() if frames else None  # (utterance, layer, frame, hidden)
    found = []
    for place, (index, count) in enumerate(zip(batch, counts.tolist(), strict=True)):
        matrices = {name: array[place] for name, array in arrays.items()}
        own_frames = None if stored is None else stored[place, :, :count]
        reason = _overflow(spec, [*matrices.values(), *([] if own_frames is None else [own_frames])])
        found.append(
            Embedded(index=index, pooled=matrices, frames=own_frames, num_frames=count, reason=reason)
        )
    return found


def _overflow(spec: FeatureSpec, arrays: Sequence[NDArray[np.float32]]) -> str:
    """Return which layer of one utterance is not finite, or nothing; the first axis is that of the layers."""
    sound = np.ones(len(spec.layers), bool)
    for values in arrays:
        sound &= np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    if sound.all():
        return ""
    layer = spec.layers[int(np.argmin(sound))]
    if wider := _WIDER.get(spec.precision):
        return f"layer {layer} overflows in {spec.precision}; extract with precision {wider}."
    return f"layer {layer} is not finite in {spec.precision}; the encoder's weights are at fault."


def _is_out_of_memory(error: BaseException) -> bool:
    # A CPU's allocator raises no class of its own.
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
