"""What the embedded encoder's features are worth: ``python -m benchmarks.embedded EMODB_DIR``.

All of Emo-DB, leave one speaker out, no speaker normalisation: logistic regression on the mean and deviation over
frames of one layer. The layer and the penalty are chosen inside the training speakers, by the mean balanced accuracy of
three folds of whole speakers. The interval is that of ``fit``: a bootstrap over speakers of the pooled predictions, moved outwards for few of them.

Beside it stand its random twins (the same architecture as drawn), statistics of MFCC, and eGeMAPS functionals where
opensmile is installed (``pip install opensmile``).
"""

import argparse
import functools
import json
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GroupKFold, LeaveOneGroupOut
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.machine import processor
from classify.statistics import count_confusions, estimate_scores
from pretraining.targets import deltas, describe
from sslfeat.audio import decode
from sslfeat.corpora import read_corpus
from sslfeat.encoder import EMBEDDED, EMBEDDED_DIRECTORY, Encoder

STRENGTHS = (0.01, 0.1, 1.0)  # inverse penalties
INNER_FOLDS = 3
TWIN_SEEDS = (0, 1, 2)

Waveform: TypeAlias = NDArray[np.float32]
Features: TypeAlias = NDArray[np.float32]  # (layer, utterance, feature)


def layer_statistics(encoder: Encoder, waveforms: Sequence[Waveform]) -> Features:
    """Return mean and deviation over frames of every layer: (layer, utterance, 2 * hidden size)."""
    rows = []
    for waveform in waveforms:
        states = encoder.hidden_states(waveform)
        rows.append(np.concatenate([states.mean(axis=1), states.std(axis=1)], axis=1))
    return np.stack(rows, axis=1)


def twin_statistics(waveforms: Sequence[Waveform], seed: int) -> Features:
    """Return the statistics of the embedded encoder's architecture with the weights that transformers draws."""
    torch.manual_seed(seed)
    config = transformers.HubertConfig.from_pretrained(EMBEDDED_DIRECTORY)
    encoder = Encoder(transformers.HubertModel(config), model_id=f"random-{seed}", device="cpu")
    return layer_statistics(encoder, waveforms)


def embedded_statistics(waveforms: Sequence[Waveform]) -> Features:
    return layer_statistics(Encoder.load(EMBEDDED, device="cpu"), waveforms)


def mfcc_statistics(waveforms: Sequence[Waveform]) -> Features:
    """Return mean and deviation over frames of 20 MFCC, their deltas and second deltas: (1, utterance, 120)."""
    rows = []
    for waveform in waveforms:
        mfcc = describe(torch.from_numpy(waveform)[None]).mfcc
        frames = torch.cat([mfcc, deltas(mfcc), deltas(deltas(mfcc))], dim=2)[0]
        rows.append(torch.cat([frames.mean(dim=0), frames.std(dim=0, correction=0)]))
    return torch.stack(rows).numpy()[None]


def egemaps(waveforms: Sequence[Waveform]) -> Features | None:
    """Return the eGeMAPS v02 functionals, (1, utterance, 88), or nothing where opensmile is missing."""
    try:
        import opensmile
    except ImportError:
        return None
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
    rows = [smile.process_signal(waveform, 16_000).to_numpy()[0] for waveform in waveforms]
    return np.stack(rows).astype(np.float32)[None]


def classifier(strength: float) -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))


def choose(features: Features, labels: NDArray[np.str_], speakers: NDArray[np.str_]) -> tuple[int, float]:
    """Return the layer and the strength that do best over folds of whole speakers; ties go to the first."""
    best, chosen = -1.0, (0, STRENGTHS[0])
    folds = list(GroupKFold(INNER_FOLDS).split(labels, labels, speakers))
    for layer, rows in enumerate(features):
        for strength in STRENGTHS:
            score = np.mean(
                [
                    balanced_accuracy_score(
                        labels[test], classifier(strength).fit(rows[train], labels[train]).predict(rows[test])
                    )
                    for train, test in folds
                ]
            )
            if score > best:
                best, chosen = float(score), (layer, strength)
    return chosen


def evaluate(features: Features, labels: NDArray[np.str_], speakers: NDArray[np.str_]) -> dict[str, object]:
    """Predict every speaker from the others, and score all predictions together.

    Parameters
    ----------
    features : ndarray of shape (n_layers, n_utterances, n_features)
    """
    predicted = np.empty_like(labels)
    choices = []
    for train, test in LeaveOneGroupOut().split(labels, labels, speakers):
        layer, strength = choose(features[:, train], labels[train], speakers[train])
        model = classifier(strength).fit(features[layer, train], labels[train])
        predicted[test] = model.predict(features[layer, test])
        choices.append({"speaker": str(speakers[test[0]]), "layer": layer, "strength": strength})
    names, truth = np.unique(labels, return_inverse=True)
    people, groups = np.unique(speakers, return_inverse=True)
    counts = count_confusions(truth, np.searchsorted(names, predicted), groups, (len(people), len(names)))
    accuracy, balanced_accuracy, _ = estimate_scores(counts)
    return {
        "balanced_accuracy": round(balanced_accuracy.value, 4),
        "interval": [round(balanced_accuracy.low, 4), round(balanced_accuracy.high, 4)],
        "accuracy": round(accuracy.value, 4),
        "num_features": features.shape[2],
        "choices": choices,
    }


# Each row's name and how its features are made
ROWS: dict[str, Callable[[Sequence[Waveform]], Features | None]] = {
    **{f"random twin {seed}": functools.partial(twin_statistics, seed=seed) for seed in TWIN_SEEDS},
    "MFCC statistics": mfcc_statistics,
    "eGeMAPS functionals": egemaps,
    "embedded encoder": embedded_statistics,
}


def device_name() -> str:
    return f"{processor()}, {torch.get_num_threads()} threads"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embedded", description=__doc__)
    parser.add_argument("corpus", type=Path, metavar="EMODB_DIR")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path(__file__).parent / "results" / "embedded.json"
    )
    parser.add_argument(
        "--only", nargs="+", choices=ROWS, default=list(ROWS), help="keep the other rows as they are"
    )
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    utterances = read_corpus(options.corpus, "emodb").utterances
    waveforms = [decode(options.corpus / utterance.path).waveform for utterance in utterances]
    labels = np.array([utterance.label for utterance in utterances])
    speakers = np.array([utterance.speaker for utterance in utterances])
    seconds = sum(map(len, waveforms)) / 16_000
    results = json.loads(options.output.read_text())["results"] if options.output.exists() else {}
    for name in options.only:
        started = time.perf_counter()
        features = ROWS[name](waveforms)
        taken = time.perf_counter() - started
        if features is None:
            print(f"{name:<20} skipped: opensmile is not installed")
            continue
        row = evaluate(features, labels, speakers) | {"times_real_time": round(seconds / taken, 1)}
        results[name] = row
        print(f"{name:<20} {row['balanced_accuracy']:.3f}  {row['interval']}", flush=True)
        report = {
            "device": device_name(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "corpus": {"name": "emodb", "utterances": len(labels), "speakers": len(np.unique(speakers))},
            "results": {row: results[row] for row in ROWS if row in results},
        }
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
