"""Summaries of a crop: how its descriptors are distributed, how fast they move, and what they do while there is voice.

References: F. Eyben et al., "The Geneva Minimalistic Acoustic Parameter Set" (IEEE Trans. Affective Computing 7(2),
2016) for slopes, peaks, segments and statistics of voiced and unvoiced frames apart; N. Ding et al., "Temporal modulations
in speech and music" (Neuroscience & Biobehavioral Reviews 81, 2017) for modulations.
"""

import itertools

import torch
from torch.nn.functional import avg_pool1d, pad

from pretraining.targets import PROSODY, VOICED_ONLY, Descriptors

# Smoothing windows in frames of 20 ms; two neighbours leave modulations around 25, 9, 4 and 2 Hz
OCTAVES = (1, 3, 7, 13, 25)
MEL_GROUPS = 8
PEAK_WINDOW = 5
# Of the spectrum, what is also summarised over voiced and over unvoiced frames alone
APART = (
    "alpha_ratio",
    "hammarberg",
    "slope_0_500",
    "slope_500_1500",
    "flux",
    "energy",
    "centroid",
    "spread",
    "flatness",
    "zero_crossings",
)
APART_MFCC = 8


def functionals(descriptors: Descriptors) -> torch.Tensor:
    """Summarise each crop as a vector.

    Returns
    -------
    tensor of shape (n_crops, n_functionals)
        Per descriptor the mean, deviation, quantiles 0.1, 0.5 and 0.9, mean absolute step, and skewness; those of voice
        over voiced frames alone. Mean and deviation of log-mel. Means and deviations of the spectrum over voiced, then over
        unvoiced frames, and of the voicing over voiced ones. Slopes and curvature of pitch and energy, peaks of the
        energy, voiced stretches. Deviations per octave of modulation.
    """
    d = descriptors
    voiced = d.voiced[..., None].to(d.mel.dtype)
    always = [i for i, name in enumerate(PROSODY) if name not in VOICED_ONLY]
    everywhere = torch.cat([d.prosody[..., always], d.mfcc], dim=2)
    spectrum = torch.cat([_named(d, *APART), d.mfcc[..., :APART_MFCC]], dim=2)
    return torch.cat(
        [
            *distribution(everywhere),
            *(_voiced_functionals(_named(d, name)[..., 0], d.voiced) for name in VOICED_ONLY),
            d.mel.mean(dim=1),
            d.mel.std(dim=1),
            *masked_moments(spectrum, voiced),
            *masked_moments(spectrum, 1 - voiced),
            *masked_moments(_named(d, "voicing"), voiced),
            *_movement(_named(d, "log_f0"), _named(d, "energy"), voiced),
            *_rhythm(_named(d, "energy"), voiced),
            *modulations(_modulated(d, voiced)),
        ],
        dim=1,
    )


def _named(descriptors: Descriptors, *names: str) -> torch.Tensor:
    """Return some tracks of the prosody: (n_crops, num_frames, n_names)."""
    return descriptors.prosody[..., [PROSODY.index(name) for name in names]]


def distribution(tracks: torch.Tensor) -> list[torch.Tensor]:
    """Return mean, deviation, three quantiles, mean absolute step and skewness over frames, each (n_crops, n_tracks)."""
    mean, spread = tracks.mean(dim=1), tracks.std(dim=1)
    standard = (tracks - mean[:, None]) / spread[:, None].clamp_min(1e-4)
    return [
        mean,
        spread,
        *tracks.quantile(torch.tensor([0.1, 0.5, 0.9], dtype=tracks.dtype), dim=1).unbind(dim=0),
        (tracks[:, 1:] - tracks[:, :-1]).abs().mean(dim=1),
        standard.pow(3).mean(dim=1),
    ]


def masked_moments(tracks: torch.Tensor, kept: torch.Tensor) -> list[torch.Tensor]:
    """Return mean and deviation over the kept frames, each (n_crops, n_tracks); next to 0 where none is kept.

    Parameters
    ----------
    tracks : tensor of shape (n_crops, num_frames, n_tracks)
    kept : tensor of shape (n_crops, num_frames, 1)
        1 or 0.
    """
    count = kept.sum(dim=1).clamp_min(1)
    mean = (tracks * kept).sum(dim=1) / count
    variance = ((tracks - mean[:, None]).square() * kept).sum(dim=1) / count
    return [mean, variance.clamp_min(1e-6).sqrt()]


