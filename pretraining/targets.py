"""What the encoder learns to say about speech, computed from the waveform alone: spectrum, voice and prosody.

Every descriptor is computed on the encoder's own frames: frame ``i`` is centred on sample ``320 i + 200``. All are
blind to gain, because the encoder's group norm is, and all run batched in torch, so that targets follow whatever
augmentation made the waveform.

References: P. Boersma, "Accurate short-term analysis of the fundamental frequency" (IFA Proceedings 17, 1993) for the
autocorrelation; F. Eyben et al., "The Geneva Minimalistic Acoustic Parameter Set" (IEEE Trans. Affective Computing
7(2), 2016) for the choice of prosodic and spectral descriptors; M. Ravanelli et al., "Multi-task self-supervised
learning for robust speech recognition" (ICASSP 2020, PASE+) for regressing them.
"""

import dataclasses
import functools
import math

import torch
from torch.nn.functional import pad

SAMPLE_RATE = 16_000
FRAME_SHIFT = 320
RECEPTIVE_FIELD = 400
NUM_MEL = 40
NUM_MFCC = 20
NUM_LAGS = 48
PITCH_RANGE = (60.0, 500.0)  # Hz
OCTAVE_COST = 0.01  # Boersma's; favours the higher of two equally good candidates
PITCH_BIN = SAMPLE_RATE / 2048  # Hz
PITCH_BINS = 257  # up to 2 kHz: pitch and the first two harmonics are found there
VOICED = 0.45  # Boersma's threshold on the strength of the best candidate
PROSODY = (
    "energy",
    "voicing",
    "log_f0",
    "harmonic_1_2",
    "harmonic_1_a3",
    "alpha_ratio",
    "hammarberg",
    "slope_0_500",
    "slope_500_1500",
    "centroid",
    "spread",
    "flatness",
    "flux",
    "zero_crossings",
)
VOICED_ONLY = ("log_f0", "harmonic_1_2", "harmonic_1_a3")


@dataclasses.dataclass(frozen=True, eq=False)
class Descriptors:
    """Descriptors of a batch of crops, frame by frame.

    Parameters
    ----------
    mel : tensor of shape (n_crops, num_frames, NUM_MEL)
        Log energies.
    mfcc : tensor of shape (n_crops, num_frames, NUM_MFCC)
        Cosine transform of ``mel``, without the coefficient 0.
    correlogram : tensor of shape (n_crops, num_frames, NUM_LAGS)
        Normalised autocorrelation at lags whose pitch is spaced evenly in octaves.
    prosody : tensor of shape (n_crops, num_frames, len(PROSODY))
        Where a frame is unvoiced, those in ``VOICED_ONLY`` hold 0.
    voiced : bool tensor of shape (n_crops, num_frames)
    """

    mel: torch.Tensor
    mfcc: torch.Tensor
    correlogram: torch.Tensor
    prosody: torch.Tensor
    voiced: torch.Tensor


def describe(waveforms: torch.Tensor) -> Descriptors:
    """Compute all descriptors.

    Parameters
    ----------
    waveforms : float32 tensor of shape (n_crops, num_samples)
        At 16 kHz, at least 400 samples.
    """
    centred = waveforms - waveforms.mean(dim=1, keepdim=True)
    scaled = centred / centred.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-6)
    power = power_spectrum(scaled, window_length=512, fft_length=512)
    mel = (power @ mel_filters().T + 1e-4).log()
    mfcc = mel @ cosine_transform(NUM_MEL, NUM_MFCC + 1)[1:].T
    low_power = power_spectrum(scaled, window_length=1024, fft_length=2048, num_bins=PITCH_BINS)
    curve = autocorrelation(low_power)
    pitch, strength = find_pitch(curve)
    voiced = strength > VOICED
    shape = spectral_shape(power)
    harmonics = harmonic_differences((low_power + 1e-4).log(), pitch, shape["third_formant"])
    shape |= {
        "voicing": strength,
        "log_f0": pitch.log2() * voiced,
        "harmonic_1_2": harmonics[..., 0] * voiced,
        "harmonic_1_a3": harmonics[..., 1] * voiced,
        "zero_crossings": zero_crossings(scaled),
    }
    prosody = torch.stack([shape[name] for name in PROSODY], dim=2)
    return Descriptors(mel, mfcc, curve[..., ::4], prosody, voiced)


def windows(waveforms: torch.Tensor, length: int) -> torch.Tensor:
    """Cut windows of some length, one centred on each of the encoder's frames, zeros beyond the ends.

    Returns
    -------
    tensor of shape (n_crops, num_frames, length)
    """
    margin = (length - RECEPTIVE_FIELD) // 2
    num_frames = (waveforms.shape[1] - RECEPTIVE_FIELD) // FRAME_SHIFT + 1
    return pad(waveforms, (margin, margin)).unfold(1, length, FRAME_SHIFT)[:, :num_frames]


