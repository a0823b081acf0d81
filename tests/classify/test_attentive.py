import dataclasses
import functools
import itertools
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import LeaveOneGroupOut
from torch.nn import functional

import classify.compare
from cache import CacheError, CacheWriter, FeatureCache, SpecMismatchError
from classify.attentive import AttentiveClassifier, pad, pool
from classify.bundle import Bundle

compare = functools.partial(classify.compare.compare, baselines=False)


@pytest.fixture(scope="module")
def utterances():
    """What was said is in one frame of many, which another feature points at."""
    rng = np.random.default_rng(0)
    labels, groups, frames = np.tile(["joy", "fear", "anger"], 40), np.repeat(np.arange(6), 20), []
    for label in labels:
        one = rng.normal(size=(int(rng.integers(3, 30)), 8)).astype(np.float32)
        spoken = rng.integers(len(one))
        one[:, 4:8] *= 0.3
        one[:, 7] -= 3
        one[spoken, 7] = 6
        one[spoken, :3] = 3 * (label == np.array(["joy", "fear", "anger"]))
        frames.append(one)
    return frames, labels, groups


def small(**options):
    return AttentiveClassifier(**{"hidden_layer_size": 16, "max_epochs": 25, "random_state": 0} | options)


@pytest.mark.parametrize("garbage", [0.0, 1e6, float("nan"), float("inf")])
def test_padding_never_matters(utterances, garbage):
    frames = utterances[0][:6]
    attention = torch.linspace(-1, 1, 8, requires_grad=True)
    padded, counts = pad(frames)
    wide = torch.full((6, 50, 8), garbage)
    for place, one in enumerate(frames):
        wide[place, : len(one)] = torch.from_numpy(one)
    pooled = pool(wide, counts, attention)
    (together,) = torch.autograd.grad(pooled.square().sum(), attention)
    alone, gradient = [], torch.zeros(8)
    for one in frames:
        own = torch.from_numpy(one)
        alone.append((own @ attention).softmax(0) @ own)
        gradient += torch.autograd.grad(alone[-1].square().sum(), attention)[0]
    torch.testing.assert_close(pooled, torch.stack(alone))
    torch.testing.assert_close(together, gradient, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pool(padded, counts, attention), pooled)


def test_a_batch_gives_what_each_utterance_gives_alone(utterances):
    frames, labels, _ = utterances
    fitted = small(max_epochs=3).fit(frames, labels)
    alone = np.concatenate([fitted.predict_proba([one]) for one in frames])
    np.testing.assert_allclose(fitted.predict_proba(frames), alone, atol=1e-6)


def test_it_trains_as_plain_torch_does_one_utterance_at_a_time(utterances):
    frames, labels, _ = [part[:20] for part in utterances]
    fitted = small(max_epochs=2, batch_size=7, learning_rate=0.01).fit(frames, labels)
    together = np.concatenate(frames)
    scaled = [torch.from_numpy((one - together.mean(0)) / together.std(0)) for one in frames]
    targets = torch.from_numpy(np.unique(labels, return_inverse=True)[1])
    seed = int(np.random.RandomState(0).randint(np.iinfo(np.int32).max))
    generator = np.random.default_rng(seed)
    attention, weights, biases = fitted._initial(generator)
    optimiser = torch.optim.AdamW(
        [{"params": weights, "weight_decay": 1e-4}, {"params": [attention, *biases], "weight_decay": 0}],
        lr=0.01,
    )
    for _ in range(2):
        for rows in np.array_split(generator.permutation(20), 3):
            optimiser.zero_grad()
            for row in rows:
                pooled = (scaled[row] @ attention).softmax(0) @ scaled[row]
                outputs = torch.relu(pooled @ weights[0] + biases[0]) @ weights[1] + biases[1]
                (functional.cross_entropy(outputs[None], targets[row : row + 1]) / len(rows)).backward()
            optimiser.step()
    np.testing.assert_allclose(fitted.attention_, attention.detach(), atol=1e-5)
    np.testing.assert_allclose(fitted.coefs_[0], weights[0].detach(), atol=1e-5)


