import numpy as np
import pytest

from cache import CacheError, Duplicate, Failure
from classify.selection import name_caches, select


def test_rows_follow_the_ids_of_each_cache(make_cache):
    whole, part = make_cache("whole"), make_cache("part", skip=["emodb/00t0anger", "emodb/02t1joy"])
    chosen = select({"whole": whole, "part": part})
    assert len(chosen.table) == len(whole) - 2 == len(part)
    for cache, rows in ((whole, chosen.rows["whole"]), (part, chosen.rows["part"])):
        np.testing.assert_array_equal(cache.utterance_ids[rows], chosen.table.utterance_ids)
        np.testing.assert_array_equal(cache.labels[rows], np.array(chosen.labels)[chosen.targets])
        np.testing.assert_array_equal(cache.speakers[rows], chosen.table.speakers)
    assert chosen.notes == ("2 utterances of whole are not in every cache, and are left out.",)


def test_labels_are_merged_then_excluded(make_cache):
    cache = make_cache("one")
    chosen = select({"one": cache}, merge_labels={"joy": "happiness"}, exclude_labels=["fear"])
    assert chosen.labels == ("anger", "happiness")
    assert len(chosen.table) == len(cache) * 2 // 3
    assert chosen.notes == ("joy counts as happiness.", "24 utterances of fear are left out.")


def test_what_is_missing_is_noted(make_cache):
    cache = make_cache(
        "one",
        complete=False,
        change={"emodb/00t0anger": {"label": ""}},
        failures=[Failure(id="emodb/broken", path="broken.wav", reason="silent")],
        duplicates=[Duplicate(id="emodb/copy", path="copy.wav", original_id="emodb/00t0joy")],
    )
    chosen = select({"one": cache})
    assert "emodb/00t0anger" not in chosen.table.utterance_ids
    assert chosen.notes == (
        "one is not complete: its extraction has not finished.",
        "1 utterance is not in one, because its audio can't be used.",
        "1 utterance is not in one, because it is an exact copy of another.",
        "1 utterance has no label, and is left out.",
    )


def test_caches_that_disagree_are_refused(make_cache):
    first = make_cache("first")
    for column, value in (("label", "joy"), ("speaker", "emodb:05"), ("audio_hash", "other")):
        other = make_cache(f"other-{column}", change={"emodb/00t0anger": {column: value}})
        with pytest.raises(
            CacheError, match=rf"other-{column}.h5: its .* 1 differ, as '.*' vs '{value}' of emodb/00t0anger"
        ):
            select({"first": first, "other": other})
    elsewhere = make_cache("elsewhere", corpus="savee")
    with pytest.raises(CacheError, match=r"first.h5: no utterance of it is in .*elsewhere.h5"):
        select({"first": first, "elsewhere": elsewhere})


def test_what_cannot_be_compared_is_refused(make_cache):
    cache = make_cache("one")
    with pytest.raises(
        ValueError,
        match=r"a label to exclude must be in the cache. Got 'rage'; .*one.h5 has anger, fear, joy",
    ):
        select({"one": cache}, exclude_labels=["rage"])
    with pytest.raises(ValueError, match=r"a label to merge must be in the cache. Got 'rage'"):
        select({"one": cache}, merge_labels={"rage": "anger"})
    with pytest.raises(ValueError, match=r"needs at least two labels. .*one.h5 has joy left"):
        select({"one": cache}, exclude_labels=["anger", "fear"])
    nameless = make_cache("nameless", change={"emodb/00t0anger": {"speaker": ""}})
    with pytest.raises(ValueError, match=r"every utterance needs a speaker.*1 have none, as emodb/00t0anger"):
        select({"nameless": nameless})


def test_caches_of_one_stem_are_told_apart_by_folder(make_cache):
    first, second = make_cache("a/emodb"), make_cache("b/emodb")
    assert [name[-7:] for name in name_caches([first, second])] == ["a/emodb", "b/emodb"]
    assert list(name_caches([first])) == ["emodb"]
    with pytest.raises(ValueError, match="each cache must be given once"):
        name_caches([first, first])
    with pytest.raises(ValueError, match="needs at least one cache"):
        name_caches([])
