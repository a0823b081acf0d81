"""Commands on what stage 1 reads and writes: corpora before it, caches after it. Everything heavy is imported inside them."""

# Each option is one line of a table; the formatter would make seven of it.
# fmt: off

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sslfeat.options import parse_channels, parse_device, with_corpus_options

if TYPE_CHECKING:
    from cache import FeatureSpec
    from sslfeat.corpora import CorpusListing

PARTIAL_SUCCESS = 3


def list_asked(**options: Any) -> "CorpusListing":
    """List the corpus that the options of `with_corpus_options` name, and tell what it is."""
    from sslfeat.listing import RequestError, list_corpus
    from sslfeat.terminal import tell

    try:
        listing = list_corpus(**{name: value for name, value in options.items() if value is not None})
    except RequestError as error:
        raise click.UsageError(str(error)) from error
    speakers = len({utterance.speaker for utterance in listing.utterances} - {""})
    labels = len({utterance.label for utterance in listing.utterances} - {""})
    how = f" (guessed from the names; say --corpus {listing.name} to be sure)" if listing.guessed else ""
    tell(f"{listing.root}: {listing.name}{how}, {len(listing.utterances)} utterances, {speakers} speakers, {labels} labels.")
    for note in listing.notes:
        tell(f"note: {note}")
    return listing


def encoder_of(spec: "FeatureSpec", model_id: str | None, whose: str) -> tuple[str, str | None]:
    """Return where an encoder is to be loaded from, and its revision: as the spec says, where none is named."""
    if model_id is not None:
        return model_id, None
    if spec.revision == "local" and spec.model_id != "embedded":
        msg = f"{whose} encoder, {spec.model_id}, was a local directory; name it with --model."
        raise click.UsageError(msg)
    return spec.model_id, None if spec.revision == "local" else spec.revision


@click.command()
@with_corpus_options
@click.option("--channel", "channels", default="mean", callback=parse_channels, metavar="mean|N", help="What several channels become: their mean, or channel N, from 0.")
@click.option("--jobs", default=2, type=click.IntRange(min=1), help="Threads that decode.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def check(channels: str, jobs: int, as_json: bool, quiet: bool, **corpus_options: Any) -> None:
    """Read a corpus without embedding it, and tell what is off.

    Counts against the published ones, missing and unexpected names, unreadable, silent, clipped and repeated audio,
    rates, durations, and labels by speaker.
    Exit status 3 says that something is off.
    """
    listing = list_asked(**corpus_options)
    from rich.console import Console

    from sslfeat.check import check as run
    from sslfeat.tables import describe_check
    from sslfeat.terminal import show_progress

    total = len(listing.utterances)
    with show_progress("files", quiet=quiet) as show:
        found = run(listing, channels=channels, jobs=jobs, progress=lambda done: show(done, total, ""))
    console = Console()
    if as_json:
        click.echo(json.dumps(found.summary(), indent=1))
    else:
        for part in describe_check(found, console.width):
            console.print(part, soft_wrap=True)
    if found.is_off:
        sys.exit(PARTIAL_SUCCESS)


@click.command()
@click.argument("name", required=False)
def corpora(name: str | None) -> None:
    """List the corpora whose naming is known, or show one in full."""
    from rich.console import Console

    from sslfeat.corpora import CORPORA, nearest_of
    from sslfeat.tables import describe_corpora, describe_corpus

    if name is not None and name not in CORPORA:
        msg = f"no corpus {name!r}{nearest_of(name, CORPORA)}; known are {', '.join(CORPORA)}."
        raise click.UsageError(msg)
    console = Console()
    shown = describe_corpora(CORPORA.values()) if name is None else describe_corpus(CORPORA[name], console.width)
    console.print(shown, soft_wrap=True)


@click.command()
@click.argument("cache_path", metavar="CACHE.h5", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def info(cache_path: Path, as_json: bool) -> None:
    """Show what a cache holds and what made its numbers."""
    from cache import FeatureCache

    with FeatureCache(cache_path) as cache:
        summary = cache.summary()
    if as_json:
        click.echo(json.dumps(summary, indent=1))
        return
    from rich.console import Console

    from sslfeat.tables import describe_cache

    console = Console()
    for table in describe_cache(summary, console.width):
        console.print(table)


@click.command(short_help="Check a cache's checksums, and its numbers against its audio.")
@click.argument("cache_path", metavar="CACHE.h5", type=click.Path(path_type=Path))
@click.option("--sample", default=0, type=click.IntRange(min=0), metavar="N", help="Embed N utterances again, each alone, and compare; drawn at random.")
@click.option("--root", default=".", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Folder that the cache's paths start from: the CORPUS_DIR of `extract`.")
@click.option("--model", "model_id", help="The encoder, where the cache was made by one in a local directory.")
@click.option("--device", default="auto", callback=parse_device, help="auto, cpu, mps, cuda or cuda:1.")
@click.option("--seed", default=0, type=click.IntRange(min=0), help="Of the draw.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def verify(cache_path: Path, sample: int, root: Path, model_id: str | None, device: str, seed: int, quiet: bool) -> None:
    """Check every checksum of a cache, and its numbers against its audio.

    \b
    sslfeat verify emodb.h5
    sslfeat verify emodb.h5 --sample 8 --root emodb/wav

    Exit status 1 says that the cache is damaged or differs from what its encoder makes now.
    """
    from cache import FeatureCache

    with FeatureCache(cache_path) as cache:
        if found := cache.verify():
            raise click.ClickException("\n".join(found))
        click.echo(f"{cache_path}: {len(cache)} utterances, all checksums hold.")
        if sample:
            from sslfeat.tables import printable
            from sslfeat.terminal import show_progress
            from sslfeat.verify import compare_again

            model_id, revision = encoder_of(cache.spec, model_id, "the cache's")
            with show_progress("utterances", quiet=quiet) as show:
                told = compare_again(cache, sample, root=root, model_id=model_id, revision=revision, device=device, seed=seed, progress=lambda done, total: show(done, total, ""))
            click.echo("\n".join(map(printable, told.lines())))
            if told.is_off:
                sys.exit(1)


@click.command(short_help="Join caches made by one encoder under one spec.")
@click.argument("out_path", metavar="OUT.h5", type=click.Path(path_type=Path))
@click.argument("cache_paths", metavar="IN.h5...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace OUT.h5 where it is there.")
def merge(out_path: Path, cache_paths: tuple[Path, ...], overwrite: bool) -> None:
    """Join caches made by one encoder under one spec; a later one wins where two know an utterance."""
    from cache import merge as join

    join(out_path, cache_paths, overwrite=overwrite)
    click.echo(out_path)
