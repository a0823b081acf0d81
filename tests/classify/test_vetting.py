import io
import json
import zipfile

import numpy as np
import pytest
import sklearn.linear_model
import skops.io
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from classify.attentive import AttentiveClassifier
from classify.estimators import FACTORIES, GRIDS, make_classifier
from classify.probabilities import with_probabilities
from classify.vetting import TRUSTED, find_untrusted, make_sound

LABELS = np.array(["anger", "fear", "joy"] * 20)
ROWS = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)


def fitted(name, labels=LABELS, **parameters):
    return with_probabilities(make_classifier(name).set_params(**parameters)).fit(ROWS, labels)


def entries_of(archive):
    with zipfile.ZipFile(io.BytesIO(archive)) as entries:
        return {name: entries.read(name) for name in entries.namelist()}


def zipped(entries, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return file.getvalue()


def nodes_of(value):
    if isinstance(value, dict) and "__loader__" in value:
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes_of(each)


def kinds_of(archive):
    schema = json.loads(entries_of(archive)["schema.json"])
    return {(node["__loader__"], f"{node['__module__']}.{node['__class__']}") for node in nodes_of(schema)}


def rewritten(estimator, change):
    """Return a file of skops whose schema was changed by hand."""
    entries = entries_of(skops.io.dumps(estimator))
    schema = json.loads(entries["schema.json"])
    change(schema)
    return zipped(entries | {"schema.json": json.dumps(schema)})


def test_the_menu_consists_of_what_is_trusted_and_of_nothing_else():
    found = set()
    for labels in (LABELS, np.array(["anger", "joy"] * 30)):
        for name in FACTORIES:
            for parameter, values in ({} if labels is LABELS else GRIDS.get(name, {"steps": [None]})).items():
                for value in values:
                    changed = {} if value is None else {parameter: value}
                    found |= kinds_of(skops.io.dumps(fitted(name, labels, **changed)))
            found |= kinds_of(skops.io.dumps(fitted(name, labels)))
    attentive = AttentiveClassifier(max_epochs=1).fit(list(ROWS.reshape(20, 3, 8)), ["joy", "fear"] * 10)
    found |= kinds_of(skops.io.dumps(attentive))
    assert found <= TRUSTED
    spare = {("NdArrayNode", f"numpy.{name}") for name in ("bool", "int32")}
    assert TRUSTED - found <= spare


@pytest.mark.parametrize(
    ("estimator", "names"),
    [
        (
            make_pipeline(CountVectorizer(input="filename")),
            {"sklearn.feature_extraction.text.CountVectorizer"},
        ),
        (FunctionTransformer(np.square), {"sklearn.preprocessing._function_transformer.FunctionTransformer"}),
        (sklearn.linear_model.SGDClassifier(), {"sklearn.linear_model._stochastic_gradient.SGDClassifier"}),
    ],
)
def test_what_skops_trusts_and_the_menu_lacks_is_refused_until_it_is_trusted(estimator, names):
    archive = skops.io.dumps(estimator)
    assert skops.io.get_untrusted_types(data=archive) == []
    found = find_untrusted(archive)
    assert names <= set(found)
    assert find_untrusted(archive, trusted=found) == []


def test_a_trusted_name_built_in_another_way_is_not_trusted():
    def as_function(schema):
        schema["__loader__"] = "FunctionNode"

    archive = rewritten(StandardScaler(), as_function)
    assert find_untrusted(archive) == ["sklearn.preprocessing._data.StandardScaler"]


def test_a_file_that_would_unfold_is_refused():
    entries = entries_of(skops.io.dumps(fitted("lda")))
    assert find_untrusted(zipped(entries)) == []
    with pytest.raises(ValueError, match="must not be compressed, as it could unfold to any size"):
        find_untrusted(zipped(entries, zipfile.ZIP_DEFLATED))


def test_a_small_tree_without_end_is_refused():
    """Thirty lists, each twice in the next: a billion of them for whoever follows all references."""

    def grow(schema):
        leaf = {"__class__": "list", "__module__": "builtins", "__loader__": "ListNode", "content": []}
        node = leaf | {"__id__": 1}
        for identity in range(2, 32):
            again = leaf | {"__id__": identity - 1}
            node = leaf | {"__id__": identity, "content": [node, again]}
        schema["content"]["content"]["endless"] = node

    with pytest.raises(ValueError, match="one thing in it is stated in two ways"):
        find_untrusted(rewritten(StandardScaler(), grow))


def test_an_array_that_is_read_again_and_again_is_refused():
    def repeat(schema):
        array = next(node for node in nodes_of(schema) if "file" in node)
        schema["content"]["content"]["copies"] = {
            **{"__class__": "list", "__module__": "builtins", "__loader__": "ListNode"},
            "content": [array | {"__id__": number} for number in range(1, 100)],
        }

    with pytest.raises(ValueError, match="stated in two ways"):
        find_untrusted(rewritten(fitted("lda"), repeat))


def set_outputs(schema):
    for node in nodes_of(schema):
        if node["__loader__"] == "TreeNode":
            node["__reduce__"]["args"]["content"][-1] |= {"content": "1000000", "__id__": 1}


def count_otherwise(schema):
    for node in nodes_of(schema):
        if node["__loader__"] == "TreeNode":
            node["content"]["content"]["node_count"] |= {"content": "1000000", "__id__": 1}


def set_pool(schema):
    for node in nodes_of(schema):
        if node["__loader__"] == "RandomGeneratorNode":
            node["content"]["seed_seq"]["content"]["pool_size"]["content"] = "10000000000"


def set_generator(schema):
    for node in nodes_of(schema):
        if node["__loader__"] == "RandomGeneratorNode":
            node["content"]["bit_generator"]["content"]["bit_generator"]["content"] = '"seed"'


@pytest.mark.parametrize(
    ("name", "change", "kind"),
    [
        ("random-forest", set_outputs, "Tree"),
        ("random-forest", count_otherwise, "Tree"),
        ("hist-gradient-boosting", set_pool, "Generator"),
        ("hist-gradient-boosting", set_generator, "Generator"),
    ],
)
def test_what_would_do_harm_while_it_is_built_is_refused(name, change, kind):
    with pytest.raises(ValueError, match=f"its {kind} is not one that a classifier of the menu has"):
        find_untrusted(rewritten(fitted(name), change))


@pytest.mark.parametrize("name", ["nodes", "values"])
@pytest.mark.parametrize("shape", [(), (0,), (2, 2)])
def test_arrays_that_a_tree_would_copy_unseen_are_refused(name, shape):
    entries = entries_of(skops.io.dumps(fitted("extra-trees")))
    tree = next(
        one for one in nodes_of(json.loads(entries["schema.json"])) if one["__loader__"] == "TreeNode"
    )
    file = tree["content"]["content"][name]["file"]
    array = io.BytesIO()
    np.save(array, np.zeros(shape, np.load(io.BytesIO(entries[file])).dtype))
    with pytest.raises(ValueError, match="its Tree is not one that a classifier of the menu has"):
        find_untrusted(zipped(entries | {file: array.getvalue()}))


def test_what_is_built_is_what_was_looked_at():
    """A state of an identity that was there before is not built: the first one is."""

    def swap_identities(schema):
        outputs = [
            node["__reduce__"]["args"]["content"][-1]
            for node in nodes_of(schema)
            if node["__loader__"] == "TreeNode"
        ]
        for one in outputs:
            one["__id__"] = 1
        schema["content"]["content"] = {
            "first": outputs[0] | {"content": "1000000"},
            **schema["content"]["content"],
        }

    with pytest.raises(ValueError, match="one thing in it is stated in two ways"):
        find_untrusted(rewritten(fitted("random-forest"), swap_identities))


@pytest.mark.parametrize("name", FACTORIES)
def test_what_fit_made_is_sound_and_stays_as_it_is(name):
    estimator = fitted(name)
    expected = estimator.predict(ROWS)
    make_sound(estimator)
    np.testing.assert_array_equal(estimator.predict(ROWS), expected)


def tree_state(tree, **changes):
    """Put other nodes into a tree, as its file could hold them."""
    state = tree.__getstate__()
    nodes = state["nodes"].copy()
    for name, (node, value) in changes.items():
        nodes[name][node] = value
    tree.__setstate__(state | {"nodes": nodes})


def change_tree(**changes):
    return lambda forest: tree_state(forest.estimators_[7].tree_, **changes)


def change_boosting(**changes):
    def change(boosting):
        predictor = boosting._predictors[3][1]
        predictor.nodes = predictor.nodes.copy()
        for name, (node, value) in changes.items():
            predictor.nodes[name][node] = value

    return change


def swap(path, make):
    def change(estimator):
        *owners, last = path
        for owner in owners:
            estimator = estimator[owner] if isinstance(owner, int) else getattr(estimator, owner)
        setattr(estimator, last, make(getattr(estimator, last)))

    return change


def machine(attribute, make):
    return swap(["estimator_", -1, attribute], make)


HOSTILE = [
    ("random-forest", change_tree(left_child=(0, 0)), "DecisionTreeClassifier"),  # round in a circle
    ("random-forest", change_tree(right_child=(0, 2**40)), "DecisionTreeClassifier"),
    ("random-forest", change_tree(left_child=(0, -(2**40))), "DecisionTreeClassifier"),
    ("random-forest", change_tree(feature=(0, 8)), "DecisionTreeClassifier"),
    ("extra-trees", change_tree(feature=(0, -9)), "ExtraTreeClassifier"),
    (
        "random-forest",
        lambda f: setattr(f.estimators_[0].tree_, "node_count", 10**9),
        "DecisionTreeClassifier",
    ),
    ("random-forest", lambda f: setattr(f.estimators_[0], "n_features_in_", 4), "DecisionTreeClassifier"),
    ("random-forest", swap(["n_estimators"], lambda _: 10**9), "RandomForestClassifier"),
    ("random-forest", swap(["n_classes_"], lambda _: 10**9), "RandomForestClassifier"),
    ("hist-gradient-boosting", change_boosting(left=(0, 0)), "HistGradientBoostingClassifier"),
    ("hist-gradient-boosting", change_boosting(right=(0, 2**31)), "HistGradientBoostingClassifier"),
    ("hist-gradient-boosting", change_boosting(feature_idx=(0, 8)), "HistGradientBoostingClassifier"),
    ("hist-gradient-boosting", change_boosting(is_categorical=(0, 1)), "HistGradientBoostingClassifier"),
    ("hist-gradient-boosting", lambda b: setattr(b, "_in_fit", True), "HistGradientBoostingClassifier"),
    ("hist-gradient-boosting", swap(["n_trees_per_iteration_"], lambda _: 10**9), "HistGradient"),
    ("svm", machine("_n_support", lambda n: n + np.array([-1000, 1000, 0], np.int32)), "SVC"),
    ("svm", machine("_dual_coef_", lambda c: c[:1].copy()), "SVC"),
    ("svm", machine("_intercept_", lambda c: c[:1].copy()), "SVC"),
    ("svm", machine("support_", lambda s: np.concatenate([s] * 100)), "SVC"),
    ("svm", machine("support_vectors_", lambda v: v[:, :2].copy()), "SVC"),
    ("linear-svm", machine("kernel", lambda _: "precomputed"), "SVC"),
    ("linear-svm", machine("_impl", lambda _: "epsilon_svr"), "SVC"),
    ("linear-svm", machine("_probA", lambda _: np.ones(1)), "SVC"),
    ("knn", swap([-1, "n_neighbors"], lambda _: 10**9), "KNeighborsClassifier"),
]


@pytest.mark.parametrize(("name", "change", "kind"), HOSTILE)
def test_numbers_that_would_lead_compiled_code_astray_are_refused(name, change, kind):
    estimator = fitted(name)
    change(estimator)
    with pytest.raises(ValueError, match=f"the numbers of its {kind}.* don't fit together"):
        make_sound(estimator)


def test_neighbours_are_fitted_again():
    estimator = fitted("knn")
    expected = estimator.predict(ROWS)
    estimator[-1]._tree, estimator[-1].n_samples_fit_ = "no tree", 10**9
    make_sound(estimator)
    np.testing.assert_array_equal(estimator.predict(ROWS), expected)
    estimator[-1]._y = estimator[-1]._y + 10**6
    with pytest.raises(IndexError):
        make_sound(estimator)


@pytest.mark.parametrize("name", ["random-forest", "hist-gradient-boosting"])
def test_a_tree_without_its_owner_is_refused(name):
    """Alone it reads the features of a row without a look at how many there are."""
    forest = fitted(name)
    tree = forest.estimators_[0].tree_ if name == "random-forest" else forest._predictors[0][0]
    pipeline = make_pipeline(StandardScaler()).fit(ROWS)
    pipeline.steps += [("forest", forest), ("tree", tree)]
    with pytest.raises(ValueError, match=r"the numbers of its Tree.* don't fit together"):
        make_sound(pipeline)


def test_no_number_of_processes_is_taken_from_a_file():
    forest = fitted("extra-trees")
    forest.n_jobs = 10**6
    make_sound(forest)
    assert forest.n_jobs is None
