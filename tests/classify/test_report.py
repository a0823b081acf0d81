import dataclasses
import errno
import json
import os
import re

import pytest

from classify.report import RENDERERS, join, read_results, write_results


def replaced(comparison, **changes):
    return dataclasses.replace(comparison, **changes)


def only(comparison, cache):
    results = tuple(result for result in comparison.results if result.cache == cache)
    return replaced(comparison, results=results, caches={cache: comparison.caches[cache]})


def shuffled(comparison):
    """The same comparison with its utterances in another order."""
    order = list(reversed(range(len(comparison.truth))))

    def take(values):
        return tuple(values[i] for i in order)

    return replaced(
        comparison,
        **{name: take(getattr(comparison, name)) for name in ("utterance_ids", "speakers", "sexes", "truth")},
        folds=tuple(replaced(f, tested_in=tuple(map(take, f.tested_in))) for f in comparison.folds),
        results=tuple(replaced(r, predictions=tuple(map(take, r.predictions))) for r in comparison.results),
    )


def test_what_is_written_is_read_back(small_comparison, tmp_path):
    paths = write_results(small_comparison, tmp_path / "a" / "results")
    assert [path.name for path in paths] == [
        "results.json", "results.csv", "predictions.csv", "report.html", "report.md", "table.tex",
    ]  # fmt: skip
    assert sorted(paths) == sorted((tmp_path / "a" / "results").iterdir())
    assert read_results(tmp_path / "a" / "results") == small_comparison
    for path in paths:
        assert path.read_text("utf-8") == RENDERERS[path.name](small_comparison)


def test_names_that_are_no_text_survive(small_comparison, tmp_path):
    ids = ("\udc80\\\udc81", *small_comparison.utterance_ids[1:])
    comparison = replaced(small_comparison, utterance_ids=ids)
    write_results(comparison, tmp_path)
    assert read_results(tmp_path) == comparison
    # It is the same run, so it may be drawn again.
    write_results(comparison, tmp_path)


def test_the_same_run_is_drawn_again_and_another_is_refused(small_comparison, tmp_path):
    write_results(small_comparison, tmp_path)
    (tmp_path / "report.html").write_text("broken")
    write_results(read_results(tmp_path), tmp_path)
    assert (tmp_path / "report.html").read_text("utf-8").startswith("<!DOCTYPE html>")
    other = replaced(small_comparison, random_state=1)
    message = rf"^{re.escape(str(tmp_path))}: already holds results.json, .*table.tex of another run\. Choose another"
    with pytest.raises(FileExistsError, match=message):
        write_results(other, str(tmp_path))
    assert read_results(tmp_path) == small_comparison
    write_results(other, tmp_path, overwrite=True)
    assert read_results(tmp_path) == other


def test_a_file_of_the_users_own_is_kept(small_comparison, tmp_path):
    (tmp_path / "report.md").write_text("mine")
    with pytest.raises(FileExistsError, match=r"already holds report\.md of another run"):
        write_results(small_comparison, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]


