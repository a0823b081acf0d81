"""Train the encoder from folders of audio: ``python -m pretraining.pretrain AUDIO_DIR... -o OUT_DIR``.

The same command continues a run that was killed; with more ``--steps`` it prolongs one that was finished.
"""

import argparse
import dataclasses
import json
import logging
import math
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch.nn.utils import clip_grad_norm_
from transformers import HubertModel

from pretraining.objective import Calibration, Student, encoder_config, span_mask
from pretraining.recordings import CropSampler, Recordings, find_audio

log = logging.getLogger("pretraining")
CALIBRATION_BATCHES = 60
# Batches of the calibration are drawn from steps that no run reaches
CALIBRATION_STEP = 10**9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a run's numbers depend on, beside its audio.

    Parameters
    ----------
    peak_rate : float
        AdamW's learning rate after the warm-up.
    warmup_steps : int
    decay_share : float
        The last share of the steps, over which the rate falls to 0 along a cosine.
    start_from : str
        Folder of an encoder that an earlier run wrote, to go on from with new heads; empty starts from the filterbank.
    widen_from : str
        The same of a narrower encoder, of which only the front end is kept; projection and positional convolution
        start as hinges.
    masked : float
        Share of the crops with hidden frames.
    """

    conv_dim: tuple[int, ...] = (32, 48, 64, 96, 160, 256, 256)
    hidden_size: int = 384
    num_hidden_layers: int = 1
    intermediate_size: int = 768
    positional_kernel: int = 64
    batch_seconds: float = 12.0
    max_speed: float = 1.2
    noisy: float = 0.4
    masked: float = 0.0
    num_clusters: int = 128
    regress_layers: tuple[int, ...] = (0, 1)
    pooled_layers: tuple[int, ...] = (0, 1)
    task_weights: tuple[float, float, float] = (1.0, 4.0, 0.0)
    peak_rate: float = 1e-3
    warmup_steps: int = 100
    decay_share: float = 0.8
    weight_decay: float = 0.01
    start_from: str = ""
    widen_from: str = ""
    seed: int = 0


def learning_rate(step: int, steps: int, recipe: Recipe) -> float:
    """Warm up, stay, and fall along a cosine over the last share of the steps."""
    if step < recipe.warmup_steps:
        return recipe.peak_rate * (step + 1) / recipe.warmup_steps
    left = (steps - step) / max(1, round(steps * recipe.decay_share))
    return recipe.peak_rate * (0.5 - 0.5 * math.cos(math.pi * min(1.0, left)))


class Run:
    """A training run and its folder.

    Parameters
    ----------
    sampler : CropSampler
    recipe : Recipe
    folder : Path
        ``recipe.json``, ``state.pt`` and the exported encoder in ``encoder/`` are written here.

    Raises
    ------
    ValueError
        If the folder holds a run of another recipe.
    """

    def __init__(self, sampler: CropSampler, recipe: Recipe, folder: Path) -> None:
        self.sampler, self.recipe, self.folder = sampler, recipe, folder
        self.step = 0
        folder.mkdir(parents=True, exist_ok=True)
        asked = json.loads(json.dumps(dataclasses.asdict(recipe)))
        self._refuse_another(asked)
        state = self._saved_state()
        crops = []
        if state is None:
            crops = [sampler.batch(CALIBRATION_STEP + index)[0] for index in range(CALIBRATION_BATCHES)]
            calibration = Calibration.estimated(crops, num_clusters=recipe.num_clusters, seed=recipe.seed)
        else:
            calibration = Calibration(**state["calibration"])
        torch.manual_seed(recipe.seed)
        self.student = Student(
            encoder_config(
                conv_dim=recipe.conv_dim,
                hidden_size=recipe.hidden_size,
                num_hidden_layers=recipe.num_hidden_layers,
                intermediate_size=recipe.intermediate_size,
                positional_kernel=recipe.positional_kernel,
            ),
            calibration,
            regress_layers=recipe.regress_layers,
            pooled_layers=recipe.pooled_layers,
            weights=recipe.task_weights,
        )
        if state is None and recipe.start_from:
            earlier = HubertModel.from_pretrained(recipe.start_from, dtype=torch.float32)
            self.student.encoder.load_state_dict(earlier.state_dict())
        elif state is None and recipe.widen_from:
            earlier = HubertModel.from_pretrained(recipe.widen_from, dtype=torch.float32)
            self.student.widen(earlier, crops, np.random.default_rng((recipe.seed, 2)))
        elif state is None:
            self.student.warm_start(crops)
        self.optimizer = torch.optim.AdamW(
            self.student.parameters(), betas=(0.9, 0.98), weight_decay=recipe.weight_decay
        )
        if state is not None:
            self.student.load_state_dict(state["student"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]

    def _refuse_another(self, asked: dict[str, Any]) -> None:
        """Write the recipe into a new folder, or compare it with the one that is there."""
        path = self.folder / "recipe.json"
        if not path.exists():
            path.write_text(json.dumps(asked, indent=2) + "\n")
            return
        known = json.loads(path.read_text())
        differing = sorted(name for name in asked if known.get(name) != asked[name])
        if differing:
            msg = f"{path}: a run with another {', '.join(differing)}; pass another output folder."
            raise ValueError(msg)

    def _saved_state(self) -> dict[str, Any] | None:
        path = self.folder / "state.pt"
        if not path.exists():
            return None
        state: dict[str, Any] = torch.load(path, weights_only=True)
        return state

    def advance(self, steps: int) -> dict[str, float]:
        """Take one step of a run of so many, and return its losses."""
        recipe, step = self.recipe, self.step
        clean, heard = self.sampler.batch(step)
        num_frames = (clean.shape[1] - 400) // 320 + 1
        mask = span_mask(
            (len(clean), num_frames), np.random.default_rng((recipe.seed, step, 1)), share=recipe.masked
        )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, recipe)
        self.student.train()
        losses = self.student.losses(clean, heard, mask)
        self.optimizer.zero_grad()
        losses["total"].backward()  # type: ignore[no-untyped-call]
        clip_grad_norm_(self.student.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def save(self) -> None:
        """Write the state and the encoder, each beside its old version and then in its place."""
        scratch = self.folder / "state.part"
        torch.save(
            {
                "student": self.student.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "calibration": self.student.calibration.tensors(),
                "step": self.step,
            },
            scratch,
        )
        scratch.replace(self.folder / "state.pt")
        export(self.student.encoder, self.folder / "encoder")


def export(encoder: HubertModel, folder: Path) -> None:
    """Write the encoder as transformers reads it: ``HubertModel.from_pretrained(folder)``."""
    encoder.save_pretrained(folder)
    preprocessor = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": 16_000,
        "padding_side": "right",
        "padding_value": 0.0,
        "do_normalize": True,
        "return_attention_mask": False,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n")


def train(run: Run, *, steps: int, save_every: float, report_every: int) -> None:
    """Go on until the run has so many steps; save every so many seconds and at the end."""
    saved = started = time.monotonic()
    first = run.step
    sums: dict[str, float] = {}
    summed = 0
    while run.step < steps:
        for name, loss in run.advance(steps).items():
            sums[name] = sums.get(name, 0.0) + loss
        summed += 1
        if run.step % report_every == 0 or run.step == steps:
            now = time.monotonic()
            taken = (now - started) / (run.step - first)
            parts = ", ".join(f"{name} {total / summed:.4f}" for name, total in sums.items())
            heard = run.step * run.recipe.batch_seconds / run.sampler.speech.seconds
            minutes = (steps - run.step) * taken / 60
            log.info(
                "step %d of %d, %.2f epochs: %s; %.2f s a step, %.0f min left",
                *(run.step, steps, heard, parts, taken, minutes),
            )
            sums.clear()
            summed = 0
        if time.monotonic() - saved > save_every:
            run.save()
            saved = time.monotonic()
    run.save()


def recipe_options(parser: argparse.ArgumentParser) -> None:
    """Add one option per field of the recipe."""
    for field in dataclasses.fields(Recipe):
        default = field.default
        several = isinstance(default, tuple)
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=type(default[0]) if isinstance(default, tuple) else type(default),
            nargs="+" if several else None,
            default=default,
            help="default: %(default)s",
        )


def main(arguments: Sequence[str]) -> int:
    """Parse, decode, train."""
    parser = argparse.ArgumentParser(prog="python -m pretraining.pretrain", description=__doc__)
    parser.add_argument("audio", nargs="+", type=Path, metavar="AUDIO_DIR", help="folders of speech")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT_DIR")
    parser.add_argument("--noise", type=Path, help="folder of noise to add to the speech")
    parser.add_argument("--leave-out", default="", metavar="REGEX", help="leave out files whose path matches")
    parser.add_argument("--steps", type=int, default=10_000, help="default: %(default)s")
    parser.add_argument(
        "--save-every", type=float, default=120.0, metavar="SECONDS", help="default: %(default)s"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: %(default)s")
    recipe_options(parser)
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.set_num_threads(options.threads)

    values: dict[str, Any] = {}
    for field in dataclasses.fields(Recipe):
        value = getattr(options, field.name)
        values[field.name] = tuple(value) if isinstance(value, list) else value
    recipe = Recipe(**values)
    files = find_audio(options.audio)
    if options.leave_out:
        files = [path for path in files if not re.search(options.leave_out, str(path))]
    options.output.mkdir(parents=True, exist_ok=True)

    def decoded(done: int) -> None:
        if done % 500 == 0:
            log.info("%d of %d files decoded", done, len(files))

    speech = Recordings.decoded(files, options.output / "speech", progress=decoded)
    noise = None
    if options.noise is not None:
        noise = Recordings.decoded(find_audio([options.noise]), options.output / "noise")
    log.info("%.2f hours of speech in %d files", speech.seconds / 3600, len(speech))
    sampler = CropSampler(
        speech,
        noise,
        batch_seconds=recipe.batch_seconds,
        max_speed=recipe.max_speed,
        noisy=recipe.noisy,
        seed=recipe.seed,
    )
    train(
        Run(sampler, recipe, options.output),
        steps=options.steps,
        save_every=options.save_every,
        report_every=50,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
