"""What is left to do of what is asked, before a run; and what has become of it, afterwards.

There may be a million rows: they are compared in blocks, so that beside the list of what is asked no more is held than some
twenty bytes for each.
"""

import dataclasses
import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, compress, islice
from operator import attrgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache import Duplicate, Failure, FeatureCache, Utterance
from sslfeat.parts import Parts
from sslfeat.reading import stamp

# Rows that are compared at once.
_BLOCK_ROWS = 2**16

# What of an utterance is known of a duplicate.
_OF_DUPLICATES = ("path", "label", "start", "end")

_get_id = attrgetter("id")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is asked, what is left of it, and what earlier runs found out that bears on it.

    Parameters
    ----------
    asked, todo : list of Utterance
        By id.
    failures : dict of str to str
        Id -> reason.
    gone : set of str
        Ids of rows and duplicates that are kept though their utterances, or their files, are not there any more.
    outdated : list of str
        Ids of rows that are kept as they are though other things are asked of them, since their files are not there.
    """

    asked: list[Utterance]
    todo: list[Utterance]
    failures: dict[str, str]
    gone: set[str]
    outdated: list[str]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What has become of what was asked.

    Parameters
    ----------
    seconds : ndarray of shape (rows,)
        Duration of each row that this run made.
    failures, duplicates : list
        Of all that was asked, those that have no row.
    gone : list of str
        As in a `Plan`; sorted.
    """

    seconds: NDArray[np.float64]
    failures: list[Failure]
    duplicates: list[Duplicate]
    gone: list[str]


def make_plan(utterances: Sequence[Utterance], parts: Parts, root: Path) -> Plan:
    """Compare what is asked with what is committed.

    Parameters
    ----------
    utterances : sequence of Utterance
    parts : Parts
        Entered.
    root : Path
        What relative paths of utterances start from.

    Raises
    ------
    CacheError
        Where what is committed can't be read.
    ValueError
        Where two utterances have one id.
    """
    asked = sorted(utterances, key=_get_id)
    for one, following in zip(asked, islice(asked, 1, None), strict=False):
        if one.id == following.id:
            msg = f"utterances must have distinct ids. Got {one.id!r} twice."
            raise ValueError(msg)
    stamps = _stamps(asked, root)
    missing = (stamps == 0).all(axis=1)
    settled, has_row = np.zeros(len(asked), bool), np.zeros(len(asked), bool)
    corpora = np.array(sorted({utterance.corpus for utterance in asked}), np.str_)
    failures: dict[str, str] = {}
    duplicates: dict[str, Duplicate] = {}
    gone: set[str] = set()
    for cache in parts.caches():  # the newest statement about an utterance holds
        for rows in _blocks(cache):
            ids = cache.column("id", rows).tolist()
            places = find_places(asked, ids)
            is_asked = places >= 0
            settled[places[is_asked]] = _unchanged(cache, rows, is_asked, asked, stamps, places[is_asked])
            has_row[places[is_asked]] = True
            in_corpora = np.isin(cache.column("corpus", rows), corpora)
            gone.update(ids[index] for index in np.flatnonzero(in_corpora & ~is_asked).tolist())
            for identity in (failures.keys() | duplicates.keys()).intersection(ids):
                failures.pop(identity, None)
                duplicates.pop(identity, None)
        for duplicate in cache.duplicates:
            duplicates[duplicate.id] = duplicate
            failures.pop(duplicate.id, None)
        for failure in cache.failures:
            failures[failure.id] = failure.reason
            duplicates.pop(failure.id, None)
        without_row = failures.keys() | duplicates.keys()
        gone -= without_row
        places = find_places(asked, sorted(without_row))
        settled[places[places >= 0]] = has_row[places[places >= 0]] = False
    # Nothing could be made in the place of a row whose file is not there.
    outdated = has_row & missing & ~settled
    settled |= outdated
    _settle(duplicates, asked, settled, stamps, parts)
    gone.update(asked[index].id for index in np.flatnonzero(settled & missing & ~outdated).tolist())
    return Plan(
        asked=asked,
        todo=list(compress(asked, (~settled).tolist())),
        failures=failures,
        gone=gone,
        outdated=[asked[index].id for index in np.flatnonzero(outdated).tolist()],
    )


