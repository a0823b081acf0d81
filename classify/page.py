"""A comparison as one self-contained page: no network, useful without its script, safe with strangers' names."""

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from html import escape
from importlib import resources
from string import Template

from classify.plots import MAX_BANDS, confusion_matrix, dots, layer_curves, row_title, score_range, whisker
from classify.results import Comparison, Estimate, Folds, Result
from classify.tables import (
    METRICS,
    OPTIMISTIC,
    RANDOM,
    caution,
    headline,
    interval,
    is_random,
    latex_table,
    markdown_report,
    marks,
    percent,
    printable,
    results_csv,
    title,
)

# Beyond this many speakers the figure scrolls inside its own box.
MAX_TALL = 30
_SEX_KINDS = {"female": 0, "male": 1}


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
        "title": _safe(headline(comparison)),
        "style": style,
        "script": script,
        "headline": _unbroken(headline(comparison)),
        "caution": f'<p class="caution">{_unbroken(caution(comparison))}</p>',
        "banner": _banner(comparison),
        "tiles": _tiles(comparison),
        "table": _table(comparison),
        "downloads": _downloads(comparison),
        "notes": _notes(comparison),
        "layers_lead": _safe(_layers_lead(comparison)),
        "layers": _layers(comparison),
        "options": _options(comparison),
        "row": _safe(_sentence(comparison, best)),
        "confusion": _figure(
            "confusion",
            "Confusion",
            confusion_matrix(comparison.labels, best.confusion, row_title(comparison, best)),
            "Per cent of each true emotion, with the number of utterances below; blue is right, orange is confused.",
        ),
        "recall": _recall(comparison),
        "speakers": _speakers(comparison),
        "sexes": _sexes(comparison),
        "chosen": _chosen(comparison),
        "protocols": "\n".join(_protocol(folds) for folds in comparison.folds),
        "data": _data(comparison),
        "made": _made(comparison),
        "footer": _safe(f"Drawn by sslfeat {comparison.versions.get('sslfeat', '')}").rstrip()
        + ". This page loads nothing; results.json and predictions.csv lie beside it.",
        "rows": _json([_row(comparison, result) for result in comparison.results]),
    }
    return Template(_read("report.html")).substitute(values)


def _read(name: str) -> str:
    return resources.files("classify").joinpath(name).read_text("utf-8")


def _safe(text: object) -> str:
    return escape(printable(str(text)))


def _unbroken(text: str) -> str:
    """Keep a number and its unit on one line."""
    return re.sub(r"(?<=\d) (?=%|emotions|speakers?\b)", "&nbsp;", _safe(text))


