"""Named rules that divide utterances into training and test parts."""

import collections
import csv
import dataclasses
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedShuffleSplit

from classify.audit import audit, singular

Column = NDArray[Any]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UtteranceTable:
    """What a protocol may look at: columns of strings, one entry per utterance, empty where unknown."""

    utterance_ids: Column
    labels: Column
    speakers: Column
    sexes: Column
    texts: Column
    sessions: Column
    splits: Column
    corpora: Column
    audio_hashes: Column

    def __len__(self) -> int:
        return len(self.utterance_ids)


@dataclasses.dataclass(frozen=True, slots=True)
class Fold:
    """Row numbers to train on and to test on; a repetition tests no utterance twice."""

    name: str
    train: NDArray[np.intp]
    test: NDArray[np.intp]
    repetition: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """A rule that makes folds, and what its scores may claim.

    Parameters
    ----------
    name : str
        As the command line spells it.
    claim : str
        A sentence on what scores under it may claim.
    disjoint : tuple of str
        Columns of ``UtteranceTable`` of which no value may be in both parts of a fold; audio never may.
    optimistic : bool
        Whether speakers are in both parts, so that scores say nothing about new ones. Where ``disjoint`` is
        empty too, even exact copies of a recording are let through.
    told : bool
        Whether the audit lists the folds, because the protocol's name doesn't say who is in which.
    divide : callable
        From the table and a seed to folds.
    remark : callable, optional
        From the table to a sentence that the audit must add; empty where there is nothing to say.
    """

    name: str
    claim: str
    disjoint: tuple[str, ...]
    optimistic: bool = False
    told: bool = False
    divide: Callable[[UtteranceTable, int], list[Fold]]
    remark: Callable[[UtteranceTable], str] = lambda _table: ""


PROTOCOLS: dict[str, Callable[[str], Protocol]] = {}
REPETITIONS, TEST_SIZE = 5, 0.2  # of ``paper``: arXiv 2411.02964, section 4.2
SPELLINGS = {"speaker-k-fold": r"speaker-(\d+)-fold", "predefined": r"predefined(?::(.+))?"}
# Folds of EmoBox that keep speakers apart (emo-box/EmoBox at 08280f2): actors that each fold tests. Those of most other
# corpora don't, and none of theirs is offered.
EMOBOX_FOLDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "ravdess": (
        ("01", "11", "20", "21"),
        ("04", "10", "12", "14"),
        ("08", "09", "19", "23"),
        ("03", "05", "07", "24"),
        ("02", "15", "16", "18"),
        ("06", "13", "17", "22"),
    ),
    "savee": (("JE",), ("KL",), ("DC",), ("JK",)),
}


def _register(name: str) -> Callable[[Callable[[str], Protocol]], Callable[[str], Protocol]]:
    def add(factory: Callable[[str], Protocol]) -> Callable[[str], Protocol]:
        if name in PROTOCOLS:
            msg = f"protocol {name!r} must be registered once."
            raise ValueError(msg)
        PROTOCOLS[name] = factory
        return factory

    return add


def find_protocol(name: str) -> Protocol:
    """Return the protocol of that name: ``speaker-5-fold`` gives its number, ``predefined:FILE`` its file.

    Raises
    ------
    ValueError
        Where no protocol is spelled so.
    """
    for key, factory in PROTOCOLS.items():
        if re.fullmatch(SPELLINGS.get(key, re.escape(key)), name):
            return factory(name)
    msg = f"protocol must be one of {', '.join(PROTOCOLS)} (k a number). Got {name!r} instead."
    raise ValueError(msg)