def modulations(tracks: torch.Tensor) -> list[torch.Tensor]:
    """Return the deviation of each track in each octave or so of modulation, each (n_crops, n_tracks).

    An octave is the difference between moving averages over two neighbours of ``OCTAVES``.
    """
    rows = tracks.transpose(1, 2)
    smoothed = [
        avg_pool1d(pad(rows, (width // 2, width // 2), mode="replicate"), width, 1) for width in OCTAVES
    ]
    return [(fine - coarse).std(dim=2) for fine, coarse in itertools.pairwise(smoothed)]


def _modulated(descriptors: Descriptors, voiced: torch.Tensor) -> torch.Tensor:
    """Return the tracks whose modulations count; pitch takes its mean where there is none."""
    pitch = _named(descriptors, "log_f0")
    held = torch.where(voiced > 0, pitch, masked_moments(pitch, voiced)[0][:, None])
    bands = descriptors.mel.reshape(*descriptors.mel.shape[:2], MEL_GROUPS, -1).mean(dim=3)
    return torch.cat(
        [
            _named(descriptors, "energy"),
            held,
            _named(descriptors, "voicing", "alpha_ratio", "centroid"),
            bands,
        ],
        dim=2,
    )


def _movement(pitch: torch.Tensor, energy: torch.Tensor, voiced: torch.Tensor) -> list[torch.Tensor]:
    """Return how pitch and energy rise and fall, and how roughly: rising and falling steps apart, second differences."""
    pairs = voiced[:, 1:] * voiced[:, :-1]
    triples = pairs[:, 1:] * pairs[:, :-1]
    pitch_steps, energy_steps = pitch.diff(dim=1), energy.diff(dim=1)
    rising = pairs * (pitch_steps > 0)
    return [
        *masked_moments(pitch_steps, rising),
        *masked_moments(pitch_steps, pairs * (pitch_steps < 0)),
        rising.sum(dim=1) / pairs.sum(dim=1).clamp_min(1),
        masked_moments(pitch_steps.diff(dim=1).abs(), triples)[0],
        masked_moments(energy_steps.diff(dim=1).abs(), triples)[0],
        *masked_moments(energy_steps, (energy_steps > 0).to(energy.dtype)),
        *masked_moments(energy_steps, (energy_steps < 0).to(energy.dtype)),
    ]


def _rhythm(energy: torch.Tensor, voiced: torch.Tensor) -> list[torch.Tensor]:
    """Return peaks of the smoothed energy per frame and their levels, the share of voice, its stretches and lengths."""
    margin = PEAK_WINDOW // 2
    smooth = avg_pool1d(pad(energy.transpose(1, 2), (margin, margin), mode="replicate"), PEAK_WINDOW, 1)
    smooth = smooth.transpose(1, 2)
    middle = smooth[:, 1:-1]
    peaks = ((middle > smooth[:, :-2]) & (middle >= smooth[:, 2:])).to(energy.dtype)
    starts = voiced[:, 1:] * (1 - voiced[:, :-1])
    stretches = starts.sum(dim=1) + 1
    return [
        peaks.mean(dim=1),
        *masked_moments(middle, peaks),
        voiced.mean(dim=1),
        starts.mean(dim=1),
        voiced.sum(dim=1) / stretches,
        (1 - voiced).sum(dim=1) / stretches,
    ]


def _voiced_functionals(track: torch.Tensor, voiced: torch.Tensor) -> torch.Tensor:
    """Return mean, deviation, three quantiles and mean absolute step over voiced frames; zeros where too few are."""
    rows = []
    for values, keep in zip(track, voiced, strict=True):
        kept = values[keep]
        if len(kept) < 5:
            rows.append(torch.zeros(6, dtype=track.dtype))
            continue
        both = keep[1:] & keep[:-1]
        steps = (values[1:] - values[:-1])[both].abs()
        quantiles = kept.quantile(torch.tensor([0.1, 0.5, 0.9], dtype=track.dtype))
        rows.append(
            torch.stack(
                [kept.mean(), kept.std(), *quantiles, steps.mean() if both.any() else kept.new_zeros(())]
            )
        )
    return torch.stack(rows)
