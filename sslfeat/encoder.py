"""Self-supervised encoders: found, loaded, checked, and run on batches of waveforms.

All knowledge of transformers and its versions ends here.
"""

import contextlib
import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.schema import FeatureSpec
from sslfeat.audio import parse_channel
from sslfeat.chunking import CHUNK_SECONDS, MIN_CHUNK_SECONDS
from sslfeat.forward import Wav2Vec2Forward, supports

EMBEDDED = "embedded"
EMBEDDED_DIRECTORY = Path(__file__).parent / "embedded"
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Drawn at random where a checkpoint lacks it, and read in training alone.
_UNUSED_PARAMETER = "masked_spec_embed"

# More than any speech encoder has; memory for them is taken before the weights are looked for.
_MOST_LAYERS = 1000

# As transformers' Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm has it.
_NORMALISE_EPS = 1e-7


class EncoderError(ValueError):
    """A model that can't be found, loaded or used, or numbers of its that overflowed."""


def choose_device(device: str) -> torch.device:
    """Return the device that ``auto``, ``cpu``, ``cuda`` or ``cuda:1`` names.

    Raises
    ------
    EncoderError
        Where it names none, or one that this machine lacks.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        msg = f"device must be auto, cpu, cuda or cuda:N. Got {device!r} instead."
        raise EncoderError(msg) from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        msg = f"device {device!r} is not there: this machine shows {torch.cuda.device_count()} CUDA devices; use cpu or auto."
        raise EncoderError(msg)
    return chosen


class Encoder:
    """A frozen encoder whose vectors never depend on what they were batched with.

    Wav2Vec2 and HuBERT run through this project's own forward pass, in padded batches. Any other audio encoder
    of transformers runs through transformers itself, in batches of one length.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        An audio encoder with hidden states; it is put into evaluation mode.
    model_id, revision : str
        What the features' spec calls it.
    normalise : bool
        Whether each waveform is brought to zero mean and unit variance first.
    device, precision : str
        As `choose_device` reads it; one of ``PRECISIONS``.
    input_features : transformers.SequenceFeatureExtractor, optional
        What makes the features that the model takes, where it takes no waveforms.

    Raises
    ------
    EncoderError
        Where the model is no audio encoder, or the device or precision is not to be had.
    """

    def __init__(
        self,
        model: Any,
        *,
        model_id: str,
        revision: str = "local",
        normalise: bool = True,
        device: str = "auto",
        precision: str = "float32",
        input_features: Any = None,
    ) -> None:
        if precision not in PRECISIONS:
            msg = f"precision must be one of {', '.join(PRECISIONS)}. Got {precision!r} instead."
            raise EncoderError(msg)
        if getattr(model, "main_input_name", "") not in ("input_values", "input_features") or (
            model.config.is_encoder_decoder or not hasattr(model.config, "num_hidden_layers")
        ):
            msg = f"{model_id}: a {model.config.model_type!r} model is no audio encoder with hidden states; choose Wav2Vec2, HuBERT, WavLM or their kin."
            raise EncoderError(msg)
        self.model_id = model_id
        self.revision = revision
        self.normalise = normalise
        self.precision = precision
        self.device = choose_device(device)
        self.architecture = str(model.config.model_type)
        self.num_hidden_layers = int(model.config.num_hidden_layers)
        self.hidden_size = int(model.config.hidden_size)
        self.sample_rate = 16_000
        self.weights_hash = hash_weights(model)
        self._input_features = input_features
        model = model.eval().requires_grad_(requires_grad=False).to(self.device)
        self.pads = supports(model.config)
        dtype = PRECISIONS[precision]
        self._forward = Wav2Vec2Forward(model, dtype=dtype) if self.pads else None
        self._model = None if self.pads else model.to(dtype)
        self.min_samples, self.frame_shift = self._frame_samples(model.config)

    @classmethod
    def load(
        cls, model_id: str, *, revision: str | None = None, device: str = "auto", precision: str = "float32"
    ) -> Self:
        """Load an encoder from a hub id or a directory in transformers' own format.

        Parameters
        ----------
        model_id : str
            ``embedded`` for the encoder in the package, a directory, or a hub id.
        revision : str, optional
            Branch, tag or commit hash on the hub; the spec records the commit that it stood for.
        device, precision : str
            ``auto``, ``cpu``, ``cuda`` or ``cuda:1``; and float32, bfloat16 or float16.

        Raises
        ------
        EncoderError
            Where the directory holds no model, the hub has none of that name or can't be reached, weights are
            missing, the model is no audio encoder, a revision of a directory is asked for, or the device or precision
            is not to be had.
        """
        import transformers  # takes seconds, and `sslfeat.encoder` is imported by all of stage 1

        directory = _local_directory(model_id)
        if directory and revision:
            msg = f"{model_id}: a revision is of a hub model, and this is a directory. Got {revision!r}."
            raise EncoderError(msg)
        source = str(directory or model_id)
        pinned: dict[str, Any] = {} if directory else {"revision": revision or "main"}
        with _quiet(transformers):
            try:
                config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False, **pinned)
                _check_config(config)
                commit = getattr(config, "_commit_hash", None) or pinned.get("revision", "local")
                if not directory:
                    pinned["revision"] = commit
                model, report = transformers.AutoModel.from_pretrained(
                    source,
                    config=config,
                    dtype=torch.float32,
                    trust_remote_code=False,
                    output_loading_info=True,
                    **pinned,
                )
            # A foreign file can fail in any of the loaders' own ways: no common class is narrower.
            except Exception as error:
                raise EncoderError(_why_not_loaded(model_id, directory, error)) from error
            if missing := sorted(key for key in report["missing_keys"] if _UNUSED_PARAMETER not in key):
                msg = f"{model_id}: the checkpoint lacks {len(missing)} weights of its own architecture ({', '.join(missing[:3])}, ...); download it again."
                raise EncoderError(msg)
            input_features = None
            if getattr(model, "main_input_name", "") == "input_features":
                loader: Any = transformers.AutoFeatureExtractor
                try:
                    input_features = loader.from_pretrained(source, trust_remote_code=False, **pinned)
                except Exception as error:  # as above
                    raise EncoderError(_why_not_loaded(model_id, directory, error)) from error
            return cls(
                model,
                model_id=directory.name if directory and model_id != EMBEDDED else model_id,
                revision="local" if directory else str(commit),
                normalise=_normalises(transformers, source, config, pinned),
                device=device,
                precision=precision,
                input_features=input_features,
            )

    def spec(
        self,
        *,
        layers: Sequence[int] | None = None,
        pooling: Sequence[str] = ("mean",),
        frames: bool = False,
        dtype: str = "float32",
        channels: str = "mean",
        chunk_seconds: float = CHUNK_SECONDS,
    ) -> FeatureSpec:
        """Return everything that changes the numbers of features made by this encoder.

        Parameters
        ----------
        layers : sequence of int, optional
            All by default.
        pooling : sequence of str
            Out of mean, std, max and min.
        frames : bool
            Whether the frames are kept too.
        dtype : str
            Of the stored numbers: float32 or float16.
        channels : str
            ``mean``, or the number of the one to take, from 0.
        chunk_seconds : float
            Longer audio is encoded in overlapping chunks of this length; 0 for always in one piece.

        Raises
        ------
        ValueError
            Where a layer, a pooling or the storage type is none of those there are, ``channels`` is neither
            ``mean`` nor a number, or chunks are shorter than a second.
        """
        if chunk_seconds != 0 and not MIN_CHUNK_SECONDS <= chunk_seconds < math.inf:
            msg = f"chunk_seconds must be 0, for audio in one piece, or at least {MIN_CHUNK_SECONDS:g}. Got {chunk_seconds:g} instead."
            raise ValueError(msg)
        return FeatureSpec(
            model_id=self.model_id,
            revision=self.revision,
            weights_hash=self.weights_hash,
            architecture=self.architecture,
            num_hidden_layers=self.num_hidden_layers,
            hidden_size=self.hidden_size,
            layers=tuple(range(self.num_hidden_layers + 1) if layers is None else layers),
            pooling=tuple(pooling),
            normalise=self.normalise,
            frames=frames,
            precision=self.precision,
            dtype=dtype,
            sample_rate=self.sample_rate,
            channels=str(parse_channel(channels)),
            chunk_seconds=float(chunk_seconds),
        )

    def encode(self, waveforms: Sequence[NDArray[np.float32]]) -> tuple[Tensor, Iterator[Tensor]]:
        """Encode a batch.

        Parameters
        ----------
        waveforms : sequence of ndarray of shape (num_samples,)
            At the encoder's rate, not normalised, each of at least ``min_samples``. Of one length unless the
            encoder ``pads``.

        Returns
        -------
        num_frames : Tensor of shape (utterance,)
            int64, on the device.
        hidden_states : iterator of Tensor of shape (utterance, frame, hidden size)
            Layer 0, 1, ..., the last, in the encoder's precision. Only the first ``num_frames`` frames of each
            utterance mean something. To be consumed under the same inference mode.

        Raises
        ------
        ValueError
            Where a waveform is too short, or lengths differ and the encoder can't pad.
        """
        lengths = [len(waveform) for waveform in waveforms]
        if min(lengths) < self.min_samples:
            msg = (
                f"waveform has {min(lengths)} samples; at least {self.min_samples} are needed for one frame."
            )
            raise ValueError(msg)
        if self._forward is not None:
            num_samples = torch.tensor(lengths)
            num_frames = self._forward.num_frames(num_samples)
            batch = self._stack(waveforms, self._forward.padded_samples(int(num_frames.max())))
            if self.device.type == "cuda":
                # From pinned memory the copy runs beside what the device is doing.
                batch = batch.pin_memory()
            on_device = batch.to(self.device, non_blocking=True)
            return num_frames.to(self.device), self._forward(on_device, num_samples)
        if len(set(lengths)) > 1:
            msg = f"{self.architecture} encoders take batches of one length. Got lengths {min(lengths)} to {max(lengths)} instead."
            raise ValueError(msg)
        states = self._run_transformers(self._stack(waveforms, lengths[0]))
        return torch.full((len(waveforms),), states[0].shape[1], device=self.device), iter(states)

    def hidden_states(self, waveform: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return one utterance's hidden states, float32 (layer, frame, hidden size)."""
        with torch.inference_mode(), exact_products():
            num_frames, states = self.encode([waveform])
            layers = torch.stack([layer[0, : int(num_frames[0])].float() for layer in states])
        return layers.cpu().numpy()

    def _stack(self, waveforms: Sequence[NDArray[np.float32]], padded: int) -> Tensor:
        """Return the batch, normalised each by itself and zero past its end, float32 (utterance, sample)."""
        batch = np.zeros((len(waveforms), padded), np.float32)
        for row, waveform in zip(batch, waveforms, strict=True):
            row[: len(waveform)] = normalise(waveform) if self.normalise else waveform
        return torch.from_numpy(batch)

    def _run_transformers(self, batch: Tensor) -> list[Tensor]:
        if self._input_features is None:
            inputs = {"input_values": batch.to(self.device, PRECISIONS[self.precision])}
        else:
            made = self._input_features(
                list(batch.numpy()), sampling_rate=self.sample_rate, return_tensors="pt"
            )
            inputs = {"input_features": made["input_features"].to(self.device, PRECISIONS[self.precision])}
        output = self._model(**inputs, output_hidden_states=True)  # type: ignore[misc]
        # Whether the last hidden state has the final norm changed in transformers 5.16; last_hidden_state
        # has always had it.
        return [*output.hidden_states[: self.num_hidden_layers], output.last_hidden_state]

    def _frame_samples(self, config: Any) -> tuple[int, int]:
        """Return the shortest input, in samples, that makes one frame, and the samples from frame to frame."""
        if self._input_features is not None:
            # Two 25 ms windows 10 ms apart, stacked into one frame.
            return 560, 320
        receptive, shift = 1, 1
        for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
            receptive += (kernel - 1) * shift
            shift *= stride
        return receptive, shift


