import hashlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cache.checksum import BLOCK_BYTES, RunningChecksums, checksums


def plain_checksums(data):
    """The definition in docs/cache-format.md, word by word."""
    found = []
    for start in range(0, len(data), 262144):
        block = data[start : start + 262144].tobytes().ljust(262144, b"\0")
        columns, lines = [0] * 512, [0] * 64
        for place in range(32768):
            word = int.from_bytes(block[8 * place : 8 * place + 8], "little")
            columns[place % 512] += word
            lines[place // 512] += word
        sums = b"".join((value % 2**64).to_bytes(8, "little") for value in columns + lines)
        found.append(int.from_bytes(hashlib.blake2b(sums, digest_size=8).digest(), "little"))
    return found


@pytest.mark.parametrize("size", [0, 1, 7, 8, 4097, BLOCK_BYTES - 1, BLOCK_BYTES, 2 * BLOCK_BYTES + 13])
def test_checksums_are_those_of_the_format(size):
    data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    assert checksums(data).tolist() == plain_checksums(data)
    assert checksums(np.full(size, 255, np.uint8)).tolist() == plain_checksums(np.full(size, 255, np.uint8))


@given(st.integers(0, 8 * 10000 - 1), st.integers(0, 8 * 10000 - 1))
@example(60, 1084)  # the top bits of two words of a line
@example(63, 63 + 64 * 512)  # of a column
def test_checksums_find_two_bits(first, second):
    data = np.random.default_rng(0).integers(0, 256, 10000, dtype=np.uint8)
    changed = data.copy()
    changed[first // 8] ^= 1 << first % 8
    if first != second:
        changed[second // 8] ^= 1 << second % 8
    assert not np.array_equal(checksums(data), checksums(changed))


@settings(max_examples=50)
@given(st.lists(st.one_of(st.integers(0, 100), st.integers(0, 2 * BLOCK_BYTES)), max_size=8))
@example([BLOCK_BYTES - 1, 1, BLOCK_BYTES])
@example([1, BLOCK_BYTES, BLOCK_BYTES - 1, 0])
def test_pieces_make_the_checksums_of_the_whole(lengths):
    data = np.random.default_rng(0).integers(0, 256, sum(lengths), dtype=np.uint8)
    running = RunningChecksums(len(data))
    for end, length in zip(np.cumsum(lengths), lengths, strict=True):
        running.take(data[end - length : end])
    assert running.taken == len(data)
    assert np.array_equal(running.result(), checksums(data))
