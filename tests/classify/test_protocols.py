import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import GroupKFold, LeaveOneGroupOut

from classify.audit import audit
from classify.protocols import (
    EMOBOX_FOLDS,
    PROTOCOLS,
    Fold,
    UtteranceTable,
    _register,
    find_protocol,
    make_folds,
)

HONEST = [
    "leave-one-speaker-out",
    "speaker-2-fold",
    "speaker-5-fold",
    "leave-one-session-out",
    "speaker-and-text-disjoint",
]


def make_table(people=6, sentences=4, emotions=("anger", "fear", "joy"), corpus="emodb", **columns):
    """Every speaker says every sentence once in every emotion; sessions hold two speakers."""
    grid = [(s, t, label) for s in range(people) for t in range(sentences) for label in emotions]
    values = {
        "utterance_ids": [f"{corpus}/{s:02d}{t}{label}" for s, t, label in grid],
        "labels": [label for _, _, label in grid],
        "speakers": [f"{corpus}:{s:02d}" for s, _, _ in grid],
        "sexes": [("female", "male")[s % 2] for s, _, _ in grid],
        "texts": [f"t{t}" for _, t, _ in grid],
        "sessions": [f"Session{s // 2}" for s, _, _ in grid],
        "splits": ["test" if s == 0 else "train" for s, _, _ in grid],
        "corpora": [corpus] * len(grid),
        "audio_hashes": [f"hash{i}" for i in range(len(grid))],
    }
    return UtteranceTable(**{name: np.array(column) for name, column in (values | columns).items()})


def folds_of(name, table, **options):
    return make_folds(find_protocol(name), table, **options)[0]


def assert_tests_each_once(folds, table):
    np.testing.assert_array_equal(np.sort(np.concatenate([f.test for f in folds])), np.arange(len(table)))


@pytest.mark.parametrize("name", HONEST)
def test_honest_protocols_test_each_utterance_once_and_share_no_speaker(name):
    table = make_table()
    folds = folds_of(name, table)
    assert_tests_each_once(folds, table)
    for fold in folds:
        assert not set(table.speakers[fold.train]) & set(table.speakers[fold.test])
        assert set(table.labels[fold.test]) <= set(table.labels[fold.train])
    assert not find_protocol(name).optimistic


def test_leave_one_speaker_out_is_scikit_learns():
    table = make_table()
    theirs = LeaveOneGroupOut().split(table.labels, groups=table.speakers)
    for fold, (train, test) in zip(folds_of("leave-one-speaker-out", table), theirs, strict=True):
        np.testing.assert_array_equal(fold.train, train)
        np.testing.assert_array_equal(fold.test, test)
        assert set(table.speakers[test]) == {fold.name}


@settings(max_examples=30, deadline=None)
@given(speakers=st.integers(5, 24), k=st.integers(2, 5), keep=st.integers(1, 3))
def test_speaker_folds_are_even_and_depend_on_the_speakers_alone(speakers, k, keep):
    labels = ("anger", "fear", "joy")
    whole, part = (make_table(speakers, 2, chosen) for chosen in (labels, labels[:keep]))
    folds, fewer = (folds_of(f"speaker-{k}-fold", table) for table in (whole, part))
    sizes = [len(set(whole.speakers[fold.test])) for fold in folds]
    assert max(sizes) - min(sizes) <= 1
    assert len(folds) == GroupKFold(k).get_n_splits()
    assert [fold.name for fold in folds] == [fold.name for fold in fewer]
    for fold in folds:
        men = sum(sex == "male" for sex in whole.sexes[fold.test]) / len(fold.test)
        assert abs(men * len(fold.name.split(", ")) - len(fold.name.split(", ")) / 2) <= 1.5


def test_speaker_folds_are_the_same_for_ever():
    names = [fold.name.replace("emodb:", "") for fold in folds_of("speaker-3-fold", make_table(people=10))]
    assert names == FIXED


FIXED = ["04, 05, 06, 07", "00, 02, 09", "01, 03, 08"]


