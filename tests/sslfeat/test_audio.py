import contextlib
import hashlib
import math
import os
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import soxr

from sslfeat import audio, containers
from sslfeat.audio import decode, stream
from sslfeat.containers import AudioError


def speechlike(num_samples, num_channels=1, seed=0):
    """Integers, so that every lossless format holds them exactly."""
    noise = np.random.default_rng(seed).normal(0, 3000, (num_samples, num_channels))
    return noise.astype(np.int16)


def write(path, samples, rate=16_000, **options):
    soundfile.write(path, samples, rate, **options)
    return path


@pytest.fixture
def wav(tmp_path):
    return write(tmp_path / "a.wav", speechlike(16_000))


# --- what comes out ---


def test_a_mono_file_at_the_asked_rate_comes_through_exactly(wav):
    recording = decode(wav)
    expected = speechlike(16_000)[:, 0] / np.float32(32768)
    assert recording.waveform.dtype == np.float32
    assert recording.waveform.flags.c_contiguous
    np.testing.assert_array_equal(recording.waveform, expected)
    assert recording.native_sample_rate == 16_000
    assert recording.native_num_samples == 16_000
    assert recording.num_channels == 1
    assert recording.seconds == 1.0
    assert recording.peak == np.abs(expected).max()
    assert recording.num_clipped == 0


def test_the_hash_is_of_the_decoded_samples_rate_and_channels(wav):
    samples = (speechlike(16_000) / np.float32(32768)).astype("<f4")
    expected = hashlib.blake2b(b"16000 1 " + samples.tobytes(), digest_size=16).hexdigest()
    assert decode(wav).audio_hash == expected


@pytest.mark.parametrize(
    ("suffix", "subtype"),
    [
        ("wav", "PCM_24"),
        ("wav", "FLOAT"),
        ("wav", "DOUBLE"),
        ("flac", "PCM_16"),
        ("aiff", "PCM_16"),
        ("au", "PCM_16"),
        ("caf", "PCM_16"),
        ("w64", "PCM_32"),
    ],
)
def test_lossless_formats_of_the_same_samples_hash_alike(tmp_path, wav, suffix, subtype):
    samples = speechlike(16_000).astype(np.float64) / 32768
    copy = write(tmp_path / f"b.{suffix}", samples, subtype=subtype)
    assert decode(copy).audio_hash == decode(wav).audio_hash


def test_equal_bytes_at_another_rate_or_as_two_channels_hash_differently(tmp_path, wav):
    faster = write(tmp_path / "b.wav", speechlike(16_000), 22_050)
    stereo = write(tmp_path / "c.wav", speechlike(16_000).reshape(-1, 2))
    assert len({decode(path).audio_hash for path in (wav, faster, stereo)}) == 3


def test_extensible_and_8_bit_wav_are_read(tmp_path):
    samples = speechlike(8_000, 2) / 32768
    extensible = write(tmp_path / "a.wav", samples, format="WAVEX", subtype="PCM_16")
    eight_bits = write(tmp_path / "b.wav", samples, subtype="PCM_U8")
    np.testing.assert_allclose(decode(extensible).waveform, samples.mean(axis=1), atol=1e-7)
    np.testing.assert_allclose(decode(eight_bits).waveform, samples.mean(axis=1), atol=1 / 64)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.ogg", {"subtype": "VORBIS"}),
        ("a.opus", {"format": "OGG", "subtype": "OPUS"}),
        ("a.mp3", {"subtype": "MPEG_LAYER_III"}),
    ],
)
def test_lossy_formats_keep_length_and_resemble_the_original(tmp_path, name, options):
    time = np.arange(32_000) / 16_000
    tone = 0.4 * np.sin(2 * math.pi * 440 * time)
    recording = decode(write(tmp_path / name, tone, **options))
    assert len(recording.waveform) == 32_000
    assert np.corrcoef(recording.waveform, tone)[0, 1] > 0.99


def test_chunks_before_the_data_and_an_odd_one_are_stepped_over(tmp_path, wav):
    raw = wav.read_bytes()
    filler = b"FLLR" + struct.pack("<I", 4044) + bytes(4044)  # as in RAVDESS
    odd = b"note" + struct.pack("<I", 3) + b"abc\0"
    body = raw[12:36] + filler + odd + raw[36:]
    other = tmp_path / "b.wav"
    other.write_bytes(b"RIFF" + struct.pack("<I", len(body) + 4) + b"WAVE" + body)
    np.testing.assert_array_equal(decode(other).waveform, decode(wav).waveform)


