import json
import os
import pickle
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sslfeat.audio import decode
from sslfeat.databases import _exported, _word, read_audformat, read_dataset
from sslfeat.manifest import ManifestError


@pytest.mark.parametrize(("library", "read"), [("audformat", read_audformat), ("datasets", lambda path: read_dataset(path, path))])  # fmt: skip
def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch, library, read):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ManifestError, match=rf"needs {library}\. Run `pip install sslfeat\[{library}\]`"):
        read(tmp_path)


quiet_pandas = pytest.mark.filterwarnings("ignore:The inplace keyword")  # audformat's use of it


def audformat_database(root):
    """Two splits by file, and a table by segment that adds one part of a file."""
    audformat = pytest.importorskip("audformat")
    pandas = pytest.importorskip("pandas")
    db = audformat.Database("berlin")
    db.splits["train"] = audformat.Split("train")
    db.splits["test"] = audformat.Split("test")
    db.schemes["emotion"] = audformat.Scheme("str", labels=["anger", "joy"])
    db.schemes["speaker"] = audformat.Scheme("int", labels={3: {"gender": "male"}, 8: {"gender": "female"}})
    for split, files, labels in (
        ("train", ["wav/a.wav", "wav/b.wav"], ["anger", "joy"]),
        ("test", ["wav/c.wav"], ["joy"]),
    ):
        table = db[f"emotion.{split}"] = audformat.Table(audformat.filewise_index(files), split_id=split)
        table["emotion"] = audformat.Column(scheme_id="emotion")
        table["emotion"].set(labels)
    db["files"] = audformat.Table(audformat.filewise_index(["wav/a.wav", "wav/b.wav", "wav/c.wav"]))
    db["files"]["speaker"] = audformat.Column(scheme_id="speaker")
    db["files"]["speaker"].set([3, 8, 8])
    times = [pandas.Timedelta(seconds=0.25)], [pandas.NaT]
    db["parts"] = audformat.Table(audformat.segmented_index(["wav/a.wav"], *times))
    db["parts"]["emotion"] = audformat.Column(scheme_id="emotion")
    db["parts"]["emotion"].set(["joy"])
    db.save(str(root))
    for name in "abc":
        (root / "wav").mkdir(exist_ok=True)
        (root / f"wav/{name}.wav").touch()
    return root


@quiet_pandas
def test_an_audformat_database(tmp_path):
    listing = read_audformat(audformat_database(tmp_path))
    assert (listing.name, listing.root) == ("berlin", tmp_path)
    facts = {u.id: (u.path, u.label, u.speaker, u.sex, u.split, u.start) for u in listing.utterances}
    assert facts == {
        "berlin/wav/a": ("wav/a.wav", "anger", "berlin:3", "male", "train", 0.0),
        "berlin/wav/a#0.25-": ("wav/a.wav", "happiness", "berlin:3", "male", "", 0.25),
        "berlin/wav/b": ("wav/b.wav", "happiness", "berlin:8", "female", "train", 0.0),
        "berlin/wav/c": ("wav/c.wav", "happiness", "berlin:8", "female", "test", 0.0),
    }
    assert listing.notes == ["Tables: emotion.test, emotion.train, parts."]
    assert len(read_audformat(tmp_path, tables=["emotion.train"], corpus="own").utterances) == 2


@quiet_pandas
def test_what_is_no_audformat_database(tmp_path):
    audformat_database(tmp_path / "db")
    with pytest.raises(ManifestError, match=r"no table has a column 'feeling'"):
        read_audformat(tmp_path / "db", label="feeling")
    with pytest.raises(
        ManifestError, match=r"no table 'files' with a column 'emotion'; tables are emotion\.test, emotion"
    ):
        read_audformat(tmp_path / "db", tables=["files"])
    with pytest.raises(ManifestError, match="no audformat database that can be read"):
        read_audformat(tmp_path)


