"""What is known of a corpus's files beyond their names: mostly the tables beside its audio, read with the standard library.

Each function takes the corpus folder and returns what is to be said of a file; a table that isn't there is a
:class:`~sslfeat.corpus.CorpusError` that names it.
"""

import csv
import json
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from sslfeat.corpus import Annotations, CorpusError, Fields

# IEMOCAP, dialog/EmoEvaluation/*.txt: "[6.2901 - 8.2357]\tSes01F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]"
_IEMOCAP_LINE = re.compile(r"^\[[\d.]+ - [\d.]+\]\t(\w+)\t(\w+)\t", re.MULTILINE)

# SAVEE: of 30 neutral sentences 15 are no emotion's; 19 to 30 are two of each emotion's own, its 04 and 05, in this order.
_SAVEE_NEUTRAL = {
    f"{19 + 2 * place + own}": f"{code}{4 + own:02}"
    for place, code in enumerate(("a", "d", "f", "su", "sa", "h"))
    for own in (0, 1)
}


def _find(root: Path, *names: str, needed_for: str, beside: tuple[str, ...] = ()) -> Path:
    """Return the first table of one of these names in the corpus folder, beside it, or in a folder beside it."""
    if found := _sought(root, *names, beside=beside):
        return found
    msg = f"{root}: no {' or '.join(names)} in it or beside it, which {needed_for}. Put it there."
    raise CorpusError(msg)


def _sought(root: Path, *names: str, beside: tuple[str, ...] = ()) -> Path | None:
    wanted = {name.lower() for name in names}
    resolved = root.resolve()
    for within, subfolders, files in os.walk(resolved):
        subfolders.sort()
        for file in sorted(files):
            if file.lower() in wanted:
                return Path(within, file)
    for folder in (resolved.parent, *(resolved.parent / name for name in beside)):
        for name in names:
            if (folder / name).is_file():
                return folder / name
    return None


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            return [{key: value or "" for key, value in row.items() if key} for row in csv.DictReader(file)]
    except csv.Error as error:
        msg = f"{path}: no table that can be read ({error}). Fetch it again."
        raise CorpusError(msg) from error


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        msg = f"{path}: no JSON that can be read ({error}). Fetch it again."
        raise CorpusError(msg) from error
    if (
        isinstance(content, list)
        and content
        and all(isinstance(row, dict) and "id" in row for row in content)
    ):
        return {str(row["id"]): row for row in content}
    if not isinstance(content, dict):
        msg = f"{path}: a JSON object by file name was expected. Got a {type(content).__name__} instead."
        raise CorpusError(msg)
    return content


def _column(path: Path, row: dict[str, str], name: str) -> str:
    if name not in row:
        msg = f"{path}: no column {name!r}; its columns are {', '.join(row)}."
        raise CorpusError(msg)
    return row[name].strip()


def shemo_listed(root: Path) -> Annotations:
    """Keep the files that ``shemo.json`` lists.

    It is an object by name (``{"F22A05": {"emotion": "angry", ...}}``) in github.com/pariajm/sharif-emotional-speech-dataset
    at c032f4e, and was a list (``[{"id": "F22A05", ...}]``) at 2918508; names come with or without suffix.
    """
    table = _json(_find(root, "shemo.json", needed_for="lists the files"))
    listed = {stem: stem[3:4] for stem in (PurePosixPath(name).stem for name in table)}
    return Annotations(
        complete=lambda path, fields: fields if fields["stem"] in listed else None,
        listed=listed,
        left_out="shemo.json doesn't list them",
    )


def shemo_corrected(root: Path) -> Annotations:
    """Take the labels of ``modified_shemo.json``, later ``mShEMO.json``: ``{"F21N05.wav": {"emotion": "neutral", ...}}``.

    arXiv 2211.09956 and the README of github.com/aliyzd95/modified_shemo describe it: the key is the audio's name, ``emotion``
    the label of the transcript that an ASR system found to belong to it.
    """
    table = _find(root, "modified_shemo.json", "mShEMO.json", needed_for="holds the corrected labels")
    codes = {"anger": "A", "fear": "F", "happiness": "H", "neutral": "N", "sadness": "S", "surprise": "W"}
    labels = {}
    for name, entry in _json(table).items():
        emotion = entry.get("emotion") if isinstance(entry, dict) else entry
        if emotion not in codes:
            msg = f"{table}: {name} must have an emotion out of {', '.join(codes)}. Got {emotion!r} instead."
            raise CorpusError(msg)
        labels[PurePosixPath(name).stem] = codes[emotion]
    return Annotations(
        complete=lambda path, fields: (
            fields | {"label": labels[fields["stem"]]} if fields["stem"] in labels else None
        ),
        listed=labels,
        left_out=f"{table.name} has no label for them",
    )


