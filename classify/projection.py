"""Where utterances lie among each other: the two directions in which a layer's embeddings spread most."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from classify.fitting import FRAMES, NO_POOLING
from classify.results import Projection, Result

if TYPE_CHECKING:
    from cache import FeatureCache
    from classify.fusion import FusedCache

PLACES = 3  # decimals of a point; the farthest is at 1


def project(features: NDArray[np.floating], source: str) -> Projection:
    """Return standardised features on their first two principal components.

    It is fitted on all utterances at once, without a look at any label: a picture, of which no score is made.

    Parameters
    ----------
    features : ndarray of shape (utterance, feature)
        At least two of each.
    source : str
        Which features they are, in words.
    """
    scaled = StandardScaler().fit_transform(features)
    with np.errstate(invalid="ignore"):  # shares of no variance at all
        components = PCA(2, svd_solver="full").fit(scaled)
    points = components.transform(scaled)
    points = np.round(points / max(np.abs(points).max(), 1e-12), PLACES) + 0.0  # no negative zeros
    return Projection(
        source=source,
        explained=tuple(np.nan_to_num(components.explained_variance_ratio_).tolist()),
        points=tuple(map(tuple, points.tolist())),
    )


def layer_of(result: Result) -> int:
    """Return the layer that a row stands on: its own, the one chosen most often, or the one of most weight."""
    if result.layer is not None:
        return result.layer
    if result.mixed_layers:
        learnt = [weights for weights in result.layer_weights if weights]
        heaviest = int(np.mean(learnt, axis=0).argmax()) if learnt else len(result.mixed_layers) // 2
        return result.mixed_layers[heaviest]
    chosen = Counter(match[1] for choice in result.chosen if (match := re.match(r"layer (\d+)", choice)))
    return int(chosen.most_common(1)[0][0])


def project_best(
    best: Result,
    sources: "Mapping[str, FeatureCache | FusedCache]",
    places: Mapping[str, NDArray[np.intp]],
) -> Projection | None:
    """Return the picture of a row's features, out of the caches by name; None where there is one feature only."""
    cache = sources[best.cache]
    pooling = best.pooling if best.pooling not in (FRAMES, NO_POOLING) else cache.poolings[0]
    layer = layer_of(best) if best.selection != "none" else cache.layers[0]
    features = cache.features(layer, pooling)[places[best.cache]]
    return project(features, f"{best.cache}, layer {layer}, {pooling}") if features.shape[1] > 1 else None
