import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.datasets import make_blobs, make_classification
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

from classify import FeedforwardClassifier
from classify.feedforward import ACTIVATIONS, fit_together, held_out
from classify.heads import ACTIVATIONS as TORCH_ACTIVATIONS

VARIANTS = [FeedforwardClassifier(), FeedforwardClassifier(hidden_layer_sizes=(16, 8), batch_norm=True)]


@parametrize_with_checks(VARIANTS)
def test_scikit_learn_contract(estimator, check):
    check(estimator)


def test_scikit_learn_contract_is_not_skipped():
    # A wrong tag would silently leave most checks out.
    checks = list(estimator_checks_generator(FeedforwardClassifier()))
    assert len(checks) >= 55
    names = {getattr(check, "func", check).__name__ for _, check in checks}
    assert {"check_classifiers_train", "check_sample_weight_equivalence_on_dense_data"} <= names


def make_emotions(seed=0, speakers=6, **changes):
    X, y = make_classification(
        n_samples=180, n_features=20, n_informative=8, n_classes=3, random_state=seed, **changes
    )
    return X.astype(np.float32), np.array(["anger", "fear", "joy"])[y], np.arange(180) % speakers


def small(**changes):
    return FeedforwardClassifier(
        **{"hidden_layer_sizes": (16,), "max_epochs": 15, "random_state": 0} | changes
    )


def weights_of(classifier):
    return np.concatenate([w.ravel() for w in (*classifier.coefs_, *classifier.intercepts_)])


def test_learns_string_labels_through_a_pipeline_and_cross_validation():
    X, y, speakers = make_emotions(class_sep=3.0, n_clusters_per_class=1)
    pipeline = make_pipeline(StandardScaler(), small(max_epochs=40))
    predicted = cross_val_predict(pipeline, X, y, groups=speakers, cv=GroupKFold(3))
    assert (predicted == y).mean() > 0.8
    probabilities = pipeline.fit(X, y).predict_proba(X)
    assert probabilities.shape == (180, 3)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    assert list(pipeline.classes_) == ["anger", "fear", "joy"]


def test_grid_search_and_clone():
    X, y, speakers = make_emotions()
    search = GridSearchCV(
        small(), {"dropout": [0.0, 0.5], "hidden_layer_sizes": [(4,), (16,)]}, cv=GroupKFold(3)
    )
    search.fit(X, y, groups=speakers)
    assert clone(search.best_estimator_).get_params() == search.best_estimator_.get_params()


def test_same_seed_same_weights_other_seed_other_weights():
    X, y, _ = make_emotions()
    first = weights_of(small(dropout=0.3).fit(X, y))
    np.testing.assert_array_equal(first, weights_of(small(dropout=0.3).fit(X, y)))
    assert not np.allclose(first, weights_of(small(dropout=0.3, random_state=1).fit(X, y)))


def test_training_leaves_torch_as_it_was():
    X, y, _ = make_emotions()
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    small(dropout=0.3).fit(X, y)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)


def test_pickle_predicts_the_same_in_a_process_without_torch(tmp_path):
    X, y, _ = make_emotions()
    classifier = small().fit(X, y)
    (tmp_path / "classifier.pickle").write_bytes(pickle.dumps(classifier))
    np.save(tmp_path / "X.npy", X)
    code = (
        "import pickle, sys, numpy as np\n"
        "classifier = pickle.load(open('classifier.pickle', 'rb'))\n"
        "np.save('predicted.npy', classifier.predict_proba(np.load('X.npy')))\n"
        "sys.exit('torch' in sys.modules)"
    )
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "predicted.npy"), classifier.predict_proba(X))


