import csv
import dataclasses
import gc
import json
import math
import pickle
import re
import string
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache.schema import Utterance
from sslfeat.labels import LABELS
from sslfeat.manifest import COLUMNS, read_manifest
from sslfeat.values import MISSING, ManifestError

PER_FOLDER = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)


@pytest.fixture
def write(tmp_path):
    """Write a manifest, and the audio that its first row names: readers only look whether it is there."""

    def writer(name, content, audio=("a.wav",)):
        for path in audio:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).touch()
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
        return tmp_path / name

    return writer


# --- tables ---


def test_a_csv_with_common_names(write, tmp_path):
    manifest = write(
        "own.csv",
        "file,emotion,speaker_id,gender,split,intensity\na.wav,Angry,s1,F,valid,high\nsub/b.wav,sad,s2,male,TRAIN,\n",
    )
    listing = read_manifest(manifest)
    assert (listing.name, listing.guessed, listing.root) == ("own", False, tmp_path)
    first, second = listing.utterances
    assert (first.id, first.path, first.corpus, first.speaker, first.sex) == (
        "own/a",
        "a.wav",
        "own",
        "own:s1",
        "female",
    )
    assert (first.label, first.native_label, first.split) == ("anger", "Angry", "dev")
    assert (first.intensity, second.intensity) == ("high", "")
    assert (first.start, first.end) == (0.0, math.inf)
    assert (second.id, second.sex, second.split) == ("own/sub/b", "male", "train")
    assert listing.notes == [
        "Columns: path from 'file', label from 'emotion', speaker from 'speaker_id', sex from 'gender', split from 'split', intensity from 'intensity'."
    ]


@pytest.mark.parametrize(("suffix", "separator"), [("csv", ","), ("csv", ";"), ("csv", "|"), ("csv", "\t"), ("tsv", "\t"), ("txt", ";")])  # fmt: skip
def test_any_usual_separator(write, suffix, separator):
    manifest = write(
        f"own.{suffix}", separator.join(["path", "label"]) + "\n" + separator.join(["a.wav", "fear"]) + "\n"
    )
    (utterance,) = read_manifest(manifest).utterances
    assert (utterance.path, utterance.label) == ("a.wav", "fear")


def test_quotes_byte_order_mark_blank_lines_and_odd_column_names(write):
    content = '\ufeffFile Name,Emotion-Label,"Text"\n\n"a, (1).wav",joy,"he said ""no"",\nand left"\n\n'
    (utterance,) = read_manifest(write("own.csv", content, ["a, (1).wav"])).utterances
    assert (utterance.path, utterance.label, utterance.id) == ("a, (1).wav", "happiness", "own/a, (1)")
    assert utterance.text == 'he said "no",\nand left'


def test_emobox_json_lines(write):
    row = {
        "key": "iemocap-Ses01F_impro01_F000", "dataset": "iemocap", "wav": "downloads/iemocap/a.wav", "type": "raw",
        "sample_rate": 16000, "length": 3.2, "task": "category", "emo": "hap", "channel": 1,
    }  # fmt: skip
    (utterance,) = read_manifest(
        write("x.jsonl", json.dumps(row) + "\n", ["downloads/iemocap/a.wav"])
    ).utterances
    assert (utterance.id, utterance.corpus) == ("iemocap/iemocap-Ses01F_impro01_F000", "iemocap")
    assert (utterance.label, utterance.native_label) == ("happiness", "hap")
    assert (utterance.start, utterance.end) == (0.0, math.inf)  # the file's length cuts nothing off


def test_json_lines_may_lack_values_and_hold_numbers(write):
    rows = [
        {"path": "a.wav", "label": "calm", "speaker": 3, "start": 0.5, "end": 2},
        {"path": "b.wav", "speaker": None},
    ]
    first, second = read_manifest(write("own.ndjson", "\n".join(map(json.dumps, rows)))).utterances
    assert (first.id, first.speaker, first.start, first.end) == ("own/a#0.5-2", "own:3", 0.5, 2.0)
    assert (second.label, second.speaker) == ("", "")


