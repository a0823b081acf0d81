"""A stranger's classifier looked at before anything in its file is built, and again before it is asked anything.

skops builds only types that are trusted, which keeps a stranger's code out. It doesn't keep his numbers out: compiled
code of scikit-learn and libsvm follows the indices and lengths that a fitted classifier holds wherever they lead, out of
its memory or round in a circle. And of what skops trusts, some reads files that its input names.
"""

import hashlib
import io
import itertools
import json
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from sklearn.tree import BaseDecisionTree
from sklearn.tree._tree import Tree

_OBJECTS = (
    *("classify.attentive.AttentiveClassifier", "classify.discriminant.ShrunkDiscriminant"),
    *("classify.feedforward.FeedforwardClassifier", "classify.probabilities.MarginCalibrator"),
    *("sklearn._loss.link.Interval", "sklearn._loss.link.LogitLink", "sklearn._loss.link.MultinomialLogit"),
    *("sklearn._loss.loss.HalfBinomialLoss", "sklearn._loss.loss.HalfMultinomialLoss"),
    "sklearn.dummy.DummyClassifier",
    *("sklearn.ensemble._forest.ExtraTreesClassifier", "sklearn.ensemble._forest.RandomForestClassifier"),
    "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
    "sklearn.ensemble._hist_gradient_boosting.gradient_boosting.HistGradientBoostingClassifier",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    *("sklearn.linear_model._logistic.LogisticRegression", "sklearn.linear_model._ridge.RidgeClassifier"),
    "sklearn.naive_bayes.GaussianNB",
    "sklearn.neighbors._classification.KNeighborsClassifier",
    "sklearn.neighbors._nearest_centroid.NearestCentroid",
    *("sklearn.pipeline.Pipeline", "sklearn.preprocessing._data.StandardScaler"),
    *("sklearn.preprocessing._label.LabelBinarizer", "sklearn.preprocessing._label.LabelEncoder"),
    *("sklearn.svm._classes.SVC", "sklearn.tree._classes.DecisionTreeClassifier"),
    "sklearn.tree._classes.ExtraTreeClassifier",
)
_NUMBERS = ("ndarray", "bool", "float32", "float64", "int32", "int64", "uint64")
# What the menu's classifiers consist of: how skops builds it, and its type. Nothing else is built unasked.
TRUSTED: frozenset[tuple[str, str]] = frozenset(
    {
        ("DictNode", "builtins.dict"),
        ("ListNode", "builtins.list"),
        ("TupleNode", "builtins.tuple"),
        ("TypeNode", "builtins.str"),  # of the keys of a dict
        ("JsonNode", "builtins.str"),
        ("TreeNode", "sklearn.tree._tree.Tree"),
        ("RandomGeneratorNode", "numpy.random._generator.Generator"),
        ("LossNode", "sklearn._loss._loss.CyHalfBinomialLoss"),
        ("LossNode", "sklearn._loss._loss.CyHalfMultinomialLoss"),
        *(("NdArrayNode", f"numpy.{name}") for name in _NUMBERS),
        *(("ObjectNode", name) for name in _OBJECTS),
    }
)
TRUSTED_TYPES = frozenset(name for _, name in TRUSTED)


def find_untrusted(archive: bytes, trusted: Collection[str] = ()) -> list[str]:
    """Return the types that a file of skops names and that are neither the menu's nor trusted; nothing of it is built.

    Parameters
    ----------
    archive : bytes
        The file.
    trusted : collection of str
        Names of types.

    Raises
    ------
    ValueError
        Where the file would unfold to more than its own size, or what it says of a type is not what skops writes.
    Exception
        Whatever reading a damaged file raises.
    """
    with zipfile.ZipFile(io.BytesIO(archive)) as entries:
        infos = entries.infolist()
        if any(info.compress_type != zipfile.ZIP_STORED for info in infos) or len(archive) < sum(
            info.file_size for info in infos
        ):
            msg = "it must not be compressed, as it could unfold to any size"
            raise ValueError(msg)
        contents = {info.filename: entries.read(info) for info in infos}
    found, stated, owners = set[str](), dict[Any, str](), dict[str, Any]()
    marks = {name: hashlib.blake2b(content).hexdigest() for name, content in contents.items()}

    def look(value: Any) -> str:
        """Note what a value names and is made of; return what tells it from any other."""
        if isinstance(value, list):
            return _mark(map(look, value))
        if not isinstance(value, dict):
            return repr(value)
        if "__loader__" not in value:
            return _mark((name, look(each)) for name, each in value.items())
        _check_node(value, contents)
        name = f"{value['__module__']}.{value['__class__']}"
        if (value["__loader__"], name) not in TRUSTED and name not in trusted:
            found.add(name)
        identity, file = value.get("__id__") or object(), value.get("file")
        told = [(name, look(each)) for name, each in value.items() if name not in ("__id__", "file")]
        mark = _mark([*told, marks[file] if file is not None else ""])
        # What is referred to twice stands there twice: else a small file could be a tree without end, and what is built
        # could be other than what is looked at.
        if stated.setdefault(identity, mark) != mark or (
            file is not None and owners.setdefault(file, identity) != identity
        ):
            msg = "one thing in it is stated in two ways"
            raise ValueError(msg)
        return mark

    look(json.loads(contents["schema.json"]))
    return sorted(found)


