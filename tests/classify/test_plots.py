import dataclasses
import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from classify.plots import (
    MAX_BANDS,
    confusion_matrix,
    dots,
    layer_curves,
    marker,
    row_title,
    score_range,
    whisker,
)
from classify.results import Estimate
from classify.tables import percent

SVG = "{http://www.w3.org/2000/svg}"


def parse(text):
    return ET.fromstring(text)


def classed(svg, name, tag=""):
    return [
        element
        for element in svg.iter()
        if name in element.get("class", "").split() and element.tag.endswith(f"}}{tag}" if tag else "")
    ]


def texts(svg):
    return ["".join(element.itertext()) for element in svg.iter(f"{SVG}text")]


def points(element):
    return np.array([pair.split(",") for pair in element.get("points").split()], dtype=float)


def panel(comparison, cache="emodb-hubert", protocol="leave-one-speaker-out"):
    return [result for result in comparison.results if (result.cache, result.protocol) == (cache, protocol)]


def draw(comparison, results, span=(0.1, 1.0)):
    classifiers = dict.fromkeys(result.classifier for result in results)
    return parse(layer_curves(comparison, results, {name: i for i, name in enumerate(classifiers)}, span))


def named(results, count):
    """The rows of the first classifier, once for each of ``count`` classifiers."""
    rows = [result for result in results if result.classifier == "logistic"]
    return [dataclasses.replace(row, classifier=f"c{i}") for i in range(count) for row in rows]


@pytest.mark.parametrize(
    ("scores", "span"),
    [([0.31, 0.78], (0.3, 0.8)), ([0.7, 0.7], (0.7, 0.8)), ([0.0, 1.0], (0.0, 1.0)), ([1.0], (0.9, 1.0))],
)
def test_the_axis_spans_the_tenths_around_all_scores(scores, span):
    assert score_range(scores) == pytest.approx(span)


def test_curves_pass_through_the_scores_and_bands_through_the_intervals(emodb_comparison):
    results = panel(emodb_comparison)
    svg = draw(emodb_comparison, results)
    curves, bands = classed(svg, "curve", "polyline"), classed(svg, "band")
    assert (len(curves), len(bands)) == (2, 2)
    # 20 % and 100 % are grid lines, which fixes the scale.
    heights = {text.text: float(text.get("y")) - 4 for text in classed(svg, "small", "text")}
    slope = (heights["100"] - heights["20"]) / 0.8
    for curve, band, classifier in zip(curves, bands, ("logistic", "feedforward"), strict=True):
        rows = [result.balanced_accuracy for result in results if result.classifier == classifier]

        def expected(scores):
            return [heights["20"] + slope * (score - 0.2) for score in scores]

        np.testing.assert_allclose(points(curve)[:, 1], expected(row.value for row in rows), atol=0.06)
        edge = [*(row.low for row in rows), *(row.high for row in reversed(rows))]
        np.testing.assert_allclose(points(band)[:, 1], expected(edge), atol=0.06)
        assert len(set(np.diff(points(curve)[:, 0]).round(0))) == 1


def test_the_best_layer_is_named(emodb_comparison):
    results = panel(emodb_comparison)
    best = max(results, key=lambda result: result.balanced_accuracy.value)
    svg = draw(emodb_comparison, results)
    label = f"layer {best.layer}: {percent(best.balanced_accuracy.value)} %"
    assert label in texts(svg)
    assert f"highest at layer {best.layer} with {best.classifier}" in svg.get("aria-label")


def test_optimistic_and_random_are_words_in_the_figure(emodb_comparison):
    assert not any("optimistic" in text for text in texts(draw(emodb_comparison, panel(emodb_comparison))))
    assert "mean · paper · optimistic" in texts(
        draw(emodb_comparison, panel(emodb_comparison, protocol="paper"))
    )
    caches = {name: {**spec, "model_id": "random"} for name, spec in emodb_comparison.caches.items()}
    untrained = dataclasses.replace(emodb_comparison, caches=caches)
    assert "facebook/hubert-base-ls960 · randomly initialised" in texts(draw(untrained, panel(untrained)))


