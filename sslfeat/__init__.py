"""Stage 1: turn a folder of emotional speech into per-layer embeddings in a cache."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sslfeat.audio import decode
    from sslfeat.containers import AudioError
    from sslfeat.corpora import CorpusError, read_corpus
    from sslfeat.embedder import SSLEmbedder
    from sslfeat.encoder import Encoder, EncoderError

__all__ = [
    "AudioError",
    "CorpusError",
    "Encoder",
    "EncoderError",
    "SSLEmbedder",
    "decode",
    "read_corpus",
]

# Found when first asked for: the names of a corpus need no torch.
_LAZY = {
    "AudioError": "sslfeat.containers",
    "CorpusError": "sslfeat.corpora",
    "Encoder": "sslfeat.encoder",
    "EncoderError": "sslfeat.encoder",
    "SSLEmbedder": "sslfeat.embedder",
    "decode": "sslfeat.audio",
    "read_corpus": "sslfeat.corpora",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(_LAZY[name]), name)