def _mark(parts: Iterable[Any]) -> str:
    return hashlib.blake2b(repr(list(parts)).encode(errors="backslashreplace")).hexdigest()


def _check_node(state: dict[str, Any], contents: Mapping[str, bytes]) -> None:
    """Refuse what would do harm while it is built."""
    if state["__loader__"] == "TreeNode":
        # The constructor reads as many numbers of classes as there are outputs, and copies nodes and values by the
        # lengths of others, none of which it looks at.
        _, classes, outputs = state["__reduce__"]["args"]["content"]
        kept = state["content"]["content"]
        labels, nodes, values = (_array(one, contents) for one in (classes, kept["nodes"], kept["values"]))
        sound = (
            outputs["content"] == "1"
            and labels.shape == (1,)
            and nodes.ndim == 1
            and len(nodes) > 0
            and values.shape == (len(nodes), 1, int(labels[0]))
            and kept["node_count"]["content"] == str(len(nodes))
        )
    elif state["__loader__"] == "RandomGeneratorNode":
        generator, seed = (state["content"][name]["content"] for name in ("bit_generator", "seed_seq"))
        sound = generator["bit_generator"]["content"] == '"PCG64"' and seed["pool_size"]["content"] == "4"
    else:
        return
    if not sound:
        msg = f"its {state['__class__']} is not one that a classifier of the menu has"
        raise ValueError(msg)


def _array(state: dict[str, Any], contents: Mapping[str, bytes]) -> NDArray[Any]:
    if (state["__loader__"], state["__class__"], state["type"]) != ("NdArrayNode", "ndarray", "numpy"):
        msg = "an array in it is none"
        raise ValueError(msg)
    array: NDArray[Any] = np.load(io.BytesIO(contents[state["file"]]), allow_pickle=False)
    return array


def make_sound(estimator: Any) -> None:
    """Refuse a classifier whose numbers would lead compiled code astray; make anew what can be made from its own data.

    Raises
    ------
    ValueError
        Where indices or lengths don't fit.
    Exception
        Where an attribute is missing, or is of another type than ``fit`` gave it.
    """
    for owner, part in _parts(None, estimator, set()):
        if "n_jobs" in getattr(part, "__dict__", {}):
            part.n_jobs = None
        for kind, (fitted, is_sound) in _CHECKS.items():
            # A copy that was never fitted, as a forest keeps of its trees, answers nothing.
            if isinstance(part, kind) and hasattr(part, fitted) and not is_sound(part):
                _refuse(part)
        # Alone they don't look at how many features they are given.
        if (isinstance(part, Tree) and not isinstance(owner, BaseDecisionTree)) or (
            isinstance(part, TreePredictor) and not isinstance(owner, HistGradientBoostingClassifier)
        ):
            _refuse(part)


def _refuse(part: Any) -> None:
    msg = f"the numbers of its {type(part).__name__} don't fit together"
    raise ValueError(msg)