def test_columns_can_be_set(write):
    manifest = write("own.csv", "clip,wav,felt,asked\na.wav,none.wav,sad,happy\n")
    listing = read_manifest(manifest, columns={"path": "clip", "label": "felt"}, corpus="mine")
    (utterance,) = listing.utterances
    assert (utterance.path, utterance.label, utterance.id) == ("a.wav", "sadness", "mine/a")
    assert listing.notes == ["Columns: path from 'clip', label from 'felt'."]


def test_the_root_can_be_set_and_absolute_paths_stay(write, tmp_path):
    audio = tmp_path / "audio/a.wav"
    manifest = write("lists/own.csv", f"path,label\na.wav,sad\n{audio},happy\n", [])
    audio.parent.mkdir()
    audio.touch()
    listing = read_manifest(manifest, root=tmp_path / "audio")
    assert listing.root == tmp_path / "audio"
    assert {utterance.path for utterance in listing.utterances} == {"a.wav", str(audio)}


def test_a_row_is_an_utterance_like_any_other(write):
    (utterance,) = read_manifest(write("own.csv", "path,label,speaker\na.wav,sad,s1\n")).utterances
    expected = Utterance(
        id="own/a", path="a.wav", corpus="own", speaker="own:s1", label="sadness", native_label="sad"
    )
    assert (type(utterance), utterance, hash(utterance)) == (Utterance, expected, hash(expected))
    assert pickle.loads(pickle.dumps(utterance)) == expected
    assert dataclasses.replace(utterance, label="") == dataclasses.replace(expected, label="")
    with pytest.raises(dataclasses.FrozenInstanceError):
        utterance.label = "joy"


def test_windows_paths(write):
    (utterance,) = read_manifest(write("own.csv", "path\nsub\\a.wav\n", ["sub/a.wav"])).utterances
    assert utterance.path == "sub/a.wav"


@pytest.mark.parametrize(
    ("columns", "values", "start", "end"),
    [
        ("start,end", "1.5,2.5", 1.5, 2.5),
        ("begin,stop", "0,2.5", 0.0, 2.5),
        ("onset,duration", "1.5,2", 1.5, 3.5),
        ("start,end", "1.5,", 1.5, math.inf),
        ("start_time,end_time", "0 days 00:00:01.500000,0 days 00:01:00", 1.5, 60.0),
        ("start,end", "01:02:03.25,1 day 00:00:00", 3723.25, 86400.0),
        ("start,end", "1:30,2:00", 90.0, 120.0),
        ("duration,x", "2,", 0.0, math.inf),
    ],
)
def test_segments(write, columns, values, start, end):
    (utterance,) = read_manifest(write("own.csv", f"path,{columns}\na.wav,{values}\n")).utterances
    assert (utterance.start, utterance.end) == (start, end)


def test_segments_of_one_file_get_ids_of_their_own(write):
    manifest = write("own.csv", "path,start,end\na.wav,0,1\na.wav,1,2\na.wav,2,\n")
    assert [u.id for u in read_manifest(manifest).utterances] == ["own/a#0-1", "own/a#1-2", "own/a#2-"]


def test_speakers_carry_the_corpus_once(write):
    manifest = write("own.csv", "path,speaker,corpus\na.wav,emodb:03,emodb\nb.wav,03,emodb\nc.wav,03,other\n")
    assert [u.speaker for u in read_manifest(manifest).utterances] == ["emodb:03", "emodb:03", "other:03"]


def test_one_speaker_in_several_spellings_is_one(write):
    """Edges, two codings of an accent, and pandas' points: each would be a person of its own, heard in training and in test."""
    rows = [" kim", "kim ", "kim", "Jose\u0301", "Jos\u00e9", "3", "3.0"]
    manifest = write(
        "own.csv", "path,speaker\na.wav," + "\n{}.wav,".join(rows).format(*range(len(rows))) + "\n"
    )
    assert {u.speaker for u in read_manifest(manifest).utterances} == {"own:kim", "own:Jos\u00e9", "own:3"}


def test_speakers_of_json_are_one_as_numbers_too(write):
    manifest = write("own.jsonl", '{"path": "a.wav", "speaker": 1}\n{"path": "b.wav", "speaker": 1.0}\n')
    assert {u.speaker for u in read_manifest(manifest).utterances} == {"own:1"}


