"""Figures beside the scores: how far probabilities hold, which layers weigh what, where utterances lie."""

import math
from collections import Counter
from collections.abc import Sequence

from classify.calibration import NUM_BINS
from classify.drawing import WIDTH, cut_text, draw_line, draw_svg, draw_text, marker, series_looks, text_width
from classify.plots import row_title
from classify.results import Calibration, Comparison, Projection, Result
from classify.tables import percent, title

# Beyond this many groups colours and shapes can't be told apart; the smallest ones become one.
MOST_GROUPS = 14
MOST_POINTS = 2000


def reliability_words(calibration: Calibration | None) -> str:
    """Return the line that says how far a row's probabilities hold."""
    if calibration is None:
        return "no probabilities"
    return f"expected calibration error {percent(calibration.error)} %"


def reliability(calibration: Calibration | None, name: str) -> str:
    """Return the reliability diagram of Guo et al. (2017): how often right, by how sure; counts below.

    Parameters
    ----------
    calibration : Calibration or None
        None draws the empty frame, which the page's script fills for another row.
    name : str
        The line on top, as ``row_title`` gives it.
    """
    left, right, top, bottom, below = 44.0, WIDTH - 12.0, 48.0, 288.0, 340.0
    step = (right - left) / NUM_BINS
    counts = calibration.counts if calibration else (0,) * NUM_BINS
    body = [draw_text(4, 12, name, "small", "row-title")]
    body.append(draw_text(4, 32, reliability_words(calibration), "ece"))
    for tick in (0, 0.25, 0.5, 0.75, 1):
        y = bottom - (bottom - top) * tick
        body.append(draw_line(left, y, right, y, "grid"))
        body.append(draw_text(left - 6, y + 4, f"{100 * tick:.0f}", "small", "end"))
        body.append(
            draw_text(left + (right - left) * tick, below + 15, f"{100 * tick:.0f}", "small", "middle")
        )
    for i in range(NUM_BINS):
        accuracy = calibration.accuracies[i] if calibration else 0.0
        confidence = calibration.confidences[i] if calibration else 0.0
        x, height = left + step * i, (bottom - top) * accuracy
        share = counts[i] / max(1, *counts) * (below - bottom - 12)
        absent = " absent" if not counts[i] else ""
        across = left + (right - left) * confidence
        body.append(
            f'<g class="bin{absent}" data-bin="{i}"><title>{counts[i]} predictions: {percent(confidence)} % sure, '
            f"{percent(accuracy)} % right</title>"
            f'<rect class="bar" x="{x + 1:.1f}" y="{bottom - height:.1f}" width="{step - 2:.1f}" height="{height:.1f}"/>'
            f'<rect class="count" x="{x + 1:.1f}" y="{below - share:.1f}" width="{step - 2:.1f}" height="{share:.1f}"/>'
            f'<g class="sure" transform="translate({across:.1f} {bottom - height:.1f})">{marker(0, 0, 0, "s2", 3.2)}</g></g>'
        )
    body += [draw_line(left, bottom, right, top, "reference"), draw_line(left, bottom, right, bottom, "axis")]
    body += [draw_line(left, below, right, below, "axis")]
    body.append(
        draw_text((left + right) / 2, below + 32, "probability of the predicted emotion, %", "middle")
    )
    turned = f"translate(12 {(top + bottom) / 2:g}) rotate(-90)"
    body.append(draw_text(0, 0, "of these right, %", "middle", transform=turned))
    label = f"Reliability of {name}: {reliability_words(calibration)}."
    data = f' data-frame="{left},{right},{top},{bottom},{below}"'
    return draw_svg(below + 40, label, body, kind="reliability", data=data)