def see_outcome(plan: Plan, parts: Parts) -> Outcome:
    """Return what has become of a plan, once the parts are joined.

    Raises
    ------
    CacheError
        Where the result can't be read.
    """
    seconds: list[NDArray[np.float64]] = []
    failures, duplicates, gone = list[Failure](), list[Duplicate](), plan.gone
    for cache in parts.caches():
        if plan.todo:
            for rows in _blocks(cache):
                made = find_places(plan.todo, cache.column("id", rows).tolist()) >= 0
                seconds.append(cache.column("num_samples", rows)[made] / cache.spec.sample_rate)
        failures, duplicates = cache.failures, cache.duplicates
        gone = gone - {duplicate.id for duplicate in duplicates}
    failed = find_places(plan.asked, map(_get_id, failures)) >= 0
    doubled = find_places(plan.asked, map(_get_id, duplicates)) >= 0
    return Outcome(
        seconds=np.concatenate(seconds) if seconds else np.empty(0),
        failures=[failures[index] for index in np.flatnonzero(failed).tolist()],
        duplicates=[duplicates[index] for index in np.flatnonzero(doubled).tolist()],
        gone=sorted(gone),
    )


def find_places(utterances: Sequence[Utterance], ids: Iterable[str]) -> NDArray[np.intp]:
    """Return where ids are among utterances, -1 where one is not there; fastest where both have one order.

    Parameters
    ----------
    utterances : sequence of Utterance
        By id.
    ids : iterable of str
    """
    places, at = list[int](), 0
    for identity in ids:
        if at == len(utterances) or utterances[at].id != identity:
            at = bisect_left(utterances, identity, key=_get_id)
            if at == len(utterances) or utterances[at].id != identity:
                places.append(-1)
                continue
        places.append(at)
        at += 1
    return np.array(places, np.intp)


def _blocks(cache: FeatureCache) -> Iterator[slice]:
    return (slice(start, start + _BLOCK_ROWS) for start in range(0, len(cache), _BLOCK_ROWS))


def _stamps(utterances: Sequence[Utterance], root: Path) -> NDArray[np.int64]:
    """Return each file's size and modification time, of shape (utterances, 2); zeros where there is no file."""
    folder = os.path.join(root, "")  # noqa: PTH118  (see stamp)
    paths = map(attrgetter("path"), utterances)
    files = (path if path.startswith("/") else folder + path for path in paths)
    numbers = chain.from_iterable(map(stamp, files))
    return np.fromiter(numbers, np.int64, 2 * len(utterances)).reshape(-1, 2)


def _unchanged(
    cache: FeatureCache,
    rows: slice,
    is_asked: NDArray[np.bool_],
    asked: Sequence[Utterance],
    stamps: NDArray[np.int64],
    places: NDArray[np.intp],
) -> NDArray[np.bool_]:
    """Return which rows of a block are what is asked at ``places``, from a file of the same stamp or none."""
    utterances = [asked[place] for place in places.tolist()]
    held = np.stack([cache.column(name, rows)[is_asked] for name in ("file_size", "file_mtime_ns")], axis=1)
    same: NDArray[np.bool_] = (held == stamps[places]).all(axis=1) | (stamps[places] == 0).all(axis=1)
    for field in dataclasses.fields(Utterance):
        wanted = np.array(list(map(attrgetter(field.name), utterances)), dtype=field.type)
        same &= cache.column(field.name, rows)[is_asked] == wanted
    return same


def _settle(
    duplicates: dict[str, Duplicate],
    asked: Sequence[Utterance],
    settled: NDArray[np.bool_],
    stamps: NDArray[np.int64],
    parts: Parts,
) -> None:
    """Settle the duplicates that are what is asked, each as long as a row has its samples and stays."""
    ids = sorted(duplicates)
    places = find_places(asked, ids)
    stated = [(duplicates[ids[index]], int(places[index])) for index in np.flatnonzero(places >= 0)]
    originals = _rows_with({duplicate.audio_hash for duplicate, _ in stated}, parts)
    held = sorted(originals)
    redone = {
        identity
        for identity, place in zip(held, find_places(asked, held).tolist(), strict=True)
        if place >= 0 and not settled[place]
    }
    hashes = {originals[identity] for identity in originals.keys() - redone}
    for duplicate, place in stated:
        is_same = all(getattr(duplicate, name) == getattr(asked[place], name) for name in _OF_DUPLICATES)
        is_same &= stamps[place].tolist() == [duplicate.file_size, duplicate.file_mtime_ns]
        settled[place] = duplicate.audio_hash in hashes and (is_same or not stamps[place].any())


def _rows_with(hashes: set[str], parts: Parts) -> dict[str, str]:
    """Return id -> audio hash of the rows that have one of these."""
    found: dict[str, str] = {}
    if not hashes:
        return found
    wanted = np.array(sorted(hashes), np.str_)
    for cache in parts.caches():  # the newest statement about an utterance holds
        for rows in _blocks(cache):
            ids, held = cache.column("id", rows), cache.column("audio_hash", rows)
            for identity in found.keys() & set(ids.tolist()):
                del found[identity]
            matching = np.isin(held, wanted)
            found.update(zip(ids[matching].tolist(), held[matching].tolist(), strict=True))
        for identity in map(_get_id, [*cache.failures, *cache.duplicates]):
            found.pop(identity, None)
    return found
