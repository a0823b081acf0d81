"""Finished work of a comparison on disk, so that the same command goes on where it was stopped."""

import hashlib
import json
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

    A line that was cut by a crash is passed over. What a line belongs to is a digest of all that its task's outcome
    depends on, so that a file can't give another comparison's predictions. A stranger's ``module:Class`` is not kept:
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
        Where the file can't be read or written.
    """

    def __init__(self, path: str | Path, versions: dict[str, str]) -> None:
        self.path, self._versions = Path(path), versions
        self._records = {record["key"]: record for record in self._read()}

    def find(self, task: Task) -> Outcome | None:
        """Return the outcome of a task that has finished before."""
        record = None if ":" in task.classifier else self._records.get(self._key(task))
        if record is None:
            return None
        return Outcome(
            predictions=[np.array(part, dtype=np.int64) for part in record["predictions"]],
            confidences=[np.array(part, dtype=np.float32) for part in record["confidences"]],
            chosen=[
                Candidate(layer, tuple((name, value) for name, value in parameters))
                for layer, parameters in record["chosen"]
            ],
            seconds=record["seconds"],
            warnings=Counter(record["warnings"]),
            layer_weights=[tuple(weights) for weights in record["layer_weights"]],
        )

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
