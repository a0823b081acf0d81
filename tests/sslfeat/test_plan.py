"""What is left to do, against a plain reading of what is committed, one statement after the other."""

import dataclasses
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache import CacheWriter, Duplicate, Failure, FeatureSpec, Row, Utterance
from sslfeat.encoder import Encoder
from sslfeat.parts import Parts
from sslfeat.plan import Plan, find_places, make_plan, see_outcome

IDS = [f"own/{name}" for name in ("a", "b", "c", "d", "e", "f", "g\udcff", "h\U0001f600", "h\uffee", "i")]
GONE = {"b", "e"}
HASHES = ["0" * 31 + digit for digit in "123"]


@pytest.fixture
def spec(encoder: Encoder) -> FeatureSpec:
    return encoder.spec(layers=(0,), pooling=("mean",))


@pytest.fixture
def parts(tmp_path: Path, spec: FeatureSpec) -> Iterator[Parts]:
    with Parts(tmp_path / "out.h5", spec) as parts:
        yield parts


def commit(parts: Parts, *statements: Row | Failure | Duplicate) -> None:
    with CacheWriter(parts.next_path(), parts.spec, complete=False) as part:
        for one in statements:
            if isinstance(one, Row):
                part.add(one, {"mean": np.zeros((1, parts.spec.hidden_size), np.float32)})
            elif isinstance(one, Failure):
                part.add_failure(one)
            else:
                part.add_duplicate(one)


def utterance(identity: str, **fields: Any) -> Utterance:
    return Utterance(
        id=identity, **{"path": f"{identity[4:]}.wav", "corpus": "own", "label": "fear"} | fields
    )


def row(one: Utterance, audio_hash: str = HASHES[0], stamp: tuple[int, int] = (1, 1)) -> Row:
    return Row(
        utterance=one, audio_hash=audio_hash, num_samples=8000, num_frames=24,
        file_size=stamp[0], file_mtime_ns=stamp[1],
    )  # fmt: skip


def failure(one: Utterance, reason: str = "cut short") -> Failure:
    return Failure(id=one.id, path=one.path, reason=reason)


def duplicate(one: Utterance, original: str, audio_hash: str = HASHES[0]) -> Duplicate:
    return Duplicate(
        id=one.id, path=one.path, original_id=original, label=one.label, original_label="fear", audio_hash=audio_hash,
        file_size=1, file_mtime_ns=1, start=one.start, end=one.end,
    )  # fmt: skip


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> None:
    """All files are there and unchanged but those of ``GONE``."""
    monkeypatch.setattr("sslfeat.plan.stamp", lambda path: (0, 0) if Path(path).stem in GONE else (1, 1))


def plainly(asked: list[Utterance], parts: Parts) -> tuple[list[str], dict[str, str], set[str], list[str]]:
    """What is to be done, what failed, what is gone and what is outdated: held in dictionaries whole."""
    rows, others = dict[str, Row](), dict[str, Failure | Duplicate]()
    for cache in parts.caches():
        for one in cache.rows():
            rows[one.utterance.id] = one
            others.pop(one.utterance.id, None)
        for other in [*cache.duplicates, *cache.failures]:
            others[other.id] = other
            rows.pop(other.id, None)
    by_id = {one.id: one for one in asked}
    gone = {one.id for one in asked if Path(one.path).stem in GONE}
    done = {identity for identity, one in rows.items() if by_id.get(identity) == one.utterance}
    done |= rows.keys() & gone
    staying = {one.audio_hash for identity, one in rows.items() if identity in done or identity not in by_id}
    for identity, other in others.items():
        if isinstance(other, Duplicate) and other.audio_hash in staying and identity in by_id:
            wanted = by_id[identity]
            told = (other.path, other.label, other.start, other.end)
            if identity in gone or told == (wanted.path, wanted.label, wanted.start, wanted.end):
                done.add(identity)
    failures = {one.id: one.reason for one in others.values() if isinstance(one, Failure)}
    outdated = {identity for identity in rows.keys() & gone if rows[identity].utterance != by_id[identity]}
    gone_told = (rows.keys() - by_id.keys()) | (done & gone) - outdated
    return sorted(by_id.keys() - done), failures, gone_told, sorted(outdated)


