import dataclasses
import json

import pytest

from classify.results import Comparison, Difference, Estimate, Folds, Result, Spread


def make_result(**changes):
    score = Estimate(value=0.75, low=0.5, high=1.0)
    spread = Spread(mean=0.75, std=0.25)
    result = Result(
        cache="emodb",
        encoder="facebook/wav2vec2-base",
        layer=9,
        pooling="mean",
        classifier="logistic",
        protocol="leave-one-speaker-out",
        optimistic=False,
        accuracy=score,
        balanced_accuracy=score,
        f1_macro=score,
        fold_accuracy=spread,
        fold_balanced_accuracy=spread,
        fold_f1_macro=spread,
        recall=(1.0, 1 / 3, None),
        confusion=((1, 0, 0), (2, 1, 0), (0, 0, 0)),
        speaker_scores={"emodb:03": 2 / 3, "emodb:08": 1.0},
        sex_scores={"female": 1.0, "male": 2 / 3},
        seconds=1.25,
        predictions=((0, 0, 0, 1),),
        warnings=("did not converge (2 folds)",),
    )
    return dataclasses.replace(result, **changes)


def make_comparison(results):
    folds = Folds(
        protocol="leave-one-speaker-out",
        claim="Scores on speakers that were not heard.",
        optimistic=False,
        names=("emodb:03", "emodb:08"),
        tested_in=((0, 0, 0, 1),),
        audit="No speaker on both sides.",
    )
    paper = dataclasses.replace(folds, protocol="paper", optimistic=True, names=("repetition 1",))
    return Comparison(
        labels=("anger", "joy", "neutral"),
        utterance_ids=("a", "b", "c", "d"),
        speakers=("emodb:03", "emodb:03", "emodb:03", "emodb:08"),
        sexes=("male", "male", "male", "female"),
        truth=(0, 1, 1, 1),
        folds=(folds, paper),
        results=tuple(results),
        caches={"emodb": {"model_id": "facebook/wav2vec2-base", "layers": [8, 9]}},
        notes=("2 speakers: the intervals can't be trusted.",),
        versions={"sslfeat": "0.1.0"},
    )


def with_score(value, **changes):
    return make_result(balanced_accuracy=Estimate(value=value, low=0.0, high=1.0), **changes)


def test_json_round_trip_is_exact_and_deterministic():
    comparison = make_comparison(
        [make_result(), make_result(layer=None, selection="best", chosen=("9", "8"))]
    )
    text = comparison.to_json()
    assert Comparison.from_json(text) == comparison
    assert Comparison.from_json(text).to_json() == text
    assert isinstance(Comparison.from_json(text).results[0].predictions[0], tuple)


def test_best_passes_over_optimistic_rows():
    honest, optimistic = with_score(0.6), with_score(0.9, protocol="paper", optimistic=True)
    assert make_comparison([with_score(0.5), honest, optimistic]).best == honest
    assert make_comparison([optimistic]).best == optimistic


def test_facts_follow_from_the_fields():
    row, paper = make_result(), make_result(protocol="paper", optimistic=True)
    comparison = make_comparison([row, paper])
    assert comparison.class_counts == {"anger": 1, "joy": 3, "neutral": 0}
    assert comparison.num_tested_speakers == 2
    some = dataclasses.replace(comparison.folds[0], tested_in=((0, 0, 0, -1), (-1, 0, -1, -1)))
    assert dataclasses.replace(comparison, folds=(some,)).num_tested_speakers == 1
    assert comparison.protocol == "leave-one-speaker-out"
    assert comparison.claim == "Scores on speakers that were not heard."
    assert comparison.audit == "No speaker on both sides."
    assert comparison.folds_of(paper) is comparison.folds[1]
    assert row.title == "emodb, layer 9, mean, logistic"
    assert make_result(layer=None, selection="best").layers == "best"
    trained = make_result(tuned=True, class_weight="balanced", transductive=True)
    assert trained.method == "logistic, tuned, balanced"
    assert trained.title == "emodb, layer 9, mean, logistic, tuned, balanced, per speaker (transductive)"
    assert trained.system == ("emodb", "mean", "logistic, tuned, balanced", "transductive")
    # A baseline sees no cache's embedding, and is one row of runs on several.
    assert make_result(selection="none").system == make_result(selection="none", cache="other").system


@pytest.mark.parametrize("text", ["", "[]", "3", "{}", "{", '{"format": "sslfeat-results"}'])
def test_what_is_no_results_file_is_refused(text):
    with pytest.raises(ValueError, match="must be a JSON object with a format and a version"):
        Comparison.from_json(text)


def test_another_version_is_refused():
    text = make_comparison([make_result()]).to_json().replace('"version": 1', '"version": 99')
    with pytest.raises(ValueError, match="version 99 instead; run fit again"):
        Comparison.from_json(text)


@pytest.mark.parametrize("missing", ["labels", "folds", "results"])
def test_a_missing_field_is_refused(missing):
    record = json.loads(make_comparison([make_result()]).to_json())
    del record[missing]
    with pytest.raises(ValueError, match="must have the fields of a comparison"):
        Comparison.from_json(json.dumps(record))


def test_a_row_without_its_score_is_refused():
    record = json.loads(make_comparison([make_result()]).to_json())
    del record["results"][0]["accuracy"]
    with pytest.raises(ValueError, match=r"must have the fields of a comparison.*accuracy"):
        Comparison.from_json(json.dumps(record))


def test_a_field_is_read_under_the_name_that_it_had():
    comparison = make_comparison([make_result(), make_result(layer=3)])
    difference = Difference(
        first=0, second=1, difference=0.1, p_permutation=0.01, p_corrected=0.02, p_resampled_t=None
    )
    comparison = dataclasses.replace(comparison, differences=(difference,))
    assert Comparison.from_json(comparison.to_json().replace("p_corrected", "p_holm")) == comparison


def test_results_that_know_no_class_weight_are_read():
    record = json.loads(make_comparison([make_result()]).to_json())
    del record["results"][0]["class_weight"]
    assert Comparison.from_json(json.dumps(record)).results[0] == make_result()