def test_sessions_and_texts_stay_whole():
    table = make_table()
    for name, column in (("leave-one-session-out", "sessions"), ("leave-one-text-out", "texts")):
        folds = folds_of(name, table)
        assert_tests_each_once(folds, table)
        for fold in folds:
            values = getattr(table, column)
            assert set(values[fold.test]) == {fold.name}
            assert fold.name not in set(values[fold.train])
    assert find_protocol("leave-one-text-out").optimistic


def join(*tables):
    return UtteranceTable(
        **{
            f.name: np.concatenate([getattr(t, f.name) for t in tables])
            for f in dataclasses.fields(UtteranceTable)
        }
    )


def test_corpora_are_tested_by_all_others_or_by_each_other():
    tables = [make_table(people=2, corpus=corpus) for corpus in ("aesdd", "emodb", "savee")]
    table = dataclasses.replace(join(*tables), audio_hashes=np.arange(72).astype(str))
    folds = folds_of("leave-one-corpus-out", table)
    assert [(fold.name, len(fold.train), len(fold.test)) for fold in folds] == [
        ("aesdd", 48, 24), ("emodb", 48, 24), ("savee", 48, 24)
    ]  # fmt: skip
    pairs = folds_of("cross-corpus", table)
    expected = [
        f"{a} to {b}" for a in ("aesdd", "emodb", "savee") for b in ("aesdd", "emodb", "savee") if a != b
    ]
    assert sorted(fold.name for fold in pairs) == sorted(expected)
    for fold in pairs:
        assert [set(table.corpora[part]) for part in (fold.train, fold.test)] == [
            {c} for c in fold.name.split(" to ")
        ]
    for repetition in (0, 1):
        assert_tests_each_once([fold for fold in pairs if fold.repetition == repetition], table)
    with pytest.raises(ValueError, match=r"cross-corpus needs at least 2 corpora. Got 1: emodb"):
        folds_of("cross-corpus", make_table())


def test_speaker_and_text_disjoint_shares_neither():
    table = make_table()
    for fold in folds_of("speaker-and-text-disjoint", table):
        assert not set(table.texts[fold.train]) & set(table.texts[fold.test])


