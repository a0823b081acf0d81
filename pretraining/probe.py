"""Score an encoder by the emotions of held-out speakers: ``python -m pretraining.probe ENCODER BANGLASER_DIR``.

Names follow RAVDESS's scheme (Livingstone & Russo 2018): modality, channel, emotion, intensity, statement, repetition,
actor. The classifier learns from speakers that pretraining heard and is tested on the last eight, whom it did not.
It is a discriminant analysis with a fixed shrinkage, because that is one linear solve: a probe must not cost
more than the training that it steers.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sslfeat.audio import decode
from sslfeat.encoder import Encoder

FIRST_HELD_OUT = 27
NUM_FOLDS = 6
SHRINKAGE = 0.1


def embed(encoder: Encoder, files: list[Path]) -> NDArray[np.float32]:
    """Pool the mean and deviation over frames of every layer.

    Returns
    -------
    ndarray of shape (num_hidden_layers + 1, n_files, 2 * hidden_size)
    """
    rows = []
    for path in files:
        states = encoder.hidden_states(decode(path).waveform)
        rows.append(np.concatenate([states.mean(axis=1), states.std(axis=1)], axis=1))
    return np.stack(rows, axis=1)


def score(
    features: NDArray[np.float32], labels: NDArray[np.str_], speakers: NDArray[np.int64]
) -> dict[str, float]:
    """Return balanced accuracy on the held-out speakers, and over folds of all speakers.

    Parameters
    ----------
    features : ndarray of shape (n_utterances, n_features)
    """
    model = make_pipeline(StandardScaler(), LinearDiscriminantAnalysis(solver="lsqr", shrinkage=SHRINKAGE))
    heard = speakers < FIRST_HELD_OUT
    held_out = model.fit(features[heard], labels[heard]).predict(features[~heard])
    folds = cross_val_predict(model, features, labels, groups=speakers, cv=GroupKFold(NUM_FOLDS))
    return {
        "held_out_speakers": round(float(balanced_accuracy_score(labels[~heard], held_out)), 4),
        "all_speakers": round(float(balanced_accuracy_score(labels, folds)), 4),
    }


def main(arguments: list[str]) -> int:
    """Print one line of JSON per layer."""
    parser = argparse.ArgumentParser(prog="python -m pretraining.probe", description=__doc__)
    parser.add_argument("encoder", type=Path, metavar="ENCODER")
    parser.add_argument("corpus", type=Path, metavar="BANGLASER_DIR")
    options = parser.parse_args(arguments)
    files = sorted(options.corpus.glob("*.ogg"))
    names = [path.stem.split("-") for path in files]
    labels, speakers = np.array([name[2] for name in names]), np.array([int(name[6]) for name in names])
    encoder = Encoder.load(str(options.encoder), device="cpu")
    for layer, features in enumerate(embed(encoder, files)):
        print(json.dumps({"layer": layer} | score(features, labels, speakers)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