def test_it_listens_where_it_was_said(utterances):
    frames, labels, groups = utterances
    train, test = next(LeaveOneGroupOut().split(frames, labels, groups))
    fitted = small(learning_rate=0.01).fit([frames[i] for i in train], labels[train])
    assert np.mean(fitted.predict([frames[i] for i in test]) == labels[test]) > 0.9
    loudest = [np.argmax(fitted.attend(frames[i])) == np.argmax(frames[i][:, 7]) for i in test]
    assert np.mean(loudest) > 0.9
    assert fitted.attend(frames[0]).sum() == pytest.approx(1)


def test_early_stopping_holds_whole_groups_out(utterances, monkeypatch):
    frames, labels, groups = utterances
    seen = []
    train = AttentiveClassifier._train
    monkeypatch.setattr(
        AttentiveClassifier, "_train", lambda self, *data: (seen.append(data[3:5]), train(self, *data))[1]
    )
    fitted = small(early_stopping=True, patience=2, max_epochs=60, learning_rate=0.03)
    fitted.fit(frames, np.random.default_rng(0).permutation(labels), groups=groups)  # nothing to learn
    (training, held) = seen[0]
    assert set(groups[training]).isdisjoint(groups[held])
    assert len(held) == 20
    curve = fitted.validation_loss_curve_
    assert fitted.best_epoch_ == int(np.argmin(curve)) + 1 == len(curve) - 2 < 58
    assert len(fitted.loss_curve_) == len(curve)


def test_labels_can_be_weighed_and_a_seed_repeats(utterances):
    frames, labels, _ = utterances
    few = np.r_[np.arange(30), np.flatnonzero(labels[30:] == "joy") + 30]
    first, again, weighed = (
        small(max_epochs=3, class_weight=weight).fit([frames[i] for i in few], labels[few])
        for weight in (None, None, "balanced")
    )
    np.testing.assert_array_equal(first.coefs_[0], again.coefs_[0])
    share = [
        fitted.predict_proba(frames)[:, list(fitted.classes_).index("joy")].mean()
        for fitted in (first, weighed)
    ]
    assert share[1] < share[0]
    assert clone(weighed).get_params() == weighed.get_params()
    copied = pickle.loads(pickle.dumps(first))
    np.testing.assert_array_equal(copied.predict_proba(frames), first.predict_proba(frames))


@pytest.mark.parametrize(
    ("frames", "match"),
    [
        ([], "at least one utterance. Got none"),
        ([np.zeros((2, 3)), np.zeros((2, 4))], r"shape \(frames, 3\).* Utterance 1 has \(2, 4\)"),
        ([np.zeros((2, 3)), np.zeros((0, 3))], r"at least one frame each. Utterance 1 has \(0, 3\)"),
        ([np.zeros(3), np.zeros(3)], r"shape \(frames, size\).* Utterance 0 has \(3,\)"),
        ([np.zeros((2, 3)), np.full((2, 3), np.nan)], "must be finite. Utterance 1 has NaN"),
    ],
)
def test_what_are_no_frames_is_refused(frames, match):
    with pytest.raises(ValueError, match=match):
        small().fit(frames, np.arange(len(frames)))


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("learning_rate", 0.0, "be above 0"),
        ("learning_rate", float("nan"), "be above 0"),
        ("weight_decay", -0.1, "be at least 0"),
        ("validation_fraction", 1.5, r"be in \(0, 1\)"),
        ("validation_fraction", 0, r"be in \(0, 1\)"),
    ],
)
def test_a_rate_or_a_share_out_of_its_range_is_refused(utterances, name, value, rule):
    with pytest.raises(
        ValueError, match=f"The '{name}' parameter of AttentiveClassifier must {rule}. Got {value}"
    ):
        small(**{name: value}).fit(*utterances[:2])


