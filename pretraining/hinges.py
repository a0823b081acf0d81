"""Positional-convolution weights to start from: thresholds, slopes and modulations of what the projection says.

Who pools the mean and deviation of a linear unit learns two numbers of a descriptor. The mean of a hinge, ``GELU(x - b)``,
says how much of the descriptor lies above ``b``: some thresholds together are its distribution. Layer 0 holds one
hinge per hidden unit, that of the positional convolution, which sees over a second. So each begins as a hinge
of one or two descriptors of its group after a filter over time: smoothed, differentiated, or band-passed at 1 to 10 Hz.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import conv1d
from transformers import HubertModel

from pretraining.targets import NUM_MEL, NUM_MFCC, PROSODY

FRAME_RATE = 50
PROSODY_COPIES = 2
DESCRIPTORS_A_HINGE = 2
LEVEL = 2.0  # deviation of a hinge's input: its bend is then well inside the distribution
SPREAD_OF_THRESHOLDS = 0.5  # in deviations
LINEAR_SHARE = 0.5  # deviation of the projection, which is added to the hinge


def descriptor_order(hidden_size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the frame target that each hidden unit begins as: prosody, log-mel and MFCC, shuffled, again and again.

    Prosody comes twice in each round. Autocorrelation and deltas are left out: the first is hardly linear in the
    front end, and the second is a filter over time.
    """
    spectrum = np.arange(len(PROSODY), len(PROSODY) + NUM_MEL + NUM_MFCC)
    one = np.concatenate([np.tile(np.arange(len(PROSODY)), PROSODY_COPIES), spectrum])
    rounds = -(-hidden_size // len(one))
    return np.concatenate([rng.permutation(one) for _ in range(rounds)])[:hidden_size]


def time_filter(window: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw a filter over time of unit absolute sum: a Gaussian, its slope, or a modulation of 1 to 10 Hz under it."""
    time = np.arange(window) - window // 2
    width = np.exp(rng.uniform(np.log(0.7), np.log(window / 5)))
    bell = np.exp(-(time**2) / (2 * width**2))
    kind = rng.integers(3)
    if kind == 1:
        bell = bell * time
    elif kind == 2:
        cycles = rng.uniform(1, 10) / FRAME_RATE
        bell = bell * np.cos(2 * np.pi * (cycles * time + rng.uniform()))
    drawn: NDArray[np.float64] = rng.normal() * bell / np.abs(bell).sum()
    return drawn


def set_hinges(model: HubertModel, projected: list[torch.Tensor], rng: np.random.Generator) -> None:
    """Give the positional convolution its weights in place, and scale the projection down to them.

    Parameters
    ----------
    model : HubertModel
    projected : list of tensors of shape (n_crops, num_frames, hidden_size)
        What the projection says of speech, each unit in about unit deviation.
    rng : Generator
    """
    conv: Any = model.encoder.pos_conv_embed.conv
    num_units, group_size, window = conv.weight.shape
    filters = np.zeros((num_units, group_size, window))
    for one in filters:
        for channel in rng.permutation(group_size)[:DESCRIPTORS_A_HINGE]:
            one[channel] = time_filter(window, rng)
    weight = torch.from_numpy(filters).float()
    with torch.no_grad():
        said = torch.cat(
            [
                conv1d(rows.transpose(1, 2), weight, padding=window // 2, groups=conv.groups)[
                    ..., : rows.shape[1]
                ]
                .transpose(0, 1)
                .flatten(1)
                for rows in projected
            ],
            dim=1,
        )
        scale = LEVEL / said.std(dim=1).clamp_min(1e-6)
        thresholds = LEVEL * SPREAD_OF_THRESHOLDS * torch.from_numpy(rng.normal(size=num_units)).float()
        conv.bias.copy_(thresholds - said.mean(dim=1) * scale)
        # the convolution now reads a projection that was scaled down
        conv.weight = weight * (scale / LINEAR_SHARE)[:, None, None]
        projection = model.feature_projection.projection
        projection.weight.mul_(LINEAR_SHARE)
        projection.bias.mul_(LINEAR_SHARE)