def normalise(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the waveform with zero mean and unit variance, by its own statistics in float64."""
    precise = waveform.astype(np.float64)
    scaled: NDArray[np.float64] = (precise - precise.mean()) / math.sqrt(precise.var() + _NORMALISE_EPS)
    return scaled.astype(np.float32)


def hash_weights(model: Any) -> str:
    """Return the SHA-256, in hexadecimal, over names, shapes and float32 bytes of a model's parameters."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if _UNUSED_PARAMETER not in name:
            digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
            digest.update(np.ascontiguousarray(tensor.detach().float().cpu().numpy()).data)
    return digest.hexdigest()


@contextlib.contextmanager
def exact_products() -> Iterator[None]:
    """Turn TF32 off for the block: with it, float32 features differ between GPUs by one part in a thousand."""
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn


def _local_directory(model_id: str) -> Path | None:
    """Return the directory that a model id means, or None for a hub id."""
    directory = EMBEDDED_DIRECTORY if model_id == EMBEDDED else Path(model_id).expanduser()
    if directory.is_dir():
        if not (directory / "config.json").is_file():
            msg = f"{model_id}: a model directory holds config.json; this one holds none. Give the folder that save_pretrained wrote."
            raise EncoderError(msg)
        return directory.resolve()
    # A hub id is NAME or OWNER/NAME.
    if model_id == EMBEDDED or directory.exists() or model_id[:1] in "./~" or model_id.count("/") > 1:
        msg = f"{model_id}: no such directory; --model takes a hub id, as facebook/wav2vec2-base, or a directory that save_pretrained wrote."
        raise EncoderError(msg)
    return None


def _check_config(config: Any) -> None:
    """Refuse what a stranger's configuration may not ask for, before a model is built by it.

    Raises
    ------
    ValueError
        Where weights are quantised, which some formats need other packages' code for, or layers are beyond reason.
    """
    if getattr(config, "quantization_config", None) is not None:
        msg = "its weights are quantised; choose the model that they were made from"
        raise ValueError(msg)
    if getattr(config, "num_hidden_layers", 0) > _MOST_LAYERS:
        msg = f"it claims {config.num_hidden_layers} layers; at most {_MOST_LAYERS} are believed"
        raise ValueError(msg)
    # The name of an implementation of attention may be that of a repository, whose code transformers would fetch and run.
    config._attn_implementation = None


def _why_not_loaded(model_id: str, directory: Path | None, error: Exception) -> str:
    reason = " ".join(str(error).split())[:300]
    if directory:
        return f"{model_id}: transformers can't load a model from this directory ({reason})"
    return (
        f"{model_id}: no such model on the hub, or the hub can't be reached and no copy is in its local cache; "
        f"check the name and the network, or give a local directory ({type(error).__name__}: {reason})"
    )


def _normalises(transformers: Any, source: str, config: Any, pinned: dict[str, Any]) -> bool:
    """Return whether the checkpoint wants normalised waveforms; the front end decides where it doesn't say."""
    if getattr(config, "conv_kernel", None) is None:
        return False
    try:
        options, _ = transformers.FeatureExtractionMixin.get_feature_extractor_dict(source, **pinned)
    except (OSError, ValueError):
        options = {}
    # fairseq trained the models with a group norm on raw waveforms, all others on normalised ones.
    return bool(options.get("do_normalize", getattr(config, "feat_extract_norm", None) != "group"))


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Silence transformers' progress bars and load reports, which would interrupt ours."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
