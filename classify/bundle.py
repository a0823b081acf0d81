"""A trained classifier together with all that it demands of its input, safe to load from a stranger."""

import dataclasses
import errno
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import sklearn
import skops.io
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import InconsistentVersionWarning

from cache.schema import (
    POOLINGS,
    SELECTION_FIELDS,
    FeatureSpec,
    SpecMismatchError,
    describe_differences,
)
from classify.compare import software_versions
from classify.estimators import fit_arguments
from classify.fitting import FRAMES, Task, candidates_of, choose, features_of, make_task_classifier
from classify.probabilities import with_probabilities
from classify.protocols import Fold
from classify.results import Comparison, Result
from classify.selection import select
from classify.vetting import TRUSTED_TYPES, find_untrusted, make_sound

if TYPE_CHECKING:
    from cache import FeatureCache

# One row of numbers for each utterance, or the frames of each, of shape (n_frames, hidden_size).
Features = NDArray[np.floating] | Sequence[NDArray[np.floating]]

BUNDLE_FORMAT, BUNDLE_VERSION = "sslfeat-bundle", 1
FACTS_NAME, ESTIMATOR_NAME = "bundle.json", "estimator.skops"


class BundleError(ValueError):
    """A folder that can't be read as a bundle, or that asks for code which is not trusted."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A classifier fitted on all utterances of a comparison, and what new features must be like.

    Parameters
    ----------
    estimator : BaseEstimator
        Takes what ``features_of`` returns: the embeddings of its layers side by side, shape (n, features), or frames.
    spec : FeatureSpec
        How the features were made that it was fitted on.
    layers : tuple of int
        The layers that it takes: one, except where it learnt a weighted sum.
    pooling : str
        As ``FeatureCache.features`` takes it, or ``frames`` where the classifier pools by itself.
    labels : tuple of str
        The emotions that it tells apart, in the order of its probabilities.
    classifier : str
        Its name on the menu.
    scores : mapping of str to value
        What a comparison found for it on held-out speakers; empty where there was none.
    versions : mapping of str to str
        Versions of the software that fitted it.
    """

    estimator: BaseEstimator
    spec: FeatureSpec
    layers: tuple[int, ...]
    pooling: str
    labels: tuple[str, ...]
    classifier: str
    scores: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def fit(
        cls,
        cache: "FeatureCache",
        result: Result,
        *,
        utterance_ids: Collection[str] | None = None,
        exclude_labels: Collection[str] = (),
        merge_labels: Mapping[str, str] | None = None,
        random_state: int = 0,
        search: str = "grid",
        class_weight: str | None = None,
    ) -> Self:
        """Fit a row's classifier again, on all utterances of the comparison.

        Where the row chose its layer or parameters inside each training part, they are chosen once more, in
        cross-validation over all speakers. A classifier that has margins and no probabilities is given some, by
        the temperature under which its margins on held-out speakers are likeliest; its labels stay its own.

        Parameters
        ----------
        cache : FeatureCache
            The row's cache.
        result : Result
            A row of a comparison.
        utterance_ids : collection of str, optional
            Those of the comparison, which was about what several caches share: what one cache alone has was never
            tested, a label of its own perhaps. All by default.
        exclude_labels, merge_labels, random_state, search, class_weight
            As the comparison was given them.

        Raises
        ------
        ValueError
            Where the row can't be kept, or the cache has no utterances to learn from.
        """
        if reason := why_not_kept(result):
            msg = f"a bundle needs a row that can be one. {result.title} can't: {reason}; choose another row."
            raise ValueError(msg)
        selection = select(
            {cache.name: cache},
            exclude_labels=exclude_labels,
            merge_labels=merge_labels,
            utterance_ids=utterance_ids,
        )
        rows = np.arange(len(selection.table))
        layers = cache.layers if result.selection == "best" else [result.layer or 0]
        task = Task(
            cache=cache,
            rows=selection.rows[cache.name],
            pooling=result.pooling,
            classifier=result.classifier,
            folds=[Fold("all", rows, rows[:0])],
            candidates=candidates_of(result.classifier, layers, tune=result.tuned),
            targets=selection.targets,
            speakers=selection.table.speakers,
            speaker_norm=False,
            random_state=random_state,
            device="cpu",
            mixed_layers=result.mixed_layers,
            search=search,
            class_weight=class_weight,
            labels=selection.labels,
        )
        (chosen,) = choose(task)
        layers = task.mixed_layers or (chosen.layer,)
        estimator = with_probabilities(make_task_classifier(task, chosen))
        estimator.fit(
            features_of(task, chosen.layer),
            selection.table.labels,
            **fit_arguments(estimator, selection.table.speakers),
        )
        return cls(
            estimator=estimator,
            spec=cache.spec,
            layers=layers,
            pooling=result.pooling,
            labels=selection.labels,
            classifier=result.classifier,
            scores={
                "protocol": result.protocol,
                "optimistic": result.optimistic,
                "accuracy": dataclasses.asdict(result.accuracy),
                "balanced_accuracy": dataclasses.asdict(result.balanced_accuracy),
                "f1_macro": dataclasses.asdict(result.f1_macro),
            },
            versions=software_versions(),
        )

    @property
    def layer(self) -> int:
        """The one layer that it takes.

        Raises
        ------
        ValueError
            Where it takes several.
        """
        if len(self.layers) > 1:
            msg = f"this bundle takes layers {', '.join(map(str, self.layers))} side by side, not one."
            raise ValueError(msg)
        return self.layers[0]

    @property
    def takes_frames(self) -> bool:
        """Whether the classifier takes each utterance's frames, and not statistics of them."""
        return self.pooling == FRAMES

    def features_of(self, cache: "FeatureCache") -> Features:
        """Return what the classifier takes of each row of a cache: layers outside, statistics inside; or its frames.

        Raises
        ------
        SpecMismatchError
            As ``check_spec``.
        """
        self.check_spec(cache.spec)
        if self.takes_frames:
            return [cache.frames(row, self.layer) for row in range(len(cache))]
        return np.concatenate([cache.features(layer, self.pooling) for layer in self.layers], axis=1)

    @property
    def has_probabilities(self) -> bool:
        """Whether the classifier gives probabilities."""
        return hasattr(self.estimator, "predict_proba")

    def predict(self, features: Features) -> NDArray[np.str_]:
        """Return the label of each row of features, shape (n,)."""
        return np.asarray(self.estimator.predict(features), dtype=str)

    def predict_proba(self, features: Features) -> NDArray[np.floating]:
        """Return probabilities of shape (n, label), in the order of ``labels``.

        Raises
        ------
        ValueError
            Where the classifier has none.
        """
        if not self.has_probabilities:
            msg = (
                f"probabilities need a classifier that has them. {self.classifier} has none; use its labels."
            )
            raise ValueError(msg)
        probabilities: NDArray[np.floating] = self.estimator.predict_proba(features)
        return probabilities

    def check_spec(self, spec: FeatureSpec) -> None:
        """Refuse features that were made otherwise than those that the classifier was fitted on.

        Raises
        ------
        SpecMismatchError
            Naming the fields that differ, or the layer, the pooling or the frames that are missing.
        """
        if differences := self.spec.differences(spec, ignore=SELECTION_FIELDS):
            described = describe_differences(differences, mine="bundle", theirs="features")
            msg = f"features must be made as those that the bundle was fitted on. They differ: {described}."
            raise SpecMismatchError(msg)
        if missing_layers := [layer for layer in self.layers if layer not in spec.layers]:
            msg = f"the bundle needs layer {missing_layers[0]}. The features have layers {', '.join(map(str, spec.layers))}."
            raise SpecMismatchError(msg)
        if self.takes_frames and not spec.frames:
            msg = "the bundle needs frames. The features have none; extract with --frames."
            raise SpecMismatchError(msg)
        needed = () if self.takes_frames else self.pooling.split("+")
        if missing := [name for name in needed if name not in spec.pooling]:
            msg = f"the bundle needs pooling {missing[0]!r}. The features have {', '.join(spec.pooling)}."
            raise SpecMismatchError(msg)

    def save(self, directory: str | Path, *, overwrite: bool = False) -> None:
        """Write the bundle as a folder, which is there whole or not at all.

        Parameters
        ----------
        directory : str or Path
        overwrite : bool
            Whether a bundle of that name is replaced; anything else never is.

        Raises
        ------
        BundleError
            Where the folder exists and ``overwrite`` is not set or it is no bundle, or where it can't be written.
        """
        directory = Path(directory)
        if directory.exists() and not (overwrite and (directory / FACTS_NAME).is_file()):
            msg = f"{directory}: already exists; choose another name or remove it."
            raise BundleError(msg)
        facts = {
            "format": BUNDLE_FORMAT,
            "version": BUNDLE_VERSION,
            "spec": json.loads(self.spec.to_json()),
            "layers": self.layers,
            "pooling": self.pooling,
            "labels": self.labels,
            "classifier": self.classifier,
            "scores": self.scores,
            "versions": self.versions,
        }
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            beside = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
        except OSError as error:
            msg = f"{directory}: can't be written ({error.strerror})."
            raise BundleError(msg) from error
        try:
            (beside / FACTS_NAME).write_text(json.dumps(facts, indent=1), encoding="utf-8")
            skops.io.dump(self.estimator, beside / ESTIMATOR_NAME)
            beside.chmod(0o777 & ~_umask())
            if directory.exists():
                directory.rename(beside / "replaced")
            beside.rename(directory)
            _remove(directory / "replaced")
        except OSError as error:
            msg = f"{directory}: can't be written ({error.strerror})."
            raise BundleError(msg) from error
        finally:
            _remove(beside)

    @classmethod
    def load(cls, directory: str | Path, *, trusted: Collection[str] = ()) -> Self:
        """Read a bundle; no code that it brings or names is run, except of types that are trusted.

        Parameters
        ----------
        directory : str or Path
        trusted : collection of str
            Names of types to trust besides those of the menu, as an error names them.

        Raises
        ------
        BundleError
            Where the folder is no bundle, is cut or changed, is of another version, or its classifier is made of
            types that are not trusted.
        """
        directory = Path(directory)
        facts = _read_facts(directory)
        path = directory / ESTIMATOR_NAME
        try:
            archive = _read_file(path)
            named = find_untrusted(archive, trusted)
            needed = skops.io.get_untrusted_types(data=archive)
        except Exception as error:  # a damaged file fails in too many ways to list
            msg = f"{path}: the classifier can't be read ({error})."
            raise BundleError(msg) from error
        if unknown := sorted({*named, *({*needed} - TRUSTED_TYPES - {*trusted})}):
            msg = (
                f"{path}: the classifier is made of types that are not trusted: {', '.join(unknown)}. "
                "Name each with trusted= (--trust) if you know where the bundle comes from."
            )
            raise BundleError(msg)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", InconsistentVersionWarning)  # told below
                estimator = skops.io.loads(archive, trusted=needed)
            bundle = cls(
                estimator=estimator,
                spec=FeatureSpec.from_json(json.dumps(facts["spec"])),
                layers=tuple(int(layer) for layer in facts["layers"]),
                pooling=str(facts["pooling"]),
                labels=tuple(map(str, facts["labels"])),
                classifier=str(facts["classifier"]),
                scores=dict(facts["scores"]),
                versions=dict(facts["versions"]),
            )
            agrees = tuple(estimator.classes_) == bundle.labels
            if agrees:
                make_sound(estimator)
                bundle._try()
        except Exception as error:
            msg = f"{directory}: the bundle can't be read ({error}); fit it again or copy it again."
            raise BundleError(msg) from error
        if not agrees:
            msg = f"{directory}: {FACTS_NAME} and {ESTIMATOR_NAME} have different labels; they are not of one bundle."
            raise BundleError(msg)
        if (theirs := bundle.versions.get("scikit-learn")) != sklearn.__version__:
            msg = f"{directory}: fitted with scikit-learn {theirs!r}; this is {sklearn.__version__}, and may answer otherwise."
            warnings.warn(msg, stacklevel=2)
        return bundle

    def _try(self) -> None:
        """Ask for the label of one utterance, so that what can't be used is told before anything is done for it."""
        sides = [] if self.takes_frames else self.pooling.split("+")
        repeated = len(set(self.layers)) < len(self.layers) or len(set(sides)) < len(sides)
        if repeated or not set(sides) <= set(POOLINGS):
            msg = f"layers {self.layers} of pooling {self.pooling!r} are none that features can have"
            raise ValueError(msg)
        width = self.spec.hidden_size * len(self.layers) * max(1, len(sides))
        taken = getattr(self.estimator, "n_features_in_", width)
        if taken != width:
            msg = f"its classifier takes {taken} numbers, and the features have {width}"
            raise ValueError(msg)
        rows: Features = np.zeros((1, width), np.float32)
        if self.takes_frames:
            rows = [np.zeros((2, width), np.float32)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            label, *shares = (
                self.predict(rows),
                *([self.predict_proba(rows)] if self.has_probabilities else []),
            )
        if not {*label.tolist()} <= {*self.labels} or any(
            share.shape != (1, len(self.labels)) for share in shares
        ):
            msg = "its classifier gives other labels or probabilities than it says"
            raise ValueError(msg)


def why_not_kept(result: Result) -> str:
    """Return why a row can't be a bundle, which takes one lone utterance through one encoder; empty where it can."""
    if result.selection == "none":
        return "a baseline uses no embeddings"
    if result.transductive:
        return "features standardised per speaker need many utterances of a speaker at once"
    if result.members:
        return f"it needs the features of {len(result.members)} encoders at once"
    return ""


def best_kept(comparison: Comparison) -> Result | None:
    """Return the best row that can be a bundle, if there is one."""
    kept = tuple(result for result in comparison.results if not why_not_kept(result))
    return dataclasses.replace(comparison, results=kept).best if kept else None


def _read_facts(directory: Path) -> dict[str, Any]:
    path = directory / FACTS_NAME
    try:
        facts = json.loads(_read_file(path))
        name, version = facts["format"], facts["version"]
    except OSError as error:
        msg = (
            f"{directory}: no bundle ({FACTS_NAME}: {error.strerror}); give the folder bundle/ in a "
            "comparison's results."
        )
        raise BundleError(msg) from error
    except (ValueError, TypeError, KeyError) as error:
        msg = f"{path}: no bundle, or damaged ({error!r})."
        raise BundleError(msg) from error
    if name != BUNDLE_FORMAT:
        msg = f"{path}: format {name!r}; a bundle has format {BUNDLE_FORMAT!r}."
        raise BundleError(msg)
    if version != BUNDLE_VERSION:
        msg = f"{path}: written by bundle version {version}; this release reads version {BUNDLE_VERSION}."
        raise BundleError(msg)
    return dict(facts)


def _read_file(path: Path) -> bytes:
    if path.exists() and not path.is_file():  # a pipe would be waited for, and a device have no end
        raise OSError(errno.EINVAL, "not a file")
    return path.read_bytes()


def _remove(directory: Path) -> None:
    if directory.is_symlink():  # what it leads to is not ours
        directory.unlink()
    shutil.rmtree(directory, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