def test_a_wav_that_outgrew_its_header_is_not_read_in_part(tmp_path, wav):
    """As a recorder leaves it that crashed after it wrote a size; a little that nobody knows at the end is none."""
    raw = bytearray(wav.read_bytes())
    raw[40:44] = struct.pack("<I", 12_000)
    (tmp_path / "b.wav").write_bytes(raw)
    with pytest.raises(AudioError, match=r"b\.wav: its header promises less than the file holds"):
        decode(tmp_path / "b.wav")
    (tmp_path / "c.wav").write_bytes(wav.read_bytes() + b"\xff" * 999)
    np.testing.assert_array_equal(decode(tmp_path / "c.wav").waveform, decode(wav).waveform)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF])
def test_a_wav_written_to_a_pipe_promises_no_length(tmp_path, wav, size):
    raw = bytearray(wav.read_bytes())
    raw[40:44] = struct.pack("<I", size)
    piped = tmp_path / "b.wav"
    piped.write_bytes(raw)
    np.testing.assert_array_equal(decode(piped).waveform, decode(wav).waveform)


def test_eight_channels_at_192_khz_are_their_mean_resampled(tmp_path):
    samples = speechlike(192_000, 8) / np.float32(32768)
    recording = decode(write(tmp_path / "a.wav", samples, 192_000, subtype="FLOAT"))
    expected = soxr.resample(samples.mean(axis=1), 192_000, 16_000, quality="HQ")
    np.testing.assert_allclose(recording.waveform, expected, atol=1e-7)
    assert recording.num_channels == 8
    assert len(recording.waveform) == 16_000


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_one_channel_can_be_chosen(tmp_path, channel):
    samples = speechlike(4_000, 3)
    path = write(tmp_path / "a.wav", samples)
    np.testing.assert_array_equal(
        decode(path, channel=channel).waveform, samples[:, channel] / np.float32(32768)
    )


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 24_414, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("num_samples", [5_000, 7_351, 9_999])
def test_length_is_rounded_half_up(tmp_path, rate, num_samples):
    path = write(tmp_path / "a.wav", speechlike(num_samples), rate)
    assert len(decode(path).waveform) == (2 * num_samples * 16_000 + rate) // (2 * rate)


@pytest.mark.parametrize("block_values", [64, 1_000, 4_099])
def test_blocks_change_no_number(tmp_path, monkeypatch, block_values):
    path = write(tmp_path / "a.wav", speechlike(20_000, 2), 44_100)
    whole = decode(path)
    monkeypatch.setattr(containers, "BLOCK_VALUES", block_values)
    piecewise = decode(path)
    np.testing.assert_array_equal(piecewise.waveform, whole.waveform)
    assert piecewise.audio_hash == whole.audio_hash
    assert piecewise.peak == whole.peak


def test_full_scale_neither_wraps_nor_clips(tmp_path):
    square = np.where(np.arange(48_000) // 100 % 2, 32767, -32768).astype(np.int16)
    recording = decode(write(tmp_path / "a.wav", square, 48_000))
    steady = recording.waveform[10_000:10_400]
    ideal = np.where(np.arange(30_000, 31_200, 3) // 100 % 2, 1, -1)
    edges = np.abs(np.arange(30_000, 31_200, 3) % 100 - 50) > 40
    np.testing.assert_array_less(np.abs(steady - ideal)[~edges], 0.12)  # Gibbs, and never a flipped sign
    assert recording.waveform.max() > 1.05  # the overshoot of a band-limited edge is kept
    assert recording.num_clipped == 47_998
    assert recording.peak == 1.0


def test_values_beyond_one_in_a_float_file_are_kept(tmp_path):
    loud = speechlike(16_000)[:, 0].astype(np.float32) / 5_000
    recording = decode(write(tmp_path / "a.wav", loud, subtype="FLOAT"))
    np.testing.assert_array_equal(recording.waveform, loud)
    assert recording.peak == np.abs(loud).max() > 1


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_a_stream_gives_what_decoding_keeps(tmp_path, rate):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, (3 * rate, 2)), rate)
    where = {"channel": 1, "start": 0.5, "end": 2.5}
    whole = decode(path, **where)
    np.testing.assert_array_equal(np.concatenate(list(stream(path, **where))), whole.waveform)
    looked_at = decode(path, **where, max_samples=31_999)
    assert len(looked_at.waveform) == 0
    assert (looked_at.num_samples, looked_at.audio_hash) == (whole.num_samples, whole.audio_hash)
    assert whole.num_samples == len(whole.waveform) == len(decode(path, **where, max_samples=32_000).waveform)
    with pytest.raises(AudioError, match=r"no\.wav: no such file"):
        next(stream(tmp_path / "no.wav"))


