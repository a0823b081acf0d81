import itertools

import numpy as np
import pytest
import soundfile

from sslfeat.mp3 import Frames, walk_frames

# A frame of silence at 128 kbit/s and 44.1 kHz, without padding: 144 * 128 000 / 44 100 = 417 bytes, 1152 samples.
HEADER = b"\xff\xfb\x90\x64"
FRAME = HEADER + bytes(413)


@pytest.fixture
def walk(tmp_path):
    def walk(content):
        (tmp_path / "a.mp3").write_bytes(content)
        return walk_frames(tmp_path / "a.mp3")

    return walk


def test_whole_frames_are_counted(walk):
    assert walk(7 * FRAME) == Frames(
        num_samples=7 * 1152, samples_per_frame=1152, states_length=False, is_cut=False
    )


@pytest.mark.parametrize("missing", [1, 200, 413])
def test_a_last_frame_that_is_not_whole_is_seen(walk, missing):
    found = walk((7 * FRAME)[:-missing])
    assert (found.num_samples, found.is_cut) == (6 * 1152, True)


def test_a_padded_frame_is_a_byte_longer(walk):
    padded = b"\xff\xfb\x92\x64" + bytes(414)
    found = walk(2 * FRAME + padded + 2 * FRAME)
    assert (found.num_samples, found.is_cut) == (5 * 1152, False)


@pytest.mark.parametrize("word", [b"Xing", b"Info"])
def test_a_first_frame_that_states_the_length_is_seen(walk, word):
    stating = HEADER + bytes(17) + word + bytes(413 - 17 - 4)
    assert walk(stating + 3 * FRAME).states_length


@pytest.mark.parametrize(
    "tag",
    [
        b"ID3\x03\0\0\0\0\x01\x00" + bytes(128),
        b"ID3\x03\0\0\0\0\x01\x00" + 32 * HEADER,  # a picture may look like frames
        bytes(3_000),
        b"\xff" * 300,
    ],
)
def test_what_is_before_the_frames_is_stepped_over(walk, tag):
    assert walk(tag + 5 * FRAME).num_samples == 5 * 1152


@pytest.mark.parametrize(
    "tag", [b"TAG" + bytes(125), b"APETAGEX" + bytes(300), b"TAG" + b"\xff\xfb\x90" * 40]
)
def test_tags_after_the_frames_are_no_cut_frame(walk, tag):
    found = walk(5 * FRAME + tag)
    assert (found.num_samples, found.is_cut) == (5 * 1152, False)


def test_damage_between_frames_costs_those_that_it_hits(walk):
    found = walk(3 * FRAME + bytes(600) + 4 * FRAME)
    assert (found.num_samples, found.is_cut) == (7 * 1152, False)


@pytest.mark.parametrize(
    "content", [b"RIFF" + bytes(500), b"\xff", b"\xff\xfb", HEADER, b"ID3\x03\0\0\x7f\x7f\x7f\x7f"]
)
def test_what_is_no_mp3_has_no_frames(walk, content):
    assert walk(content).num_samples == 0


@pytest.mark.parametrize(
    ("rate", "mode"),
    list(itertools.product([8_000, 16_000, 22_050, 32_000, 44_100, 48_000], ["CONSTANT", "VARIABLE"])),
)
def test_lame_writes_as_many_frames_as_it_says(tmp_path, rate, mode):
    """What libsndfile reads of them is the length of what was written: all but the header and the padding."""
    noise = np.random.default_rng(0).normal(0, 0.1, 3 * rate + 123)
    soundfile.write(tmp_path / "a.mp3", noise, rate, bitrate_mode=mode)
    found = walk_frames(tmp_path / "a.mp3")
    assert found.states_length
    assert not found.is_cut
    assert 0 <= found.num_samples - len(noise) <= 4 * found.samples_per_frame
    assert found.samples_per_frame == (1152 if rate >= 32_000 else 576)
