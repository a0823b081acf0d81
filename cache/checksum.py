"""Checksums of ranges of bytes, block by block, at the speed of memory."""

import hashlib

import numpy as np
from numpy.typing import NDArray

# What one checksum covers, laid out as lines of 64-bit words.
BLOCK_BYTES = 2**18
WORDS_PER_LINE = 512


def checksums(data: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return one checksum per block of ``BLOCK_BYTES``; an unfinished last block counts as filled up with zeros.

    It is BLAKE2b over the sums of the block's columns and lines, modulo 2**64. A digest of all the bytes would be
    twenty times as slow as these sums, which a change of one word, or of any two bits, can't leave as they were.

    Returns
    -------
    ndarray of shape (blocks,)
    """
    num_blocks = len(data) // BLOCK_BYTES
    whole, rest = data[: num_blocks * BLOCK_BYTES], data[num_blocks * BLOCK_BYTES :]
    digests = _digests(whole.reshape(num_blocks, BLOCK_BYTES))
    if rest.size:
        padded = np.zeros((1, BLOCK_BYTES), np.uint8)
        padded[0, : rest.size] = rest
        digests += _digests(padded)
    return np.frombuffer(b"".join(digests), "<u8")


def _digests(blocks: NDArray[np.uint8]) -> list[bytes]:
    words = blocks.view("<u8").reshape(len(blocks), BLOCK_BYTES // 8 // WORDS_PER_LINE, WORDS_PER_LINE)
    sums = np.concatenate([words.sum(axis=1), words.sum(axis=2)], axis=1).astype("<u8", copy=False)
    return [hashlib.blake2b(block, digest_size=8).digest() for block in sums]


class RunningChecksums:
    """The checksums of data that come in pieces of any size.

    Parameters
    ----------
    nbytes : int
        How many bytes there will be.
    """

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.taken = 0
        self._tail = np.empty(0, np.uint8)
        self._sums = [np.empty(0, np.uint64)]

    def take(self, data: NDArray[np.uint8]) -> None:
        """Count the next bytes in."""
        self.taken += len(data)
        ended = self.taken == self.nbytes
        if self._tail.size:
            missing = BLOCK_BYTES - len(self._tail)
            block, data = np.concatenate([self._tail, data[:missing]]), data[missing:]
            if len(block) < BLOCK_BYTES and not ended:
                self._tail = block
                return
            self._sums.append(checksums(block))
        whole = len(data) if ended else len(data) // BLOCK_BYTES * BLOCK_BYTES
        self._sums.append(checksums(data[:whole]))
        self._tail = data[whole:].copy()

    def result(self) -> NDArray[np.uint64]:
        """Return the checksums of all blocks, once all bytes were taken."""
        return np.concatenate(self._sums)
