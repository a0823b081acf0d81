"""Write a comparison to a folder, read it back, and join several.

``results.json`` holds everything; the other files are drawn from it and can be drawn again.
"""

import contextlib
import dataclasses
import errno
import os
import re
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from classify.calibration import NUM_BINS
from classify.page import render_page
from classify.results import Comparison, Folds, Result
from classify.tables import latex_table, markdown_report, predictions_csv, results_csv

RESULTS = "results.json"

# results.json is renamed first: after a power cut in between, the rest can be drawn again from it.
RENDERERS = {
    RESULTS: Comparison.to_json,
    "results.csv": results_csv,
    "predictions.csv": predictions_csv,
    "report.html": render_page,
    "report.md": markdown_report,
    "table.tex": latex_table,
}


def write_results(comparison: Comparison, results_dir: Path | str, *, overwrite: bool = False) -> list[Path]:
    """Write ``results.json``, both CSV tables, the report and the LaTeX table, each under its name only once whole.

    Writing the same comparison again replaces its files.

    Parameters
    ----------
    comparison : Comparison
    results_dir : Path or str
        The folder; made where it is missing.
    overwrite : bool, default=False
        Whether to replace files of another run.

    Returns
    -------
    list of Path
        The files, ``results.json`` first.

    Raises
    ------
    NotADirectoryError
        Where ``results_dir`` is a file.
    FileExistsError
        Where it holds one of the files from another run, and ``overwrite`` is false.
    OSError
        Where it can't be written.
    """
    folder = Path(results_dir)
    check_results_dir(folder, overwrite=True)
    texts = {name: render(comparison) for name, render in RENDERERS.items()}
    if not overwrite:
        _refuse_another_run(folder, texts[RESULTS])
    # A name that can't be guessed, in a folder that may be a stranger's: no link can lie under it.
    partial = {folder / name: folder / f".{name}.{secrets.token_hex(8)}.partial" for name in texts}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, beside in partial.items():
            _write(beside, texts[path.name])
        for path, beside in partial.items():
            beside.replace(path)
    except OSError as error:
        msg = f"{folder}: results can't be written here ({error.strerror or error}). Choose another folder."
        raise OSError(msg) from error
    finally:
        for beside in partial.values():
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
    return list(partial)