@pytest.mark.parametrize("block_values", [3, 7, 1 << 20])
def test_clipping_is_three_in_a_row_of_one_channel(tmp_path, monkeypatch, block_values):
    monkeypatch.setattr(containers, "BLOCK_VALUES", block_values)
    samples = speechlike(1_000, 2)
    samples[10:12, 0] = 32767  # two
    samples[20:25, 0] = 32767  # five
    samples[30:33, 1] = (-32768, 32767, -32768)  # three, of either sign
    samples[40, :] = 32767
    samples[41, 0] = samples[42, 1] = 32767  # never three of one channel
    assert decode(write(tmp_path / "a.wav", samples)).num_clipped == 3 + 1


# --- the resampler, as published for soxr HQ: flat to 0.91 of the band, 20 bits ---


def through(tmp_path, frequency, rate):
    """Return the level of what a full-scale tone becomes at 16 kHz, in dB relative to the tone."""
    time = np.arange(2 * rate) / rate
    path = write(tmp_path / "a.wav", 0.5 * np.sin(2 * math.pi * frequency * time), rate, subtype="DOUBLE")
    steady = decode(path, min_samples=1).waveform[8_000:24_000].astype(np.float64)
    return 20 * math.log10(np.sqrt(np.mean(steady**2)) / (0.5 * math.sqrt(0.5)))


@pytest.mark.parametrize("rate", [22_050, 44_100, 48_000, 192_000])
@pytest.mark.parametrize("frequency", [50, 440, 3_000, 6_000, 7_200])
def test_the_pass_band_is_flat_to_a_hundredth_of_a_decibel(tmp_path, rate, frequency):
    assert abs(through(tmp_path, frequency, rate)) < 0.01


@pytest.mark.parametrize(
    ("rate", "frequency"),
    [
        (44_100, 8_800),
        (44_100, 12_000),
        (48_000, 8_800),
        (48_000, 15_000),
        (48_000, 23_000),
        (192_000, 70_000),
    ],
)
def test_what_would_alias_is_a_hundred_decibels_down(tmp_path, rate, frequency):
    assert through(tmp_path, frequency, rate) < -100


# --- segments ---


@pytest.mark.parametrize(
    ("suffix", "options"),
    [("wav", {}), ("flac", {}), ("ogg", {"subtype": "VORBIS"}), ("mp3", {"subtype": "MPEG_LAYER_III"})],
)
def test_a_segment_is_that_part_of_the_file(tmp_path, suffix, options):
    path = write(tmp_path / f"a.{suffix}", speechlike(64_000) / 32768, **options)
    whole, part = decode(path), decode(path, start=1.25, end=2.5)
    np.testing.assert_allclose(part.waveform, whole.waveform[20_000:40_000], atol=1e-4)
    assert part.audio_hash != whole.audio_hash
    np.testing.assert_allclose(decode(path, start=3.5).waveform, whole.waveform[56_000:], atol=1e-4)


def test_a_segment_is_cut_at_the_nearest_native_samples(tmp_path):
    samples = speechlike(44_100)
    path = write(tmp_path / "a.wav", samples, 44_100)
    recording = decode(path, sample_rate=44_100, start=0.25, end=0.75)
    np.testing.assert_array_equal(recording.waveform, samples[11_025:33_075, 0] / np.float32(32768))


def test_a_segment_is_read_without_the_rest_of_the_file(tmp_path, monkeypatch):
    path = write(tmp_path / "a.wav", speechlike(160_000))
    lengths = []
    read = soundfile.SoundFile.read
    monkeypatch.setattr(
        soundfile.SoundFile,
        "read",
        lambda file, frames, **options: lengths.append(frames) or read(file, frames, **options),
    )
    decode(path, start=9.0, end=9.5)
    assert lengths == [8_000]


