"""A comparison as text: one sentence, terminal tables, CSV, LaTeX and Markdown, each safe to open.

Names, labels and ids come from strangers' caches, so every format escapes them in its own way.
"""

import csv
import decimal
import io
import re
import unicodedata
from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from classify.results import Comparison, Estimate, Result

METRICS = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "f1_macro": "macro F1"}
OPTIMISTIC = "optimistic"
RANDOM = "randomly initialised"
TRANSDUCTIVE = "transductive"

# Spreadsheets run a cell that starts with one of these as a formula (OWASP, "CSV Injection").
FORMULA_STARTS = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")

# Direction marks can make a shown name read as another one (Unicode TR 36, section 2.9).
_DIRECTION_MARKS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_STEERING = {"Cc", "Cs", "Zl", "Zp"}
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "|": r"\textbar{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        **{character: "\\" + character for character in "&%$#_{}"},
        # At the start of a row they would be arguments of the end of the one before.
        **{character: f"{{{character}}}" for character in "[*"},
    }
)
_MARKDOWN = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", **{character: "\\" + character for character in "\\`*_[]|#!~"}}
)


def percent(share: float) -> str:
    """Return a share of 1 as per cent with one decimal, without the sign: ``72.4``."""
    # Half up, as readers expect and as the page's own script rounds.
    return str(decimal.Decimal(100 * share).quantize(decimal.Decimal("0.1"), decimal.ROUND_HALF_UP))


def interval(estimate: Estimate) -> str:
    """Return an estimate in per cent with its interval: ``72.4 [66.1, 78.5]``."""
    return f"{percent(estimate.value)} [{percent(estimate.low)}, {percent(estimate.high)}]"


def printable(text: str) -> str:
    """Replace what could steer a terminal or disguise a name: control characters, separators of lines and direction marks."""
    return "".join(
        "\N{REPLACEMENT CHARACTER}"
        if unicodedata.category(character) in _STEERING or character in _DIRECTION_MARKS
        else character
        for character in text
    )


def is_random(comparison: Comparison, cache: str) -> bool:
    """Whether a cache's encoder says of itself that it was never trained, in its spec or in a note."""
    spec = comparison.caches.get(cache, {})
    named = " ".join(str(spec.get(field, "")) for field in ("model_id", "revision"))
    if re.search(r"(?<![a-z])(random|untrained)", named.lower()):
        return True
    return any(RANDOM in note.lower() and cache in note for note in comparison.notes)


def marks(comparison: Comparison, result: Result) -> tuple[str, ...]:
    """Return what must stand beside a row wherever it is shown: ``optimistic``, ``transductive``, ``randomly initialised``."""
    optimistic = (OPTIMISTIC,) if result.optimistic else ()
    transductive = (TRANSDUCTIVE,) if result.transductive else ()
    # A baseline uses no encoder.
    untrained = result.selection != "none" and is_random(comparison, result.cache)
    return optimistic + transductive + ((RANDOM,) if untrained else ())


def title(comparison: Comparison, result: Result) -> str:
    """Return a row in words, its protocol where there are several, and its marks."""
    said = result.title.removesuffix(f" ({TRANSDUCTIVE})")  # it stands among the marks
    words = [said] + ([result.protocol] if len(comparison.folds) > 1 else [])
    marked = f" ({', '.join(marks(comparison, result))})" if marks(comparison, result) else ""
    return printable(", ".join(words) + marked)


def headline(comparison: Comparison) -> str:
    """Return the comparison's answer as one plain sentence."""
    best = comparison.best
    who = (
        "With the test speakers also in training (optimistic)"
        if best.optimistic
        else "On speakers not heard in training"
    )
    layers = {"best": "a layer chosen in each training part", "all": "all layers"}
    said = RANDOM in best.encoder.replace("-", " ")
    encoder = best.encoder + (f" ({RANDOM})" if is_random(comparison, best.cache) and not said else "")
    encoder += f" ({best.cache.rpartition(', ')[2]})" if best.members else ""
    encoder += f", standardised per speaker ({TRANSDUCTIVE})," if best.transductive else ""
    how = best.method.removeprefix(best.classifier).removeprefix(", ")
    trained = best.classifier + (f" ({how})" if how else "")
    return printable(
        f"{who}, {trained} on {layers.get(best.selection, f'layer {best.layers}')} of {encoder} tells "
        f"{len(comparison.tested_labels)} emotions apart with {percent(best.balanced_accuracy.value)} % balanced accuracy."
    )


def caution(comparison: Comparison) -> str:
    """Return what must be known to believe the headline: its interval, its protocol, and that it was picked."""
    best, speakers = comparison.best, comparison.num_tested_speakers
    score = best.balanced_accuracy
    text = (
        f"The 95 % interval is {percent(score.low)} to {percent(score.high)}, from {speakers} "
        f"{'speaker' if speakers == 1 else 'speakers'} under {best.protocol}; guessing gives "
        f"{percent(1 / len(comparison.tested_labels))} %."
    )
    if untested := sorted(set(comparison.labels) - set(comparison.tested_labels)):
        text += f" Learnt and not tested: {', '.join(untested)}."
    rivals = sum(
        result.optimistic == best.optimistic and result.selection != "none" for result in comparison.results
    )
    if rivals > 1:
        text += (
            f" This row is the best of {rivals}, picked by the very scores that are shown. The best of many is too high "
            "by luck: expect less of it on new speakers. Only a choice made inside each training part is free of that."
        )
    return printable(text)


def shown_results(comparison: Comparison, limit: int | None) -> tuple[Result, ...]:
    """Return all rows, or where they are more than ``limit`` the best layer of each kind, in their order."""
    if limit is None or len(comparison.results) <= limit:
        return comparison.results
    best: dict[tuple[str, ...], Result] = {}
    for result in comparison.results:
        kind = (*result.system, result.selection, result.protocol)
        rival = best.setdefault(kind, result)
        if result.balanced_accuracy.value > rival.balanced_accuracy.value:
            best[kind] = result
    return tuple(best.values())


def _names(comparison: Comparison, result: Result) -> list[str]:
    """Return the cells that say which row it is, marks included; aligned with ``_NAMES``."""
    said = ", ".join(mark for mark in marks(comparison, result) if mark != OPTIMISTIC)
    features = result.cache + (f" ({said})" if said else "")
    protocol = result.protocol + (f" ({OPTIMISTIC})" if result.optimistic else "")
    cells = [features, result.layers, result.pooling, result.method, protocol]
    return [printable(cell) for cell in cells]


_NAMES = ("features", "layer", "pooling", "classifier", "protocol")


def render_table(comparison: Comparison, limit: int | None = 60) -> Table:
    """Return the table for a terminal, the best row marked.

    Parameters
    ----------
    comparison : Comparison
    limit : int or None, default=60
        With more rows than this, only the best layer of each kind of row is shown, and the caption says so;
        None shows all.

    Returns
    -------
    rich.table.Table
        Scores in per cent with their 95 % intervals.
    """
    results = shown_results(comparison, limit)
    several = {
        name: len({getattr(result, name) for result in comparison.results}) > 1
        for name in ("pooling", "protocol")
    }
    caption = "Per cent, with 95 % intervals over speakers. \u25b8 marks the best row."
    if len(results) < len(comparison.results):
        caption += f" Shown is the best layer of each kind, out of {len(comparison.results)} rows."
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=0, caption=Text(caption), caption_justify="left")
    table.add_column("", width=1)
    table.add_column("features", overflow="fold")
    table.add_column("layer", justify="right")
    table.add_column("classifier", overflow="fold")
    for name in METRICS.values():
        table.add_column(name, justify="right", min_width=11, max_width=11)
    above: list[str] = []
    for result in results:
        names = [result.cache + (f", {result.pooling}" if several["pooling"] else "")]
        names += [result.protocol] if several["protocol"] else []
        marked = list(marks(comparison, result))
        if above not in ([], names):
            table.add_section()
        features = marked if names == above else names + marked
        above = names
        table.add_row(
            "\u25b8" if result is comparison.best else "",
            Text("\n".join(map(printable, features))),
            printable(result.layers),
            Text(printable(result.method)),
            *(_terminal(getattr(result, name)) for name in METRICS),
            style="bold" if result is comparison.best else "dim" if result.optimistic else "",
        )
    return table


def _terminal(estimate: Estimate) -> Text:
    """Whole per cents in the interval: three scores then fit into 80 columns."""
    text = Text(percent(estimate.value))
    return text.append(f" {100 * estimate.low:3.0f}\N{EN DASH}{100 * estimate.high:.0f}", style="dim")


def render_plain(comparison: Comparison) -> str:
    """Return every row as a tab-separated line under a header line, for pipes.

    Scores are shares of 1 with four decimals; the column ``note`` says ``best`` and carries the marks.
    """
    header = [*_NAMES, *_score_columns(), "note"]
    lines = ["\t".join(header)]
    for result in comparison.results:
        names = [result.cache, result.layers, result.pooling, result.method, result.protocol]
        note = (("best",) if result is comparison.best else ()) + marks(comparison, result)
        scores = [f"{score:.4f}" for score in _scores(result)]
        lines.append("\t".join([*map(printable, names), *scores, ", ".join(note)]))
    return "\n".join(lines) + "\n"


def _score_columns() -> list[str]:
    return [name + bound for name in METRICS for bound in ("", "_low", "_high")]


def _scores(result: Result) -> list[float]:
    estimates = [getattr(result, name) for name in METRICS]
    return [score for estimate in estimates for score in (estimate.value, estimate.low, estimate.high)]


def defuse(cell: str) -> str:
    """Put an apostrophe before a cell that a spreadsheet would run as a formula."""
    return "'" + cell if cell.startswith(FORMULA_STARTS) else cell


def _csv(rows: Iterable[Sequence[str | float]]) -> str:
    return "".join(
        _csv_line([defuse(cell) if isinstance(cell, str) else cell for cell in row]) for row in rows
    )


def _csv_line(cells: Sequence[str | float]) -> str:
    file = io.StringIO(newline="")
    # Python quotes a return, which readers take for the end of a row, only where it ends one.
    csv.writer(file, lineterminator="\r\n").writerow(cells)
    return file.getvalue().removesuffix("\r\n") + "\n"


def results_csv(comparison: Comparison) -> str:
    """Return one line per row of the table, scores as shares of 1 in full precision."""
    spreads = ("fold_accuracy", "fold_balanced_accuracy", "fold_f1_macro")
    header = ["features", "encoder", "layer", "pooling", "classifier", "protocol", "marks", *_score_columns()]
    header += [f"{name}_{part}" for name in spreads for part in ("mean", "std")]
    header += [f"recall_{label}" for label in comparison.labels] + ["seconds", "calibration_error"]
    rows: list[Sequence[str | float]] = [header]
    for result in comparison.results:
        names = [
            result.cache,
            result.encoder,
            result.layers,
            result.pooling,
            result.method,
            result.protocol,
        ]
        folds = [part for name in spreads for part in _spread(result, name)]
        recall: list[str | float] = ["" if share is None else share for share in result.recall]
        noted = ", ".join(marks(comparison, result))
        error = "" if result.calibration is None else result.calibration.error
        rows.append([*names, noted, *_scores(result), *folds, *recall, result.seconds, error])
    return _csv(rows)


DIFFERENCE_COLUMNS = ("rival", "difference, points", "p, corrected", "p of the t test")


def differences_said(comparison: Comparison) -> str:
    """Return what the table of differences is about."""
    best = title(comparison, comparison.results[comparison.differences[0].first])
    return (
        f"Balanced accuracy of {best} less that of its rivals. The first p value is of a permutation test over speakers, "
        "and pays for picking the best rows; the second, of the corrected resampled t test over folds, doesn't."
    )


def difference_rows(comparison: Comparison) -> list[tuple[str, str, str, str]]:
    """Return the cells of the table of differences, row by row; a dash where a test says nothing."""
    return [
        (
            title(comparison, comparison.results[difference.second]),
            percent(difference.difference),
            f"{difference.p_corrected:.4f}",
            "\N{EN DASH}" if difference.p_resampled_t is None else f"{difference.p_resampled_t:.4f}",
        )
        for difference in comparison.differences
    ]


def _spread(result: Result, name: str) -> tuple[float, float]:
    spread = getattr(result, name)
    return spread.mean, spread.std


def predictions_csv(comparison: Comparison) -> str:
    """Return one line per tested utterance, protocol and repetition, and one column per kind of row.

    A column is headed by the row's title; under a protocol that the row was not run under it is empty. In
    this form a cross table of ``label`` against any column is its confusion matrix.
    """
    columns = _prediction_columns(comparison)
    header = ["utterance_id", "speaker", "sex", "label", "protocol", "repetition", "fold"]
    rows: list[Sequence[str | float]] = [[*header, *columns]]
    for folds in comparison.folds:
        by_column = [column.get(folds.protocol) for column in columns.values()]
        for repetition, tested_in in enumerate(folds.tested_in):
            for i, fold in enumerate(tested_in):
                if fold < 0:
                    continue
                known = [comparison.utterance_ids[i], comparison.speakers[i], comparison.sexes[i]]
                where: list[str | float] = [
                    comparison.labels[comparison.truth[i]],
                    folds.protocol,
                    repetition,
                    folds.names[fold],
                ]
                predicted = [
                    "" if result is None else comparison.labels[result.predictions[repetition][i]]
                    for result in by_column
                ]
                rows.append([*known, *where, *predicted])
    return _csv(rows)


def _prediction_columns(comparison: Comparison) -> dict[str, dict[str, Result]]:
    """Title of each kind of row, with its result by protocol; equal titles are numbered."""
    columns: dict[str, dict[str, Result]] = {}
    for result in comparison.results:
        name, number = result.title, 1
        while result.protocol in columns.get(name, {}):
            number += 1
            name = f"{result.title} #{number}"
        columns.setdefault(name, {})[result.protocol] = result
    return columns


def latex_escape(text: str) -> str:
    """Return text that LaTeX sets as it stands, on one line."""
    return printable(text).translate(_LATEX)


def markdown_escape(text: str) -> str:
    """Return text that Markdown shows as it stands, on one line, HTML included."""
    return printable(text).translate(_MARKDOWN)


def latex_table(comparison: Comparison, limit: int = 30) -> str:
    """Return a LaTeX table (package booktabs), the best row bold; ``limit`` as in ``render_table``."""
    results = shown_results(comparison, limit)
    caption = f"{headline(comparison)} {caution(comparison)}"
    if len(results) < len(comparison.results):
        caption += f" Shown is the best layer of each kind, out of {len(comparison.results)} rows."
    lines = [
        "% needs \\usepackage{booktabs}; scores in per cent, 95 % intervals over speakers",
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{latex_escape(caption)}}}",
        r"  \begin{tabular}{lrlllrrr}",
        r"    \toprule",
        "    " + " & ".join([*map(str.capitalize, _NAMES), "WA", "UA", r"macro F1 \\"]),
        r"    \midrule",
    ]
    for result in results:
        names = [latex_escape(cell) for cell in _names(comparison, result)]
        scores = [_latex_score(getattr(result, name), bold=result is comparison.best) for name in METRICS]
        lines.append("    " + " & ".join([*names, *scores]) + r" \\")
    return "\n".join([*lines, r"    \bottomrule", r"  \end{tabular}", r"\end{table}", ""])


def _latex_score(estimate: Estimate, *, bold: bool) -> str:
    value = rf"\textbf{{{percent(estimate.value)}}}" if bold else percent(estimate.value)
    return rf"{value} {{\scriptsize [{percent(estimate.low)}, {percent(estimate.high)}]}}"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table of cells that are escaped here."""
    lines: list[Sequence[str]] = [
        header,
        ["---"] * len(header),
        *([markdown_escape(cell) for cell in row] for row in rows),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def markdown_report(comparison: Comparison) -> str:
    """Return the report as Markdown: the answer, every row, the best row's confusions, and how it was made."""
    best, labels = comparison.best, comparison.labels
    scores = markdown_table(
        [*_NAMES, *(f"{name}, %" for name in METRICS.values())],
        (
            [*_names(comparison, result), *(interval(getattr(result, name)) for name in METRICS)]
            for result in comparison.results
        ),
    )
    confusion = markdown_table(
        ["true \\ predicted", *map(markdown_escape, labels), "recall, %"],
        (
            [label, *map(str, counts), "" if recall is None else percent(recall)]
            for label, counts, recall in zip(labels, best.confusion, best.recall, strict=True)
        ),
    )
    protocols = "\n".join(
        f"- **{markdown_escape(folds.protocol)}**{f' ({OPTIMISTIC})' if folds.optimistic else ''}: "
        f"{markdown_escape(folds.claim)} {markdown_escape(folds.audit)}"
        for folds in comparison.folds
    )
    notes = "\n".join(f"- {markdown_escape(note)}" for note in comparison.notes)
    versions = ", ".join(f"{name} {version}" for name, version in comparison.versions.items())
    called = comparison.command.split("\n") if comparison.command else ["none, called from Python"]
    commands = "\n".join(f"- command: {markdown_escape(command)}" for command in called)
    parts = [
        f"# {markdown_escape(headline(comparison))}",
        markdown_escape(caution(comparison)),
        f"## Every row\n\nPooled over folds, with 95 % intervals over speakers.\n\n{scores}",
        f"## What this means\n\n{notes}" if notes else "",
        f"## Differences\n\n{markdown_escape(differences_said(comparison))}\n\n"
        f"{markdown_table(DIFFERENCE_COLUMNS, difference_rows(comparison))}"
        if comparison.differences
        else "",
        f"## Confusions of {markdown_escape(title(comparison, best))}\n\n{confusion}",
        f"## Protocol\n\n{protocols}",
        f"## Made by\n\n{commands}\n"
        f"- seed: {comparison.random_state}\n- versions: {markdown_escape(versions) or 'not recorded'}",
    ]
    return "\n\n".join(part.rstrip() for part in parts if part) + "\n"