class Pickled:
    """Makes a folder where it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@quiet_pandas
def test_a_pickled_table_is_not_read(tmp_path):
    root, ran = audformat_database(tmp_path / "db"), tmp_path / "ran"
    whole = read_audformat(root)
    (root / "db.files.pkl").write_bytes(pickle.dumps(Pickled(ran)))
    assert read_audformat(root) == whole
    assert not ran.exists()
    (root / "db.files.csv").unlink(missing_ok=True)
    (root / "db.files.parquet").unlink(missing_ok=True)
    with pytest.raises(
        ManifestError, match=r"no db\.files\.csv or db\.files\.parquet, .* never from a pickle"
    ):
        read_audformat(root)
    assert not ran.exists()


@quiet_pandas
def test_a_header_builds_no_objects(tmp_path):
    root, ran = audformat_database(tmp_path / "db"), tmp_path / "ran"
    header = root / "db.yaml"
    header.write_text(f"{header.read_text()}\nauthor: !!python/object/apply:os.mkdir ['{ran}']\n")
    with pytest.raises(ManifestError, match="no audformat database that can be read"):
        read_audformat(root)
    assert not ran.exists()


@quiet_pandas
@pytest.mark.parametrize("storage", ["csv", "parquet"])
def test_tables_are_read_from_either_format(tmp_path, storage):
    audformat = pytest.importorskip("audformat")
    root = audformat_database(tmp_path / "db")
    whole = read_audformat(root)
    audformat.Database.load(str(root)).save(str(root), storage_format=storage)
    assert {file.suffix for file in root.glob("db.*.*")} >= {f".{storage}"}
    assert read_audformat(root) == whole


def dataset(root, splits):
    datasets = pytest.importorskip("datasets")
    noise = np.random.default_rng(0).normal(0, 3000, 8_000).astype(np.int16)
    for i in range(3):
        soundfile.write(root / f"{i}.flac", noise + i, 16_000)
    features = datasets.Features(
        {
            "audio": datasets.Value("string"),
            "emotion": datasets.ClassLabel(names=["anger", "neutral"]),
            "speaker_id": datasets.Value("string"),
        }
    )
    part = datasets.Dataset.from_dict(
        {
            "audio": [str(root / f"{i}.flac") for i in range(3)],
            "emotion": [0, 1, 0],
            "speaker_id": ["x", "y", None],
        },
        features=features,
    ).cast_column("audio", datasets.Audio())
    whole = datasets.DatasetDict(dict.fromkeys(splits, part)) if splits else part
    whole.save_to_disk(str(root / "saved"))
    return root / "saved"


@pytest.mark.parametrize("splits", [(), ("train", "validation")])
def test_a_dataset_on_disk(tmp_path, splits):
    saved = dataset(tmp_path, splits)
    listing = read_dataset(saved, tmp_path / "audio", corpus="own")
    assert len(listing.utterances) == 3 * max(1, len(splits))
    first = listing.utterances[0]
    assert (first.label, first.speaker) == ("anger", "own:x")
    assert Counter(u.label for u in listing.utterances) == {
        "anger": 2 * max(1, len(splits)),
        "neutral": max(1, len(splits)),
    }
    assert {u.split for u in listing.utterances} == ({"train", "dev"} if splits else {""})
    assert first.id == ("own/train/0000000" if splits else "own/0000000")
    original = decode(tmp_path / "0.flac")
    assert decode(listing.root / first.path).audio_hash == original.audio_hash
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "audio").rglob("*.*")}
    assert read_dataset(saved, tmp_path / "audio", corpus="own") == listing
    assert written == {path: path.stat().st_mtime_ns for path in (tmp_path / "audio").rglob("*.*")}


def test_a_split_names_no_folder_outside(tmp_path):
    saved = dataset(tmp_path, ("train",))
    (saved / "dataset_dict.json").write_text(json.dumps({"splits": ["../saved/train"]}))
    with pytest.raises(ManifestError, match=r"named by letters and digits. Got '\.\./saved/train'"):
        read_dataset(saved, tmp_path / "audio")
    assert not (tmp_path / "audio").exists()


def test_no_other_column_is_decoded(tmp_path):
    datasets = pytest.importorskip("datasets")
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    names = {"audio": [str(tmp_path / "a.wav")], "face": [str(Path(__file__))], "emotion": ["joy"]}
    rows = datasets.Dataset.from_dict(names)
    rows = rows.cast_column("audio", datasets.Audio()).cast_column("face", datasets.Image())
    with pytest.raises((ImportError, OSError)):  # no picture, or no library for pictures
        rows.select_columns("face")[0]
    rows.save_to_disk(str(tmp_path / "saved"))
    assert [one.label for one in read_dataset(tmp_path / "saved", tmp_path).utterances] == ["happiness"]


def test_audio_that_changed_is_exported_again(tmp_path):
    for content in (b"RIFF first", b"RIFF other"):
        assert _exported({"bytes": content, "path": "x.wav"}, tmp_path, Path("train/0")) == "train/0.wav"
        assert (tmp_path / "train/0.wav").read_bytes() == content


@pytest.mark.parametrize(
    ("value", "word"), [(0, "anger"), (1, "fear"), (-1, ""), (2, ""), (None, ""), ("joy", "joy")]
)
def test_a_number_of_no_name_is_no_label(value, word):
    assert _word(value, ["anger", "fear"]) == word


def test_what_is_no_dataset(tmp_path):
    datasets = pytest.importorskip("datasets")
    with pytest.raises(ManifestError, match="no dataset that can be read"):
        read_dataset(tmp_path, tmp_path)
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(ManifestError, match=r"no column is audio; its columns are text"):
        read_dataset(tmp_path / "saved", tmp_path)
