import itertools
import os
from collections import Counter
from pathlib import Path

import pytest

from sslfeat.containers import AUDIO_SUFFIXES
from sslfeat.corpora import CORPORA, FORMATS, CorpusError, audio_files, guess_corpus, read_corpus

EMODB = Path(__file__).parents[2].parent / "shared/corpora/emodb/wav"


def plant(root, paths):
    """Make empty files: readers look at names alone."""
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return root


def emodb_names():
    return [f"wav/{name}.wav" for name in CORPORA["emodb"].names()]


def ravdess_names():
    return [f"Actor_{name[-2:]}/{name}.wav" for name in CORPORA["ravdess"].names()]


def savee_names():
    counts = {"a": 15, "d": 15, "f": 15, "h": 15, "n": 30, "sa": 15, "su": 15}
    return [
        (speaker, f"{code}{number:02}")
        for speaker in ("DC", "JE", "JK", "KL")
        for code, count in counts.items()
        for number in range(1, count + 1)
    ]


def shemo_names():
    """87 speakers, 31 of them women, with the 3000 files' counts by letter dealt out in turn."""
    speakers = [f"F{n:02}" for n in range(1, 32)] + [f"M{n:02}" for n in range(1, 57)]
    counts = {"A": 1059, "N": 1028, "S": 449, "W": 225, "H": 201, "F": 38}
    names = []
    for letter, count in counts.items():
        for i in range(count):
            speaker = speakers[i % len(speakers)]
            folder = "female" if speaker[0] == "F" else "male"
            names.append(f"{folder}/{speaker}{letter}{i // len(speakers) + 1:02}.wav")
    return names


def aesdd_names():
    """605 files by six speakers, with the five bracketed zeros and nine second takes of the released zip."""
    folders = {"a": "anger", "d": "disgust", "f": "fear", "h": "happiness", "s": "sadness"}
    counts = {"a": 121, "d": 122, "f": 120, "h": 119, "s": 123}
    padded = ["fear/f10 (01)", "fear/f11 (01)", "fear/f12 (01)", "fear/f13 (01)", "disgust/d03 (01)"]
    absent = {"happiness/h11 (3)", "fear/f02 (4)", "disgust/d18 (5)"}
    names = []
    for code, folder in folders.items():
        grid = [f"{folder}/{code}{n:02} ({s})" for n in range(1, 21) for s in range(1, 7)]
        grid = [name for name in grid if name not in absent]
        grid = [
            name.replace("(1)", "(01)") if name.replace("(1)", "(01)") in padded else name for name in grid
        ]
        takes = [f"{folder}/{code}{n:02} (5){take}" for n in range(1, 21) for take in "ab"]
        names += grid[: counts[code]] + takes[: counts[code] - len(grid)]
    return [f"{name}.wav" for name in names]


# --- Emo-DB, the real names and the real folder ---


@pytest.mark.corpus
def test_the_real_emodb_is_as_published():
    if not EMODB.is_dir():
        pytest.skip("Emo-DB isn't beside the checkout")
    listing = read_corpus(EMODB)
    assert (listing.name, listing.guessed, listing.root) == ("emodb", True, EMODB)
    assert (listing.notes, listing.missing, listing.unexpected, listing.is_complete) == ([], [], [], True)
    utterances = listing.utterances
    assert [u.id for u in utterances] == sorted(f"emodb/{path.stem}" for path in EMODB.glob("*.wav"))
    assert Counter(u.label for u in utterances) == {
        "anger": 127, "boredom": 81, "neutral": 79, "happiness": 71, "fear": 69, "sadness": 62, "disgust": 46,
    }  # fmt: skip
    assert Counter(u.speaker for u in utterances) == {
        "emodb:03": 49, "emodb:08": 58, "emodb:09": 43, "emodb:10": 38, "emodb:11": 55,
        "emodb:12": 35, "emodb:13": 61, "emodb:14": 69, "emodb:15": 56, "emodb:16": 71,
    }  # fmt: skip
    men = {u.speaker for u in utterances if u.sex == "male"}
    assert men == {"emodb:03", "emodb:10", "emodb:11", "emodb:12", "emodb:15"}
    assert {u.sex for u in utterances} == {"female", "male"}
    assert {u.text for u in utterances} == {
        *("a01", "a02", "a04", "a05", "a07"),
        *("b01", "b02", "b03", "b09", "b10"),
    }
    assert all(u.path == f"{u.id.removeprefix('emodb/')}.wav" for u in utterances)