def test_an_end_that_overshoots_by_rounding_is_the_end_of_the_file(wav):
    assert len(decode(wav, end=1.05).waveform) == 16_000


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (-1.0, 1.0, r"a\.wav: a segment must have 0 <= start < end\. Got start=-1, end=1 seconds"),
        (0.5, 0.5, r"0 <= start < end"),
        (math.nan, 1.0, r"0 <= start < end"),
        (1.0, 2.0, r"a\.wav: no segment at 1 s, the file lasts 1 s"),
        (0.5, 1.2, r"a\.wav: no segment up to 1\.2 s, the file lasts 1 s"),
    ],
)
def test_a_segment_outside_the_file_is_refused(wav, start, end, message):
    with pytest.raises(AudioError, match=message):
        decode(wav, start=start, end=end)


# --- what is refused ---


def test_a_missing_file(tmp_path):
    with pytest.raises(AudioError, match=r"nothing\.wav: no such file\.$"):
        decode(tmp_path / "nothing.wav")


def test_a_folder(tmp_path):
    with pytest.raises(AudioError, match="a folder, and one audio file was asked for"):
        decode(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    with pytest.raises(AudioError, match=r"a\.wav: no regular file"):
        decode(tmp_path / "a.wav")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch, wav):
    """The reason goes into a cache, where the folders of this machine mean nothing."""

    def refuse(self, *_):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(type(wav), "open", refuse)
    with pytest.raises(AudioError, match=r"a\.wav: can't be opened \(Permission denied\)\.$"):
        decode(wav)


