"""Several caches as one: their features side by side, or a classifier for each, whose probabilities are averaged."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from cache.schema import CacheError
from classify.estimators import fit_arguments

if TYPE_CHECKING:
    from cache import FeatureCache

# How the command line spells each way, and what a row of it is called.
FUSIONS = {"concatenate": "concatenated", "average": "averaged"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FusedCache:
    """Caches joined by utterance, as far as a comparison reads one; made by ``fuse``.

    Parameters
    ----------
    name : str
    members : mapping of str to FeatureCache
    places : mapping of str to ndarray of int, shape (utterance,)
        Place of each joint utterance among the rows of each member.
    how : str
        One of ``FUSIONS``.
    """

    name: str
    members: "Mapping[str, FeatureCache]"
    places: Mapping[str, NDArray[np.intp]]
    how: str

    @property
    def path(self) -> str:
        """The members' files, for errors."""
        return " + ".join(str(member.path) for member in self.members.values())

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that all members store."""
        stored = [set(member.layers) for member in self.members.values()]
        return tuple(sorted(set.intersection(*stored)))

    @property
    def poolings(self) -> tuple[str, ...]:
        """The statistics that all members store, in the first one's order."""
        first, *others = self.members.values()
        return tuple(name for name in first.poolings if all(name in other.poolings for other in others))

    @property
    def fingerprint(self) -> str:
        """A digest of what made the numbers of all members."""
        digests = [member.fingerprint for member in self.members.values()]
        return hashlib.sha256(json.dumps([self.how, *digests]).encode()).hexdigest()

    @property
    def utterance_ids(self) -> NDArray[np.str_]:
        """Ids of the joint utterances."""
        return self._column("utterance_ids")

    @property
    def audio_hashes(self) -> NDArray[np.str_]:
        """Hash of the decoded samples of each."""
        return self._column("audio_hashes")

    @property
    def num_samples(self) -> NDArray[np.int64]:
        """Length of each at the encoder's sample rate, in samples."""
        return self._column("num_samples")

    def _column(self, name: str) -> NDArray[Any]:
        first, member = next(iter(self.members.items()))
        values: NDArray[Any] = getattr(member, name)[self.places[first]]
        return values

    def features(self, layer: int, pooling: str = "mean") -> NDArray[np.float32]:
        """Return that layer of every member side by side, of shape (utterances, sum of hidden sizes * statistics)."""
        blocks = [member.features(layer, pooling)[self.places[name]] for name, member in self.members.items()]
        return np.concatenate(blocks, axis=1)

    def frames(self, utterance: int, layer: int) -> NDArray[np.float32]:
        """Refuse: the encoders' frames need not be of the same instants.

        Raises
        ------
        CacheError
            Always.
        """
        msg = (
            f"{self.path}: frames are read of one cache. Got utterance {utterance}, layer {layer} of several."
        )
        raise CacheError(msg)

    def fitted_as(self, estimator: BaseEstimator, pooling: str, num_layers: int = 1) -> BaseEstimator:
        """Return what a row of this fusion fits: the classifier itself, or one of it for each member."""
        if self.how == "concatenate":
            return estimator
        statistics = len(pooling.split("+"))
        sizes = [member.spec.hidden_size * statistics for member in self.members.values()]
        return AveragingClassifier(estimator, block_sizes=tuple(sizes), num_layers=num_layers)


def fuse(
    caches: "Mapping[str, FeatureCache]", places: Mapping[str, NDArray[np.intp]], how: str
) -> FusedCache:
    """Join caches on utterances that have been found to agree.

    Parameters
    ----------
    caches : mapping of str to FeatureCache
        By the names that a comparison gives them.
    places : mapping of str to ndarray of int, shape (utterance,)
        As ``classify.selection.select`` returns them, which refuses caches whose labels, speakers or audio differ.
    how : str
        ``concatenate`` for features side by side, ``average`` for the mean of the probabilities of a classifier each.

    Raises
    ------
    ValueError
        Where ``how`` is unknown, or there is one cache only.
    CacheError
        Where the caches store no layer in common.
    """
    if how not in FUSIONS:
        msg = f"fusion must be one of {', '.join(FUSIONS)}. Got {how!r} instead."
        raise ValueError(msg)
    if len(caches) < 2:
        msg = f"fusion needs at least two caches. Got {', '.join(caches)} only."
        raise ValueError(msg)
    fused = FusedCache(
        name=f"{' + '.join(caches)}, {FUSIONS[how]}", members=dict(caches), places=dict(places), how=how
    )
    if not fused.layers:
        stored = "; ".join(f"{name} {', '.join(map(str, one.layers))}" for name, one in caches.items())
        msg = f"{fused.path}: fusion joins layers of equal number. None is in all: {stored}; extract them alike."
        raise CacheError(msg)
    return fused


