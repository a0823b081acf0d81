"""From lengths to batches: the order of work, never the order of rows."""

from collections.abc import Iterator, Sequence


def make_batches(
    lengths: Sequence[int], *, max_padded_samples: int, equal_lengths: bool = False
) -> Iterator[list[int]]:
    """Group utterances of near length under a budget of padded samples.

    Longest first, so that a batch that doesn't fit into memory shows at the start.

    Parameters
    ----------
    lengths : sequence of int
        In samples.
    max_padded_samples : int
        Most that a batch may hold, counting its longest utterance's length for each. A longer utterance is a
        batch of its own.
    equal_lengths : bool
        Put only utterances of exactly one length together.

    Yields
    ------
    list of int
        Indices into ``lengths``; each index comes once.

    Examples
    --------
    >>> list(make_batches([3, 9, 4, 4], max_padded_samples=12))
    [[1], [2, 3, 0]]
    >>> list(make_batches([3, 9, 4, 4], max_padded_samples=12, equal_lengths=True))
    [[1], [2, 3], [0]]
    """
    if max_padded_samples < 1:
        msg = f"max_padded_samples must be at least 1. Got {max_padded_samples} instead."
        raise ValueError(msg)
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch:
            longest = lengths[batch[0]]
            too_long = longest * (len(batch) + 1) > max_padded_samples
            if too_long or (equal_lengths and lengths[index] != longest):
                yield batch
                batch = []
        batch.append(index)
    if batch:
        yield batch