def power_spectrum(
    waveforms: torch.Tensor, *, window_length: int, fft_length: int, num_bins: int | None = None
) -> torch.Tensor:
    """Return the power per frame and bin under a Hann window, scaled so that white noise of unit variance has 1."""
    window = torch.hann_window(window_length)
    spectrum = torch.fft.rfft(windows(waveforms, window_length) * window, n=fft_length)[..., :num_bins]
    parts = torch.view_as_real(spectrum).square().unbind(dim=-1)
    return (parts[0] + parts[1]) / window.square().sum()


@functools.cache
def mel_filters() -> torch.Tensor:
    """Return triangles of unit sum over 257 bins, even on HTK's mel scale from 40 to 8000 Hz: (NUM_MEL, 257)."""
    frequencies = torch.linspace(0, SAMPLE_RATE / 2, 257)
    lowest, highest = (2595 * math.log10(1 + frequency / 700) for frequency in (40.0, 8000.0))
    corners = 700 * (10 ** (torch.linspace(lowest, highest, NUM_MEL + 2) / 2595) - 1)
    left, centre, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rising, falling = (frequencies - left) / (centre - left), (right - frequencies) / (right - centre)
    filters = torch.minimum(rising, falling).clamp_min(0)
    # a low triangle may fall between two bins: it then takes the nearest
    empty = filters.sum(dim=1) == 0
    filters[empty, (centre[empty] * 512 / SAMPLE_RATE).round().long()[:, 0]] = 1.0
    return filters / filters.sum(dim=1, keepdim=True)


@functools.cache
def cosine_transform(num_in: int, num_out: int) -> torch.Tensor:
    """Return the first rows of the orthonormal DCT-II, of shape (num_out, num_in)."""
    angles = torch.arange(num_out)[:, None] * (torch.arange(num_in) + 0.5) * math.pi / num_in
    rows = torch.cos(angles) * math.sqrt(2 / num_in)
    rows[0] /= math.sqrt(2)
    return rows


def autocorrelation(power: torch.Tensor) -> torch.Tensor:
    """Return the autocorrelation at every candidate lag over that at 0, the window's own divided out.

    It is the cosine transform of the power, taken at the lags themselves, fractions of a sample included.

    Parameters
    ----------
    power : tensor of shape (n_crops, num_frames, num_bins)
        The lowest bins of a transform over 2048 samples, of 1024 under a Hann window.

    Returns
    -------
    tensor of shape (n_crops, num_frames, 4 * NUM_LAGS)
        At lags whose pitch falls evenly in octaves over ``PITCH_RANGE``, highest pitch first.
    """
    cosines, window = _lag_cosines(power.shape[2])
    return power @ cosines / (power @ _lag_weights(power.shape[2]) + 1e-3)[..., None] / window


def _lag_weights(num_bins: int) -> torch.Tensor:
    """Return 1 for the bin of frequency 0, which stands for itself, and 2 for those that stand for a pair."""
    weights = torch.full((num_bins,), 2.0)
    weights[0] = 1.0
    return weights


