"""A comparison as large as a real one, whose every number follows from its predictions."""

import dataclasses
import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from cache import CacheWriter, FeatureCache, FeatureSpec, Row, Utterance
from classify.calibration import measure_calibration
from classify.results import Comparison, Estimate, Folds, Projection, Result, Spread

LABELS = ("anger", "boredom", "disgust", "fear", "happiness", "neutral", "sadness")
# Emo-DB's own counts and speakers: Burkhardt et al. (2005), "A database of German emotional speech".
COUNTS = (127, 81, 46, 69, 71, 79, 62)
SEXES = {"03": "male", "08": "female", "09": "female", "10": "male", "11": "male"} | {
    "12": "male", "13": "female", "14": "female", "15": "male", "16": "female"
}  # fmt: skip
CONFUSED_WITH = (4, 5, 3, 4, 0, 1, 1)


def _predict(
    truth: NDArray[np.int_], skill: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.int_]:
    """Right with the probability ``skill``; else mostly the emotion that people confuse it with."""
    wrong = np.where(
        rng.random(len(truth)) < 0.7, np.array(CONFUSED_WITH)[truth], rng.integers(0, 7, len(truth))
    )
    return np.where(rng.random(len(truth)) < skill, truth, wrong)


def _scores(confusion: NDArray[np.int_]) -> NDArray[np.float64]:
    """Accuracy, balanced accuracy and macro F1 of confusion matrices of shape (..., true, predicted)."""
    right, true = np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(-1)
    f1 = 2 * right / np.maximum(true + confusion.sum(-2), 1)
    recall = np.where(true > 0, right / np.maximum(true, 1), np.nan)
    balanced, f1 = np.nanmean(recall, -1), np.nanmean(np.where(true > 0, f1, np.nan), -1)
    return np.stack([right.sum(-1) / true.sum(-1), balanced, f1], -1)


def _confusion(truth, predicted):
    counts = np.zeros((len(LABELS), len(LABELS)), int)
    np.add.at(counts, (truth, predicted), 1)
    return counts


def _result(truth, speakers, sexes, predicted, **names):
    def by(groups):
        return {
            str(group): _confusion(truth[groups == group], predicted[groups == group])
            for group in sorted(set(groups))
        }

    speaker_confusions = np.stack(list(by(speakers).values()))
    draws = np.random.default_rng(0).integers(0, len(speaker_confusions), (200, len(speaker_confusions)))
    pooled = speaker_confusions.sum(0)
    values, resampled = _scores(pooled), _scores(speaker_confusions[draws].sum(1))
    bounds = np.quantile(resampled, (0.025, 0.975), axis=0)
    lows, highs = np.minimum(bounds[0], values), np.maximum(bounds[1], values)
    folds = _scores(speaker_confusions)
    estimates, spreads = {}, {}
    for i, name in enumerate(("accuracy", "balanced_accuracy", "f1_macro")):
        estimates[name] = Estimate(value=float(values[i]), low=float(lows[i]), high=float(highs[i]))
        spreads[f"fold_{name}"] = Spread(mean=float(folds[:, i].mean()), std=float(folds[:, i].std()))
    return Result(
        **estimates,
        **spreads,
        recall=tuple((pooled.diagonal() / pooled.sum(1)).tolist()),
        confusion=tuple(map(tuple, pooled.tolist())),
        speaker_scores={group: float(_scores(counts)[1]) for group, counts in by(speakers).items()},
        sex_scores={group: float(_scores(counts)[1]) for group, counts in by(sexes).items()},
        seconds=1.25,
        predictions=(tuple(predicted.tolist()),),
        **names,
    )


