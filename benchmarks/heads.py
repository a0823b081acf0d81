"""How fast small networks train together: ``python -m benchmarks.heads``.

The heads of a comparison on a corpus of Emo-DB's shape (535 utterances, 10 speakers left out in turn, 7 emotions; one
head per layer and fold, 768-256-7, batches of 32, a fixed number of epochs) are trained three ways, each over all cores
by joblib with one thread a process: ours; ``MLPClassifier`` one by one; and a plain torch module with its own loop and
optimiser one by one, as a skorch net does inside. Each way is warmed up by one layer.
"""

import argparse
import json
import os
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import sklearn
import torch
from joblib import Parallel, cpu_count, delayed
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from classify.feedforward import FeedforwardClassifier, fit_together

UTTERANCES, SPEAKERS, LABELS, FEATURES, HIDDEN, BATCH = 535, 10, 7, 768, 256, 32
Folds = list[tuple[NDArray[np.float32], NDArray[np.int64]]]


def make_folds(layer: int) -> Folds:
    """Return the training part of each fold of one layer, standardised."""
    generator = np.random.default_rng(layer)
    y = generator.integers(0, LABELS, UTTERANCES)
    X = generator.normal(size=(UTTERANCES, FEATURES)) + generator.normal(size=(LABELS, FEATURES))[y] * 0.2
    parts = [np.arange(UTTERANCES) % SPEAKERS != speaker for speaker in range(SPEAKERS)]
    return [(StandardScaler().fit_transform(X[part].astype(np.float32)), y[part]) for part in parts]


def together(layer: int, epochs: int, device: str) -> float:
    """Train the heads of a layer as one program; return the accuracy on the training parts."""
    folds = make_folds(layer)
    heads = [
        FeedforwardClassifier(batch_size=BATCH, max_epochs=epochs, random_state=0, device=device)
        for _ in folds
    ]
    fit_together(heads, [{"X": X, "y": y} for X, y in folds])
    return float(np.mean([head.score(X, y) for head, (X, y) in zip(heads, folds, strict=True)]))


def perceptrons(layer: int, epochs: int, _device: str) -> float:
    """Train scikit-learn's own network, fold by fold."""
    scores = []
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for X, y in make_folds(layer):
            head = MLPClassifier(
                (HIDDEN,), batch_size=BATCH, max_iter=epochs, tol=0, n_iter_no_change=epochs, random_state=0
            )
            scores.append(head.fit(X, y).score(X, y))
    return float(np.mean(scores))


def modules(layer: int, epochs: int, device: str) -> float:
    """Train a torch module fold by fold with the loop of the tutorials."""
    torch.set_num_threads(1)
    scores = []
    for X, y in make_folds(layer):
        torch.manual_seed(0)
        features, targets = torch.from_numpy(X).to(device), torch.from_numpy(y).to(device)
        module = torch.nn.Sequential(
            torch.nn.Linear(FEATURES, HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, LABELS)
        ).to(device)
        optimiser = torch.optim.AdamW(module.parameters(), lr=1e-3, weight_decay=1e-4)
        for _ in range(epochs):
            for rows in torch.randperm(len(y), device=device).split(BATCH):
                optimiser.zero_grad()
                torch.nn.functional.cross_entropy(module(features[rows]), targets[rows]).backward()
                optimiser.step()
        with torch.no_grad():
            scores.append((module(features).argmax(1) == targets).float().mean().item())
    return float(np.mean(scores))


def measure(
    way: Callable[[int, int, str], float], layer: int, epochs: int, device: str
) -> tuple[float, float]:
    """Return the accuracy and the processor seconds of one layer."""
    began = time.process_time()
    accuracy = way(layer, epochs, device)
    return accuracy, time.process_time() - began


def race(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Time every way on all layers; the ways take turns, so that other load on the machine meets all alike."""
    cores = 1 if options.device != "cpu" else cpu_count()
    ways = (together, perceptrons, modules)
    sums = {way.__name__: {"wall_s": 0.0, "processor_s": 0.0, "training_accuracy": 0.0} for way in ways}
    with Parallel(n_jobs=cores) as pool:
        for way in ways:
            pool(delayed(measure)(way, layer, 1, options.device) for layer in range(cores))
        for first in range(0, options.layers, cores):
            layers = range(first, min(first + cores, options.layers))
            for way in ways:
                began = time.perf_counter()
                found = pool(delayed(measure)(way, layer, options.epochs, options.device) for layer in layers)
                sums[way.__name__]["wall_s"] += time.perf_counter() - began
                sums[way.__name__]["processor_s"] += sum(seconds for _, seconds in found)
                sums[way.__name__]["training_accuracy"] += sum(score for score, _ in found) / options.layers
    return sums


def main() -> None:
    """Run, print, and keep the numbers with the machine's name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=13)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    results = {
        "machine": f"{os.cpu_count()} x {platform.machine()}"
        if options.device == "cpu"
        else torch.cuda.get_device_name(),
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
        "scikit-learn": sklearn.__version__,
        "heads": options.layers * SPEAKERS,
        "epochs": options.epochs,
        **race(options),
    }
    text = json.dumps(results, indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
