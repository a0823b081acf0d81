"""Train many heads: one after the other on a CPU, grouped by shape on a GPU, each group one batched program."""

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from classify.heads import Head, Recipe, TrainedHead, layer_sizes, num_steps
from classify.solo import Solo
from classify.stack import Stack

GROUP_BYTES = 4 * 2**30  # of weights, gradients, moments and features that a GPU trains at once
MULTITHREADED_PRODUCTS = 2**26  # multiplications in one head's largest layer and batch


def train_heads(recipe: Recipe, heads: Sequence[Head], *, device: str = "cpu") -> list[TrainedHead]:
    """Train every head and return the results in the same order.

    On a CPU a core's cache holds one head, and the products of a batch fill the core: to train several at once would only
    be slower. A GPU needs width: heads of one shape and number of steps per epoch run there in lockstep, and how
    they are grouped changes no result beyond rounding.
    """
    trained: dict[int, TrainedHead] = {}
    if torch.device(device).type == "cpu":
        for i, head in enumerate(heads):
            solo = Solo(recipe, head)
            with _single_thread(solo.products):
                trained[i] = solo.train()[0]
    else:
        for group in _groups(recipe, heads):
            stack = Stack(recipe, [heads[i] for i in group], torch.device(device))
            trained.update(zip(group, stack.train(), strict=True))
    return [trained[i] for i in range(len(heads))]


@contextlib.contextmanager
def _single_thread(products: int) -> Iterator[None]:
    """Keep small products on one thread: sharing them costs more than it saves, and up to 10 times where cores are busy.

    Processes over heads are what uses several cores.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if products < MULTITHREADED_PRODUCTS else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def require_device(device: str) -> None:
    """Check that torch can train on the device.

    Raises
    ------
    ValueError
        Where it is no device's name, or this machine has no such device.
    """
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        msg = f"device must be one that torch finds here, as cpu or cuda. Got {device!r} instead."
        raise ValueError(msg) from error


def _groups(recipe: Recipe, heads: Sequence[Head]) -> Iterator[list[int]]:
    lockstep: dict[tuple[object, ...], list[int]] = {}
    for i, head in enumerate(heads):
        rows, size = head.training.features.shape
        key = (size, head.num_classes, head.training.features.dtype, num_steps(rows, recipe.batch_size))
        lockstep.setdefault(key, []).append(i)
    for members in lockstep.values():
        first = heads[members[0]].training.features
        sizes = layer_sizes(recipe, heads[members[0]])
        weights = sum(a * b for a, b in itertools.pairwise(sizes)) * first.itemsize
        width = max(1, GROUP_BYTES // (6 * weights + first.nbytes))
        # Equal parts, so that the last group is not a narrow rest.
        yield from (list(part) for part in np.array_split(members, math.ceil(len(members) / width)))