def learnt_weights(comparison: Comparison, result: Result) -> str:
    """Return the share of each layer in a weighted sum: the mean over folds, with the range over them."""
    folds = [weights for weights in result.layer_weights if weights]
    layers = result.mixed_layers
    means = [sum(column) / len(folds) for column in zip(*folds, strict=True)]
    most = max(max(column) for column in zip(*folds, strict=True))
    left, right, top, bottom = 44.0, WIDTH - 12.0, 44.0, 220.0
    step = (right - left) / len(layers)
    tick = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.25) if 5 * step >= most or step == 0.25)
    highest = tick * math.ceil(most / tick - 1e-9)

    def y(share: float) -> float:
        return float(bottom - (bottom - top) * share / highest)

    body = [draw_text(4, 14, row_title(comparison, result), "small")]
    for i in range(round(highest / tick) + 1):
        share = tick * i
        body.append(draw_line(left, y(share), right, y(share), "grid"))
        body.append(draw_text(left - 6, y(share) + 4, f"{100 * share:.3g}", "small", "end"))
    every = math.ceil(len(layers) / 14)
    for i, (layer, mean, column) in enumerate(zip(layers, means, zip(*folds, strict=True), strict=True)):
        x = left + step * (i + 0.5)
        body.append(
            f'<g class="weight"><title>layer {layer}: {percent(mean)} %</title><rect class="bar" x="{x - step * 0.35:.1f}" '
            f'y="{y(mean):.1f}" width="{step * 0.7:.1f}" height="{bottom - y(mean):.1f}"/>'
            f"{draw_line(x, y(min(column)), x, y(max(column)), 'spread')}</g>"
        )
        if i % every == 0:
            body.append(draw_text(x, bottom + 16, str(layer), "small", "middle"))
    equal = 1 / len(layers)
    body += [
        draw_line(left, y(equal), right, y(equal), "reference"),
        draw_line(left, bottom, right, bottom, "axis"),
    ]
    body.append(draw_text((left + right) / 2, bottom + 34, "layer", "middle"))
    turned = f"translate(12 {(top + bottom) / 2:g}) rotate(-90)"
    body.append(draw_text(0, 0, "share, %", "middle", transform=turned))
    heaviest = layers[max(range(len(layers)), key=means.__getitem__)]
    label = f"Learnt weight of each layer, {title(comparison, result)}: most on layer {heaviest}."
    return draw_svg(bottom + 42, label, body, kind="weights")


def scatter(projection: Projection, groups: Sequence[str], what: str) -> str:
    """Return the utterances as points, coloured by the group that each belongs to.

    Parameters
    ----------
    projection : Projection
        With more than ``MOST_POINTS`` points, every second, third, ... is drawn, and the figure says so.
    groups : sequence of str, one per point
        With more than ``MOST_GROUPS`` different ones, the smallest are drawn as one.
    what : str
        What the groups are.
    """
    common = [name for name, _ in Counter(groups).most_common()]
    kept = sorted(common if len(common) <= MOST_GROUPS else common[: MOST_GROUPS - 1])
    places = {name: i for i, name in enumerate(kept)}
    names = [*kept, "others"] if len(kept) < len(common) else kept
    legend, x, y = [], 6.0, 34.0
    for i, name in enumerate(names):
        shown = cut_text(name or "unknown", WIDTH - 40)
        if x > 6 and x + 18 + text_width(shown) > WIDTH:
            x, y = 6.0, y + 18
        classes, kind = series_looks(i)
        legend += [marker(kind, x + 4, y - 4, classes, 4), draw_text(x + 13, y, shown)]
        x += 30 + text_width(shown)
    stride = math.ceil(len(projection.points) / MOST_POINTS) or 1
    some = f"; drawn is one in {stride}" if stride > 1 else ""
    source = cut_text(f"{projection.source}, by {what}", WIDTH - 8 - text_width(some, 11), 11) + some
    top, middle, half = y + 14, WIDTH / 2, WIDTH / 2 - 26
    centre = top + half + 6
    body = [draw_text(4, 12, source, "small"), *legend]
    body.append(
        f'<rect class="frame" x="{middle - half - 6:g}" y="{top:g}" width="{2 * half + 12:g}" height="{2 * half + 12:g}"/>'
    )
    for (across, up), group in list(zip(projection.points, groups, strict=True))[::stride]:
        classes, kind = series_looks(places.get(group, len(kept)))
        body.append(marker(kind, middle + half * across, centre - half * up, classes, 3))
    first, second = projection.explained
    body.append(
        draw_text(middle, centre + half + 24, f"component 1, {percent(first)} % of the variance", "middle")
    )
    turned = f"translate(13 {centre:g}) rotate(-90)"
    body.append(draw_text(0, 0, f"component 2, {percent(second)} %", "middle", transform=turned))
    label = f"{len(projection.points)} utterances on two principal components of {projection.source}, coloured by {what}."
    return draw_svg(centre + half + 32, label, body, kind="scatter")
