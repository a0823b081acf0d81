"""The forward pass of Wav2Vec2 and HuBERT: exact under batching, and made of matrix products.

transformers' own pass lets the padding of a batch leak into the group norm of the "base" models, whose
statistics run over time. Here that norm is folded into a convolution of its own for each utterance, from
statistics of that utterance's valid samples alone; everything after it is masked by true lengths. A row of a
batch then differs from the same row alone only in the order of float additions.

Activations are (utterance, frame, channel) throughout, so that each strided convolution is a matrix product on
a view. Every stage halves the padded frames exactly; frames past an utterance's true count hold finite numbers
that no valid frame ever reads. On a CPU the convolutions run in tiles of an utterance, which stay in its cache and
keep the memory of long audio small; on a GPU over the whole batch at once.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_FIRST_STRIDE = 5
_LATER_STRIDE = 2
_LATER_KERNELS = (2, 3)

# Frames that the convolutions make at once on a CPU: 17 MB of activations at the base models' 512 channels.
_TILE_FRAMES = 128
# What a stage reads past the frames that it makes, in frames of the last stage.
_MARGIN_FRAMES = 2


def supports(config: Any) -> bool:
    """Return whether the configuration is a Wav2Vec2 or HuBERT whose every part this pass covers."""
    return (
        config.model_type in ("wav2vec2", "hubert")
        and config.feat_extract_norm in ("group", "layer")
        and config.conv_stride[0] == _FIRST_STRIDE
        and config.conv_kernel[0] == 2 * _FIRST_STRIDE
        and all(stride == _LATER_STRIDE for stride in config.conv_stride[1:])
        and all(kernel in _LATER_KERNELS for kernel in config.conv_kernel[1:])
        and not getattr(config, "add_adapter", False)
        and getattr(config, "adapter_attn_dim", None) is None
        # Batch norm before the positional convolution shifts the zeros of the padding.
        and not getattr(config, "conv_pos_batch_norm", False)
    )


class Wav2Vec2Forward:
    """Wav2Vec2 or HuBERT over a padded batch, each row as if it were alone.

    Parameters
    ----------
    model : transformers.Wav2Vec2Model or transformers.HubertModel
        In evaluation mode. Its parameters are shared where their type and device allow, never changed.
    dtype : torch.dtype
        Type of weights and activations. Statistics of the group norm are float64 whatever it is, and layer
        norms and the softmax accumulate in float32.
    """

    def __init__(self, model: Any, *, dtype: torch.dtype = torch.float32) -> None:
        config = model.config
        if not supports(config):
            msg = f"architecture {config.model_type!r} with this configuration has parts that this pass lacks"
            raise ValueError(msg)
        self.dtype = dtype
        self.tile_frames = _TILE_FRAMES if model.device.type == "cpu" else None
        self.kernels = tuple(config.conv_kernel)
        self.strides = tuple(config.conv_stride)
        self.stable = bool(config.do_stable_layer_norm)
        self.num_heads = int(config.num_attention_heads)
        convs = model.feature_extractor.conv_layers
        self.group_norm = config.feat_extract_norm == "group"
        self._first = _FirstConv(convs[0], self._cast)
        self._convs = [_StridedConv(conv, self._cast) for conv in convs[1:]]
        projection = model.feature_projection
        # Some distilled HuBERTs have no norm there.
        has_norm = getattr(projection, "layer_norm", None) is not None
        self._projection_norm = self._layer_norm(projection.layer_norm) if has_norm else None
        self._projection = self._linear(projection.projection)
        encoder = model.encoder
        self._positional = _PositionalConv(encoder.pos_conv_embed, self._cast)
        self._norm = self._layer_norm(encoder.layer_norm)
        self._blocks = [self._block(block) for block in encoder.layers]

    def num_frames(self, num_samples: Tensor) -> Tensor:
        """Return how many frames the convolutions make of so many samples, both int64 (utterance,)."""
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            num_samples = torch.div(num_samples - kernel, stride, rounding_mode="floor") + 1
        return num_samples.clamp(min=0)

    def padded_samples(self, num_frames: int) -> int:
        """Return the samples that a batch of at most ``num_frames`` true frames is padded to.

        Two frames more than the longest utterance has: samples that make no whole frame still count in the
        group norm, and every stage halves without a remainder.
        """
        frame_shift = _FIRST_STRIDE * int(_LATER_STRIDE ** len(self._convs))
        return (num_frames + _MARGIN_FRAMES) * frame_shift + _FIRST_STRIDE

    def __call__(self, waveforms: Tensor, num_samples: Tensor) -> Iterator[Tensor]:
        """Yield layer 0, 1, ..., the last, each (utterance, frame, hidden size).

        Parameters
        ----------
        waveforms : Tensor of shape (utterance, sample)
            float32, zero past each utterance's end; as long as ``padded_samples`` says.
        num_samples : Tensor of shape (utterance,)
            int64, on the CPU, so that nothing here waits for a GPU.

        Notes
        -----
        Layer 0 is the input of the first block, layer ``k`` the output of block ``k``; the last has the final
        layer norm where the architecture has one. Frames past ``num_frames(num_samples)`` mean nothing.
        """
        num_frames = self.num_frames(num_samples)
        most = int(num_frames.max())
        x = self._convolve(waveforms, num_samples, num_frames)[:, :most]  # (utterance, frame, channel)
        if self._projection_norm is not None:
            x = self._projection_norm(x)
        x = self._projection(x)
        valid = torch.arange(most, device=x.device) < num_frames.to(x.device)[:, None]
        # A zero frame is what the positional convolution sees past the end of a lone utterance.
        x = x.masked_fill_(~valid[:, :, None], 0)
        x = self._positional(x).add_(x)
        if not self.stable:
            x = self._norm(x)
        yield x
        mask = None if int(num_frames.min()) == most else valid[:, None, None, :]  # (utterance, 1, 1, key)
        for block in self._blocks[:-1]:
            x = block(x, mask)
            yield x
        x = self._blocks[-1](x, mask)
        yield self._norm(x) if self.stable else x

    def _convolve(self, waveforms: Tensor, num_samples: Tensor, num_frames: Tensor) -> Tensor:
        windows, weight, bias = self._first.prepare(waveforms, num_samples.to(waveforms.device))
        if self.tile_frames is None:
            return self._later(self._first(windows, weight, bias))
        rows_a_frame = _LATER_STRIDE ** len(self._convs)
        x = waveforms.new_zeros(
            len(waveforms), int(num_frames.max()), self._convs[-1].num_channels, dtype=self.dtype
        )
        for row, count in enumerate(num_frames.tolist()):
            one = slice(row, row + 1)
            for begin in range(0, count, self.tile_frames):
                size = min(self.tile_frames, count - begin)
                read = slice(begin * rows_a_frame, (begin + size + _MARGIN_FRAMES) * rows_a_frame)
                first = self._first(windows[one, read], weight[one], bias[one])
                x[row, begin : begin + size] = self._later(first)[0, :size]
        return x

    def _later(self, x: Tensor) -> Tensor:
        for conv in self._convs:
            x = conv(x)
        return x

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to(self.dtype).contiguous()

    def _linear(self, *layers: nn.Linear) -> Callable[[Tensor], Tensor]:
        """Return one product for layers that read the same input, their outputs side by side."""
        weight = self._cast(torch.cat([layer.weight for layer in layers]))
        bias = self._cast(torch.cat([layer.bias for layer in layers]))
        return lambda x: F.linear(x, weight, bias)

    def _layer_norm(self, norm: nn.LayerNorm) -> Callable[[Tensor], Tensor]:
        weight, bias, shape, eps = (
            self._cast(norm.weight),
            self._cast(norm.bias),
            norm.normalized_shape,
            norm.eps,
        )
        return lambda x: F.layer_norm(x, shape, weight, bias, eps)

    def _block(self, block: Any) -> Callable[[Tensor, Tensor | None], Tensor]:
        attention, feed_forward = block.attention, block.feed_forward
        qkv = self._linear(attention.q_proj, attention.k_proj, attention.v_proj)
        out = self._linear(attention.out_proj)
        widen = self._linear(feed_forward.intermediate_dense)
        activation = _activation(feed_forward.intermediate_act_fn)
        narrow = self._linear(feed_forward.output_dense)
        attention_norm = self._layer_norm(block.layer_norm)
        final_norm = self._layer_norm(block.final_layer_norm)

        def attend(x: Tensor, mask: Tensor | None) -> Tensor:
            size, frames, hidden = x.shape
            heads = qkv(x).view(size, frames, 3, self.num_heads, hidden // self.num_heads)
            query, key, value = heads.permute(2, 0, 3, 1, 4)  # 3 x (utterance, head, frame, head size)
            attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
            return out(attended.transpose(1, 2).reshape(size, frames, hidden))

        def feed(x: Tensor) -> Tensor:
            return narrow(activation(widen(x)))

        def norm_after(x: Tensor, mask: Tensor | None) -> Tensor:
            x = attention_norm(attend(x, mask).add_(x))
            return final_norm(feed(x).add_(x))

        def norm_before(x: Tensor, mask: Tensor | None) -> Tensor:
            x = attend(attention_norm(x), mask).add_(x)
            return feed(final_norm(x)).add_(x)

        return norm_before if self.stable else norm_after


class _FirstConv:
    """The first convolution, one channel in, with its group or layer norm and activation.

    The output of the bare convolution is ``w . x_t`` for windows ``x_t`` of 10 samples. Over an utterance, its
    mean is ``w . m`` and its variance ``w' C w``, with ``m`` and ``C`` the mean and covariance of the windows:
    the group norm is the same convolution with another weight and bias.
    """

    def __init__(self, conv: Any, cast: Callable[[Tensor], Tensor]) -> None:
        self.cast = cast
        self.activation = _activation(conv.activation)
        weight = conv.conv.weight.detach()[:, 0]  # (channel, tap)
        norm = conv.layer_norm
        self.is_group_norm = isinstance(norm, nn.GroupNorm)
        self.eps = float(norm.eps)
        precise = torch.float64 if self.is_group_norm else cast(weight).dtype
        self.weight = weight.to(precise)
        bias = conv.conv.bias
        self.bias = (torch.zeros_like(self.weight[:, 0]) if bias is None else bias.detach()).to(precise)
        self.gain, self.shift = norm.weight.detach().to(precise), norm.bias.detach().to(precise)

    def prepare(self, waveforms: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return windows (utterance, frame, tap), a view, with each utterance's weight and bias for them.

        The weight is (utterance, tap, channel), the bias (utterance, 1, channel).
        """
        windows = waveforms.unfold(1, self.weight.shape[1], _FIRST_STRIDE)
        if self.is_group_norm:
            weight, bias = self._fold(windows, num_samples)
            return windows, self.cast(weight), self.cast(bias)[:, None]
        size = len(waveforms)
        return windows, self.weight.T.expand(size, -1, -1), self.bias.expand(size, 1, -1)

    def __call__(self, windows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x = torch.baddbmm(bias, self.cast(windows), weight)
        if not self.is_group_norm:
            x = F.layer_norm(x, x.shape[-1:], self.gain, self.shift, self.eps)
        return self.activation(x)

    def _fold(self, windows: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor]:
        """Return each utterance's weight (utterance, tap, channel) and bias (utterance, channel), float64."""
        count = torch.div(num_samples - windows.shape[2], _FIRST_STRIDE, rounding_mode="floor") + 1
        valid = torch.arange(windows.shape[1], device=windows.device) < count[:, None]
        samples = windows.double() * valid[:, :, None]
        mean = samples.sum(1) / count[:, None]  # (utterance, tap)
        second = samples.transpose(1, 2) @ samples / count[:, None, None]
        covariance = second - mean[:, :, None] * mean[:, None, :]  # (utterance, tap, tap)
        variance = ((self.weight @ covariance) * self.weight).sum(2)  # (utterance, channel)
        scale = self.gain / torch.sqrt(variance + self.eps)
        weight = self.weight.T * scale[:, None, :]
        # The bias of the bare convolution shifts the mean by itself and cancels.
        bias = self.shift - (mean @ self.weight.T) * scale
        return weight, bias


class _StridedConv:
    """A convolution of stride 2 over (utterance, frame, channel), kernel 2 or 3, as one or two matrix products."""

    def __init__(self, conv: Any, cast: Callable[[Tensor], Tensor]) -> None:
        weight = conv.conv.weight  # (channel out, channel in, tap)
        taps = weight.permute(2, 1, 0)
        self.num_channels = weight.shape[0]
        self.pair = cast(taps[:2].reshape(-1, weight.shape[0]))  # (2 x channel in, channel out)
        self.third = cast(taps[2]) if weight.shape[2] == 3 else None
        self.bias = None if conv.conv.bias is None else cast(conv.conv.bias)
        norm = getattr(conv, "layer_norm", None)
        self.norm = None if norm is None else (cast(norm.weight), cast(norm.bias), norm.eps)
        self.activation = _activation(conv.activation)

    def __call__(self, x: Tensor) -> Tensor:
        size, frames, channels = x.shape
        pairs = x.view(size * frames // 2, 2 * channels)  # two frames side by side, no copy
        y = pairs @ self.pair if self.bias is None else torch.addmm(self.bias, pairs, self.pair)
        if self.third is not None:
            # The third tap is the first half of the next pair. An utterance's last row would read the next
            # utterance here; it lies past the valid frames.
            y[:-1].addmm_(pairs[1:, :channels], self.third)
        y = y.view(size, frames // 2, -1)
        if self.norm is not None:
            weight, bias, eps = self.norm
            y = F.layer_norm(y, weight.shape, weight, bias, eps)
        return self.activation(y)


class _PositionalConv:
    """The grouped convolution that tells the blocks about order, with its activation."""

    def __init__(self, embedding: Any, cast: Callable[[Tensor], Tensor]) -> None:
        conv = embedding.conv
        self.weight, self.bias = cast(conv.weight), cast(conv.bias)
        self.groups, self.kernel = conv.groups, conv.kernel_size[0]
        self.activation = _activation(embedding.activation)

    def __call__(self, x: Tensor) -> Tensor:
        y = F.conv1d(x.transpose(1, 2), self.weight, self.bias, padding=self.kernel // 2, groups=self.groups)
        # An even kernel makes one frame too many.
        return self.activation(y[:, :, : x.shape[1]]).transpose(1, 2)


def _activation(module: Any) -> Callable[[Tensor], Tensor]:
    """Return a module's activation; it may overwrite what it is given, which spares a pass over the memory."""
    # transformers' exact GELU is a module around torch's function.
    if getattr(module, "act", None) is F.gelu:
        return torch.ops.aten.gelu_
    return module  # type: ignore[no-any-return]