@pytest.mark.parametrize("name", ["hidden_layer_size", "batch_size", "max_epochs", "patience"])
def test_a_parameter_out_of_its_range_is_refused(utterances, name):
    with pytest.raises(
        ValueError, match=f"The '{name}' parameter of AttentiveClassifier must be at least 1. Got 0"
    ):
        small(**{name: 0}).fit(*utterances[:2])


@pytest.fixture
def framed(make_cache, tmp_path):
    """The small cache again, with frames around its vectors."""
    pooled = make_cache("pooled")
    path = tmp_path / "framed.h5"
    rng = np.random.default_rng(0)
    with CacheWriter(path, dataclasses.replace(pooled.spec, frames=True)) as writer:
        for place, row in enumerate(pooled.rows()):
            count = 2 + place % 5
            features = {name: pooled.embeddings(name)[place] for name in pooled.poolings}
            frames = features["mean"][:, None] + 0.1 * rng.normal(size=(3, count, 12))
            writer.add(dataclasses.replace(row, num_frames=count), features, frames.astype(np.float32))
    return FeatureCache(path)


def test_its_row_is_that_of_a_plain_loop_over_folds(framed):
    (row,) = compare(
        [framed], classifiers=["attentive"], layers=[2], poolings=["mean", "std"], random_state=3
    ).results
    frames = [framed.frames(place, 2) for place in range(len(framed))]
    labels = np.unique(framed.labels, return_inverse=True)[1]
    for train, test in LeaveOneGroupOut().split(frames, labels, framed.speakers):
        fitted = AttentiveClassifier(random_state=3).fit([frames[i] for i in train], labels[train])
        expected = fitted.predict([frames[i] for i in test])
        np.testing.assert_array_equal(np.array(row.predictions[0])[test], expected)
    assert row.pooling == "frames"
    assert row.balanced_accuracy.value > 0.8
    assert row.calibration is not None


def test_its_bundle_reads_the_frames_of_one_layer(framed, make_cache, tmp_path):
    row = compare([framed], classifiers=["attentive"], layers=[2]).best
    Bundle.fit(framed, row, random_state=3).save(tmp_path / "bundle")
    bundle = Bundle.load(tmp_path / "bundle")
    frames = [framed.frames(place, 2) for place in range(len(framed))]
    expected = AttentiveClassifier(random_state=3).fit(frames, framed.labels)
    np.testing.assert_array_equal(
        bundle.predict_proba(bundle.features_of(framed)), expected.predict_proba(frames)
    )
    assert (bundle.layers, bundle.takes_frames) == ((2,), True)
    with pytest.raises(
        SpecMismatchError, match=r"the bundle needs frames. The features have none; extract with --frames"
    ):
        bundle.features_of(make_cache("plain"))
    with pytest.raises(SpecMismatchError, match="the bundle needs layer 2"):
        bundle.check_spec(dataclasses.replace(framed.spec, layers=(0, 1)))


def test_frames_are_standardised_per_speaker_where_asked(framed):
    (row,) = compare([framed], classifiers=["attentive"], layers=[1], speaker_norm=True).results
    assert row.transductive
    (plain,) = compare([framed], classifiers=["attentive"], layers=[1]).results
    assert row.predictions != plain.predictions


def test_a_cache_without_frames_is_refused_and_fusion_leaves_it_out(make_cache, framed):
    with pytest.raises(
        CacheError,
        match=r"plain.h5: attentive needs frames, and none are stored; extract again with --frames",
    ):
        compare([make_cache("plain")], classifiers=["attentive"])
    other = make_cache("other", seed=1)
    with pytest.raises(CacheError, match=r"other.h5: attentive needs frames"):
        compare([framed, other], classifiers=["attentive"], layers=[1])
    comparison = compare([framed, other], classifiers=["logistic"], layers=[1], fusion=["concatenate"])
    assert len(comparison.results) == 3
    pairs = itertools.product(["framed", "other"], ["mean"], ["attentive"])
    sources = {"framed": framed, "other": other}
    assert [name for name, _, _ in classify.compare._contestants(sources, ["mean"], ["attentive"])] == [
        name for name, _, _ in pairs
    ]
