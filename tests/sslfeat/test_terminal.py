"""What a run shows: on a terminal, in a log, and in a pipe."""

import csv
import io
import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from cache.schema import Duplicate, Failure
from sslfeat import terminal
from sslfeat.extract import Extraction


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")


# progress


def test_a_log_gets_a_line_every_ten_seconds_and_one_at_the_end(capsys, clock):
    with terminal.show_progress("utterances") as show:
        for seconds, done in (
            (0, 0),
            (4, 1),
            (9.9, 2),
            (10, 3),
            (15, 4),
            (20, 5),
            (21, 10),
            (22, 10),
            (40, 10),
        ):
            clock.now = 100.0 + seconds
            show(done, 10, f"{done % 3} failed")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "3/10 utterances, 0 failed, 23 s left",
        "5/10 utterances, 2 failed, 20 s left",
        "10/10 utterances, 1 failed",
    ]


def test_a_log_gets_nothing_where_there_is_nothing_to_do(capsys, clock):
    with terminal.show_progress("files") as show:
        show(0, 0, "")
        clock.now += 60
        show(0, 0, "")
        show(0, 3, "")
        show(3, 3, "")
    assert capsys.readouterr().err == "0/3 files\n3/3 files\n"


def test_quiet_is_quiet_in_a_log_and_on_a_terminal(capsys, on_terminal):
    with terminal.show_progress("files", quiet=True) as show:
        show(1, 2, "")
        show(2, 2, "")
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_that_shows_remarks_as_they_are(capsys, on_terminal):
    with terminal.show_progress("fits") as show:
        show(0, 4, "")
        show(4, 4, "a[red]b, layer 3")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "4/4" in captured.err
    assert "fits  a[red]b, layer 3" in captured.err
    assert "\x1b[" in captured.err


def test_a_bar_is_left_tidy_by_an_error(capsys, on_terminal):
    def stop() -> None:
        with terminal.show_progress("fits") as show:
            show(1, 4, "")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert capsys.readouterr().err.endswith("\x1b[?25h")  # the cursor is shown again


# sentences


def test_long_lists_are_cut(capsys):
    terminal.tell_some("nothing:", [])
    terminal.tell_some("failed:", [f"{number}.wav" for number in range(10)])
    terminal.tell_some("duplicates:", [f"{number}.wav" for number in range(12)])
    told = capsys.readouterr().err.splitlines()
    assert told[:11] == ["failed:", *(f"  {number}.wav" for number in range(10))]
    assert told[11:] == ["duplicates:", *(f"  {number}.wav" for number in range(10)), "  ... and 2 more"]


def test_each_distinct_warning_is_a_line(capsys):
    with terminal.warnings_as_lines():
        for text in ("did not converge\nin 100 steps", "too few", "did not converge\nin 200 steps"):
            warnings.warn(text, stacklevel=1)
        with pytest.raises(ValueError, match="no"):
            raise ValueError("no")
    assert capsys.readouterr() == ("", "warning: did not converge\nwarning: too few\n")


def extraction(**changes: Any) -> Extraction:
    fields: dict[str, Any] = {
        "cache_path": Path("out.h5"), "num_written": 0, "num_kept": 0, "audio_seconds": 0.0, "wall_seconds": 2.0,
        "failures": [], "duplicates": [], "gone": [], "set_aside": [],
    }  # fmt: skip
    return Extraction(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_kept": 7}, "nothing left to do, 7 there already; 0 failed, 0 duplicates."),
        ({"num_written": 3, "audio_seconds": 90.4}, "3 utterances written (90 s of audio, 45 x real time); 0 failed, 0 duplicates."),
        ({"num_written": 1, "num_kept": 2, "audio_seconds": 5.0, "wall_seconds": 0.0}, "1 utterance written (5 s of audio, 5000000000 x real time), 2 there already; 0 failed, 0 duplicates."),
        ({"failures": [Failure(id="a", path="a.wav", reason="silent.")]}, "nothing written; 1 failed, 0 duplicates."),
        ({"duplicates": [Duplicate(id="b", path="b.wav", original_id="a")]}, "nothing left to do; 0 failed, 1 duplicate."),
    ],
)  # fmt: skip
def test_an_extraction_ends_with_what_was_written(capsys, changes, sentence):
    terminal.tell_extraction(extraction(**changes))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1] == f"out.h5: {sentence}"


