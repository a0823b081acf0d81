import dataclasses
import functools

import numpy as np
import pytest

import classify.compare
from classify.projection import PLACES, layer_of, project
from classify.results import Comparison

compare = functools.partial(classify.compare.compare, baselines=False)


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(40, 3)) @ rng.normal(size=(3, 8)) * np.arange(1, 9)).astype(np.float32)


def test_points_are_the_principal_components_of_standardised_features(features):
    found = project(features, "some layer")
    scaled = (features - features.mean(0)) / features.std(0)
    _, values, directions = np.linalg.svd(scaled, full_matrices=False)
    expected = scaled @ directions[:2].T
    for axis in range(2):
        mine, theirs = np.array(found.points)[:, axis], expected[:, axis] / np.abs(expected).max()
        assert min(np.abs(mine - theirs).max(), np.abs(mine + theirs).max()) < 10.0**-PLACES
    assert found.explained == pytest.approx((values**2 / (values**2).sum())[:2], rel=1e-4)
    assert found.source == "some layer"


def test_equal_utterances_lie_on_one_point():
    found = project(np.ones((5, 3), np.float32), "nothing")
    assert set(found.points) == {(0.0, 0.0)}
    assert found.explained == (0.0, 0.0)


def test_it_is_of_the_best_rows_layer_and_survives_its_file(make_cache):
    cache = make_cache("one")
    comparison = compare([cache], classifiers=["logistic"], poolings=["mean+std"])
    layer = comparison.best.layer
    expected = project(cache.features(layer, "mean+std"), f"one, layer {layer}, mean+std")
    assert comparison.projection == expected
    assert Comparison.from_json(comparison.to_json()).projection == expected


def test_a_row_of_several_layers_stands_on_the_one_that_counts_most(small_comparison):
    row = small_comparison.results[0]
    assert layer_of(row) == row.layer
    several = dataclasses.replace(row, layer=None, selection="all", mixed_layers=(3, 5, 7))
    assert layer_of(dataclasses.replace(several, layer_weights=((0.2, 0.5, 0.3), (0.1, 0.2, 0.7)))) == 7
    assert layer_of(several) == 5
    chosen = ("layer 9, C=0.1", "layer 11, C=0.1", "layer 11, C=1.0")
    assert layer_of(dataclasses.replace(row, layer=None, selection="best", chosen=chosen)) == 11
