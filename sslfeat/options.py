"""What a command line may say and how its texts are read. Imported by ``sslfeat --help``, so only click here."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

# Spelt out here because --help must not wait for the packages that know them; a test holds them together.
POOLINGS = ("mean", "std", "max", "min")
CLASSIFIERS = (
    "feedforward, logistic, linear-svm, svm, knn, lda, qda, ridge, nearest-centroid, random-forest, extra-trees, "
    "hist-gradient-boosting, gaussian-nb, majority, weighted-sum (of all layers), attentive (over frames)"
)
PROTOCOLS = (
    "leave-one-speaker-out, speaker-5-fold (any number), leave-one-session-out, leave-one-corpus-out, cross-corpus, "
    "leave-one-text-out, speaker-and-text-disjoint, predefined, emobox, paper"
)


def parse_layers(_context: click.Context, _option: click.Parameter, text: str) -> list[int] | None:
    """Read ``all``, ``0-12`` or ``6,9``; None means all."""
    if text == "all":
        return None
    layers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,3})\s*(?:-\s*(\d{1,3})\s*)?", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            msg = f"layers are all, a range as 0-12, or a list as 6,9. Got {text!r} instead."
            raise click.BadParameter(msg)
        layers.extend(range(int(match[1]), int(match[2] or match[1]) + 1))
    return layers


def parse_poolings(_context: click.Context, _option: click.Parameter, text: str) -> list[str]:
    """Read ``mean,std``."""
    poolings = [part.strip() for part in text.split(",")]
    if unknown := [name for name in poolings if name not in POOLINGS]:
        msg = f"pooling is out of {', '.join(POOLINGS)}, joined by commas. Got {unknown[0]!r} instead."
        raise click.BadParameter(msg)
    return poolings


def parse_sides(_context: click.Context, _option: click.Parameter, poolings: Sequence[str]) -> Sequence[str]:
    """Read ``mean``, or ``mean+std`` side by side."""
    for pooling in poolings:
        if unknown := [name for name in pooling.split("+") if name not in POOLINGS]:
            msg = f"pooling is out of {', '.join(POOLINGS)}, or several joined by +. Got {unknown[0]!r} instead."
            raise click.BadParameter(msg)
    return poolings


def parse_pairs(_context: click.Context, option: click.Parameter, pairs: Sequence[str]) -> dict[str, str]:
    """Read ``old=new`` options."""
    parsed: dict[str, str] = {}
    for pair in pairs:
        old, equals, new = pair.partition("=")
        if not (old and equals and new):
            msg = f"{option.opts[0]} takes pairs as excited=happiness. Got {pair!r} instead."
            raise click.BadParameter(msg)
        if parsed.setdefault(old, new) != new:
            msg = f"{option.opts[0]} says two things of {old!r}: {parsed[old]!r} and {new!r}."
            raise click.BadParameter(msg)
    return parsed


def parse_device(_context: click.Context, _option: click.Parameter, text: str) -> str:
    """Read ``auto``, ``cpu``, ``mps``, ``cuda`` or ``cuda:1``, or several joined by commas; whether it is there shows later."""
    for device in text.split(","):
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", device, re.ASCII):
            msg = f"a device is auto, cpu, mps, cuda or cuda:N. Got {device!r} instead."
            raise click.BadParameter(msg)
    return text


def parse_shard(
    _context: click.Context, _option: click.Parameter, text: str | None
) -> tuple[int, int] | None:
    """Read ``2/8``."""
    if text is None:
        return None
    match = re.fullmatch(r"0*(\d{1,9})/0*(\d{1,9})", text, re.ASCII)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        msg = f"a share is I/N with I in 1..N, as 2/8. Got {text!r} instead."
        raise click.BadParameter(msg)
    return int(match[1]), int(match[2])


def parse_channels(_context: click.Context, _option: click.Parameter, text: str) -> str:
    """Read ``mean`` or the number of a channel."""
    if text != "mean" and not (text.isascii() and text.isdigit()):
        msg = f"a channel is mean, or a number from 0. Got {text!r} instead."
        raise click.BadParameter(msg)
    return text


def with_corpus_options(command: Any) -> Any:
    """Add the ways to say what is spoken in which file."""
    options = [
        click.argument("corpus_dir", required=False, type=click.Path(path_type=Path)),
        click.option(
            "--corpus",
            help="Known corpus, as emodb (see `sslfeat corpora`), guessed where the names are unambiguous; or the name of your own.",
        ),
        click.option(
            "--manifest",
            type=click.Path(path_type=Path),
            help="Table of your own (CSV, TSV, JSONL) instead of a known corpus.",
        ),
        click.option(
            "--root",
            type=click.Path(path_type=Path),
            help="Folder that the paths of a manifest or wav.scp start from; its own by default.",
        ),
        click.option(
            "--column",
            "columns",
            multiple=True,
            callback=parse_pairs,
            metavar="FIELD=NAME",
            help="Repeatable: column of the manifest that a field is in, as label=emo; guessed where not given.",
        ),
        click.option("--pattern", help="How your own files are named, as '{speaker}_{text}_{label}.wav'."),
        click.option(
            "--labels-from-folders", is_flag=True, help="Each subfolder's name is its files' label."
        ),
        click.option(
            "--export-dir",
            type=click.Path(path_type=Path),
            help="Where the audio goes that a Hugging Face dataset holds as bytes. [default: DATASET-audio beside it]",
            show_default=False,
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command