@pytest.mark.parametrize("seed", range(8))
def test_the_newest_statement_of_many_parts_holds(
    parts: Parts, tmp_path: Path, files: None, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance = random.Random(seed)
    for _ in range(4):
        chosen = [
            utterance(one, label=chance.choice(["fear", "anger"]), start=chance.choice([0.0, 0.0, 0.5]))
            for one in chance.sample(IDS, 5)
        ]
        kinds = [
            lambda one: row(one, chance.choice(HASHES)),
            lambda one: duplicate(one, chance.choice(IDS), chance.choice(HASHES)),
            failure,
        ]
        commit(parts, *(chance.choices(kinds, [3, 1, 1])[0](one) for one in chosen))
    for block in (2, 2**16):
        monkeypatch.setattr("sslfeat.plan._BLOCK_ROWS", block)
        for _ in range(3):
            asked = [utterance(one) for one in chance.sample(IDS, 7)]
            plan = make_plan(asked, parts, tmp_path)
            todo = [one.id for one in plan.todo]
            assert (todo, plan.failures, plan.gone, plan.outdated) == plainly(asked, parts)
            assert plan.asked == sorted(asked, key=lambda one: one.id)


def test_a_file_of_another_stamp_is_read_again(parts: Parts, tmp_path: Path) -> None:
    asked = [utterance(one) for one in IDS[:4]]
    stamps = []
    for one in asked[:3]:
        (tmp_path / one.path).write_bytes(b"some audio")
        status = (tmp_path / one.path).stat()
        stamps.append((status.st_size, status.st_mtime_ns))
    copy = utterance(IDS[4])
    (tmp_path / copy.path).write_bytes(b"rewritten")
    commit(parts, duplicate(copy, IDS[2]))
    commit(parts, *(row(one, HASHES[0], stamp) for one, stamp in zip(asked, [*stamps, (7, 7)], strict=True)))
    (tmp_path / asked[0].path).write_bytes(b"more audio than there was")
    os.utime(tmp_path / asked[1].path, ns=(1, 1))
    plan = make_plan([*asked, copy], parts, tmp_path)
    assert [one.id for one in plan.todo] == [*IDS[:2], copy.id]
    assert plan.gone == {IDS[3]}


def test_a_changed_field_is_done_again(parts: Parts, tmp_path: Path, files: None) -> None:
    fields = [field for field in dataclasses.fields(Utterance) if field.name not in {"id", "end"}]
    kept = [utterance(f"own/{field.name}") for field in fields] + [
        utterance("own/end"),
        utterance("own/zero"),
    ]
    commit(parts, *map(row, kept))
    values = {"start": 0.25}
    asked = [
        dataclasses.replace(one, **{field.name: values.get(field.name, "other")})
        for one, field in zip(kept, fields, strict=False)
    ]
    asked += [dataclasses.replace(kept[-2], end=0.5), kept[-1]]
    assert {one.id for one in make_plan(asked, parts, tmp_path).todo} == {one.id for one in asked[:-1]}


@pytest.mark.parametrize("changed", [{"label": "joy"}, {"path": "typo.wav"}, {"end": 2.0}])
def test_a_change_without_the_audio_destroys_no_row(
    parts: Parts, tmp_path: Path, changed: dict[str, Any]
) -> None:
    kept = utterance("own/a")
    commit(parts, row(kept), duplicate(utterance("own/b"), kept.id))
    asked = [dataclasses.replace(one, **changed) for one in (kept, utterance("own/b"))]
    plan = make_plan(asked, parts, tmp_path)
    assert (plan.todo, plan.gone, plan.outdated) == ([], {"own/b"}, ["own/a"])


def test_rows_of_another_corpus_are_nobodys_business(parts: Parts, tmp_path: Path) -> None:
    commit(parts, row(utterance("own/a")), row(utterance("x", corpus="other")), row(utterance("y")))
    assert make_plan([utterance("own/b")], parts, tmp_path).gone == {"own/a", "y"}
    assert make_plan([], parts, tmp_path) == Plan(asked=[], todo=[], failures={}, gone=set(), outdated=[])


def test_an_outcome_tells_of_what_was_asked(parts: Parts, tmp_path: Path) -> None:
    commit(parts, row(utterance(IDS[9]), HASHES[1]), row(utterance("own/z"), HASHES[2]))
    asked = [utterance(one) for one in (*IDS[:4], IDS[9])]
    plan = make_plan(asked, parts, tmp_path)
    commit(
        parts, row(asked[0]), row(asked[2], HASHES[2]), failure(asked[1]), duplicate(asked[3], asked[0].id),
        failure(utterance(IDS[5])), duplicate(utterance(IDS[6]), IDS[0]),
    )  # fmt: skip
    parts.finish({})
    outcome = see_outcome(plan, parts)
    assert outcome.seconds.tolist() == [0.5, 0.5]
    assert [one.id for one in outcome.failures] == [asked[1].id]
    assert [one.id for one in outcome.duplicates] == [asked[3].id]
    # The row that was gone already has since become a duplicate of one of a smaller id.
    assert (plan.gone, outcome.gone) == ({IDS[9], "own/z"}, [IDS[9]])


def test_two_utterances_of_one_id(parts: Parts, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"utterances must have distinct ids. Got 'own/b' twice."):
        make_plan([utterance(one) for one in ("own/b", "own/a", "own/c", "own/b")], parts, tmp_path)


def test_places_in_any_order() -> None:
    chance = random.Random(1)
    listed = [utterance(one) for one in sorted(IDS)]
    sought = chance.choices([*IDS, "own/0", "own/bb", "z", ""], k=200)
    expected = [next((at for at, one in enumerate(listed) if one.id == identity), -1) for identity in sought]
    assert find_places(listed, sought).tolist() == expected
    assert find_places([], ["a"]).tolist() == [-1]
    assert find_places(listed, sorted(IDS)).tolist() == list(range(len(IDS)))


def test_memory_is_a_few_bytes_for_each(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, traced: Callable[..., tuple[Any, int]]
) -> None:
    monkeypatch.setattr("sslfeat.plan._BLOCK_ROWS", 500)
    monkeypatch.setattr("sslfeat.plan.stamp", lambda _: (1, 1))
    asked = [utterance(f"own/{number:06d}") for number in range(20_000)]
    commit(parts, *(row(one, f"{number:032x}", (1, 1)) for number, one in enumerate(asked)))
    plan, peak = traced(make_plan, asked, parts, tmp_path)
    assert (plan.todo, plan.gone) == ([], set())
    assert peak < 50 * len(asked) + 1_000_000
