import pytest

from sslfeat.corpora import CORPORA, CorpusError
from sslfeat.listing import RequestError, list_corpus
from tests.sslfeat.test_databases import audformat_database, dataset, quiet_pandas


def plant(root, **texts):
    """Write tables by name, and the empty audio that readers only look for."""
    root.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (root / name.replace("__", ".")).write_text(text)
    for stem in ("ann_sad_1", "ben_joy_1"):
        (root / f"{stem}.wav").touch()
    return root


def plant_emodb(root):
    root.mkdir(parents=True, exist_ok=True)
    for name in CORPORA["emodb"].names():
        (root / f"{name}.wav").touch()
    return root


def facts(listing):
    return [(u.id, u.label, u.speaker) for u in listing.utterances]


# --- what options ask for ---


def test_a_manifest_starts_from_its_own_folder_the_corpus_folder_or_the_root(tmp_path):
    audio = plant(tmp_path / "audio", own__csv="path,emo\nann_sad_1.wav,sad\n")
    (tmp_path / "list.csv").write_text("path,emo\nann_sad_1.wav,sad\n")
    expected = [("mine/ann_sad_1", "sadness", "")]
    assert facts(list_corpus(manifest=audio / "own.csv", corpus="mine")) == expected
    assert facts(list_corpus(audio, manifest=tmp_path / "list.csv", corpus="mine")) == expected
    assert facts(list_corpus(manifest=tmp_path / "list.csv", root=audio, corpus="mine")) == expected
    with pytest.raises(CorpusError, match="none of 1 files that were looked for exists"):
        list_corpus(manifest=tmp_path / "list.csv", root=tmp_path)
    with pytest.raises(RequestError, match=r"start from the corpus folder or from root\. Give one of them"):
        list_corpus(audio, manifest=tmp_path / "list.csv", root=audio)
    assert list_corpus(manifest=audio / "own.csv", columns={"text": "emo"}).utterances[0].label == ""


def test_a_pattern_and_folders_named_by_label(tmp_path):
    folder = plant(tmp_path / "sad")
    listing = list_corpus(folder, pattern="{speaker}_{label}_*", corpus="own")
    assert facts(listing) == [
        ("own/ann_sad_1", "sadness", "own:ann"),
        ("own/ben_joy_1", "happiness", "own:ben"),
    ]
    listing = list_corpus(tmp_path, labels_from_folders=True, corpus="own")
    assert facts(listing) == [("own/sad/ann_sad_1", "sadness", ""), ("own/sad/ben_joy_1", "sadness", "")]


def test_a_pattern_is_read_though_the_folder_shows_something_else(tmp_path):
    folder = plant(tmp_path, wav__scp="x ann_sad_1.wav\n", db__yaml="name: x\n")
    assert len(list_corpus(folder, pattern="{speaker}_{label}_*").utterances) == 2


# --- what the folder shows ---


def test_names_of_a_known_corpus_are_guessed_or_held_to_the_key(tmp_path):
    folder = plant_emodb(tmp_path)
    guessed, asked = list_corpus(folder), list_corpus(folder, corpus="emodb")
    assert (guessed.name, guessed.guessed) == ("emodb", True)
    assert (asked.name, asked.guessed) == ("emodb", False)
    assert guessed.utterances == asked.utterances
    with pytest.raises(CorpusError, match="no corpus 'own'; known are emodb"):
        list_corpus(folder, corpus="own")


def test_a_kaldi_data_folder(tmp_path):
    folder = plant(
        tmp_path / "data", wav__scp="u1 ann_sad_1.wav\nu2 ben_joy_1.wav\n", utt2emo="u1 sad\nu2 joy\n", utt2spk="u1 ann\nu2 ben\n"
    )  # fmt: skip
    listing = list_corpus(folder)
    assert facts(listing) == [("data/u1", "sadness", "data:ann"), ("data/u2", "happiness", "data:ben")]
    assert listing.notes == ["Read as a Kaldi data folder, for its wav.scp."]
    (folder / "wav.scp").write_text("u1 audio/ann_sad_1.wav\n")
    with pytest.raises(CorpusError, match="none of 1 files"):
        list_corpus(folder)
    folder.rename(tmp_path / "audio")
    assert len(list_corpus(tmp_path / "audio", root=tmp_path).utterances) == 1