@pytest.fixture(scope="session")
def emodb_comparison() -> Comparison:
    """Two encoders, 13 layers and two classifiers on 535 utterances of 10 speakers, honest and optimistic."""
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(7), COUNTS)
    numbers = np.array(sorted(SEXES))[rng.integers(0, 10, len(truth))]
    speakers = np.array([f"emodb:{number}" for number in numbers])
    sexes = np.array([SEXES[number] for number in numbers])
    talent = dict(zip(sorted(SEXES), rng.normal(0, 0.07, 10), strict=True))
    ease = np.array([0.10, 0.0, -0.12, -0.02, -0.10, 0.02, 0.08])[truth] + [
        talent[number] for number in numbers
    ]
    people = sorted(set(speakers))
    results = []
    for protocol, bonus in (("leave-one-speaker-out", 0.0), ("paper", 0.13)):
        for cache, encoder, height, peak in (
            ("emodb-wav2vec2", "facebook/wav2vec2-base", 0.66, 6),
            ("emodb-hubert", "facebook/hubert-base-ls960", 0.73, 8),
        ):
            for classifier, gain in (("logistic", 0.0), ("feedforward", 0.03)):
                for layer in range(13):
                    skill = height + gain + bonus - 0.006 * (layer - peak) ** 2 + ease
                    results.append(
                        _result(
                            truth, speakers, sexes, _predict(truth, skill.clip(0.05, 0.98), rng), cache=cache,
                            encoder=encoder, layer=layer, pooling="mean", classifier=classifier, protocol=protocol,
                            optimistic=protocol == "paper",
                        )
                    )  # fmt: skip
    honest = Folds(
        protocol="leave-one-speaker-out",
        claim="Scores say how well emotions are told apart on speakers of this corpus that training has not heard.",
        optimistic=False,
        names=tuple(people),
        tested_in=(tuple(people.index(speaker) for speaker in speakers),),
        audit="No speaker and no exact copy of a recording is in both the training and the test part of any fold.",
    )
    paper = Folds(
        protocol="paper",
        claim="Scores say nothing about new speakers: every test speaker is in training too.",
        optimistic=True,
        names=("0", "1", "2", "3", "4"),
        tested_in=(tuple(rng.integers(0, 5, len(truth)).tolist()),),
        audit="10 of 10 speakers are in both the training and the test part; no exact copy of a recording is.",
    )
    spec = {
        "revision": "0b5b8e868dd84f03fd87d01f9c4ff0f080fecfe8",
        "layers": list(range(13)),
        "pooling": ["mean"],
    }
    spec |= {"architecture": "wav2vec2", "precision": "float32", "weights_hash": "9f" * 32}
    return Comparison(
        labels=LABELS,
        utterance_ids=tuple(f"emodb/{number}{i:03d}" for i, number in enumerate(numbers)),
        speakers=tuple(speakers.tolist()),
        sexes=tuple(sexes.tolist()),
        truth=tuple(truth.tolist()),
        folds=(honest, paper),
        results=tuple(results),
        caches={
            "emodb-wav2vec2": spec | {"model_id": "facebook/wav2vec2-base"},
            "emodb-hubert": spec | {"model_id": "facebook/hubert-base-ls960", "architecture": "hubert"},
        },
        notes=(
            "Layer 8 of emodb-hubert with feedforward is better than the best row of emodb-wav2vec2 (p = 0.012, Holm).",
            "Between logistic and feedforward on the same layer the data support no difference.",
        ),
        command="sslfeat fit emodb-wav2vec2.h5 emodb-hubert.h5 -o results --report-optimism --layer all",
        versions={"sslfeat": "0.1.0", "scikit-learn": "1.9.1", "torch": "2.13.0"},
        random_state=0,
    )


@pytest.fixture(scope="session")
def measured_comparison(emodb_comparison: Comparison) -> Comparison:
    """The same with what only some rows have: probabilities, a weighted sum, and a picture of the utterances."""
    rng = np.random.default_rng(1)
    results = []
    for place, result in enumerate(emodb_comparison.results):
        right = np.array(result.predictions[0]) == np.array(emodb_comparison.truth)
        sure = rng.uniform(0.2 + place / 200, 1, len(right))
        measured = measure_calibration(sure, right) if result.classifier == "feedforward" else None
        results.append(dataclasses.replace(result, calibration=measured))
    weights = tuple(tuple(row) for row in rng.dirichlet(np.ones(13), 10).tolist())
    results[0] = dataclasses.replace(
        results[0], layer=None, selection="all", classifier="weighted-sum", mixed_layers=tuple(range(13)),
        layer_weights=weights,
    )  # fmt: skip
    points = tuple(map(tuple, rng.uniform(-1, 1, (535, 2)).round(3).tolist()))
    projection = Projection(source="emodb-hubert, layer 8, mean", explained=(0.3, 0.125), points=points)
    return dataclasses.replace(emodb_comparison, results=tuple(results), projection=projection)


HOSTILE = """</script><img src=x onerror="window.hacked=1">'&amp;${x}$title{{}}"""


def _keep_few(comparison: Comparison) -> Comparison:
    """Layers 0 and 12 of every kind of row, with everything that only some comparisons have."""
    few = [result for result in comparison.results if result.layer in {0, 12}]
    chosen = tuple(f"layer {i % 3 + 7}" for i in range(10))
    few[0] = dataclasses.replace(few[0], warnings=("did not converge (2 folds)",))
    few[1] = dataclasses.replace(few[1], layer=None, selection="best", chosen=chosen)
    points = ((0.5, -0.5),) * len(comparison.truth)
    projection = Projection(source="a layer", explained=(0.3, 0.2), points=points)
    return dataclasses.replace(comparison, results=tuple(few), projection=projection)