def test_import_is_light():
    code = (
        "import sys, classify\n"
        "assert 'sklearn' not in sys.modules\n"
        "from classify import FeedforwardClassifier\n"
        "heavy = {'transformers', 'h5py', 'torch', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    finished = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_numpy_predicts_what_torch_trained(name):
    values = np.linspace(-4, 4, 41)
    np.testing.assert_allclose(
        ACTIVATIONS[name](values),
        TORCH_ACTIVATIONS[name](torch.from_numpy(values)).numpy(),
        rtol=1e-12,
        atol=1e-15,
    )
    assert set(ACTIVATIONS) == set(TORCH_ACTIVATIONS)


def test_class_weights_move_the_decision():
    X, y = make_blobs(300, centers=[[0, 0], [1, 0]], random_state=0)
    keep = (y == 0) | (np.arange(300) % 10 == 0)
    X, y = X[keep], y[keep]
    recalls = {}
    for weight in (None, "balanced", {1: 100.0}):
        predicted = small(class_weight=weight, max_epochs=60).fit(X, y).predict(X)
        recalls[str(weight)] = (predicted[y == 1] == 1).mean()
    assert recalls["None"] < recalls["balanced"] <= recalls["{1: 100.0}"]


def test_balanced_weights_count_weights_not_rows():
    X, y, _ = make_emotions()
    weights = np.where(y == "joy", 3.0, 1.0)
    n, per_class = weights.sum(), {label: weights[y == label].sum() for label in set(y)}
    by_hand = {label: n / (3 * count) for label, count in per_class.items()}
    balanced = small(class_weight="balanced").fit(X, y, sample_weight=weights)
    np.testing.assert_allclose(
        weights_of(balanced),
        weights_of(small(class_weight=by_hand).fit(X, y, sample_weight=weights)),
        rtol=1e-4,
    )


def test_a_row_of_weight_zero_is_not_there():
    X, y, _ = make_emotions()
    weights = (np.arange(180) % 3 > 0).astype(float)
    with_zeros = small(dropout=0.2).fit(X, y, sample_weight=weights)
    without = small(dropout=0.2).fit(X[weights > 0], y[weights > 0])
    np.testing.assert_array_equal(weights_of(with_zeros), weights_of(without))


def test_early_stopping_keeps_the_best_epoch():
    X, y, speakers = make_emotions(flip_y=0.4)
    stopped = small(early_stopping=True, max_epochs=200, patience=5, learning_rate=0.02).fit(
        X, y, groups=speakers
    )
    curve = stopped.validation_loss_curve_
    assert stopped.n_iter_ == len(curve) == stopped.best_epoch_ + 5 < 200
    assert curve[stopped.best_epoch_ - 1] == min(curve)
    # The kept weights give the loss of the best epoch on the rows held out, recomputed here from predictions.
    seed = int(np.random.RandomState(0).randint(np.iinfo(np.int32).max))
    targets = np.unique(y, return_inverse=True)[1]
    held = held_out(targets, speakers, 0.1, np.random.default_rng((seed, 1)))
    hidden = np.maximum(X[held] @ stopped.coefs_[0] + stopped.intercepts_[0], 0)
    logits = hidden @ stopped.coefs_[1] + stopped.intercepts_[1]
    loss = -log_softmax(logits, axis=1)[np.arange(held.sum()), targets[held]].mean()
    assert loss == pytest.approx(min(curve), rel=1e-5)


def test_early_stopping_never_trains_on_a_validation_speaker():
    _, y, speakers = make_emotions()
    targets = np.unique(y, return_inverse=True)[1]
    for seed in range(20):
        held = held_out(targets, speakers, 0.1, np.random.default_rng(seed))
        assert held.any()
        assert not set(speakers[held]) & set(speakers[~held])
        assert set(targets[~held]) == set(targets)


def test_validation_rows_are_stratified_without_groups():
    targets = np.repeat([0, 1, 2], [100, 50, 10])
    held = held_out(targets, None, 0.1, np.random.default_rng(0))
    assert np.bincount(targets[held]).tolist() == [10, 5, 1]


def test_early_stopping_without_a_group_to_spare_is_refused():
    X, y, _ = make_emotions()
    with pytest.raises(ValueError, match="must hold out a group and leave every class in training"):
        small(early_stopping=True).fit(X, y, groups=np.zeros(180))
    with pytest.raises(ValueError, match="must hold out a row"):
        small(early_stopping=True).fit(X[:3], ["a", "b", "c"])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        small(early_stopping=True).fit(X, y, groups=np.zeros(10))


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("hidden_layer_sizes", (0,), "hold widths of at least 1"),
        ("activation", "sigmoid", "be one of relu, gelu, silu, tanh"),
        ("dropout", 1.0, r"be in \[0, 1\)"),
        ("learning_rate", 0.0, "be above 0"),
        ("weight_decay", -1.0, "be at least 0"),
        ("batch_size", 0, "be at least 1"),
        ("max_epochs", 0, "be at least 1"),
        ("num_layers", 0, "be at least 1"),
        ("validation_fraction", 1.0, r"be in \(0, 1\)"),
        ("patience", 0, "be at least 1"),
    ],
)
def test_parameters_are_checked_in_fit(name, value, rule):
    X, y, _ = make_emotions()
    with pytest.raises(ValueError, match=f"The '{name}' parameter of FeedforwardClassifier must {rule}. Got"):
        small(**{name: value}).fit(X, y)


