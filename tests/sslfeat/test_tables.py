"""Every layout at 80 columns and at others, its numbers counted again from what was laid out."""

import io
import itertools
import re

import pytest
from rich.console import Console

from cache.schema import Duplicate, Failure, Utterance
from sslfeat.check import CheckReport, Heard
from sslfeat.corpora import CORPORA, CorpusListing
from sslfeat.tables import (
    describe_cache,
    describe_check,
    describe_corpora,
    describe_corpus,
    label_tables,
    make_table,
    printable,
)


def shown(*parts, width=80):
    file = io.StringIO()
    console = Console(file=file, width=width)
    for part in parts:
        console.print(part, soft_wrap=True)
    return file.getvalue()


def cells(text):
    """Return the tables' rows, cell by cell."""
    return [
        [cell.strip() for cell in re.split("[│┃]", line)[1:-1]]
        for line in text.splitlines()
        if line[:1] in "│┃"
    ]


def report_on(utterances, *, entry=None, clipped=0, **changes):
    listing = {
        "name": "own", "guessed": False, "root": "there", "notes": [], "unexpected": [], "missing": [], "is_complete": True,
    }  # fmt: skip
    given = {name: changes.pop(name) for name in (*listing, "repeated") if name in changes}
    heard = [
        Heard(utterance=one, seconds=2.0, sample_rate=16_000, num_channels=1, num_clipped=clipped)
        for one in utterances
    ]
    found = {"heard": heard, "failures": [], "duplicates": []} | changes
    return CheckReport(
        listing=CorpusListing(**(listing | given), utterances=utterances, entry=entry), **found
    )


def utterances(counts):
    """Make as many utterances as each speaker has of each label."""
    return [
        Utterance(
            id=f"own/{speaker}{label}{i}", path=f"{speaker}{label}{i}.wav", speaker=speaker, label=label
        )
        for (speaker, label), count in counts.items()
        for i in range(count)
    ]


# --- labels by speaker ---


@pytest.mark.parametrize("width", [40, 60, 80, 140])
@pytest.mark.parametrize("num_labels", [1, 8, 40])
def test_labels_and_speakers_stay_whole_and_every_number_is_shown_once(width, num_labels):
    nouns = ["anger", "anxiety", "boredom", "contempt", "disappointment", "concern", "happiness", "surprise"]
    labels = [f"{noun}{i or ''}" for i, noun in itertools.product(range(5), nouns)][:num_labels]
    by_speaker = {f"own:{s:02}": {label: 100 * s + i for i, label in enumerate(labels)} for s in range(1, 13)}
    tables = label_tables(by_speaker, width)
    text = shown(*tables, width=width)
    assert max(map(len, text.splitlines())) <= width
    columns = {}
    for table in tables:
        rows = cells(shown(table, width=width))
        assert [row[0] for row in rows] == ["speaker", *by_speaker, "all"]
        for column in list(zip(*rows, strict=True))[1:]:
            assert column[0] not in columns
            columns[column[0]] = [int(cell) for cell in column[1:]]
    totals = columns.pop("all")
    assert len(columns) == len(labels)
    for label, (name, column) in zip(sorted(labels), columns.items(), strict=True):
        assert label.startswith(name)
        assert len(name) >= min(4, len(label))
        expected = [counts[label] for counts in by_speaker.values()]
        assert column == [*expected, sum(expected)]
    assert totals == [sum(row) for row in zip(*columns.values(), strict=True)]


def test_labels_are_only_cut_where_they_must_be_and_stay_apart():
    by_speaker = {
        "emodb:03": dict.fromkeys(
            ["anger", "boredom", "disgust", "fear", "happiness", "neutral", "sadness"], 9
        )
    }
    assert cells(shown(*label_tables(by_speaker, 84), width=84))[0][1:-1] == [
        "ange", "bore", "disg", "fear", "happ", "neut", "sadn",
    ]  # fmt: skip
    assert cells(shown(*label_tables(by_speaker, 85), width=85))[0][1:-1] == list(by_speaker["emodb:03"])
    assert cells(shown(*label_tables({"x": {"concerned": 1, "concerted": 1}}, 38), width=38))[0][1:3] == [
        "concern", "concert",
    ]  # fmt: skip


def test_unknown_speakers_and_missing_labels_have_a_name():
    rows = cells(shown(*label_tables({"": {"": 2, "fear": 1}, "x": {"fear": 3}}, 80, {"fear": 9})))
    assert rows == [
        ["speaker", "(no label)", "fear", "all"],
        ["(unknown)", "2", "1", "3"],
        ["x", "0", "3", "3"],
        ["all", "2", "4", "6"],
        ["published", "0", "9", "9"],
    ]


