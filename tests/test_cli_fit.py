"""From a cache to a table, a report and predictions, by the commands that a user types."""

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import cli
from cache import FeatureCache
from classify.estimators import named
from classify.results import Comparison
from tests.conftest import Outcome

Call = Callable[..., Outcome]
LABELS = ["anger", "happiness", "neutral"]


def lines(text: str, delimiter: str = "\t") -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text), delimiter=delimiter))


# fit


def test_fit_prints_a_table_to_pipe_and_tells_the_rest_on_standard_error(fitted):
    path, done = fitted
    assert done.status == 0
    table = lines(done.out)
    rows = [(row["layer"], row["classifier"]) for row in table if row["layer"].isdigit()]
    assert sorted(rows) == sorted(
        (str(layer), name) for layer in range(3) for name in ("logistic", "gaussian-nb")
    )
    assert {row["features"] for row in table} == {"emodb"}
    assert {row["protocol"] for row in table} == {"leave-one-speaker-out"}
    for row in table:
        for metric in ("accuracy", "balanced_accuracy", "f1_macro"):
            assert 0 <= float(row[f"{metric}_low"]) <= float(row[metric]) <= float(row[f"{metric}_high"]) <= 1
    (best,) = [row for row in table if row["note"].startswith("best")]
    scored = [float(row["balanced_accuracy"]) for row in table if row["layer"].isdigit()]
    assert float(best["balanced_accuracy"]) == max(scored)
    assert "tells 3 emotions apart with" in done.err
    assert "4 speakers are few" in done.err
    assert "leave-one-speaker-out: Checked in all 4 folds: no speaker and no exact copy" in done.err
    assert f"fitted again on all utterances: {path / 'bundle'}" in done.err
    assert not re.search(r"[\x1b\r]", done.out + done.err)


def test_fit_compares_the_whole_menu(sslfeat: Call, cache_path, tmp_path):
    options = ["--classifier", "all", "--layer", "1", "--jobs", "1", "--quiet"]
    done = sslfeat("fit", cache_path, "-o", tmp_path / "results", *options)
    assert done.status == 0
    assert [row["classifier"] for row in lines(done.out)] == [*named(["all"]), "majority", "duration"]


def test_fit_writes_every_file_and_nothing_else(results_dir):
    files = {file.relative_to(results_dir).as_posix() for file in results_dir.rglob("*") if file.is_file()}
    assert files == {
        *("results.json", "results.csv", "predictions.csv", "report.html", "report.md", "table.tex"),
        *("bundle/bundle.json", "bundle/estimator.skops"),
    }
    page = (results_dir / "report.html").read_text(encoding="utf-8")
    assert "randomly initialised" in page
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)


def test_scores_follow_from_the_predictions(results_dir, cache_path):
    predictions = lines((results_dir / "predictions.csv").read_text(encoding="utf-8"), ",")
    with FeatureCache(cache_path) as cache:
        assert [row["utterance_id"] for row in predictions] == cache.utterance_ids.tolist()
        assert [row["label"] for row in predictions] == cache.labels.tolist()
        assert [row["speaker"] for row in predictions] == cache.speakers.tolist()
    results = lines((results_dir / "results.csv").read_text(encoding="utf-8"), ",")
    compared = 0
    for row in results:
        if not row["layer"].isdigit():
            continue
        title = f"emodb, layer {row['layer']}, mean, {row['classifier']}"
        hits = [one["label"] == one[title] for one in predictions]
        assert float(row["accuracy"]) == pytest.approx(np.mean(hits))
        recalls = [
            np.mean([hit for hit, one in zip(hits, predictions, strict=True) if one["label"] == label])
            for label in LABELS
        ]
        assert float(row["balanced_accuracy"]) == pytest.approx(np.mean(recalls))
        compared += 1
    assert compared == 6


def test_results_record_how_they_were_made(sslfeat: Call, cache_path, tmp_path, monkeypatch):
    arguments = [
        "fit",
        str(cache_path),
        "-o",
        str(tmp_path / "a folder"),
        "--layer",
        "2",
        "--classifier",
        "lda",
    ]
    arguments += ["--jobs", "1", "--seed", "7", "--quiet", "--no-baselines", "--protocol", "speaker-2-fold"]
    arguments += ["--merge-labels", "happiness=joy", "--exclude-label", "neutral", "--pooling", "mean+std"]
    monkeypatch.setattr("sys.argv", ["/usr/bin/sslfeat", *arguments])
    done = sslfeat(*arguments)
    assert done.status == 0
    assert [row["layer"] for row in lines(done.out)] == ["2"]
    assert not re.search(r"^\d+/\d+ ", done.err, re.M)
    comparison = Comparison.from_json((tmp_path / "a folder" / "results.json").read_text(encoding="utf-8"))
    assert comparison.command.startswith("sslfeat fit ")
    assert f"-o '{tmp_path / 'a folder'}'" in comparison.command
    assert (comparison.random_state, comparison.labels) == (7, ("anger", "joy"))
    (result,) = comparison.results
    assert (result.pooling, result.classifier, result.layer) == ("mean+std", "lda", 2)
    assert len(comparison.folds_of(result).names) == 2
    facts = json.loads((tmp_path / "a folder" / "bundle" / "bundle.json").read_text(encoding="utf-8"))
    assert (facts["labels"], facts["pooling"]) == (["anger", "joy"], "mean+std")


