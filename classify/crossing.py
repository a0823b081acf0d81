"""Training in some corpora and testing in others, each in a cache of its own."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from cache import FeatureCache, merge
from cache.schema import CacheError
from classify.protocols import Fold, Protocol, UtteranceTable
from classify.selection import name_caches


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """What ``compare`` needs for every pair of a cache to train on and another to test on.

    Parameters
    ----------
    cache : FeatureCache
        All of them, joined.
    protocol : Protocol
        A fold for every pair.
    unshared_labels : tuple of str
        To be left out, because some cache has no utterance of them.
    mapping : str
        A sentence on the labels: which all have, and which are whose.
    """

    cache: FeatureCache
    protocol: Protocol
    unshared_labels: tuple[str, ...]
    mapping: str


def cross(
    train: Sequence[FeatureCache],
    test: Sequence[FeatureCache],
    path: str | Path,
    *,
    exclude_labels: Collection[str] = (),
    merge_labels: Mapping[str, str] | None = None,
) -> Crossing:
    """Join caches of several corpora for training in each of the first and testing in each of the second.

    Scores are over the labels that all caches have, after merging.

    Parameters
    ----------
    train, test : sequence of FeatureCache
        One cache may be in both; it is not tested on itself.
    path : str or Path
        Of the joint cache, which is written anew.
    exclude_labels, merge_labels
        As ``compare`` takes them.

    Raises
    ------
    CacheError
        Where the caches were not made by one encoder under one spec, or hold an utterance in common.
    ValueError
        Where there is no pair, or fewer than two labels are in all caches.
    """
    distinct = list({cache.path.resolve(): cache for cache in (*train, *test)}.values())
    named = name_caches(distinct)
    names = {cache.path.resolve(): name for name, cache in named.items()}
    sides = [list(dict.fromkeys(names[cache.path.resolve()] for cache in side)) for side in (train, test)]
    pairs = [(mine, other) for mine in sides[0] for other in sides[1] if mine != other]
    if not pairs:
        msg = f"crossing needs a cache to train on and another to test on. Got {', '.join(named) or 'none'} only."
        raise ValueError(msg)
    origin: dict[str, str] = {}
    for name, cache in named.items():
        for utterance_id in cache.utterance_ids.tolist():
            if (first := origin.setdefault(utterance_id, name)) != name:
                msg = (
                    f"{cache.path}: caches to cross must hold different utterances. {utterance_id} is in {first} too; "
                    "extract each corpus into a cache of its own."
                )
                raise CacheError(msg)
    mapping, unshared = _compare_labels(named, exclude_labels, merge_labels or {})
    merge(path, [cache.path for cache in distinct], overwrite=True)

    def divide(table: UtteranceTable, _seed: int) -> list[Fold]:
        sources = np.array([origin[utterance_id] for utterance_id in table.utterance_ids])
        # Repetition i tests each cache on the i-th of its trainers, so that no repetition tests an utterance twice.
        trainers = {tested: [mine for mine, other in pairs if other == tested] for tested in sides[1]}
        return [
            Fold(
                f"{mine} to {tested}",
                np.flatnonzero(sources == mine),
                np.flatnonzero(sources == tested),
                trainers[tested].index(mine),
            )
            for mine, tested in pairs
        ]

    return Crossing(
        cache=FeatureCache(path),
        protocol=Protocol(
            name="cross-corpus",
            claim="Scores tell how well emotions are told apart in one corpus by training on another, over "
            f"{len(pairs)} pairs. {mapping}",
            disjoint=("speakers",),
            divide=divide,
        ),
        unshared_labels=unshared,
        mapping=mapping,
    )


def _compare_labels(
    caches: Mapping[str, FeatureCache], exclude_labels: Collection[str], merge_labels: Mapping[str, str]
) -> tuple[str, tuple[str, ...]]:
    """Return a sentence on the labels, and those that some cache lacks."""
    labels = {
        name: {merge_labels.get(label, label) for label in cache.labels.tolist()} - {"", *exclude_labels}
        for name, cache in caches.items()
    }
    shared = sorted(set.intersection(*labels.values()))
    unshared = sorted(set.union(*labels.values()) - set(shared))
    if len(shared) < 2:
        each = "; ".join(f"{name} has {', '.join(sorted(own)) or 'none'}" for name, own in labels.items())
        msg = f"caches to cross must share at least two labels: {each}. Join labels with --merge-labels OLD=NEW."
        raise ValueError(msg)
    sentence = f"Labels of all {len(caches)} caches: {', '.join(shared)}."
    if unshared:
        owners = [
            f"{label} (only in {', '.join(name for name, own in labels.items() if label in own)})"
            for label in unshared
        ]
        sentence += f" Left out: {', '.join(owners)}."
    return sentence, tuple(unshared)