def test_unknown_device_weights_and_labels_are_refused():
    X, y, _ = make_emotions()
    with pytest.raises(ValueError, match=r"device must be one that torch finds here.*'tpu'"):
        small(device="tpu").fit(X, y)
    for weights in (np.zeros(180), np.full(180, np.nan), -np.ones(180)):
        with pytest.raises(ValueError, match="sample_weight must be finite, not negative and not all zero"):
            small().fit(X, y, sample_weight=weights)
    with pytest.raises(NotFittedError):
        small().predict(X)


def test_together_is_as_alone_over_different_data_classes_and_settings():
    fits, classifiers = [], []
    for seed in range(5):
        X, y, speakers = make_emotions(seed)
        rows = slice(0, 180 - 7 * seed)
        fits.append({"X": X[rows], "y": y[rows], "groups": speakers[rows]})
        classifiers.append(small(random_state=seed, dropout=0.2 * (seed % 2), early_stopping=seed > 2))
    classifiers.append(small(hidden_layer_sizes=()))
    fits.append({"X": X, "y": y == "joy"})
    fit_together(classifiers, fits)
    for classifier, fit in zip(classifiers, fits, strict=True):
        alone = clone(classifier).fit(**fit)
        np.testing.assert_array_equal(weights_of(classifier), weights_of(alone))
        assert classifier.loss_curve_ == alone.loss_curve_
        np.testing.assert_array_equal(classifier.classes_, alone.classes_)


def test_float32_stays_float32_and_integers_become_it():
    X, y, _ = make_emotions()
    assert small().fit(X, y).coefs_[0].dtype == np.float32
    assert small().fit(X.astype(np.float64), y).coefs_[0].dtype == np.float64
    assert small().fit((X * 10).astype(int), y).coefs_[0].dtype == np.float32


def test_a_weighted_sum_finds_the_layer_that_tells():
    generator = np.random.default_rng(0)
    y = generator.integers(0, 3, 300)
    layers = generator.normal(size=(300, 4, 6))
    layers[:, 2] += 2 * np.eye(6)[y]
    classifier = small(num_layers=4, max_epochs=60, learning_rate=0.02).fit(
        layers[:200].reshape(200, -1), y[:200]
    )
    assert classifier.layer_weights_.argmax() == 2
    assert classifier.layer_weights_.sum() == pytest.approx(1)
    assert classifier.coefs_[0].shape == (6, 16)
    assert classifier.score(layers[200:].reshape(100, -1), y[200:]) > 0.8
    with pytest.raises(
        ValueError, match=r"X must hold 5 layers of equal width side by side.* Got 24 features"
    ):
        small(num_layers=5).fit(layers.reshape(300, -1), y)