def check_results_dir(results_dir: Path | str, *, overwrite: bool = False) -> None:
    """Raise where results can't be written into a folder, before the work of making them.

    Raises
    ------
    NotADirectoryError
        Where ``results_dir`` is a file.
    FileExistsError
        Where it holds a file that would be written, and ``overwrite`` is false.
    OSError
        Where it, or the nearest folder above that is there, takes no file.
    """
    folder = Path(results_dir)
    if folder.exists() and not folder.is_dir():
        msg = f"{folder}: results need a folder. This is a file; choose another name."
        raise NotADirectoryError(msg)
    if not overwrite:
        _refuse_another_run(folder)
    nearest = next(above for above in (folder, *folder.absolute().parents) if above.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        msg = f"{folder}: results can't be written here ({error.strerror or error}). Choose another folder."
        raise OSError(msg) from error


def _refuse_another_run(folder: Path, text: str | None = None) -> None:
    there = [name for name in RENDERERS if (folder / name).exists()]
    if not there:
        return
    same = folder / RESULTS
    if text is not None and same.is_file() and same.read_bytes() == _encoded(text):
        return
    msg = (
        f"{folder}: already holds {', '.join(there)} of another run. "
        "Choose another folder, or allow overwriting (--overwrite) to replace them."
    )
    raise FileExistsError(msg)


def _encoded(text: str) -> bytes:
    # A file name that is no UTF-8 comes as lone surrogates. Their backslash form is what JSON itself writes.
    return text.encode("utf-8", errors="backslashreplace")


def _write(path: Path, text: str) -> None:
    with path.open("xb") as file:
        file.write(_encoded(text))
        file.flush()
        os.fsync(file.fileno())


def read_results(results_dir: Path | str) -> Comparison:
    """Read back what ``write_results`` wrote.

    Raises
    ------
    FileNotFoundError
        Where the folder holds no ``results.json``.
    OSError
        Where it can't be read.
    ValueError
        Where it is no comparison, or is cut or changed.
    """
    path = Path(results_dir) / RESULTS
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise OSError(errno.EINVAL, "not a file")  # a pipe would be waited for
        text = path.read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        msg = f"{results_dir}: no {RESULTS} here. Give the folder that a comparison was written to."
        raise FileNotFoundError(msg) from error
    except OSError as error:
        msg = f"{path}: can't be read ({error.strerror or error})."
        raise OSError(msg) from error
    except UnicodeDecodeError as error:
        msg = f"{path}: results must be UTF-8 text. They can't be read ({error.reason})."
        raise ValueError(msg) from error
    try:
        comparison = Comparison.from_json(text)
    except ValueError as error:
        msg = f"{path}: {error}"
        raise ValueError(msg) from error
    try:
        fits = _fits(comparison)
    except (
        TypeError,
        AttributeError,
        ValueError,
    ):  # a text where a number belongs, or a number in place of a list
        fits = False
    if not fits:
        msg = f"{path}: results must fit together. Counts, indices or scores don't; the file was changed. Run fit again."
        raise ValueError(msg)
    return comparison


def _fits(comparison: Comparison) -> bool:
    """Whether every index has its target and every list its length, so that whatever draws it can rely on it."""
    utterances, labels = len(comparison.utterance_ids), len(comparison.labels)
    aligned = (comparison.speakers, comparison.sexes, comparison.truth)
    folds = {folds.protocol: folds for folds in comparison.folds}
    return (
        min(utterances, labels, len(comparison.results)) > 0
        and {len(values) for values in aligned} == {utterances}
        and _within(comparison.truth, 0, labels)
        and (
            comparison.projection is None
            or (
                len(comparison.projection.points) == utterances
                and all(abs(place) < 2 for point in comparison.projection.points for place in point)
                and all(0 <= share <= 1 for share in comparison.projection.explained)
            )
        )
        and all(
            _within((each.first, each.second), 0, len(comparison.results))
            and abs(each.difference) <= 1
            and all(0 <= p <= 1 for p in (each.p_permutation, each.p_corrected, each.p_resampled_t or 0))
            for each in comparison.differences
        )
        and all(
            len(row) == utterances and _within(row, -1, len(each.names))
            for each in folds.values()
            for row in each.tested_in
        )
        and all(
            result.protocol in folds and _result_fits(result, folds[result.protocol], labels)
            for result in comparison.results
        )
    )


def _result_fits(result: Result, folds: Folds, labels: int) -> bool:
    estimates = (result.accuracy, result.balanced_accuracy, result.f1_macro)
    spreads = (result.fold_accuracy, result.fold_balanced_accuracy, result.fold_f1_macro)
    scores = [score for estimate in estimates for score in (estimate.low, estimate.value, estimate.high)]
    scores += [score for spread in spreads for score in (spread.mean, spread.std)]
    scores += [share for share in result.recall if share is not None]
    scores += [*result.speaker_scores.values(), *result.sex_scores.values()]
    bins = [] if result.calibration is None else [*dataclasses.astuple(result.calibration)[1:]]
    scores += [] if result.calibration is None else [result.calibration.error, *bins[1], *bins[2]]
    return (
        all(0 <= score <= 1 for score in scores)
        and {len(result.recall), len(result.confusion), *map(len, result.confusion)} == {labels}
        and min(map(min, result.confusion)) >= 0
        and {*map(len, bins)} <= {NUM_BINS}
        and all(len(weights) in (0, len(result.mixed_layers)) for weights in result.layer_weights)
        and all(0 <= weight <= 1 for weights in result.layer_weights for weight in weights)
        and result.seconds >= 0
        and [len(row) for row in result.predictions] == [len(row) for row in folds.tested_in]
        and all(
            _within(row, -1, labels)
            and all((label < 0) == (fold < 0) for label, fold in zip(row, tested, strict=True))
            for row, tested in zip(result.predictions, folds.tested_in, strict=True)
        )
    )


def _within(indices: Sequence[int], start: int, stop: int) -> bool:
    return {type(index) for index in indices} <= {int} and all(start <= index < stop for index in indices)


def join(comparisons: Sequence[Comparison]) -> Comparison:
    """Put the rows of several runs into one table; scores stay as each run computed them.

    A row that several runs share is kept once where its predictions are equal. A cache whose name two runs
    give to different features is numbered.

    Parameters
    ----------
    comparisons : sequence of Comparison
        The first one's protocol comes first in the joined one.

    Raises
    ------
    ValueError
        Where there is nothing to join, where the runs tested different utterances or labels, or divided them
        differently under one protocol: their rows would not be comparable.
    """
    if not comparisons:
        msg = "join needs at least one comparison. Got none."
        raise ValueError(msg)
    first, *others = comparisons
    joined = first
    for number, other in enumerate(others, start=2):
        joined = _join_two(joined, _renamed(_aligned(other, first, number), joined), number)
    if others:
        note = f"Joined from {len(comparisons)} runs: a sentence that compares rows speaks of the rows of its own run only."
        joined = dataclasses.replace(joined, notes=(*joined.notes, note))
    return joined


def _aligned(other: Comparison, first: Comparison, number: int) -> Comparison:
    """Bring the other's utterances into the first one's order.

    Raises
    ------
    ValueError
        Where they are not the same utterances with the same labels and speakers.
    """
    if other.labels != first.labels:
        msg = (
            f"runs that are joined must have the same labels. Run 1 has {', '.join(first.labels)}; "
            f"run {number} has {', '.join(other.labels)}."
        )
        raise ValueError(msg)
    index = {identifier: i for i, identifier in enumerate(other.utterance_ids)}
    unshared = sorted(set(index) ^ set(first.utterance_ids))
    if unshared:
        msg = (
            f"runs that are joined must have tested the same utterances. {len(unshared)} are only in run 1 or only in "
            f"run {number}: {', '.join(unshared[:3])}{', ...' if len(unshared) > 3 else ''}."
        )
        raise ValueError(msg)
    order = [index[identifier] for identifier in first.utterance_ids]

    def reordered(rows: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(row[i] for i in order) for row in rows)

    for name in ("truth", "speakers"):
        theirs = [getattr(other, name)[i] for i in order]
        differing = [
            identifier
            for identifier, mine, their in zip(first.utterance_ids, getattr(first, name), theirs, strict=True)
            if mine != their
        ]
        if differing:
            what = "labels" if name == "truth" else "speakers"
            msg = (
                f"runs that are joined must agree on the utterances' {what}. Run 1 and run {number} differ on "
                f"{len(differing)}, as {differing[0]}."
            )
            raise ValueError(msg)
    return dataclasses.replace(
        other,
        utterance_ids=first.utterance_ids,
        truth=first.truth,
        speakers=first.speakers,
        sexes=first.sexes,
        folds=tuple(
            dataclasses.replace(folds, tested_in=reordered(folds.tested_in)) for folds in other.folds
        ),
        results=tuple(
            dataclasses.replace(result, predictions=reordered(result.predictions)) for result in other.results
        ),
    )


def _renamed(other: Comparison, joined: Comparison) -> Comparison:
    """Add a number to each cache name that means other features in the joined runs."""
    taken: dict[str, Mapping[str, object]] = dict(joined.caches)
    names = {}
    for name, spec in other.caches.items():
        unique, number = name, 1
        while unique in taken and taken[unique] != spec:
            number += 1
            unique = f"{name} #{number}"
        names[name] = unique
        taken[unique] = spec
    changed = {name: unique for name, unique in names.items() if name != unique}

    def said(note: str) -> str:
        for (
            name,
            unique,
        ) in changed.items():  # as a word, not as the start of an utterance's or a speaker's id
            pattern = rf"(?<![\w/-]){re.escape(name)}(?![\w/:-])"
            note = re.sub(pattern, unique.replace("\\", r"\\"), note)
        return note

    return dataclasses.replace(
        other,
        notes=tuple(map(said, other.notes)),
        caches={names[name]: spec for name, spec in other.caches.items()},
        results=tuple(
            dataclasses.replace(
                result,
                cache=names.get(result.cache, result.cache),
                members=tuple(names.get(member, member) for member in result.members),
            )
            for result in other.results
        ),
    )


def _join_two(joined: Comparison, other: Comparison, number: int) -> Comparison:
    protocols: dict[str, Folds] = {folds.protocol: folds for folds in joined.folds}
    for folds in other.folds:
        mine = protocols.setdefault(folds.protocol, folds)
        if (mine.names, mine.tested_in) != (folds.names, folds.tested_in):
            msg = (
                f"runs that are joined must divide the utterances alike. Run {number} has other folds under "
                f"{folds.protocol} than the runs before it; fit again with one seed."
            )
            raise ValueError(msg)
    kept = {_identity(result) for result in joined.results}
    seeds = [f"Run {number} had seed {other.random_state}, run 1 seed {joined.random_state}."]
    seeds *= other.random_state != joined.random_state
    versions = {
        name: " / ".join(dict.fromkeys(run.versions[name] for run in (joined, other) if name in run.versions))
        for name in {**joined.versions, **other.versions}
    }
    return dataclasses.replace(
        joined,
        folds=tuple(protocols.values()),
        results=joined.results + tuple(result for result in other.results if _identity(result) not in kept),
        caches={**joined.caches, **other.caches},
        notes=tuple(dict.fromkeys((*joined.notes, *other.notes, *seeds))),
        command="\n".join(dict.fromkeys(filter(None, (joined.command, other.command)))),
        versions=versions,
    )


def _identity(result: Result) -> tuple[object, ...]:
    return (*result.system, result.layers, result.protocol, result.predictions)
