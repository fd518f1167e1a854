"""Task matrices: which tensors spectral methods decompose, thin SVDs, polar factors, the rest.

A task matrix is the task vector of a weight matrix in its shape, (outputs, inputs). Spectral
methods decompose those of linear layers. Embeddings and LM heads have a row per token and no
input space that tasks share: like norms, biases and tensors of other dimensions they get the
mean of the task vectors, unless ``vocabulary`` is ``matrix``. GPT-2 stores (inputs, outputs):
where a method tells the two apart (WUDI, SWUDI, ACE, KnOTS), they change places.

All in float64. Singular vectors come from the eigenvectors of the smaller Gram matrix: against
LAPACK's SVD that is several times as fast, and what it loses lies below :data:`RESOLUTION`.
Symbols: m outputs, n inputs, k directions.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
import xxhash
from torch import Tensor

from seme.architecture.families import EMBEDDINGS, HEADS
from seme.checks import check_choice
from seme.elementwise import add_weighted

RESOLUTION = 1e-6
"""Singular value over the largest below which a Gram matrix in float64 does not show it well."""
_ROUNDING = 2.0**-24
"""Relative error of a weight in float32."""

Vocabulary = Literal["mean", "matrix"]
"""Embeddings and LM heads get the mean of the task vectors, or are matrices like others."""


class ThinSvd(NamedTuple):
    """The leading part of a singular value decomposition, float64: left diag(values) right^T."""

    left: Tensor
    """Left singular vectors in columns, (m, k)."""
    values: Tensor
    """Singular values, positive, descending, (k,)."""
    right: Tensor
    """Right singular vectors in columns, (n, k)."""


def check_vocabulary(vocabulary: str) -> None:
    """Demand one of the two treatments of embeddings and LM heads."""
    check_choice("vocabulary", vocabulary, get_args(Vocabulary))


def is_matrix(name: str, shape: Sequence[int], /, *, vocabulary: Vocabulary) -> bool:
    """Tell whether spectral methods decompose a tensor, and need it whole.

    Args:
        name: Name of the tensor.
        shape: Its shape.
        vocabulary: ``mean`` leaves out embeddings and LM heads.
    """
    is_table = name.endswith((*HEADS, *EMBEDDINGS))
    return len(shape) == 2 and (vocabulary == "matrix" or not is_table)


def task_matrices(pivot: Tensor, sources: Sequence[Tensor]) -> list[Tensor]:
    """Compute the task matrices, in an order that their values alone decide.

    So the order of the configuration shows in no bit of what is computed from them.

    Args:
        pivot: float32 weights, (m, n). Never written to.
        sources: float32 weights, (m, n) each.

    Returns:
        float64, (m, n) each.
    """
    matrices = [source.double() - pivot.double() for source in sources]
    return sorted(matrices, key=_digest)


def rounding_norm(pivot: Tensor, sources: Sequence[Tensor]) -> float:
    """Estimate the largest singular value that rounding to float32 leaves in a task matrix.

    That of a matrix of independent errors, 2 ** -24 (sqrt(m) + sqrt(n)) rms(weights). Directions
    up to it hold no task: an adapter's task matrix has rank r, and its sum with the weights in
    float32 has such errors in all others.

    Args:
        pivot: float32 weights, (m, n).
        sources: float32 weights, (m, n) each; the largest root mean square counts.
    """
    m, n = pivot.shape
    norms = [float(torch.linalg.vector_norm(w.double())) for w in (pivot, *sources)]
    return _ROUNDING * (math.sqrt(m) + math.sqrt(n)) * max(norms) / math.sqrt(m * n)


def thin_svd(matrix: Tensor, *, floor: float, rank: int | None = None) -> ThinSvd:
    """Decompose a matrix by the eigenvectors of its smaller Gram matrix.

    Args:
        matrix: float64, (m, n).
        floor: Singular values up to it are left out, as are those up to :data:`RESOLUTION`
            times the largest; see :func:`rounding_norm`.
        rank: Most directions; None for all.

    Returns:
        At most ``rank`` directions, none of a matrix of zeros.
    """
    if matrix.shape[0] > matrix.shape[1]:
        right, values, left = thin_svd(matrix.T, floor=floor, rank=rank)
        return ThinSvd(left, values, right)
    left = leading_eigenvectors(matrix @ matrix.T, floor=floor)[1][:, :rank]
    scaled = matrix.T @ left
    values = torch.linalg.vector_norm(scaled, dim=0)
    return ThinSvd(left, values, scaled / values)


def leading_eigenvectors(gram: Tensor, *, floor: float) -> tuple[Tensor, Tensor]:
    """Decompose a Gram matrix, without what it does not show.

    Args:
        gram: float64, (k, k), symmetric.
        floor: Square roots of eigenvalues up to it are left out, as are those up to
            :data:`RESOLUTION` times the largest.

    Returns:
        Eigenvalues, positive, descending; eigenvectors in columns.
    """
    eigenvalues, vectors = torch.linalg.eigh(gram)
    least = max(floor**2, RESOLUTION**2 * float(eigenvalues[-1]))
    n_kept = int(torch.count_nonzero(eigenvalues > least))
    return eigenvalues.flip(0)[:n_kept], vectors.flip(1)[:, :n_kept]


def polar_factor(columns: Tensor) -> Tensor:
    """Return the matrix of orthonormal columns that is nearest to a matrix.

    Args:
        columns: float64, (m, k).

    Returns:
        float64, (m, k): U V^T of the SVD. Directions that the columns lack are left out (an SVD
        adds arbitrary ones), so its columns are orthonormal only if ``columns`` has rank k.
    """
    if columns.shape[1] == 0:
        return columns
    squares, vectors = torch.linalg.eigh(columns.T @ columns)
    is_seen = squares > RESOLUTION**2 * squares[-1]
    scales = torch.where(is_seen, squares.clamp(min=0).rsqrt(), 0.0)
    inverse_root: Tensor = (vectors * scales) @ vectors.T
    return columns @ inverse_root


def sum_of(matrices: Sequence[Tensor]) -> Tensor:
    """Sum matrices of one shape, in their order."""
    first, *others = matrices
    total = first.clone()
    for matrix in others:
        total += matrix
    return total


def with_equal_values(svd: ThinSvd) -> Tensor:
    """Multiply a decomposition back with the mean of its singular values in place of each."""
    mean = float(svd.values.sum()) / max(len(svd.values), 1)
    return (svd.left * mean) @ svd.right.T


def times_gram(rows: Tensor, matrix: Tensor) -> Tensor:
    """Return rows (matrix^T matrix), multiplied in the order that takes less time and memory.

    Args:
        rows: float64, (r, n).
        matrix: float64, (m, n).

    Returns:
        float64, (r, n).
    """
    is_tall = matrix.shape[0] > matrix.shape[1]
    return rows @ (matrix.T @ matrix) if is_tall else (rows @ matrix.T) @ matrix


def add_change(pivot: Tensor, change: Tensor, *, lam: float) -> Tensor:
    """Add ``lam`` times a merged task matrix to the pivot.

    Args:
        pivot: float32 weights, (m, n). Never written to.
        change: float64, (m, n).
        lam: Scale of the change.

    Returns:
        float32, rounded once; where the change is zero the pivot's bits stay.
    """
    scaled = change * lam
    return torch.where(scaled == 0, pivot, (pivot.double() + scaled).float())


def add_mean(pivot: Tensor, sources: Sequence[Tensor], *, lam: float) -> Tensor:
    """Add ``lam`` times the mean of the task vectors, as to all that is no task matrix.

    Args:
        pivot: float32 weights, any shape. Never written to.
        sources: float32 weights of the pivot's shape.
        lam: Scale of the mean.

    Returns:
        float32, rounded once; where the change is zero the pivot's bits stay.
    """
    n = len(sources)
    return add_weighted(pivot, sources, weights=[1 / n] * n, scale=lam)


def _digest(matrix: Tensor) -> bytes:
    return xxhash.xxh3_128_digest(matrix.contiguous().cpu().numpy().data)
