import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cache.schema import Duplicate, Failure
from sslfeat.audio import decode
from sslfeat.check import CheckReport, check
from sslfeat.corpora import read_corpus
from sslfeat.folders import read_labelled_folders
from sslfeat.manifest import read_manifest

EMODB = Path(__file__).parents[2].parent / "shared/corpora/emodb/wav"


def write(path, seconds=1.0, rate=16_000, channels=1, seed=0, scale=3000):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).normal(0, scale, (int(seconds * rate), channels))
    soundfile.write(path, np.clip(noise, -32768, 32767).astype(np.int16), rate)
    return path


@pytest.fixture
def corpus(tmp_path):
    """A folder with one of everything that can be wrong."""
    write(tmp_path / "angry/1.wav", seed=1)
    write(tmp_path / "angry/2.wav", seed=2, seconds=2.0, rate=44_100)
    write(tmp_path / "angry/3.wav", seed=3, seconds=4.0, channels=2)
    write(tmp_path / "sad/1.wav", seed=1)  # the same samples under another label
    write(tmp_path / "sad/2.wav", seed=4, scale=200_000)  # clipped
    write(tmp_path / "sad/3.wav", seed=5, seconds=0.01)
    soundfile.write(tmp_path / "sad/4.wav", np.zeros(16_000), 16_000)
    (tmp_path / "sad/5.wav").write_bytes(write(tmp_path / "sad/6.wav", seed=6).read_bytes()[:9_000])
    (tmp_path / "sad/7.wav").write_bytes(b"no audio")
    return read_labelled_folders(tmp_path, corpus="own")


def test_everything_wrong_is_told(corpus):
    report = check(corpus)
    assert report.is_off
    assert report.failures == [
        Failure(id="own/sad/3", path="sad/3.wav", reason="160 samples at 16000 Hz, at least 400 are needed (25 ms). Leave it out."),
        Failure(id="own/sad/4", path="sad/4.wav", reason="silent (1.00 s without a change). Fetch it again or leave it out."),
        Failure(id="own/sad/5", path="sad/5.wav", reason="truncated, its header promises more than the file holds. Fetch it again."),
        Failure(id="own/sad/7", path="sad/7.wav", reason="no audio format that can be read. Convert it to wav or flac, or leave it out."),
    ]  # fmt: skip
    assert report.duplicates == [
        Duplicate(
            id="own/sad/1", path="sad/1.wav", original_id="own/angry/1", label="sadness", original_label="anger",
            audio_hash=decode(corpus.root / "sad/1.wav").audio_hash,
        )
    ]  # fmt: skip
    assert [each.utterance.id for each in report.clipped] == ["own/sad/2"]
    assert report.clipped[0].num_clipped == decode(corpus.root / "sad/2.wav").num_clipped > 0


def test_what_was_heard_is_counted(corpus):
    report = check(corpus)
    assert [each.utterance.id for each in report.heard] == [
        "own/angry/1", "own/angry/2", "own/angry/3", "own/sad/1", "own/sad/2", "own/sad/6",
    ]  # fmt: skip
    assert list(report.sample_rates.items()) == [(16_000, 5), (44_100, 1)]
    assert list(report.channels.items()) == [(1, 5), (2, 1)]
    assert report.hours == pytest.approx(10 / 3600)
    assert report.durations == (1.0, 1.0, 4.0)
    assert report.labels_by_speaker == {"": {"anger": 3, "sadness": 7}}


@pytest.mark.parametrize("jobs", [2, 5])
def test_threads_change_nothing(corpus, jobs):
    assert check(corpus, jobs=jobs) == check(corpus)


def test_progress_counts_every_utterance(corpus):
    seen = []
    check(corpus, progress=seen.append)
    assert seen == list(range(1, 11))


def test_a_whole_corpus_is_not_off_and_clipping_alone_neither(tmp_path):
    write(tmp_path / "sad/1.wav", seed=1)
    write(tmp_path / "sad/2.wav", seed=2, scale=200_000)
    report = check(read_labelled_folders(tmp_path))
    assert len(report.clipped) == 1
    assert not report.is_off


def test_names_and_labels_can_be_what_is_off(tmp_path):
    write(tmp_path / "sad/1.wav", seed=1)
    write(tmp_path / "2.wav", seed=2)
    listing = read_labelled_folders(tmp_path)
    assert check(listing).is_off
    assert not check(dataclasses.replace(listing, is_complete=True)).is_off
    unlabelled = [dataclasses.replace(each, label="") for each in listing.utterances]
    report = check(dataclasses.replace(listing, is_complete=True, utterances=unlabelled))
    assert report.unlabelled == 1
    assert report.is_off


def test_a_channel_and_a_least_length_as_extraction_takes_them(tmp_path):
    samples = np.random.default_rng(0).normal(0, 3000, (16_000, 1)).astype(np.int16)
    (tmp_path / "sad").mkdir()
    soundfile.write(tmp_path / "sad/1.wav", np.hstack([samples, -samples]), 16_000)
    listing = read_labelled_folders(tmp_path)
    assert "silent" in check(listing).failures[0].reason
    assert not check(listing, channels="1").failures
    assert "at least 20000 are needed" in check(listing, channels="0", min_samples=20_000).failures[0].reason