def crema_d(root: Path) -> Annotations:
    """Take the sexes of ``VideoDemographics.csv`` where it is there: ``ActorID, Age, Sex, Race, Ethnicity``.

    Where it isn't, as in the copies on Kaggle, or says nothing of an actor, the catalogue's own table holds: the file's content
    in github.com/CheyneyComputerScience/CREMA-D at 98df52c.
    """
    table = _sought(root, "VideoDemographics.csv")
    rows = _rows(table) if table else []
    sexes = {_column(table, row, "ActorID"): _column(table, row, "Sex") for row in rows if table}
    return Annotations(complete=lambda path, fields: fields | {"sex": sexes.get(fields["speaker"], "")})


def crema_d_voices(root: Path) -> Annotations:
    """Take the label that most listeners chose from the voice alone: ``VoiceVote`` of ``summaryTable.csv``.

    A tie is written ``A:N`` there, and is left out.
    """
    table = _find(
        root, "summaryTable.csv", needed_for="holds the votes of the listeners", beside=("processedResults",)
    )
    sexes = crema_d(root)
    codes = {code[0]: code for code in ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")}
    votes = {_column(table, row, "FileName"): _column(table, row, "VoiceVote") for row in _rows(table)}
    labels = {name: codes[vote] for name, vote in votes.items() if vote in codes}

    def complete(path: str, fields: Fields) -> Fields | None:
        code = labels.get(fields["stem"])
        return sexes.complete(path, fields | {"label": code}) if code else None

    return Annotations(complete=complete, listed=labels, left_out="the listeners' votes tie or are missing")


def iemocap(root: Path) -> Annotations:
    """Take the label of ``Session*/dialog/EmoEvaluation/*.txt``; ``xxx`` is no agreement, and is left out.

    The speaker is the session together with the letter before the turn's number: ``Ses01F_impro01_M003`` is spoken by
    the man of session 1; the ``F`` in front names who wore the motion-capture markers.
    """
    folders = sorted(root.resolve().rglob("EmoEvaluation"))
    labels: dict[str, str] = {}
    for table in (table for folder in folders for table in sorted(folder.glob("*.txt"))):
        if not table.name.startswith("."):
            labels |= _IEMOCAP_LINE.findall(table.read_text(encoding="utf-8", errors="replace"))
    if not labels:
        msg = f"{root}: no Session*/dialog/EmoEvaluation/*.txt in it, which hold the labels. Put them there."
        raise CorpusError(msg)

    def complete(path: str, fields: Fields) -> Fields | None:
        label = labels.get(fields["stem"], "xxx")
        if label == "xxx":
            return None
        speaker = fields["session"] + fields["sex"]
        return fields | {"label": label, "speaker": speaker, "session": f"{int(fields['session'])}"}

    return Annotations(
        complete=complete,
        listed=labels,
        left_out="the raters agreed on no label or the tables have none of theirs",
    )


def msp_podcast(root: Path) -> Annotations:
    """Take ``labels_consensus.csv`` or ``.json``: ``EmoClass, SpkrID, Gender, Split_Set`` by file name.

    Classes X (no agreement) and O (other) are left out, as the corpus's own benchmarks do.
    """
    table = _find(
        root,
        *("labels_consensus.csv", "labels_consensus.json", "labels_concensus.csv", "labels_concensus.json"),
        needed_for="holds labels, speakers and splits",
        beside=("Labels", "label"),
    )
    if table.suffix == ".csv":
        rows = {PurePosixPath(_column(table, row, "FileName")).stem: row for row in _rows(table)}
    else:
        rows = {
            PurePosixPath(name).stem: {key: str(value) for key, value in row.items()}
            for name, row in _json(table).items()
            if isinstance(row, dict)
        }
    splits = {"train": "train", "development": "dev", "validation": "dev", "test1": "test"}

    def complete(path: str, fields: Fields) -> Fields | None:
        row = rows.get(fields["stem"])
        if row is None or (label := _column(table, row, "EmoClass")) in ("X", "O"):
            return None
        speaker, split = _column(table, row, "SpkrID"), _column(table, row, "Split_Set").lower()
        return fields | {
            "label": label,
            "speaker": "" if speaker.lower() == "unknown" else speaker,
            "sex": _column(table, row, "Gender"),
            "split": splits.get(split, split),
        }

    return Annotations(
        complete=complete,
        listed={name: _column(table, row, "EmoClass") for name, row in rows.items()},
        left_out="the consensus is X or O, or has no row for them",
    )


def meld(root: Path) -> Annotations:
    """Take ``train_sent_emo.csv``, ``dev_sent_emo.csv`` and ``test_sent_emo.csv``: emotion and speaker by dialogue and turn.

    Some turns have a film and no row (github.com/declare-lab/MELD/issues/22), and are left out. The test folder holds some turns twice, once as ``final_videos_testdia0_utt0``: the plain name is kept.
    """
    tables = {
        split: _find(root, f"{split}_sent_emo.csv", needed_for="holds emotions and speakers")
        for split in ("train", "dev", "test")
    }
    rows = {
        (split, _column(table, row, "Dialogue_ID"), _column(table, row, "Utterance_ID")): row
        for split, table in tables.items()
        for row in _rows(table)
    }

    def complete(path: str, fields: Fields) -> Fields | None:
        split = {"train_splits": "train", "dev_splits_complete": "dev"}.get(fields["folder"], "test")
        row = rows.get((split, fields["dialogue"], fields["turn"]))
        named = PurePosixPath(path)
        plain = root / named.with_name(f"dia{fields['dialogue']}_utt{fields['turn']}{named.suffix}")
        if row is None or (fields["prefix"] and plain.exists()):
            return None
        return fields | {
            "label": _column(tables[split], row, "Emotion"),
            "speaker": _column(tables[split], row, "Speaker"),
            "session": f"{split}-{fields['dialogue']}",
            "split": split,
        }

    return Annotations(
        complete=complete,
        listed={
            f"{split}_dia{dialogue}_utt{turn}": _column(tables[split], row, "Emotion")
            for (split, dialogue, turn), row in rows.items()
        },
        left_out="the tables have no row for them or another file is the same turn",
    )


def esd(root: Path) -> Annotations:
    """Give equal sentences equal text ids: each emotion has the same 350, counted on from one emotion to the next.

    Speakers 0001 to 0010 read Chinese, 0011 to 0020 English. That the 350 are parallel across speakers and emotions is said in
    the README of github.com/HLTSingapore/Emotional-Speech-Data; that they come in one order shows in its transcripts, where
    number 131 of English speakers is the same sentence in every emotion (its issue 3 of speaker 0015, and 0020_000831).
    """
    splits = {"train": "train", "evaluation": "dev", "test": "test"}

    def complete(path: str, fields: Fields) -> Fields:
        language = "zh" if fields["speaker"] <= "0010" else "en"
        sentence = (int(fields["number"]) - 1) % 350 + 1
        return fields | {"text": f"{language}{sentence:03}", "split": splits.get(fields["part"], "")}

    return Annotations(complete=complete)


def savee(root: Path) -> Annotations:
    """Give equal sentences equal text ids: 3 are common to all emotions, 12 are neutral and one emotion's, the rest one's own.

    That there are so many is the corpus's own account, which doesn't number them. 01 to 03 are told from durations: 03 is the
    shortest of the three for each man and emotion. So is the order of the neutral ones, as the likeliest of all 720 by the
    ratios of durations; MEAD, which has these sentences too, lists them in the same one.
    """

    def complete(path: str, fields: Fields) -> Fields:
        code, number = fields["label"], fields["number"]
        shared = number if number <= "03" else _SAVEE_NEUTRAL.get(number) if code == "n" else None
        return fields | {"text": shared or code + number}

    return Annotations(complete=complete)


def aesdd(root: Path) -> Annotations:
    """Give improvisations text ids of their own: sentences 01 to 19 serve all, 20 each actor made up for each emotion."""

    def complete(path: str, fields: Fields) -> Fields:
        number = fields["number"]
        improvised = f"{fields['label']}20-{fields['speaker']}"
        return fields | {"text": improvised if number == "20" else number}

    return Annotations(complete=complete)