def test_many_curves_have_no_bands_but_the_best_ones_interval(emodb_comparison):
    results = named(panel(emodb_comparison), MAX_BANDS + 1)
    svg = draw(emodb_comparison, results)
    assert not classed(svg, "band")
    [line] = classed(svg, "range")
    best = max(results, key=lambda result: result.balanced_accuracy.value).balanced_accuracy
    ends = [float(line.get("y1")), float(line.get("y2"))]
    assert (ends[0] - ends[1]) / 208 * 0.9 == pytest.approx(best.high - best.low, abs=1e-3)


def test_fourteen_curves_differ_in_colour_or_in_both_dash_and_marker(emodb_comparison):
    svg = draw(emodb_comparison, named(panel(emodb_comparison), 14))
    looks = [tuple(line.get("class").split()[1:]) for line in classed(svg, "curve", "line")]
    assert len(set(looks)) == 14
    for colour in {look[0] for look in looks}:
        dashes = [dash for other, dash in looks if other == colour]
        assert len(set(dashes)) == len(dashes) == 2


def test_every_marker_has_its_own_shape_around_its_point():
    shapes = set()
    for kind in range(7):
        element = ET.fromstring(marker(kind, 10, 20))
        if element.tag == "polygon":
            assert np.abs(points(element).mean(0) - [10, 20]).max() < 1.2
        shapes.add(element.get("points") or element.tag)
    assert len(shapes) == 7
    assert marker(7, 0, 0) == marker(0, 0, 0)


def test_rows_without_a_layer_stand_right_of_the_layers(emodb_comparison):
    results = panel(emodb_comparison)
    chosen = [
        dataclasses.replace(results[0], layer=None, selection=selection, classifier=classifier)
        for selection, classifier in (("best", "logistic"), ("best", "feedforward"), ("all", "weighted-sum"))
    ]
    svg = draw(emodb_comparison, results + chosen)
    labels = {
        text.text: float(text.get("x")) for text in classed(svg, "middle", "text") if text.get("x") != "0"
    }
    assert labels["12"] < labels["all"] < labels["best"]
    assert len(classed(svg, "range")) == 3
    only = draw(emodb_comparison, chosen)
    assert not classed(only, "curve", "polyline")
    assert len(classed(only, "range")) == 3


def test_a_single_layer_is_a_point_with_its_interval(emodb_comparison):
    svg = draw(emodb_comparison, panel(emodb_comparison)[:1])
    assert not classed(svg, "curve", "polyline")
    assert len(classed(svg, "range")) == 1


def test_with_many_layers_the_axis_names_only_some(emodb_comparison):
    [first] = panel(emodb_comparison)[:1]
    svg = draw(emodb_comparison, [dataclasses.replace(first, layer=layer) for layer in range(49)])
    named_layers = [text.text for text in classed(svg, "middle", "text") if text.text.isdigit()]
    assert named_layers == [str(layer) for layer in range(0, 49, 4)]


def test_the_whisker_draws_the_interval_around_its_score():
    svg = parse(
        whisker(Estimate(value=0.5, low=0.4, high=0.7), (0.3, 0.8), 0.6).replace(
            "<svg", f'<svg xmlns="{SVG[1:-1]}"'
        )
    )
    [line], [dot], [reference] = classed(svg, "range"), classed(svg, "marker"), classed(svg, "reference")
    low, high, middle = float(line.get("x1")), float(line.get("x2")), float(dot.get("cx"))
    assert (middle - low) * 2 == pytest.approx(high - middle)
    assert float(reference.get("x1")) == pytest.approx((middle + high) / 2)


