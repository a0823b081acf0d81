"""Statistics over the valid frames of padded hidden states, on the device that holds them."""

from collections.abc import Sequence

import torch
from torch import Tensor


def pool(hidden: Tensor, num_frames: Tensor, poolings: Sequence[str]) -> dict[str, Tensor]:
    """Pool each utterance's valid frames.

    Parameters
    ----------
    hidden : Tensor of shape (utterance, frame, hidden size)
        Finite wherever a frame is valid.
    num_frames : Tensor of shape (utterance,)
        Valid frames of each utterance, at least 1; they come first.
    poolings : sequence of str
        Out of ``cache.schema.POOLINGS``.

    Returns
    -------
    dict of str to Tensor of shape (utterance, hidden size)
        float32. ``std`` is the population's (ddof 0), from deviations about the mean: the difference of mean
        squares would cancel where a channel lies far from zero.
    """
    hidden = hidden.float()
    valid = torch.arange(hidden.shape[1], device=hidden.device) < num_frames[:, None]
    weights = (valid / num_frames[:, None]).unsqueeze(1)  # (utterance, 1, frame)
    # A product with a zero weight would let a padding frame's infinity through.
    hidden = hidden.masked_fill(~valid[:, :, None], 0)
    pooled: dict[str, Tensor] = {}
    mean = weights @ hidden  # (utterance, 1, hidden size)
    if "mean" in poolings:
        pooled["mean"] = mean.squeeze(1)
    if "std" in poolings:
        pooled["std"] = (weights @ (hidden - mean).square_()).squeeze(1).sqrt_()
    if "max" in poolings:
        pooled["max"] = hidden.masked_fill(~valid[:, :, None], -torch.inf).amax(1)
    if "min" in poolings:
        pooled["min"] = hidden.masked_fill(~valid[:, :, None], torch.inf).amin(1)
    return {name: pooled[name] for name in poolings}