def test_emodb_says_its_own_words(tmp_path):
    listing = read_corpus(plant(tmp_path, emodb_names()))
    native = {u.native_label: u.label for u in listing.utterances}
    assert native == {
        "Wut": "anger", "Langeweile": "boredom", "neutral": "neutral", "Freude": "happiness",
        "Angst": "fear", "Trauer": "sadness", "Ekel": "disgust",
    }  # fmt: skip


def test_emodb_2_gives_the_gold_part_without_laryngograms_and_apple_litter(tmp_path):
    ambiguous = ["wav/03a01Ab.wav", "wav/16b10Lx.wav"]
    laryngo = [name.replace("wav/", "laryngo/") for name in emodb_names()]
    litter = ["wav/._03a01Fa.wav", "__MACOSX/wav/03a01Fa.wav", ".Trash/03a01Fa.wav"]
    listing = read_corpus(plant(tmp_path, emodb_names() + ambiguous + laryngo + litter))
    assert len(listing.utterances) == 535
    assert listing.unexpected == ambiguous
    assert listing.notes == [
        "laryngo: 535 files skipped, they are no utterances.",
        "2 files skipped, not among the 535 that emodb published: wav/03a01Ab.wav, wav/16b10Lx.wav.",
    ]
    assert not listing.is_complete


def test_what_is_missing_is_named(tmp_path):
    gone = {"wav/03a01Fa.wav", "wav/03a01Nc.wav", "wav/16b10Wb.wav", "wav/09a01Ea.wav"}
    listing = read_corpus(plant(tmp_path, [name for name in emodb_names() if name not in gone]))
    assert listing.missing == ["03a01Fa", "03a01Nc", "09a01Ea", "16b10Wb"]
    assert listing.notes == [
        "531 utterances, emodb has 535. Missing: 03a01Fa, 03a01Nc, 09a01Ea, ... (1 more).",
        "Counts that differ from the published ones: Wut 126 of 127, neutral 78 of 79, Freude 70 of 71, Ekel 45 of 46.",
    ]


def test_a_corpus_kept_as_flac_is_the_same_corpus(tmp_path):
    plant(tmp_path, [name.replace(".wav", ".FLAC") for name in emodb_names()])
    listing = read_corpus(tmp_path)
    assert listing.is_complete
    assert listing.utterances[0].id == "emodb/03a01Fa"
    assert listing.utterances[0].path == "wav/03a01Fa.FLAC"


# --- the other four of the paper ---


def test_ravdess(tmp_path):
    listing = read_corpus(plant(tmp_path, ravdess_names()), "ravdess")
    assert (listing.guessed, listing.is_complete, listing.notes) == (False, True, [])
    labels = Counter(u.label for u in listing.utterances)
    assert labels == {
        "neutral": 96, "calm": 192, "happiness": 192, "sadness": 192, "anger": 192, "fear": 192, "disgust": 192,
        "surprise": 192,
    }  # fmt: skip
    by_id = {u.id: u for u in listing.utterances}
    u = by_id["ravdess/03-01-06-01-02-01-12"]
    assert (u.path, u.speaker, u.sex) == ("Actor_12/03-01-06-01-02-01-12.wav", "ravdess:12", "female")
    assert (u.label, u.native_label, u.text) == ("fear", "fearful", "02")
    assert Counter(u.sex for u in listing.utterances) == {"male": 720, "female": 720}


def test_the_kaggle_copy_of_ravdess_keeps_every_file(tmp_path):
    copies = [f"audio_speech_actors_01-24/{name}" for name in ravdess_names()]
    listing = read_corpus(plant(tmp_path, ravdess_names() + copies))
    assert listing.name == "ravdess"
    assert len(listing.utterances) == len({u.id for u in listing.utterances}) == 2880
    by_path = {u.path: u.id for u in listing.utterances}
    name = "Actor_01/03-01-01-01-01-01-01"
    assert by_path[f"{name}.wav"] == "ravdess/03-01-01-01-01-01-01"
    assert by_path[f"audio_speech_actors_01-24/{name}.wav"] == f"ravdess/audio_speech_actors_01-24/{name}"
    assert listing.notes == [
        "1440 files named like another one (03-01-01-01-01-01-01, 03-01-01-01-01-02-01, 03-01-01-01-02-01-01, "
        "... (1437 more)); whether they are copies shows when they are decoded."
    ]
    assert sorted(listing.repeated) == sorted(copies)
    assert listing.entry is CORPORA["ravdess"]
    assert not listing.is_complete


