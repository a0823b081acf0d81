"""Stage 2: train, compare and keep classifiers on cached embeddings."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from classify.attentive import AttentiveClassifier
    from classify.bundle import Bundle, BundleError
    from classify.feedforward import FeedforwardClassifier
    from classify.fusion import AveragingClassifier
    from classify.results import Comparison

__all__ = [
    "AttentiveClassifier",
    "AveragingClassifier",
    "Bundle",
    "BundleError",
    "Comparison",
    "FeedforwardClassifier",
]

# Found when first asked for, so that each name costs only what it needs itself.
_LAZY = {
    "AttentiveClassifier": "classify.attentive",
    "AveragingClassifier": "classify.fusion",
    "Bundle": "classify.bundle",
    "BundleError": "classify.bundle",
    "Comparison": "classify.results",
    "FeedforwardClassifier": "classify.feedforward",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(_LAZY[name]), name)