def _json(value: object) -> str:
    """Return JSON that can stand inside a script element: no ``<`` to end it, no ``&`` to be read as an entity."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _mark(text: str, kind: str = "") -> str:
    return f' <span class="mark {kind}">{text}</span>'


def _figure(name: str, heading: str, svg: str, caption: str, *, tall: bool = False) -> str:
    above = f"<h3>{heading}</h3>" if heading else ""
    box = (
        f'<div class="tallbox" tabindex="0" role="region" aria-label="{heading}">{svg}</div>' if tall else svg
    )
    below = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f'<figure data-name="{_safe(name)}">{above}{box}{below}</figure>'


def _list(items: Iterable[str], kind: str = "") -> str:
    names = f' class="{kind}"' if kind else ""
    return f"<ul{names}>{''.join(f'<li>{_safe(item)}</li>' for item in items)}</ul>"


def _facts(facts: Mapping[str, object]) -> str:
    return (
        '<dl class="facts">'
        + "".join(f"<dt>{_safe(name)}</dt><dd>{_safe(fact)}</dd>" for name, fact in facts.items())
        + "</dl>"
    )


def _banner(comparison: Comparison) -> str:
    untrained = [name for name in comparison.caches if is_random(comparison, name)]
    if not untrained:
        return ""
    text = (
        f"{', '.join(untrained)}: this encoder is {RANDOM}. It has learnt nothing from speech; its scores show what "
        "untrained features give, not what the architecture can do."
    )
    return f'<p class="banner">{_safe(text)}</p>'


def _tiles(comparison: Comparison) -> str:
    best = comparison.best
    sexes = Counter(dict(zip(comparison.speakers, comparison.sexes, strict=True)).values())
    people = ", ".join(f"{count} {sex}" for sex, count in sorted(sexes.items()) if sex)
    tiles = [
        (
            _capital(name),
            f"{percent(estimate.value)} %",
            f"{percent(estimate.low)} to {percent(estimate.high)}",
        )
        for name, estimate in _estimates(best).items()
    ]
    tiles.append(("Speakers", str(comparison.num_speakers), people))
    tiles.append(("Utterances", str(len(comparison.truth)), f"{len(comparison.labels)} emotions"))
    cells = "".join(
        f"<div><dt>{_safe(name)}</dt><dd>{_safe(value)} <small>{_safe(detail)}</small></dd></div>"
        for name, value, detail in tiles
    )
    return f'<dl class="tiles">{cells}</dl>'


def _estimates(result: Result) -> dict[str, Estimate]:
    """Accuracy, balanced accuracy and macro F1, by their names in words; the balanced one leads."""
    order = ("balanced_accuracy", "accuracy", "f1_macro")
    return {METRICS[name]: getattr(result, name) for name in order}


def _table(comparison: Comparison) -> str:
    poolings = len({result.pooling for result in comparison.results}) > 1
    names = ["features", "layer", *["pooling"] * poolings, "classifier"]
    kinds = {"features": ' class="stick"', "layer": ' class="number"'}
    head = "".join(f'<th scope="col"{kinds.get(name, "")}>{_capital(name)}</th>' for name in names)
    for i, name in enumerate(_estimates(comparison.best)):
        head += f'<th scope="col" class="score number">{_capital(name)}</th>'
        head += '<th scope="col" class="score">Interval</th>' if i == 0 else ""
    head += '<th scope="col">Protocol</th><th scope="col" class="number">Seconds</th>'
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
    features = _safe(result.cache) + "".join(_mark(mark) for mark in marks(comparison, result))
    features += _mark("best", "good") if result is best else ""
    cells = [
        f'<th scope="row" class="stick" data-value="{_safe(result.cache)}">{features}</th>',
        f'<td class="number" data-value="{_safe(result.layers)}">{_safe(result.layers)}</td>',
        *[f'<td data-value="{_safe(result.pooling)}">{_safe(result.pooling)}</td>'] * poolings,
        f'<td data-value="{_safe(result.classifier)}">{_safe(result.classifier)}</td>',
    ]
    for i, estimate in enumerate(_estimates(result).values()):
        value, bounds = interval(estimate).split(" ", 1)
        cells.append(
            f'<td class="number" data-value="{estimate.value!r}">{value}<span class="bounds">{bounds}</span></td>'
        )
        if i == 0:
            picture = whisker(estimate, span, best.balanced_accuracy.value)
            cells.append(f'<td data-value="{estimate.low!r}">{picture}</td>')
    cells.append(f'<td data-value="{_safe(result.protocol)}">{_safe(result.protocol)}</td>')
    cells.append(f'<td class="number" data-value="{result.seconds!r}">{result.seconds:.1f}</td>')
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
    notes = _list(comparison.notes, "notes") if comparison.notes else ""
    if warned:
        items = [
            f"{warning}: {'; '.join(rows[:3])}{f'; and {len(rows) - 3} more rows' if len(rows) > 3 else ''}"
            for warning, rows in warned.items()
        ]
        notes += f"<h3>Warnings while fitting</h3>{_list(items)}"
    return notes


def _layers_lead(comparison: Comparison) -> str:
    many = len({result.classifier for result in comparison.results}) > MAX_BANDS
    return (
        f"Balanced accuracy of each layer; {'the bar at the best one is its' if many else 'the bands are'} 95 % "
        f"{'interval' if many else 'intervals'} over speakers. Layer 0 is the input of the first transformer block, "
        "layer k the output of block k. A layer picked from these curves is picked on test data."
    )


def _layers(comparison: Comparison) -> str:
    classifiers = list(dict.fromkeys(result.classifier for result in comparison.results))
    series = {classifier: i for i, classifier in enumerate(classifiers)}
    chance, span = 1 / len(comparison.labels), _span(comparison)
    span = (min(span[0], score_range([chance])[0]), span[1])
    panels: dict[tuple[str, ...], list[Result]] = {}
    for result in (result for result in comparison.results if result.selection != "none"):
        panels.setdefault((result.protocol, result.cache, result.pooling), []).append(result)
    order = [folds.protocol for folds in comparison.folds]
    return "\n".join(
        _figure(
            "-".join(["layers", *reversed(key)]), "", layer_curves(comparison, panels[key], series, span), ""
        )
        for key in sorted(panels, key=lambda key: order.index(key[0]))
    )


def _options(comparison: Comparison) -> str:
    groups: dict[str, list[str]] = {}
    for i, result in enumerate(comparison.results):
        selected = " selected" if result is comparison.best else ""
        score = percent(result.balanced_accuracy.value)
        text = f"{title(comparison, result)}: {score}"
        group = ", ".join([result.cache, result.pooling, result.protocol])
        groups.setdefault(group, []).append(f'<option value="{i}"{selected}>{_safe(text)}</option>')
    return "".join(
        f'<optgroup label="{_safe(name)}">{"".join(rows)}</optgroup>' for name, rows in groups.items()
    )


def _sentence(comparison: Comparison, result: Result) -> str:
    scores = "; ".join(f"{name} {interval(estimate)}" for name, estimate in _estimates(result).items())
    folds = result.fold_balanced_accuracy
    return printable(
        f"{title(comparison, result)}: {scores}. Per fold, balanced accuracy is {percent(folds.mean)} on average, "
        f"with a standard deviation of {percent(folds.std)}."
    )


def _row(comparison: Comparison, result: Result) -> dict[str, object]:
    """Return what the page's script shows of a row, in the order of the figures' names."""
    return {
        "short": row_title(comparison, result),
        "sentence": _sentence(comparison, result),
        "confusion": result.confusion,
        "recall": result.recall,
        "speakers": [result.speaker_scores.get(speaker) for speaker in _people(comparison)],
        "sexes": [result.sex_scores.get(sex) for sex in _known_sexes(comparison)],
        "mean": result.balanced_accuracy.value,
    }


def _people(comparison: Comparison) -> list[str]:
    return sorted(set(comparison.speakers))


def _known_sexes(comparison: Comparison) -> list[str]:
    return sorted(set(comparison.sexes) - {""})


def _recall(comparison: Comparison) -> str:
    best, counts = comparison.best, comparison.class_counts
    svg = dots(
        comparison.labels,
        best.recall,
        best.balanced_accuracy.value,
        what="recall",
        name=row_title(comparison, best),
        details=[str(counts[label]) for label in comparison.labels],
    )
    caption = "Per cent of each emotion that was recognised; small numbers count its utterances."
    return _figure("recall", "Recall of each emotion", svg, caption)


def _speakers(comparison: Comparison) -> str:
    best, people = comparison.best, _people(comparison)
    sexes = dict(zip(comparison.speakers, comparison.sexes, strict=True))
    counts = Counter(comparison.speakers)
    svg = dots(
        people,
        [best.speaker_scores.get(speaker) for speaker in people],
        best.balanced_accuracy.value,
        what="speakers",
        name=row_title(comparison, best),
        kinds=[_SEX_KINDS.get(sexes[speaker], 2) for speaker in people],
        details=[str(counts[speaker]) for speaker in people],
    )
    shapes = {"female": "circles are female", "male": "squares male", "": "triangles unknown"}
    shown = ", ".join(shapes[sex] for sex in shapes if sex in set(sexes.values()))
    caption = f"Balanced accuracy over the speaker's own utterances, counted in small; {shown}."
    return _figure("speakers", "Each speaker", svg, caption, tall=len(people) > MAX_TALL)


def _sexes(comparison: Comparison) -> str:
    best, sexes = comparison.best, _known_sexes(comparison)
    if len(sexes) < 2:
        return ""
    counts = Counter(comparison.sexes)
    svg = dots(
        sexes,
        [best.sex_scores.get(sex) for sex in sexes],
        best.balanced_accuracy.value,
        what="sexes",
        name=row_title(comparison, best),
        kinds=[_SEX_KINDS.get(sex, 2) for sex in sexes],
        details=[str(counts[sex]) for sex in sexes],
    )
    return _figure(
        "sexes",
        "Women and men",
        svg,
        "Balanced accuracy over the group's utterances; the worst group is marked.",
    )


def _chosen(comparison: Comparison) -> str:
    parts = []
    for result in comparison.results:
        if result.chosen:
            names = comparison.folds_of(result).names
            items = [f"{name}: {what}" for name, what in zip(names, result.chosen, strict=False)]
            parts.append(
                f"<details><summary>{_safe(title(comparison, result))}</summary>{_list(items)}</details>"
            )
    return f"<h3>Chosen inside each training part</h3>{''.join(parts)}" if parts else ""


def _protocol(folds: Folds) -> str:
    mark = _mark(OPTIMISTIC) if folds.optimistic else ""
    tested = Counter(fold for repetition in folds.tested_in for fold in repetition if fold >= 0)
    sizes = [f"{name} ({tested[i]})" for i, name in enumerate(folds.names)]
    shown = ", ".join(sizes[:24]) + (f", and {len(sizes) - 24} more" if len(sizes) > 24 else "")
    repeated = f" in {len(folds.tested_in)} repetitions" if len(folds.tested_in) > 1 else ""
    return (
        f'<div class="card"><h3>{_safe(folds.protocol)}{mark}</h3><p>{_safe(folds.claim)}</p>'
        f"<p><strong>Audit.</strong> {_safe(folds.audit)}</p>"
        f"<p><strong>Folds.</strong> {len(sizes)}{repeated}, with the number of test utterances: {_safe(shown)}.</p></div>"
    )


def _data(comparison: Comparison) -> str:
    counts = ", ".join(f"{label} {count}" for label, count in comparison.class_counts.items())
    facts = _facts({"emotions": counts, "speakers": _people_by_sex(comparison)})
    cards = []
    for name, spec in comparison.caches.items():
        mark = _mark(RANDOM) if is_random(comparison, name) else ""
        fields = _facts({field.replace("_", " "): _plain(value) for field, value in spec.items()})
        cards.append(f'<div class="card"><h3>{_safe(name)}{mark}</h3>{fields}</div>')
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
    return command + _facts(facts | dict(comparison.versions))


def _safe_lines(text: str) -> str:
    return "\n".join(map(_safe, text.split("\n")))