def test_files_of_one_name_and_format_get_ids_of_their_own(tmp_path):
    plant(tmp_path, ["a/DC_a01.wav", "b/DC_a01.WAV", "b/DC_a01.wav"])
    assert {u.id: u.path for u in read_corpus(tmp_path).utterances} == {
        "savee/DC_a01": "a/DC_a01.wav",
        "savee/b/DC_a01": "b/DC_a01.WAV",
        "savee/b/DC_a01.wav": "b/DC_a01.wav",
    }


@pytest.mark.parametrize(
    ("suffixes", "read"),
    [
        (("mp3", "wav"), "wav"),
        (("flac", "mp3"), "flac"),
        (("mp4", "wma", "ogg"), "ogg"),
        (("wma", "mp4"), "mp4"),
    ],
)
def test_an_utterance_in_several_formats_is_one(tmp_path, suffixes, read):
    """CREMA-D is released as AudioWAV and AudioMP3: samples differ, and no hash would tell that they are copies."""
    stems = ("1001_DFA_ANG_XX", "1002_IEO_HAP_HI")
    plant(tmp_path, [f"{suffix}/{stem}.{suffix}" for suffix in suffixes for stem in stems])
    plant(tmp_path, ["only/1003_IEO_HAP_HI.mp3"])
    listing = read_corpus(tmp_path, "crema-d")
    assert [(u.id, u.path) for u in listing.utterances] == [
        *((f"crema-d/{stem}", f"{read}/{stem}.{read}") for stem in stems),
        ("crema-d/1003_IEO_HAP_HI", "only/1003_IEO_HAP_HI.mp3"),
    ]
    assert (listing.repeated, listing.unexpected) == ([], [])
    assert listing.notes[0].startswith(
        f"{2 * len(suffixes) - 2} files skipped, the same names in another format: "
    )


def test_every_suffix_that_is_read_has_a_rank():
    assert sorted(FORMATS) == sorted(AUDIO_SUFFIXES)


def test_songs_and_impossible_names_are_no_ravdess_speech(tmp_path):
    others = [
        "Actor_01/03-02-01-01-01-01-01.wav",  # a song
        "Actor_01/01-01-01-01-01-01-01.mp4",  # a video
        "Actor_01/03-01-09-01-01-01-01.wav",  # a ninth emotion
        "Actor_01/03-01-01-02-01-01-01.wav",  # strong neutral
        "Actor_25/03-01-01-01-01-01-25.wav",
    ]
    listing = read_corpus(plant(tmp_path, ravdess_names() + others), "ravdess")
    assert len(listing.utterances) == 1440
    assert listing.unexpected == sorted(others)
    assert listing.notes[0] == (
        "4 files skipped, not named as in ravdess: Actor_01/01-01-01-01-01-01-01.mp4, "
        "Actor_01/03-01-09-01-01-01-01.wav, Actor_01/03-02-01-01-01-01-01.wav, ... (1 more)."
    )


def test_shemo(tmp_path):
    listing = read_corpus(plant(tmp_path, shemo_names()))
    assert (listing.name, listing.is_complete, listing.notes) == ("shemo", True, [])
    assert Counter(u.label for u in listing.utterances) == {
        "anger": 1059, "neutral": 1028, "sadness": 449, "surprise": 225, "happiness": 201, "fear": 38,
    }  # fmt: skip
    speakers = {u.speaker: u.sex for u in listing.utterances}
    assert len(speakers) == 87
    assert speakers["shemo:F01"] == "female"
    assert speakers["shemo:M01"] == "male"
    fear = next(u for u in listing.utterances if u.id == "shemo/F03F01")
    assert (fear.label, fear.path) == ("fear", "female/F03F01.wav")


@pytest.mark.parametrize(
    "layout",
    [
        "AudioData/{0}/{1}.wav",
        "AudioData/AudioData/{0}/{1}.wav",
        "ALL/{0}_{1}.wav",
        "{0}/{1}.wav",
        "{0}_{1}.wav",
    ],
)
def test_savee_in_both_layouts(tmp_path, layout):
    listing = read_corpus(plant(tmp_path, [layout.format(*name) for name in savee_names()]))
    assert (listing.name, listing.is_complete, listing.notes) == ("savee", True, [])
    assert Counter(u.label for u in listing.utterances) == {
        "neutral": 120, "anger": 60, "disgust": 60, "fear": 60, "happiness": 60, "sadness": 60, "surprise": 60,
    }  # fmt: skip
    assert Counter((u.speaker, u.sex) for u in listing.utterances) == {
        (f"savee:{speaker}", "male"): 120 for speaker in ("DC", "JE", "JK", "KL")
    }
    by_id = {u.id: u for u in listing.utterances}
    assert by_id["savee/KL_sa07"].label == "sadness"
    assert by_id["savee/KL_su07"].label == "surprise"
    assert by_id["savee/DC_a01"].text == "01"