def test_an_extraction_tells_all_that_is_missing(capsys):
    same = Duplicate(id="b", path="b.wav", original_id="a", label="fear", original_label="fear")
    clash = Duplicate(id="c", path="c.wav", original_id="a", label="joy", original_label="fear")
    terminal.tell_extraction(
        extraction(
            failures=[Failure(id="d", path="deep/d.wav", reason="truncated.")],
            duplicates=[same, clash],
            gone=["e\x1b[31m"],
            outdated=["g"],
            set_aside=["part-00000001.h5: cut short."],
            clipped=["f"],
            sample_rates={16_000: 3, 44_100: 1},
            durations=(0.36, 2.6, 8.984),
            num_written=4,
        )
    )
    assert capsys.readouterr().err.splitlines()[:-1] == [
        "damaged parts of an earlier run, set aside; their utterances were done again:",
        "  part-00000001.h5: cut short.",
        "duplicates, left out:",
        "  b has the samples of a",
        "  c has the samples of a, but is labelled joy and not fear",
        "in the cache, but not in the corpus any more; kept:",
        "  e\\x1b[31m",
        "changed in the corpus, but kept as they were, since their files are not there:",
        "  g",
        "clipped, kept:",
        "  f",
        "sample rates differ, and were made one: 3 at 16000 Hz, 1 at 44100 Hz",
        "durations: 0.36 to 8.98 s, median 2.60 s",
        "failed, left out:",
        "  deep/d.wav: truncated.",
    ]


# predictions

NAMES = ["a, b.wav", 'say "no"\t.wav', "\udcff.wav"]
SHARES = {"file": [0.25, 1 / 3, 1.0], "label": [0.75, 2 / 3, 0.0]}  # labels can have any name
KINDS = ["label", "label", "file"]


@pytest.mark.parametrize(
    ("form", "delimiter", "name"), [("csv", ",", 'say "no"\t.wav'), ("table", "\t", 'say "no"\\t.wav')]
)
def test_piped_predictions_are_read_back_by_a_reader_of_csv(capsys, form, delimiter, name):
    terminal.print_predictions(NAMES, KINDS, SHARES, form)
    captured = capsys.readouterr()
    assert captured.err == ""
    assert list(csv.reader(io.StringIO(captured.out), delimiter=delimiter)) == [
        ["file", "label", "file", "label"],
        ["a, b.wav", "label", "0.250000", "0.750000"],
        [name, "label", "0.333333", "0.666667"],
        [r"\xff.wav", "file", "1.000000", "0.000000"],
    ]


@pytest.mark.parametrize("start", "=+-@\t\r\n\uff1d")
def test_predictions_as_csv_run_no_formula(capsys, start):
    terminal.print_predictions([f"{start}1+1"], [f"{start}joy"], {f"{start}joy": [1.0]}, "csv")
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out, newline="")))
    assert rows == [
        ["file", "label", f"'{start}joy"],
        [f"'{start}1+1", f"'{start}joy", "1.000000"],
    ]


def test_no_name_steers_the_terminal(capsys, monkeypatch, on_terminal):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    for form in ("csv", "table"):
        terminal.print_predictions(["a\x1b]0;b\x07.wav"], ["\u202ejoy"], {}, form)
        out = capsys.readouterr().out
        assert r"a\x1b]0;b\x07.wav" in out
        assert r"\u202ejoy" in out
    with terminal.show_progress("fits") as show:
        show(1, 2, "row\x1b[2J\x1b]0;title\x07")
    assert r"row\x1b[2J\x1b]0;title\x07" in capsys.readouterr().err
    terminal.tell("note: \x1b[2J\nnext")
    assert capsys.readouterr().err == "note: \\x1b[2J\\nnext\n"


def test_predictions_as_json_keep_every_digit(capsys):
    terminal.print_predictions(NAMES, KINDS, SHARES, "json")
    rows = json.loads(capsys.readouterr().out)
    assert [row["file"] for row in rows] == ["a, b.wav", 'say "no"\t.wav', r"\xff.wav"]
    assert [row["label"] for row in rows] == KINDS
    assert rows[1]["probabilities"] == {"file": 1 / 3, "label": 2 / 3}
    terminal.print_predictions(["a"], ["joy"], {}, "json")
    assert json.loads(capsys.readouterr().out) == [{"file": "a", "label": "joy"}]


def test_predictions_on_a_terminal_are_a_table(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    terminal.print_predictions(["a.wav"], ["joy"], {"joy": [0.987], "fear": [0.013]}, "table")
    rows = [
        [cell.strip() for cell in line.strip("│").split("│")] for line in capsys.readouterr().out.splitlines()
    ]
    assert ["a.wav", "joy", "0.99", "0.01"] in rows
    terminal.print_predictions(["a.wav"], ["joy"], {"joy": [0.987], "fear": [0.013]}, "csv")
    assert capsys.readouterr().out == "file,label,joy,fear\na.wav,joy,0.987000,0.013000\n"