@pytest.mark.parametrize("word", ["nan", "NaN", "None", "<NA>", "NaT", "null"])
def test_words_for_a_missing_value_are_none_of_the_speakers_and_labels(write, word):
    manifest = write("own.csv", f"path,label,speaker,sex,text,start,end\na.wav{6 * f',{word}'}\n")
    listing = read_manifest(manifest)
    assert listing.utterances == [Utterance(id="own/a", path="a.wav", corpus="own")]
    assert listing.notes[-1] == "1 utterances have no label."


def test_utterances_without_a_speaker_are_told_beside_others_that_have_one(write):
    some = read_manifest(write("own.csv", "path,label,speaker\na.wav,sad,nan\nb.wav,sad,kim\nc.wav,sad,\n"))
    assert some.notes[1:] == ["2 utterances have no speaker, and others have one."]
    none = read_manifest(write("own.csv", "path,label,speaker\na.wav,sad,\nb.wav,sad,\n"))
    assert none.notes[1:] == []


def test_json_may_hold_no_number(write):
    (utterance,) = read_manifest(
        write("own.jsonl", '{"path": "a.wav", "speaker": NaN, "end": NaN}\n')
    ).utterances
    assert (utterance.speaker, utterance.end) == ("", math.inf)


def test_spaces_behind_separators_are_none_of_the_values(write):
    manifest = write("own.csv", 'path, label, speaker\na.wav, joy, "kim, the first"\n b.wav, sad, lee\n')
    first, second = read_manifest(manifest).utterances
    assert (first.path, first.label, first.speaker) == ("a.wav", "happiness", "own:kim, the first")
    assert (second.path, second.id) == ("b.wav", "own/b")
    (spaced,) = read_manifest(write("own.csv", "path,label\n a.wav,joy\n", [" a.wav"])).utterances
    assert spaced.path == " a.wav"  # a name may begin with one


def test_empty_rows_of_a_spreadsheet_are_none(write):
    manifest = write("own.csv", "path;label;;\r\na.wav;joy;;\r\n;;;\r\n ; ;;\r\n")
    assert len(read_manifest(manifest).utterances) == 1


def test_keys_that_only_later_objects_have_are_read(write):
    rows = [
        {"path": "a.wav"},
        {"path": "b.wav", "speaker": "kim"},
        {"emotion": "joy", "path": "c.wav", "x": 1},
    ]
    listing = read_manifest(write("own.jsonl", "\n".join(map(json.dumps, rows))))
    assert [(u.speaker, u.label) for u in listing.utterances] == [
        ("", ""),
        ("own:kim", ""),
        ("", "happiness"),
    ]
    assert listing.notes[0] == "Columns: path from 'path', label from 'emotion', speaker from 'speaker'."


def test_a_column_that_is_asked_for_may_come_later_but_must_come(write):
    manifest = write("own.jsonl", '{"path": "a.wav"}\n{"path": "b.wav", "felt": "joy"}\n')
    assert read_manifest(manifest, columns={"label": "felt"}).utterances[1].label == "happiness"
    with pytest.raises(
        ManifestError, match=r"no column 'feels', the nearest is 'felt'; its columns are path, felt"
    ):
        read_manifest(manifest, columns={"label": "feels"})


def test_a_path_whose_accents_are_coded_otherwise_is_not_a_wrong_root(write):
    """The file's own message says what is wrong with it."""
    (utterance,) = read_manifest(write("own.csv", "path\ncaf\u00e9.wav\n", ["cafe\u0301.wav"])).utterances
    assert utterance.path == "caf\u00e9.wav"