def test_aesdd(tmp_path):
    manual = ["Tools and Documentation/a01 (1).wav", "Tools and Documentation/demo.mp3"]
    names = aesdd_names()
    assert len(names) == len(set(names)) == 605
    listing = read_corpus(plant(tmp_path, names + manual))
    assert listing.name == "aesdd"
    assert listing.notes == ["Tools and Documentation: 2 files skipped, they are no utterances."]
    assert listing.is_complete
    assert {u.speaker for u in listing.utterances} == {f"aesdd:{n}" for n in range(1, 7)}
    by_id = {u.id: u for u in listing.utterances}
    assert by_id["aesdd/f10 (01)"].speaker == "aesdd:1"
    assert by_id["aesdd/s01 (5)a"].speaker == "aesdd:5"
    assert (by_id["aesdd/s05 (3)"].label, by_id["aesdd/s05 (3)"].text) == ("sadness", "05")
    assert {u.sex for u in listing.utterances} == {""}


def test_aesdd_would_keep_a_tenth_speaker_apart_from_the_first(tmp_path):
    listing = read_corpus(plant(tmp_path, ["anger/a01 (1).wav", "anger/a01 (10).wav", "anger/a01 (01).wav"]))
    assert [u.speaker for u in listing.utterances] == ["aesdd:1", "aesdd:1", "aesdd:10"]


# --- RAVDESS and BanglaSER share a scheme ---


def banglaser_names(statements=("01", "02", "03")):
    return [
        f"Actor_{actor:02}/03-01-{emotion:02}-{2 if emotion in (3, 4) else 1:02}-{statement}-{repetition}-{actor:02}.wav"
        for actor, emotion, statement, repetition in itertools.product(
            range(1, 35), range(1, 6), statements, ("01", "02", "03")
        )
        if emotion != 5 or actor not in (11, 12, 13, 16, 18, 20, 29)
    ]


def test_banglaser_is_told_from_ravdess(tmp_path):
    listing = read_corpus(plant(tmp_path, banglaser_names()))
    assert (listing.name, listing.is_complete, len(listing.utterances)) == ("banglaser", True, 1467)
    happy = next(u for u in listing.utterances if u.id == "banglaser/03-01-01-01-01-01-02")
    assert (happy.label, happy.sex) == ("happiness", "female")


def test_names_of_both_are_guessed_as_neither(tmp_path):
    plant(tmp_path, ["03-01-01-01-01-01-01.wav", "03-01-02-01-01-01-01.wav"])
    with pytest.raises(
        CorpusError, match=r"can't tell which corpus.*fit ravdess and banglaser; name one of them"
    ):
        guess_corpus(tmp_path)
    assert [u.label for u in read_corpus(tmp_path, "ravdess").utterances] == ["neutral", "calm"]
    assert [u.label for u in read_corpus(tmp_path, "banglaser").utterances] == ["happiness", "sadness"]


# --- what is refused ---


def test_a_missing_folder(tmp_path):
    with pytest.raises(CorpusError, match=r"nowhere: no such folder\.$"):
        read_corpus(tmp_path / "nowhere")


