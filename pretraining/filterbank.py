"""Front-end weights to start from: the convolutions as a bank of band-pass filters and their envelopes.

Drawn at random, seven convolutions spend most of a short training on finding out that speech has a spectrum. Instead
they begin as a cascade that the same seven layers can hold exactly, and learning goes on from there.

What makes it exact is that channels come in pairs of opposite sign. With ``GELU(x) = x P(x)``, ``P`` the normal
distribution function, ``GELU(x) - GELU(-x) = x`` and ``GELU(x) + GELU(-x) = x erf(x / sqrt(2))``, a smooth ``|x|``: the
next layer chooses between the signal and its envelope. Each layer carries on the signal below some frequency, at the rate
that this needs, splits off the bands that its window can tell apart, and smooths the envelopes of the bands before it.
Channels that are left stay as drawn.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import gelu
from transformers import HubertModel

SAMPLE_RATE = 16_000

Filters = NDArray[np.float64]  # (n_filters, window)


@dataclasses.dataclass(frozen=True)
class Stage:
    """What one convolution is to hold.

    Parameters
    ----------
    carried : int
        Values per frame by which the signal goes on.
    cutoff : float
        Highest frequency that goes on, in Hz.
    bands : tuple of float
        Edges of the bands that are split off, in Hz.
    """

    carried: int
    cutoff: float
    bands: tuple[float, ...] = ()


# Lower bands are split off later, where windows are longer: about 1.3, 1.9, 4.4, 9.4 and 14 ms
STAGES = (
    Stage(10, 8000.0),
    Stage(10, 8000.0, (4000.0, 5000.0, 6000.0, 7000.0, 8000.0)),
    Stage(6, 2000.0, (1400.0, 1800.0, 2200.0, 2600.0, 3000.0, 3500.0, 4000.0)),
    Stage(6, 1000.0, (600.0, 750.0, 900.0, 1050.0, 1200.0, 1400.0)),
    Stage(6, 500.0, (250.0, 320.0, 390.0, 460.0, 530.0, 600.0)),
    Stage(0, 0.0, (60.0, 100.0, 140.0, 190.0, 250.0)),
    Stage(0, 0.0),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Channels:
    """What the first channels of a layer hold, in this order.

    Parameters
    ----------
    carried : ndarray of shape (n_carried, window)
        The carried signals as filters of the waveform; a pair of channels each.
    num_bands : int
        Bands split off; four channels each, a pair for the cosine and one for the sine.
    num_envelopes : int
        Envelopes of earlier bands; one channel each.
    """

    carried: Filters
    num_bands: int
    num_envelopes: int

    def __len__(self) -> int:
        return 2 * len(self.carried) + 4 * self.num_bands + self.num_envelopes


def set_filterbank(model: HubertModel, crops: torch.Tensor) -> None:
    """Give the front end its weights in place.

    Parameters
    ----------
    model : HubertModel
        With the base models' kernels and strides, and widths of at least (20, 36, 40, 48, 52, 48, 32).
    crops : tensor of shape (n_crops, num_samples)
        Speech by which every channel is scaled: carried signals to a root mean square of 1, bands and envelopes to 2, at
        which a GELU is nearly straight above 0.

    Raises
    ------
    ValueError
        If a layer is too narrow for its stage.
    """
    held = Channels(np.ones((1, 1)), 0, 0)
    hop = 1
    states = crops[:, None]
    layers: list[Any] = list(model.feature_extractor.conv_layers)
    with torch.no_grad():
        for index, (layer, stage) in enumerate(zip(layers, STAGES, strict=True)):
            weight: torch.Tensor = layer.conv.weight
            next_hop = hop * int(layer.conv.stride[0])
            rows, now = stage_weights(stage, held, weight.shape, hop, next_hop)
            if len(now) > len(weight):
                msg = (
                    f"convolution {index} must have at least {len(now)} channels. Got {len(weight)} instead."
                )
                raise ValueError(msg)
            weight[: len(now)] = rows
            outputs = layer.conv(states)
            if index == 0:
                # the group norm scales these; they are samples, and so all alike
                states = gelu(layer.layer_norm(outputs))
            else:
                scale = channel_scale(outputs, now)
                weight.mul_(scale[:, None, None])
                states = gelu(outputs * scale[:, None])
                now = dataclasses.replace(now, carried=now.carried * float(scale[0]))
            held, hop = now, next_hop


def stage_weights(
    stage: Stage, held: Channels, shape: Sequence[int], hop: int, next_hop: int
) -> tuple[torch.Tensor, Channels]:
    """Return the weights of a layer's first channels, unscaled, and what these then hold.

    Parameters
    ----------
    stage : Stage
    held : Channels
        Of the layer before.
    shape : sequence of int
        Of the layer's weight: channels out, channels in, taps.
    hop, next_hop : int
        Samples between frames before and after the layer.
    """
    _, num_inputs, kernel = shape
    shifted = at_every_tap(held.carried, kernel, hop)
    onward = solve(shifted, low_pass(shifted.shape[1], stage, next_hop))
    both = np.concatenate([onward, solve(shifted, band_pass(shifted.shape[1], stage.bands))])
    linear = torch.from_numpy(both.reshape(len(both), kernel, len(held.carried)).transpose(0, 2, 1)).float()
    now = Channels(onward @ shifted, len(stage.bands[1:]), held.num_bands + held.num_envelopes)
    rows = torch.zeros(len(now), num_inputs, kernel)
    positive, negative = rows[0 : 2 * len(both) : 2], rows[1 : 2 * len(both) : 2]
    if num_inputs == 1:  # the waveform, which is no pair
        positive[:], negative[:] = linear, -linear
    else:
        end = 2 * len(held.carried)
        positive[:, 0:end:2], positive[:, 1:end:2] = linear, -linear
        negative[:, 0:end:2], negative[:, 1:end:2] = -linear, linear
        envelopes = rows[2 * len(both) :]
        for band in range(held.num_bands):
            envelopes[band, end + 4 * band : end + 4 * band + 4] = 1.0
        for old in range(held.num_envelopes):
            envelopes[held.num_bands + old, end + 4 * held.num_bands + old] = 1.0
    return rows, now


def channel_scale(outputs: torch.Tensor, now: Channels) -> torch.Tensor:
    """Return the factors that bring a layer's outputs to their root mean squares; free channels to 1."""
    wanted = torch.ones(outputs.shape[1])
    num_carried = 2 * len(now.carried)
    wanted[num_carried : len(now)] = 2.0
    scale = wanted / outputs.square().mean(dim=(0, 2)).sqrt().clamp_min(1e-6)
    # one factor for all that is carried, so that its channels stay samples of one signal
    scale[:num_carried] = scale[:num_carried].mean() if num_carried else 1.0
    return scale