def test_each_cell_of_the_confusion_matrix_holds_share_and_count(emodb_comparison):
    best = emodb_comparison.best
    svg = parse(confusion_matrix(emodb_comparison.labels, best.confusion, "best"))
    cells = {cell.get("data-cell"): cell for cell in classed(svg, "cell")}
    assert len(cells) == 49
    for i, row in enumerate(best.confusion):
        for j, count in enumerate(row):
            cell = cells[f"{i},{j}"]
            assert texts(cell) == [percent(count / sum(row)), str(count)]
            assert float(cell.find(f"{SVG}rect").get("fill-opacity")) == pytest.approx(
                count / sum(row), abs=1e-3
            )
            assert ("right" in cell.get("class").split()) is (i == j)
    said = cells["0,4"].find(f"{SVG}title").text
    assert said == f"anger taken for happiness: {best.confusion[0][4]} ({texts(cells['0,4'])[0]} %)"


def test_a_label_that_was_not_tested_has_an_empty_row():
    svg = parse(confusion_matrix(("a", "b"), ((0, 0), (1, 3)), "x"))
    assert texts(classed(svg, "cell")[0]) == ["0.0", "0"]
    assert texts(classed(svg, "cell")[3]) == ["75.0", "3"]


def test_dots_stand_at_their_scores_and_the_lowest_is_said():
    svg = parse(
        dots(["a", "b", "c"], [0.5, None, 1.0], 0.75, what="recall", name="a row", details=["1", "2", "3"])
    )
    left, right = float(svg.get("data-left")), float(svg.get("data-right"))
    first, absent, last = classed(svg, "dot")
    for dot, score in ((first, 0.5), (last, 1.0)):
        [head] = classed(dot, "head")
        place = float(re.search(r"translate\(([\d.]+) ", head.get("transform"))[1])
        assert place == pytest.approx(left + (right - left) * score, abs=0.06)
    assert "lowest" in first.get("class").split()
    assert "lowest" not in last.get("class").split()
    assert "absent" in absent.get("class").split()
    assert texts(absent)[-1] == "none"
    assert "all 75.0" in texts(svg)


@pytest.mark.parametrize(
    ("scores", "lowest"),
    [
        ([0.5], []),
        ([0.3, 0.1 + 0.2], []),  # equal but for their last digit
        ([0.9, 0.3, 0.1 + 0.2], ["b", "c"]),
        ([0.5, 0.5, None], []),
    ],
)
def test_one_alone_or_among_equals_is_not_the_lowest(scores, lowest):
    names = "abc"[: len(scores)]
    svg = parse(dots(names, scores, 0.5, what="speakers", name="a row"))
    shown = zip(names, classed(svg, "dot"), strict=True)
    assert [name for name, dot in shown if "lowest" in dot.get("class").split()] == lowest


def test_a_figures_title_may_lose_words_but_no_marks(emodb_comparison):
    paper = next(result for result in emodb_comparison.results if result.optimistic)
    assert row_title(emodb_comparison, paper) == "emodb-wav2vec2, layer 0, mean, logistic, paper (optimistic)"
    short = row_title(emodb_comparison, dataclasses.replace(paper, cache="c" * 99))
    assert short.startswith("ccc")
    assert short.endswith("c\N{HORIZONTAL ELLIPSIS} (optimistic)")
    for figure in (
        confusion_matrix("ab", ((1, 0), (0, 1)), short),
        dots("a", [0.5], 0.5, what="recall", name=short),
    ):
        assert short in texts(parse(figure))


def test_hostile_names_stay_text(hostile_comparison):
    comparison = hostile_comparison
    best = comparison.best
    figures = [
        draw(comparison, [result for result in comparison.results if result.cache == best.cache]),
        parse(confusion_matrix(comparison.labels, best.confusion, best.title)),
        parse(dots(comparison.speakers[:5], [0.5] * 5, 0.5, what="speakers", name="a row")),
    ]
    for svg in figures:
        assert not {element.tag.removeprefix(SVG) for element in svg.iter()} & {"script", "img", "image", "a"}
        assert any("</script>" in text for text in texts(svg))
