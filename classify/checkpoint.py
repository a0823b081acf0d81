"""Finished work of a comparison on disk, so that the same command goes on where it was stopped."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from classify.fitting import Candidate, Outcome, Task

RECORD_VERSION = (
    3  # raised where a line gains a field, or holds it otherwise, so that older ones are not found
)


class Checkpoint:
    """A file of JSON lines, one per finished task, appended to as tasks finish.

    A line that was cut by a crash, or that can't be a task's outcome, is passed over. What a line belongs to is a digest of all that its task's outcome
    depends on, so that a file can't give another comparison's predictions. Nothing tells who wrote a line: whoever can
    write to the folder can change what a comparison finds, and what lies there should be one's own. A stranger's ``module:Class`` is not kept:
    nothing says whether its code, or the code that it calls, is still the same.

    Parameters
    ----------
    path : str or Path
        Made with the first task that finishes.
    versions : dict of str to str
        Of the software: predictions of another release are not taken over.

    Raises
    ------
    OSError
        Where the file can't be read or written, or is a link or no plain file.
    """

    def __init__(self, path: str | Path, versions: dict[str, str]) -> None:
        self.path, self._versions = Path(path), versions
        if self.path.is_symlink() or (self.path.exists() and not self.path.is_file()):
            msg = f"{path}: unfinished work is kept in a plain file. This is none; remove it, or choose another folder."
            raise OSError(msg)
        self._records = {record["key"]: record for record in self._read()}

    def find(self, task: Task) -> Outcome | None:
        """Return the outcome of a task that has finished before."""
        record = None if ":" in task.classifier else self._records.get(self._key(task))
        if record is None:
            return None
        try:
            outcome = Outcome(
                predictions=[np.array(part, dtype=np.int64) for part in record["predictions"]],
                confidences=[np.array(part, dtype=np.float32) for part in record["confidences"]],
                chosen=[
                    Candidate(layer, tuple((name, value) for name, value in parameters))
                    for layer, parameters in record["chosen"]
                ],
                seconds=float(record["seconds"]),
                warnings=Counter({str(text): int(count) for text, count in record["warnings"].items()}),
                layer_weights=[tuple(map(float, weights)) for weights in record["layer_weights"]],
            )
            fits = _fits(task, outcome)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
            return None
        return outcome if fits else None

    def add(self, task: Task, outcome: Outcome) -> None:
        """Keep the outcome of a task."""
        if ":" in task.classifier:
            return
        record = {
            "key": self._key(task),
            "predictions": [part.tolist() for part in outcome.predictions],
            "confidences": [part.tolist() for part in outcome.confidences],
            "chosen": [[candidate.layer, candidate.parameters] for candidate in outcome.chosen],
            "seconds": outcome.seconds,
            "warnings": outcome.warnings,
            "layer_weights": outcome.layer_weights,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def _read(self) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        text = self.path.read_text(encoding="utf-8")
        if text and not text.endswith("\n"):  # the next line must not run on from a cut one
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n")
        for line in text.splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and "key" in record:
                yield record

    def _key(self, task: Task) -> str:
        digest = hashlib.sha256()
        facts = {
            "record": RECORD_VERSION,
            "features": task.cache.fingerprint,
            "pooling": task.pooling,
            "classifier": task.classifier,
            "candidates": [[candidate.layer, candidate.parameters] for candidate in task.candidates],
            "mixed_layers": task.mixed_layers,
            "speaker_norm": task.speaker_norm,
            "random_state": task.random_state,
            "device": task.device.partition(":")[0],
            "class_weight": task.class_weight,
            "search": task.search,
            "versions": self._versions,
        }
        digest.update(json.dumps(facts, sort_keys=True).encode())
        columns = (task.cache.utterance_ids, task.cache.audio_hashes)
        arrays = [column[task.rows] for column in columns] + [task.speakers, task.targets]
        for array in (*arrays, *(part for fold in task.folds for part in (fold.train, fold.test))):
            digest.update(json.dumps(array.tolist()).encode())
        return digest.hexdigest()


def _fits(task: Task, outcome: Outcome) -> bool:
    tested = [(len(fold.test),) for fold in task.folds]
    return bool(
        [part.shape for part in outcome.predictions] == tested
        and all(
            0 <= part.min(initial=0) <= part.max(initial=0) <= task.targets.max()
            for part in outcome.predictions
        )
        and [part.shape for part in outcome.confidences if part.size] in ([], tested)
        and len(outcome.chosen) == len(tested)
        and {len(outcome.confidences), len(outcome.layer_weights)} <= {0, len(tested)}
        and all(((part >= 0) & (part <= 1)).all() for part in outcome.confidences)
        and all(candidate in task.candidates for candidate in outcome.chosen)
        and all(len(weights) in (0, len(task.mixed_layers)) for weights in outcome.layer_weights)
        and 0 <= outcome.seconds < math.inf
    )
