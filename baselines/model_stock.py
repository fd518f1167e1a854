"""Model Stock: go from the pivot towards the mean of the sources, as far as their angle says.

Jang et al., 2024, https://arxiv.org/abs/2403.19522, section 4: sources are noisy copies of a
centre; per tensor, the point nearest to it on the way from the pivot to their mean is taken.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from baselines.gram import Gram, cosines_of, gram_of
from seme.elementwise import add_weighted
from seme.interface import Prepared, Site, checked_by, prepared_by, takes
from seme.streaming import Models, OpenTensor

_SINGULAR = 1e-6
"""Denominator of the ratio up to which a tensor is left as the pivot's (mergekit)."""


class AngleRatios:
    """The interpolation ratio of every tensor, by one pass over it."""

    def at(self, tensor: OpenTensor) -> float:
        return interpolation_ratio(
            mean_cosine(gram_of(tensor, "pivot")), len(tensor.models.sources)
        )

    def diagnostics(self) -> Mapping[str, Any]:
        return {}


def prepare(_models: Models, /) -> Prepared:
    """Read nothing yet: ratios are computed tensor by tensor."""
    return AngleRatios()


def check() -> None:
    """Demand nothing: there is no hyper-parameter."""


@prepared_by(prepare)
@takes(min_sources=2)
@checked_by(check)
def merge(pivot: Tensor, sources: Sequence[Tensor], site: Site, /) -> Tensor:
    """Interpolate between the pivot and the mean of the sources.

    ``merged = t * mean + (1 - t) * pivot``. Scope of the angle: the tensor. Nothing is trimmed,
    no sign is elected; the mean divides by the number of sources.

    Args:
        pivot: Pre-trained float32 weights, any shape. Never written to.
        sources: Fine-tuned float32 weights, each shaped like ``pivot``; at least two, in any
            order.
        site: Carries the tensor's ratio t, see :func:`interpolation_ratio`.

    Returns:
        float32 weights of the pivot's shape.
    """
    ratio: float = site.prepared
    n_sources = len(sources)
    return add_weighted(pivot, sources, weights=[1.0] * n_sources, scale=ratio / n_sources)


def mean_cosine(gram: Gram) -> float:
    """Average the cosines of all pairs of task vectors, in [-1, 1].

    A zero task vector counts as orthogonal to all others. mergekit also averages cosines, but
    takes products of norms under 1e-6 for 1e-6.
    """
    cosines = cosines_of(gram)
    pairs = [float(cosines[pair]) for pair in itertools.combinations(range(len(gram)), 2)]
    return math.fsum(pairs) / len(pairs)


def interpolation_ratio(cosine: float, n_sources: int) -> float:
    """Return the paper's t: ``N cos / (1 + (N - 1) cos)``.

    Args:
        cosine: Of the angle between task vectors; negative ones give a negative ratio, which
            leads away from the mean (paper and mergekit; only opposed sources have them).
        n_sources: N, at least 2.

    Returns:
        1 for parallel task vectors, 0 for orthogonal ones and where the denominator is under
        1e-6.
    """
    denominator = 1 + (n_sources - 1) * cosine
    return 0.0 if abs(denominator) < _SINGULAR else n_sources * cosine / denominator
