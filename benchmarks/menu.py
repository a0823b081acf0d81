"""How fast the menu's classifiers are compared: ``python -m benchmarks.menu CACHE.h5``.

Each classifier predicts every speaker from the others on every layer of a cache, twice: by ``compare``, scores and intervals
included, and by scikit-learn's ``cross_val_predict(..., n_jobs=-1)`` in a loop over layers, with scikit-learn's own
classifier of the same definition. Both use all cores, the two take turns, and their predictions are compared. Processor seconds
are of this process and its workers; on a machine with other work they tell more than the wall's.
"""

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from joblib import Parallel, delayed
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.machine import processor
from cache import FeatureCache
from classify.compare import compare
from classify.estimators import FACTORIES, make_classifier

# Where the menu has a class of ours, what scikit-learn has for the same classifier.
THEIRS: dict[str, Callable[[], BaseEstimator]] = {
    "lda": lambda: LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
    "qda": lambda: QuadraticDiscriminantAnalysis(solver="eigen", shrinkage="auto"),
}
CLASSICAL = [name for name in FACTORIES if name not in ("feedforward", "majority")]


def processor_seconds() -> float:
    """Return what this process and its living children have used, in seconds (Linux)."""
    ticks = os.sysconf("SC_CLK_TCK")
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    total = time.process_time()
    for child in children:
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / ticks
    return total


def ours(cache: FeatureCache, name: str, layers: list[int]) -> NDArray[Any]:
    comparison = compare([cache], classifiers=[name], layers=layers, baselines=False, n_jobs=-1)
    return np.array([row.predictions[0] for row in comparison.results])


def theirs(cache: FeatureCache, name: str, layers: list[int]) -> NDArray[Any]:
    estimator = make_pipeline(StandardScaler(), THEIRS[name]()) if name in THEIRS else make_classifier(name)
    targets = np.unique(cache.labels, return_inverse=True)[1]
    return np.stack(
        [
            cross_val_predict(
                estimator,
                cache.features(layer, "mean"),
                targets,
                groups=cache.speakers,
                cv=LeaveOneGroupOut(),
                n_jobs=-1,
            )
            for layer in layers
        ]
    )


def race(cache: FeatureCache, names: list[str], layers: list[int]) -> dict[str, dict[str, Any]]:
    results: dict[str, dict[str, Any]] = {}
    for name in names:
        row: dict[str, Any] = {}
        predictions = []
        for way in (ours, theirs):
            way(cache, "nearest-centroid", layers[:1])  # the workers have imported what they need
            began, used = time.perf_counter(), processor_seconds()
            predictions.append(way(cache, name, layers))
            row[way.__name__] = {
                "wall_s": round(time.perf_counter() - began, 2),
                "processor_s": round(processor_seconds() - used, 2),
            }
        row["times_faster"] = round(row["theirs"]["processor_s"] / row["ours"]["processor_s"], 2)
        row["different_predictions"] = int(np.count_nonzero(predictions[0] != predictions[1]))
        results[name] = row
        print(f"{name:24}{json.dumps(row)}", flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.menu", description=__doc__.splitlines()[0])
    parser.add_argument("cache", type=Path, metavar="CACHE.h5")
    parser.add_argument("--classifiers", nargs="+", choices=CLASSICAL, default=CLASSICAL)
    parser.add_argument("--layers", nargs="+", type=int, help="all by default")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    cache = FeatureCache(options.cache)
    layers = options.layers or list(cache.layers)
    Parallel(n_jobs=-1)(delayed(make_classifier)("ridge") for _ in range(os.cpu_count() or 1))
    results = race(cache, options.classifiers, layers)
    sums = {
        way: round(sum(row[way]["processor_s"] for row in results.values()), 2) for way in ("ours", "theirs")
    }
    record = {
        "device": f"{processor()}, {os.cpu_count()} cores",
        "load": os.getloadavg()[0],
        "versions": {"numpy": np.__version__, "scikit-learn": sklearn.__version__},
        "utterances": len(cache),
        "speakers": len(set(cache.speakers)),
        "layers": len(layers),
        "features": cache.spec.hidden_size,
        "results": results,
        "processor_s": sums,
        "times_faster": round(sums["theirs"] / sums["ours"], 2),
    }
    text = json.dumps(record, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
