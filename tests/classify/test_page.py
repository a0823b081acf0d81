import base64
import collections
import dataclasses
import hashlib
import html
import json
import re
from html.parser import HTMLParser
from importlib import resources

import pytest

from classify.closeup import MAX_TALL
from classify.page import render_page
from classify.results import Difference
from classify.tables import headline, interval, latex_table, markdown_report, percent, results_csv, title

VOID = {"meta", "link", "img", "br", "input", "hr"}


class Element:
    def __init__(self, tag, attributes, parent):
        self.tag, self.attributes, self.parent = tag, dict(attributes), parent
        self.children = []

    def get(self, name, default=""):
        return self.attributes.get(name, default)

    def all(self, tag=None, **attributes):
        """Every element below with this tag and these attributes; ``class_`` is one class of several."""
        for child in self.children:
            if isinstance(child, Element):
                kind = attributes.get("class_")
                rest = {name: value for name, value in attributes.items() if name != "class_"}
                if (
                    (tag is None or child.tag == tag)
                    and (kind is None or kind in child.get("class").split())
                    and all(child.get(name) == value for name, value in rest.items())
                ):
                    yield child
                yield from child.all(tag, **attributes)

    def one(self, tag=None, **attributes):
        [element] = self.all(tag, **attributes)
        return element

    @property
    def text(self):
        return "".join(child.text if isinstance(child, Element) else child for child in self.children)