def test_segments_of_one_file_are_distinct_and_counted_alone(tmp_path):
    write(tmp_path / "long.wav", seconds=4.0)
    (tmp_path / "own.csv").write_text(
        "path,label,start,end\nlong.wav,sad,0,1\nlong.wav,joy,1,3\nlong.wav,joy,3,9\n"
    )
    report = check(read_manifest(tmp_path / "own.csv"))
    assert [each.seconds for each in report.heard] == [1.0, 2.0]
    assert report.duplicates == []
    assert [failure.reason for failure in report.failures] == ["no segment up to 9 s, the file lasts 4 s."]


def test_nothing_readable_is_still_a_report(tmp_path):
    (tmp_path / "sad").mkdir()
    (tmp_path / "sad/1.wav").touch()
    report = check(read_labelled_folders(tmp_path))
    assert (report.durations, report.hours, report.sample_rates) == ((0.0, 0.0, 0.0), 0.0, {})
    assert report.failures[0].reason == "an empty file (0 bytes). Fetch it again or leave it out."


def test_a_summary_is_what_json_can_hold(corpus):
    report = check(corpus)
    told = json.loads(json.dumps(report.summary()))
    assert (told["corpus"], told["utterances"], told["is_off"], told["unlabelled"]) == ("own", 10, True, 0)
    assert told["labels_by_speaker"] == {"": {"anger": 3, "sadness": 7}}
    assert [one["path"] for one in told["failures"]] == [f"sad/{i}.wav" for i in (3, 4, 5, 7)]
    assert told["failures"][3] == {
        "id": "own/sad/7",
        "path": "sad/7.wav",
        "reason": report.failures[3].reason,
    }
    assert told["duplicates"] == [
        {"id": "own/sad/1", "label": "sadness", "original": "own/angry/1", "original_label": "anger"}
    ]
    assert told["clipped"] == [
        {"id": "own/sad/2", "path": "sad/2.wav", "samples": report.clipped[0].num_clipped}
    ]
    assert (told["durations"], told["sample_rates"]) == (
        {"shortest": 1.0, "median": 1.0, "longest": 4.0},
        {"16000": 5, "44100": 1},
    )
    assert told["published_labels"] == {}


def test_a_label_that_is_likely_misspelt_is_off_and_one_of_its_own_is_not(tmp_path):
    write(tmp_path / "a/smug/1.wav", seed=1)
    write(tmp_path / "a/sad/2.wav", seed=2)
    report = check(read_labelled_folders(tmp_path / "a"))
    assert (report.unknown_labels, report.is_off) == ({"smug": ""}, False)
    write(tmp_path / "a/Hapy/3.wav", seed=3)
    report = check(read_labelled_folders(tmp_path / "a"))
    assert (report.unknown_labels, report.is_off) == ({"hapy": "happiness", "smug": ""}, True)
    assert report.summary()["unknown_labels"] == report.unknown_labels


def test_a_wrong_column_of_labels_is_told_soon(tmp_path):
    write(tmp_path / "a.wav")
    rows = "".join(f"a.wav,hapyness number {i},{i}\n" for i in range(300))
    (tmp_path / "own.csv").write_text("path,label,id\n" + rows)
    report = CheckReport(listing=read_manifest(tmp_path / "own.csv"), heard=[], failures=[], duplicates=[])
    assert len(report.unknown_labels) == 300


def test_a_summary_tells_every_segment_of_a_file(tmp_path):
    write(tmp_path / "a.wav", seconds=2.0, scale=200_000)
    rows = "".join(f"a.wav,sad,{start},{start + 1}\n" for start in range(5))
    (tmp_path / "own.csv").write_text("path,label,start,end\n" + rows)
    told = check(read_manifest(tmp_path / "own.csv")).summary()
    assert [one["id"] for one in told["failures"]] == ["own/a#2-3", "own/a#3-4", "own/a#4-5"]
    assert [one["id"] for one in told["clipped"]] == ["own/a#0-1", "own/a#1-2"]


@pytest.mark.corpus
def test_the_real_emodb_is_sound():
    if not EMODB.is_dir():
        pytest.skip("Emo-DB isn't beside the checkout")
    report = check(read_corpus(EMODB), jobs=2)
    assert not report.is_off
    assert report.clipped == []
    assert (report.sample_rates, report.channels) == ({16_000: 535}, {1: 535})
    assert report.hours == pytest.approx(0.4131, abs=1e-4)
    assert report.durations == pytest.approx((1.2255, 2.5902, 8.9783), abs=1e-3)
    assert report.labels_by_speaker["emodb:03"]["anger"] == 14
    assert report.published_labels == Counter(one.label for one in report.listing.utterances)