def make_folds(protocol: Protocol, table: UtteranceTable, *, random_state: int = 0) -> tuple[list[Fold], str]:
    """Divide the utterances, check that the folds can be learnt and don't leak, and return them with the audit.

    Raises
    ------
    ValueError
        Where a column that the protocol needs is not known for all utterances or has one value only, a label
        has one utterance, a fold's test part has a label that its training part lacks, or the audit finds a leak.
    """
    for label, count in collections.Counter(table.labels.tolist()).items():
        if count < 2:
            msg = (
                f"each label needs at least two utterances. {label!r} has one; leave it out with "
                f"--exclude-label {label} or join it to another with --merge-labels."
            )
            raise ValueError(msg)
    folds = protocol.divide(table, random_state)
    for fold in folds:
        lacking = sorted(set(table.labels[fold.test]) - set(table.labels[fold.train]))
        if lacking:
            msg = (
                f"every label that a fold tests must be in its training part. {protocol.name}, fold "
                f"{fold.name!r}: none of {', '.join(lacking)} is left to learn from; leave it out with "
                f"--exclude-label {lacking[0]} or choose another protocol."
            )
            raise ValueError(msg)
    listed = f" The folds test {'; '.join(fold.name for fold in folds)}." if protocol.told else ""
    remark = protocol.remark(table)
    return folds, audit(folds, table, protocol) + listed + (f" {remark}" if remark else "")


def _known(table: UtteranceTable, column: str, protocol: str, *, at_least: int = 2) -> Column:
    """Return a column that is known for every utterance and has enough different values."""
    values: Column = getattr(table, column)
    unknown = np.flatnonzero(values == "")
    word = singular(column)
    if len(unknown):
        msg = (
            f"{protocol} needs the {word} of every utterance. {len(unknown)} of {len(values)} have none, "
            f"as {table.utterance_ids[unknown[0]]}; choose another protocol."
        )
        raise ValueError(msg)
    if len(distinct := set(values)) < at_least:
        msg = f"{protocol} needs at least {at_least} {column}. Got {len(distinct)}: {', '.join(sorted(distinct))}."
        raise ValueError(msg)
    return values


def _leave_one_out(values: Column) -> list[Fold]:
    return [
        Fold(str(value), np.flatnonzero(values != value), np.flatnonzero(values == value))
        for value in np.unique(values)
    ]


def _dealt(table: UtteranceTable, column: str, hands: int) -> NDArray[np.intp]:
    """Return the hand, 0 to ``hands`` - 1, of each utterance's value, dealt out evenly.

    The order is by corpus and sex, so that each hand gets its part of both, then by a hash of the value: it
    depends on nothing but the values, so that folds stay as they are when labels are left out, as long as no
    value is lost with them.
    """
    values = getattr(table, column)
    facts: dict[str, tuple[str, ...]] = {}
    for value, corpus, sex in zip(values, table.corpora, table.sexes, strict=True):
        about = (corpus, sex) if column == "speakers" else (corpus,)
        facts.setdefault(value, (*about, hashlib.blake2b(str(value).encode()).hexdigest()))
    hand = {value: i % hands for i, value in enumerate(sorted(facts, key=facts.__getitem__))}
    return np.array([hand[value] for value in values])


@_register("leave-one-speaker-out")
def _leave_one_speaker_out(name: str) -> Protocol:
    return Protocol(
        name=name,
        claim="Scores tell how well emotions are told apart on speakers of this corpus that training has not heard.",
        disjoint=("speakers",),
        divide=lambda table, _seed: _leave_one_out(_known(table, "speakers", name)),
    )


@_register("speaker-k-fold")
def _speaker_k_fold(name: str) -> Protocol:
    k = int(name.split("-")[1])
    if k < 2:
        msg = f"speaker-k-fold needs at least 2 folds. Got {name!r} instead."
        raise ValueError(msg)

    def divide(table: UtteranceTable, _seed: int) -> list[Fold]:
        speakers = _known(table, "speakers", name, at_least=k)
        hands = _dealt(table, "speakers", k)
        return [
            Fold(
                ", ".join(sorted(set(speakers[hands == i]))),
                np.flatnonzero(hands != i),
                np.flatnonzero(hands == i),
            )
            for i in range(k)
        ]

    return Protocol(
        name=name,
        claim=f"Scores tell how well emotions are told apart on speakers of this corpus that training, on {k - 1} "
        f"of {k} parts of the speakers, has not heard.",
        disjoint=("speakers",),
        divide=divide,
        told=True,
    )


