"""The feed-forward head as a scikit-learn classifier; torch trains it, numpy predicts."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import erf, expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

if TYPE_CHECKING:
    from classify.heads import Head, Recipe, TrainedHead

# The same functions as torch's; the names are those of ``classify.heads.ACTIVATIONS``.
ACTIVATIONS: dict[str, Callable[[NDArray[np.floating]], NDArray[np.floating]]] = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * (0.5 * (1 + erf(x / np.sqrt(x.dtype.type(2))))),
    "silu": lambda x: x * expit(x),
    "tanh": np.tanh,
}


class FeedforwardClassifier(ClassifierMixin, BaseEstimator):
    """Feed-forward layers with softmax output, trained by AdamW on the cross entropy.

    With one hidden layer it is the head of Jafarzadeh et al., arXiv 2411.02964, section 3.3: two feed-forward
    layers on a mean-pooled encoder layer. Their widths, rates and epochs are not stated there; the defaults
    here are ours. Features should be standardised, by a ``StandardScaler`` in one ``Pipeline`` with it.

    Parameters
    ----------
    hidden_layer_sizes : tuple of int
        Widths of the hidden layers; empty for a linear classifier.
    activation : {"relu", "gelu", "silu", "tanh"}
    dropout : float
        Probability that a hidden unit is dropped in training, in [0, 1).
    batch_norm : bool
        Whether each hidden layer is normalised over the batch before its activation. Folded into the weights
        after training.
    learning_rate, weight_decay : float
        Of AdamW; biases are not decayed.
    batch_size : int
        Most rows per step. An epoch's batches differ in size by at most one row.
    max_epochs : int
        Passes over the training rows.
    num_layers : int
        Where above 1, the features are that many encoder layers of equal width side by side, and their sum under
        learnt weights, a softmax, goes into the first layer of the network: SUPERB's weighted sum.
    class_weight : None, "balanced" or dict of label to float
        Factors on the rows' weights.
    early_stopping : bool
        Whether to hold a validation part out, stop when its loss has not fallen for ``patience`` epochs, and keep
        the weights of the best epoch. Whole groups are held out where ``fit`` is given groups; otherwise rows,
        stratified by label.
    validation_fraction : float
        Share of the rows to hold out, in (0, 1).
    patience : int
        Epochs without a lower validation loss before training stops.
    random_state : int, RandomState instance or None
        Decides initial weights, order of the rows, dropout and the validation part.
    device : str
        Where to train, as torch names it: ``cpu``, ``cuda``, ``cuda:1``.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    n_features_in_ : int
    coefs_ : list of ndarray of shape (in, out)
    intercepts_ : list of ndarray of shape (out,)
    layer_weights_ : ndarray of shape (num_layers,)
        Share of each encoder layer in the weighted sum; sums to 1.
    n_iter_ : int
        Epochs run.
    best_epoch_ : int
        1-based number of the epoch that the weights are from.
    loss_curve_, validation_loss_curve_ : list of float
        Mean loss per epoch; the second is empty without early stopping.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> X, y = load_iris(return_X_y=True)
    >>> head = make_pipeline(StandardScaler(), FeedforwardClassifier(random_state=0)).fit(X, y)
    >>> head.predict(X[:1])
    array([0])
    """

    def __init__(
        self,
        *,
        hidden_layer_sizes: tuple[int, ...] = (256,),
        activation: str = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        batch_size: int = 64,
        max_epochs: int = 50,
        num_layers: int = 1,
        class_weight: str | Mapping[Any, float] | None = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        patience: int = 10,
        random_state: int | np.random.RandomState | None = None,
        device: str = "cpu",
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.dropout = dropout
        self.batch_norm = batch_norm
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.num_layers = num_layers
        self.class_weight = class_weight
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.random_state = random_state
        self.device = device

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> Self:
        """Train on X of shape (n_samples, n_features) and labels y of shape (n_samples,).

        Rows of weight 0 are left out; others count in proportion, in each batch's mean loss. ``groups`` matter
        to early stopping only.

        Raises
        ------
        ValueError
            Where a parameter is out of its range, X or y can't be learnt from, or early stopping can't hold any
            row or group out without taking a class from training.
        """
        fit_together([self], [{"X": X, "y": y, "sample_weight": sample_weight, "groups": groups}])
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.floating]:
        """Return probabilities of shape (n_samples, n_classes), in the order of ``classes_``."""
        check_is_fitted(self)
        values = validate_data(self, X, dtype=[np.float32, np.float64], reset=False)
        if len(self.layer_weights_) > 1:
            values = np.einsum(
                "l,nlf->nf", self.layer_weights_, values.reshape(len(values), len(self.layer_weights_), -1)
            )
        for weights, biases in zip(self.coefs_[:-1], self.intercepts_[:-1], strict=True):
            values = ACTIVATIONS[self.activation](values @ weights + biases)
        probabilities: NDArray[np.floating] = softmax(values @ self.coefs_[-1] + self.intercepts_[-1], axis=1)
        return probabilities

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the most probable label of each row, of shape (n_samples,)."""
        probabilities = self.predict_proba(X)
        labels: NDArray[Any] = self.classes_[probabilities.argmax(axis=1)]
        return labels

    def _prepare(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> tuple["Recipe", "Head"]:
        from classify.heads import Head, Recipe, Rows

        self._check_parameters()
        features, labels = validate_data(self, X, y, dtype=[np.float32, np.float64])
        check_classification_targets(labels)
        if features.shape[1] % self.num_layers:
            msg = (
                f"X must hold {self.num_layers} layers of equal width side by side, as num_layers says. "
                f"Got {features.shape[1]} features instead."
            )
            raise ValueError(msg)
        given = np.ones(len(labels)) if sample_weight is None else column_or_1d(sample_weight)
        check_consistent_length(labels, given)
        weights = np.asarray(given, dtype=features.dtype)
        if not (np.isfinite(weights).all() and weights.min() >= 0 and weights.max() > 0):
            msg = (
                "sample_weight must be finite, not negative and not all zero. "
                f"Got {weights.min()} to {weights.max()} instead."
            )
            raise ValueError(msg)
        present = weights > 0
        self.classes_, targets = np.unique(labels[present], return_inverse=True)
        features, weights = features[present], weights[present]
        weights = weights * self._class_factors(labels[present], targets, weights)[targets]
        held = np.zeros(len(targets), dtype=bool)
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        if self.early_stopping:
            if groups is not None:
                check_consistent_length(labels, groups)
                groups = column_or_1d(groups)[present]
            held = held_out(targets, groups, self.validation_fraction, np.random.default_rng((seed, 1)))
        validation = Rows(features[held], targets[held], weights[held]) if self.early_stopping else None
        recipe = Recipe(
            hidden_layer_sizes=tuple(self.hidden_layer_sizes),
            activation=self.activation,
            dropout=self.dropout,
            batch_norm=self.batch_norm,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
            max_epochs=self.max_epochs,
            num_layers=self.num_layers,
            patience=self.patience if self.early_stopping else 0,
        )
        training = Rows(features[~held], targets[~held], weights[~held])
        return recipe, Head(
            training=training, validation=validation, num_classes=len(self.classes_), seed=seed
        )

    def _accept(self, trained: "TrainedHead") -> None:
        self.coefs_, self.intercepts_ = trained.weights, trained.biases
        self.layer_weights_ = trained.layer_weights
        self.n_iter_, self.best_epoch_ = len(trained.training_losses), trained.best_epoch
        self.loss_curve_, self.validation_loss_curve_ = trained.training_losses, trained.validation_losses

    def _class_factors(
        self, labels: NDArray[Any], targets: NDArray[np.intp], weights: NDArray[np.floating]
    ) -> NDArray[np.floating]:
        if isinstance(self.class_weight, str) and self.class_weight == "balanced":
            # Over weights, so that a row of weight 2 counts as two rows.
            counts = np.bincount(targets, weights=weights)
            return np.asarray(counts.sum() / (len(counts) * counts), dtype=weights.dtype)
        factors: NDArray[np.floating] = compute_class_weight(
            self.class_weight, classes=self.classes_, y=labels
        ).astype(weights.dtype)
        return factors

    def _check_parameters(self) -> None:
        sizes = tuple(self.hidden_layer_sizes)
        rules: list[tuple[str, bool, str]] = [
            ("hidden_layer_sizes", all(size >= 1 for size in sizes), "hold widths of at least 1"),
            ("activation", self.activation in ACTIVATIONS, f"be one of {', '.join(ACTIVATIONS)}"),
            ("dropout", 0 <= self.dropout < 1, "be in [0, 1)"),
            ("learning_rate", self.learning_rate > 0, "be above 0"),
            ("weight_decay", self.weight_decay >= 0, "be at least 0"),
            ("batch_size", self.batch_size >= 1, "be at least 1"),
            ("num_layers", self.num_layers >= 1, "be at least 1"),
            ("max_epochs", self.max_epochs >= 1, "be at least 1"),
            ("validation_fraction", 0 < self.validation_fraction < 1, "be in (0, 1)"),
            ("patience", self.patience >= 1, "be at least 1"),
        ]
        for name, holds, rule in rules:
            if not holds:
                msg = f"The {name!r} parameter of FeedforwardClassifier must {rule}. Got {getattr(self, name)!r} instead."
                raise ValueError(msg)


def fit_together(
    classifiers: Sequence[FeedforwardClassifier], arguments: Sequence[Mapping[str, Any]]
) -> None:
    """Fit each classifier on its own arguments of ``fit``; on a GPU as one batched program where their networks agree.

    Each ends as its own ``fit`` would leave it: the same numbers on a CPU, and up to rounding on a GPU.

    Parameters
    ----------
    classifiers : sequence of FeedforwardClassifier
    arguments : sequence of mapping
        Keyword arguments of ``fit``, one mapping per classifier.

    Raises
    ------
    ValueError
        As ``fit`` does.
    """
    # torch takes a second to import, and a fitted classifier predicts without it.
    from classify.training import require_device, train_heads

    programs: dict[tuple[Any, str], list[tuple[FeedforwardClassifier, Head]]] = {}
    for classifier, argument in zip(classifiers, arguments, strict=True):
        require_device(classifier.device)
        recipe, head = classifier._prepare(**argument)
        programs.setdefault((recipe, classifier.device), []).append((classifier, head))
    for (recipe, device), members in programs.items():
        trained = train_heads(recipe, [head for _, head in members], device=device)
        for (classifier, _), result in zip(members, trained, strict=True):
            classifier._accept(result)


def held_out(
    targets: NDArray[np.intp], groups: Any, fraction: float, generator: np.random.Generator
) -> NDArray[np.bool_]:
    """Return which rows validate, whole groups where there are any: about ``fraction`` of them, with every class left in training."""
    held = np.zeros(len(targets), dtype=bool)
    if groups is None:
        for target in np.unique(targets):
            rows = generator.permutation(np.flatnonzero(targets == target))
            held[rows[: min(max(1, round(fraction * len(rows))), len(rows) - 1)]] = True
    else:
        for group in generator.permutation(np.unique(groups)):
            rest = ~held & (groups != group)
            if held.mean() < fraction and set(targets[rest]) == set(targets):
                held |= groups == group
    if not held.any():
        what = "group" if groups is not None else "row"
        msg = (
            f"early stopping must hold out a {what} and leave every class in training. No {what} can be spared "
            f"of {len(targets)} rows; give more data or set early_stopping=False."
        )
        raise ValueError(msg)
    return held
