"""One small network trained by itself on a CPU, where nothing but its own matrix products should cost time.

The same training as ``classify.stack``, one head at a time: weights, gradients and moments of one head stay in a core's cache
from step to step, and no other head is there to change a bit of its result. Gradients are written out: to record and
replay a graph of this size costs a third of the step.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from classify.heads import ACTIVATIONS, Head, Recipe, TrainedHead
from classify.stack import BATCH_NORM_EPS, BATCH_NORM_MOMENTUM, Stack

# From the gradient of an activation's output, and its input, to the gradient of its input.
_BACKWARD: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "relu": lambda gradient, values: torch.ops.aten.threshold_backward.default(gradient, values, 0),
    "gelu": torch.ops.aten.gelu_backward.default,
    "silu": torch.ops.aten.silu_backward.default,
    "tanh": lambda gradient, values: torch.ops.aten.tanh_backward.default(gradient, torch.tanh(values)),
}


class _Flat:
    """Tensors side by side in one piece of memory, with gradients and AdamW's moments, so that one call updates all."""

    def __init__(self, tensors: Sequence[Tensor], weight_decay: float) -> None:
        self.weight_decay = weight_decay
        self.values = torch.cat([tensor.detach().flatten() for tensor in tensors])
        self.gradients, self.first, self.second = (torch.zeros_like(self.values) for _ in range(3))
        self.shapes = [tensor.shape for tensor in tensors]

    def views(self, flat: Tensor) -> list[Tensor]:
        """Return a flat tensor's parts in the shapes of the tensors."""
        parts = torch.split(flat, [shape.numel() for shape in self.shapes])
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def update(self, count: Tensor, learning_rate: float) -> None:
        torch._fused_adamw_(
            [self.values],
            [self.gradients],
            [self.first],
            [self.second],
            [],
            [count],
            lr=learning_rate,
            beta1=0.9,
            beta2=0.999,
            weight_decay=self.weight_decay,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )


class Solo(Stack):
    """A stack of one head, whose step is spelt out; the head's axis is left out of what a step touches."""

    def __init__(self, recipe: Recipe, head: Head) -> None:
        super().__init__(recipe, [head], torch.device("cpu"))
        parameters, decayed = self.parameters, len(self.weights)
        self.flat = (
            _Flat(parameters[:decayed], recipe.weight_decay),
            _Flat(parameters[decayed:], 0.0),
        )
        self.updates, self.one = torch.zeros(()), torch.ones(())
        moved = [view for flat in self.flat for view in flat.views(flat.values)]
        for parameter, view in zip(parameters, moved, strict=True):
            parameter.data = view
        gradients = [view[0] for flat in self.flat for view in flat.views(flat.gradients)]
        # Biases before a batch norm are not learnt.
        by_parameter = {
            id(parameter): gradient for parameter, gradient in zip(parameters, gradients, strict=True)
        }
        names = ("weights", "biases", "gains", "shifts", "mixers")
        self.gradients: dict[str, list[Any]] = {
            name: [by_parameter.get(id(parameter)) for parameter in getattr(self, name)] for name in names
        }
        self.values = {name: [parameter.detach()[0] for parameter in getattr(self, name)] for name in names}
        self.upward = [weights.mT for weights in self.values["weights"]]
        rows = torch.nn.functional.one_hot(self.targets, head.num_classes)
        self.indicators = rows.to(self.dtype)
        self.gathered = torch.empty(self.batch, self.features.shape[1], dtype=self.dtype)

    @torch.inference_mode()
    def train(self) -> list[TrainedHead]:
        """Run all epochs and return the head, as a list of one."""
        return super().train()

    def _epoch(self, alive: list[int]) -> list[float]:
        order, shares = (part[:, 0] for part in self._batches(alive))  # (step, batch)
        sizes = (shares > 0).sum(1).tolist()
        rows, row_shares = (part[shares > 0] for part in (order, shares))
        row_shares = row_shares[:, None]
        targets = self.indicators.index_select(0, rows) * row_shares
        drawn = self._dropout_masks(alive)
        masks = [[mask[step, 0, :size] for mask in drawn] for step, size in enumerate(sizes)]
        steps = zip(*(torch.split(part, sizes) for part in (rows, row_shares, targets)), masks, strict=True)
        outputs = [self._step(*step) for step in steps]
        return [-float((torch.cat(outputs) * targets).sum()) / self.steps]

    def _step(self, rows: Tensor, shares: Tensor, targets: Tensor, masks: list[Tensor]) -> Tensor:
        """Take one step on a batch and return its log probabilities, (row, class)."""
        values, gradients = self.values, self.gradients
        last = len(self.sizes) - 2
        shown = torch.index_select(self.features, 0, rows, out=self.gathered[: len(rows)])
        inputs, before, scaled = [self._mixed(shown)], [], []
        for layer in range(last):
            hidden = torch.addmm(values["biases"][layer], inputs[-1], self.upward[layer])
            if self.recipe.batch_norm:
                hidden, kept = self._forward_norm(layer, hidden, shares)
                scaled.append(kept)
            before.append(hidden)
            hidden = ACTIVATIONS[self.recipe.activation](hidden)
            inputs.append(hidden * masks[layer] if masks else hidden)
        logits = torch.addmm(values["biases"][last], inputs[-1], self.upward[last])
        log_probabilities = torch.log_softmax(logits, 1)

        gradient = log_probabilities.exp().mul_(shares).sub_(targets)  # of the batch's loss, by the logits
        for layer in range(last, -1, -1):
            torch.mm(gradient.T, inputs[layer], out=gradients["weights"][layer])
            if (to_biases := gradients["biases"][layer]) is not None:
                torch.sum(gradient, 0, keepdim=True, out=to_biases)
            if layer == 0:
                break
            gradient = torch.mm(gradient, values["weights"][layer])
            if masks:
                gradient = gradient * masks[layer - 1]
            gradient = _BACKWARD[self.recipe.activation](gradient, before[layer - 1])
            if self.recipe.batch_norm:
                gradient = self._backward_norm(layer - 1, gradient, shares, *scaled[layer - 1])
        if self.mixers:
            self._backward_mix(torch.mm(gradient, values["weights"][0]), shown)
        self.updates.add_(self.one)
        for flat in self.flat:
            flat.update(self.updates, self.recipe.learning_rate)
        return log_probabilities

    def _mixed(self, shown: Tensor) -> Tensor:
        """Return the weighted sum over layers, from (row, layer * size) to (row, size)."""
        if not self.mixers:
            return shown
        layers = shown.view(len(shown), self.recipe.num_layers, -1)
        mixed: Tensor = self.values["mixers"][0].softmax(-1) @ layers
        return mixed.squeeze(1)

    def _backward_mix(self, gradient: Tensor, shown: Tensor) -> None:
        layers = shown.view(len(shown), self.recipe.num_layers, -1)
        weights = self.values["mixers"][0].softmax(-1)  # (1, layer)
        upstream = torch.einsum("nf,nlf->l", gradient, layers)[None]
        self.gradients["mixers"][0].copy_(weights * (upstream - (weights * upstream).sum()))

    def _forward_norm(
        self, layer: int, values: Tensor, shares: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        # Rows count by their weight, as in the loss, so that a row of weight 2 is as good as two rows.
        mean = (values * shares).sum(0, keepdim=True)
        centred = values - mean
        variance = (centred.square() * shares).sum(0, keepdim=True)
        self.means[layer][0].lerp_(mean, BATCH_NORM_MOMENTUM)
        self.variances[layer][0].lerp_(variance, BATCH_NORM_MOMENTUM)
        scale = torch.rsqrt(variance + BATCH_NORM_EPS)
        normal = centred * scale
        return normal * self.values["gains"][layer] + self.values["shifts"][layer], (normal, scale)

    def _backward_norm(
        self, layer: int, gradient: Tensor, shares: Tensor, normal: Tensor, scale: Tensor
    ) -> Tensor:
        torch.sum(gradient * normal, 0, keepdim=True, out=self.gradients["gains"][layer])
        torch.sum(gradient, 0, keepdim=True, out=self.gradients["shifts"][layer])
        gradient = gradient * self.values["gains"][layer]
        through_mean = gradient.sum(0, keepdim=True)
        through_variance = (gradient * normal).sum(0, keepdim=True)
        return scale * (gradient - shares * (through_mean + normal * through_variance))
