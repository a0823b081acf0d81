import numpy as np
import pytest
import torch

from pretraining.recordings import CropSampler, Recordings


@pytest.fixture(scope="session")
def sampler():
    """Crops of one second from ten seconds of tones and noise, some heard through noise."""
    rng = np.random.default_rng(0)
    time = np.arange(40_000) / 16_000
    pieces = [
        0.3 * np.sign(np.sin(2 * np.pi * pitch * time)) * (np.sin(2 * np.pi * 1.5 * time) > -0.5)
        + 0.02 * rng.normal(size=40_000)
        for pitch in (110, 150, 220, 310)
    ]
    samples = (np.concatenate(pieces) * 32768).astype(np.int16)
    recordings = Recordings(samples, np.arange(5) * 40_000, tuple("abcd"))
    return CropSampler(recordings, recordings, crop_seconds=(1.0,), batch_seconds=4.0)


@pytest.fixture(scope="module")
def crops():
    """Three crops: a gliding tone with pauses, noise, and both."""
    rng = np.random.default_rng(0)
    time = np.arange(24_000) / 16_000
    glide = np.sign(np.sin(2 * np.pi * (150 * time + 40 * time**2))) * (np.sin(2 * np.pi * 2 * time) > -0.3)
    noise = rng.normal(size=24_000)
    return torch.from_numpy(np.stack([glide, noise, glide + 0.1 * noise]).astype(np.float32))