@_register("leave-one-session-out")
def _leave_one_session_out(name: str) -> Protocol:
    return Protocol(
        name=name,
        claim="Scores tell how well emotions are told apart in a session, with its speakers, that training has not heard.",
        disjoint=("sessions", "speakers"),
        divide=lambda table, _seed: _leave_one_out(_known(table, "sessions", name)),
    )


@_register("leave-one-corpus-out")
def _leave_one_corpus_out(name: str) -> Protocol:
    return Protocol(
        name=name,
        claim="Scores tell how well emotions are told apart in a corpus that training has not heard, from all the others.",
        disjoint=("corpora", "speakers"),
        divide=lambda table, _seed: _leave_one_out(_known(table, "corpora", name)),
    )


@_register("cross-corpus")
def _cross_corpus(name: str) -> Protocol:
    def divide(table: UtteranceTable, _seed: int) -> list[Fold]:
        corpora = _known(table, "corpora", name)
        names = np.unique(corpora)
        # Repetition i tests each corpus on the i-th of the others, so that no repetition tests an utterance twice.
        return [
            Fold(
                f"{names[(j + i + 1) % len(names)]} to {names[j]}",
                np.flatnonzero(corpora == names[(j + i + 1) % len(names)]),
                np.flatnonzero(corpora == names[j]),
                i,
            )
            for i in range(len(names) - 1)
            for j in range(len(names))
        ]

    return Protocol(
        name=name,
        claim="Scores tell how well emotions are told apart in one corpus by training on one other, for every pair.",
        disjoint=("corpora", "speakers"),
        divide=divide,
    )


@_register("leave-one-text-out")
def _leave_one_text_out(name: str) -> Protocol:
    return Protocol(
        name=name,
        claim="Scores tell how well emotions are told apart on sentences that training has not heard, by speakers "
        "that it has: they say nothing about new speakers.",
        disjoint=("texts",),
        optimistic=True,
        divide=lambda table, _seed: _leave_one_out(_known(table, "texts", name)),
    )


@_register("speaker-and-text-disjoint")
def _speaker_and_text_disjoint(name: str) -> Protocol:
    def divide(table: UtteranceTable, _seed: int) -> list[Fold]:
        parts = [
            _dealt(table, column, min(5, len(set(_known(table, column, name)))))
            for column in ("speakers", "texts")
        ]
        folds = []
        for speakers in range(parts[0].max() + 1):
            for texts in range(parts[1].max() + 1):
                same = parts[0] == speakers, parts[1] == texts
                test, train = np.flatnonzero(same[0] & same[1]), np.flatnonzero(~same[0] & ~same[1])
                if len(test):
                    folds.append(Fold(f"speakers {speakers + 1}, sentences {texts + 1}", train, test))
        return folds

    return Protocol(
        name=name,
        claim="Scores tell how well emotions are told apart on sentences and speakers that training has not heard.",
        disjoint=("speakers", "texts"),
        divide=divide,
    )


@_register("predefined")
def _predefined(name: str) -> Protocol:
    path = name.partition(":")[2]

    def divide(table: UtteranceTable, _seed: int) -> list[Fold]:
        if path:
            return _leave_one_out(_folds_of(table.utterance_ids, Path(path)))
        splits = _known(table, "splits", name)
        test, train = np.flatnonzero(splits == "test"), np.flatnonzero(splits == "train")
        if not len(test) or not len(train):
            msg = (
                f"{name} needs utterances of the splits train and test. Got {', '.join(sorted(set(splits)))}."
            )
            raise ValueError(msg)
        return [Fold("test", train, test)]

    def remark(table: UtteranceTable) -> str:
        others = sorted(set(_read_folds(Path(path))) - set(table.utterance_ids)) if path else []
        return (
            f"{len(others)} of the ids in {Path(path).name} are not compared, as {others[0]}."
            if others
            else ""
        )

    where = (
        f"the folds of {Path(path).name}" if path else "the corpus's own split into training and test part"
    )
    return Protocol(
        name=name,
        claim=f"Scores tell how well emotions are told apart on {where}, whose speakers training has not heard.",
        disjoint=("speakers",),
        divide=divide,
        remark=remark,
    )