def test_a_name_that_no_file_system_holds():
    with pytest.raises(AudioError, match="can't be opened"):
        decode("a\0.wav")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.wav", b"", r"a\.wav: an empty file \(0 bytes\)"),
        ("a.wav", b"RIFF is how it starts, and nothing else fits", "no audio format that can be read"),
        ("a.mp3", b"no audio at all" * 9, "no audio format that can be read"),
        ("a.raw", bytes(4_000), "no audio format that can be read"),
        (
            "a.wav",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            r"a\.wav: a Git-LFS pointer.*git lfs pull",
        ),
    ],
)
def test_what_is_no_audio(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AudioError, match=message):
        decode(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.wav", {}),
        ("a.wav", {"format": "WAVEX"}),
        ("a.aiff", {}),
        ("a.au", {}),
        ("a.w64", {}),
        ("a.flac", {}),
        ("a.mp3", {"subtype": "MPEG_LAYER_III"}),
        ("a.ogg", {"subtype": "VORBIS"}),
        ("a.opus", {"format": "OGG", "subtype": "OPUS"}),
    ],
)
@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_a_truncated_file(tmp_path, name, options, kept):
    path = write(tmp_path / name, speechlike(64_000) / 32768, **options)
    decode(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(AudioError, match=r"truncated.*Fetch it again"):
        decode(path)


def nist(path, num_samples):
    """Write a NIST SPHERE file that promises so many samples, and holds 16 000."""
    header = f"NIST_1A\n   1024\nsample_rate -i 16000\nchannel_count -i 1\nsample_n_bytes -i 2\nsample_byte_format -s2 01\nsample_count -i {num_samples}\nend_head\n"
    path.write_bytes(header.encode().ljust(1024) + speechlike(16_000).tobytes())
    return path


def test_a_nist_file_is_held_to_its_header(tmp_path, wav):
    np.testing.assert_array_equal(decode(nist(tmp_path / "b.wav", 16_000)).waveform, decode(wav).waveform)
    with pytest.raises(AudioError, match=r"c\.wav: truncated, its header promises more"):
        decode(nist(tmp_path / "c.wav", 20_000))


@pytest.mark.parametrize("kind", ["IRCAM", "AVR", "VOC", "MAT5"])
def test_formats_that_can_be_cut_short_unseen_are_refused(tmp_path, kind):
    path = write(tmp_path / "a.wav", speechlike(16_000), format=kind, subtype="PCM_16")
    with pytest.raises(
        AudioError, match=rf"a\.wav: {kind}, of which it can't be seen whether all is there\. Convert"
    ):
        decode(path)


@pytest.mark.parametrize("options", [{"subtype": "VORBIS"}, {"subtype": "OPUS"}])
def test_an_ogg_file_of_two_recordings_is_not_read_as_the_first(tmp_path, options):
    path = write(tmp_path / "a.ogg", speechlike(16_000) / 32768, format="OGG", **options)
    decode(path)
    path.write_bytes(2 * path.read_bytes())
    with pytest.raises(AudioError, match=r"a\.ogg: several recordings one after another"):
        decode(path)


def mp3(path, *parts, header=False):
    """Write an mp3 of parts: each the bitrate in kbit/s and the seconds of a tone."""
    av = pytest.importorskip("av")
    content = b""
    for kbps, seconds in parts:
        with av.open(
            str(path), "w", options={"write_xing": str(int(header)), "id3v2_version": "0"}
        ) as container:
            track = container.add_stream("libmp3lame", rate=16_000, layout="mono", bit_rate=1000 * kbps)
            tone = 0.4 * np.sin(2 * math.pi * 440 * np.arange(round(16_000 * seconds)) / 16_000)
            frame = av.AudioFrame.from_ndarray(tone[None].astype(np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16_000, 0
            for packet in [*track.encode(frame), *track.encode(None)]:
                container.mux(packet)
        content += path.read_bytes()
    path.write_bytes(content)
    return path


# 144 bytes per frame of 576 samples at 32 kbit/s; libsndfile takes the size over the first frame's for the length.
@pytest.mark.parametrize("kbps", [(160, 8), (8, 160), (32, 32)])
def test_an_mp3_of_varying_rate_without_a_header_is_read_whole(tmp_path, kbps):
    first, second = (decode(mp3(tmp_path / "a.mp3", (rate, 2))).num_samples for rate in kbps)
    path = mp3(tmp_path / "b.mp3", *((rate, 2) for rate in kbps))
    assert decode(path).num_samples == first + second
    part = decode(path, start=2.5, end=3.5).waveform
    np.testing.assert_allclose(part, decode(path).waveform[40_000:56_000], atol=1e-4)


def test_an_mp3_of_varying_rate_without_a_header_is_refused_without_pyav(tmp_path, monkeypatch):
    path = mp3(tmp_path / "a.mp3", (160, 2), (8, 2))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(
        AudioError, match=r"a\.mp3: .* need PyAV, and so does a file that doesn't say how long it is"
    ):
        decode(path)


def test_a_picture_before_an_mp3_without_a_header_is_no_audio(tmp_path):
    path = mp3(tmp_path / "a.mp3", (32, 2))
    plain = decode(path).num_samples
    picture = 1 << 20
    tag = b"ID3\3\0\0" + bytes(picture >> shift & 127 for shift in (21, 14, 7, 0)) + bytes(picture)
    path.write_bytes(tag + path.read_bytes())
    assert decode(path).num_samples == plain


def test_an_mp3_that_ends_inside_of_a_frame_is_cut_short(tmp_path):
    path = mp3(tmp_path / "a.mp3", (32, 2))
    path.write_bytes(path.read_bytes()[:-5_000])
    with pytest.raises(AudioError, match=r"a\.mp3: truncated, it ends inside of a frame"):
        decode(path)


def test_a_segment_of_an_mp3_needs_the_frames_before_it(tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.1, 64_000)
    path = write(tmp_path / "a.mp3", noise, subtype="MPEG_LAYER_III")
    whole = decode(path).waveform
    for start in (0.3, 1.2125, 2.7):
        first = round(16_000 * start)
        part = decode(path, start=start, end=start + 0.4).waveform
        np.testing.assert_allclose(part, whole[first : first + 6_400], atol=1e-6)


@pytest.mark.parametrize("name", ["a.mp3", "a.ogg"])
def test_a_thousand_segments_need_one_look_at_the_whole_file(tmp_path, monkeypatch, name):
    looks = []

    def look(path):
        looks.append(path)
        return mp3_frames(path) if name == "a.mp3" else False

    mp3_frames = containers.walk_frames
    monkeypatch.setattr(containers, "walk_frames", look)
    monkeypatch.setattr(containers, "_is_chained", look)
    path = write(tmp_path / name, speechlike(64_000) / 32768)
    for start in (0.5, 1.5, 2.5):
        decode(path, start=start, end=start + 0.5)
    assert looks == [path]
    write(path, speechlike(80_000) / 32768)  # and another where the file is another
    assert decode(path, start=4.0).num_samples == 16_000
    assert looks == [path, path]


def test_a_segment_of_what_can_only_be_read_from_its_start(tmp_path):
    path = write(tmp_path / "a.wav", speechlike(64_000), subtype="GSM610")
    whole = decode(path).waveform
    np.testing.assert_array_equal(decode(path, start=1.5, end=2.5).waveform, whole[24_000:40_000])


def test_a_flac_written_to_a_pipe_is_read_to_its_end(tmp_path, wav, monkeypatch):
    pytest.importorskip("av")
    raw = bytearray(write(tmp_path / "a.flac", speechlike(16_000)).read_bytes())
    raw[21] &= 0xF0  # 36 bits of STREAMINFO, RFC 9639 section 8.2
    raw[22:26] = bytes(4)
    (tmp_path / "a.flac").write_bytes(raw)
    assert decode(tmp_path / "a.flac").audio_hash == decode(wav).audio_hash
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AudioError, match=r"a\.flac: .*doesn't say how long it is"):
        decode(tmp_path / "a.flac")


def test_accents_as_macos_writes_them_are_told(tmp_path):
    write(tmp_path / "cafe\u0301.wav", speechlike(4_000))
    with pytest.raises(AudioError, match=r"no such file\. One whose accents are coded otherwise is there"):
        decode(tmp_path / "caf\u00e9.wav")
    with pytest.raises(AudioError, match=r"th\u00e9\.wav: no such file\.$"):
        decode(tmp_path / "th\u00e9.wav")


def test_a_name_that_is_too_long_with_its_accents_apart(tmp_path):
    with pytest.raises(AudioError, match=r"no such file\.$"):
        decode(tmp_path / f"{120 * chr(233)}.wav")  # 244 bytes, and 364
    with pytest.raises(AudioError, match=r"can't be opened \(File name too long\)"):
        decode(tmp_path / f"{300 * 'a'}.wav")


def test_a_damaged_flac(tmp_path):
    path = write(tmp_path / "a.flac", speechlike(64_000))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 4_000] = bytes(4_000)
    path.write_bytes(raw)
    with pytest.raises(AudioError, match="truncated"):
        decode(path)


def test_a_header_without_samples(tmp_path):
    path = write(tmp_path / "a.wav", np.zeros(0))
    with pytest.raises(AudioError, match=r"a\.wav: no audio in it \(0 samples\)"):
        decode(path)


@pytest.mark.parametrize("level", [0, 1, -700])
def test_silence_is_a_constant_within_one_16_bit_step(tmp_path, level):
    samples = np.full(16_000, level, np.int16)
    samples[::7] += 1
    with pytest.raises(AudioError, match=r"a\.wav: silent \(1\.00 s without a change\)"):
        decode(write(tmp_path / "a.wav", samples))
    samples[::7] += 1
    assert decode(write(tmp_path / "a.wav", samples)).peak > 0


def test_channels_that_cancel_are_silent_together_and_not_alone(tmp_path):
    samples = speechlike(16_000)
    path = write(tmp_path / "a.wav", np.hstack([samples, -samples]))
    with pytest.raises(
        AudioError, match=r"silent in the mean of its channels, though not in all of its 2\. Choose another"
    ):
        decode(path)
    assert decode(path, channel=0).peak > 0


def test_a_silent_channel_beside_a_voice_is_told(tmp_path):
    samples = speechlike(16_000)
    path = write(tmp_path / "a.wav", np.hstack([samples, np.zeros_like(samples)]))
    with pytest.raises(AudioError, match=r"silent in channel 1, though not in all of its 2"):
        decode(path, channel=1)
    quiet = write(tmp_path / "b.wav", np.zeros((16_000, 2), np.int16))
    with pytest.raises(AudioError, match=r"silent \(1\.00 s without a change\)"):
        decode(quiet)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_samples_that_are_not_finite(tmp_path, value):
    samples = speechlike(16_000).astype(np.float32)
    samples[12_345] = value
    with pytest.raises(AudioError, match=r"a\.wav: holds samples that are NaN or infinite"):
        decode(write(tmp_path / "a.wav", samples, subtype="FLOAT"))


def test_the_least_length_holds_after_resampling(tmp_path):
    assert len(decode(write(tmp_path / "a.wav", speechlike(1_199), 48_000)).waveform) == 400
    with pytest.raises(AudioError, match=r"399 samples at 16000 Hz, at least 400 are needed \(25 ms\)"):
        decode(write(tmp_path / "a.wav", speechlike(1_198), 48_000))


@pytest.mark.parametrize("channel", [2, -1])
def test_a_channel_that_is_not_there(tmp_path, channel):
    path = write(tmp_path / "a.wav", speechlike(4_000, 2))
    with pytest.raises(AudioError, match=rf"a\.wav: no channel {channel}; the file has 2, counted from 0"):
        decode(path, channel=channel)


@pytest.mark.parametrize("rate", [3, 2_000_000])
def test_a_rate_that_no_recording_has(tmp_path, rate):
    with pytest.raises(AudioError, match=rf"a sample rate of {rate} Hz, and 1000\.\.768000 are read"):
        decode(write(tmp_path / "a.wav", speechlike(4_000), rate))


def test_a_file_that_would_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "MAX_SECONDS", 3.6)
    with pytest.raises(AudioError, match=r"longer than 0\.001 hours.*by start and end in a manifest"):
        decode(write(tmp_path / "a.flac", speechlike(64_000)))


