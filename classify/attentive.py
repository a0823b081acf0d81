"""A classifier of frames: it learns which of them to listen to; torch trains it, numpy predicts."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d

from classify.feedforward import held_out

if TYPE_CHECKING:
    from torch import Tensor

Frames = Sequence[NDArray[np.floating]]
_COUNTS = ("hidden_layer_size", "batch_size", "max_epochs", "patience")


class AttentiveClassifier(ClassifierMixin, BaseEstimator):
    """Attention over an utterance's frames, their weighted mean, and a feed-forward layer before the softmax output.

    The weights are a softmax over frames of each frame's product with one learnt vector: the self-attention pooling
    of Safari et al. (2020), arXiv 2008.01077, equation 2. That vector starts at zero, so that training starts from the
    plain mean. Frames are standardised here, by what the training frames are like.

    Parameters
    ----------
    hidden_layer_size : int
    learning_rate, weight_decay : float
        Of AdamW; biases and the attention are not decayed.
    batch_size : int
        Most utterances per step.
    max_epochs : int
    class_weight : None, "balanced" or dict of label to float
    early_stopping : bool
        Whether to hold a validation part out, whole groups where ``fit`` is given them, stop when its loss has not
        fallen for ``patience`` epochs, and keep the weights of the best epoch.
    validation_fraction : float
        Share of the utterances to hold out, in (0, 1).
    patience : int
        Epochs without a lower validation loss before training stops.
    random_state : int, RandomState instance or None
        Decides initial weights, order of the utterances and the validation part.
    device : str
        Where to train, as torch names it.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    n_features_in_ : int
        Size of a frame.
    mean_, scale_ : ndarray of shape (n_features_in_,)
        Of the training frames.
    attention_ : ndarray of shape (n_features_in_,)
    coefs_, intercepts_ : list of ndarray
        Two affine maps, of shapes (in, out) and (out,).
    best_epoch_ : int
        1-based number of the epoch that the weights are from.
    loss_curve_, validation_loss_curve_ : list of float
        Mean loss per epoch; the second is empty without early stopping.
    """

    def __init__(
        self,
        *,
        hidden_layer_size: int = 256,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        batch_size: int = 32,
        max_epochs: int = 30,
        class_weight: str | Mapping[Any, float] | None = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        patience: int = 5,
        random_state: int | np.random.RandomState | None = None,
        device: str = "cpu",
    ) -> None:
        self.hidden_layer_size = hidden_layer_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.class_weight = class_weight
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.random_state = random_state
        self.device = device

    def fit(self, X: Frames, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Train on utterances of shape (n_frames, n_features) each, and their labels.

        ``groups`` matter to early stopping only.

        Raises
        ------
        ValueError
            Where a parameter is out of its range; where there is no utterance, or one has no frames, another size or
            number of axes than the first, or numbers that are not finite; or where early stopping can't hold any
            utterance or group out.
        """
        # torch takes a second to import, and a fitted classifier predicts without it.
        from classify.training import require_device

        require_device(self.device)
        rules = [
            *((name, getattr(self, name) >= 1, "be at least 1") for name in _COUNTS),
            ("learning_rate", self.learning_rate > 0, "be above 0"),
            ("weight_decay", self.weight_decay >= 0, "be at least 0"),
            ("validation_fraction", 0 < self.validation_fraction < 1, "be in (0, 1)"),
        ]
        for name, holds, rule in rules:
            if not holds:
                msg = f"The {name!r} parameter of AttentiveClassifier must {rule}. Got {getattr(self, name)!r} instead."
                raise ValueError(msg)
        frames = _checked(X)
        labels = column_or_1d(y)
        check_consistent_length(frames, labels)
        check_classification_targets(labels)
        self.classes_, targets = np.unique(labels, return_inverse=True)
        self.n_features_in_ = frames[0].shape[1]
        factors = compute_class_weight(self.class_weight, classes=self.classes_, y=labels)[targets]
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        held = np.zeros(len(targets), dtype=bool)
        if self.early_stopping:
            if groups is not None:
                groups = column_or_1d(groups)
                check_consistent_length(labels, groups)
            held = held_out(targets, groups, self.validation_fraction, np.random.default_rng((seed, 1)))
        training = np.flatnonzero(~held)
        self.mean_, self.scale_ = _statistics([frames[place] for place in training])
        scaled = [self._scaled(one) for one in frames]
        self._train(scaled, targets, factors.astype(np.float32), training, np.flatnonzero(held), seed)
        return self

    def predict_proba(self, X: Frames) -> NDArray[np.floating]:
        """Return probabilities of shape (n_utterances, n_classes), in the order of ``classes_``."""
        check_is_fitted(self)
        frames = _checked(X, self.n_features_in_)
        pooled = np.stack([self.attend(one) @ self._scaled(one) for one in frames])
        hidden = np.maximum(pooled @ self.coefs_[0] + self.intercepts_[0], 0)
        return np.asarray(softmax(hidden @ self.coefs_[1] + self.intercepts_[1], axis=1))

    def predict(self, X: Frames) -> NDArray[Any]:
        """Return the most probable label of each utterance, of shape (n_utterances,)."""
        shares = self.predict_proba(X)
        labels: NDArray[Any] = self.classes_[shares.argmax(axis=1)]
        return labels

    def attend(self, frames: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return how much each frame of an utterance counts, of shape (n_frames,); they sum to 1."""
        check_is_fitted(self)
        return np.asarray(softmax(self._scaled(frames) @ self.attention_))

    def _scaled(self, frames: NDArray[np.floating]) -> NDArray[np.float32]:
        return np.asarray((frames - self.mean_) / self.scale_, dtype=np.float32)

    def _train(
        self,
        frames: list[NDArray[np.float32]],
        targets: NDArray[np.intp],
        factors: NDArray[np.float32],
        training: NDArray[np.intp],
        held: NDArray[np.intp],
        seed: int,
    ) -> None:
        import torch
        from torch.nn import functional

        generator = np.random.default_rng(seed)
        attention, weights, biases = self._initial(generator)
        optimiser = torch.optim.AdamW(
            [
                {"params": weights, "weight_decay": self.weight_decay},
                {"params": [attention, *biases], "weight_decay": 0.0},
            ],
            lr=self.learning_rate,
        )

        def loss(rows: NDArray[np.intp]) -> "Tensor":
            padded, counts = pad([frames[row] for row in rows], self.device)
            hidden = torch.relu(pool(padded, counts, attention) @ weights[0] + biases[0])
            each = functional.cross_entropy(
                hidden @ weights[1] + biases[1],
                torch.from_numpy(targets[rows]).to(self.device),
                reduction="none",
            )
            shares = torch.from_numpy(factors[rows] / factors[rows].sum()).to(self.device)
            return (each * shares).sum()

        kept: list[NDArray[np.float32]] = []
        self.loss_curve_, self.validation_loss_curve_ = [], []
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # processes over folds are what uses several cores
        try:
            for epoch in range(1, self.max_epochs + 1):
                losses = []
                for rows in self._batches(generator.permutation(training)):
                    optimiser.zero_grad()
                    value = loss(rows)
                    value.backward()  # type: ignore[no-untyped-call]
                    optimiser.step()
                    losses.append(value.item())
                self.loss_curve_.append(float(np.mean(losses)))
                if len(held):
                    with torch.no_grad():
                        parts = [(factors[rows].sum(), loss(rows).item()) for rows in self._batches(held)]
                    self.validation_loss_curve_.append(
                        float(
                            np.average([value for _, value in parts], weights=[share for share, _ in parts])
                        )
                    )
                self.best_epoch_ = (
                    int(np.argmin(self.validation_loss_curve_)) + 1 if self.early_stopping else epoch
                )
                if self.best_epoch_ == epoch:
                    kept = [tensor.detach().cpu().numpy().copy() for tensor in (attention, *weights, *biases)]
                if epoch - self.best_epoch_ >= self.patience:
                    break
        finally:
            torch.set_num_threads(threads)
        self.attention_, self.coefs_, self.intercepts_ = kept[0], kept[1:3], kept[3:]

    def _initial(self, generator: np.random.Generator) -> tuple["Tensor", list["Tensor"], list["Tensor"]]:
        import torch

        def parameter(values: NDArray[np.floating]) -> "Tensor":
            return torch.tensor(values, dtype=torch.float32, device=self.device).requires_grad_()

        sizes = (self.n_features_in_, self.hidden_layer_size, len(self.classes_))
        weights, biases = [], []
        for fan_in, fan_out in itertools.pairwise(sizes):
            bound = 1 / np.sqrt(fan_in)  # as torch.nn.Linear
            weights.append(parameter(generator.uniform(-bound, bound, (fan_in, fan_out))))
            biases.append(parameter(generator.uniform(-bound, bound, fan_out)))
        return parameter(np.zeros(self.n_features_in_)), weights, biases

    def _batches(self, rows: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
        yield from np.array_split(rows, -(-len(rows) // self.batch_size))


def pad(frames: Frames, device: str = "cpu") -> tuple["Tensor", "Tensor"]:
    """Return utterances as one tensor of shape (utterance, most frames, size), zeros behind, and their frames."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    tensors = [torch.from_numpy(np.asarray(one)) for one in frames]
    counts = torch.tensor([len(one) for one in tensors])
    return pad_sequence(tensors, batch_first=True).to(device), counts.to(device)


def pool(padded: "Tensor", counts: "Tensor", attention: "Tensor") -> "Tensor":
    """Return the attended mean of each utterance's own frames, of shape (utterance, size), whatever stands behind them.

    Parameters
    ----------
    padded : Tensor of shape (utterance, most frames, size)
    counts : Tensor of int, shape (utterance,)
        Frames of each utterance.
    attention : Tensor of shape (size,)
    """
    import torch

    behind = torch.arange(padded.shape[1], device=padded.device) >= counts[:, None]  # (utterance, frame)
    # Before any product, so that not even a gradient sees what stands there.
    own = padded.masked_fill(behind[..., None], 0)
    weights = (own @ attention).masked_fill(behind, -torch.inf).softmax(1)
    return (weights[:, None] @ own).squeeze(1)


def _statistics(frames: Frames) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return mean and standard deviation over all frames, in one pass that copies no utterance twice."""
    count = sum(len(one) for one in frames)
    mean = sum(one.sum(axis=0, dtype=np.float64) for one in frames) / count
    variance = sum(((one - mean) ** 2).sum(axis=0) for one in frames) / count
    scale = np.sqrt(variance)
    return np.asarray(mean, np.float32), np.where(scale > 0, scale, 1).astype(np.float32)


def _checked(X: Frames, size: int | None = None) -> list[NDArray[np.floating]]:
    frames = [np.asarray(one) for one in X]
    if not frames:
        msg = "X must hold at least one utterance. Got none."
        raise ValueError(msg)
    size = size or (frames[0].shape[1] if frames[0].ndim == 2 else None)
    for place, one in enumerate(frames):
        if one.ndim != 2 or one.shape[1] != size or not len(one):
            msg = f"X must hold arrays of shape (frames, {size or 'size'}), at least one frame each. Utterance {place} has {one.shape}."
            raise ValueError(msg)
        if not np.isfinite(one).all():
            msg = f"X must be finite. Utterance {place} has NaN or infinity."
            raise ValueError(msg)
    return frames
