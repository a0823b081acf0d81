"""The nouns of training small networks together: what a head is given, and what it learnt."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "tanh": torch.tanh,
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What all heads of one program share; see ``FeedforwardClassifier`` for each field.

    ``patience`` 0 means no early stopping: a head's validation part is then not looked at.
    """

    hidden_layer_sizes: tuple[int, ...]
    activation: str
    dropout: float
    batch_norm: bool
    learning_rate: float
    weight_decay: float
    batch_size: int
    max_epochs: int
    patience: int
    num_layers: int = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Rows:
    """Rows to train on or to validate with; targets are class indices, weights positive."""

    features: NDArray[np.floating]
    targets: NDArray[np.int64]
    weights: NDArray[np.floating]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The data of one head, its number of classes and its seed."""

    training: Rows
    validation: Rows | None
    num_classes: int
    seed: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainedHead:
    """The weights of one head, batch norm folded into them, and how they came about.

    Parameters
    ----------
    weights, biases : list of ndarray of shape (in, out), (out,)
        One per affine map.
    layer_weights : ndarray of shape (num_layers,)
        Sum to 1.
    training_losses, validation_losses : list of float
        Per epoch; the second is empty without early stopping.
    best_epoch : int
        1-based number of the epoch that the weights are from.
    """

    weights: list[NDArray[np.floating]]
    biases: list[NDArray[np.floating]]
    layer_weights: NDArray[np.floating]
    training_losses: list[float]
    validation_losses: list[float]
    best_epoch: int


def layer_sizes(recipe: Recipe, head: Head) -> tuple[int, ...]:
    """Return the size of a head's input, of each hidden layer and of its output."""
    hidden_size = head.training.features.shape[1] // recipe.num_layers
    return hidden_size, *recipe.hidden_layer_sizes, head.num_classes


def num_steps(rows: int, batch_size: int) -> int:
    """Return the optimiser's steps per epoch."""
    return math.ceil(rows / batch_size)
