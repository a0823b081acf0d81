"""What is known of corpora, of one corpus folder and of a cache, laid out for a terminal or a file of any width."""

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from sslfeat.check import CheckReport
    from sslfeat.corpus import Corpus

_MOST_NAMED = 10
_MOST_UNKNOWN = 3
_SHORT_LABEL = 4  # letters
_CELL_MARGIN = 3  # a space on each side and a line
_INDENT = 17


def printable(text: object) -> str:
    """Return a user's text with what would steer a terminal spelt out."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in str(text)
    )


def make_table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Return a table whose cells, which come from a user's data, are shown as they are."""
    table = Table(title=Text(printable(title)), title_justify="left")
    for name in header:
        table.add_column(Text(printable(name)), overflow="fold", no_wrap=name == "speaker")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def label_tables(
    by_speaker: Mapping[str, Mapping[str, int]], width: int, published: Mapping[str, int] | None = None
) -> list[Table]:
    """Return how many utterances of each label each speaker has, with totals.

    Parameters
    ----------
    by_speaker : mapping of str to mapping of str to int
        Speaker -> label -> utterances.
    width : int
        Columns of the terminal. Labels are cut to their first letters where that makes one table of it; where even
        those don't fit, the labels go on in further tables.
    published : mapping of str to int, optional
        Label -> utterances, for a row under the totals.
    """
    totals: Counter[str] = Counter()
    for counts in by_speaker.values():
        totals.update(counts)
    labels = sorted(totals)
    rows = {speaker or "(unknown)": counts for speaker, counts in by_speaker.items()} | {"all": totals}
    if published:
        rows["published"] = published
    first = _CELL_MARGIN + max(map(len, ("speaker", *rows)))
    last = _CELL_MARGIN + max(len("all"), len(str(totals.total())))
    names = {label: label or "(no label)" for label in labels}
    needed = {label: _CELL_MARGIN + max(len(names[label]), len(str(totals[label]))) for label in labels}
    if first + sum(needed.values()) + last >= width:
        names = _shortened(names)
        needed = {label: _CELL_MARGIN + max(len(names[label]), len(str(totals[label]))) for label in labels}
    tables: list[Table] = []
    while labels or not tables:
        fitting = 1
        while (
            fitting < len(labels) and first + sum(needed[one] for one in labels[: fitting + 1]) + last < width
        ):
            fitting += 1
        here, labels = labels[:fitting], labels[fitting:]
        sums = [] if labels else ["all"]
        cells = [
            [who, *(counts.get(label, 0) for label in here), *([sum(counts.values())] if sums else [])]
            for who, counts in rows.items()
        ]
        title = "Labels by speaker" if not tables else "Labels by speaker, continued"
        tables.append(make_table(title, ["speaker", *(names[label] for label in here), *sums], cells))
    return tables


def _shortened(names: Mapping[str, str]) -> dict[str, str]:
    """Return the names cut to their first letters, to as many as tell them apart."""
    letters = _SHORT_LABEL
    while len({name[:letters] for name in names.values()}) < len(set(names.values())):
        letters += 1
    return {label: name[:letters] for label, name in names.items()}


def describe_cache(summary: Mapping[str, Any], width: int) -> list[Table]:
    """Return tables of what ``FeatureCache.summary`` says."""
    facts = [
        ("utterances", summary["utterances"]),
        ("audio", _lasting(summary["duration_seconds"] / 3600)),
        ("complete", "yes" if summary["complete"] else "no: a part of a run"),
        ("size", f"{summary['file_size'] / 1e6:.1f} MB"),
        ("failures", len(summary["failures"])),
        ("duplicates", len(summary["duplicates"])),
        ("fingerprint", summary["fingerprint"]),
        ("schema version", summary["schema_version"]),
    ]
    tables = [
        make_table(summary["path"], ("", ""), facts),
        make_table("What made its numbers", ("field", "value"), list(summary["spec"].items())),
        *label_tables(summary["labels_by_speaker"], width),
    ]
    tables += [
        make_table(name.capitalize(), tuple(found[0]), [tuple(one.values()) for one in found])
        for name in ("failures", "duplicates")
        if (found := summary[name])
    ]
    return tables


def describe_check(report: "CheckReport", width: int) -> list[RenderableType]:
    """Return what reading a corpus found: facts, the table of labels and speakers, and the first of what is off."""
    listing = report.listing
    facts = [
        (name, found, published, "off" if is_off else "") for name, found, published, is_off in _facts(report)
    ]
    header = ("", "here", "published", "")
    parts: list[RenderableType] = [make_table(f"{listing.name} in {listing.root}", header, facts)]
    parts += label_tables(report.labels_by_speaker, width, report.published_labels)
    relabelled = [one for one in report.duplicates if one.label != one.original_label]
    alike = [one for one in report.duplicates if one.label == one.original_label]
    lists = {
        "Missing": listing.missing,
        "Not named as in the corpus": listing.unexpected,
        "Failures": [f"{one.path}: {one.reason}" for one in report.failures],
        "Duplicates under another label": [
            f"{one.id} ({one.label}) has the samples of {one.original_id} ({one.original_label})"
            for one in relabelled
        ],
        "Duplicates": [f"{one.id} has the samples of {one.original_id}" for one in alike],
        "Clipped": [f"{one.utterance.path}: {one.num_clipped} samples" for one in report.clipped],
    }
    parts += [_named(heading, lines) for heading, lines in lists.items() if lines]
    return parts