def test_paper_is_five_stratified_splits_of_a_fifth():
    table = make_table()
    folds = folds_of("paper", table, random_state=3)
    assert [fold.repetition for fold in folds] == [0, 1, 2, 3, 4]
    for fold in folds:
        assert len(fold.test) == round(0.2 * len(table)) or len(fold.test) == -(-len(table) // 5)
        counts = np.unique(table.labels[fold.test], return_counts=True)[1]
        assert counts.max() - counts.min() <= 1
        assert not set(fold.train) & set(fold.test)
    assert find_protocol("paper").optimistic
    again = folds_of("paper", table, random_state=3)
    assert all(np.array_equal(a.test, b.test) for a, b in zip(folds, again, strict=True))


def test_predefined_follows_the_split_column():
    table = make_table()
    (fold,) = folds_of("predefined", table)
    assert set(table.speakers[fold.test]) == {"emodb:00"}
    assert len(fold.train) + len(fold.test) == len(table)


def test_a_file_of_folds_is_read_by_lines(tmp_path):
    table = make_table()
    path = tmp_path / "folds.csv"
    lines = [f"{row},{speaker}" for row, speaker in zip(table.utterance_ids, table.speakers, strict=True)]
    path.write_text("\n".join(["id,fold", *lines, "", "gone/1,emodb:00", "gone/2,emodb:09", ""]) + "\n")
    protocol = find_protocol(f"predefined:{path}")
    folds, told = make_folds(protocol, table)
    assert len(folds) == len(set(table.speakers))
    assert told.endswith(" 2 of the ids in folds.csv are not compared, as gone/1.")
    for wrong, message in (
        (
            f"{table.utterance_ids[3]},other",
            rf"Line 75 puts {table.utterance_ids[3]} into other, after emodb:",
        ),
        ("alone", r"each line must be an utterance's id and its fold\. Line 75 is not\."),
    ):
        path.write_text("\n".join(["id,fold", *lines, "", wrong]))
        with pytest.raises(ValueError, match=message):
            make_folds(protocol, table)
    # One fold here, whatever others there are elsewhere.
    path.write_text("\n".join(f"{row},a" for row in table.utterance_ids) + "\ngone/1,b\n")
    with pytest.raises(ValueError, match=r"at least two folds are needed\. Got a only"):
        make_folds(protocol, table)


def test_predefined_follows_a_file(tmp_path):
    table = make_table()
    path = tmp_path / "folds.csv"
    lines = [
        f"{utterance_id},{speaker[-1]}"
        for utterance_id, speaker in zip(table.utterance_ids, table.speakers, strict=True)
    ]
    path.write_text("id,fold\n" + "\n".join(lines))
    folds = folds_of(f"predefined:{path}", table)
    assert [fold.name for fold in folds] == list("012345")
    assert_tests_each_once(folds, table)
    path.write_text("\n".join(lines[1:]))
    with pytest.raises(
        ValueError, match=rf"folds.csv: 1 of 72 utterances have no fold, as {table.utterance_ids[0]}"
    ):
        folds_of(f"predefined:{path}", table)
    path.write_text("a,1\nb\n")
    with pytest.raises(
        ValueError, match=r"folds.csv: each line must be an utterance's id and its fold. Line 2"
    ):
        folds_of(f"predefined:{path}", table)
    path.write_text("\n".join(f"{utterance_id},same" for utterance_id in table.utterance_ids))
    with pytest.raises(ValueError, match=r"at least two folds are needed. Got same only"):
        folds_of(f"predefined:{path}", table)
    with pytest.raises(ValueError, match=r"none.csv: the folds can't be read"):
        folds_of(f"predefined:{tmp_path / 'none.csv'}", table)


@pytest.mark.parametrize(("corpus", "actors"), [("ravdess", 24), ("savee", 4)])
def test_emobox_folds_are_the_published_ones(corpus, actors):
    published = [actor for fold in EMOBOX_FOLDS[corpus] for actor in fold]
    assert len(published) == len(set(published)) == actors
    table = make_table(people=actors, sentences=1, corpus=corpus)
    table = dataclasses.replace(
        table, speakers=np.array([f"{corpus}:{published[int(speaker[-2:])]}" for speaker in table.speakers])
    )
    folds = folds_of("emobox", table)
    assert_tests_each_once(folds, table)
    assert [fold.name for fold in folds] == [", ".join(fold) for fold in EMOBOX_FOLDS[corpus]]


def test_emobox_refuses_other_corpora_and_speakers():
    with pytest.raises(ValueError, match=r"emobox has folds for ravdess or savee, alone. Got emodb"):
        folds_of("emobox", make_table())
    with pytest.raises(ValueError, match=r"knows the speakers of savee's publication only. Got 00, 01"):
        folds_of("emobox", make_table(corpus="savee", people=2))


def test_a_speaker_on_both_sides_is_a_leak():
    table = make_table()
    leaky = [Fold("0", np.arange(10), np.arange(10, 40))]
    with pytest.raises(
        ValueError, match=r"fold '0': speaker 'emodb:00' is in both training and test: emodb/000anger"
    ):
        audit(leaky, table, find_protocol("leave-one-speaker-out"))


def test_a_copied_recording_is_a_leak_under_another_speakers_name():
    table = make_table()
    hashes = table.audio_hashes.copy()
    hashes[40] = hashes[0]
    table = dataclasses.replace(table, audio_hashes=hashes)
    copies = f"{table.utterance_ids[40]} .* and {table.utterance_ids[0]} |{table.utterance_ids[0]} .* and {table.utterance_ids[40]} "
    with pytest.raises(ValueError, match=rf"a recording is in both training and test: ({copies})"):
        make_folds(find_protocol("leave-one-speaker-out"), table)
    assert "are in both the training and the test part" in make_folds(find_protocol("paper"), table)[1]


def test_a_renamed_speaker_is_caught_by_session():
    table = make_table()
    speakers = table.speakers.copy()
    speakers[-1] = "emodb:00"
    table = dataclasses.replace(table, speakers=speakers)
    with pytest.raises(
        ValueError, match="leave-one-session-out, fold 'Session0': speaker 'emodb:00' is in both"
    ):
        make_folds(find_protocol("leave-one-session-out"), table)


def test_the_audit_says_what_it_checked_and_what_is_shared():
    table = make_table()
    sentence = make_folds(find_protocol("leave-one-speaker-out"), table)[1]
    assert sentence == (
        "Checked in all 6 folds: no speaker and no exact copy of a recording is in both parts. "
        "4 of 4 sentences are, which may help."
    )
    dealt = find_protocol("speaker-3-fold")
    folds, sentence = make_folds(dealt, table)
    assert sentence.endswith(f" The folds test {'; '.join(fold.name for fold in folds)}.")
    assert sentence.count("emodb:") == 6
    sessions, pairs = (find_protocol(name) for name in ("leave-one-session-out", "speaker-2-fold"))
    assert (
        "no session, no speaker and no exact copy of a recording is in both parts."
        in make_folds(sessions, table)[1]
    )
    assert make_folds(pairs, table)[1].startswith("Checked in both folds: no speaker and no exact copy")
    assert "6 of 6 speakers are." in make_folds(find_protocol("leave-one-text-out"), table)[1]
    assert make_folds(find_protocol("paper"), table)[1].startswith("Nothing is kept apart: 6 of 6 speakers")


@pytest.mark.parametrize(
    ("name", "columns", "message"),
    [
        (
            "leave-one-speaker-out",
            {"speakers": ["emodb:00"] * 72},
            "needs at least 2 speakers. Got 1: emodb:00",
        ),
        (
            "leave-one-speaker-out",
            {"speakers": [""] * 72},
            "needs the speaker of every utterance. 72 of 72 have none",
        ),
        ("leave-one-text-out", {"texts": [""] * 72}, "needs the text of every utterance"),
        ("leave-one-session-out", {"sessions": [""] * 72}, "needs the session of every utterance"),
        ("speaker-7-fold", {}, "needs at least 7 speakers. Got 6"),
        ("predefined", {"splits": [""] * 72}, "needs the split of every utterance"),
        (
            "predefined",
            {"splits": ["train", "dev"] * 36},
            "needs utterances of the splits train and test. Got dev, train",
        ),
        (
            "paper",
            {"labels": ["rare"] + ["anger", "fear"] * 35 + ["anger"]},
            "'rare' has one; leave it out with --exclude-label rare",
        ),
    ],
)
def test_what_cannot_be_divided_is_refused(name, columns, message):
    with pytest.raises(ValueError, match=message):
        make_folds(find_protocol(name), make_table(**columns))


def test_a_label_of_one_speaker_cannot_be_learnt_without_him():
    table = make_table()
    labels = np.where(
        table.speakers == "emodb:03", "joy", np.where(table.labels == "joy", "fear", table.labels)
    )
    table = dataclasses.replace(table, labels=labels)
    with pytest.raises(
        ValueError,
        match="fold 'emodb:03': none of joy is left to learn from; leave it out with --exclude-label joy",
    ):
        make_folds(find_protocol("leave-one-speaker-out"), table)


@pytest.mark.parametrize("name", ["loso", "speaker--1-fold", "speaker-k-fold", "paper2", ""])
def test_unknown_protocols_list_the_choices(name):
    with pytest.raises(
        ValueError, match=f"protocol must be one of leave-one-speaker-out, .*paper.*Got '{re.escape(name)}'"
    ):
        find_protocol(name)


def test_one_fold_is_none():
    with pytest.raises(ValueError, match=r"needs at least 2 folds. Got 'speaker-1-fold'"):
        find_protocol("speaker-1-fold")


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="protocol 'paper' must be registered once"):
        _register("paper")(lambda name: name)
    assert all(find_protocol(name.replace("-k-", "-4-")).claim.endswith(".") for name in PROTOCOLS)
