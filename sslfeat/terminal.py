"""What a run shows a person: progress that adapts to where it is shown, and summaries in plain sentences."""

import contextlib
import csv
import io
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sslfeat.tables import make_table, printable

if TYPE_CHECKING:
    from sslfeat.extract import Extraction
    from sslfeat.extract import Progress as ExtractionProgress

Show = Callable[[int, int, str], None]

# Where the output is no terminal, a line is worth its place in a log only so often.
_SECONDS_BETWEEN_LINES = 10.0
_MOST_SHOWN = 10
# Spreadsheets run a cell that starts with one of these as a formula (OWASP, "CSV Injection").
_FORMULA_STARTS = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")


@contextlib.contextmanager
def show_progress(what: str, *, quiet: bool = False) -> Iterator[Show]:
    """Give a function that shows how far a run is, on standard error.

    A terminal gets a bar that moves, anything else a plain line every ten seconds.

    Parameters
    ----------
    what : str
        The things counted, as ``utterances``.
    quiet : bool
        Show nothing.

    Yields
    ------
    callable
        Takes how many are done, how many there are, and a remark.
    """
    console = Console(stderr=True)
    if quiet:
        yield lambda _done, _total, _remark: None
    elif console.is_terminal:
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("", total=None)
            yield lambda done, total, remark: bar.update(
                task, completed=done, total=total, description=escape(printable(f"{what}  {remark}"))
            )
    else:
        yield _plain_lines(what)


@contextlib.contextmanager
def show_extraction(*, quiet: bool = False) -> Iterator[Callable[["ExtractionProgress"], None]]:
    """Give a function that shows how far an extraction is, as `show_progress` does."""
    with show_progress("utterances", quiet=quiet) as show:

        def show_rate(progress: "ExtractionProgress") -> None:
            rate = progress.audio_seconds / max(progress.wall_seconds, 1e-9)
            show(
                progress.done,
                progress.total,
                f"{rate:.0f} s of audio per second, {progress.num_failures} failed",
            )

        yield show_rate


def _plain_lines(what: str) -> Show:
    started = last = time.monotonic()
    is_over = False

    def show(done: int, total: int, remark: str) -> None:
        nonlocal last, is_over
        now = time.monotonic()
        if total == 0 or is_over or (now - last < _SECONDS_BETWEEN_LINES and done < total):
            return
        last, is_over = now, done == total
        left = f", {(now - started) / done * (total - done):.0f} s left" if 0 < done < total else ""
        tell(f"{done}/{total} {what}{', ' + remark if remark else ''}{left}")

    return show


def tell(sentence: str) -> None:
    """Write a line on standard error, where it doesn't disturb output that is piped; names in it can't steer a terminal."""
    sys.stderr.write(printable(sentence) + "\n")
    sys.stderr.flush()


@contextlib.contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Show each distinct warning once, as a line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        yield
    for text in dict.fromkeys(str(one.message).splitlines()[0] for one in caught):
        tell(f"warning: {text}")


def tell_some(heading: str, lines: Sequence[str]) -> None:
    """Write a heading and the first lines under it, and how many more there are."""
    if not lines:
        return
    tell(heading)
    for line in lines[:_MOST_SHOWN]:
        tell(f"  {line}")
    if len(lines) > _MOST_SHOWN:
        tell(f"  ... and {len(lines) - _MOST_SHOWN} more")


def tell_extraction(done: "Extraction") -> None:
    """Write what was extracted, what was left out and why."""
    repeated = [
        f"{one.id} has the samples of {one.original_id}"
        + (
            f", but is labelled {one.label} and not {one.original_label}"
            if one.label != one.original_label
            else ""
        )
        for one in done.duplicates
    ]
    tell_some("damaged parts of an earlier run, set aside; their utterances were done again:", done.set_aside)
    tell_some("duplicates, left out:", repeated)
    tell_some("in the cache, but not in the corpus any more; kept:", done.gone)
    tell_some("changed in the corpus, but kept as they were, since their files are not there:", done.outdated)
    tell_some("clipped, kept:", done.clipped)
    if len(done.sample_rates) > 1:
        rates = ", ".join(f"{count} at {rate} Hz" for rate, count in done.sample_rates.items())
        tell(f"sample rates differ, and were made one: {rates}")
    if done.num_written > 1:
        shortest, median, longest = done.durations
        tell(f"durations: {shortest:.2f} to {longest:.2f} s, median {median:.2f} s")
    tell_some("failed, left out:", [f"{one.path}: {one.reason}" for one in done.failures])
    written = "nothing written" if done.failures else "nothing left to do"
    if done.num_written:
        rate = done.audio_seconds / max(done.wall_seconds, 1e-9)
        things = "utterance" if done.num_written == 1 else "utterances"
        written = f"{done.num_written} {things} written ({done.audio_seconds:.0f} s of audio, {rate:.0f} x real time)"
    kept = f", {done.num_kept} there already" if done.num_kept else ""
    copies = "duplicate" if len(done.duplicates) == 1 else "duplicates"
    tell(f"{done.cache_path}: {written}{kept}; {len(done.failures)} failed, {len(done.duplicates)} {copies}.")


def print_predictions(
    files: Sequence[str], labels: Sequence[str], shares: Mapping[str, Sequence[float]], form: str
) -> None:
    """Write one line per file on standard output: its label, and the probability of each where there are any.

    Parameters
    ----------
    files, labels : sequence of str
    shares : mapping of str to sequence of float
        Label -> probability per file.
    form : str
        ``json``, ``csv`` or ``table``; a table that is piped has tabs between its columns. In CSV an apostrophe stands
        before a name that a spreadsheet would run as a formula.
    """
    # A name that is no UTF-8 would stop the output half-way.
    names = [os.fsencode(name).decode(errors="backslashreplace") for name in files]
    rows = [[float(column[index]) for column in shares.values()] for index in range(len(names))]
    if form == "json":
        told = [
            {"file": name, "label": label}
            | ({"probabilities": dict(zip(shares, row, strict=True))} if row else {})
            for name, label, row in zip(names, labels, rows, strict=True)
        ]
        sys.stdout.write(json.dumps(told, indent=1) + "\n")
        return
    on_screen = form == "table" and sys.stdout.isatty()
    places = 2 if on_screen else 6
    header = ["file", "label", *shares]
    cells = [
        [name, label, *(f"{share:.{places}f}" for share in row)]
        for name, label, row in zip(names, labels, rows, strict=True)
    ]
    if on_screen:
        Console().print(make_table("", header, cells))
    else:
        # In a pipe names are what they are; where they are seen, or divided by tabs, they are spelt out.
        told_as = _defuse if form == "csv" and not sys.stdout.isatty() else printable
        for row in (header, *cells):
            line = io.StringIO(newline="")
            # Python quotes a return, which readers take for the end of a row, only where it ends one.
            csv.writer(line, delimiter="," if form == "csv" else "\t", lineterminator="\r\n").writerow(
                map(told_as, row)
            )
            sys.stdout.write(line.getvalue().removesuffix("\r\n") + "\n")


def _defuse(cell: str) -> str:
    return "'" + cell if cell.startswith(_FORMULA_STARTS) else cell