@functools.cache
def _lag_cosines(num_bins: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the transform of shape (num_bins, n_lags), and the window's autocorrelation at the lags over that at 0."""
    angles = 2 * math.pi * torch.outer(torch.arange(1025), candidate_lags()) / 2048
    whole = _lag_weights(1025)[:, None] * angles.cos()
    whole[-1] /= 2
    window = torch.fft.rfft(torch.hann_window(1024), n=2048).abs().square()
    own = window @ whole
    return whole[:num_bins], own / (window @ _lag_weights(1025))


@functools.cache
def candidate_lags() -> torch.Tensor:
    """Return the candidate lags in samples, four for each lag that is shown."""
    lowest, highest = PITCH_RANGE
    octaves = torch.linspace(0, math.log2(highest / lowest), 4 * NUM_LAGS)
    return SAMPLE_RATE / highest * 2**octaves


def find_pitch(curve: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Pick each frame's best lag, smoothed by a median over five frames.

    Returns
    -------
    pitch, strength : tensors of shape (n_crops, num_frames)
        In Hz, and the autocorrelation at the lag.
    """
    cost = OCTAVE_COST * torch.log2(PITCH_RANGE[0] * candidate_lags() / SAMPLE_RATE)
    best = (curve - cost).argmax(dim=2)
    strength = curve.gather(2, best[..., None])[..., 0]
    pitch = SAMPLE_RATE / candidate_lags()[best]
    # replication keeps the ends' own values the middle of their windows
    around = pad(pitch[:, None], (2, 2), mode="replicate")[:, 0].unfold(1, 5, 1)
    return around.median(dim=2).values, strength


def harmonic_differences(
    levels: torch.Tensor, pitch: torch.Tensor, third_formant: torch.Tensor
) -> torch.Tensor:
    """Return H1-H2 and H1-A3 as natural logs of power ratios, of shape (n_crops, num_frames, 2).

    Parameters
    ----------
    levels : tensor of shape (n_crops, num_frames, num_bins)
        Log power in bins of ``PITCH_BIN`` Hz.
    pitch, third_formant : tensors of shape (n_crops, num_frames)
        In Hz, and the strongest log power in the third formant's range.
    """
    harmonics = (pitch[..., None] * torch.tensor([1.0, 2.0]) / PITCH_BIN).round().long()
    first, second = levels.gather(2, harmonics).unbind(dim=2)
    return torch.stack([first - second, first - third_formant], dim=2)


@functools.cache
def _moments() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the sums over 257 bins that the spectral shape is made of, as matrices for power, magnitude and level."""
    kilohertz = torch.linspace(0, SAMPLE_RATE / 2000, 257)

    def band(lowest: float, highest: float) -> torch.Tensor:
        return ((kilohertz >= lowest) & (kilohertz < highest)).float()

    def slope(lowest: float, highest: float) -> torch.Tensor:
        inside = band(lowest, highest)
        x = (kilohertz - (kilohertz * inside).sum() / inside.sum()) * inside
        return x / x.square().sum()

    ones = torch.ones(257)
    return (
        torch.stack([ones, band(0.05, 1), band(1, 5)], dim=1),
        torch.stack([ones, kilohertz, kilohertz.square()], dim=1),
        torch.stack([ones / 257, slope(0, 0.5), slope(0.5, 1.5)], dim=1),
    )


def spectral_shape(power: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return what ``PROSODY`` names from ``alpha_ratio`` to ``flux``, the ``energy``, and ``third_formant``.

    Parameters
    ----------
    power : tensor of shape (n_crops, num_frames, 257)
    """
    of_power, of_magnitude, of_level = _moments()
    floored = power + 1e-4
    levels = floored.log()
    total, low, high = (power @ of_power).unbind(dim=2)
    mass, first, second = (floored.sqrt() @ of_magnitude).unbind(dim=2)
    mean_level, slope_0_500, slope_500_1500 = (levels @ of_level).unbind(dim=2)
    centroid = first / mass
    steps = (levels[:, 1:] - levels[:, :-1]).square().mean(dim=2).sqrt()
    return {
        "energy": (total + 1e-3).log(),
        "alpha_ratio": ((low + 1e-3) / (high + 1e-3)).log(),
        "hammarberg": levels[..., :64].amax(dim=2) - levels[..., 64:160].amax(dim=2),
        "slope_0_500": slope_0_500,
        "slope_500_1500": slope_500_1500,
        "centroid": centroid,
        "spread": (second / mass - centroid.square()).clamp_min(1e-6).sqrt(),
        "flatness": mean_level - (total / 257 + 1e-4).log(),
        "flux": pad(steps, (1, 0)),
        "third_formant": levels[..., 70:109].amax(dim=2),
    }


def zero_crossings(waveforms: torch.Tensor) -> torch.Tensor:
    """Return the share of neighbouring samples that differ in sign, per frame."""
    cut = windows(waveforms, RECEPTIVE_FIELD) >= 0
    return (cut[..., 1:] != cut[..., :-1]).float().mean(dim=2)


def deltas(frames: torch.Tensor) -> torch.Tensor:
    """Return the regression slope over five frames (HTK's deltas), the ends replicated."""
    padded = torch.cat([frames[:, :1], frames[:, :1], frames, frames[:, -1:], frames[:, -1:]], dim=1)
    return (2 * (padded[:, 4:] - padded[:, :-4]) + padded[:, 3:-1] - padded[:, 1:-3]) / 10


def frame_targets(descriptors: Descriptors) -> tuple[torch.Tensor, torch.Tensor]:
    """Lay out everything that is regressed frame by frame.

    Returns
    -------
    targets, weights : tensors of shape (n_crops, num_frames, n_targets)
        The weight is 0 where a frame is unvoiced and the target asks for voice, else 1.
    """
    d = descriptors
    energy_and_tilt = d.prosody[..., [PROSODY.index("energy"), PROSODY.index("alpha_ratio")]]
    targets = torch.cat(
        [d.prosody, d.mel, d.mfcc, d.correlogram, deltas(d.mfcc), deltas(energy_and_tilt)], dim=2
    )
    weights = torch.ones_like(targets)
    for name in VOICED_ONLY:
        weights[..., PROSODY.index(name)] = d.voiced.to(targets.dtype)
    return targets, weights