def test_a_file_for_a_folder(tmp_path):
    plant(tmp_path, ["a.wav"])
    with pytest.raises(CorpusError, match=r"a\.wav: a file, and a corpus is a folder\. .* as manifest"):
        read_corpus(tmp_path / "a.wav", "emodb")


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path, monkeypatch):
    """Nobody's rights keep those out who run tests as root."""
    plant(tmp_path, ["open/03a01Fa.wav", "closed/03a01Nc.wav"])
    scan = os.scandir

    def scandir(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(
        CorpusError, match=r"closed: a folder that can't be read \(Permission denied\)\. Allow it"
    ):
        audio_files(tmp_path)


def test_audio_that_cannot_be_read_is_listed_all_the_same(tmp_path):
    """It is in the corpus, so that a check tells of it; what is no audio isn't."""
    plant(
        tmp_path, ["03a01Fa.wma", "03a01Nc.SPH", "03a01Wa.3gp", "03a01Fa.TextGrid", "lost+found/03a02Fc.wav"]
    )
    assert audio_files(tmp_path) == ["03a01Fa.wma", "03a01Nc.SPH", "03a01Wa.3gp"]


def test_films_of_ravdess_are_not_taken_for_banglaser(tmp_path):
    """They follow its scheme, where 01 is happy and not neutral."""
    films = [f"Actor_{name[-2:]}/01{name[2:]}.mp4" for name in CORPORA["ravdess"].names()]
    plant(tmp_path, films)
    with pytest.raises(CorpusError, match=r"can't tell which corpus this is.*fit none that is known"):
        read_corpus(tmp_path)
    with pytest.raises(CorpusError, match=r"no file named as in ravdess .*\(1437 more\)\.$"):
        read_corpus(tmp_path, "ravdess")


def test_four_emotions_of_ravdess_are_told_from_those_of_banglaser_by_their_names(tmp_path):
    plant(tmp_path, [name for name in ravdess_names() if name.split("/")[1][6:8] in ("01", "03", "04", "05")])
    listing = read_corpus(tmp_path)
    assert (listing.name, len(listing.utterances)) == ("ravdess", 672)


def test_names_in_another_case_are_told(tmp_path):
    plant(tmp_path, ["03A01FA.WAV", "03A01NC.WAV"])
    with pytest.raises(
        CorpusError, match=r"none that is known\. But for upper and lower case they would fit emodb \(03a01Fa"
    ):
        read_corpus(tmp_path)


def test_a_folder_without_audio(tmp_path):
    plant(tmp_path, ["labels.csv", ".hidden.wav"])
    with pytest.raises(CorpusError, match=r"no audio in it \(\.3gp, \.aif, .*\.webm\)\. Give the folder"):
        read_corpus(tmp_path)


def test_an_unknown_corpus(tmp_path):
    with pytest.raises(
        CorpusError, match=r"no corpus 'emdb', the nearest is 'emodb'; known are emodb, ravdess, shemo, savee"
    ):
        read_corpus(tmp_path, "emdb")
    with pytest.raises(CorpusError, match=r"no corpus 'CREMA_D', the nearest is 'crema-d'; known are"):
        read_corpus(tmp_path, "CREMA_D")
    with pytest.raises(CorpusError, match=r"no corpus 'xyz'; known are"):
        read_corpus(tmp_path, "xyz")


def test_the_wrong_corpus_is_told_the_right_one(tmp_path):
    plant(tmp_path, emodb_names())
    message = r"no file named as in savee \(AudioData/DC/a01\.wav.*look like wav/03a01Fa\.wav, .*\(532 more\)\. They fit emodb"
    with pytest.raises(CorpusError, match=message):
        read_corpus(tmp_path, "savee")


def test_the_wrong_corpus_of_a_shared_scheme(tmp_path):
    plant(tmp_path, banglaser_names())
    with pytest.raises(CorpusError, match=r"456 of 1467 files named as in ravdess.*They fit banglaser"):
        read_corpus(tmp_path, "ravdess")


def test_names_that_fit_nothing(tmp_path):
    plant(tmp_path, ["one.wav", "two.wav"])
    with pytest.raises(
        CorpusError, match=r"The names \(one\.wav, two\.wav\) fit none that is known: emodb,.*manifest"
    ):
        read_corpus(tmp_path)
    with pytest.raises(CorpusError, match=r"no file named as in emodb.*look like one\.wav, two\.wav\.$"):
        read_corpus(tmp_path, "emodb")


def test_a_few_names_that_fit_by_chance_are_no_guess(tmp_path):
    plant(tmp_path, ["03a01Fa.wav", "one.wav", "two.wav"])
    with pytest.raises(CorpusError, match=r"fit emodb in 1 of 3 files only; name one of emodb, "):
        read_corpus(tmp_path)
    assert len(read_corpus(tmp_path, "emodb").utterances) == 1


def test_a_name_that_is_no_text(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.wav")).touch()
    with pytest.raises(CorpusError, match=r"a file name is no UTF-8 text: b'caf\\xe9\.wav'\. Rename it"):
        read_corpus(tmp_path)


# --- folders as users have them ---


def test_links_are_followed_once(tmp_path):
    plant(tmp_path / "real", emodb_names())
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/here").symlink_to(tmp_path / "real")
    (tmp_path / "real/loop").symlink_to(tmp_path / "corpus")
    listing = read_corpus(tmp_path / "corpus")
    assert len(listing.utterances) == 535
    assert listing.utterances[0].path == "here/wav/03a01Fa.wav"


def test_a_corpus_is_read_the_same_from_any_level(tmp_path):
    plant(tmp_path, [f"data/berlin (1)/{name}" for name in emodb_names()])
    above, within = read_corpus(tmp_path), read_corpus(tmp_path / "data/berlin (1)/wav")
    assert [u.id for u in above.utterances] == [u.id for u in within.utterances]
    assert str(tmp_path) not in above.utterances[0].path