class Page(HTMLParser):
    """A strict parser: every element that is opened is closed, in order."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.here = self.root = Element("page", {}, None)
        self.feed(text)
        self.close()
        assert self.here is self.root

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs)
        element = Element(tag, attrs, self.here)
        self.here.children.append(element)
        if tag not in VOID:
            self.here = element

    def handle_startendtag(self, tag, attrs):
        self.here.children.append(Element(tag, attrs, self.here))

    def handle_endtag(self, tag):
        assert tag == self.here.tag
        self.here = self.here.parent

    def handle_data(self, data):
        self.here.children.append(data)


def parse(comparison):
    return Page(render_page(comparison)).root


@pytest.fixture(scope="module")
def page(emodb_comparison):
    return parse(emodb_comparison)


def ranked(comparison):
    return sorted(comparison.results, key=lambda result: (result.optimistic, -result.balanced_accuracy.value))


def test_the_page_opens_with_the_answer(page, emodb_comparison):
    [heading] = page.all("h1")
    assert heading.text.replace("\xa0", " ") == headline(emodb_comparison) == next(page.all("title")).text
    tiles = [" ".join(tile.text.split()) for tile in page.one("dl", class_="tiles").all("div")]
    score = emodb_comparison.best.balanced_accuracy
    expected = f"{percent(score.value)} % {percent(score.low)} to {percent(score.high)}"
    assert tiles[0] == f"Balanced accuracy{expected}"
    assert tiles[3:] == ["Speakers10 5 female, 5 male", "Utterances535 7 emotions"]


def test_differences_stand_in_a_table_of_their_own(hostile_comparison, page):
    difference = Difference(
        first=1, second=3, difference=0.05, p_permutation=0.01, p_corrected=0.04, p_resampled_t=0.3
    )
    comparison = dataclasses.replace(hostile_comparison, differences=(difference,))
    region = parse(comparison).one("div", **{"aria-label": "Table of differences, scrollable"})
    [row] = region.one("tbody").all("tr")
    assert row.one("th").text == title(comparison, comparison.results[3])
    assert [cell.text for cell in row.all("td")] == ["5.0", "0.0400", "0.3000"]
    heads = [cell.text for cell in region.one("thead").all("th")]
    assert heads == ["Rival", "Difference, points", "p, corrected", "p of the t test"]  # p is no capital
    assert not list(page.all("div", **{"aria-label": "Table of differences, scrollable"}))


def test_tiles_count_what_was_tested(emodb_comparison):
    first = emodb_comparison.speakers[0]
    tested = [
        0 if speaker == first and label else -1
        for speaker, label in zip(emodb_comparison.speakers, emodb_comparison.truth, strict=True)
    ]
    folds = dataclasses.replace(emodb_comparison.folds[0], tested_in=(tuple(tested),))
    page = parse(dataclasses.replace(emodb_comparison, folds=(folds, emodb_comparison.folds[1])))
    tiles = [" ".join(tile.text.split()) for tile in page.one("dl", class_="tiles").all("div")]
    assert tiles[3] == f"Speakers tested1 1 {emodb_comparison.sexes[0]}"
    assert tiles[4] == f"Utterances tested{sum(fold == 0 for fold in tested)} 6 emotions"


def test_every_number_of_the_table_is_the_results(page, emodb_comparison):
    table = page.one("table")
    rows = list(table.one("tbody").all("tr"))
    assert len(rows) == len(emodb_comparison.results)
    heads = [head.text for head in table.one("thead").all("th")]
    for row, result in zip(rows, ranked(emodb_comparison), strict=True):
        cells = dict(zip(heads, [cell for cell in row.children if isinstance(cell, Element)], strict=True))
        assert cells["Features"].tag == "th"
        assert cells["Features"].get("data-value") == result.cache
        named = {"Layer": result.layers, "Classifier": result.classifier, "Protocol": result.protocol}
        for name, value in named.items():
            assert cells[name].text == cells[name].get("data-value") == value
        scores = {
            "Balanced accuracy": result.balanced_accuracy,
            "Accuracy": result.accuracy,
            "Macro F1": result.f1_macro,
        }
        for name, score in scores.items():
            assert float(cells[name].get("data-value")) == score.value
            value, bounds = interval(score).split(" ", 1)
            assert cells[name].text == value + bounds
        assert float(cells["Interval"].get("data-value")) == result.balanced_accuracy.low
        assert float(cells["Seconds"].get("data-value")) == result.seconds


def test_the_best_row_comes_first_and_optimistic_rows_last(page, emodb_comparison):
    rows = list(page.one("tbody").all("tr"))
    kinds = [row.get("class") for row in rows]
    assert kinds == ["best"] + [""] * 51 + ["optimistic"] * 52
    assert rows[0].one(class_="mark").text == "best"


def test_optimistic_rows_are_marked_wherever_they_are_shown(page, emodb_comparison):
    for row in page.all("tr", class_="optimistic"):
        assert row.one(class_="mark").text == "optimistic"
    options = list(page.all("option"))
    for option, result in zip(
        sorted(options, key=lambda option: int(option.get("value"))), emodb_comparison.results, strict=True
    ):
        assert ("optimistic" in option.text) is result.optimistic
    figures = [figure for figure in page.all("figure") if "paper" in figure.get("data-name")]
    assert len(figures) == 2
    assert all("optimistic" in figure.text for figure in figures)
    cards = page.one("section", id="protocol").all(class_="card")
    assert [" optimistic" in card.one("h3").text for card in cards] == [False, True]
    shown = json.loads(page.one("script", id="rows").text)
    assert [row["short"].endswith("(optimistic)") for row in shown] == [
        r.optimistic for r in emodb_comparison.results
    ]


def test_an_untrained_encoder_is_said_wherever_it_is_shown(small_comparison):
    caches = dict(small_comparison.caches)
    caches["emodb-hubert"] = {**caches["emodb-hubert"], "model_id": "tiny-hubert-randomly-initialised"}
    root = parse(dataclasses.replace(small_comparison, caches=caches))
    assert "emodb-hubert: this encoder is randomly initialised" in root.one(class_="banner").text
    for row in root.one("tbody").all("tr"):
        assert ("randomly initialised" in row.text) is ("hubert" in row.text)
    for figure in root.one("section", id="layers").all("figure"):
        assert ("randomly initialised" in figure.text) is ("hubert" in figure.get("data-name"))
    assert "randomly initialised" in root.one("h1").text
    assert not list(parse(small_comparison).all(class_="banner"))


def test_without_its_script_the_page_shows_the_best_row(page, emodb_comparison):
    best = emodb_comparison.best
    section = page.one("section", id="row")
    assert "hidden" in section.one(class_="choose").attributes
    assert title(emodb_comparison, best) in section.one(id="chosen-row").text
    counts = {cell.get("data-cell"): list(cell.all("text"))[1].text for cell in section.all(class_="cell")}
    assert counts == {f"{i},{j}": str(n) for i, row in enumerate(best.confusion) for j, n in enumerate(row)}
    shown = {
        svg.get("data-kind"): [list(dot.all("text"))[-1].text for dot in svg.all(class_="dot")]
        for svg in section.all("svg", class_="dots")
    }
    assert shown == {
        "recall": [percent(share) for share in best.recall],
        "speakers": [percent(best.speaker_scores[speaker]) for speaker in sorted(best.speaker_scores)],
        "sexes": [percent(best.sex_scores[sex]) for sex in ("female", "male")],
    }
    assert not list(page.all("button"))


def test_the_script_is_given_every_row(page, emodb_comparison):
    rows = json.loads(page.one("script", id="rows").text)
    for row, result in zip(rows, emodb_comparison.results, strict=True):
        assert row["confusion"] == [list(counts) for counts in result.confusion]
        assert row["recall"] == list(result.recall)
        assert row["speakers"] == [
            result.speaker_scores[speaker] for speaker in sorted(result.speaker_scores)
        ]
        assert row["sexes"] == [result.sex_scores["female"], result.sex_scores["male"]]
        assert row["mean"] == result.balanced_accuracy.value


def test_there_is_a_curve_for_each_encoder_classifier_and_protocol(page):
    figures = list(page.one("section", id="layers").all("figure"))
    assert [figure.get("data-name") for figure in figures] == [
        f"layers-mean-{cache}-{protocol}"
        for protocol in ("leave-one-speaker-out", "paper")
        for cache in ("emodb-wav2vec2", "emodb-hubert")
    ]
    assert [len(list(figure.all("polyline", class_="curve"))) for figure in figures] == [2] * 4
    # Whether a figure has bands depends on its own curves, so the one sentence on all of them holds for both.
    assert "bands and bars are 95 % intervals over speakers" in page.one("section", id="layers").text


def test_protocols_notes_choices_warnings_command_and_versions_are_said(small_comparison):
    root = parse(small_comparison)
    protocol = root.one("section", id="protocol").text
    for folds in small_comparison.folds:
        assert folds.claim in protocol
        assert folds.audit in protocol
    sizes = collections.Counter(small_comparison.speakers)
    assert f"emodb:03 ({sizes['emodb:03']}), emodb:08 ({sizes['emodb:08']})" in protocol
    table = root.one("section", id="table").text
    assert all(note in table for note in small_comparison.notes)
    assert f"did not converge (2 folds): {title(small_comparison, small_comparison.results[0])}" in table
    chosen = root.one("details")
    assert chosen.one("summary").text == title(small_comparison, small_comparison.results[1])
    assert [item.text for item in chosen.all("li")][:2] == ["emodb:03: layer 7", "emodb:08: layer 8"]
    made = root.one("section", id="made").text
    assert small_comparison.command in made
    assert "torch2.13.0" in made
    assert "seed0" in made
    data = root.one("section", id="data").text
    assert "anger 127" in data
    assert "female: emodb:08" in data
    assert small_comparison.caches["emodb-hubert"]["weights_hash"] in data


def test_a_comparison_from_python_with_the_bare_minimum_is_a_page_too(small_comparison):
    bare = dataclasses.replace(
        small_comparison,
        results=tuple(
            dataclasses.replace(r, sex_scores={"": 0.5}, warnings=(), chosen=())
            for r in small_comparison.results
        ),
        sexes=("",) * len(small_comparison.truth),
        folds=small_comparison.folds,
        notes=(),
        command="",
        versions={},
    )
    root = parse(bare)
    assert "Called from Python." in root.text
    assert "triangles unknown" in root.text
    assert not [svg for svg in root.all("svg") if svg.get("data-kind") == "sexes"]
    assert not list(root.all(class_="notes"))


def test_many_speakers_scroll_in_a_box_of_their_own(small_comparison):
    names = [f"s{i:03d}" for i in range(MAX_TALL + 1)]
    speakers = tuple(names[i % len(names)] for i in range(len(small_comparison.truth)))
    results = tuple(
        dataclasses.replace(result, speaker_scores=dict.fromkeys(names, 0.5))
        for result in small_comparison.results
    )
    root = parse(dataclasses.replace(small_comparison, speakers=speakers, results=results))
    box = root.one(class_="tallbox")
    assert len(list(box.all(class_="dot"))) == len(names)
    assert box.get("tabindex") == "0"


def test_downloads_are_in_the_page(page, emodb_comparison):
    expected = {"results.csv": results_csv, "table.tex": latex_table, "report.md": markdown_report}
    links = {link.get("download"): link.get("href") for link in page.one(class_="downloads").all("a")}
    assert links.keys() == expected.keys()
    for name, render in expected.items():
        content = base64.b64decode(links[name].split(";base64,")[1]).decode()
        assert content == render(emodb_comparison)


def test_the_page_loads_nothing(page):
    policy = page.one("meta", **{"http-equiv": "Content-Security-Policy"}).get("content")
    assert policy.startswith("default-src 'none'; ")
    loading = {"src", "href", "srcset", "action", "poster", "data", "xlink:href"}
    for element in page.all():
        addresses = [value for name, value in element.attributes.items() if name in loading]
        assert all(address.startswith(("#", "data:")) for address in addresses)
        assert not [name for name in element.attributes if name.startswith("on")]
    style, script = (
        resources.files("classify").joinpath(f"report.{kind}").read_text() for kind in ("css", "js")
    )
    assert not re.search(r"url\(|@import|https?:", style)
    urls = set(re.findall(r"https?://[^\"']*", script))
    assert urls == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"fetch|XMLHttpRequest|WebSocket|innerHTML|import\(", script)


def test_only_the_pages_own_script_may_run(page):
    [data, script] = page.all("script")
    assert data.get("type") == "application/json"
    digest = base64.b64encode(hashlib.sha256(script.text.encode()).digest()).decode()
    policy = page.one("meta", **{"http-equiv": "Content-Security-Policy"}).get("content")
    assert f"script-src 'sha256-{digest}';" in policy
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]


def shape(root):
    """Tags and attribute names in order, text left out."""
    return [(element.tag, tuple(element.attributes)) for element in root.all()]


def test_hostile_names_change_no_element_of_the_page(hostile_comparison, small_comparison):
    hostile, harmless = parse(hostile_comparison), parse(small_comparison)
    # A long name is broken off or takes more room, but it opens, closes and changes no element.
    assert shape(hostile) == shape(harmless)
    assert hostile_comparison.best.cache in hostile.one("tbody").text
    rows = json.loads(hostile.one("script", id="rows").text)
    assert rows[0]["sentence"].startswith(title(hostile_comparison, hostile_comparison.results[0]))


def test_the_data_block_can_end_no_script(hostile_comparison):
    text = render_page(hostile_comparison)
    block = text.split('id="rows">')[1].split("</script>")[0]
    assert not set("<>&") & set(block)
    assert html.escape(hostile_comparison.best.cache) in text