def test_several_caches_stand_in_one_table(sslfeat: Call, cache_path, tmp_path):
    other = shutil.copy(cache_path, tmp_path / "other.h5")
    options = ["--classifier", "nearest-centroid", "--layer", 0, "--layer", 1, "--jobs", 1, "--no-baselines"]
    done = sslfeat("fit", cache_path, other, "-o", tmp_path / "results", *options)
    found = [(row["features"], row["layer"], row["accuracy"]) for row in lines(done.out)]
    assert [row[:2] for row in found] == [("emodb", "0"), ("emodb", "1"), ("other", "0"), ("other", "1")]
    assert [row[2] for row in found[:2]] == [row[2] for row in found[2:]]


def test_replaced_results_keep_no_bundle_of_the_run_before(sslfeat: Call, results_dir, cache_path, tmp_path):
    folder = shutil.copytree(results_dir, tmp_path / "results")
    options = [
        "--classifier",
        "gaussian-nb",
        "--layer",
        1,
        "--jobs",
        1,
        "--quiet",
        "--no-baselines",
        "--overwrite",
    ]
    # A bundle would meet speakers that it can't normalise by.
    done = sslfeat("fit", cache_path, "-o", folder, *options, "--speaker-norm")
    assert done.status == 0
    assert "fitted again" not in done.err
    assert not (folder / "bundle").exists()
    assert sslfeat("fit", cache_path, "-o", folder, *options).status == 0
    facts = json.loads((folder / "bundle" / "bundle.json").read_text(encoding="utf-8"))
    assert (facts["classifier"], facts["layers"]) == ("gaussian-nb", [1])


def test_the_next_row_becomes_the_bundle_where_the_best_can_not(
    sslfeat: Call, cache_path, tmp_path, monkeypatch
):
    options = [
        "--classifier",
        "knn",
        "--classifier",
        "gaussian-nb",
        "--layer",
        1,
        "--jobs",
        1,
        "--no-baselines",
    ]
    options += ["--quiet", "--overwrite"]
    first = sslfeat("fit", cache_path, "-o", tmp_path / "results", *options)
    best, other = sorted(lines(first.out), key=lambda row: row["note"] != "best")
    reason = "it needs two microphones"
    monkeypatch.setattr(
        "classify.bundle.why_not_kept", lambda row: reason if row.classifier == best["classifier"] else ""
    )
    done = sslfeat("fit", cache_path, "-o", tmp_path / "results", *options)
    titles = [f"emodb, layer 1, mean, {row['classifier']}" for row in (best, other)]
    assert f"; no bundle of {titles[0]}: {reason}; {titles[1]}, fitted again on all utterances: " in done.err
    facts = json.loads((tmp_path / "results" / "bundle" / "bundle.json").read_text(encoding="utf-8"))
    assert facts["classifier"] == other["classifier"]


# report


def test_report_draws_the_same_page_again(sslfeat: Call, results_dir, tmp_path):
    folder = shutil.copytree(results_dir, tmp_path / "results")
    page = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    done = sslfeat("report", folder)
    assert (done.status, done.out, done.err) == (0, f"{folder / 'report.html'}\n", "")
    assert (folder / "report.html").read_bytes() == page


def test_report_joins_runs(sslfeat: Call, results_dir, cache_path, tmp_path):
    options = ["--classifier", "knn", "--layer", 1, "--jobs", 1, "--quiet"]
    assert sslfeat("fit", cache_path, "-o", tmp_path / "knn", *options).status == 0
    done = sslfeat("report", results_dir, tmp_path / "knn", "-o", tmp_path / "joint")
    assert (done.status, done.out) == (0, f"{tmp_path / 'joint' / 'report.html'}\n")
    rows = lines((tmp_path / "joint" / "results.csv").read_text(encoding="utf-8"), ",")
    first = lines((results_dir / "results.csv").read_text(encoding="utf-8"), ",")
    assert rows[: len(first)] == first
    assert [(row["classifier"], row["layer"]) for row in rows[len(first) :]] == [("knn", "1")]


# predict


