"""An extraction as a command line asks for it: of which share, by which encoder, in which processes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cache import CacheWriter
from sslfeat.cluster import extract_on_cluster
from sslfeat.corpora import CorpusListing
from sslfeat.devices import extract_on_devices
from sslfeat.encoder import EMBEDDED, Encoder, choose_device
from sslfeat.extract import Extraction, extract, software_versions
from sslfeat.spread import Work, choose_share
from sslfeat.terminal import show_extraction, tell


def launch(
    listing: CorpusListing,
    cache_path: Path,
    *,
    model_id: str,
    revision: str | None,
    precision: str,
    devices: Sequence[str],
    scheduler: str | None,
    shard: tuple[int, int] | None,
    spec_options: dict[str, Any],
    batch_seconds: float | None,
    jobs: int,
    overwrite: bool,
    quiet: bool,
) -> Extraction:
    """Extract a corpus, or one share of it, and show how far it is.

    Parameters
    ----------
    listing : CorpusListing
    cache_path : Path
    model_id, revision, precision
        As `Encoder.load` takes them.
    devices : sequence of str
        One, for this process; several, for one process each; with a scheduler one, for each of its workers.
    scheduler : str, optional
        Address of a Dask scheduler.
    shard : tuple of int, optional
        As `choose_share` takes them; its cache is written even where the share is empty, so that all can be joined.
    spec_options : dict
        Keyword arguments of `Encoder.spec`.
    batch_seconds, jobs, overwrite
        As `sslfeat.extract.extract` takes them.
    quiet : bool
        Show no progress.

    Returns
    -------
    Extraction

    Raises
    ------
    EncoderError, CacheError, SpecMismatchError, ValueError, WorkerError
        As `Encoder.load`, `extract`, `extract_on_devices` and `extract_on_cluster` raise them.
    """
    chosen = [devices[0]] if scheduler else [str(choose_device(device)) for device in devices]
    is_alone = len(chosen) == 1 and not scheduler
    # Workers load the encoder themselves; here it says what the features are.
    here = chosen[0] if is_alone else "cpu"
    encoder = Encoder.load(model_id, revision=revision, device=here, precision=precision)
    spec = encoder.spec(**spec_options)
    default = ", the small encoder in the package; --model names another" if model_id == EMBEDDED else ""
    where = f"the workers of {scheduler}" if scheduler else ", ".join(chosen)
    tell(
        f"encoder {encoder.model_id}{default}: {encoder.num_hidden_layers + 1} layers of {encoder.hidden_size}, {precision} on {where}."
    )
    utterances = listing.utterances
    if shard is not None:
        utterances = choose_share(utterances, *shard)
        tell(f"share {shard[0]} of {shard[1]}: {len(utterances)} of {len(listing.utterances)} utterances.")
    work = Work.plan(model_id, spec, listing.root, batch_seconds=batch_seconds, jobs=jobs)
    with show_extraction(quiet=quiet) as show:
        if scheduler:
            done = extract_on_cluster(
                utterances,
                cache_path,
                work=work,
                scheduler=scheduler,
                device=chosen[0],
                overwrite=overwrite,
                progress=show,
            )
        elif not is_alone:
            done = extract_on_devices(
                utterances, cache_path, work=work, devices=chosen, overwrite=overwrite, progress=show
            )
        else:
            done = extract(
                utterances,
                cache_path,
                root=listing.root,
                encoder=encoder,
                spec=spec,
                batch_seconds=batch_seconds,
                jobs=jobs,
                overwrite=overwrite,
                progress=show,
            )
    if shard is not None and not cache_path.exists():
        with CacheWriter(cache_path, spec, software=software_versions()):
            pass
    return done
