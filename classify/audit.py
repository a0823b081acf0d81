"""What must be on one side of every fold is, or it is an error."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from classify.protocols import Column, Fold, Protocol, UtteranceTable


def audit(folds: "Sequence[Fold]", table: "UtteranceTable", protocol: "Protocol") -> str:
    """Check that what must be on one side of every fold is, and return a sentence on what was checked.

    Raises
    ------
    ValueError
        Where a recording, or a value of a column that the protocol promises to keep apart, is in both parts, or
        such a column is not known for all utterances.
    """
    checked = (*protocol.disjoint, "audio_hashes") if protocol.disjoint else ()
    for column in protocol.disjoint:
        _require_known(table, column)
    for fold in folds:
        for column in checked:
            _refuse_shared(fold, table, column, protocol.name)
    speakers = _num_shared(folds, table, "speakers")
    texts = _num_shared(folds, table, "texts")
    if not checked:
        copies = _num_shared(folds, table, "audio_hashes")
        return (
            f"Nothing is kept apart: {_share(speakers, table.speakers)} speakers and "
            f"{copies} exact copies of recordings are in both the training and the test part of a fold."
        )
    *words, last = ["no " + singular(column) for column in checked]
    where = {1: "the one fold", 2: "both folds"}.get(len(folds), f"all {len(folds)} folds")
    sentence = f"Checked in {where}: {', '.join(words)} and {last} is in both parts."
    if "speakers" not in checked:
        sentence += f" {_share(speakers, table.speakers)} speakers are."
    if "texts" not in checked and texts:
        sentence += f" {_share(texts, table.texts)} sentences are, which may help."
    return sentence


def singular(column: str) -> str:
    """Return the word for one value of a column."""
    irregular = {"audio_hashes": "exact copy of a recording", "corpora": "corpus"}
    return irregular.get(column, column.removesuffix("s"))


def _share(count: int, column: "Column") -> str:
    return f"{count} of {len(set(column) - {''})}"


def _num_shared(folds: "Sequence[Fold]", table: "UtteranceTable", column: str) -> int:
    values = getattr(table, column)
    shared = [set(values[fold.train]) & set(values[fold.test]) - {""} for fold in folds]
    return len(set().union(*shared))


def _require_known(table: "UtteranceTable", column: str) -> None:
    unknown = [i for i, value in zip(table.utterance_ids, getattr(table, column), strict=True) if value == ""]
    if unknown:
        msg = (
            f"what must be on one side of a fold must be known. {len(unknown)} of {len(table)} utterances have no "
            f"{singular(column)}, as {unknown[0]}; name it in the corpus, or ask less of the audit."
        )
        raise ValueError(msg)


def _refuse_shared(fold: "Fold", table: "UtteranceTable", column: str, protocol: str) -> None:
    values, ids = getattr(table, column), table.utterance_ids
    shared = sorted(map(str, set(values[fold.train]) & set(values[fold.test]) - {""}))
    if not shared:
        return
    examples = [rows[values[rows] == shared[0]] for rows in (fold.train, fold.test)]
    named = " and ".join(
        f"{ids[rows[0]]} ({len(rows)} in {part})"
        for rows, part in zip(examples, ("training", "test"), strict=True)
    )
    if column == "audio_hashes":
        what, remedy = "a recording", "remove the copy, or correct its speaker"
    else:
        what, remedy = f"{singular(column)} {shared[0]!r}", "correct the table, or choose another protocol"
    msg = f"{protocol}, fold {fold.name!r}: {what} is in both training and test: {named}; {remedy}."
    raise ValueError(msg)
