"""The documents' numbers are those of the results, and a block is replaced whole."""

import json
import re

import pytest

from benchmarks.tables import BLOCKS, DOCUMENTS, RESULTS, ROOT, STAGES, filled


@pytest.fixture
def results(tmp_path):
    stage = {"seconds": 1.234, "processor_seconds": 1, "megabytes": 5, "list_megabytes": 36}
    rows = dict.fromkeys(STAGES, stage) | {"file_megabytes": 32.4}
    machine = {"device": "a machine", "load_before": [0.1, 0.2, 0.3]}
    race = {
        "arch": "base", "files": 23, "audio_seconds": 64.2, "versions": {"torch": "2", "transformers": "5"},
        "skipped": {"ONNX Runtime": "it isn't installed"},
        "results": {
            "the usual loop": {
                "audio_seconds_per_second": 12.34, "ratio": 1.0, "peak_megabytes": 1000, "share_of_matrix_peak": 0.5,
                "error": 0.0,
            },
            "sslfeat": {
                "audio_seconds_per_second": 24.68, "ratio": 2.0, "peak_megabytes": 900, "share_of_matrix_peak": 0.9,
                "error": 4.3e-7, "share_outside_encoder": 0.04,
            },
        },
    }  # fmt: skip
    layer = {
        "rows": {"2000": {"megabytes": 6.1, "read_ms": 1.0, "numpy_load_ms": 0.9, "share_of_numpy_load": 0.9}}
    }
    (tmp_path / "extraction-base-cpu.json").write_text(json.dumps(machine | race))
    (tmp_path / "scale.json").write_text(json.dumps(machine | {"rows": {"10000": rows, "1000000": rows}}))
    (tmp_path / "cache.json").write_text(json.dumps(machine | {"layer": layer}))
    one = {"processor_s": 12.3, "times_ours": 3.14}
    heads = {
        "device": "a machine",
        "load": 0.1,
        "heads": 130,
        "epochs": 50,
        "together": one,
        "perceptrons": one,
    }
    (tmp_path / "heads.json").write_text(json.dumps(heads))
    found = {"ours": {"processor_s": 1.0}, "theirs": {"processor_s": 3.0}, "times_faster": 3.0}
    menu = {
        "device": "a machine", "load": 0.1, "utterances": 535, "layers": 13, "speakers": 10, "times_faster": 2.5,
        "results": {"svm": found | {"different_predictions": 1}, "lda": found | {"different_predictions": 2}},
        "processor_s": {"ours": 2.0, "theirs": 5.0},
    }  # fmt: skip
    (tmp_path / "menu.json").write_text(json.dumps(menu))
    embedded = {"random twin 0": {"balanced_accuracy": 0.51239, "interval": [0.4, 0.666]}}
    (tmp_path / "embedded.json").write_text(json.dumps({"results": embedded}))
    return tmp_path


def test_the_encoder_in_the_box(results):
    lines = filled("<!-- begin embedded --><!-- end embedded -->", results).splitlines()
    assert lines[-3] == "| random twin 0 | 0.512 | 0.40 to 0.67 |"


def test_the_heads_and_the_menu(results):
    lines = filled("<!-- begin heads --><!-- end heads -->", results).splitlines()
    assert "130 heads, 50 epochs; a machine; load average 0.1." in lines
    assert "| `MLPClassifier` under joblib | 12 s | 3.1 |" in lines
    lines = filled("<!-- begin menu --><!-- end menu -->", results).splitlines()
    assert lines[2].endswith("load average 0.1; predictions that differ: 3.")
    assert lines[-3] == "| **all** | 2.0 s | 5.0 s | **2.5** |"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_says_what_the_results_say(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert filled(text) == text, "run python benchmarks/tables.py"


def test_every_block_has_its_place_and_its_results():
    texts = "".join((ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS)
    assert set(re.findall(r"<!-- begin (\w+) -->", texts)) == set(BLOCKS)
    assert list(RESULTS.glob("extraction-*.json"))


def test_a_block_is_replaced_and_nothing_else(results):
    text = "before\n<!-- begin layer -->\nold <!-- end scale -->\n<!-- end layer -->\nafter <!-- begin"
    made = filled(text, results)
    assert made.startswith("before\n<!-- begin layer -->\n\na machine; load average before the run 0.1.\n")
    assert made.endswith("| 2,000 | 6 | 1.0 | 0.9 | 0.90 |\n\n<!-- end layer -->\nafter <!-- begin")
    assert filled(made, results) == made


def test_the_race(results):
    lines = filled("<!-- begin extraction --><!-- end extraction -->", results).splitlines()
    assert (
        "base, a machine: 23 files, 64 s of audio; torch 2, transformers 5; load average before the run 0.1."
        in lines
    )
    assert "| the usual loop | 12.3 | 1.00 | 1000 | 50% | 0 |  |" in lines
    assert "| **sslfeat** | 24.7 | 2.00 | 900 | 90% | 4e-07 | 4% |" in lines
    assert "Not run: ONNX Runtime (it isn't installed)." in lines


def test_the_scale(results):
    lines = filled("<!-- begin scale --><!-- end scale -->", results).splitlines()
    assert "|  | 10,000 rows | 1,000,000 rows |" in lines
    assert "| resume a finished run | 1.2 s (1.0 s), 5 MB | 1.2 s (1.0 s), 5 MB |" in lines
    assert "| the list of utterances | 36 MB | 36 MB |" in lines
    assert "| the cache | 32 MB | 32 MB |" in lines
