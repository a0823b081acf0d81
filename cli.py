"""The command line: parses, calls, prints. Everything heavy is imported inside the commands."""

# Each option is one line of a table; the formatter would make seven of it.
# fmt: off

import contextlib
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sslfeat.commands import PARTIAL_SUCCESS, check, corpora, encoder_of, info, list_asked, merge, verify
from sslfeat.options import (
    CLASSIFIERS,
    PROTOCOLS,
    parse_channels,
    parse_device,
    parse_layers,
    parse_pairs,
    parse_poolings,
    parse_shard,
    parse_sides,
    with_corpus_options,
)

if TYPE_CHECKING:
    from classify import Bundle
    from classify.bundle import Features

INTERRUPTED = 130


class _Group(click.Group):
    """Turns errors into one sentence and an exit status; ``--debug`` shows where they came from."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except click.ClickException as error:
            error.message = _spelt_out(error.message)  # type: ignore[misc]  # final, and shown by click itself
            raise
        except KeyboardInterrupt:
            goes_on = ctx.invoked_subcommand in ("extract", "fit")
            click.echo("interrupted" + ("; what was finished is kept, and the same command goes on from there." if goes_on else "."), err=True)
            sys.exit(INTERRUPTED)
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            # The project's own errors are ValueErrors and OSErrors whose text is the whole story.
            expected = isinstance(error, (ValueError, OSError, MemoryError))
            text = str(error) if expected and str(error) else f"unexpected {type(error).__name__}: {error}"
            notes = " ".join(getattr(error, "__notes__", []))
            raise click.ClickException(_spelt_out(f"{text} {notes}".strip())) from error


def _spelt_out(message: str) -> str:
    """Return a message in which no name of a stranger's can steer the terminal."""
    from sslfeat.tables import printable

    return "\n".join(map(printable, message.split("\n")))


@click.group(cls=_Group, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="sslfeat")
def main(debug: bool) -> None:
    """Speech emotion recognition on self-supervised encoders.

    \b
    sslfeat extract CORPUS_DIR -o CACHE.h5     per-layer embeddings, once
    sslfeat fit CACHE.h5 -o RESULTS_DIR        classifiers compared on unheard speakers
    sslfeat predict RESULTS_DIR/bundle AUDIO   the best one on new audio
    """