def test_predict_says_of_audio_what_it_says_of_the_cache(
    sslfeat: Call, results_dir, cache_path, corpus_dir, model_directory
):
    heard = sslfeat(
        "predict", results_dir / "bundle", corpus_dir, "--model", model_directory, "--device", "cpu"
    )
    read = sslfeat("predict", results_dir / "bundle", "--cache", cache_path)
    assert (heard.status, read.status, read.err) == (0, 0, "")
    rows, known = lines(heard.out), lines(read.out)
    assert list(rows[0]) == ["file", "label", *LABELS]
    assert [row["file"] for row in rows] == [str(corpus_dir / Path(row["file"]).name) for row in rows]
    assert [f"emodb/{Path(row['file']).stem}" for row in rows] == [row["file"] for row in known]
    assert [row["label"] for row in rows] == [row["label"] for row in known]
    for row, other in zip(rows, known, strict=True):
        shares = [float(row[label]) for label in LABELS]
        assert sum(shares) == pytest.approx(1, abs=1e-5)
        assert row["label"] == LABELS[int(np.argmax(shares))]
        assert shares == pytest.approx([float(other[label]) for label in LABELS], abs=1e-4)
    assert heard.err.splitlines() == ["24/24 files, 0 failed"]


def test_predict_listens_to_frames_where_the_classifier_does(
    sslfeat: Call, corpus_dir, model_directory, tmp_path
):
    framed, results = tmp_path / "framed.h5", tmp_path / "results"
    source = ["--model", model_directory, "--device", "cpu", "--quiet"]
    made = sslfeat(
        "extract", corpus_dir, "-o", framed, "--corpus", "emodb", "--layers", "1,2", "--frames", *source
    )
    assert made.status == 0
    options = ["--classifier", "attentive", "--layer", 2, "--jobs", 1, "--quiet"]
    assert sslfeat("fit", framed, "-o", results, *options).status == 0
    heard = sslfeat("predict", results / "bundle", corpus_dir, *source)
    read = sslfeat("predict", results / "bundle", "--cache", framed)
    assert (heard.status, read.status) == (0, 0)
    rows, known = lines(heard.out), lines(read.out)
    assert [row["label"] for row in rows] == [row["label"] for row in known]
    for row, other in zip(rows, known, strict=True):
        shares = [[float(one[label]) for label in LABELS] for one in (row, other)]
        assert shares[0] == pytest.approx(shares[1], abs=1e-4)


def test_predict_keeps_the_order_of_the_command_line(
    sslfeat: Call, results_dir, corpus_dir, model_directory, tmp_path
):
    files = sorted(corpus_dir.iterdir())
    folder = tmp_path / "more"
    (folder / "deep").mkdir(parents=True)
    shutil.copy(files[0], folder / "deep" / "b.wav")
    shutil.copy(files[1], folder / "a.wav")
    given = [files[7], folder, files[3]]
    options = ["--model", model_directory, "--format", "json", "--quiet", "--jobs", 1]
    done = sslfeat("predict", results_dir / "bundle", *given, *options)
    rows = json.loads(done.out)
    expected = [files[7], folder / "a.wav", folder / "deep" / "b.wav", files[3]]
    assert [row["file"] for row in rows] == [str(path) for path in expected]
    assert all(list(row["probabilities"]) == LABELS for row in rows)
    assert all(max(row["probabilities"], key=row["probabilities"].get) == row["label"] for row in rows)
    assert (done.status, done.err) == (0, "")


def test_predict_tells_what_it_could_not_read(
    sslfeat: Call, results_dir, corpus_dir, model_directory, tmp_path
):
    good = min(corpus_dir.iterdir())
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    given = [tmp_path / "gone.wav", tmp_path / "bad.wav"]
    options = ["--model", model_directory, "--format", "csv", "--quiet"]
    done = sslfeat("predict", results_dir / "bundle", *given, good, *options)
    assert done.status == cli.PARTIAL_SUCCESS == 3
    assert [row["file"] for row in lines(done.out, ",")] == [str(good)]
    assert done.err.splitlines() == [
        "failed:",
        f"  {tmp_path / 'gone.wav'}: no such file.",
        f"  {tmp_path / 'bad.wav'}: no audio format that can be read. Convert it to wav or flac, or leave it out.",
    ]
    options[3] = "json"
    nothing = sslfeat("predict", results_dir / "bundle", *given, *options)
    assert (nothing.status, nothing.out) == (3, "[]\n")


def test_predict_without_probabilities_gives_labels_alone(sslfeat: Call, cache_path, tmp_path, monkeypatch):
    monkeypatch.setattr("classify.probabilities._parts", lambda *_: [])  # as where no speaker can be spared
    options = ["--classifier", "ridge", "--layer", 2, "--jobs", 1]
    assert sslfeat("fit", cache_path, "-o", tmp_path / "results", *options).status == 0
    arguments = ["predict", tmp_path / "results" / "bundle", "--cache", cache_path, "--format"]
    table, listed = (sslfeat(*arguments, form) for form in ("csv", "json"))
    rows = lines(table.out, ",")
    assert [list(row) for row in rows] == [["file", "label"]] * 24
    assert {row["label"] for row in rows} <= set(LABELS)
    assert json.loads(listed.out) == rows
