"""How far batched features are from transformers run one utterance at a time, on encoders of the published sizes.

    python benchmarks/exactness.py [--device cuda] [--only wav2vec2-base ...]

Each encoder has its published configuration and random weights. Five lengths from one frame to ten seconds are encoded in one padded batch,
then one frame beside a minute; the error is the norm of the difference over the norm, the largest over utterances and layers. Beside it stands
what transformers itself makes of the first batch, with the attention mask that its documentation asks for. wav2vec2-large-lv60,
wav2vec2-large-xlsr-53 and wav2vec2-xls-r-300m have one configuration.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.machine import processor
from sslfeat.encoder import Encoder, exact_products

LENGTHS = (400, 719, 8_000, 48_123, 160_000)
LONG_LENGTHS = (400, 960_000)
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
LAYER_NORM = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
PUBLISHED = {
    "wav2vec2-base": ("Wav2Vec2", {}),
    "wav2vec2-large-960h": ("Wav2Vec2", LARGE),
    "wav2vec2-large-lv60": ("Wav2Vec2", LARGE | LAYER_NORM),
    "hubert-base-ls960": ("Hubert", {}),
    "hubert-large-ll60k": ("Hubert", LARGE | LAYER_NORM),
}


def relative(got, expected):
    return float((got - expected).norm() / expected.norm())


def states_of(output, model):
    return [*output.hidden_states[: model.config.num_hidden_layers], output.last_hidden_state]


def encode_masked(model, waveforms, device):
    batch = torch.zeros(len(waveforms), max(map(len, waveforms)))
    mask = torch.zeros(batch.shape, dtype=torch.long)
    for row, waveform in enumerate(waveforms):
        batch[row, : len(waveform)] = torch.from_numpy(waveform)
        mask[row, : len(waveform)] = 1
    output = model(batch.to(device), attention_mask=mask.to(device), output_hidden_states=True)
    return [state.cpu() for state in states_of(output, model)]


def race(name, device):
    family, options = PUBLISHED[name]
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}Model")(
        getattr(transformers, f"{family}Config")(**options)
    ).eval()
    encoder = Encoder(model, model_id=name, normalise=False, device=device)
    model = model.to(encoder.device)
    generator = np.random.default_rng(0)
    ours = theirs = 0.0
    with torch.inference_mode(), exact_products():
        for lengths in (LENGTHS, LONG_LENGTHS):
            waveforms = [(0.1 * generator.standard_normal(length)).astype(np.float32) for length in lengths]
            counts, layers = encoder.encode(waveforms)
            batched = [layer.cpu() for layer in layers]
            masked = encode_masked(model, waveforms, encoder.device) if lengths is LENGTHS else None
            for row, waveform in enumerate(waveforms):
                alone = model(torch.from_numpy(waveform)[None].to(encoder.device), output_hidden_states=True)
                for layer, state in enumerate(states_of(alone, model)):
                    expected, frames = state[0].cpu(), int(counts[row])
                    ours = max(ours, relative(batched[layer][row, :frames], expected))
                    if masked is not None:
                        theirs = max(theirs, relative(masked[layer][row, :frames], expected))
    return {"layers": len(batched), "error": ours, "error_of_transformers_batched": theirs}


def device_name(device):
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{processor()}, {os.cpu_count()} cores"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="+", choices=list(PUBLISHED), default=list(PUBLISHED))
    arguments = parser.parse_args()
    print(f"{'encoder':24} {'layers':>6} {'ours':>9} {'transformers, batched with mask':>32}")
    results = {}
    for name in arguments.only:
        results[name] = found = race(name, arguments.device)
        print(
            f"{name:24} {found['layers']:6} {found['error']:9.1e} {found['error_of_transformers_batched']:32.1e}"
        )
    record = {
        "device": device_name(arguments.device),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "lengths": [LENGTHS, LONG_LENGTHS],
        "results": results,
    }
    path = Path(__file__).parent / "results" / f"exactness-{arguments.device.partition(':')[0]}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