def at_every_tap(filters: Filters, kernel: int, hop: int) -> Filters:
    """Shift filters by every tap of the next kernel: tap by tap, (kernel * n_filters, longer window)."""
    num_filters, window = filters.shape
    shifted = np.zeros((kernel, num_filters, window + hop * (kernel - 1)))
    for tap in range(kernel):
        shifted[tap, :, tap * hop : tap * hop + window] = filters
    return shifted.reshape(kernel * num_filters, shifted.shape[2])


def solve(available: Filters, wanted: Filters) -> Filters:
    """Return the weights, (n_wanted, n_available), by which available filters come nearest to the wanted ones."""
    # a little damping keeps weights small where filters repeat each other
    gram: NDArray[np.floating[Any]] = available @ available.T
    damping = 1e-4 * np.trace(gram) / max(1, len(gram))
    gram[np.diag_indices(len(gram))] += damping
    weights: Filters = np.linalg.solve(gram, available @ wanted.T).T
    return weights


def low_pass(window: int, stage: Stage, hop: int) -> Filters:
    """Return the filters that read a low-passed signal at evenly spaced places of one hop, mid-window."""
    if not stage.carried:
        return np.zeros((0, window))
    places = (window - 1) / 2 + (np.arange(stage.carried) - (stage.carried - 1) / 2) * hop / stage.carried
    if stage.cutoff >= SAMPLE_RATE / 2:
        samples: Filters = np.eye(window)[np.round(places - 1e-6).astype(int)]
        return samples
    distance = np.arange(window) - places[:, None]
    taper = np.cos(np.pi * distance / (2 * window)) ** 2
    share = 2 * stage.cutoff / SAMPLE_RATE
    filters: Filters = share * np.sinc(share * distance) * taper
    return filters


def band_pass(window: int, edges: tuple[float, ...]) -> Filters:
    """Return a cosine and a sine under a Hann window for each band, at its middle: (2 * n_bands, window)."""
    middles = (np.array(edges[1:]) + np.array(edges[:-1])) / 2
    angles = 2 * np.pi / SAMPLE_RATE * middles[:, None] * (np.arange(window) - (window - 1) / 2)
    pairs: Filters = np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.hanning(window + 2)[1:-1]
    return pairs.reshape(2 * len(middles), window)