@pytest.fixture(scope="session")
def small_comparison(emodb_comparison: Comparison) -> Comparison:
    return _keep_few(emodb_comparison)


@pytest.fixture(scope="session")
def hostile_comparison(small_comparison: Comparison) -> Comparison:
    """The small comparison, with every text made by somebody who wants to run code or to break a table."""

    def spoil(text, prefix=HOSTILE):
        return f"{prefix}{text}"

    small = small_comparison
    folds = [
        dataclasses.replace(
            folds,
            claim=spoil(folds.claim),
            audit=spoil(folds.audit),
            names=tuple(map(spoil, folds.names)),
        )
        for folds in small.folds
    ]
    results = [
        dataclasses.replace(
            result,
            cache=spoil(result.cache, "=1+1" + HOSTILE),
            encoder=spoil(result.encoder),
            classifier=spoil(result.classifier, "@" + HOSTILE),
            pooling=spoil(result.pooling),
            speaker_scores={spoil(name): score for name, score in result.speaker_scores.items()},
            chosen=tuple(map(spoil, result.chosen)),
            warnings=tuple(map(spoil, result.warnings)),
        )
        for result in small.results
    ]
    return dataclasses.replace(
        small,
        labels=tuple(map(spoil, small.labels)),
        utterance_ids=tuple(spoil(identifier, "-2|\t\n\\" + HOSTILE) for identifier in small.utterance_ids),
        speakers=tuple(map(spoil, small.speakers)),
        folds=tuple(folds),
        results=tuple(results),
        caches={
            spoil(name, "=1+1" + HOSTILE): {spoil(field): spoil(value) for field, value in spec.items()}
            for name, spec in small.caches.items()
        },
        notes=tuple(map(spoil, small.notes)),
        projection=dataclasses.replace(small.projection, source=spoil(small.projection.source)),
        command=spoil(small.command),
        versions={spoil(name): spoil(version) for name, version in small.versions.items()},
    )


@pytest.fixture
def make_cache(tmp_path):
    """Write a small cache: six speakers say four sentences in three emotions, which layers 1 and 2 tell apart."""

    def make(
        name,
        *,
        seed=0,
        corpus="emodb",
        skip=(),
        change=None,
        complete=True,
        failures=(),
        duplicates=(),
        shared=True,
        spec=None,
    ):
        generator = np.random.default_rng(seed)
        emotions = ("anger", "fear", "joy")
        # Where emotions are not shared, each speaker has his own way to tell them, which no other's helps to know.
        direction = generator.normal(size=(1 if shared else 6, 3, 12)).repeat(6 if shared else 1, axis=0)
        voices = 0.5 * generator.normal(size=(6, 12))
        facts = {
            "model_id": "random/tiny-wav2vec2", "revision": "local", "weights_hash": f"{seed:064x}",
            "architecture": "wav2vec2", "num_hidden_layers": 2, "hidden_size": 12, "layers": (0, 1, 2),
            "pooling": ("mean", "std"), "normalise": True,
        }  # fmt: skip
        path = tmp_path / f"{name}.h5"
        path.parent.mkdir(exist_ok=True)
        facts |= spec or {}
        with CacheWriter(path, FeatureSpec(**facts), complete=complete) as writer:
            for speaker, text, label in itertools.product(range(6), range(4), range(3)):
                utterance_id = f"{corpus}/{speaker:02d}t{text}{emotions[label]}"
                features = (
                    generator.normal(size=(3, 12)) + np.array([[0], [1], [2]]) * direction[speaker, label]
                )
                features = (features + voices[speaker]).astype(np.float32)[
                    [layer % 3 for layer in facts["layers"]]
                ]
                if utterance_id in skip:
                    continue
                columns = {
                    "id": utterance_id, "path": f"{utterance_id}.wav", "corpus": corpus, "label": emotions[label],
                    "speaker": f"{corpus}:{speaker:02d}", "sex": ("female", "male")[speaker % 2], "text": f"t{text}",
                    "audio_hash": f"hash of {utterance_id}",
                }  # fmt: skip
                columns |= (change or {}).get(utterance_id, {})
                audio_hash, num_samples = columns.pop("audio_hash"), columns.pop("num_samples", 16000)
                row = Row(
                    utterance=Utterance(**columns),
                    audio_hash=audio_hash,
                    num_samples=num_samples,
                    num_frames=49,
                )
                writer.add(row, {"mean": features, "std": features**2})
            for failure in failures:
                writer.add_failure(failure)
            for duplicate in duplicates:
                writer.add_duplicate(duplicate)
        return FeatureCache(path)

    return make