def test_threads_decode_as_one_does(tmp_path):
    paths = [write(tmp_path / f"{n}.wav", speechlike(30_000, seed=n), 44_100) for n in range(12)]
    with ThreadPoolExecutor(4) as pool:
        together = [recording.audio_hash for recording in pool.map(decode, paths)]
    assert together == [decode(path).audio_hash for path in paths]


# --- PyAV ---


def test_mp4_without_pyav_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(100))
    with pytest.raises(
        AudioError, match=r"a\.mp4: m4a, mp4 and webm need PyAV.*Run `pip install sslfeat\[video\]`"
    ):
        decode(tmp_path / "a.mp4")


class AVDouble:
    """As much of PyAV as one packed-float track in frames of 1024 needs; seeking lands on a frame border."""

    FFmpegError = OSError

    def __init__(self, samples, rate, start_time):
        self.samples, self.start_time, self.position = samples, start_time, 0
        self.track = SimpleNamespace(
            sample_rate=rate,
            channels=samples.shape[1],
            layout="any",
            start_time=start_time,
            time_base=Fraction(1, rate),
            codec_context="any",
        )

    def open(self, path, metadata_errors):
        self.position = 0
        container = SimpleNamespace(
            streams=SimpleNamespace(audio=[self.track]),
            format=SimpleNamespace(name="matroska,webm"),
            seek=self.seek,
            decode=self.decode,
        )
        return contextlib.nullcontext(container)  # entered for its streams, as PyAV's own is

    def seek(self, offset, stream):
        self.position = max(0, offset - self.start_time) // 1024 * 1024

    def decode(self, track):
        for begin in range(self.position, len(self.samples), 1024):
            packed = self.samples[begin : begin + 1024].reshape(1, -1)
            yield SimpleNamespace(
                pts=begin + self.start_time,
                time_base=track.time_base,
                samples=packed.shape[1] // track.channels,
                to_ndarray=lambda packed=packed: packed,
            )

    def AudioResampler(self, **options):  # noqa: N802 - PyAV's name
        return SimpleNamespace(resample=lambda frame: [frame])


