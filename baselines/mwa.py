"""Metrics-Weighted Averaging: a mean of checkpoints, weighted by a metric of their training.

Yu and Choi, 2025, https://arxiv.org/abs/2504.18580. Only the abstract could be read: a formula
with one penalty factor, in which a lower loss or a later step weighs more. The power law here is
ours.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

from torch import Tensor

from seme.checks import check_choice, check_finite
from seme.elementwise import weighted_mean
from seme.interface import Site, checked_by, takes

Metric = Literal["loss", "step"]
"""``loss``: lower values weigh more. ``step``: higher values weigh more."""


def check(*, metric: Metric, values: object, penalty: float, n_sources: int) -> None:
    """Demand a known metric, one positive number per source, and a penalty factor."""
    check_choice("metric", metric, get_args(Metric))
    check_finite("penalty", penalty, least=0)
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise ValueError(
            f"values must be a list of one positive {metric} per source, in the order of the "
            f"sources, got {values!r}: give method.values=[...] and method.metric=loss or step"
        )
    if len(values) != n_sources:
        raise ValueError(
            f"values must hold one {metric} per source: expected {n_sources}, got "
            f"{len(values)}: {list(values)}"
        )
    for index, value in enumerate(values):
        check_finite(f"values[{index}]", value)
        if value <= 0:
            raise ValueError(f"values[{index}] must be positive, got {value!r}")


@takes(min_sources=2, order_matters=True)
@checked_by(check)
def merge(
    _pivot: Tensor,
    sources: Sequence[Tensor],
    _site: Site,
    /,
    *,
    metric: Metric,
    values: Sequence[float],
    penalty: float,
) -> Tensor:
    """Average the sources by the weights of their metric.

    The pivot gives names and configuration only. Nothing is trimmed, no sign is elected.

    Args:
        sources: float32 weights of checkpoints, at least two, all of one shape.
        metric: Which metric the values are, see :data:`Metric`.
        values: One positive number per source, in the order of the sources.
        penalty: Exponent of the metric, at least 0; 0 is the plain mean.

    Returns:
        float32 weights of their shape.
    """
    shares = metric_shares(values, metric, penalty)
    return weighted_mean(sources, weights=shares, divisor=1.0)


def metric_shares(values: Sequence[float], metric: Metric, penalty: float) -> list[float]:
    """Return ``loss ** -penalty`` or ``step ** penalty`` over their sum, one per value."""
    sign = -1 if metric == "loss" else 1
    exponents = [sign * penalty * math.log(value) for value in values]
    powers = [math.exp(exponent - max(exponents)) for exponent in exponents]
    whole = math.fsum(powers)
    return [power / whole for power in powers]
