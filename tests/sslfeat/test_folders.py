import re
import string

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sslfeat.corpora import CorpusError
from sslfeat.folders import read_kaldi, read_labelled_folders, read_pattern
from sslfeat.values import MISSING, ManifestError

PER_FOLDER = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)

# --- names ---


def plant(root, paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def test_a_pattern_over_folders(tmp_path):
    plant(
        tmp_path, ["train/anna/f/sad-1.wav", "dev/ben/m/joy-2.flac", "train/anna/f/readme.wav", "other.wav"]
    )
    listing = read_pattern(tmp_path, "{split}/{speaker}/{sex}/{label}-*", corpus="own")
    assert [(u.id, u.speaker, u.sex, u.label, u.split) for u in listing.utterances] == [
        ("own/dev/ben/m/joy-2", "own:ben", "male", "happiness", "dev"),
        ("own/train/anna/f/sad-1", "own:anna", "female", "sadness", "train"),
    ]
    assert listing.unexpected == ["other.wav", "train/anna/f/readme.wav"]
    assert listing.notes == [
        "2 files skipped, they don't fit '{split}/{speaker}/{sex}/{label}-*': other.wav, train/anna/f/readme.wav."
    ]
    assert not listing.is_complete


def test_a_field_that_comes_twice_must_say_the_same(tmp_path):
    plant(tmp_path, ["anna/anna_sad_high.wav", "anna/ben_sad_high.wav"])
    listing = read_pattern(tmp_path, "{speaker}/{speaker}_{label}_{intensity}.wav")
    assert [(u.path, u.intensity) for u in listing.utterances] == [("anna/anna_sad_high.wav", "high")]
    assert listing.name == tmp_path.name


def test_characters_of_a_pattern_are_themselves(tmp_path):
    plant(tmp_path, ["a (1)+sad.wav", "aX(1)+sad.wav"])
    assert [u.path for u in read_pattern(tmp_path, "{speaker} ({})+{label}.wav").utterances] == [
        "a (1)+sad.wav"
    ]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{speaker}_{emotion}.wav", r"no field 'emotion'; a pattern's fields are label, speaker, sex"),
        ("{speaker}_*.wav", r"a pattern must have \{label\}"),
        ("{speaker}{label}.wav", r"nothing before \{label\} says where the field before it ends\. Put"),
        ("{label}*", r"nothing before \* says where the field before it ends"),
        ("{speaker}-{label}.wav", r"no file fits '\{speaker\}-\{label\}\.wav'\. The names look like a\.wav"),
    ],
)
def test_a_pattern_that_is_none(tmp_path, pattern, message):
    plant(tmp_path, ["a.wav"])
    with pytest.raises(ManifestError, match=message):
        read_pattern(tmp_path, pattern)


@pytest.mark.parametrize("pattern", ["{speaker}_d\u00e9but_{label}", "{speaker}_de\u0301but_{label}"])
def test_accents_of_a_pattern_fit_however_they_are_coded(tmp_path, pattern):
    plant(tmp_path, ["Jose\u0301_d\u00e9but_sad.wav", "Jos\u00e9_de\u0301but_cole\u0300re.wav"])
    found = read_pattern(tmp_path, pattern).utterances
    assert {(u.speaker.partition(":")[2], u.label) for u in found} == {
        ("Jos\u00e9", "sadness"),
        ("Jos\u00e9", "anger"),
    }
    assert {u.path for u in found} == {path.name for path in tmp_path.iterdir()}  # as they are on the disk


def test_folders_named_by_label(tmp_path):
    plant(tmp_path, ["Angry/1.wav", "deep/sad/1.wav", "deep/sad/2.mp3", "stray.wav", "Angry/.hidden.wav"])
    listing = read_labelled_folders(tmp_path, corpus="own")
    assert [(u.id, u.label, u.native_label, u.speaker) for u in listing.utterances] == [
        ("own/Angry/1", "anger", "Angry", ""),
        ("own/deep/sad/1", "sadness", "sad", ""),
        ("own/deep/sad/2", "sadness", "sad", ""),
    ]
    assert listing.unexpected == ["stray.wav"]


def test_one_stem_with_two_suffixes_is_two_utterances(tmp_path):
    plant(tmp_path, ["sad/1.flac", "sad/1.mp3", "sad/1.wav", "sad/2.wav"])
    expected = {
        "own/sad/1": "sad/1.flac",
        "own/sad/1.mp3": "sad/1.mp3",
        "own/sad/1.wav": "sad/1.wav",
        "own/sad/2": "sad/2.wav",
    }
    for listing in (
        read_labelled_folders(tmp_path, corpus="own"),
        read_pattern(tmp_path, "{label}/*", corpus="own"),
    ):
        assert {one.id: one.path for one in listing.utterances} == expected
        assert (listing.repeated, listing.is_complete) == (["sad/1.mp3", "sad/1.wav"], False)
        assert listing.notes == [
            "2 files named like another one but for their suffix: sad/1.mp3, sad/1.wav. Each counts as an utterance; keep "
            "one of them."
        ]


