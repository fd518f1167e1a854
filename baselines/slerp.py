"""SLERP: interpolate pivot and source along the arc between them, tensor by tensor.

Shoemake, 1985, Animating rotation with quaternion curves, https://doi.org/10.1145/325334.325242,
section 3.3; on weights as in mergekit, https://github.com/arcee-ai/mergekit. Two steps per
tensor: measure the angle between the flattened weights, weigh the two by its sines.
"""

import math
from collections.abc import Sequence

from torch import Tensor

from seme.checks import check_between
from seme.elementwise import weighted_mean
from seme.interface import Site, checked_by, takes, whole_tensor

_PARALLEL = 0.9995
"""Cosine, of either sign, from which weights count as parallel (mergekit)."""
_ZERO_NORM = 1e-8
"""Norm up to which a tensor is not normalised (mergekit)."""
_RUN = 1 << 17
"""Elements that are multiplied in float64 at one time."""


def check(*, t: float) -> None:
    """Demand a place between the pivot, 0, and the source, 1."""
    check_between("t", t, 0, 1)


@whole_tensor(temporaries=0)
@takes(min_sources=1, max_sources=1)
@checked_by(check)
def merge(pivot: Tensor, sources: Sequence[Tensor], _site: Site, /, *, t: float) -> Tensor:
    """Interpolate spherically between the pivot and its one source.

    The angle is that of the normalised weights, but the weights are interpolated as they are:
    from two tensors of one norm comes a third of that norm. Nearly parallel and antiparallel
    tensors are interpolated linearly. All sums run in float64 and are rounded once (mergekit's
    in float32).

    Args:
        pivot: float32 weights of a whole tensor, any shape. Never written to.
        sources: One tensor of float32 weights, shaped like ``pivot``.
        t: Share of the arc from the pivot, in [0, 1].

    Returns:
        float32 weights of the pivot's shape.
    """
    (source,) = sources
    weights = arc_weights(cosine(pivot, source), t)
    return weighted_mean([pivot, source], weights=weights, divisor=1.0)


def cosine(pivot: Tensor, source: Tensor) -> float:
    """Return the cosine of the angle between flattened tensors, in [-1, 1]; 0 if one is zero."""
    norms = [math.sqrt(_dot(tensor, tensor)) for tensor in (pivot, source)]
    scale = math.prod(norm if norm > _ZERO_NORM else 1.0 for norm in norms)
    return min(max(_dot(pivot, source) / scale, -1.0), 1.0)


def arc_weights(cosine: float, t: float) -> tuple[float, float]:
    """Return the weights of pivot and source at the share ``t`` of the arc between them."""
    if abs(cosine) > _PARALLEL:
        return 1 - t, t
    angle = math.acos(cosine)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


def _dot(a: Tensor, b: Tensor) -> float:
    """Return the dot product of two flattened tensors, summed in float64."""
    x, y = a.reshape(-1), b.reshape(-1)
    runs = (slice(start, start + _RUN) for start in range(0, x.numel(), _RUN))
    return math.fsum(float(x[run].double().dot(y[run].double())) for run in runs)