def _read_folds(path: Path) -> dict[str, str]:
    """Return the fold of each id."""
    folds: dict[str, str] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            rows = [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        msg = f"{path}: the folds can't be read ({error})."
        raise ValueError(msg) from error
    if rows and rows[0][1] == ["id", "fold"]:
        rows = rows[1:]
    for line, row in rows or [(1, [])]:
        if len(row) != 2 or not all(row):
            msg = f"{path}: each line must be an utterance's id and its fold. Line {line} is not."
            raise ValueError(msg)
        if folds.setdefault(row[0], row[1]) != row[1]:
            msg = f"{path}: each utterance must be in one fold. Line {line} puts {row[0]} into {row[1]}, after {folds[row[0]]}."
            raise ValueError(msg)
    return folds


def _folds_of(utterance_ids: Column, path: Path) -> Column:
    folds = _read_folds(path)
    missing = [utterance_id for utterance_id in utterance_ids if utterance_id not in folds]
    if missing:
        msg = f"{path}: {len(missing)} of {len(utterance_ids)} utterances have no fold, as {missing[0]}; add them."
        raise ValueError(msg)
    if len(distinct := {folds[utterance_id] for utterance_id in utterance_ids}) < 2:
        msg = f"{path}: at least two folds are needed. Got {', '.join(distinct)} only."
        raise ValueError(msg)
    return np.array([folds[utterance_id] for utterance_id in utterance_ids])


@_register("emobox")
def _emobox(name: str) -> Protocol:
    def divide(table: UtteranceTable, _seed: int) -> list[Fold]:
        corpora = sorted(set(table.corpora))
        if len(corpora) != 1 or corpora[0] not in EMOBOX_FOLDS:
            msg = (
                f"{name} has folds for {' or '.join(EMOBOX_FOLDS)}, alone. Got {', '.join(corpora)} instead."
            )
            raise ValueError(msg)
        actors = np.array([speaker.rpartition(":")[2] for speaker in table.speakers])
        folds = []
        for tested in EMOBOX_FOLDS[corpora[0]]:
            inside = np.isin(actors, tested)
            if inside.any():
                folds.append(Fold(", ".join(tested), np.flatnonzero(~inside), np.flatnonzero(inside)))
        if unknown := sorted(
            set(actors) - {actor for tested in EMOBOX_FOLDS[corpora[0]] for actor in tested}
        ):
            msg = (
                f"{name} knows the speakers of {corpora[0]}'s publication only. Got {', '.join(unknown)} too."
            )
            raise ValueError(msg)
        return folds

    return Protocol(
        name=name,
        claim="Scores tell how well emotions are told apart on speakers that training has not heard, in EmoBox's "
        "folds, so that they stand beside its published ones.",
        disjoint=("speakers",),
        divide=divide,
        told=True,
    )


@_register("paper")
def _paper(name: str) -> Protocol:
    def divide(table: UtteranceTable, seed: int) -> list[Fold]:
        splitter = StratifiedShuffleSplit(REPETITIONS, test_size=TEST_SIZE, random_state=seed)
        parts = splitter.split(np.zeros(len(table)), table.labels)
        return [Fold(f"repetition {i + 1}", train, test, i) for i, (train, test) in enumerate(parts)]

    return Protocol(
        name=name,
        claim="Optimistic: test speakers may be in training too, as in arXiv 2411.02964 (the audit counts them), so "
        "scores can be held against that paper's table and say nothing about new speakers.",
        disjoint=(),
        optimistic=True,
        divide=divide,
    )