# --- check ---


def test_a_whole_corpus_has_nothing_off():
    counts = {("emodb:03", label): count for label, count in {"anger": 127, "boredom": 81, "neutral": 79, "happiness": 71, "fear": 69, "sadness": 62, "disgust": 46}.items()}  # fmt: skip
    report = report_on(utterances(counts), entry=CORPORA["emodb"], name="emodb")
    parts = describe_check(report, 80)
    rows = cells(shown(*parts))
    facts = {row[0]: row[1:] for row in rows if len(row) == 4}
    assert facts["utterances"] == ["535", "535", ""]
    assert facts["speakers"] == ["1", "10", ""]
    assert facts["labels"] == ["7", "7", ""]
    assert facts["audio"] == ["0.30 h", "0.41 h", ""]
    assert facts["durations"] == ["2.00 to 2.00 s, median 2.00 s", "", ""]
    assert facts["sample rates"] == ["535 at 16000 Hz", "", ""]
    assert facts["verdict"] == ["nothing is off", "", ""]
    assert rows[-1] == ["published", "127", "81", "46", "69", "71", "79", "62", "535"]
    assert len(parts) == 2  # and no list of what is off


def test_what_is_off_is_marked_and_named():
    reason = "too long for one line, " * 10
    spoken = utterances({("a", "fear"): 12, ("a", ""): 1})
    duplicates = [
        Duplicate(id="own/x", path="x.wav", original_id="own/y", label="fear", original_label="anger"),
        *(Duplicate(id=f"own/{i}", path=f"{i}.wav", original_id="own/y") for i in range(11)),
    ]
    text = shown(
        *describe_check(
            report_on(
                spoken,
                clipped=3,
                missing=["m1"],
                unexpected=["a long name (1).wav"],
                repeated=["r"],
                is_complete=False,
                failures=[Failure(id="own/z", path="z.wav", reason=reason)],
                duplicates=duplicates,
            ),
            80,
        )
    )
    facts = {row[0]: row[1:] for row in cells(text) if len(row) == 4}
    marked = {name: found for name, (found, _, mark) in facts.items() if mark == "off"}
    assert marked == {
        "unlabelled": "1", "missing names": "1", "unexpected names": "1", "repeated names": "1", "failures": "1",
        "duplicates": "12", "verdict": "something is off",
    }  # fmt: skip
    assert facts["clipped"] == ["13", "", ""]
    lists = text[text.rindex("┘") :].splitlines()[1:]
    assert lists[:8] == [
        "Missing (1)",
        "  m1",
        "Not named as in the corpus (1)",
        "  a long name (1).wav",
        "Failures (1)",
        f"  z.wav: {reason}",
        "Duplicates under another label (1)",
        "  own/x (fear) has the samples of own/y (anger)",
    ]
    assert lists[8:11] == [
        "Duplicates (11)",
        "  own/0 has the samples of own/y",
        "  own/1 has the samples of own/y",
    ]
    assert lists[19] == "  ... and 1 more; --json names them all"
    assert lists[20] == "Clipped (13)"


def facts_told(report):
    return {row[0]: row[1:] for row in cells(shown(*describe_check(report, 80))) if len(row) == 4}


def test_labels_that_are_likely_misspelt_are_off_and_others_are_told():
    report = report_on(utterances({("a", "fear"): 2, ("a", "hapy"): 2, ("a", "smug"): 1}))
    assert facts_told(report)["unknown labels"] == ["2, as hapy (happiness?)", "", "off"]
    assert facts_told(report)["verdict"] == ["something is off", "", "off"]
    report = report_on(utterances({("a", "fear"): 2, ("a", "smug"): 1}))
    assert facts_told(report)["unknown labels"] == ["1, as smug", "", ""]
    assert facts_told(report)["verdict"] == ["nothing is off", "", ""]
    assert "unknown labels" not in facts_told(report_on(utterances({("a", "fear"): 2})))


def test_other_numbers_than_the_published_are_marked_also_where_their_sum_is_right():
    counts = {
        ("tess:OA", label): 400 for label in ("anger", "disgust", "fear", "happiness", "neutral", "surprise")
    }
    report = report_on(utterances({**counts, ("tess:OA", "boredom"): 400}), entry=CORPORA["tess"])
    facts = {row[0]: row[1:] for row in cells(shown(*describe_check(report, 80))) if len(row) == 4}
    assert facts["utterances"] == ["2800", "2800", ""]
    assert facts["labels"] == ["7, in other numbers", "7", "off"]


