import dataclasses
import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from classify.calibration import NUM_BINS
from classify.diagrams import MOST_GROUPS, MOST_POINTS, learnt_weights, reliability, scatter
from classify.page import render_page
from classify.results import Projection
from classify.tables import percent

SVG = "{http://www.w3.org/2000/svg}"


def classed(svg, name):
    return [element for element in svg.iter() if name in element.get("class", "").split()]


def texts(svg):
    return ["".join(element.itertext()) for element in svg.iter(f"{SVG}text")]


@pytest.fixture
def measured(measured_comparison):
    return next(row for row in measured_comparison.results if row.calibration)


def test_bars_are_as_high_as_answers_are_right(measured):
    svg = ET.fromstring(reliability(measured.calibration, "a row"))
    _, _, top, bottom, _ = map(float, svg.get("data-frame").split(","))
    bins = classed(svg, "bin")
    assert len(bins) == NUM_BINS
    for i, group in enumerate(bins):
        (bar,) = classed(group, "bar")
        share = float(bar.get("height")) / (bottom - top)
        assert share == pytest.approx(measured.calibration.accuracies[i], abs=0.001)
        assert ("absent" in group.get("class")) == (measured.calibration.counts[i] == 0)
    heights = [float(bar.get("height")) for group in bins for bar in classed(group, "count")]
    assert np.corrcoef(heights, measured.calibration.counts)[0, 1] > 0.999
    assert f"expected calibration error {percent(measured.calibration.error)} %" in texts(svg)


def test_a_row_without_probabilities_has_an_empty_frame():
    svg = ET.fromstring(reliability(None, "a row"))
    assert "no probabilities" in texts(svg)
    assert len(classed(svg, "absent")) == NUM_BINS


def test_each_layers_bar_is_its_mean_share_with_the_range_over_folds(measured_comparison):
    row = measured_comparison.results[0]
    svg = ET.fromstring(learnt_weights(measured_comparison, row))
    weights = np.array(row.layer_weights)
    said = [
        re.fullmatch(r"layer (\d+): ([\d.]+) %", title.text).groups() for title in svg.iter(f"{SVG}title")
    ]
    assert said == [(str(layer), percent(mean)) for layer, mean in enumerate(weights.mean(0))]
    bars = [float(bar.get("height")) for bar in classed(svg, "bar")]
    spans = [float(line.get("y1")) - float(line.get("y2")) for line in classed(svg, "spread")]
    scale = bars[0] / weights[:, 0].mean()
    np.testing.assert_allclose(bars, scale * weights.mean(0), atol=0.4)
    np.testing.assert_allclose(spans, scale * np.ptp(weights, axis=0), atol=0.4)
    assert svg.get("aria-label").endswith(f"most on layer {weights.mean(0).argmax()}.")


def points_of(svg):
    return classed(svg, "marker")


def test_every_utterance_is_a_point_in_its_groups_colour(measured_comparison):
    projection = measured_comparison.projection
    groups = [measured_comparison.labels[i] for i in measured_comparison.truth]
    svg = ET.fromstring(scatter(projection, groups, "emotion"))
    names = sorted(set(groups))
    assert [text for text in texts(svg) if text in names] == names
    drawn = points_of(svg)[len(names) :]
    assert len(drawn) == 535
    looks = {
        name: {point.get("class") for point, group in zip(drawn, groups, strict=True) if group == name}
        for name in names
    }
    assert all(len(found) == 1 for found in looks.values())
    assert len(set.union(*looks.values())) == 7
    assert "component 1, 30.0 % of the variance" in texts(svg)


def test_the_smallest_of_many_groups_become_one():
    groups = [f"speaker {i:02d}" for i in range(30) for _ in range(30 - i)]
    projection = Projection(source="x", explained=(0.5, 0.5), points=((0.0, 0.0),) * len(groups))
    shown = texts(ET.fromstring(scatter(projection, groups, "speaker")))
    assert [text for text in shown if text.startswith("speaker")] == [
        f"speaker {i:02d}" for i in range(MOST_GROUPS - 1)
    ]
    assert "others" in shown


def test_of_very_many_utterances_some_are_drawn():
    projection = Projection(source="x", explained=(0.5, 0.5), points=((0.0, 0.0),) * (3 * MOST_POINTS + 1))
    svg = ET.fromstring(scatter(projection, ["one", *["two"] * 3 * MOST_POINTS], "emotion"))
    assert MOST_POINTS / 2 < len(points_of(svg)) - 2 <= MOST_POINTS
    assert svg.get("aria-label").startswith(f"{3 * MOST_POINTS + 1} utterances")
    assert "x, by emotion; drawn is one in 4" in "".join(svg.itertext())


def test_the_page_holds_them_and_says_what_they_are(measured_comparison, emodb_comparison):
    page = render_page(measured_comparison)
    assert 'data-name="reliability"' in page
    assert 'data-name="map-by-speaker"' in page
    assert "What the weighted sum learnt" in page
    assert "no score is made of it" in page
    for name in ("reliability", "map-by-speaker", "weights-"):
        assert f'data-name="{name}' not in render_page(emodb_comparison)


def test_transductive_rows_are_marked_in_every_figure(measured_comparison):
    rows = tuple(dataclasses.replace(row, transductive=True) for row in measured_comparison.results)
    page = render_page(dataclasses.replace(measured_comparison, results=rows))
    figures = re.findall(r'<figure data-name="(?!map)[^"]*">.*?</figure>', page, re.DOTALL)
    assert len(figures) >= 8
    assert all("transductive" in figure for figure in figures)
    one = dataclasses.replace(
        measured_comparison, results=(rows[5], measured_comparison.results[5], *rows[6:9])
    )
    names = re.findall(r'data-name="(layers-[^"]*)"', render_page(one))
    assert sum("transductive" in name for name in names) == 1
    assert len(names) == 2