@main.command(short_help="Embed a corpus: every layer of every utterance, in one file.")
@with_corpus_options
@click.option("-o", "--output", "cache_path", required=True, type=click.Path(path_type=Path), help="The cache to write, as emodb.h5; the same command again goes on where it ended.")
@click.option("--model", "model_id", default="embedded", help="Hub id (facebook/wav2vec2-base), a directory that save_pretrained wrote, or the small encoder in the package.")
@click.option("--revision", help="Branch, tag or commit of a hub model; the commit is recorded.")
@click.option("--layers", default="all", callback=parse_layers, help="all, 0-12, or 6,9. 0 is the input of the first block, k the output of block k.")
@click.option("--pooling", default="mean,std", callback=parse_poolings, help="Statistics over frames, side by side: mean, std, max, min.")
@click.option("--frames", is_flag=True, help="Keep the frame embeddings too (50 per second and layer).")
@click.option("--precision", default="float32", type=click.Choice(["float32", "bfloat16", "float16"]), help="Arithmetic of the encoder; float32 is exact.")
@click.option("--dtype", default="float32", type=click.Choice(["float32", "float16"]), help="Type of the stored numbers.")
@click.option("--chunk-seconds", default=60.0, type=click.FloatRange(min=0), help="Longer audio is read and encoded in overlapping chunks, in the memory of one; 0: always in one piece.")
@click.option("--channel", "channels", default="mean", callback=parse_channels, metavar="mean|N", help="What several channels become: their mean, or channel N, from 0.")
@click.option("--device", default="auto", callback=parse_device, help="auto, cpu, mps, cuda or cuda:1; or several as cuda:0,cuda:1, with a process each.")
@click.option("--shard", callback=parse_shard, metavar="I/N", help="Only the I-th of N shares of the utterances, as 2/8; `sslfeat merge` joins their caches. A share goes by the utterances' ids alone: new files move no old one.")
@click.option("--scheduler", metavar="ADDRESS", help="Let the workers of a Dask cluster do it, which see the same files; needs sslfeat[dask].")
@click.option("--batch-seconds", type=click.FloatRange(min=0, min_open=True), help="Audio encoded at once, padding counted; changes no number. [default: 6 a core on a CPU, 320 on a GPU]", show_default=False)
@click.option("--jobs", default=2, type=click.IntRange(min=1), help="Threads that decode.")
@click.option("--overwrite", is_flag=True, help="Throw away what is there under that name and start again.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def extract(cache_path: Path, model_id: str, revision: str | None, layers: list[int] | None, pooling: list[str], frames: bool, precision: str, dtype: str, chunk_seconds: float, channels: str, device: str, shard: tuple[int, int] | None, scheduler: str | None, batch_seconds: float | None, jobs: int, overwrite: bool, quiet: bool, **corpus_options: Any) -> None:
    """Embed a corpus: every layer of every utterance, pooled over time, in one file.

    \b
    sslfeat extract emodb/wav -o emodb.h5
    sslfeat extract emodb/wav -o emodb-w2v2.h5 --model facebook/wav2vec2-base --device cuda
    sslfeat extract calls/ -o calls.h5 --pattern '{speaker}_{label}_*.wav'
    sslfeat extract calls/ -o calls-2.h5 --shard 2/8

    CORPUS_DIR is a known corpus, a Kaldi data folder, an audformat database or a Hugging Face dataset on disk.

    Exit status 3 says that all went well but for some utterances whose audio can't be used.
    """
    from sslfeat.parts import check_target

    devices = device.split(",")
    if scheduler and len(devices) > 1:
        msg = "--device is one for each worker where there is a --scheduler."
        raise click.UsageError(msg)
    listing = list_asked(**corpus_options)
    check_target(cache_path)
    from sslfeat.launch import launch
    from sslfeat.terminal import tell_extraction

    spec_options = {"layers": layers, "pooling": pooling, "frames": frames, "dtype": dtype, "channels": channels, "chunk_seconds": chunk_seconds}
    done = launch(listing, cache_path, model_id=model_id, revision=revision, precision=precision, devices=devices, scheduler=scheduler, shard=shard, spec_options=spec_options, batch_seconds=batch_seconds, jobs=jobs, overwrite=overwrite, quiet=quiet)
    tell_extraction(done)
    click.echo(cache_path)
    if done.failures or done.outdated:
        sys.exit(PARTIAL_SUCCESS)


@main.command(short_help="Compare layers and classifiers on unheard speakers.")
@click.argument("cache_paths", metavar="[CACHE.h5...]", nargs=-1, type=click.Path(path_type=Path))
@click.option("--train", "train_paths", multiple=True, metavar="CACHE.h5", type=click.Path(path_type=Path), help="Repeatable, with --test, instead of CACHE.h5: train on each of these corpora,")
@click.option("--test", "test_paths", multiple=True, metavar="CACHE.h5", type=click.Path(path_type=Path), help="and test on each of these, over the labels that all have.")
@click.option("-o", "--output", "results_dir", required=True, type=click.Path(path_type=Path), help="Folder for results.json, results.csv, predictions.csv, report.html, report.md, table.tex and the bundle.")
@click.option("--classifier", "classifiers", multiple=True, default=("logistic", "feedforward"), help=f"Repeatable: {CLASSIFIERS}; all, for these but majority and attentive; or module:Class of any scikit-learn classifier, whose bundle is read with --trust.")
@click.option("--layer", "layers", multiple=True, default=("all",), help="Repeatable: all, or a layer's number; or best, chosen inside each training part.")
@click.option("--pooling", "poolings", multiple=True, default=("mean",), callback=parse_sides, help="Repeatable: mean, std, or another that the caches store; or several side by side, as mean+std.")
@click.option("--protocol", default="leave-one-speaker-out", help=f"Who is tested on: {PROTOCOLS} (optimistic); or predefined:FILE, the folds of a CSV of id, fold. docs/protocols.md says what each may claim.")
@click.option("--tune", is_flag=True, help="Let each training part choose among the classifier's small grid of parameters.")
@click.option("--search", default="grid", type=click.Choice(["grid", "halving"]), help="How --tune and --layer best choose: among all, or by successive halving, sooner.")
@click.option("--class-weight", type=click.Choice(["balanced"]), help="Let rare labels count as much as frequent ones in training.")
@click.option("--audit-text", is_flag=True, help="Make a sentence in both parts of a fold an error under any protocol.")
@click.option("--speaker-norm", is_flag=True, help="Standardise per speaker, tested ones too; such rows are marked transductive, and give no bundle.")
@click.option("--baselines/--no-baselines", default=True, help="Rows for the most frequent label and for the utterances' lengths alone.")
@click.option("--report-optimism", is_flag=True, help="Run the protocol `paper` (arXiv 2411.02964) beside the chosen one and print the gap.")
@click.option("--fusion", multiple=True, type=click.Choice(["concatenate", "average"]), help="Repeatable: rows for all caches together too, their features side by side or their probabilities averaged.")
@click.option("--exclude-label", "exclude_labels", multiple=True, help="Repeatable: leave a label out.")
@click.option("--merge-labels", multiple=True, callback=parse_pairs, metavar="OLD=NEW", help="Repeatable: as excited=happiness.")
@click.option("--jobs", default=-1, help="Processes; -1 is all cores.")
@click.option("--scheduler", metavar="ADDRESS", help="Let the workers of a Dask cluster do it, which see the same files; needs sslfeat[dask].")
@click.option("--seed", default=0, type=click.IntRange(0, 2**32 - 1), help="Random state of whatever is random.")
@click.option("--device", default="cpu", callback=parse_device, help="Where feedforward, weighted-sum and attentive are trained: cpu, cuda or cuda:1.")
@click.option("--overwrite", is_flag=True, help="Replace the results of another run in that folder.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def fit(cache_paths: tuple[Path, ...], train_paths: tuple[Path, ...], test_paths: tuple[Path, ...], results_dir: Path, classifiers: tuple[str, ...], layers: tuple[str, ...], poolings: tuple[str, ...], protocol: str, tune: bool, search: str, class_weight: str | None, audit_text: bool, speaker_norm: bool, baselines: bool, report_optimism: bool, fusion: tuple[str, ...], exclude_labels: tuple[str, ...], merge_labels: dict[str, str], jobs: int, scheduler: str | None, seed: int, device: str, overwrite: bool, quiet: bool) -> None:
    """Compare encoders, layers and classifiers on speakers they have not heard.

    \b
    sslfeat fit emodb.h5 -o results
    sslfeat fit wav2vec2.h5 hubert.h5 -o results --classifier svm --layer 6 --layer 9
    sslfeat fit emodb.h5 -o results --report-optimism
    sslfeat fit --train emodb.h5 --test ravdess.h5 -o results

    Everything learnt, scaling too, is learnt inside the folds. The best row, or the best that takes one encoder
    and one utterance at a time, is fitted again on all utterances compared and kept as RESULTS_DIR/bundle.
    """
    from cache import FeatureCache
    from classify import Bundle
    from classify.bundle import best_kept, why_not_kept
    from classify.cluster import on_cluster
    from classify.compare import compare
    from classify.crossing import cross
    from classify.estimators import make_classifier, named
    from classify.protocols import Protocol, find_protocol
    from classify.report import check_results_dir, write_results
    from classify.selection import name_caches
    from classify.tables import caution, headline, render_plain, render_table
    from sslfeat.terminal import show_progress, tell, warnings_as_lines

    layers = tuple(dict.fromkeys(layers))
    words = set(layers) & {"all", "best"}
    if wrong := [layer for layer in layers if layer not in words and not re.fullmatch(r"\d{1,3}", layer)]:
        msg = f"--layer takes all, best, or a layer's number. Got {wrong[0]!r} instead."
        raise click.UsageError(msg)
    if words and len(layers) > 1:
        msg = f"--layer {max(words)} is about all layers and stands alone."
        raise click.UsageError(msg)
    if search == "halving" and not tune and "best" not in words:
        msg = "--search says how to choose. Give it --tune or --layer best to choose by."
        raise click.UsageError(msg)
    if report_optimism and protocol == "paper":
        msg = "--report-optimism holds another protocol against paper. Leave it out, or choose another --protocol."
        raise click.UsageError(msg)
    if jobs == 0:
        msg = "--jobs is a number of processes, or -1 for all cores. Got 0 instead."
        raise click.UsageError(msg)
    if bool(cache_paths) == bool(train_paths or test_paths) or bool(train_paths) != bool(test_paths):
        msg = "fit takes either CACHE.h5..., or --train and --test."
        raise click.UsageError(msg)
    if train_paths and protocol not in ("leave-one-speaker-out", "cross-corpus"):
        msg = f"--train and --test are a protocol themselves. Got --protocol {protocol} too."
        raise click.UsageError(msg)
    try:
        classifiers = named(classifiers)
        rule: str | Protocol = find_protocol(protocol)
        for classifier in classifiers:
            make_classifier(classifier, class_weight=class_weight)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    unfinished = results_dir / "unfinished.jsonl"
    check_results_dir(results_dir, overwrite=overwrite or unfinished.is_file())  # whose own results may be there
    with contextlib.ExitStack() as until_done:
        if train_paths:
            results_dir.mkdir(parents=True, exist_ok=True)
            for killed in results_dir.glob(".joint-*"):
                shutil.rmtree(killed, ignore_errors=True)
            joint_dir = until_done.enter_context(tempfile.TemporaryDirectory(prefix=".joint-", dir=results_dir))
            train, test = ([FeatureCache(path) for path in paths] for paths in (train_paths, test_paths))
            name = " + ".join(dict.fromkeys(path.stem for path in (*train_paths, *test_paths)))[:100]
            crossing = cross(train, test, Path(joint_dir) / f"{name}.h5", exclude_labels=exclude_labels, merge_labels=merge_labels)
            tell(crossing.mapping)
            caches, rule, exclude_labels = [crossing.cache], crossing.protocol, (*exclude_labels, *crossing.unshared_labels)
        else:
            caches = [FeatureCache(path.resolve() if scheduler else path) for path in cache_paths]
        until_done.enter_context(on_cluster(scheduler))
        with show_progress("fits", quiet=quiet) as show:
            comparison = compare(
                caches,
                classifiers=classifiers,
                layers=min(words) if words else [int(layer) for layer in layers],
                poolings=poolings,
                protocol=rule,
                audit_text=audit_text,
                tune=tune,
                search=search,
                class_weight=class_weight,
                speaker_norm=speaker_norm,
                baselines=baselines,
                report_optimism=report_optimism,
                fusion=fusion,
                checkpoint=unfinished,
                exclude_labels=exclude_labels,
                merge_labels=merge_labels,
                n_jobs=jobs,
                random_state=seed,
                device=device,
                command=shlex.join(["sslfeat", *sys.argv[1:]]),
                progress=show,
            )
        written = write_results(comparison, results_dir, overwrite=overwrite)
        best, row = comparison.best, best_kept(comparison)
        bundle, unkept = None, why_not_kept(best)
        if row:
            try:
                with warnings_as_lines():
                    bundle = Bundle.fit(name_caches(caches)[row.cache], row, utterance_ids=comparison.utterance_ids, exclude_labels=exclude_labels, merge_labels=merge_labels, random_state=seed, search=search, class_weight=class_weight)
            except ValueError as error:
                best, unkept = row, str(error)
    if bundle is not None:
        bundle.save(results_dir / "bundle", overwrite=True)
    elif (old := results_dir / "bundle").joinpath("bundle.json").is_file():  # of the run whose results were replaced
        old.unlink() if old.is_symlink() else shutil.rmtree(old)
    unfinished.unlink(missing_ok=True)
    if sys.stdout.isatty():
        from rich.console import Console

        Console().print(render_table(comparison))
    else:
        click.echo(render_plain(comparison), nl=False)
    for sentence in (headline(comparison), caution(comparison), *comparison.notes, *(f"{folds.protocol}: {folds.audit}" for folds in comparison.folds)):
        tell(sentence)
    told = f"; no bundle of {best.title}: {unkept}" if unkept else ""
    if bundle and row:
        told += f"; {row.title}, fitted again on all utterances: {results_dir / 'bundle'}"
    tell(f"{', '.join(path.name for path in written)} in {results_dir}{told}")


@main.command(short_help="Redraw the report of a comparison, or join several.")
@click.argument("results_dirs", metavar="RESULTS_DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", "out_dir", type=click.Path(path_type=Path), help="Folder for the redrawn report; needed to join several. [default: the results' own]", show_default=False)
@click.option("--overwrite", is_flag=True, help="Replace other results in that folder.")
def report(results_dirs: tuple[Path, ...], out_dir: Path | None, overwrite: bool) -> None:
    """Redraw the report of a comparison, or join several comparisons of the same utterances into one."""
    from classify.report import join, read_results, write_results

    if out_dir is None and len(results_dirs) > 1:
        msg = "joining several results needs -o, the folder for the joint report."
        raise click.UsageError(msg)
    joined = join([read_results(directory) for directory in results_dirs])
    written = write_results(joined, out_dir or results_dirs[0], overwrite=overwrite or out_dir is None)
    click.echo(next(path for path in written if path.name == "report.html"))


@main.command()
@click.argument("bundle_dir", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.argument("audio", nargs=-1, type=click.Path(path_type=Path))
@click.option("--cache", "cache_path", type=click.Path(path_type=Path), help="Read features from a cache instead of audio.")
@click.option("--model", "model_id", help="The bundle's encoder, where it was a local directory.")
@click.option("--format", "form", default="table", type=click.Choice(["table", "csv", "json"]), help="How to print.")
@click.option("--trust", multiple=True, help="Repeatable: a type in the bundle to trust, as its error names it.")
@click.option("--device", default="auto", callback=parse_device, help="auto, cpu, mps, cuda or cuda:1.")
@click.option("--jobs", default=2, type=click.IntRange(min=1), help="Threads that decode.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def predict(bundle_dir: Path, audio: tuple[Path, ...], cache_path: Path | None, model_id: str | None, form: str, trust: tuple[str, ...], device: str, jobs: int, quiet: bool) -> None:
    """Predict the emotion of audio files, or of all files in folders.

    \b
    sslfeat predict results/bundle call.wav more/
    sslfeat predict results/bundle recordings/ --format csv > emotions.csv

    Exit status 3 says that all went well but for some files whose audio can't be used.
    """
    if bool(audio) == (cache_path is not None):
        msg = "give audio files or folders, or --cache: one of the two."
        raise click.UsageError(msg)
    context = click.get_current_context()
    if cache_path and (idle := [name for name in ("model_id", "device", "jobs") if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE]):
        msg = f"a cache's features are there already: --{idle[0].removesuffix('_id')} is for audio."
        raise click.UsageError(msg)
    from classify import Bundle
    from sslfeat.terminal import print_predictions, tell_some, warnings_as_lines

    with warnings_as_lines():
        bundle = Bundle.load(bundle_dir, trusted=trust)
    names: list[str] = []
    labels: list[str] = []
    shares: list[list[float]] = []
    failures: list[str] = []
    for some, features, lost in _of_cache(bundle, cache_path) if cache_path else _of_audio(bundle, audio, model_id, device, jobs, quiet):
        failures += lost
        if some:
            names += some
            labels += bundle.predict(features).tolist()
            shares += bundle.predict_proba(features).tolist() if bundle.has_probabilities else []
    print_predictions(names, labels, dict(zip(bundle.labels, map(list, zip(*shares, strict=True)), strict=False)), form)
    tell_some("failed:", failures)
    if failures:
        sys.exit(PARTIAL_SUCCESS)


@contextlib.contextmanager
def _lead_with(source: str | Path) -> Iterator[None]:
    """Say first which file or model an error is about that doesn't know."""
    from cache import SpecMismatchError

    try:
        yield
    except SpecMismatchError as error:
        msg = f"{source}: {error}"
        raise SpecMismatchError(msg) from error


def _of_cache(bundle: "Bundle", cache_path: Path) -> "Iterator[tuple[list[str], Features, list[str]]]":
    """Yield names and features of a cache's utterances, and no failures."""
    from cache import FeatureCache

    with FeatureCache(cache_path) as cache, _lead_with(cache_path):
        yield cache.utterance_ids.tolist(), bundle.features_of(cache), []


def _of_audio(bundle: "Bundle", audio: Sequence[Path], model_id: str | None, device: str, jobs: int, quiet: bool) -> "Iterator[tuple[list[str], Features, list[str]]]":
    """Yield names, features and failures of audio files, made as the bundle demands, some minutes of audio at a time."""
    import numpy as np

    from sslfeat.corpora import audio_files

    # What is missing shows before the encoder is loaded.
    paths = [one for path in audio for one in ([path / name for name in audio_files(path)] if path.is_dir() else [path])]
    wanted = bundle.spec
    source, revision = encoder_of(wanted, model_id, "the bundle's")
    from sslfeat.embedder import embed_files
    from sslfeat.encoder import Encoder
    from sslfeat.terminal import show_progress

    encoder = Encoder.load(source, revision=revision, device=device, precision=wanted.precision)
    poolings = wanted.pooling[:1] if bundle.takes_frames else bundle.pooling.split("+")
    spec = encoder.spec(layers=bundle.layers, pooling=poolings, frames=bundle.takes_frames, dtype=wanted.dtype, channels=wanted.channels, chunk_seconds=wanted.chunk_seconds)
    with _lead_with(source):
        bundle.check_spec(spec)
    num_done = num_failed = 0
    with show_progress("files", quiet=quiet) as show:
        for readings, embeddings in embed_files(encoder, spec, paths, jobs=jobs):
            lost = [f"{reading.utterance.path}: {reading.reason}" for reading in readings if not reading.recording]
            num_done, num_failed = num_done + len(readings), num_failed + len(lost)
            show(num_done, len(paths), f"{num_failed} failed")
            if bundle.takes_frames:
                features: Features = [one.frames[0] for one in embeddings if one.frames is not None]
            else:
                sides = [[one.pooled[name][index] for index in range(len(bundle.layers)) for name in poolings] for one in embeddings]
                features = np.array([np.concatenate(side) for side in sides])
            yield [reading.utterance.path for reading in readings if reading.recording], features, lost


for _command in (check, corpora, info, verify, merge):
    main.add_command(_command)

if __name__ == "__main__":
    main()
