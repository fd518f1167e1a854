"""Depth: which layers of a source, in what shares, stand at a layer of the pivot.

SeMe, https://arxiv.org/abs/2505.20144: layers are interpolated linearly.
"""

import math


def layer_shares(layer: int, *, n_pivot: int, n_source: int) -> tuple[tuple[int, float], ...]:
    """Find the layers of a source between which a layer of the pivot lies (paper).

    Args:
        layer: Layer of the pivot, from 0.
        n_pivot: Number of layers of the pivot.
        n_source: Number of layers of the source.

    Returns:
        (source layer, share) pairs, shares positive and summing to 1: two neighbouring layers,
        or one where the pivot's layer falls on it. The first and the last layers of both models
        stand on one another; a pivot of one layer takes the source's first (ours).

    Raises:
        ValueError: If the layer is not one of the pivot's, or a model has no layer.
    """
    if n_pivot < 1 or n_source < 1 or not 0 <= layer < n_pivot:
        raise ValueError(
            f"layer must be one of the pivot's {n_pivot} and the source must have layers, got "
            f"layer {layer} and {n_source} layers of the source"
        )
    position = layer * (n_source - 1) / max(n_pivot - 1, 1)
    below = math.floor(position)
    share = position - below
    if share == 0:
        return ((below, 1.0),)
    return ((below, 1 - share), (below + 1, share))