def test_unknown_labels_are_kept_and_told_with_the_nearest(write):
    manifest = write("own.csv", "path,label\na.wav,hapiness\nb.wav,hapiness\nc.wav,Smug\nd.wav,\n")
    listing = read_manifest(manifest)
    assert [u.label for u in listing.utterances] == ["hapiness", "hapiness", "smug", ""]
    assert listing.notes[1:] == [
        "Label 'hapiness' of 2 utterances is unknown and kept as it is; the nearest known is 'happiness'.",
        "Label 'Smug' of 1 utterances is unknown and kept as it is.",
        "1 utterances have no label.",
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("own.csv", "", r"own\.csv: an empty table\. Name the columns"),
        ("own.jsonl", "\n\n", r"own\.jsonl: an empty table\. Name one utterance"),
        ("own.csv", "path,label\n", r"own\.csv: no utterance in it"),
        ("own.csv", "emotion,speaker\nsad,1\n", r"own\.csv: no column for the path among emotion, speaker\. Say which"),
        ("own.csv", "path,label\na.wav\n", r"own\.csv: line 2: 1 values, and the header names 2"),
        ("own.csv", "path,label\n,sad\n", r"own\.csv: line 2: no path"),
        ("own.jsonl", '{"path": "a\\u0000.wav"}\n', r"own\.jsonl: line 1: a path must be text without NUL\. Got 'a\\x00\.wav'"),
        ("own.jsonl", '{"path": "\\ud800.wav"}\n', r"own\.jsonl: line 1: a path must be text without NUL\. Got '\\ud800\.wav'"),
        ("own.csv", "path,id\na.wav,1\nb.wav,1\n", r"own\.csv: line 3: own/1 comes twice, first in line 2"),
        ("own.csv", "path,label\na.wav,sad\nx/../a.wav,sad\na.wav,sad\n", r"line 4: own/a comes twice, first in line 2"),
        ("own.csv", "path,start\na.wav,soon\n", r"line 2: a time in seconds, or as 00:00:01\.5\. Got 'soon'"),
        ("own.csv", "path,start\na.wav,-1\n", r"line 2: a time from 0 on\. Got '-1'"),
        ("own.csv", "path,start\na.wav,inf\n", r"line 2: a time from 0 on\. Got 'inf'"),
        ("own.csv", "path,label,label\na.wav,sad,joy\n", r"own\.csv: 2 columns named 'label'\. Give them names"),
        ("own.tsv", 'path\tlabel\na.wav\tsad\n"b" c.wav\tsad\n', r"own\.tsv: line 3: no row of a table \(.*\)\. Look at its quotes"),
        ("own.csv", "path,start,end\na.wav,2,1\n", r"line 2: a segment must end after its start\. Got 2 to 1 seconds"),
        ("own.csv", "path,label\nz.wav,sad\n", r"own\.csv: none of 1 files that were looked for exists, as .*z\.wav.*as root"),
        ("own.csv", f"path\n{300 * 'z'}.wav\n", r"own\.csv: none of 1 files that were looked for exists"),
        ("own.csv", f"path\n{120 * chr(233)}.wav\n", r"own\.csv: none of 1 files that were looked for exists"),
        ("own.csv", 'path,label\n"a.wav,sad\n', r"own\.csv: line 2: no row of a table \(unexpected end of data\)"),
        ("own.jsonl", '{"path": "a.wav"}\n{"path"', r"own\.jsonl: line 2: no JSON"),
        ("own.jsonl", '["a.wav"]\n', r"own\.jsonl: line 1: a JSON object was expected\. Got a list"),
        ("own.jsonl", '{"path": "a.wav"} {"path": "b.wav"}\n', r"line 1: one JSON object was expected\. Got more behind it: ' \{\"path\""),
        ("own.jsonl", "[" * 100_000, r"own\.jsonl: line 1: no JSON"),
    ],
)  # fmt: skip
def test_what_is_no_manifest(write, name, content, message):
    with pytest.raises(ManifestError, match=message):
        read_manifest(write(name, content))


def test_a_manifest_that_is_missing_or_no_text(tmp_path):
    with pytest.raises(ManifestError, match=r"own\.csv: no such file"):
        read_manifest(tmp_path / "own.csv")
    (tmp_path / "own.csv").write_bytes(b"path,label\n\xff\xfe.wav,sad\n")
    with pytest.raises(ManifestError, match=r"own\.csv: not UTF-8 text"):
        read_manifest(tmp_path / "own.csv")
    (tmp_path / "own.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(ManifestError, match=r"own\.jsonl: not UTF-8 text"):
        read_manifest(tmp_path / "own.jsonl")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ManifestError, match=r"folder\.csv: a folder, and a manifest is a file"):
        read_manifest(tmp_path / "folder.csv")