def test_nothing_is_written_through_a_link(small_comparison, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    folder = tmp_path / "results"
    folder.mkdir()
    for name in RENDERERS:
        (folder / name).symlink_to(precious)
        (folder / f".{name}.{os.getpid()}.partial").symlink_to(precious)
    write_results(small_comparison, folder, overwrite=True)
    assert precious.read_text() == "mine"
    assert not any((folder / name).is_symlink() for name in RENDERERS)


def test_a_pipe_is_not_waited_for(small_comparison, tmp_path):
    os.mkfifo(tmp_path / "results.json")
    with pytest.raises(OSError, match=r"results\.json: can't be read \(not a file\)"):
        read_results(tmp_path)
    with pytest.raises(FileExistsError, match=r"already holds results\.json of another run"):
        write_results(small_comparison, tmp_path)


def test_a_file_is_no_folder(small_comparison, tmp_path):
    path = tmp_path / "results"
    path.write_text("")
    with pytest.raises(
        NotADirectoryError, match=rf"^{re.escape(str(path))}: results need a folder\. This is a file"
    ):
        write_results(small_comparison, path)
    with pytest.raises(OSError, match=r"results can't be written here \(.*\)\. Choose another folder"):
        write_results(small_comparison, path / "below")


@pytest.mark.parametrize("failing", [1, 4])
def test_a_full_disk_leaves_the_earlier_results_whole(small_comparison, tmp_path, monkeypatch, failing):
    write_results(small_comparison, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    calls = []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"can't be written here \(No space left on device\)"):
        write_results(replaced(small_comparison, random_state=1), tmp_path, overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_reading_says_what_is_wrong(small_comparison, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no results\.json here\. Give the folder"):
        read_results(tmp_path)
    path = tmp_path / "results.json"
    text = small_comparison.to_json()
    for content in (text[: len(text) // 2], "[]", "{}", '{"format": "x", "version": 9}'):
        path.write_text(content)
        with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}: results must"):
            read_results(tmp_path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="results must be UTF-8 text"):
        read_results(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(OSError, match=r"results\.json: can't be read \(Is a directory\)"):
        read_results(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no results\.json here"):
        read_results(tmp_path / "results.json" / "x")


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("truth", 3), 7),
        (("truth", 3), 0.5),
        (("labels", 0), 1),
        (("results", 0, "tuned"), 10**12),  # so many words would be written
        (("results", 0, "transductive"), 10**12),
        (("results", 0, "selection"), ["best"]),
        (("results", 0, "optimistic"), ""),
        (("results", 0, "layer"), "9"),
        (("results", 0, "seconds"), float("inf")),
        (("results", 0, "seconds"), True),
        (("results", 0, "chosen"), "abc"),
        (("results", 0, "class_weight"), None),
        (("results", 0, "confusion", 0, 0), 1.5),
        (("results", 0, "layer_weights"), [[2.0]]),
        (("results", 0, "mixed_layers"), [float("nan")]),
        (("folds", 0, "claim"), 3),
        (("notes", 0), {}),
        (("caches", "emodb-hubert"), 3),
        (("command",), 3),
        (("versions", "torch"), 3),
        (("projection", "explained"), [0.5]),
        (("projection", "explained", 0), 1e30),
        (("projection", "points", 0), [1e300, 0.0]),
        (
            ("differences",),
            [
                {
                    "first": 0,
                    "second": 99,
                    "difference": 0.1,
                    "p_permutation": 0.1,
                    "p_corrected": 0.1,
                    "p_resampled_t": None,
                }
            ],
        ),
        (
            ("differences",),
            [
                {
                    "first": 0,
                    "second": 1,
                    "difference": 0.1,
                    "p_permutation": 0.1,
                    "p_corrected": "<b>",
                    "p_resampled_t": None,
                }
            ],
        ),
        (("speakers",), ["a"]),
        (("utterance_ids",), []),
        (("results",), []),
        (("folds", 0, "tested_in", 0, 0), 10),
        (("folds", 0, "tested_in", 0), [0]),
        (("folds", 0, "tested_in"), 3),
        (("results", 0, "protocol"), "other"),
        (("results", 0, "predictions", 0, 0), 7),
        (("results", 0, "predictions", 0, 0), -1),
        (("results", 0, "predictions"), []),
        (("results", 0, "recall"), [1.0]),
        (("results", 0, "recall", 0), "1.0"),
        (("results", 0, "confusion", 2), [1]),
        (("results", 0, "confusion", 2, 2), -5),
        (("results", 0, "accuracy", "low"), -0.1),
        (("results", 0, "fold_accuracy", "std"), None),
        (("results", 0, "speaker_scores", "emodb:03"), 2),
        (("results", 0, "seconds"), "long"),
    ],
)
def test_results_that_were_changed_are_refused(small_comparison, tmp_path, where, value):
    record = json.loads(small_comparison.to_json())
    *path, last = where
    inner = record
    for step in path:
        inner = inner[step]
    inner[last] = value
    (tmp_path / "results.json").write_text(json.dumps(record))
    message = rf"^{re.escape(str(tmp_path / 'results.json'))}: results must (fit together\. .* Run fit again|have the fields of|be a JSON object)"
    with pytest.raises(ValueError, match=message):
        read_results(tmp_path)


def test_runs_of_two_caches_become_one_table(small_comparison):
    first, second = only(small_comparison, "emodb-wav2vec2"), only(small_comparison, "emodb-hubert")
    second = replaced(
        shuffled(second), command="sslfeat fit emodb-hubert.h5", versions={"torch": "2.14.0", "numpy": "2"}
    )
    joined = join([first, second])
    assert joined.results == first.results + only(small_comparison, "emodb-hubert").results
    assert joined.caches == small_comparison.caches
    assert joined.command.splitlines() == [small_comparison.command, "sslfeat fit emodb-hubert.h5"]
    assert joined.versions == {**small_comparison.versions, "torch": "2.13.0 / 2.14.0", "numpy": "2"}
    assert joined.notes[:-1] == small_comparison.notes
    assert "Joined from 2 runs" in joined.notes[-1]
    assert joined.best == small_comparison.best


def test_a_protocol_that_one_run_lacks_comes_along(small_comparison):
    honest = replaced(
        small_comparison,
        folds=small_comparison.folds[:1],
        results=tuple(result for result in small_comparison.results if not result.optimistic),
    )
    joined = join([honest, small_comparison])
    assert joined.folds == small_comparison.folds
    # Rows with equal predictions are the same row.
    assert sorted(r.title for r in joined.results) == sorted(r.title for r in small_comparison.results)


def test_equal_rows_with_other_predictions_are_both_kept(small_comparison):
    first = replaced(small_comparison, results=small_comparison.results[:1])
    result = first.results[0]
    other = replaced(result, predictions=((0,) * len(first.truth),))
    assert join([first, replaced(first, results=(other,))]).results == (result, other)


def test_one_name_for_two_caches_is_numbered(small_comparison):
    first = only(small_comparison, "emodb-hubert")
    other = replaced(first, caches={"emodb-hubert": {"model_id": "other"}})
    joined = join([first, other, other])
    assert joined.caches == {**first.caches, "emodb-hubert #2": {"model_id": "other"}}
    assert [result.cache for result in joined.results] == ["emodb-hubert"] * 8 + ["emodb-hubert #2"] * 8


def test_notes_of_a_renamed_cache_name_it_anew(small_comparison):
    first = only(small_comparison, "emodb-hubert")
    notes = ("emodb-hubert is not complete: emodb-hubert/03a01 is, emodb-hubert: x is, emodb-hubert-2 is.",)
    other = replaced(first, caches={"emodb-hubert": {"model_id": "other"}}, notes=notes, random_state=7)
    joined = join([first, other])
    new = notes[0].replace("emodb-hubert is", "emodb-hubert #2 is")
    assert joined.notes[: len(first.notes)] == first.notes
    assert joined.notes[len(first.notes) : -1] == (new, "Run 2 had seed 7, run 1 seed 0.")
    assert not any("seed" in note for note in join([first, first]).notes)


def test_joining_one_run_changes_nothing(small_comparison):
    assert join([small_comparison]) is small_comparison


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": tuple("abcdefg")}, r"must have the same labels\. Run 1 has anger, .*; run 2 has a, b,"),
        (
            {"utterance_ids": "new"},
            r"the same utterances\. 2 are only in run 1 or only in run 2: emodb/.*, new",
        ),
        ({"speakers": "new"}, r"agree on the utterances' speakers\. Run 1 and run 2 differ on 1, as emodb/"),
        ({"truth": 6}, r"agree on the utterances' labels\. Run 1 and run 2 differ on 1, as emodb/"),
    ],
)
def test_runs_that_tested_something_else_are_not_joined(small_comparison, changes, message):
    [(name, value)] = changes.items()
    if name != "labels":
        value = (value, *getattr(small_comparison, name)[1:])
    with pytest.raises(ValueError, match=message):
        join([small_comparison, replaced(small_comparison, **{name: value})])


def test_runs_with_other_folds_are_not_joined(small_comparison):
    honest, paper = small_comparison.folds
    reseeded = replaced(paper, tested_in=(paper.tested_in[0][::-1],))
    other = replaced(small_comparison, folds=(honest, reseeded))
    with pytest.raises(ValueError, match="Run 2 has other folds under paper than the runs before it"):
        join([small_comparison, other])


def test_there_must_be_something_to_join():
    with pytest.raises(ValueError, match=r"join needs at least one comparison\. Got none"):
        join([])