def _parts(owner: Any, value: Any, seen: set[tuple[int, int]]) -> Iterator[tuple[Any, Any]]:
    """Yield each object in a classifier with each that it is an attribute of, lists and tuples looked through."""
    if (id(owner), id(value)) in seen or value is None or isinstance(value, str | int | float):
        return
    seen.add((id(owner), id(value)))
    if isinstance(value, dict | list | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _parts(owner, each, seen)
    elif isinstance(value, np.ndarray):
        if value.dtype == object:
            yield from _parts(owner, value.ravel().tolist(), seen)
    else:
        yield owner, value
        for each in getattr(value, "__dict__", {}).values():
            yield from _parts(value, each, seen)


def _fit_again(neighbors: KNeighborsClassifier) -> bool:
    is_sound = bool(0 < neighbors.n_neighbors <= neighbors._fit_X.shape[0])
    if is_sound:
        neighbors.fit(neighbors._fit_X, neighbors.classes_[neighbors._y])
    return is_sound


def _sound_machine(machine: SVC) -> bool:
    labels, (found, width) = len(machine.classes_), machine.support_vectors_.shape
    pairs = (labels * (labels - 1) // 2,)
    return bool(
        machine.kernel in ("linear", "poly", "rbf", "sigmoid")
        and machine._impl == "c_svc"
        and not machine._sparse
        and labels > 1
        and found > 0
        and width == machine.n_features_in_
        and machine._n_support.shape == (labels,)
        and machine._n_support.min() >= 0
        and machine._n_support.sum(dtype=np.int64) == found
        and machine.support_.shape == (found,)
        and machine._dual_coef_.shape == (labels - 1, found)
        and machine._intercept_.shape == pairs
        and machine._probA.shape == machine._probB.shape
        and machine._probA.shape in (pairs, (0,))
    )


def _sound_forest(forest: RandomForestClassifier | ExtraTreesClassifier) -> bool:
    return (
        0 < len(forest.estimators_) == forest.n_estimators
        and {type(tree) for tree in forest.estimators_} == {type(forest.estimator_)}
        and isinstance(forest.estimator_, BaseDecisionTree)
        and {tree.n_classes_ for tree in forest.estimators_} == {forest.n_classes_} == {len(forest.classes_)}
    )


def _sound_tree(owner: BaseDecisionTree) -> bool:
    tree = owner.tree_
    # The count first: by it the tree shows its memory.
    return bool(
        0 < tree.node_count <= tree.capacity
        and tree.n_outputs == owner.n_outputs_ == 1
        and tree.max_n_classes == owner.n_classes_
        and tree.n_features == owner.n_features_in_
        and _go_down(
            tree.children_left,
            tree.children_right,
            tree.feature,
            tree.children_left == -1,
            tree.n_features,
        )
    )


def _sound_boosting(boosting: HistGradientBoostingClassifier) -> bool:
    predictors = list(itertools.chain.from_iterable(boosting._predictors))
    return (
        boosting._preprocessor is None  # which would look at the features in its place
        and not hasattr(boosting, "_in_fit")
        and boosting.n_trees_per_iteration_ <= len(boosting.classes_)
        and {type(predictor) for predictor in predictors} == {TreePredictor}
        and all(_sound_nodes(predictor.nodes, boosting.n_features_in_) for predictor in predictors)
    )


# What compiled code answers for, the attribute by which it does, and whether it can.
_CHECKS: dict[type, tuple[str, Callable[[Any], bool]]] = {
    KNeighborsClassifier: ("_fit_X", _fit_again),
    SVC: ("support_vectors_", _sound_machine),
    RandomForestClassifier: ("estimators_", _sound_forest),
    ExtraTreesClassifier: ("estimators_", _sound_forest),
    BaseDecisionTree: ("tree_", _sound_tree),
    HistGradientBoostingClassifier: ("_predictors", _sound_boosting),
}


def _sound_nodes(nodes: NDArray[Any], num_features: int) -> bool:
    return bool(
        nodes.ndim == 1
        and len(nodes) > 0
        and not nodes["is_categorical"].any()
        and _go_down(
            nodes["left"].astype(np.int64),
            nodes["right"].astype(np.int64),
            nodes["feature_idx"],
            nodes["is_leaf"] != 0,
            num_features,
        )
    )


def _go_down(
    left: NDArray[Any], right: NDArray[Any], feature: NDArray[Any], is_leaf: NDArray[np.bool_], width: int
) -> bool:
    """Whether each node leads to later ones that are there, as ``fit`` numbers them, by a feature that is there."""
    inner = np.flatnonzero(~is_leaf)
    children, feature = np.stack([left[inner], right[inner]]), feature[inner]
    inside = (children > inner) & (children < len(left))
    return bool(inside.all() and (feature >= 0).all() and (feature < width).all())
