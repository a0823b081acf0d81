"""Count what an mp3 file holds by walking over its frames: not every header says it, and a file may end early.

Numbers are those of ISO 11172-3, section 2.4.2.3, and of ISO 13818-3 for the lower rates; the lowest are Fraunhofer's MPEG 2.5.
"""

import dataclasses
import itertools
import mmap
from pathlib import Path

_VERSIONS = {3: 1, 2: 2, 0: 4}  # the header's two bits -> what the rates of MPEG 1 are divided by
_RATES = (44_100, 48_000, 32_000)
_KBPS_1 = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBPS_2 = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_LAYER_3 = 1
_SYNC = 0xFF
_HEADER_SIZE = 4
_LENGTH_IS_WITHIN = 64  # bytes of the first frame, where it is a header of Xing's kind


def _sizes() -> dict[tuple[int, int], tuple[int, int]]:
    """Return the second and third byte of a frame's header -> its size in bytes, and its samples."""
    sizes = {}
    for (version, divisor), (place, full_rate), has_no_checksum, padding, private in itertools.product(
        _VERSIONS.items(), enumerate(_RATES), (0, 1), (0, 1), (0, 1)
    ):
        samples, bitrates = (1152, _KBPS_1) if divisor == 1 else (576, _KBPS_2)
        for index, kbps in enumerate(bitrates, 1):
            second = 0b1110_0000 | version << 3 | _LAYER_3 << 1 | has_no_checksum
            third = index << 4 | place << 2 | padding << 1 | private
            size = samples // 8 * 1000 * kbps // (full_rate // divisor) + padding
            sizes[second, third] = size, samples
    return sizes


_SIZES = _sizes()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Frames:
    """The frames of an mp3 file.

    Parameters
    ----------
    num_samples : int
        Samples of one channel in its whole frames, padding among them; 0 where no frame was found.
    samples_per_frame : int
    states_length : bool
        Whether the first frame says how many there are (a header named Xing or Info).
    is_cut : bool
        Whether the file ends inside of a frame.
    """

    num_samples: int
    samples_per_frame: int
    states_length: bool
    is_cut: bool


def walk_frames(path: Path) -> Frames:
    """Walk over the layer III frames of a file, past tags and whatever else is between them."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        end = len(raw)
        place = first = _next_frame(raw, _skip_tags(raw), None)
        version = raw[place + 1] if place < end else None
        count, samples, is_cut = 0, 0, False
        while place + _HEADER_SIZE <= end:
            found = _SIZES.get((raw[place + 1], raw[place + 2])) if raw[place] == _SYNC else None
            if found is None:
                place = _next_frame(raw, place, version)
                continue
            if place + found[0] > end:
                is_cut = True
                break
            count += 1
            samples = found[1]
            place += found[0]
        head = raw[first : first + _LENGTH_IS_WITHIN]
    return Frames(
        num_samples=count * samples,
        samples_per_frame=samples,
        states_length=b"Xing" in head or b"Info" in head,
        is_cut=is_cut,
    )


def _skip_tags(raw: mmap.mmap) -> int:
    """Return where what follows the ID3v2 tags starts; their sizes are written in seven bits a byte (id3.org, section 3.1)."""
    place = 0
    while raw[place : place + 3] == b"ID3" and place + 10 <= len(raw):
        size = 0
        for byte in raw[place + 6 : place + 10]:
            size = size << 7 | byte & 0x7F
        place += 10 + size
    return place


def _next_frame(raw: mmap.mmap, place: int, version: int | None) -> int:
    """Return where the next frame starts that another follows, or the end of the file; one alone may be chance."""
    while (place := raw.find(_SYNC.to_bytes(), place)) >= 0 and place + _HEADER_SIZE <= len(raw):
        found = _SIZES.get((raw[place + 1], raw[place + 2]))
        if found and version in (None, raw[place + 1]):
            following = raw[place + found[0] : place + found[0] + 2]
            if following == raw[place : place + 2]:
                return place
        place += 1
    return len(raw)
