"""A comparison as figures: plain SVG that follows the page's colours, prints, and scales to a phone.

Each figure is about as wide as a phone, so that its text stays readable there. Colours are classes, which
``report.css`` defines for light and dark; every series also has a dash and a marker of its own.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape

from classify.drawing import WIDTH, cut_text, draw_line, draw_svg, draw_text, marker, series_looks, text_width
from classify.results import Comparison, Estimate, Result
from classify.tables import OPTIMISTIC, RANDOM, TRANSDUCTIVE, is_random, marks, percent, printable, title

MAX_BANDS = 4


def score_range(scores: Iterable[float]) -> tuple[float, float]:
    """Return the tenths between which all scores lie."""
    known = list(scores)
    # The margin keeps 0.7 from becoming 0.8 for the noise of floating point.
    bottom, top = math.floor(min(known) * 10 + 1e-9) / 10, math.ceil(max(known) * 10 - 1e-9) / 10
    bottom = min(max(0.0, bottom), 0.9)
    return bottom, min(1.0, max(top, bottom + 0.1))


def whisker(estimate: Estimate, span: tuple[float, float], reference: float) -> str:
    """Return the small picture of one interval that stands in a row of the table, with a line at a score."""

    def x(score: float) -> float:
        return 5 + 90 * (score - span[0]) / (span[1] - span[0])

    body = [
        draw_line(x(reference), 0, x(reference), 20, "reference"),
        draw_line(x(estimate.low), 10, x(estimate.high), 10, "range"),
        marker(0, x(estimate.value), 10, "s1"),
    ]
    return f'<svg viewBox="0 0 100 20" width="100" height="20" class="whisker" aria-hidden="true">{"".join(body)}</svg>'


def layer_curves(
    comparison: Comparison,
    results: Sequence[Result],
    series: Mapping[str, int],
    span: tuple[float, float],
) -> str:
    """Return balanced accuracy over layers for one cache, pooling and protocol, a curve per classifier.

    Intervals are bands, with more than ``MAX_BANDS`` curves only that of the highest curve's best layer; rows
    that choose or weigh layers stand to the right of the layers.

    Parameters
    ----------
    comparison : Comparison
    results : sequence of Result
        The rows of the figure.
    series : mapping of str to int
        Colour and marker of each classifier, the same in all figures of a page.
    span : tuple of float
        The lowest and highest score of the axis.
    """
    first, best = results[0], max(results, key=lambda result: result.balanced_accuracy.value)
    methods = list(dict.fromkeys(result.method for result in results))
    legend, legend_height = _legend(methods, series)
    left, right, top = 40.0, WIDTH - 12.0, 62.0 + legend_height
    bottom = top + 208
    x = _places(results, left + 8, right - 8)

    def y(score: float) -> float:
        return bottom - (bottom - top) * (score - span[0]) / (span[1] - span[0])

    chance = 1 / len(comparison.tested_labels)
    body = _heading(comparison, first) + legend + _score_axis(span, left, right, y)
    body += [
        draw_line(left, bottom, right, bottom, "axis"),
        draw_line(left, y(chance), right, y(chance), "chance"),
    ]
    body += [draw_text(right, y(chance) - 4, "chance", "small", "end", "halo")]
    layers = [place for place in x if isinstance(place, int)]
    skipped = {layer for i, layer in enumerate(layers) if i % math.ceil(len(layers) / 14)}
    body += [
        draw_text(x[place], bottom + 16, str(place), "small", "middle") for place in x if place not in skipped
    ]
    body.append(draw_text((left + right) / 2, bottom + 34, "layer", "middle"))
    where, score = x[_place(best)], best.balanced_accuracy.value
    few = len(methods) <= MAX_BANDS
    for method in methods:
        rows = [result for result in results if result.method == method]
        body += _curve(rows, series[method], x, y, bands=few)
    if not few:
        low, high = y(best.balanced_accuracy.low), y(best.balanced_accuracy.high)
        body.append(draw_line(where, low, where, high, f"range {series_looks(series[best.method])[0]}"))
    anchor = "end" if where > right - 60 else "start" if where < left + 60 else "middle"
    named = best.layers if best.layer is None else f"layer {best.layer}"
    body.append(draw_text(where, y(score) - 10, f"{named}: {percent(score)} %", "halo", anchor))
    label = (
        f"Balanced accuracy over layers, {first.cache}, {first.protocol}: highest at layer {best.layers} with "
        f"{best.method}, {percent(score)} per cent."
    )
    return draw_svg(bottom + 42, label, body, kind="layers")


def _place(result: Result) -> int | str:
    return result.layers if result.layer is None else result.layer


def _places(results: Sequence[Result], left: float, right: float) -> dict[int | str, float]:
    """Return where each layer stands, ascending, and right of them what stands for no single layer."""
    layers = sorted({result.layer for result in results if result.layer is not None})
    others = sorted({result.layers for result in results if result.layer is None})
    room = 34.0 if layers else (right - left) / max(1, len(others) - 1)
    end = right - room * len(others) if layers else left - room
    step = (end - left) / max(1, len(layers) - 1)
    return {layer: left + step * i for i, layer in enumerate(layers)} | {
        other: end + room * (i + 1) for i, other in enumerate(others)
    }


def _heading(comparison: Comparison, result: Result) -> list[str]:
    dot, untrained = " \N{MIDDLE DOT} ", is_random(comparison, result.cache)
    encoder = result.encoder + (dot + RANDOM if untrained else "")
    warned = [OPTIMISTIC] * result.optimistic + [TRANSDUCTIVE] * result.transductive
    folds = dot.join([result.pooling, result.protocol, *warned])
    return [
        draw_text(4, 16, cut_text(result.cache, WIDTH - 8, 14), "title"),
        draw_text(4, 33, cut_text(encoder, WIDTH - 8), "warn" if untrained else "soft"),
        draw_text(4, 49, cut_text(folds, WIDTH - 8), "warn" if warned else "soft"),
    ]


def _legend(methods: Sequence[str], series: Mapping[str, int]) -> tuple[list[str], float]:
    body, x, y = [], 4.0, 70.0
    for method in methods:
        name = cut_text(method, WIDTH - 40)
        if x > 4 and x + 34 + text_width(name) > WIDTH:
            x, y = 4.0, y + 18
        classes, kind = series_looks(series[method])
        body.append(draw_line(x, y - 4, x + 26, y - 4, f"curve {classes}"))
        body.append(marker(kind, x + 13, y - 4, classes))
        body.append(draw_text(x + 32, y, name))
        x += 46 + text_width(name)
    return body, y - 70 + 24


def _score_axis(
    span: tuple[float, float], left: float, right: float, y: Callable[[float], float]
) -> list[str]:
    step = 0.1 if span[1] - span[0] < 0.65 else 0.2
    body = []
    for i in range(math.ceil(span[0] / step - 1e-9), math.floor(span[1] / step + 1e-9) + 1):
        score = i * step
        body.append(draw_line(left, y(score), right, y(score), "grid"))
        body.append(draw_text(left - 6, y(score) + 4, f"{100 * score:.0f}", "small", "end"))
    middle = y((span[0] + span[1]) / 2)
    label = draw_text(
        0, 0, "balanced accuracy, %", "middle", transform=f"translate(12 {middle:g}) rotate(-90)"
    )
    return [*body, label]


def _curve(
    rows: Sequence[Result],
    series: int,
    x: Mapping[int | str, float],
    y: Callable[[float], float],
    *,
    bands: bool,
) -> list[str]:
    classes, kind = series_looks(series)
    ordered = sorted((row for row in rows if row.layer is not None), key=lambda row: row.layer or 0)
    points = [(x[_place(row)], row.balanced_accuracy) for row in ordered]
    body = []
    if len(points) > 1:
        if bands:
            edge = [f"{a:.1f},{y(estimate.low):.1f}" for a, estimate in points]
            edge += [f"{a:.1f},{y(estimate.high):.1f}" for a, estimate in reversed(points)]
            body.append(f'<polygon points="{" ".join(edge)}" class="band {classes}"/>')
        path = " ".join(f"{a:.1f},{y(estimate.value):.1f}" for a, estimate in points)
        body.append(f'<polyline points="{path}" class="curve {classes}"/>')
    # Several classifiers may share one place right of the layers, so each stands a little aside.
    alone = [(x[_place(row)] + 4 * (kind - 3), row.balanced_accuracy) for row in rows if row.layer is None]
    for a, estimate in alone + (points if len(points) == 1 else []):
        body.append(draw_line(a, y(estimate.low), a, y(estimate.high), f"range {classes}"))
    return body + [marker(kind, a, y(estimate.value), classes) for a, estimate in points + alone]


def row_title(comparison: Comparison, result: Result) -> str:
    """Return the line that says in a figure which row it shows: as much of the title as fits, and all its marks."""
    marked = marks(comparison, result)
    after = f" ({', '.join(marked)})" if marked else ""
    words = title(comparison, result).removesuffix(after)
    return cut_text(words, WIDTH - 8 - text_width(after, 11), 11) + after


def confusion_matrix(labels: Sequence[str], confusion: Sequence[Sequence[int]], name: str) -> str:
    """Return counts and per cent of each true label; right answers in one hue, confusions in another.

    Parameters
    ----------
    labels : sequence of str
    confusion : sequence of sequence of int, shape (label, label)
        Rows are true labels.
    name : str
        The line on top, as ``row_title`` gives it.
    """
    names = [cut_text(label, 110) for label in labels]
    # A column's name is turned by 45 degrees, so it is as high as it is wide.
    longest = max(map(text_width, names))
    left, top = longest + 30, longest * 0.71 + 56
    cell = (WIDTH - left - max(4.0, text_width(names[-1]) * 0.71 - 12)) / len(labels)
    size = min(13.0, cell * 0.3)
    body = [draw_text(4, 12, name, "small", "row-title")]
    body.append(draw_text(left + cell * len(labels) / 2, 36, "predicted", "soft", "middle"))
    middle = top + cell * len(labels) / 2
    body.append(
        draw_text(0, 0, "true", "soft", "middle", transform=f"translate(12 {middle:.1f}) rotate(-90)")
    )
    for i, label in enumerate(names):
        across, down = left + cell * (i + 0.5), top + cell * (i + 0.5)
        body.append(draw_text(0, 0, label, transform=f"translate({across:.1f} {top - 7:.1f}) rotate(-45)"))
        body.append(draw_text(left - 7, down + 4, label, "end"))
    for i, j in itertools.product(range(len(labels)), repeat=2):
        across, down = left + cell * j, top + cell * i
        total, count = sum(confusion[i]), confusion[i][j]
        share = count / total if total else 0.0
        strong = " strong" if share > 0.5 else " none" if not count else ""
        kind = "right" if i == j else "wrong"
        body.append(
            f'<g class="cell {kind}{strong}" data-cell="{i},{j}"><title>{escape(_spoken(labels, i, j, count, share))}</title>'
            f'<rect x="{across:.1f}" y="{down:.1f}" width="{cell - 1.5:.1f}" height="{cell - 1.5:.1f}" rx="2" '
            f'fill-opacity="{share:.3f}"/>'
            f'<text x="{across + cell / 2:.1f}" y="{down + cell * 0.48:.1f}" class="middle" '
            f'style="font-size:{size:.1f}px">{percent(share)}</text>'
            f'<text x="{across + cell / 2:.1f}" y="{down + cell * 0.78:.1f}" class="middle count" '
            f'style="font-size:{size * 0.8:.1f}px">{count}</text></g>'
        )
    label = f"Confusion matrix of {name}, in per cent of each true label, with counts."
    return draw_svg(top + cell * len(labels) + 4, label, body, kind="confusion")


def _spoken(labels: Sequence[str], i: int, j: int, count: int, share: float) -> str:
    return printable(f"{labels[i]} taken for {labels[j]}: {count} ({percent(share)} %)")


def dots(
    names: Sequence[str],
    scores: Sequence[float | None],
    mean: float,
    *,
    what: str,
    name: str,
    kinds: Sequence[int] | None = None,
    details: Sequence[str] | None = None,
) -> str:
    """Return one score per name on a common scale from 0 to 1, the lowest marked.

    Parameters
    ----------
    names : sequence of str
    scores : sequence of float or None
        None where nothing was tested.
    mean : float
        The score over all of them, drawn as a line.
    what : str
        What the scores are.
    name : str
        The line on top, as ``row_title`` gives it.
    kinds : sequence of int, optional
        Marker of each name.
    details : sequence of str, optional
        A word after each name, as its number of utterances.
    """
    step = 24.0 if len(names) <= 12 else 19.0
    shown = [cut_text(name, 130) for name in names]
    details = details or [""] * len(names)
    left = max(map(text_width, shown), default=0) + max(text_width(detail, 11) for detail in details) + 32
    right, top = WIDTH - 52.0, 46.0
    bottom = top + step * len(names)
    known = [score for score in scores if score is not None]
    lowest, highest = min(known, default=0.0), max(known, default=0.0)

    def x(score: float) -> float:
        return left + (right - left) * score

    body = [draw_text(4, 12, name, "small", "row-title")]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        body.append(draw_line(x(tick), top - 4, x(tick), bottom, "grid"))
        body.append(draw_text(x(tick), bottom + 15, f"{100 * tick:.0f}", "small", "middle"))
    body.append(
        f'<g class="mean" data-mean="" transform="translate({x(mean):.1f} 0)">{draw_line(0, top - 8, 0, bottom, "reference")}'
        f"{draw_text(0, top - 12, f'all {percent(mean)}', 'small', 'middle')}</g>"
    )
    for i, (word, score) in enumerate(zip(shown, scores, strict=True)):
        middle = top + step * (i + 0.5)
        place = 0.0 if score is None else score
        kind = kinds[i] if kinds else 0
        # Equal shares can be summed in another order.
        low = " lowest" if score is not None and score - lowest < 1e-9 < highest - lowest else ""
        absent = " absent" if score is None else ""
        flip = " flip" if place > 0.5 else ""
        body.append(
            draw_text(
                left - 12 - (text_width(details[i], 11) + 6 if details[i] else 0), middle + 4, word, "end"
            )
        )
        if details[i]:
            body.append(draw_text(left - 12, middle + 4, details[i], "small", "end"))
        body.append(
            f'<g class="dot{low}{absent}{flip}" data-dot="{i}">{draw_line(left, middle, x(place), middle, "stem")}'
            f'<g class="head" transform="translate({x(place):.1f} {middle:.1f})">{marker(kind, 0, 0, f"s{kind + 1}", 4.6)}'
            f"{draw_text(0, 0, 'lowest', 'small', 'low')}</g>"
            f"{draw_text(WIDTH - 4, middle + 4, 'none' if score is None else percent(score), 'end')}</g>"
        )
    data = f' data-left="{left:.1f}" data-right="{right:.1f}" data-kind="{escape(what)}"'
    label = f"{what}, in per cent; over all {percent(mean)}."
    return draw_svg(bottom + 22, label, body, kind="dots", data=data)