# --- corpora ---


def test_each_known_corpus_has_its_numbers_licence_and_address():
    lines = shown(describe_corpora(CORPORA.values())).splitlines()
    assert lines[0].split() == ["corpus", "files", "speakers", "labels", "hours", "languages"]
    blocks = zip(lines[1:-2:3], lines[2:-2:3], lines[3:-2:3], strict=True)
    for entry, (numbers, licence, url) in zip(CORPORA.values(), blocks, strict=True):
        assert numbers.split()[0] == entry.key
        assert numbers.split()[1:3] == [str(entry.num_files or "-"), str(entry.num_speakers or "-")]
        assert numbers.endswith(f"  {', '.join(entry.languages)}")
        assert (licence.strip(), url.strip()) == (entry.licence, entry.url)
    columns = [match.end() for match in re.finditer(r"\S+", lines[0])]
    assert lines[1][: columns[1]].endswith("535")


@pytest.mark.parametrize("key", CORPORA)
def test_a_corpus_in_full_breaks_no_address_and_no_word(key):
    entry = CORPORA[key]
    text = shown(describe_corpus(entry, 80))
    words = text.split()
    assert entry.url in words
    for told in (entry.title, entry.licence, entry.citation, *entry.remarks, *entry.examples):
        assert told in " ".join(words)
    for line in text.splitlines():
        assert len(line) <= 80 or len(line.split()) == 1 or entry.url in line or "names" in line
    rows = [line.split() for line in text.splitlines()]
    for code, (_, label) in entry.labels.items():
        (row,) = (row for row in rows if row[:1] == [code] and label in row)
        assert row[-1] == str(entry.counts.get(code, "-"))


def test_sexes_are_counted_where_all_are_known_and_intensities_named():
    assert "speakers         24 (12 female, 12 male)" in shown(describe_corpus(CORPORA["ravdess"], 80))
    assert "intensities      01 normal, 02 strong" in shown(describe_corpus(CORPORA["ravdess"], 80))
    assert "speakers         304\n" in shown(describe_corpus(CORPORA["meld"], 80))  # six of them are known
    assert "intensities" not in shown(describe_corpus(CORPORA["emodb"], 80))


def test_a_corpus_names_where_its_facts_were_read():
    text = shown(describe_corpus(CORPORA["meld"], 80))
    assert (
        "read from        numbers per label and split:\n                 https://github.com/declare-lab/MELD\n"
        in text
    )
    assert "https://github.com/declare-lab/MELD/issues/39\n" in text
    assert "read from" not in shown(describe_corpus(CORPORA["emovo"], 80))


# --- caches, and whatever a user's names hold ---


def test_a_cache_and_its_failures():
    summary = {
        "path": "own.h5", "utterances": 3, "duration_seconds": 7200.0, "complete": True, "file_size": 2_500_000,
        "fingerprint": "f" * 64, "schema_version": 1, "spec": {"model_id": "m", "layers": [0, 1]},
        "labels_by_speaker": {"own:a": {"fear": 3}}, "failures": [{"id": "own/x", "reason": "silent"}], "duplicates": [],
    }  # fmt: skip
    rows = cells(shown(*describe_cache(summary, 80)))
    for row in (
        ["utterances", "3"],
        ["audio", "2.00 h"],
        ["size", "2.5 MB"],
        ["failures", "1"],
        ["layers", "[0, 1]"],
    ):
        assert row in rows
    assert ["own:a", "3", "3"] in rows
    assert ["own/x", "silent"] in rows
    brief = cells(shown(*describe_cache(summary | {"duration_seconds": 90.0, "complete": False}, 80)))
    assert ["audio", "1.5 min"] in brief
    assert ["complete", "no: a part of a run"] in brief


def test_names_are_shown_as_they_are_and_steer_no_terminal():
    assert printable("Grün [bold] 日本 \x1b[31m\n\u202e") == "Grün [bold] 日本 \\x1b[31m\\n\\u202e"
    table = make_table("[red]\x1b", ["[b]"], [["[link=x]\x07"]])
    assert cells(shown(table)) == [["[b]"], ["[link=x]\\x07"]]
    assert "[red]\\x1b" in shown(table)
    text = shown(
        *describe_check(
            report_on(utterances({("\x1b[2J", "\r"): 1}), unexpected=["\x1b]0;x"], root="\x1b"), 80
        )
    )
    assert "\x1b" not in text
    assert "\r" not in text
