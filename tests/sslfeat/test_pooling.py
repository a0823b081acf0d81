"""Pooling against a plain loop in float64."""

import numpy as np
import pytest
import torch

from cache.schema import POOLINGS
from sslfeat.pooling import pool

COUNTS = [1, 7, 12]


@pytest.fixture
def hidden() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    # Far from zero, as the residual stream of a deep encoder is in some channels.
    return torch.randn(3, 12, 5, generator=generator) + torch.tensor([0.0, 10.0, -1000.0, 1e4, 0.5])


def plain(frames: np.ndarray, name: str) -> np.ndarray:
    statistic = {"mean": np.mean, "std": np.std, "max": np.max, "min": np.min}[name]
    return np.asarray(statistic(frames.astype(np.float64), axis=0))


@pytest.mark.parametrize("name", POOLINGS)
def test_equals_numpy_on_the_valid_frames(hidden: torch.Tensor, name: str) -> None:
    pooled = pool(hidden, torch.tensor(COUNTS), [name])[name]
    assert pooled.dtype == torch.float32
    for row, count in enumerate(COUNTS):
        expected = plain(hidden[row, :count].numpy(), name)
        np.testing.assert_allclose(pooled[row], expected, rtol=2e-6, atol=2e-3 if name == "std" else 1e-6)


def test_the_deviation_survives_a_large_mean() -> None:
    """The difference of mean squares would give zero, or the root of a negative number."""
    frames = torch.tensor([4096.0, 4096.5, 4097.0, 4097.5]).view(1, 4, 1)
    expected = np.std([0.0, 0.5, 1.0, 1.5])
    assert pool(frames, torch.tensor([4]), ["std"])["std"].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("poison", [torch.inf, -torch.inf, torch.nan, 1e30])
def test_padding_frames_are_never_read(hidden: torch.Tensor, poison: float) -> None:
    clean = pool(hidden, torch.tensor(COUNTS), POOLINGS)
    for row, count in enumerate(COUNTS):
        hidden[row, count:] = poison
    dirty = pool(hidden, torch.tensor(COUNTS), POOLINGS)
    for name in POOLINGS:
        torch.testing.assert_close(dirty[name], clean[name], rtol=0, atol=0)


def test_several_statistics_come_in_the_order_asked(hidden: torch.Tensor) -> None:
    assert list(pool(hidden, torch.tensor(COUNTS), ["max", "mean"])) == ["max", "mean"]


def test_low_precision_is_pooled_in_float32() -> None:
    frames = torch.ones(1, 4096, 1, dtype=torch.bfloat16)
    frames[0, ::2] = 1.0078125
    assert pool(frames, torch.tensor([4096]), ["mean"])["mean"].item() == pytest.approx(1.00390625, abs=1e-7)


def test_a_bad_frame_shows() -> None:
    frames = torch.ones(1, 3, 2)
    frames[0, 1, 1] = torch.inf
    mean = pool(frames, torch.tensor([3]), ["mean"])["mean"]
    assert mean[0, 0] == 1
    assert not torch.isfinite(mean[0, 1])
