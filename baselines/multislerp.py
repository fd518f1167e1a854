"""Multi-SLERP: the weighted mean direction of any number of sources, at their mean norm.

Goddard, 2025, https://goddard.blog/posts/multislerp-wow-what-a-cool-idea; in mergekit. Per
tensor: unit vectors, their weighted mean, back to the sphere, times the weighted mean norm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from torch import Tensor

from baselines.coefficients import check_mean_weights, weights_or_ones
from baselines.gram import Gram, Origin, combine, cosines_of, gram_of
from seme.checks import check_choice
from seme.interface import Prepared, Site, checked_by, prepared_by
from seme.streaming import Models, OpenTensor

_CANCELLED = 1e-8
"""Norm of the mean unit vector up to which it has no direction (mergekit)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanDirections:
    """Coefficients of the sources in every tensor, by one pass over it."""

    weights: Sequence[float]
    origin: Origin

    def at(self, tensor: OpenTensor) -> list[float]:
        return mean_direction(gram_of(tensor, self.origin), self.weights)

    def diagnostics(self) -> Mapping[str, Any]:
        return {}


def prepare(models: Models, /, *, weights: Sequence[float] | None, origin: Origin) -> Prepared:
    """Read nothing yet: angles are measured tensor by tensor.

    Args:
        models: The pivot and the sources.
        weights: One finite number per source; None is 1 for all. Divided by their sum.
        origin: ``pivot`` takes task vectors to the sphere (mergekit with a base model),
            ``zero`` the weights themselves (mergekit without).
    """
    return MeanDirections(weights=weights_or_ones(weights, len(models.sources)), origin=origin)


def check(*, weights: Sequence[float] | None, origin: Origin, n_sources: int) -> None:
    """Demand weights that a mean can divide by their sum, and a known origin."""
    check_mean_weights(weights, n_sources)
    check_choice("origin", origin, get_args(Origin))


@prepared_by(prepare)
@checked_by(check)
def merge(pivot: Tensor, sources: Sequence[Tensor], site: Site, /, *, origin: Origin) -> Tensor:
    """Add up the sources' vectors, each times its coefficient, from the origin on.

    Scope of angles and norms: the tensor. Nothing is trimmed and no sign is elected.

    Args:
        pivot: float32 weights, any shape; the origin or, if that is zero, without influence.
            Never written to.
        sources: float32 weights, each shaped like ``pivot``.
        site: Carries the tensor's coefficients, see :func:`mean_direction`.
        origin: See :func:`prepare`.

    Returns:
        float32 weights of the pivot's shape.
    """
    return combine(pivot, sources, site.prepared, origin)


def mean_direction(gram: Gram, weights: Sequence[float]) -> list[float]:
    """Return the coefficients of the weighted mean direction at the weighted mean norm.

    The published steps are: project on the tangent space at the mean direction, average there,
    go back along the sphere. That average is zero for every input, because the weighted sum of
    the unit vectors is a multiple of the mean direction; so the mean direction is the result.

    Args:
        gram: Inner products of the sources' vectors.
        weights: One per source, their sum not zero.

    Returns:
        One number per source. Where the unit vectors cancel there is no direction, and the
        weighted mean of the vectors is taken (mergekit for two sources; it refuses more).
    """
    shares = np.array(weights) / np.sum(weights)
    norms = np.sqrt(np.diag(gram))
    length = np.sqrt(max(shares @ cosines_of(gram) @ shares, 0.0))
    if length <= _CANCELLED:
        return [float(share) for share in shares]
    lengths = np.where(norms > 0, norms, 1.0)
    return [float(c) for c in (shares @ norms) * shares / lengths / length]
