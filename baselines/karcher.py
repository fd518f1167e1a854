"""Karcher mean: the mean of the sources' directions along the sphere, at their mean norm.

Karcher, 1977, https://doi.org/10.1002/cpa.3160300502; on weights as in mergekit,
https://github.com/arcee-ai/mergekit. Per tensor: unit vectors; from their mean, steps along the
sphere to the point from which the logarithms of all sum to zero; times the mean norm.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from baselines.coefficients import check_weights, weights_or_ones
from baselines.gram import Gram, Origin, combine, cosines_of, gram_of
from seme.checks import check_choice, check_finite, check_whole
from seme.interface import Prepared, Site, checked_by, prepared_by
from seme.streaming import Models, OpenTensor

_SAME = 1e-6
"""Angle in radians from a point, or from the point opposite, that counts as none."""

_Vector = NDArray[np.float64]
"""One coefficient per unit vector, (n_sources,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KarcherMeans:
    """Coefficients of the sources in every tensor, by one pass over it."""

    weights: Sequence[float]
    origin: Origin
    tolerance: float
    max_iterations: int

    def at(self, tensor: OpenTensor) -> list[float]:
        gram = gram_of(tensor, self.origin)
        return karcher_mean(
            gram,
            self.weights,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
        )

    def diagnostics(self) -> Mapping[str, Any]:
        return {}


def prepare(
    models: Models,
    /,
    *,
    weights: Sequence[float] | None,
    origin: Origin,
    tolerance: float,
    max_iterations: int,
) -> Prepared:
    """Read nothing yet: the means are found tensor by tensor.

    Args:
        models: The pivot and the sources.
        weights: One positive number per source; None is 1 for all. Divided by their sum.
        origin: ``zero`` takes the weights to the sphere (mergekit), ``pivot`` task vectors.
        tolerance: Length in radians of a step that is the last, at least 0.
        max_iterations: Most steps, at least 0; 0 is Multi-SLERP.
    """
    return KarcherMeans(
        weights=weights_or_ones(weights, len(models.sources)),
        origin=origin,
        tolerance=tolerance,
        max_iterations=max_iterations,
    )


def check(
    *,
    weights: Sequence[float] | None,
    origin: Origin,
    tolerance: float,
    max_iterations: int,
    n_sources: int,
) -> None:
    """Demand positive weights, a known origin, and limits that are not negative."""
    check_weights(weights, n_sources)
    if min(weights_or_ones(weights, n_sources)) <= 0:
        raise ValueError(f"weights must be positive on a sphere, got {weights}")
    check_choice("origin", origin, get_args(Origin))
    check_finite("tolerance", tolerance, least=0)
    check_whole("max_iterations", max_iterations, least=0)


@prepared_by(prepare)
@checked_by(check)
def merge(pivot: Tensor, sources: Sequence[Tensor], site: Site, /, *, origin: Origin) -> Tensor:
    """Add up the sources' vectors, each times its coefficient, from the origin on.

    Scope of angles and norms: the tensor. Nothing is trimmed and no sign is elected.

    Args:
        pivot: float32 weights, any shape; the origin or, if that is zero, without influence.
            Never written to.
        sources: float32 weights, each shaped like ``pivot``.
        site: Carries the tensor's coefficients, see :func:`karcher_mean`.
        origin: See :func:`prepare`.

    Returns:
        float32 weights of the pivot's shape.
    """
    return combine(pivot, sources, site.prepared, origin)


def karcher_mean(
    gram: Gram, weights: Sequence[float], *, tolerance: float, max_iterations: int
) -> list[float]:
    """Return the coefficients of the Karcher mean at the weighted mean norm.

    Every iterate lies in the span of the unit vectors, so that it is known by its coefficients
    and their inner products: no step reads the tensor again.

    Args:
        gram: Inner products of the sources' vectors.
        weights: One positive number per source.
        tolerance: See :func:`prepare`; likewise ``max_iterations``.
        max_iterations: Most steps.

    Returns:
        One number per source. Zero vectors have no direction and count for the norm only. From
        unit vectors that cancel the first source's direction is where steps begin (mergekit).
    """
    shares = np.array(weights) / math.fsum(weights)
    norms, cosines = np.sqrt(np.diag(gram)), cosines_of(gram)
    directed = norms > 0
    if not directed.any():
        return [0.0] * len(shares)
    toward = np.where(directed, shares, 0.0) / shares[directed].sum()
    mean = _start(toward, cosines, directed, tolerance)
    for _ in range(max_iterations):
        step = _step(mean, toward, cosines)
        length = _norm(step, cosines)
        if length <= tolerance:
            break
        mean = math.cos(length) * mean + math.sin(length) / length * step
        mean = mean / _norm(mean, cosines)
    lengths = np.where(directed, norms, 1.0)
    return [float(c) for c in (shares @ norms) * mean / lengths]


def _start(
    toward: _Vector, cosines: Gram, directed: NDArray[np.bool_], least: float
) -> _Vector:
    """Return the mean direction, or the first source's where the unit vectors cancel."""
    length = _norm(toward, cosines)
    if length > max(least, _SAME):
        return toward / length
    first: _Vector = np.zeros(len(toward))
    first[int(np.argmax(directed))] = 1.0
    return first


def _step(mean: _Vector, toward: _Vector, cosines: Gram) -> _Vector:
    """Average the logarithms of the unit vectors at a point: the way to go from there.

    A unit vector opposite to the point has no logarithm and is left out.
    """
    dots = np.clip(cosines @ mean, -1.0, 1.0)
    angles = np.arccos(dots)
    between = (angles > _SAME) & (angles < math.pi - _SAME)
    stretch = np.where(between, angles / np.where(between, np.sin(angles), 1.0), 1.0)
    pulls = np.where(angles < math.pi - _SAME, toward * stretch, 0.0)
    step: _Vector = pulls - (pulls @ dots) * mean
    return step


def _norm(vector: _Vector, cosines: Gram) -> float:
    return math.sqrt(max(float(vector @ cosines @ vector), 0.0))
