import functools
import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import skops.io
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

import classify.compare
from cache import SpecMismatchError
from classify.bundle import Bundle, BundleError, why_not_kept
from classify.estimators import FACTORIES, GRIDS, make_classifier

compare = functools.partial(classify.compare.compare, baselines=False)


class Stranger(ClassifierMixin, BaseEstimator):
    """A type that no one vouches for."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return np.full(len(X), self.classes_[0])


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.fixture
def cache(make_cache):
    return make_cache("emodb")


def fit_bundle(cache, classifier="logistic", pooling="mean"):
    comparison = compare([cache], classifiers=[classifier], layers=[2], poolings=[pooling])
    return Bundle.fit(cache, comparison.best)


@pytest.mark.parametrize("name", FACTORIES)
def test_every_entry_of_the_menu_is_saved_and_loaded(cache, tmp_path, name):
    bundle = fit_bundle(cache, name)
    bundle.save(tmp_path / "bundle")
    loaded = Bundle.load(tmp_path / "bundle")
    features = cache.features(2, "mean")
    np.testing.assert_array_equal(loaded.predict(features), bundle.predict(features))
    assert (loaded.spec, loaded.layer, loaded.labels) == (cache.spec, 2, ("anger", "fear", "joy"))
    assert loaded.scores == json.loads(json.dumps(bundle.scores))
    assert loaded.scores["protocol"] == "leave-one-speaker-out"
    assert loaded.versions["scikit-learn"]
    if loaded.has_probabilities:
        probabilities = loaded.predict_proba(features)
        np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
        by_probability = np.array(loaded.labels)[probabilities.argmax(1)]
        assert (by_probability == loaded.predict(features)).mean() > 0.99
    else:
        with pytest.raises(
            ValueError, match=f"probabilities need a classifier that has them. {name} has none"
        ):
            loaded.predict_proba(features)


def test_it_is_fitted_on_all_utterances(cache):
    bundle = fit_bundle(cache)
    expected = make_classifier("logistic").fit(cache.features(2, "mean"), cache.labels)
    np.testing.assert_array_equal(bundle.estimator[-1].coef_, expected[-1].coef_)


def test_what_the_row_chose_is_chosen_again_on_all_speakers(cache):
    best = compare([cache], classifiers=["ridge"], layers="best", tune=True).best
    bundle = Bundle.fit(cache, best)
    assert bundle.layer == 2
    scores = {}
    for alpha in GRIDS["ridge"]["ridgeclassifier__alpha"]:
        predicted = cross_val_predict(
            make_classifier("ridge").set_params(ridgeclassifier__alpha=alpha),
            cache.features(2),
            cache.labels,
            groups=cache.speakers,
            cv=StratifiedGroupKFold(3),
        )
        scores[alpha] = balanced_accuracy_score(cache.labels, predicted)
    assert bundle.estimator.estimator_[-1].alpha == max(scores, key=scores.__getitem__)


def test_labels_are_merged_and_excluded_as_in_the_comparison(cache):
    chosen = {"merge_labels": {"joy": "happiness"}, "exclude_labels": ["fear"]}
    best = compare([cache], classifiers=["lda"], layers=[1], **chosen).best
    assert Bundle.fit(cache, best, **chosen).labels == ("anger", "happiness")


def test_what_one_cache_alone_has_is_not_learnt(make_cache):
    own = {f"emodb/{speaker:02d}t3joy": {"label": "pride"} for speaker in range(6)}
    cache = make_cache("more", change=own)
    comparison = compare([cache, make_cache("less", skip=own)], classifiers=["lda"], layers=[2])
    best = next(result for result in comparison.results if result.cache == "more")
    bundle = Bundle.fit(cache, best, utterance_ids=comparison.utterance_ids)
    assert bundle.labels == comparison.labels == ("anger", "fear", "joy")
    shared = np.isin(cache.utterance_ids, comparison.utterance_ids)
    expected = make_classifier("lda").fit(cache.features(2)[shared], cache.labels[shared])
    np.testing.assert_array_equal(bundle.estimator[-1].coef_, expected[-1].coef_)
    assert Bundle.fit(cache, best).labels == ("anger", "fear", "joy", "pride")


def test_a_spec_that_differs_is_refused_by_field(cache, make_cache):
    bundle = fit_bundle(cache, pooling="mean+std")
    bundle.check_spec(cache.spec)
    bundle.check_spec(make_cache("moved", spec={"model_id": "another/name", "revision": "cd34"}).spec)
    other = make_cache("other", spec={"precision": "bfloat16", "normalise": False}).spec
    with pytest.raises(
        SpecMismatchError,
        match=r"differ: normalise True \(bundle\) vs False \(features\); precision 'float32'",
    ):
        bundle.check_spec(other)
    with pytest.raises(SpecMismatchError, match=r"needs layer 2. The features have layers 0, 1"):
        bundle.check_spec(json_spec(cache.spec, layers=[0, 1]))
    with pytest.raises(SpecMismatchError, match=r"needs pooling 'std'. The features have mean"):
        bundle.check_spec(json_spec(cache.spec, pooling=["mean"]))


def json_spec(spec, **changes):
    return type(spec).from_json(json.dumps(json.loads(spec.to_json()) | changes))


def test_a_strangers_type_is_refused_by_name_and_its_code_not_run(cache, tmp_path):
    bundle = fit_bundle(cache, f"{__name__}:Stranger")
    bundle.save(tmp_path / "bundle")
    with pytest.raises(BundleError, match=r"types that are not trusted: .*Stranger. Name each with trusted="):
        Bundle.load(tmp_path / "bundle")
    loaded = Bundle.load(tmp_path / "bundle", trusted=[f"{__name__}.Stranger"])
    assert loaded.predict(cache.features(2)).tolist() == ["anger"] * len(cache)


def test_a_planted_payload_is_refused(cache, tmp_path):
    victim = tmp_path / "victim"
    bundle = fit_bundle(cache)
    bundle.estimator.payload_ = Payload(str(victim))
    bundle.save(tmp_path / "bundle")
    victim.unlink(missing_ok=True)
    with pytest.raises(BundleError, match="not trusted"):
        Bundle.load(tmp_path / "bundle")
    assert not victim.exists()


def test_loading_and_predicting_needs_neither_an_encoder_nor_hdf5(cache, tmp_path):
    fit_bundle(cache, "feedforward").save(tmp_path / "bundle")
    np.save(tmp_path / "features.npy", cache.features(2))
    code = (
        "import sys, numpy as np\n"
        "from classify import Bundle\n"
        "print(*Bundle.load('bundle').predict(np.load('features.npy'))[:3])\n"
        "sys.exit(', '.join({'h5py', 'transformers'} & set(sys.modules)) or 0)"
    )
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    finished = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split()[0] in ("anger", "fear", "joy")


def test_saving_never_destroys_what_is_there(cache, tmp_path):
    bundle = fit_bundle(cache)
    bundle.save(tmp_path / "deep" / "bundle")
    with pytest.raises(BundleError, match="bundle: already exists; choose another name or remove it"):
        bundle.save(tmp_path / "deep" / "bundle")
    fit_bundle(cache, "lda").save(tmp_path / "deep" / "bundle", overwrite=True)
    assert Bundle.load(tmp_path / "deep" / "bundle").classifier == "lda"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["bundle"]
    assert len(list((tmp_path / "deep" / "bundle").iterdir())) == 2
    (tmp_path / "diary").mkdir()
    with pytest.raises(BundleError, match="diary: already exists"):
        bundle.save(tmp_path / "diary", overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="file/bundle: can't be written"):
        bundle.save(tmp_path / "file" / "bundle")


def test_a_link_is_replaced_and_what_it_leads_to_stays(cache, tmp_path):
    bundle = fit_bundle(cache)
    bundle.save(tmp_path / "elsewhere")
    (tmp_path / "bundle").symlink_to(tmp_path / "elsewhere")
    bundle.save(tmp_path / "bundle", overwrite=True)
    assert not (tmp_path / "bundle").is_symlink()
    for name in ("bundle", "elsewhere"):
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["bundle.json", "estimator.skops"]
    assert len(list(tmp_path.glob("*bundle*"))) == 1


def test_a_failed_save_leaves_nothing(cache, tmp_path, monkeypatch):
    bundle = fit_bundle(cache)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(skops.io, "dump", full)
    with pytest.raises(BundleError, match="bundle: can't be written \\(No space left on device\\)"):
        bundle.save(tmp_path / "new" / "bundle")
    assert list((tmp_path / "new").iterdir()) == []


def damage(directory, name, change):
    path = directory / name
    path.write_bytes(change(path.read_bytes()))


def edit(**changes):
    return lambda content: json.dumps(json.loads(content) | changes).encode()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("bundle.json", lambda content: content[:-20], r"bundle.json: no bundle, or damaged"),
        ("bundle.json", lambda _: b"[]", r"bundle.json: no bundle, or damaged"),
        ("bundle.json", edit(format="cookbook"), "format 'cookbook'; a bundle has format 'sslfeat-bundle'"),
        ("bundle.json", edit(version=99), "written by bundle version 99; this release reads version 1"),
        ("bundle.json", edit(spec={}), "the bundle can't be read"),
        ("bundle.json", edit(labels=["a", "b"]), "have different labels; they are not of one bundle"),
        (
            "estimator.skops",
            lambda content: content[: len(content) // 2],
            r"estimator.skops: the classifier can't be read",
        ),
        ("estimator.skops", lambda _: b"", r"estimator.skops: the classifier can't be read"),
    ],
)
def test_a_damaged_bundle_is_refused(cache, tmp_path, name, change, message):
    fit_bundle(cache).save(tmp_path / "bundle")
    damage(tmp_path / "bundle", name, change)
    with pytest.raises(BundleError, match=message):
        Bundle.load(tmp_path / "bundle")


def test_what_is_no_bundle_is_refused(cache, tmp_path):
    with pytest.raises(BundleError, match=r"none: no bundle \(bundle.json: No such file"):
        Bundle.load(tmp_path / "none")
    fit_bundle(cache).save(tmp_path / "bundle")
    with zipfile.ZipFile(tmp_path / "bundle" / "estimator.skops", "w") as archive:
        archive.writestr("schema.json", "{}")
    with pytest.raises(BundleError, match="the classifier can't be read"):
        Bundle.load(tmp_path / "bundle")


def test_rows_that_a_lone_utterance_cannot_have_are_refused(cache):
    for options in ({"speaker_norm": True}, {"baselines": True}):
        row = compare([cache], **({"classifiers": ["ridge"], "layers": [2]} | options)).results[-1]
        assert why_not_kept(row)
        with pytest.raises(ValueError, match=r"can.t: .*; choose another row"):
            Bundle.fit(cache, row)


def test_a_weighted_sum_is_kept_with_its_layers(cache, make_cache, tmp_path):
    row = compare([cache], classifiers=["weighted-sum"], layers=[1, 2], poolings=["mean+std"]).best
    Bundle.fit(cache, row).save(tmp_path / "bundle")
    loaded = Bundle.load(tmp_path / "bundle")
    assert loaded.layers == (1, 2)
    features = loaded.features_of(cache)
    np.testing.assert_array_equal(
        features, np.concatenate([cache.features(1, "mean+std"), cache.features(2, "mean+std")], axis=1)
    )
    assert (loaded.predict(features) == cache.labels).mean() > 0.9
    with pytest.raises(ValueError, match=r"takes layers 1, 2 side by side, not one"):
        loaded.layer  # noqa: B018
    with pytest.raises(SpecMismatchError, match="normalise"):
        loaded.features_of(make_cache("other", spec={"normalise": False}))


def test_numbers_that_would_lead_compiled_code_astray_are_refused(cache, tmp_path):
    bundle = fit_bundle(cache, "random-forest")
    tree = bundle.estimator.estimators_[0].tree_
    state = tree.__getstate__()
    state["nodes"] = state["nodes"].copy()
    state["nodes"]["left_child"][0] = 0  # round in a circle
    tree.__setstate__(state)
    bundle.save(tmp_path / "bundle")
    with pytest.raises(
        BundleError,
        match=r"bundle: the bundle can't be read \(the numbers of its DecisionTreeClassifier don't",
    ):
        Bundle.load(tmp_path / "bundle")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": [1, 2]}, r"its classifier takes 12 numbers, and the features have 24"),
        ({"layers": [2, 2]}, r"layers \(2, 2\) of pooling 'mean' are none that features can have"),
        ({"pooling": "mode"}, r"layers \(2,\) of pooling 'mode' are none"),
        ({"labels": "afj"}, "have different labels"),
        ({"scores": 3}, "the bundle can't be read"),
    ],
)
def test_facts_that_do_not_fit_the_classifier_are_refused(cache, tmp_path, changes, message):
    fit_bundle(cache).save(tmp_path / "bundle")
    damage(tmp_path / "bundle", "bundle.json", edit(**changes))
    with pytest.raises(BundleError, match=message):
        Bundle.load(tmp_path / "bundle")


def test_a_classifier_that_gives_other_labels_is_refused(cache, tmp_path):
    bundle = fit_bundle(cache, "gaussian-nb")
    bundle.estimator.predict = 3
    bundle.save(tmp_path / "uncallable")
    with pytest.raises(BundleError, match="uncallable: the bundle can't be read"):
        Bundle.load(tmp_path / "uncallable")
    svm = fit_bundle(cache, "linear-svm")
    svm.estimator.estimator_[-1].classes_ = np.array(["x", "y", "z"])
    svm.save(tmp_path / "other")
    with pytest.raises(BundleError, match="its classifier gives other labels or probabilities than it says"):
        Bundle.load(tmp_path / "other")


def test_another_release_of_scikit_learn_is_told_in_plain_letters(cache, tmp_path):
    fit_bundle(cache).save(tmp_path / "bundle")
    damage(tmp_path / "bundle", "bundle.json", edit(versions={"scikit-learn": "\x1b]0;gone\x07"}))
    with pytest.warns(
        UserWarning, match=r"bundle: fitted with scikit-learn '\\x1b\]0;gone\\x07'; this is \d"
    ):
        Bundle.load(tmp_path / "bundle")


def test_a_pipe_is_not_waited_for(cache, tmp_path):
    fit_bundle(cache).save(tmp_path / "bundle")
    for name, message in (("estimator.skops", "can't be read"), ("bundle.json", "no bundle")):
        (tmp_path / "bundle" / name).unlink()
        os.mkfifo(tmp_path / "bundle" / name)
        with pytest.raises(BundleError, match=rf"{message} \(.*not a file"):
            Bundle.load(tmp_path / "bundle")