def _facts(report: "CheckReport") -> Iterator[tuple[str, object, object, bool]]:
    """Yield a fact's name, what it is here, what was published, and whether it is off."""
    listing, entry = report.listing, report.listing.entry
    num_files, num_speakers, hours = (
        (entry.num_files, entry.num_speakers, entry.hours) if entry else (0, 0, 0.0)
    )
    count = len(listing.utterances)
    yield "utterances", count, num_files or "", num_files not in (0, count)
    speakers = {one.speaker for one in listing.utterances} - {""}
    yield "speakers", len(speakers), num_speakers or "", False
    labels = Counter(one.label for one in listing.utterances if one.label)
    published = report.published_labels
    is_off = bool(published) and labels != Counter(published)
    yield "labels", f"{len(labels)}{', in other numbers' if is_off else ''}", len(published) or "", is_off
    yield "unlabelled", report.unlabelled, "", report.unlabelled > 0
    if unknown := report.unknown_labels:
        close = [f"{word} ({near}?)" for word, near in unknown.items() if near]
        shown = ", ".join((close or list(unknown))[:_MOST_UNKNOWN])
        yield "unknown labels", f"{len(unknown)}, as {shown}", "", bool(close)
    yield "audio", _lasting(report.hours), _lasting(hours) if hours else "", False
    shortest, median, longest = report.durations
    yield "durations", f"{shortest:.2f} to {longest:.2f} s, median {median:.2f} s", "", False
    yield "sample rates", _counted(report.sample_rates, "Hz"), "", False
    yield "channels", _counted(report.channels, ""), "", False
    for name, found in (
        ("missing names", listing.missing),
        ("unexpected names", listing.unexpected),
        ("repeated names", listing.repeated),
        ("failures", report.failures),
        ("duplicates", report.duplicates),
    ):
        yield name, len(found), "", bool(found)
    yield "clipped", len(report.clipped), "", False
    yield "verdict", "something is off" if report.is_off else "nothing is off", "", report.is_off


def _named(heading: str, lines: Sequence[str]) -> Text:
    """Return the first lines under a heading; none is folded, so that paths can be copied."""
    shown = [f"{heading} ({len(lines)})", *(f"  {line}" for line in lines[:_MOST_NAMED])]
    if len(lines) > _MOST_NAMED:
        shown.append(f"  ... and {len(lines) - _MOST_NAMED} more; --json names them all")
    return Text("\n".join(map(printable, shown)))


def describe_corpora(entries: "Iterable[Corpus]") -> Text:
    """Return the known corpora, one in three lines: its numbers, its licence, and where to get it."""
    lines = [f"{'corpus':<{_INDENT}}{'files':>6}{'speakers':>10}{'labels':>8}{'hours':>7}  languages"]
    for entry in entries:
        labels = len({label for _, label in entry.labels.values()})
        hours = f"{entry.hours:.1f}" if entry.hours else "-"
        numbers = f"{entry.num_files or '-':>6}{entry.num_speakers or '-':>10}{labels:>8}{hours:>7}"
        lines.append(f"{entry.key:<{_INDENT}}{numbers}  {', '.join(entry.languages)}")
        lines += [" " * _INDENT + entry.licence, " " * _INDENT + entry.url]
    return Text(
        "\n".join(
            [*lines, "", "- differs by release or is unknown; `sslfeat corpora NAME` shows one in full."]
        )
    )


def describe_corpus(entry: "Corpus", width: int) -> Text:
    """Return everything that is known of a corpus."""
    women, men = (sum(sex == one for sex in entry.sexes.values()) for one in ("female", "male"))
    sexes = f" ({women} female, {men} male)" if women + men == entry.num_speakers > 0 else ""
    facts = {
        "key": entry.key,
        "names": ", ".join(entry.examples),
        "files": str(entry.num_files or "differs by release"),
        "speakers": f"{entry.num_speakers}{sexes}" if entry.num_speakers else "unknown or differs by release",
        "hours": f"{entry.hours:g}" if entry.hours else "unknown or differs by release",
        "languages": ", ".join(entry.languages),
        "licence": entry.licence,
        "to be cited": entry.citation,
        "where to get it": entry.url,
    }
    if entry.intensities:
        words = (f"{code} {word}" for code, word in entry.intensities.items())
        facts["intensities"] = ", ".join(words)
    lines = [entry.title, ""]
    for name, value in facts.items():
        lines += _wrapped(f"{name:<{_INDENT}}", value, width)
    for place, source in enumerate(entry.sources):
        lines += _wrapped(f"{'' if place else 'read from':<{_INDENT}}", source, width)
    header = ("code", "own word", "label", "files")
    rows = [
        (code, native, label, str(entry.counts.get(code, "-")))
        for code, (native, label) in entry.labels.items()
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines.append("")
    for code, native, label, files in (header, *rows):
        lines.append(
            f"{code:<{widths[0]}}  {native:<{widths[1]}}  {label:<{widths[2]}}  {files:>{widths[3]}}"
        )
    lines.append("")
    for remark in entry.remarks:
        lines += _wrapped("- ", remark, width)
    return Text("\n".join(lines).rstrip())


def _wrapped(head: str, text: str, width: int) -> list[str]:
    """Return a text in lines under one another, no word or address broken."""
    if " " not in text:
        return [head + text]
    return textwrap.wrap(
        head + text,
        width=width,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    )


def _lasting(hours: float) -> str:
    return f"{hours:.2f} h" if hours >= 0.1 else f"{60 * hours:.1f} min"


def _counted(counts: Mapping[int, int], unit: str) -> str:
    return ", ".join(f"{count} at {value} {unit}".rstrip() for value, count in counts.items())
