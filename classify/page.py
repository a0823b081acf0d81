"""A comparison as one self-contained page: no network, useful without its script, safe with strangers' names."""

import base64
import hashlib
import re
from collections import Counter
from importlib import resources
from string import Template

from classify.closeup import (
    leading_estimates,
    recall_figure,
    reliability_figure,
    row_record,
    row_sentence,
    sexes_figure,
    speakers_figure,
)
from classify.diagrams import learnt_weights, scatter
from classify.markup import facts_html, figure_html, list_html, mark_html, safe, safe_json
from classify.plots import confusion_matrix, layer_curves, row_title, score_range, whisker
from classify.results import Comparison, Folds, Result
from classify.tables import (
    DIFFERENCE_COLUMNS,
    OPTIMISTIC,
    RANDOM,
    caution,
    difference_rows,
    differences_said,
    headline,
    interval,
    is_random,
    latex_table,
    markdown_report,
    marks,
    percent,
    results_csv,
    title,
)


def render_page(comparison: Comparison) -> str:
    """Return ``report.html`` as text.

    The script is named by its hash in the page's content security policy, which forbids everything else: no
    text out of a cache can run or load anything, whatever it holds.
    """
    style, script = _read("report.css"), _read("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    best = comparison.best
    values = {
        "script_hash": f"sha256-{digest}",
        "title": safe(headline(comparison)),
        "style": style,
        "script": script,
        "headline": _unbroken(headline(comparison)),
        "caution": f'<p class="caution">{_unbroken(caution(comparison))}</p>',
        "banner": _banner(comparison),
        "tiles": _tiles(comparison),
        "table": _table(comparison),
        "downloads": _downloads(comparison),
        "notes": _notes(comparison),
        "layers": _layers(comparison),
        "weights": _weights(comparison),
        "map_link": '<a href="#map">Utterances</a>' if comparison.projection else "",
        "map": _map(comparison),
        "reliability": reliability_figure(comparison),
        "options": _options(comparison),
        "row": safe(row_sentence(comparison, best)),
        "confusion": figure_html(
            "confusion",
            "Confusion",
            confusion_matrix(comparison.labels, best.confusion, row_title(comparison, best)),
            "Per cent of each true emotion, with the number of utterances below; blue is right, orange is confused.",
        ),
        "recall": recall_figure(comparison),
        "speakers": speakers_figure(comparison),
        "sexes": sexes_figure(comparison),
        "chosen": _chosen(comparison),
        "protocols": "\n".join(_protocol(folds) for folds in comparison.folds),
        "data": _data(comparison),
        "made": _made(comparison),
        "footer": safe(f"Drawn by sslfeat {comparison.versions.get('sslfeat', '')}").rstrip()
        + ". This page loads nothing; results.json and predictions.csv lie beside it.",
        "rows": safe_json([row_record(comparison, result) for result in comparison.results]),
    }
    return Template(_read("report.html")).substitute(values)


def _read(name: str) -> str:
    return resources.files("classify").joinpath(name).read_text("utf-8")


def _unbroken(text: str) -> str:
    """Keep a number and its unit on one line."""
    return re.sub(r"(?<=\d) (?=%|emotions|speakers?\b)", "&nbsp;", safe(text))


def _banner(comparison: Comparison) -> str:
    alone = [name for name, facts in comparison.caches.items() if "members" not in facts]
    untrained = [name for name in alone if is_random(comparison, name)]
    if not untrained:
        return ""
    text = (
        f"{', '.join(untrained)}: this encoder is {RANDOM}. It has learnt nothing from speech; its scores show what "
        "untrained features give, not what the architecture can do."
    )
    return f'<p class="banner">{safe(text)}</p>'


def _tiles(comparison: Comparison) -> str:
    best = comparison.best
    people_tested = dict(
        zip(*map(comparison.of_tested, (comparison.speakers, comparison.sexes)), strict=True)
    )
    sexes = Counter(people_tested.values())
    people = ", ".join(f"{count} {sex}" for sex, count in sorted(sexes.items()) if sex)
    tiles = [
        (
            _capital(name),
            f"{percent(estimate.value)} %",
            f"{percent(estimate.low)} to {percent(estimate.high)}",
        )
        for name, estimate in leading_estimates(best).items()
    ]
    tested, emotions = len(comparison.of_tested(comparison.truth)), len(comparison.tested_labels)
    some = "" if tested == len(comparison.truth) else " tested"
    tiles.append((f"Speakers{some}", str(len(people_tested)), people))
    tiles.append((f"Utterances{some}", str(tested), f"{emotions} emotions"))
    cells = "".join(
        f"<div><dt>{safe(name)}</dt><dd>{safe(value)} <small>{safe(detail)}</small></dd></div>"
        for name, value, detail in tiles
    )
    return f'<dl class="tiles">{cells}</dl>'


def _table(comparison: Comparison) -> str:
    poolings = len({result.pooling for result in comparison.results}) > 1
    names = ["features", "layer", *["pooling"] * poolings, "classifier"]
    kinds = {"features": ' class="stick"', "layer": ' class="number"'}
    head = "".join(f'<th scope="col"{kinds.get(name, "")}>{_capital(name)}</th>' for name in names)
    for i, name in enumerate(leading_estimates(comparison.best)):
        head += f'<th scope="col" class="score number">{_capital(name)}</th>'
        head += '<th scope="col" class="score">Interval</th>' if i == 0 else ""
    head += '<th scope="col">Protocol</th><th scope="col" class="number">Seconds</th>'
    head += '<th scope="col" class="number" title="Expected calibration error, in per cent">ECE</th>'
    ranked = sorted(
        comparison.results, key=lambda result: (result.optimistic, -result.balanced_accuracy.value)
    )
    span = _span(comparison)
    rows = "\n".join(_table_row(comparison, result, span, poolings=poolings) for result in ranked)
    return (
        '<table class="sortable"><caption>Every row of the comparison, scores in per cent</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table>"
    )


def _table_row(comparison: Comparison, result: Result, span: tuple[float, float], *, poolings: bool) -> str:
    best = comparison.best
    kind = "best" if result is best else OPTIMISTIC if result.optimistic else ""
    features = safe(result.cache) + "".join(mark_html(mark) for mark in marks(comparison, result))
    features += mark_html("best", "good") if result is best else ""
    cells = [
        f'<th scope="row" class="stick" data-value="{safe(result.cache)}">{features}</th>',
        f'<td class="number" data-value="{safe(result.layers)}">{safe(result.layers)}</td>',
        *[f'<td data-value="{safe(result.pooling)}">{safe(result.pooling)}</td>'] * poolings,
        f'<td data-value="{safe(result.method)}">{safe(result.method)}</td>',
    ]
    for i, estimate in enumerate(leading_estimates(result).values()):
        value, bounds = interval(estimate).split(" ", 1)
        cells.append(
            f'<td class="number" data-value="{estimate.value!r}">{value}<span class="bounds">{bounds}</span></td>'
        )
        if i == 0:
            picture = whisker(estimate, span, best.balanced_accuracy.value)
            cells.append(f'<td data-value="{estimate.low!r}">{picture}</td>')
    cells.append(f'<td data-value="{safe(result.protocol)}">{safe(result.protocol)}</td>')
    cells.append(f'<td class="number" data-value="{result.seconds!r}">{result.seconds:.1f}</td>')
    error = None if result.calibration is None else result.calibration.error
    known = ("", "\N{EN DASH}") if error is None else (repr(error), percent(error))
    cells.append(f'<td class="number" data-value="{known[0]}">{known[1]}</td>')
    return f'<tr class="{kind}">{"".join(cells)}</tr>'


def _span(comparison: Comparison) -> tuple[float, float]:
    estimates = [result.balanced_accuracy for result in comparison.results]
    return score_range(bound for estimate in estimates for bound in (estimate.low, estimate.high))


def _capital(name: str) -> str:
    return name[0].upper() + name[1:]


def _downloads(comparison: Comparison) -> str:
    files = {
        "results.csv": ("text/csv", results_csv),
        "table.tex": ("text/x-tex", latex_table),
        "report.md": ("text/markdown", markdown_report),
    }
    links = []
    for name, (media_type, render) in files.items():
        content = base64.b64encode(render(comparison).encode("utf-8", "backslashreplace")).decode()
        links.append(f'<a download="{name}" href="data:{media_type};base64,{content}">{name}</a>')
    return f"<span>Take the table along:</span> {' '.join(links)}"


def _notes(comparison: Comparison) -> str:
    warned: dict[str, list[str]] = {}
    for result in comparison.results:
        for warning in result.warnings:
            warned.setdefault(warning, []).append(title(comparison, result))
    notes = list_html(comparison.notes, "notes") if comparison.notes else ""
    notes += _differences(comparison)
    if warned:
        items = [
            f"{warning}: {'; '.join(rows[:3])}{f'; and {len(rows) - 3} more rows' if len(rows) > 3 else ''}"
            for warning, rows in warned.items()
        ]
        notes += f"<h3>Warnings while fitting</h3>{list_html(items)}"
    return notes


def _differences(comparison: Comparison) -> str:
    if not comparison.differences:
        return ""
    rival, difference, *p_values = DIFFERENCE_COLUMNS
    numbers = [_capital(difference), *p_values]
    head = f'<th scope="col">{_capital(rival)}</th>' + "".join(
        f'<th scope="col" class="number">{name}</th>' for name in numbers
    )
    rows = "\n".join(
        f'<tr><th scope="row">{safe(name)}</th>'
        + "".join(f'<td class="number">{cell}</td>' for cell in cells)
        + "</tr>"
        for name, *cells in difference_rows(comparison)
    )
    return (
        f'<h3>Differences</h3><p class="lead">{safe(differences_said(comparison))}</p>'
        '<div class="scroll" role="region" aria-label="Table of differences, scrollable" tabindex="0">'
        f"<table><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table></div>"
    )


def _layers(comparison: Comparison) -> str:
    methods = list(dict.fromkeys(result.method for result in comparison.results))
    series = {method: i for i, method in enumerate(methods)}
    chance, span = 1 / len(comparison.tested_labels), _span(comparison)
    span = (min(span[0], score_range([chance])[0]), span[1])
    panels: dict[tuple[str, ...], list[Result]] = {}
    for result in (result for result in comparison.results if result.selection != "none"):
        cache, pooling, _, mark = result.system
        panels.setdefault((result.protocol, cache, pooling, mark), []).append(result)
    order = [folds.protocol for folds in comparison.folds]
    return "\n".join(
        figure_html(
            "-".join(["layers", *filter(None, reversed(key))]),
            "",
            layer_curves(comparison, panels[key], series, span),
            "",
        )
        for key in sorted(panels, key=lambda key: order.index(key[0]))
    )


def _weights(comparison: Comparison) -> str:
    figures = [
        figure_html(
            f"weights-{result.cache}-{result.pooling}-{result.protocol}",
            "",
            learnt_weights(comparison, result),
            "Share of each layer in the learnt sum, mean over folds; the line spans the folds. Dashed: equal shares.",
        )
        for result in comparison.results
        if any(result.layer_weights)
    ]
    return (
        f'<h3>What the weighted sum learnt</h3><div class="figures">{"".join(figures)}</div>'
        if figures
        else ""
    )


def _map(comparison: Comparison) -> str:
    if comparison.projection is None:
        return ""
    groups = {
        "emotion": [comparison.labels[index] for index in comparison.truth],
        "speaker": comparison.speakers,
        "sex": [sex or "unknown" for sex in comparison.sexes],
    }
    figures, choices = "", ""
    for what, names in groups.items():
        if len(set(names)) > 1:
            figures += figure_html(
                f"map-by-{what}", f"By {what}", scatter(comparison.projection, names, what), ""
            )
            checked = " checked" if what == "emotion" else ""
            choices += (
                f'<label><input type="radio" name="colour" value="map-by-{what}"{checked}> {what}</label>'
            )
    return (
        '<section id="map" aria-labelledby="map-title"><h2 id="map-title">Where the utterances lie</h2>'
        f'<p class="lead">The two directions in which {safe(comparison.projection.source)} spreads most (principal '
        "components of standardised features), over all utterances and without a look at any label. A picture only: "
        "no score is made of it, and what lies apart here need not be what a classifier uses.</p>"
        f'<fieldset class="choose" id="colours" hidden><legend>Coloured by</legend>{choices}</fieldset>'
        f'<div class="figures">{figures}</div></section>'
    )


def _options(comparison: Comparison) -> str:
    groups: dict[str, list[str]] = {}
    for i, result in enumerate(comparison.results):
        selected = " selected" if result is comparison.best else ""
        score = percent(result.balanced_accuracy.value)
        text = f"{title(comparison, result)}: {score}"
        group = ", ".join([result.cache, result.pooling, result.protocol])
        groups.setdefault(group, []).append(f'<option value="{i}"{selected}>{safe(text)}</option>')
    return "".join(
        f'<optgroup label="{safe(name)}">{"".join(rows)}</optgroup>' for name, rows in groups.items()
    )


def _chosen(comparison: Comparison) -> str:
    parts = []
    for result in comparison.results:
        if result.chosen:
            names = comparison.folds_of(result).names
            items = [f"{name}: {what}" for name, what in zip(names, result.chosen, strict=False)]
            parts.append(
                f"<details><summary>{safe(title(comparison, result))}</summary>{list_html(items)}</details>"
            )
    return f"<h3>Chosen inside each training part</h3>{''.join(parts)}" if parts else ""


def _protocol(folds: Folds) -> str:
    mark = mark_html(OPTIMISTIC) if folds.optimistic else ""
    tested = Counter(fold for repetition in folds.tested_in for fold in repetition if fold >= 0)
    sizes = [f"{name} ({tested[i]})" for i, name in enumerate(folds.names)]
    shown = ", ".join(sizes[:24]) + (f", and {len(sizes) - 24} more" if len(sizes) > 24 else "")
    repeated = f" in {len(folds.tested_in)} repetitions" if len(folds.tested_in) > 1 else ""
    return (
        f'<div class="card"><h3>{safe(folds.protocol)}{mark}</h3><p>{safe(folds.claim)}</p>'
        f"<p><strong>Audit.</strong> {safe(folds.audit)}</p>"
        f"<p><strong>Folds.</strong> {len(sizes)}{repeated}, with the number of test utterances: {safe(shown)}.</p></div>"
    )


def _data(comparison: Comparison) -> str:
    counts = ", ".join(f"{label} {count}" for label, count in comparison.class_counts.items())
    facts = facts_html({"emotions": counts, "speakers": _people_by_sex(comparison)})
    cards = []
    for name, spec in comparison.caches.items():
        mark = mark_html(RANDOM) if is_random(comparison, name) else ""
        fields = facts_html({field.replace("_", " "): _plain(value) for field, value in spec.items()})
        cards.append(f'<div class="card"><h3>{safe(name)}{mark}</h3>{fields}</div>')
    return f'{facts}<div class="figures">{"".join(cards)}</div>'


def _people_by_sex(comparison: Comparison) -> str:
    groups: dict[str, list[str]] = {}
    for speaker, sex in sorted(set(zip(comparison.speakers, comparison.sexes, strict=True))):
        groups.setdefault(sex or "sex unknown", []).append(speaker)
    return "; ".join(f"{sex}: {', '.join(people)}" for sex, people in sorted(groups.items()))


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _made(comparison: Comparison) -> str:
    command = (
        f"<pre>{_safe_lines(comparison.command)}</pre>"
        if comparison.command
        else "<p>Called from Python.</p>"
    )
    seconds = sum(result.seconds for result in comparison.results)
    facts = {"seed": comparison.random_state, "fitting and predicting": f"{seconds:.0f} s in all"}
    return command + facts_html(facts | dict(comparison.versions))


def _safe_lines(text: str) -> str:
    return "\n".join(map(safe, text.split("\n")))