@pytest.mark.parametrize("start_time", [0, 777])
def test_pyav_frames_are_cut_to_the_segment(tmp_path, monkeypatch, start_time):
    samples = speechlike(50_000, 2).astype(np.float32) / 32768
    monkeypatch.setitem(sys.modules, "av", AVDouble(samples, 16_000, start_time))
    path = tmp_path / "a.webm"
    path.write_bytes(b"\x1aE\xdf\xa3" + bytes(60))
    mono = samples.mean(axis=1, dtype=np.float32)
    np.testing.assert_array_equal(decode(path).waveform, mono)
    np.testing.assert_array_equal(decode(path, start=1.0, end=2.0).waveform, mono[16_000:32_000])
    np.testing.assert_array_equal(decode(path, start=3.0).waveform, mono[48_000:])
    with pytest.raises(AudioError, match=r"a\.webm: no segment at 4 s"):
        decode(path, start=4.0)
    with pytest.raises(AudioError, match=r"a\.webm: no segment up to 5 s"):
        decode(path, end=5.0)


def write_container(path, rate=44_100, codec="aac", **tags):
    """Write two seconds of a tone with PyAV."""
    av = pytest.importorskip("av")
    time = np.arange(2 * rate) / rate
    tone = (0.4 * np.sin(2 * math.pi * 440 * time)).astype(np.float32)
    with av.open(str(path), "w") as container:
        container.metadata.update(tags)
        track = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone[None], format="flt", layout="mono")
        frame.sample_rate, frame.pts = rate, 0  # so that the container says how much of the start is padding
        for packet in [*track.encode(frame), *track.encode(None)]:
            container.mux(packet)
    return path


