"""How fast small networks train together: ``python -m benchmarks.heads``.

The heads of a comparison on a corpus of Emo-DB's shape (535 utterances, 10 speakers left out in turn, 7 emotions; one
head per layer and fold, 768-256-7, batches of 32, a fixed number of epochs) are trained each way over all cores by
joblib with one thread a process: ours; ``MLPClassifier`` one by one; a skorch net one by one, where skorch is
installed; and a plain torch module with its own loop and optimiser one by one. Beside them stands the arithmetic that
all of them share: the two products with the large matrix and the optimiser's pass over it, and nothing else, which no
way in the same precision can beat by much. Each way is warmed up by one layer.
"""

import argparse
import importlib.util
import json
import os
import sys
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

from benchmarks.machine import processor
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


def skorch_nets(layer: int, epochs: int, device: str) -> float:
    """Train a skorch net fold by fold."""
    from skorch import NeuralNetClassifier

    torch.set_num_threads(1)
    scores = []
    for X, y in make_folds(layer):
        torch.manual_seed(0)
        module = torch.nn.Sequential(
            torch.nn.Linear(FEATURES, HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, LABELS)
        )
        net = NeuralNetClassifier(
            module,
            criterion=torch.nn.CrossEntropyLoss,
            optimizer=torch.optim.AdamW,
            optimizer__weight_decay=1e-4,
            lr=1e-3,
            batch_size=BATCH,
            iterator_train__shuffle=True,
            max_epochs=epochs,
            train_split=None,
            verbose=0,
            device=device,
        )
        scores.append(net.fit(X, y).score(X, y))
    return float(np.mean(scores))


def arithmetic(layer: int, epochs: int, device: str) -> float:
    """Do the products with the large matrix and the optimiser's pass over it, for as many steps as the others take."""
    torch.set_num_threads(1)
    for X, y in make_folds(layer):
        batch = torch.from_numpy(X[:BATCH]).to(device)
        weights = torch.zeros(HIDDEN, FEATURES, device=device)
        gradients, first, second = (torch.zeros_like(weights) for _ in range(3))
        above = torch.full((BATCH, HIDDEN), 1e-3, device=device)
        hidden, count = torch.empty_like(above), torch.ones((), device=device)
        for _ in range(epochs * -(-len(y) // BATCH)):
            torch.mm(batch, weights.T, out=hidden)
            torch.mm(above.T, batch, out=gradients)
            torch._fused_adamw_(
                [weights], [gradients], [first], [second], [], [count], lr=1e-3, beta1=0.9, beta2=0.999,
                weight_decay=1e-4, eps=1e-8, amsgrad=False, maximize=False,
            )  # fmt: skip
    return float("nan")


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
    has_skorch = importlib.util.find_spec("skorch") is not None
    ways = (together, perceptrons, *([skorch_nets] if has_skorch else []), modules, arithmetic)
    if not has_skorch:
        print("skorch is not installed, and left out", file=sys.stderr)
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
    for name, row in sums.items():
        row["times_ours"] = row["processor_s"] / sums["together"]["processor_s"]
        if name == "arithmetic":
            del row["training_accuracy"]
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
        "device": f"{processor()}, {os.cpu_count()} cores"
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
