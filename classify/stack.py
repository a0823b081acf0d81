"""Many small networks of one shape trained as one batched program, each as if it were alone.

Stacked weights of shape ``(head, out, in)`` turn every layer into one batched product, forward and backward, and
the optimiser into one call. Nothing is shared between heads: initial weights, order of the rows and dropout
come from each head's own generators, batches are each head's own, and a head that stops early leaves the stack.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.optim.adamw import adamw

from classify.heads import ACTIVATIONS, Head, Recipe, TrainedHead, layer_sizes, num_steps

BATCH_NORM_MOMENTUM, BATCH_NORM_EPS = 0.1, 1e-5  # torch.nn.BatchNorm1d's own


_Weights = tuple[list[NDArray[np.floating]], list[NDArray[np.floating]], NDArray[np.floating]]


class Stack:
    """The stacked parameters and data of heads in lockstep; every tensor's first axis is the head."""

    def __init__(self, recipe: Recipe, heads: Sequence[Head], device: torch.device) -> None:
        self.recipe, self.heads, self.device = recipe, heads, device
        first = heads[0].training.features
        self.dtype = torch.float64 if first.dtype == np.float64 else torch.float32
        self.sizes = layer_sizes(recipe, heads[0])
        self.steps = num_steps(len(first), recipe.batch_size)
        self.batch = max(math.ceil(len(head.training.targets) / self.steps) for head in heads)
        self.products = max(a * b for a, b in itertools.pairwise(self.sizes)) * self.batch
        # Dropout is drawn on the device, the rest on the host, where it is the same for every device.
        self.generators = [np.random.default_rng(head.seed) for head in heads]
        self.masks = [torch.Generator(device).manual_seed(head.seed) for head in heads]
        self._initialise()
        self._load()

    def _initialise(self) -> None:
        # torch.nn.Linear's initial weights and biases: uniform within 1 / sqrt(fan_in).
        self.weights, self.biases = [], []
        for fan_in, fan_out in itertools.pairwise(self.sizes):
            bound = 1 / math.sqrt(fan_in)
            draws = np.stack([g.uniform(-bound, bound, (fan_out, fan_in + 1)) for g in self.generators])
            self.weights.append(self._parameter(draws[:, :, :-1]))  # (head, out, in)
            self.biases.append(self._parameter(draws[:, None, :, -1]))  # (head, 1, out)
        shapes = [(len(self.heads), 1, size) for size in self.recipe.hidden_layer_sizes]
        normalised = shapes if self.recipe.batch_norm else []
        self.biases[: len(normalised)] = [self._parameter(np.zeros(shape)) for shape in normalised]
        self.gains = [self._parameter(np.ones(shape)) for shape in normalised]
        self.shifts = [self._parameter(np.zeros(shape)) for shape in normalised]
        self.means = [torch.zeros(shape, dtype=self.dtype, device=self.device) for shape in normalised]
        self.variances = [torch.ones(shape, dtype=self.dtype, device=self.device) for shape in normalised]
        # SUPERB's featurizer: softmax over layers, equal at first (s3prl, upstream/interfaces.py, Featurizer).
        equal = np.zeros((len(self.heads), 1, self.recipe.num_layers))
        self.mixers = [self._parameter(equal)] if self.recipe.num_layers > 1 else []
        self.moments = [[torch.zeros_like(p, requires_grad=False) for p in self.parameters] for _ in range(2)]
        self.counters = [torch.zeros((), device=self.device) for _ in self.parameters]

    @property
    def parameters(self) -> list[Tensor]:
        """The tensors that the optimiser moves."""
        # Batch norm takes any bias before it out again: its gradient is pure rounding, which Adam would magnify.
        biases = self.biases[-1:] if self.recipe.batch_norm else self.biases
        return [*self.weights, *biases, *self.gains, *self.shifts, *self.mixers]

    def _parameter(self, values: NDArray[np.floating]) -> Tensor:
        return torch.tensor(values, dtype=self.dtype, device=self.device).requires_grad_()

    def _load(self) -> None:
        training = [head.training for head in self.heads]
        self.features = self._tensor(np.concatenate([rows.features for rows in training]))
        self.targets = torch.from_numpy(np.concatenate([rows.targets for rows in training])).to(self.device)
        counts = [len(rows.targets) for rows in training]
        self.counts, self.offsets = counts, np.cumsum([0, *counts[:-1]])
        self.validation = [
            (
                self._tensor(rows.features),
                torch.from_numpy(rows.targets).to(self.device),
                self._tensor(rows.weights),
            )
            for rows in (head.validation for head in self.heads if self.recipe.patience)
            if rows is not None
        ]

    def _tensor(self, values: NDArray[np.floating]) -> Tensor:
        return torch.as_tensor(values, dtype=self.dtype).to(self.device)

    def train(self) -> list[TrainedHead]:
        """Run all epochs and return the heads in order."""
        recipe = self.recipe
        alive = list(range(len(self.heads)))
        losses: list[list[float]] = [[] for _ in alive]
        scores: list[list[float]] = [[] for _ in alive]
        done: dict[int, _Weights] = {}
        best: dict[int, _Weights] = {}
        for epoch in range(1, recipe.max_epochs + 1):
            for i, loss in zip(alive, self._epoch(alive), strict=True):
                losses[i].append(loss)
            if not recipe.patience:
                continue
            stopped = []
            for place, i in enumerate(alive):
                scores[i].append(self._validate(place, i))
                best_epoch = int(np.argmin(scores[i])) + 1
                if best_epoch == epoch:
                    best[i] = self._numpy(place)
                if epoch - best_epoch >= recipe.patience:
                    stopped.append(place)
            if stopped:
                done.update((alive[place], best[alive[place]]) for place in stopped)
                staying = [place for place, i in enumerate(alive) if i not in done]
                alive = [alive[place] for place in staying]
                if not alive:
                    break
                self._keep(staying)
        done.update((i, best[i] if recipe.patience else self._numpy(place)) for place, i in enumerate(alive))
        return [
            TrainedHead(
                weights=done[i][0],
                biases=done[i][1],
                layer_weights=done[i][2],
                training_losses=losses[i],
                validation_losses=scores[i],
                best_epoch=int(np.argmin(scores[i])) + 1 if recipe.patience else len(losses[i]),
            )
            for i in range(len(self.heads))
        ]

    def _epoch(self, alive: list[int]) -> list[float]:
        order, shares = self._batches(alive)
        masks = self._dropout_masks(alive)
        total = torch.zeros(len(alive), dtype=self.dtype, device=self.device)
        for step in range(self.steps):
            rows = order[step]  # (head, batch)
            features = self.features.index_select(0, rows.flatten()).view(*rows.shape, -1)
            outputs = self._forward(features, [mask[step] for mask in masks], shares[step])
            row_losses = functional.cross_entropy(
                outputs.flatten(0, 1), self.targets[rows].flatten(), reduction="none"
            ).view_as(rows)
            batch_losses = (row_losses * shares[step]).sum(1)  # (head,)
            # The sum leaves each head the gradient of its own loss.
            self._update(torch.autograd.grad(batch_losses.sum(), self.parameters))
            total += batch_losses.detach()
        losses: list[float] = (total / self.steps).tolist()
        return losses

    @torch.no_grad()
    def _update(self, gradients: Sequence[Tensor]) -> None:
        """Take one step of AdamW, which decays weights only."""
        # The fused kernel walks through memory: gradients must lie there as their parameters do.
        gradients = [gradient.contiguous() for gradient in gradients]
        weights = slice(len(self.weights))
        for part, decay in ((weights, self.recipe.weight_decay), (slice(weights.stop, None), 0.0)):
            adamw(
                self.parameters[part],
                gradients[part],
                self.moments[0][part],
                self.moments[1][part],
                max_exp_avg_sqs=[],
                state_steps=self.counters[part],  # adamw counts them up
                fused=True,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=self.recipe.learning_rate,
                weight_decay=decay,
                eps=1e-8,
                maximize=False,
            )

    def _batches(self, alive: list[int]) -> tuple[Tensor, Tensor]:
        """Return row indices and each row's share of its batch's loss, both (step, head, batch).

        A batch with fewer rows ends in rows of share 0.
        """
        order = np.zeros((self.steps, len(alive), self.batch), dtype=np.int64)
        shares = np.zeros(order.shape)
        for place, i in enumerate(alive):
            weights = self.heads[i].training.weights
            # Batches of a head differ in size by at most one row, so that none is a noisy rest.
            batches = np.array_split(self.generators[i].permutation(len(weights)), self.steps)
            for step, batch in enumerate(batches):
                order[step, place, : len(batch)] = batch + self.offsets[i]
                shares[step, place, : len(batch)] = weights[batch] / weights[batch].sum()
        return torch.from_numpy(order).to(self.device), self._tensor(shares)

    def _dropout_masks(self, alive: list[int]) -> list[Tensor]:
        """Return one mask per hidden layer, (step, head, batch, size), drawn in the head's own amounts."""
        if not self.recipe.dropout:
            return []
        keep = 1 - self.recipe.dropout
        masks = []
        for size in self.recipe.hidden_layer_sizes:
            mask = torch.zeros(self.steps, len(alive), self.batch, size, dtype=self.dtype, device=self.device)
            for place, i in enumerate(alive):
                rows = math.ceil(self.counts[i] / self.steps)
                drawn = torch.empty(self.steps, rows, size, dtype=self.dtype, device=self.device)
                mask[:, place, :rows] = drawn.bernoulli_(keep, generator=self.masks[i]) / keep
            masks.append(mask)
        return masks

    def _forward(self, values: Tensor, masks: Sequence[Tensor], shares: Tensor) -> Tensor:
        activation = ACTIVATIONS[self.recipe.activation]
        if self.mixers:  # from (head, batch, layer * size) to (head, batch, size)
            layers = values.view(*values.shape[:-1], self.recipe.num_layers, -1)
            values = (self.mixers[0].softmax(-1).unsqueeze(1) @ layers).squeeze(2)
        for layer in range(len(self.sizes) - 2):
            values = torch.baddbmm(self.biases[layer], values, self.weights[layer].mT)  # (head, batch, size)
            if self.recipe.batch_norm:
                values = self._normalise(layer, values, shares[..., None])
            values = activation(values)
            if masks:
                values = values * masks[layer]
        return torch.baddbmm(self.biases[-1], values, self.weights[-1].mT)

    def _normalise(self, layer: int, values: Tensor, shares: Tensor) -> Tensor:
        # Rows count by their weight, as in the loss, so that a row of weight 2 is as good as two rows.
        mean = (values * shares).sum(-2, keepdim=True)
        centred = values - mean
        variance = (centred.square() * shares).sum(-2, keepdim=True)
        with torch.no_grad():
            self.means[layer].lerp_(mean, BATCH_NORM_MOMENTUM)
            self.variances[layer].lerp_(variance, BATCH_NORM_MOMENTUM)
        return centred * torch.rsqrt(variance + BATCH_NORM_EPS) * self.gains[layer] + self.shifts[layer]

    @torch.no_grad()
    def _validate(self, place: int, i: int) -> float:
        values, targets, row_weights = self.validation[i]
        weights, biases = self._folded(place)
        if self.mixers:
            mixer = self.mixers[0][place].softmax(-1)
            values = (mixer @ values.reshape(len(values), self.recipe.num_layers, -1)).squeeze(1)
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            values = ACTIVATIONS[self.recipe.activation](torch.addmm(bias, values, weight.T))
        losses = functional.cross_entropy(
            torch.addmm(biases[-1], values, weights[-1].T), targets, reduction="none"
        )
        return float((losses * row_weights).sum() / row_weights.sum())

    @torch.no_grad()
    def _folded(self, place: int) -> tuple[list[Tensor], list[Tensor]]:
        """Return one head's affine maps, with batch norm's running statistics folded into them."""
        weights, biases = [weight[place] for weight in self.weights], [bias[place, 0] for bias in self.biases]
        for layer, mean in enumerate(self.means):
            scale = self.gains[layer][place, 0] * torch.rsqrt(
                self.variances[layer][place, 0] + BATCH_NORM_EPS
            )
            weights[layer] = weights[layer] * scale[:, None]
            biases[layer] = (biases[layer] - mean[place, 0]) * scale + self.shifts[layer][place, 0]
        return weights, biases

    def _numpy(self, place: int) -> _Weights:
        weights, biases = self._folded(place)
        # A copy each: the tensors go on changing.
        return (
            [weight.T.detach().cpu().numpy().copy() for weight in weights],
            [bias.detach().cpu().numpy().copy() for bias in biases],
            self.mixers[0][place, 0].softmax(-1).detach().cpu().numpy()
            if self.mixers
            else np.ones(1, dtype=self.heads[0].training.features.dtype),
        )

    @torch.no_grad()
    def _keep(self, places: list[int]) -> None:
        """Drop the heads that have stopped, so that the rest runs faster."""
        for parameter in {*self.parameters, *self.biases}:
            parameter.data = parameter.data[places]
        self.moments = [[moment[places] for moment in moments] for moments in self.moments]
        self.means = [mean[places] for mean in self.means]
        self.variances = [variance[places] for variance in self.variances]