def test_a_title_that_is_no_utf8_does_not_matter(tmp_path):
    path = write_container(tmp_path / "a.m4a", title="Größe")
    plain = decode(path)
    raw = path.read_bytes()
    assert raw.count("Größe".encode()) == 1
    path.write_bytes(raw.replace("ö".encode(), b"\xf6o"))
    assert decode(path).audio_hash == plain.audio_hash


def test_a_track_in_a_codec_that_nobody_knows(tmp_path):
    path = write_container(tmp_path / "a.webm", 48_000, "libopus")
    path.write_bytes(path.read_bytes().replace(b"A_OPUS", b"A_NONE"))
    with pytest.raises(
        AudioError, match=r"a\.webm: no audio track in it that can be read\. Convert it to wav"
    ):
        decode(path)


@pytest.mark.parametrize("suffix", ["m4a", "mp4", "webm"])
def test_real_containers(tmp_path, suffix):
    rate, codec = (48_000, "libopus") if suffix == "webm" else (44_100, "aac")
    whole = decode(write_container(tmp_path / f"a.{suffix}", rate, codec))
    part = decode(tmp_path / f"a.{suffix}", start=0.5, end=1.5)
    assert whole.native_sample_rate == rate
    assert abs(len(whole.waveform) - 32_000) <= 1_024
    assert len(part.waveform) == 16_000
    tone = 0.4 * np.sin(2 * math.pi * 440 * np.arange(32_000) / 16_000)
    np.testing.assert_allclose(whole.waveform[2_000:30_000], tone[2_000:30_000], atol=0.02)
    np.testing.assert_allclose(part.waveform[100:-100], whole.waveform[8_100:23_900], atol=1e-3)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("suffix", ["m4a", "mp4", "webm", "mkv"])
def test_a_truncated_container(tmp_path, suffix, kept):
    rate, codec = (48_000, "libopus") if suffix == "webm" else (44_100, "aac")
    raw = write_container(tmp_path / f"a.{suffix}", rate, codec).read_bytes()
    (tmp_path / f"cut.{suffix}").write_bytes(raw[: int(len(raw) * kept)])
    with pytest.raises(AudioError, match=rf"cut\.{suffix}: (truncated|damaged or cut short).*Fetch it again"):
        decode(tmp_path / f"cut.{suffix}")


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_truncated_film_whose_header_comes_first(tmp_path, kept):
    """Uncompressed audio has no frames that could be incomplete."""
    av = pytest.importorskip("av")
    path = tmp_path / "a.mov"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        track = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(speechlike(64_000).T.copy(), format="s16", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        container.mux(track.encode(frame))
    assert decode(path).num_samples == 64_000
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(AudioError, match=r"a\.mov: truncated, its header promises more than the file holds"):
        decode(path)
    assert decode(path, end=0.5).num_samples == 8_000


def test_a_live_webm_of_unknown_length_is_read_to_its_end(tmp_path):
    path = write_container(tmp_path / "a.webm", 48_000, "libopus")
    raw = bytearray(path.read_bytes())
    place = raw.index(b"\x18\x53\x80\x67") + 4
    raw[place : place + 8] = b"\x01" + b"\xff" * 7
    (tmp_path / "live.webm").write_bytes(raw)
    assert decode(tmp_path / "live.webm").audio_hash == decode(path).audio_hash
