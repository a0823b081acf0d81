"""Embedding waveforms in batches: against numpy, and where memory or range end."""

import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sslfeat.embed import BATCH_SECONDS, Budget, embed_all, embed_batches, embed_long, make_budget
from sslfeat.encoder import Encoder


def make_waveforms(*lengths: int) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [(0.1 * generator.standard_normal(length)).astype(np.float32) for length in lengths]


LENGTHS = (400, 9_000, 700, 5_000, 5_000, 12_345, 3_210)


def limit(encoder: Encoder, num_samples: int, error: Exception, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the encoder raise where a batch has more padded samples; return the sizes that it was asked for."""
    encode, asked = encoder.encode, list[int]()

    def limited(waveforms: list[np.ndarray]) -> Any:
        asked.append(len(waveforms) * max(map(len, waveforms)))
        if asked[-1] > num_samples:
            raise error
        return encode(waveforms)

    monkeypatch.setattr(encoder, "encode", limited)
    return asked


@pytest.mark.parametrize("max_padded_samples", [1, 13_000, 10**6])
def test_embeddings_are_those_of_numpy(encoder: Encoder, max_padded_samples: int) -> None:
    spec = encoder.spec(layers=[0, 2], pooling=("mean", "std", "max", "min"), frames=True)
    waveforms = make_waveforms(*LENGTHS)
    found = embed_all(encoder, spec, waveforms, Budget(max_padded_samples))
    assert [one.index for one in found] == list(range(len(waveforms)))
    for one, waveform in zip(found, waveforms, strict=True):
        states = encoder.hidden_states(waveform)[[0, 2]]
        assert (one.num_frames, one.reason) == (states.shape[1], "")
        assert one.frames is not None
        assert np.linalg.norm(one.frames - states) < 1e-5 * np.linalg.norm(states)
        for name in spec.pooling:
            expected = getattr(np, name)(states.astype(np.float64), axis=1)
            # The shortest has one frame, and so no deviation but for what rounding leaves.
            assert np.linalg.norm(one.pooled[name] - expected) < 1e-5 * np.linalg.norm(states.max(1))


def test_layers_above_the_last_that_is_asked_are_not_computed(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = encoder.encode

    def without_the_last(waveforms: list[np.ndarray]) -> Any:
        counts, states = encode(waveforms)

        def some() -> Any:
            yield next(states)
            yield next(states)
            pytest.fail("layer 2 was asked for")

        return counts, some()

    monkeypatch.setattr(encoder, "encode", without_the_last)
    (one,) = embed_all(encoder, encoder.spec(layers=[1]), make_waveforms(5_000), Budget(1))
    assert one.pooled["mean"].shape == (1, 32)


def test_the_longest_come_first_under_the_budget(encoder: Encoder) -> None:
    waveforms = make_waveforms(*LENGTHS)
    batches = [
        [one.index for one in batch]
        for batch in embed_batches(encoder, encoder.spec(), waveforms, Budget(13_000))
    ]
    assert batches == [[5], [1], [3, 4], [6, 2, 0]]


def test_budgets(encoder: Encoder) -> None:
    assert make_budget(encoder, 0.5).max_padded_samples == 8_000
    assert make_budget(encoder).max_padded_samples == 16_000 * BATCH_SECONDS["cpu"]
    assert make_budget(encoder, 1e-9).max_padded_samples == 1
    for seconds in (0, -1, math.inf, math.nan):
        with pytest.raises(
            ValueError, match=rf"batch_seconds must be a positive number\. Got {seconds} instead\."
        ):
            make_budget(encoder, seconds)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
)  # fmt: skip
def test_a_batch_too_large_is_halved_and_that_is_remembered(
    encoder: Encoder, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    waveforms, budget = make_waveforms(*[3_000] * 8), Budget(10**6)
    expected = embed_all(encoder, encoder.spec(), waveforms, Budget(10**6))
    asked = limit(encoder, 7_000, error, monkeypatch)
    found = embed_all(encoder, encoder.spec(), waveforms, budget)
    # The second half was under way when the first one failed.
    assert asked == [24_000, 12_000, 12_000, 6_000, 6_000, 6_000, 6_000]
    assert budget.max_padded_samples == 6_000
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.pooled["mean"], other.pooled["mean"], rtol=1e-4, atol=1e-5)
    asked.clear()
    embed_all(encoder, encoder.spec(), waveforms, budget)
    assert asked == [6_000] * 4


def test_memory_of_the_first_attempt_is_free_at_the_second(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, alive = encoder.encode, list[Any]()

    class Held:
        def __init__(self) -> None:
            alive.append(self)

        def __del__(self) -> None:
            freed.append(self)

    freed = list[Any]()

    def greedy(waveforms: list[np.ndarray]) -> Any:
        if len(waveforms) > 1:
            held = Held()
            alive.clear()
            msg = f"CUDA out of memory, held {held is not None}"
            raise torch.OutOfMemoryError(msg)
        assert freed
        return encode(waveforms)

    monkeypatch.setattr(encoder, "encode", greedy)
    assert len(embed_all(encoder, encoder.spec(), make_waveforms(500, 500), Budget(1_000))) == 2


def test_one_that_memory_does_not_hold_says_so(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(encoder, 20_000, torch.OutOfMemoryError("CUDA out of memory."), monkeypatch)
    found = embed_all(encoder, encoder.spec(), make_waveforms(32_000, 500, 600), Budget(10**6))
    assert [one.reason for one in found] == [
        "2 s of audio don't fit into the memory of cpu; extract with a smaller chunk_seconds.",
        "",
        "",
    ]
    assert found[0].pooled == {}


def test_other_errors_come_through(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(encoder, 0, RuntimeError("CUDA error: an illegal memory access was encountered"), monkeypatch)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        embed_all(encoder, encoder.spec(), make_waveforms(500), Budget(1))
    monkeypatch.undo()
    with pytest.raises(ValueError, match="waveform has 100 samples; at least 400 are needed"):
        embed_all(encoder, encoder.spec(), make_waveforms(100), Budget(1))


@pytest.mark.parametrize(
    ("precision", "reason"),
    [
        ("float16", "layer 1 overflows in float16; extract with precision bfloat16 or float32."),
        ("bfloat16", "layer 1 overflows in bfloat16; extract with precision float32."),
        ("float32", "layer 1 is not finite in float32; the encoder's weights are at fault."),
    ],
)
@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_overflow_names_the_layer_and_spares_the_others(
    encoder: Encoder, precision: str, reason: str, bad: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = encoder.encode

    def overflowing(waveforms: list[np.ndarray]) -> Any:
        counts, states = encode(waveforms)
        layers = [state.clone() for state in states]
        layers[1][0, 3, 7] = bad
        return counts, iter(layers)

    monkeypatch.setattr(encoder, "encode", overflowing)
    monkeypatch.setattr(encoder, "precision", precision)
    for options in ({"pooling": ["mean"]}, {"pooling": [], "frames": True}):
        found = embed_all(encoder, encoder.spec(**options), make_waveforms(500, 9_000), Budget(10**6))
        assert [one.reason for one in found] == ["", reason]
    assert not embed_all(encoder, encoder.spec(layers=[0]), make_waveforms(9_000), Budget(1))[0].reason


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_lanes_change_no_number(encoder: Encoder, two_threads: None) -> None:
    spec, waveforms = encoder.spec(pooling=("mean", "std")), make_waveforms(*LENGTHS)
    found = embed_all(encoder, spec, waveforms, Budget(13_000))
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    for one, alone in zip(found, embed_all(encoder, spec, waveforms, Budget(13_000)), strict=True):
        for name in spec.pooling:
            np.testing.assert_array_equal(one.pooled[name], alone.pooled[name])


def test_lanes_that_run_out_of_memory_together_are_all_halved(
    encoder: Encoder, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = Budget(12_000)
    limit(encoder, 7_000, MemoryError(), monkeypatch)
    found = embed_all(encoder, encoder.spec(), make_waveforms(*[3_000] * 8), budget)
    assert [one.index for one in found] == list(range(8))
    assert not any(one.reason for one in found)
    assert budget.max_padded_samples == 6_000


@pytest.fixture
def refused(encoder: Encoder, two_threads: None, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have memory for one encoding at a time; tells the samples of each that ran out of it. The first two meet."""
    encode, refused, under_way = encoder.encode, list[int](), list[int]()
    together, lock = threading.Barrier(2, timeout=10), threading.Lock()

    def encode_alone(waveforms: list[np.ndarray]) -> Any:
        num_samples = sum(map(len, waveforms))
        with lock:
            under_way.append(num_samples)
            is_crowded = len(under_way) > 1
        try:
            if refused:
                time.sleep(0.02)  # for another to come, if one does
            else:
                together.wait()
            if is_crowded:
                refused.append(num_samples)
                raise MemoryError
            return encode(waveforms)
        finally:
            with lock:
                under_way.remove(num_samples)

    monkeypatch.setattr(encoder, "encode", encode_alone)
    return refused


def test_what_memory_does_not_hold_beside_others_is_tried_alone(encoder: Encoder, refused: list[int]) -> None:
    found = embed_all(encoder, encoder.spec(), make_waveforms(9_000, 8_000), Budget(10_000))
    assert [one.reason for one in found] == ["", ""]
    assert len(refused) == 1


def test_chunks_that_memory_does_not_hold_side_by_side_are_encoded_one_by_one(
    encoder: Encoder, refused: list[int]
) -> None:
    spec = encoder.spec(pooling=("mean", "std"), chunk_seconds=1.0)
    (waveform,) = make_waveforms(60_000)
    found = embed_long(encoder, spec, [waveform])
    assert not found.reason
    assert len(refused) == 1
    torch.set_num_threads(1)
    alone = embed_long(encoder, spec, [waveform])
    for name in spec.pooling:
        np.testing.assert_array_equal(found.pooled[name], alone.pooled[name])


def test_threads_are_given_back_where_the_caller_stops(encoder: Encoder, two_threads: None) -> None:
    batches = embed_batches(encoder, encoder.spec(), make_waveforms(*LENGTHS), Budget(5_000))
    next(batches)
    batches.close()
    assert torch.get_num_threads() == 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("encode")]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 5e-2)])
def test_a_gpu_makes_what_a_cpu_makes(
    encoder: Encoder, model_directory: Path, precision: str, tolerance: float
) -> None:
    on_gpu = Encoder.load(str(model_directory), device="cuda", precision=precision)
    waveforms = make_waveforms(*LENGTHS, *[20_000 + 33 * k for k in range(40)])
    spec = on_gpu.spec(pooling=("mean", "std"), frames=True)
    alone = embed_all(encoder, encoder.spec(pooling=("mean", "std"), frames=True), waveforms, Budget(1))
    for one, other in zip(embed_all(on_gpu, spec, waveforms, make_budget(on_gpu, 5.0)), alone, strict=True):
        assert one.num_frames == other.num_frames
        assert one.frames is not None
        assert np.linalg.norm(one.frames - other.frames) < tolerance * np.linalg.norm(other.frames)
        for name in spec.pooling:
            expected = other.pooled["mean"]
            assert np.linalg.norm(one.pooled[name] - other.pooled[name]) < tolerance * np.linalg.norm(
                expected
            )
