"""Stage 2: train, compare and keep classifiers on cached embeddings."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from classify.feedforward import FeedforwardClassifier as FeedforwardClassifier

# Loaded at first use, so that a name costs only what it needs itself.
_MODULES = {"FeedforwardClassifier": "classify.feedforward"}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(_MODULES[name]), name)