@quiet_pandas
def test_an_audformat_database_and_its_label_column(tmp_path):
    db = audformat_database(tmp_path)
    listing = list_corpus(db)
    assert (listing.name, len(listing.utterances)) == ("berlin", 4)
    assert listing.notes[0] == "Read as an audformat database, for its db.yaml."
    assert list_corpus(db, corpus="own", columns={"label": "speaker"}).utterances[0].label == "3"
    with pytest.raises(RequestError, match=r"only the column of the label can be set\. Got 'speaker'"):
        list_corpus(db, columns={"speaker": "emotion"})
    message = (
        r"no table has a column 'emotoin', the nearest is 'emotion'; columns are emotion, speaker\. Say which"
    )
    with pytest.raises(CorpusError, match=message):
        list_corpus(db, columns={"label": "emotoin"})


def test_a_known_corpus_released_as_an_audformat_database_is_that_corpus(tmp_path):
    folder = plant_emodb(tmp_path / "emodb")
    (folder / "db.yaml").write_text("name: [not read\n")
    assert list_corpus(folder).name == "emodb"
    assert list_corpus(folder, corpus="emodb").is_complete
    pytest.importorskip("audformat")
    for asked in ({"corpus": "own"}, {"columns": {"label": "emotion"}}):
        with pytest.raises(CorpusError, match="no audformat database that can be read"):
            list_corpus(folder, **asked)


@pytest.mark.parametrize("splits", [(), ("train", "test")])
def test_a_hugging_face_dataset_keeps_its_audio_beside_it_or_where_it_is_told(tmp_path, splits):
    saved = dataset(tmp_path, splits)
    listing = list_corpus(saved)
    assert listing.root == tmp_path / "saved-audio"
    assert listing.notes[0] == (
        f"Read as a Hugging Face dataset, for its {'dataset_dict' if splits else 'state'}.json. Audio that it holds as "
        f"bytes is kept in {tmp_path / 'saved-audio'}."
    )
    assert all((listing.root / u.path).is_file() for u in listing.utterances)
    told = list_corpus(saved, export_dir=tmp_path / "elsewhere", columns={"text": "speaker_id"})
    assert told.root == tmp_path / "elsewhere"
    assert told.utterances[0].text == "x"


def test_splits_that_call_their_columns_otherwise_are_told_one_by_one(tmp_path):
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_from_disk(str(dataset(tmp_path, ("train", "test"))))
    loaded["test"] = loaded["test"].rename_column("emotion", "label").remove_columns("speaker_id")
    loaded.save_to_disk(str(tmp_path / "renamed"))
    listing = list_corpus(tmp_path / "renamed")
    assert listing.notes[1:3] == [
        "Columns: path from 'audio', label from 'emotion', speaker from 'speaker_id'.",
        "Columns: path from 'audio', label from 'label'.",
    ]
    assert {(u.split, u.label) for u in listing.utterances} == {
        (split, label) for split in ("train", "test") for label in ("anger", "neutral")
    }


# --- requests that are none ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "a corpus folder or a manifest is needed"),
        ({"manifest": "a.csv", "pattern": "{label}"}, "manifest and pattern can't be combined; choose one"),
        ({"corpus_dir": ".", "pattern": "x", "labels_from_folders": True}, "pattern and labels-from-folders can't be combined"),
        ({"corpus_dir": ".", "root": "x"}, "root is for a manifest or a Kaldi data folder, and this is a known corpus"),
        ({"corpus_dir": ".", "pattern": "x", "columns": {"label": "x"}}, "columns is for .* this is files named by a pattern"),
        ({"manifest": "a.csv", "export_dir": "x"}, "export-dir is for a Hugging Face dataset, and this is a manifest"),
    ],
)  # fmt: skip
def test_a_request_that_contradicts_itself_or_would_not_be_read(arguments, message):
    with pytest.raises(RequestError, match=message):
        list_corpus(**arguments)
