"""The contract between the two stages: what a row is, and the file that holds rows with their embeddings."""

import importlib
from typing import TYPE_CHECKING, Any

from cache.schema import (
    CacheError,
    Duplicate,
    Failure,
    FeatureSpec,
    Row,
    SpecMismatchError,
    Utterance,
)

if TYPE_CHECKING:
    from cache.merging import merge
    from cache.reader import FeatureCache
    from cache.writer import CacheWriter

__all__ = [
    "CacheError",
    "CacheWriter",
    "Duplicate",
    "Failure",
    "FeatureCache",
    "FeatureSpec",
    "Row",
    "SpecMismatchError",
    "Utterance",
    "merge",
]

# Found when first asked for, so that the nouns alone can be had without h5py.
_LAZY = {"CacheWriter": "cache.writer", "FeatureCache": "cache.reader", "merge": "cache.merging"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(_LAZY[name]), name)
