"""From what a task says of each document to one fraction with a standard error."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from eval.records import Sample, Score


def mean_score(samples: Sequence[Sample], *, metric: str) -> Score:
    """Average a per-document metric that is a fraction already.

    Args:
        samples: At least two documents.
        metric: The metric's name.

    Returns:
        The mean, with standard error sd / sqrt(n), ddof 1.
    """
    values = np.array([sample.value for sample in samples], dtype=np.float64)
    _check_enough(values, metric)
    value = float(values.mean())
    return Score(
        value=value,
        stderr=float(values.std(ddof=1) / math.sqrt(len(values))),
        n=len(values),
        raw=value,
        raw_metric=metric,
        higher_is_better=True,
    )


def byte_likelihood(loglikelihood: float, n_bytes: int) -> float:
    """Geometric mean probability per byte, 2 ** -bits_per_byte, in (0, 1] (ours).

    Args:
        loglikelihood: Natural logarithm, summed over the text.
        n_bytes: UTF-8 bytes of the text, at least 1.
    """
    return math.exp(loglikelihood / n_bytes)


def byte_likelihood_score(samples: Sequence[Sample]) -> Score:
    """Score rolling log-likelihoods of whole documents by bits per byte.

    Bits per byte is a ratio of sums, R = sum(bits) / sum(bytes); its standard error is the
    ratio estimator's (Cochran, Sampling Techniques, 1977, section 6.4), carried to 2 ** -R
    by the derivative.

    Args:
        samples: At least two documents with ``loglikelihood`` and ``n_bytes``.
    """
    logs = np.array([sample.loglikelihood for sample in samples], dtype=np.float64)
    sizes = np.array([sample.n_bytes for sample in samples], dtype=np.float64)
    _check_enough(logs, "bits_per_byte")
    n, bits = len(logs), -logs / math.log(2)
    ratio = bits.sum() / sizes.sum()
    residuals = bits - ratio * sizes
    ratio_stderr = math.sqrt(n / (n - 1) * float(residuals @ residuals)) / sizes.sum()
    value = 2.0 ** float(-ratio)
    return Score(
        value=value,
        stderr=float(math.log(2) * value * ratio_stderr),
        n=n,
        raw=float(ratio),
        raw_metric="bits_per_byte",
        higher_is_better=False,
    )


def _check_enough(values: NDArray[np.float64], metric: str) -> None:
    if len(values) < 2:
        raise ValueError(f"{metric} needs at least 2 documents for an error, got {len(values)}")
    if not np.isfinite(values).all():
        raise ValueError(
            f"{metric} must be finite for every document, got {values.tolist()[:5]}"
        )
