"""What a run shows a person: progress that adapts to where it is shown, and summaries in plain sentences."""

import contextlib
import csv
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from sslfeat.check import CheckReport
    from sslfeat.corpus import Corpus
    from sslfeat.extract import Extraction

Show = Callable[[int, int, str], None]

# Where the output is no terminal, a line is worth its place in a log only so often.
_SECONDS_BETWEEN_LINES = 10.0
_MOST_SHOWN = 10


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
                task, completed=done, total=total, description=escape(f"{what}  {remark}")
            )
    else:
        yield _plain_lines(what)


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
    """Write a line on standard error, where it doesn't disturb output that is piped."""
    sys.stderr.write(sentence + "\n")
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
    tell_some("failed, left out:", [f"{one.path}: {one.reason}" for one in done.failures])
    written = "nothing written" if done.failures else "nothing left to do"
    if done.num_written:
        rate = done.audio_seconds / max(done.wall_seconds, 1e-9)
        things = "utterance" if done.num_written == 1 else "utterances"
        written = f"{done.num_written} {things} written ({done.audio_seconds:.0f} s of audio, {rate:.0f} x real time)"
    kept = f", {done.num_kept} there already" if done.num_kept else ""
    tell(
        f"{done.cache_path}: {written}{kept}; {len(done.failures)} failed, {len(done.duplicates)} duplicates."
    )


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
        ``json``, ``csv`` or ``table``; a table that is piped has tabs between its columns.
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
        writer = csv.writer(sys.stdout, delimiter="," if form == "csv" else "\t", lineterminator="\n")
        writer.writerows([header, *cells])


def make_table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """Return a table whose cells, which come from a user's data, are shown as they are."""
    table = Table(title=title, title_justify="left")
    for name in header:
        table.add_column(escape(name), overflow="fold", no_wrap=name == "speaker")
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    return table


def label_table(by_speaker: Mapping[str, Mapping[str, int]]) -> Table:
    """Return how many utterances of each label each speaker has, with totals."""
    labels = sorted({label for counts in by_speaker.values() for label in counts})
    rows: list[list[object]] = [
        [speaker or "(unknown)", *(counts.get(label, 0) for label in labels), sum(counts.values())]
        for speaker, counts in by_speaker.items()
    ]
    totals = [sum(counts.get(label, 0) for counts in by_speaker.values()) for label in labels]
    header = ["speaker", *(label or "(no label)" for label in labels), "all"]
    return make_table("Labels by speaker", header, [*rows, ["all", *totals, sum(totals)]])


def describe_cache(summary: Mapping[str, Any]) -> list[Table]:
    """Return tables of what ``FeatureCache.summary`` says."""
    spec = summary["spec"]
    facts = [
        ("utterances", summary["utterances"]),
        ("audio", f"{summary['duration_seconds'] / 3600:.2f} h"),
        ("complete", "yes" if summary["complete"] else "no: a part of a run"),
        ("size", f"{summary['file_size'] / 1e6:.1f} MB"),
        ("failures", len(summary["failures"])),
        ("duplicates", len(summary["duplicates"])),
        ("fingerprint", summary["fingerprint"]),
        ("schema version", summary["schema_version"]),
    ]
    tables = [
        make_table(summary["path"], ("", ""), facts),
        make_table("What made its numbers", ("field", "value"), list(spec.items())),
        label_table(summary["labels_by_speaker"]),
    ]
    tables += [
        make_table(name.capitalize(), tuple(found[0]), [tuple(one.values()) for one in found])
        for name in ("failures", "duplicates")
        if (found := summary[name])
    ]
    return tables


def describe_check(report: "CheckReport") -> list[Table]:
    """Return tables of what reading a corpus found."""
    shortest, median, longest = report.durations
    listing = report.listing
    facts = [
        ("utterances", len(listing.utterances)),
        ("audio", f"{report.hours:.2f} h"),
        ("durations", f"{shortest:.2f} to {longest:.2f} s, median {median:.2f} s"),
        ("sample rates", _counted(report.sample_rates, "Hz")),
        ("channels", _counted(report.channels, "")),
        ("unlabelled", report.unlabelled),
        ("unexpected names", len(listing.unexpected)),
        ("missing names", len(listing.missing)),
        ("failures", len(report.failures)),
        ("duplicates", len(report.duplicates)),
        ("clipped", len(report.clipped)),
        ("verdict", "something is off" if report.is_off else "nothing is off"),
    ]
    tables = [make_table(str(listing.root), ("", ""), facts), label_table(report.speakers_by_label)]
    if report.failures:
        tables.append(
            make_table("Failures", ("file", "why"), [(one.path, one.reason) for one in report.failures])
        )
    if report.duplicates:
        rows = [(one.id, one.label, one.original_id, one.original_label) for one in report.duplicates]
        tables.append(make_table("Duplicates", ("utterance", "label", "same samples as", "label"), rows))
    return tables


def describe_corpora(corpora: "Iterable[Corpus]") -> Table:
    """Return the known corpora, one a row."""
    rows = [
        (
            entry.key,
            entry.num_files or "",
            entry.num_speakers or "",
            len({label for _, label in entry.labels.values()}),
            f"{entry.hours:.1f}" if entry.hours else "",
            ", ".join(entry.languages),
            entry.licence,
        )
        for entry in corpora
    ]
    header = ("corpus", "files", "speakers", "labels", "hours", "language", "licence")
    return make_table("Known corpora", header, rows)


def describe_corpus(entry: "Corpus") -> Table:
    """Return everything that is known of a corpus."""
    labels = "\n".join(
        f"{code}: {native}, {label}" + (f", {entry.counts[code]} files" if code in entry.counts else "")
        for code, (native, label) in entry.labels.items()
    )
    rows = [
        ("title", entry.title),
        ("names", "\n".join(entry.examples)),
        ("files", entry.num_files or "differs by release"),
        ("speakers", entry.num_speakers or "differs by release"),
        ("hours", entry.hours or "not published"),
        ("languages", ", ".join(entry.languages)),
        ("labels", labels),
        ("licence", entry.licence),
        ("citation", entry.citation),
        ("where to get it", entry.url),
        *(("remark", remark) for remark in entry.remarks),
    ]
    return make_table(entry.key, ("", ""), rows)


def _counted(counts: Mapping[int, int], unit: str) -> str:
    return ", ".join(f"{count} at {value} {unit}".rstrip() for value, count in counts.items())