def describe_features(cache: "FeatureCache | FusedCache") -> dict[str, Any]:
    """Return what made the numbers of a cache as plain values, those of a fused one from its members."""
    if not isinstance(cache, FusedCache):
        return dict(json.loads(cache.spec.to_json()))
    specs = [member.spec for member in cache.members.values()]
    sizes = [spec.hidden_size for spec in specs]
    return {
        "model_id": " + ".join(spec.model_id for spec in specs),
        "fusion": FUSIONS[cache.how],
        "members": list(cache.members),
        "layers": list(cache.layers),
        "pooling": list(cache.poolings),
        "hidden_size": sum(sizes) if cache.how == "concatenate" else sizes,
    }


class AveragingClassifier(ClassifierMixin, BaseEstimator):
    """One classifier for each block of columns; their probabilities are averaged.

    The sum rule of Kittler et al. (1998), "On combining classifiers", IEEE TPAMI 20(3), equation 11.

    Parameters
    ----------
    estimator : classifier with probabilities, or None
        Cloned for each block; None is logistic regression.
    block_sizes : tuple of int, optional
        Columns of each block; by default all columns are one block.
    num_layers : int
        Where above 1, the features are that many layers side by side, each of which holds every block: each
        block's own layers are brought together for its classifier.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    estimators_ : list of fitted classifiers, one per block
    n_features_in_ : int
    """

    def __init__(
        self,
        estimator: BaseEstimator | None = None,
        *,
        block_sizes: tuple[int, ...] | None = None,
        num_layers: int = 1,
    ) -> None:
        self.estimator = estimator
        self.block_sizes = block_sizes
        self.num_layers = num_layers

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Fit a clone on each block of X, of shape (n_samples, n_features).

        ``groups`` are handed to the classifiers where they take them.

        Raises
        ------
        ValueError
            Where the blocks don't add up to the columns of X, or the classifier gives no probabilities.
        """
        features, labels = validate_data(self, X, y)
        check_classification_targets(labels)
        estimator = LogisticRegression() if self.estimator is None else self.estimator
        if not hasattr(estimator, "predict_proba"):
            msg = f"averaging needs a classifier with probabilities. {type(estimator).__name__} has none."
            raise ValueError(msg)
        arguments = {} if groups is None else fit_arguments(estimator, np.asarray(groups))
        self.classes_ = np.unique(labels)
        self.estimators_ = [
            clone(estimator).fit(block, labels, **arguments) for block in self._blocks(features)
        ]
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.floating]:
        """Return mean probabilities of shape (n_samples, n_classes), in the order of ``classes_``."""
        check_is_fitted(self)
        blocks = self._blocks(validate_data(self, X, reset=False))
        shares = [fitted.predict_proba(block) for fitted, block in zip(self.estimators_, blocks, strict=True)]
        return np.asarray(np.mean(shares, axis=0))

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the label of highest mean probability, of shape (n_samples,)."""
        shares = self.predict_proba(X)
        labels: NDArray[Any] = self.classes_[shares.argmax(axis=1)]
        return labels

    def _blocks(self, features: NDArray[Any]) -> Sequence[NDArray[Any]]:
        sizes = (features.shape[1] // self.num_layers,) if self.block_sizes is None else self.block_sizes
        if sum(sizes) * self.num_layers != features.shape[1]:
            msg = (
                f"block_sizes must add up to the columns of X in each of {self.num_layers} layers. "
                f"Got {', '.join(map(str, sizes))} for {features.shape[1]} columns."
            )
            raise ValueError(msg)
        layered = features.reshape(len(features), self.num_layers, -1)
        parts = np.split(layered, np.cumsum(sizes)[:-1], axis=2)
        return [part.reshape(len(features), -1) for part in parts]
