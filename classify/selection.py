"""Which utterances a comparison is about: those that all its caches hold, with a speaker and a label of interest."""

import collections
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cache.schema import CacheError
from classify.protocols import UtteranceTable

if TYPE_CHECKING:
    from cache import FeatureCache


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The utterances of a comparison, in the order of their ids.

    Parameters
    ----------
    table : UtteranceTable
        With labels after merging.
    labels : tuple of str
        The different labels, sorted.
    targets : ndarray of int, shape (utterance,)
        Index of each utterance's label.
    rows : mapping of str to ndarray of int, shape (utterance,)
        For each cache's name, the place of each utterance among the cache's rows.
    notes : tuple of str
        Sentences on what was left out or changed.
    """

    table: UtteranceTable
    labels: tuple[str, ...]
    targets: NDArray[np.int64]
    rows: Mapping[str, NDArray[np.intp]]
    notes: tuple[str, ...]


def name_caches(caches: "Sequence[FeatureCache]") -> "dict[str, FeatureCache]":
    """Return the caches by a name that tells them apart: the file's stem, with its folder where stems are equal.

    Raises
    ------
    ValueError
        Where there is no cache, or one is given twice.
    """
    if not caches:
        msg = "a comparison needs at least one cache. Got none."
        raise ValueError(msg)
    stems = collections.Counter(cache.name for cache in caches)
    named = {
        cache.name if stems[cache.name] == 1 else str(cache.path.parent / cache.name): cache
        for cache in caches
    }
    if len(named) < len(caches):
        msg = f"each cache must be given once. Got {', '.join(str(cache.path) for cache in caches)}."
        raise ValueError(msg)
    return named


def select(
    caches: "Mapping[str, FeatureCache]",
    *,
    exclude_labels: Collection[str] = (),
    merge_labels: Mapping[str, str] | None = None,
    utterance_ids: Collection[str] | None = None,
) -> Selection:
    """Find the utterances to compare on, out of ``utterance_ids`` where they are given.

    Labels are merged first (old label to new one), then excluded. Utterances without a label are left out with a note.

    Raises
    ------
    CacheError
        Where a cache holds no utterance, the caches share none, or disagree on an utterance's label, speaker or audio.
    ValueError
        Where a label to exclude or merge is in no cache, fewer than two labels remain, or an utterance has no
        speaker.
    """
    notes = [note for name, cache in caches.items() for note in _losses(name, cache)]
    first, *others = caches.values()
    shared = set(first.utterance_ids.tolist()).intersection(
        *(cache.utterance_ids.tolist() for cache in others)
    )
    if empty := [cache for cache in caches.values() if not len(cache)]:
        msg = f"{empty[0].path}: holds no utterance; `sslfeat info` shows what failed."
        raise CacheError(msg)
    if not shared:
        msg = f"{first.path}: no utterance of it is in {', '.join(str(cache.path) for cache in others)}."
        raise CacheError(msg)
    for name, cache in caches.items():
        if missing := len(cache) - len(shared):
            notes.append(_told(missing, "{n} of {of} {are} not in every cache, and {are} left out.", of=name))
    rows = {
        name: np.flatnonzero(np.isin(cache.utterance_ids, sorted(shared))) for name, cache in caches.items()
    }
    _require_agreement(caches, rows)

    columns = _columns(first, next(iter(rows.values())))
    labels = np.array(columns["labels"], dtype=object)
    for old, new in (merge_labels or {}).items():
        _require_known(old, columns["labels"], "merge", first)
        labels[columns["labels"] == old] = new
        notes.append(f"{old} counts as {new}.")
    for label in exclude_labels:
        _require_known(label, labels, "exclude", first)
    if unlabelled := int(np.count_nonzero(labels == "")):
        notes.append(_told(unlabelled, "{n} {have} no label, and {are} left out."))
    if excluded := int(np.count_nonzero(np.isin(labels, list(exclude_labels)))):
        notes.append(_told(excluded, "{n} of {of} {are} left out.", of=", ".join(exclude_labels)))
    wanted = ~np.isin(labels, ["", *exclude_labels])
    if utterance_ids is not None:
        wanted &= np.isin(columns["utterance_ids"], list(utterance_ids))
    keep = np.flatnonzero(wanted)
    columns = {name: values[keep] for name, values in columns.items()} | {"labels": labels[keep].astype(str)}

    names, targets = np.unique(columns["labels"], return_inverse=True)
    if len(names) < 2:
        msg = f"a comparison needs at least two labels. {first.path} has {', '.join(names) or 'none'} left."
        raise ValueError(msg)
    if len(unknown := np.flatnonzero(columns["speakers"] == "")):
        msg = (
            f"{first.path}: every utterance needs a speaker, because intervals are over speakers. "
            f"{len(unknown)} have none, as {columns['utterance_ids'][unknown[0]]}; name them in the corpus and extract again."
        )
        raise ValueError(msg)
    return Selection(
        table=UtteranceTable(**columns),
        labels=tuple(names.tolist()),
        targets=targets,
        rows={name: places[keep] for name, places in rows.items()},
        notes=tuple(notes),
    )


def _columns(cache: "FeatureCache", rows: NDArray[np.intp]) -> dict[str, NDArray[Any]]:
    return {
        field.name: np.asarray(getattr(cache, field.name))[rows]
        for field in dataclasses.fields(UtteranceTable)
    }


def _losses(name: str, cache: "FeatureCache") -> list[str]:
    losses = []
    if not cache.complete:
        losses.append(f"{name} is not complete: its extraction has not finished.")
    if failures := len(cache.failures):
        losses.append(_told(failures, "{n} {are} not in {of}, because {their} audio can't be used.", of=name))
    if duplicates := len(cache.duplicates):
        copies = "an exact copy of another" if duplicates == 1 else "exact copies of others"
        losses.append(
            _told(duplicates, "{n} {are} not in {of}, because {they} {are} {copies}.", of=name, copies=copies)
        )
    return losses


def _told(count: int, sentence: str, **words: str) -> str:
    """Return a sentence on so many utterances."""
    one = {"n": "1 utterance", "are": "is", "have": "has", "their": "its", "they": "it"}
    many = {"n": f"{count} utterances"} | {plural: plural for plural in ("are", "have", "their", "they")}
    return sentence.format(**(one if count == 1 else many), **words)


def _require_agreement(caches: "Mapping[str, FeatureCache]", rows: Mapping[str, NDArray[np.intp]]) -> None:
    first, *others = caches
    for other in others:
        for column in ("labels", "speakers", "audio_hashes"):
            mine = getattr(caches[first], column)[rows[first]]
            theirs = getattr(caches[other], column)[rows[other]]
            if len(differing := np.flatnonzero(mine != theirs)):
                utterance_id = caches[first].utterance_ids[rows[first]][differing[0]]
                msg = (
                    f"{caches[other].path}: its {column} must be those of {caches[first].path}. {len(differing)} differ, as "
                    f"{str(mine[differing[0]])!r} vs {str(theirs[differing[0]])!r} of {utterance_id}; extract both from one corpus."
                )
                raise CacheError(msg)


def _require_known(label: str, labels: NDArray[Any], verb: str, cache: "FeatureCache") -> None:
    if label not in set(labels):
        present = ", ".join(sorted(set(labels) - {""}))
        msg = f"a label to {verb} must be in the cache. Got {label!r}; {cache.path} has {present}."
        raise ValueError(msg)