def test_folders_that_name_no_label(tmp_path):
    plant(tmp_path, ["a.wav"])
    with pytest.raises(ManifestError, match="its audio lies in no subfolder"):
        read_labelled_folders(tmp_path)
    with pytest.raises(CorpusError, match="no such folder"):
        read_labelled_folders(tmp_path / "nowhere")


# --- Kaldi ---


def kaldi(root, **tables):
    (root / "a.wav").touch()
    for name, content in tables.items():
        (root / name.replace("wav_scp", "wav.scp")).write_text(content)
    return root


def test_kaldi_by_file(tmp_path):
    kaldi(
        tmp_path,
        wav_scp="u1 a.wav\nu2\ta b.wav\n",
        utt2spk="u1 s1\nu2 s2\n",
        utt2emo="u1 ang\nu2 hap\n",
        spk2gender="s1 f\n",
    )
    first, second = read_kaldi(tmp_path, corpus="own").utterances
    assert (first.id, first.path, first.speaker, first.sex, first.label) == (
        "own/u1",
        "a.wav",
        "own:s1",
        "female",
        "anger",
    )
    assert (second.path, second.speaker, second.sex, second.label) == ("a b.wav", "own:s2", "", "happiness")


def test_kaldi_by_segment(tmp_path):
    kaldi(
        tmp_path,
        wav_scp="r1 a.wav\n",
        segments="u1 r1 0.5 1.25\nu2 r1 2 3\n",
        utt2emo="u1 sad\n",
        text="u1 well then\n",
    )
    first, second = read_kaldi(tmp_path).utterances
    assert (first.path, first.start, first.end, first.label, first.text) == (
        "a.wav",
        0.5,
        1.25,
        "sadness",
        "well then",
    )
    assert (second.start, second.end, second.label) == (2.0, 3.0, "")


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({}, r"wav\.scp: no such file"),
        ({"wav_scp": "u1 sox a.wav -t wav - |\n"}, r"wav\.scp: u1 is a command, and files are read"),
        ({"wav_scp": "u1\n"}, r"wav\.scp: line 1: a name and a value\. Got 'u1'"),
        ({"wav_scp": "r1 a.wav\n", "segments": "u1 r2 0 1\n"}, r"segments: line 1: a recording of wav\.scp, a start and an end"),
        ({"wav_scp": "r1 a.wav\n", "segments": "u1 r1 0\n"}, r"segments: line 1: .*Got 'r1 0'"),
        ({"wav_scp": ""}, r"no utterance in it"),
        ({"wav_scp": "r1 a.wav\nr2 a.wav\nr1 b.wav\n"}, r"wav\.scp: line 3: 'r1' comes twice\. Give each"),
        ({"wav_scp": "r1 a.wav\n", "utt2emo": "r1 sad\nr1 joy\n"}, r"utt2emo: line 2: 'r1' comes twice"),
    ],
)  # fmt: skip
def test_what_is_no_kaldi_folder(tmp_path, tables, message):
    with pytest.raises(ManifestError, match=message):
        read_kaldi(kaldi(tmp_path, **tables))


def test_kaldi_utterances_without_audio_and_recordings_without_segment_are_told(tmp_path):
    kaldi(
        tmp_path,
        wav_scp="r1 a.wav\nr2 b.wav\n",
        segments="u1 r1 0 1\n",
        utt2spk="u1 s1\nu2 s2\n",
        utt2emo="u1 sad\nu3 joy\n",
    )
    listing = read_kaldi(tmp_path)
    assert listing.notes == [
        "1 recordings of wav.scp have no segment: r2.",
        "2 utterances have a speaker or an emotion, and no audio: u2, u3.",
    ]
    assert (listing.missing, listing.is_complete) == (["u2", "u3"], False)


def test_kaldi_segments_to_the_end_and_texts_of_no_words(tmp_path):
    kaldi(tmp_path, wav_scp="r1 a.wav\n", segments="u1 r1 1.5 -1\n", utt2emo="u1 sad\n", text="u1\n")
    listing = read_kaldi(tmp_path)
    (utterance,) = listing.utterances
    assert (utterance.start, utterance.end, utterance.text) == (1.5, float("inf"), "")
    assert (listing.notes, listing.is_complete) == ([], True)


# --- properties ---

part = st.text(string.ascii_letters + string.digits + "()[]. é", min_size=1, max_size=6).filter(
    lambda s: s[0] != "." and s.strip() not in MISSING
)


@PER_FOLDER
@given(speaker=part, text=part, label=part)
def test_a_pattern_reads_what_it_would_write(speaker, text, label, tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    (root / f"{speaker}_{text}-{label}.wav").touch()
    (utterance,) = read_pattern(root, "{speaker}_{text}-{label}.wav", corpus="own").utterances
    speaker, text, label = (re.sub(r"^(\d+)\.0$", r"\1", part.strip()) for part in (speaker, text, label))
    assert (utterance.speaker, utterance.text, utterance.native_label) == (
        f"own:{speaker}" if speaker else "",
        text,
        label,
    )
