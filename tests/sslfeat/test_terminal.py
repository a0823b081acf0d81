"""What a run shows: on a terminal, in a log, and in a pipe."""

import csv
import io
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cache.schema import Duplicate, Failure, Utterance
from sslfeat import terminal
from sslfeat.check import CheckReport, Heard
from sslfeat.corpora import CORPORA, CorpusListing
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


def drawn(*tables: Any, width: int = 100) -> list[list[str]]:
    """The cells of tables as they are printed, line by line."""
    file = io.StringIO()
    for table in tables:
        Console(file=file, width=width).print(table)
    lines = file.getvalue().replace("┃", "│").splitlines()
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


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
            gone=["e"],
            set_aside=["part-00000001.h5: cut short."],
        )
    )
    assert capsys.readouterr().err.splitlines()[:-1] == [
        "damaged parts of an earlier run, set aside; their utterances were done again:",
        "  part-00000001.h5: cut short.",
        "duplicates, left out:",
        "  b has the samples of a",
        "  c has the samples of a, but is labelled joy and not fear",
        "in the cache, but not in the corpus any more; kept:",
        "  e",
        "failed, left out:",
        "  deep/d.wav: truncated.",
    ]


# predictions

NAMES = ["a, b.wav", 'say "no"\t.wav', "\udcff.wav"]
SHARES = {"file": [0.25, 1 / 3, 1.0], "label": [0.75, 2 / 3, 0.0]}  # labels can have any name
KINDS = ["label", "label", "file"]


@pytest.mark.parametrize(("form", "delimiter"), [("csv", ","), ("table", "\t")])
def test_piped_predictions_are_read_back_by_a_reader_of_csv(capsys, form, delimiter):
    terminal.print_predictions(NAMES, KINDS, SHARES, form)
    captured = capsys.readouterr()
    assert captured.err == ""
    assert list(csv.reader(io.StringIO(captured.out), delimiter=delimiter)) == [
        ["file", "label", "file", "label"],
        ["a, b.wav", "label", "0.250000", "0.750000"],
        ['say "no"\t.wav', "label", "0.333333", "0.666667"],
        [r"\xff.wav", "file", "1.000000", "0.000000"],
    ]


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


# tables


@pytest.mark.parametrize("text", ["[red]x[/red]", "[/x].h5", "a:b:c", r"\[x]"])
def test_what_looks_like_markup_is_shown_as_it_is(text):
    rows = drawn(terminal.make_table(text, [text, "n"], [[text, 1]]))
    assert rows[0] == [text]
    assert [text, "n"] in rows
    assert [text, "1"] in rows


def test_labels_by_speaker_add_up():
    rows = drawn(terminal.label_table({"x:1": {"fear": 2, "": 1}, "": {"joy": 3}}))
    assert ["speaker", "(no label)", "fear", "joy", "all"] in rows
    assert ["x:1", "1", "2", "0", "3"] in rows
    assert ["(unknown)", "0", "0", "3", "3"] in rows
    assert ["all", "1", "2", "3", "6"] in rows


def test_a_cache_is_described_with_what_it_lacks():
    summary: dict[str, Any] = {
        "path": "out.h5", "spec": {"layers": [0, 1]}, "utterances": 3, "duration_seconds": 5400.0, "complete": False,
        "file_size": 2_345_678, "fingerprint": "f" * 64, "schema_version": 1, "labels_by_speaker": {"x:1": {"joy": 3}},
        "failures": [{"id": "a", "path": "a.wav", "reason": "silent."}], "duplicates": [],
    }  # fmt: skip
    rows = drawn(*terminal.describe_cache(summary))
    for row in (
        ["audio", "1.50 h"],
        ["complete", "no: a part of a run"],
        ["size", "2.3 MB"],
        ["fingerprint", "f" * 64],
        ["layers", "[0, 1]"],
        ["a", "a.wav", "silent."],
    ):
        assert row in rows
    assert ["Failures"] in rows
    assert ["Duplicates"] not in rows
    short = drawn(*terminal.describe_cache(summary | {"duration_seconds": 90.0, "complete": True}))
    assert ["audio", "1.5 min"] in short
    assert ["complete", "yes"] in short


def test_a_check_is_described_with_what_is_off():
    said = [Utterance(id=name, path=f"{name}.wav", speaker="x:1", label="joy") for name in "abc"]
    heard = [
        Heard(utterance=one, seconds=seconds, sample_rate=16_000, num_channels=1, num_clipped=0)
        for one, seconds in zip(said, (1.0, 2.0, 3.0), strict=True)
    ]
    listing = CorpusListing(
        name="own", guessed=False, root=Path("own"), utterances=said, notes=[], unexpected=["z.wav"], missing=[],
        is_complete=True,
    )  # fmt: skip
    good = drawn(
        *terminal.describe_check(CheckReport(listing=listing, heard=heard, failures=[], duplicates=[]))
    )
    for row in (
        ["utterances", "3"],
        ["durations", "1.00 to 3.00 s, median 2.00 s"],
        ["sample rates", "3 at 16000 Hz"],
        ["channels", "3 at 1"],
        ["unexpected names", "1"],
        ["verdict", "nothing is off"],
    ):
        assert row in good
    failure = Failure(id="c", path="c.wav", reason="silent.")
    copy = Duplicate(id="b", path="b.wav", original_id="a", label="joy", original_label="fear")
    bad = CheckReport(listing=listing, heard=heard[:2], failures=[failure], duplicates=[copy])
    rows = drawn(*terminal.describe_check(bad))
    for row in (["c.wav", "silent."], ["b", "joy", "a", "fear"], ["verdict", "something is off"]):
        assert row in rows


def test_every_known_corpus_can_be_described():
    overview = drawn(terminal.describe_corpora(CORPORA.values()), width=300)
    assert {row[0] for row in overview if len(row) == 7} == {"corpus", *CORPORA}
    for entry in CORPORA.values():
        rows = drawn(terminal.describe_corpus(entry), width=300)
        assert rows[0] == [entry.key]
        assert ["where to get it", entry.url] in rows
        assert ["files", str(entry.num_files or "differs by release")] in rows
    emodb = drawn(terminal.describe_corpus(CORPORA["emodb"]), width=300)
    assert ["labels", "W: Wut, anger, 127 files"] in emodb
