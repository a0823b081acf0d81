"""The encoder with its teachers: what is asked of which layer, and how the answers are scored.

Three tasks share one pass. Masked prediction: the last layer names the cluster of the frames that were hidden from
it. Frame regression: every asked layer says all frame targets linearly. Functionals: the mean and deviation over frames
of every asked layer, which is what a user pools, says the crop's functionals linearly.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans
from torch import nn
from torch.nn.functional import cross_entropy, smooth_l1_loss
from transformers import HubertConfig, HubertModel

from pretraining.filterbank import set_filterbank
from pretraining.functionals import functionals
from pretraining.hinges import descriptor_order, set_hinges
from pretraining.targets import PROSODY, describe, frame_targets

PROSODY_IMPORTANCE = 4.0  # of its frame targets, beside 1 for all others


def encoder_config(
    *,
    conv_dim: tuple[int, ...] = (32, 48, 64, 96, 160, 256, 256),
    hidden_size: int = 384,
    num_hidden_layers: int = 1,
    intermediate_size: int = 768,
    num_attention_heads: int = 4,
    positional_kernel: int = 64,
) -> HubertConfig:
    """Describe the encoder: the base models' group-norm front end and post-norm blocks, made narrow.

    The front end doubles its width as it halves its rate, so that each of its layers costs about the same.
    """
    return HubertConfig(
        vocab_size=32,
        conv_dim=conv_dim,
        conv_kernel=(10, 3, 3, 3, 3, 2, 2),
        conv_stride=(5, 2, 2, 2, 2, 2, 2),
        conv_bias=False,
        feat_extract_norm="group",
        do_stable_layer_norm=False,
        hidden_size=hidden_size,
        num_hidden_layers=num_hidden_layers,
        intermediate_size=intermediate_size,
        num_attention_heads=num_attention_heads,
        num_conv_pos_embeddings=positional_kernel,
        num_conv_pos_embedding_groups=16,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
        layerdrop=0.0,
        # the mask's embedding exists where a mask is configured; the masks themselves are drawn in span_mask
        apply_spec_augment=True,
        mask_time_prob=0.05,
    )


def span_mask(
    shape: tuple[int, int],
    rng: np.random.Generator,
    *,
    share: float = 0.5,
    starts: float = 0.05,
    span: int = 10,
) -> torch.Tensor:
    """Draw which frames are hidden: in a share of the crops, spans that begin anywhere and may overlap.

    Parameters
    ----------
    shape : tuple of int
        Crops and frames.
    share : float
        Of the crops; the rest are heard whole, as a user's are.
    starts : float
        Chance that a span begins at a frame.
    span : int
        Frames of a span.

    Returns
    -------
    bool tensor of shape ``shape``
    """
    begins = rng.random(shape) < starts
    begins &= rng.random((shape[0], 1)) < share
    mask = np.zeros(shape, dtype=bool)
    for offset in range(span):
        mask[:, offset:] |= begins[:, : shape[1] - offset]
    return torch.from_numpy(mask)


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """Scales of all targets and the codebook of clusters, estimated once before training.

    Parameters
    ----------
    frame_mean, frame_std : tensors of shape (n_targets,)
    functional_mean, functional_std : tensors of shape (n_functionals,)
    codebook : tensor of shape (n_clusters, n_targets)
        In standardised frame targets.
    """

    frame_mean: torch.Tensor
    frame_std: torch.Tensor
    functional_mean: torch.Tensor
    functional_std: torch.Tensor
    codebook: torch.Tensor

    @classmethod
    def estimated(cls, batches: Iterable[torch.Tensor], *, num_clusters: int, seed: int) -> "Calibration":
        """Estimate from batches of clean crops."""
        frames, weights, summaries = [], [], []
        for crops in batches:
            descriptors = describe(crops)
            targets, weight = frame_targets(descriptors)
            frames.append(targets.flatten(0, 1))
            weights.append(weight.flatten(0, 1))
            summaries.append(functionals(descriptors))
        rows, weight = torch.cat(frames), torch.cat(weights)
        mean = (rows * weight).sum(dim=0) / weight.sum(dim=0)
        std = (((rows - mean).square() * weight).sum(dim=0) / weight.sum(dim=0)).sqrt().clamp_min(1e-4)
        summary = torch.cat(summaries)
        # a frame without voice takes the mean of what only voice has, and so doesn't cluster by it
        kmeans = MiniBatchKMeans(num_clusters, batch_size=4096, n_init=1, max_iter=30, random_state=seed)
        kmeans.fit((((rows - mean) / std) * weight).numpy())
        codebook = torch.from_numpy(kmeans.cluster_centers_).float()
        return cls(mean, std, summary.mean(dim=0), summary.std(dim=0).clamp_min(1e-4), codebook)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the fields by name, for a checkpoint."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


class Student(nn.Module):
    """An encoder and its linear heads.

    Parameters
    ----------
    config : HubertConfig
    calibration : Calibration
    regress_layers : tuple of int
        Layers whose frames say the frame targets.
    pooled_layers : tuple of int
        Layers whose pooled frames say the functionals.
    weights : tuple of float
        Of the tasks: frame regression, functionals, masked prediction.
    """

    def __init__(
        self,
        config: HubertConfig,
        calibration: Calibration,
        *,
        regress_layers: tuple[int, ...] = (0, 1),
        pooled_layers: tuple[int, ...] = (0, 1),
        weights: tuple[float, float, float] = (1.0, 4.0, 0.0),
    ) -> None:
        super().__init__()
        self.encoder = HubertModel(config)
        self.calibration = calibration
        self.weights = weights
        width = config.hidden_size
        self.frame_heads = nn.ModuleDict(
            {str(layer): nn.Linear(width, len(calibration.frame_mean)) for layer in regress_layers}
        )
        self.functional_heads = nn.ModuleDict(
            {str(layer): nn.Linear(2 * width, len(calibration.functional_mean)) for layer in pooled_layers}
        )
        self.cluster_head = nn.Linear(width, len(calibration.codebook))

    def warm_start(self, batches: Sequence[torch.Tensor]) -> None:
        """Begin where linear algebra leads: a filterbank, and a projection that says the frame targets of it.

        The first hidden units are the targets' least-squares estimates from the front end, in standard units; those
        left over stay as drawn.

        Parameters
        ----------
        batches : sequence of tensors of shape (n_crops, num_samples)
            Clean crops.
        """
        set_filterbank(self.encoder, standardised(batches[0]))
        self._project(batches, np.arange(len(self.calibration.frame_mean)))

    def widen(self, earlier: HubertModel, batches: Sequence[torch.Tensor], rng: np.random.Generator) -> None:
        """Begin with an earlier encoder's front end, a projection solved for it, and hinges of what that says.

        Parameters
        ----------
        earlier : HubertModel
            None of its convolutions is wider than here.
        batches : sequence of tensors of shape (n_crops, num_samples)
            Clean crops.
        rng : Generator
        """
        widen_front_end(self.encoder, earlier)
        self._project(batches, descriptor_order(self.encoder.config.hidden_size, rng))
        with torch.no_grad():
            projected = [
                self.encoder.feature_projection.projection(self._heard(crops)) for crops in batches[:20]
            ]
        set_hinges(self.encoder, projected, rng)

    def _heard(self, crops: torch.Tensor) -> torch.Tensor:
        """Return what the projection reads: (n_crops, num_frames, n_channels)."""
        channels = self.encoder.feature_extractor(standardised(crops)).transpose(1, 2)
        normed: torch.Tensor = self.encoder.feature_projection.layer_norm(channels)
        return normed

    def _project(self, batches: Sequence[torch.Tensor], order: NDArray[np.int64]) -> None:
        """Make the first hidden units the least-squares estimates of frame targets, in this order."""
        scale = self.calibration
        gram, moments = torch.zeros(()), torch.zeros(())
        with torch.no_grad():
            for crops in batches:
                targets, weights = frame_targets(describe(crops))
                wanted = ((targets - scale.frame_mean) / scale.frame_std * weights).flatten(0, 1).double()
                heard = self._heard(crops).flatten(0, 1).double()
                heard = torch.cat([heard, torch.ones_like(heard[:, :1])], dim=1)
                gram, moments = gram + heard.T @ heard, moments + heard.T @ wanted
            gram += 1e-3 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
            solution = torch.linalg.solve(gram, moments).float().T[order]  # (n_units, n_channels + 1)
            projection = self.encoder.feature_projection.projection
            solved = min(len(solution), len(projection.weight))
            projection.weight[:solved] = solution[:solved, :-1]
            projection.bias[:solved] = solution[:solved, -1]

    def losses(self, clean: torch.Tensor, heard: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """Score one batch.

        Parameters
        ----------
        clean, heard : tensors of shape (n_crops, num_samples)
            Targets come from the first, the encoder hears the second.
        mask : bool tensor of shape (n_crops, num_frames)
            The frames hidden from the encoder.

        Returns
        -------
        dict of str to scalar tensor
            ``frames``, ``functionals``, ``clusters`` and their weighted sum, ``total``.
        """
        scale = self.calibration
        with torch.no_grad():
            descriptors = describe(clean)
            targets, weights = frame_targets(descriptors)
            targets = (targets - scale.frame_mean) / scale.frame_std
            importance = torch.ones(targets.shape[2])
            importance[: len(PROSODY)] = PROSODY_IMPORTANCE
            summary = (functionals(descriptors) - scale.functional_mean) / scale.functional_std
            clusters = nearest((targets * weights)[mask], scale.codebook)
        states = self.encoder(
            standardised(heard), mask_time_indices=mask, output_hidden_states=True
        ).hidden_states
        frames = torch.stack(
            [
                (
                    smooth_l1_loss(head(states[int(layer)]), targets, reduction="none") * weights * importance
                ).mean()
                for layer, head in self.frame_heads.items()
            ]
        ).mean()
        summaries = torch.stack(
            [
                smooth_l1_loss(head(pool(states[int(layer)])), summary.clamp(-5, 5))
                for layer, head in self.functional_heads.items()
            ]
        ).mean()
        hidden = (
            cross_entropy(self.cluster_head(states[-1][mask]), clusters)
            if mask.any()
            else frames.new_zeros(())
        )
        parts = (frames, summaries, hidden)
        total = torch.stack([weight * part for weight, part in zip(self.weights, parts, strict=True)]).sum()
        return dict(zip(("frames", "functionals", "clusters", "total"), (*parts, total), strict=True))


def widen_front_end(model: HubertModel, earlier: HubertModel) -> None:
    """Copy an earlier encoder's convolutions into the first channels of wider ones, in place.

    Channels that are new stay as drawn, and no old channel reads them.
    """
    layers: tuple[list[Any], list[Any]] = (
        list(model.feature_extractor.conv_layers),
        list(earlier.feature_extractor.conv_layers),
    )
    with torch.no_grad():
        for layer, old in zip(*layers, strict=True):
            num_out, num_in, _ = old.conv.weight.shape
            layer.conv.weight[:num_out] = 0
            layer.conv.weight[:num_out, :num_in] = old.conv.weight
            if hasattr(old, "layer_norm"):
                layer.layer_norm.weight[:num_out] = old.layer_norm.weight
                layer.layer_norm.bias[:num_out] = old.layer_norm.bias


def standardised(crops: torch.Tensor) -> torch.Tensor:
    """Bring each crop to zero mean and unit variance, as a user's audio is."""
    centred = crops - crops.mean(dim=1, keepdim=True)
    return centred / (centred.square().mean(dim=1, keepdim=True) + 1e-7).sqrt()


def pool(frames: torch.Tensor) -> torch.Tensor:
    """Return mean and deviation over frames, of shape (n_crops, 2 * hidden_size)."""
    # the floor keeps the root's slope finite where a unit doesn't move
    return torch.cat([frames.mean(dim=1), frames.var(dim=1).clamp_min(1e-6).sqrt()], dim=1)


def nearest(rows: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """Return the index of each row's nearest entry of a codebook."""
    return (rows @ codebook.T - codebook.square().sum(dim=1) / 2).argmax(dim=1)