@pytest.mark.parametrize("name", ["own.xlsx", "own.json", "own"])
def test_a_manifest_of_another_kind(write, name):
    named = Path(name).suffix or "no suffix"
    with pytest.raises(
        ManifestError, match=rf"{name}: a manifest is named \.csv, \.tsv, .*Got {named}; save it as CSV"
    ):
        read_manifest(write(name, "path,label\na.wav,sad\n"))


def test_many_unknown_labels_do_not_flood(write):
    rows = "".join(f"{i}.wav,mood {i}\n" for i in range(300))
    notes = read_manifest(write("own.csv", f"path,label\n{rows}", audio=["0.wav"])).notes
    assert len(notes) == 1 + 10 + 1
    assert notes[1] == "Label 'mood 0' of 1 utterances is unknown and kept as it is."
    assert notes[-1] == "290 more labels are unknown and kept as they are."


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"emotion": "label"}, r"no field 'emotion'; fields are path, label, speaker"),
        ({"label": "feeling"}, r"no column 'feeling'; its columns are path, label"),
        ({"lable": "label"}, r"no field 'lable', the nearest is 'label'; fields are path"),
        ({"label": "Lable"}, r"no column 'Lable', the nearest is 'label'; its columns are path, label"),
    ],
)
def test_columns_that_are_not_there(write, columns, message):
    with pytest.raises(ManifestError, match=message):
        read_manifest(write("own.csv", "path,label\na.wav,sad\n"), columns=columns)


def test_an_error_leaves_garbage_collection_on(write):
    with pytest.raises(ManifestError, match="no path"):
        read_manifest(write("own.csv", "path,label\n,sad\n"))
    assert gc.isenabled()


def test_no_column_name_is_guessed_as_two_fields():
    names = [name for columns in COLUMNS.values() for name in columns]
    assert len(names) == len(set(names))


def test_the_page_on_corpora_names_every_column():
    page = (Path(__file__).parents[2] / "docs/corpora.md").read_text()
    for field, names in COLUMNS.items():
        assert f"| `{field}` | {', '.join(f'`{name}`' for name in names)} |\n" in page


# --- properties ---

names = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0/\\"), min_size=1, max_size=12)


def plain(cell):
    """Return a cell as a reader spells it."""
    cell = unicodedata.normalize("NFC", cell.strip())
    whole = re.fullmatch(r"(\d+)\.0", cell)
    return whole[1] if whole else "" if cell in MISSING else cell


cells = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=12)


@PER_FOLDER
@given(
    rows=st.lists(st.tuples(names, st.sampled_from(list(LABELS)), cells, cells), min_size=1, max_size=8),
    separator=st.sampled_from(",;\t|"),
)
def test_what_csv_writes_is_what_is_read(rows, separator, tmp_path):
    with (tmp_path / "own.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=separator, quoting=csv.QUOTE_ALL)
        writer.writerow(["path", "label", "speaker", "text", "id"])
        writer.writerows([(f"{name}.wav", *row, i) for i, (name, *row) in enumerate(rows)])
    (tmp_path / "here.wav").touch()
    with (tmp_path / "own.csv").open("a", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=separator).writerow(["here.wav", "sad", "", "", "0first"])
    by_id = {u.id: u for u in read_manifest(tmp_path / "own.csv").utterances}
    assert len(by_id) == len(rows) + 1
    for i, (name, label, speaker, text) in enumerate(rows):
        utterance = by_id[f"own/{i}"]
        assert (utterance.path, utterance.label, utterance.text) == (f"{name}.wav", label, plain(text))
        assert utterance.speaker.removeprefix("own:") == plain(speaker).removeprefix("own:")


@PER_FOLDER
@given(content=st.one_of(st.binary(max_size=200), st.text(string.printable, max_size=200).map(str.encode)))
@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_any_bytes_are_a_manifest_or_an_error_that_leads_with_the_path(content, suffix, tmp_path):
    manifest = tmp_path / f"own.{suffix}"
    manifest.write_bytes(content)
    try:
        read_manifest(manifest)
    except ManifestError as error:
        assert str(error).startswith(f"{manifest}: ")  # noqa: PT017 - either outcome is right
