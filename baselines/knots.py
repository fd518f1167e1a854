"""KnOTS: bring low-rank task matrices into one basis of the outputs, then merge as TIES does.

Stoica et al., 2025, Model Merging with SVD to Tie the KnOTS, https://arxiv.org/abs/2410.19735;
the authors' code is https://github.com/gstoica27/KnOTS. Per matrix: decompose the task matrices
side by side, U S [V_1^T ... V_T^T]; merge the S V_t^T by trimming, electing signs and the
disjoint mean; multiply by U. Meant for LoRA adapters of one base.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from baselines.task_matrices import (
    Vocabulary,
    add_change,
    add_mean,
    check_vocabulary,
    is_matrix,
    rounding_norm,
    task_matrices,
    thin_svd,
)
from seme.checks import check_finite, check_share
from seme.elementwise import add_signed
from seme.interface import Site, checked_by, whole_tensor


def check(*, density: float, lam: float, vocabulary: Vocabulary) -> None:
    """Demand a share ``density``, a finite ``lam``, a known treatment of embeddings."""
    check_share("density", density)
    check_finite("lam", lam)
    check_vocabulary(vocabulary)


@whole_tensor(temporaries=16, per_source=24, choice=is_matrix)
@checked_by(check)
def merge(
    pivot: Tensor, sources: Sequence[Tensor], _site: Site, /, *, density: float, lam: float
) -> Tensor:
    """Add ``lam`` times the TIES merge of the task matrices in their common basis.

    The trim ranks within this matrix (ours; the authors' code over the model; at the density of
    1 that it uses for Llama nothing is trimmed), and keeps round(density k n) of the k times n
    coordinates of each task. A zero sum elects no sign (ours, as in TIES here). Biases and norms
    get the mean (ours: the code appends biases to their matrices; LoRA has neither).

    Args:
        pivot: Pre-trained float32 weights, (m, n), or a flat block of what is no matrix. Never
            written to.
        sources: Fine-tuned float32 weights, each shaped like ``pivot``; adapters or not.
        density: Share of each task's coordinates that survives the trim, in (0, 1].
        lam: Scale of the merged task matrix.

    Returns:
        float32 weights of the pivot's shape.
    """
    if pivot.dim() != 2:
        return add_mean(pivot, sources, lam=lam)
    matrices = task_matrices(pivot, sources)
    basis = common_basis(matrices, floor=rounding_norm(pivot, sources))
    if basis.shape[1] == 0:
        return pivot
    coordinates = [(basis.T @ matrix).float() for matrix in matrices]
    kept = None if density == 1 else largest(torch.stack(coordinates), density)
    merged = add_signed(
        torch.zeros_like(coordinates[0]),
        coordinates,
        weights=[1.0] * len(coordinates),
        scale=1.0,
        divide=True,
        kept=kept,
    ).merged
    return add_change(pivot, basis @ merged.double(), lam=lam)


def common_basis(matrices: Sequence[Tensor], *, floor: float) -> Tensor:
    """Return the left singular vectors of matrices side by side.

    Each is decomposed first: those of U_t S_t side by side are the same, and few where ranks
    are low.

    Args:
        matrices: float64, (m, n) each.
        floor: Singular values up to it count as zero.

    Returns:
        float64, (m, k), orthonormal columns.
    """
    parts = [thin_svd(matrix, floor=floor) for matrix in matrices]
    side_by_side = torch.cat([part.left * part.values for part in parts], dim=1)
    if side_by_side.shape[1] == 0:
        return side_by_side
    return thin_svd(side_by_side, floor=floor).left


def largest(rows: Tensor, density: float) -> Tensor:
    """Mask the largest magnitudes of each row, round(density * its size), ties going to the first.

    Args:
        rows: (n_rows, ...).
        density: Share kept, in (0, 1].

    Returns:
        Booleans of that shape.
    """
    flat = rows.reshape(len(rows), -1).abs()
    n_kept = round(density * flat.shape[1])
    order = flat.sort(dim=1, descending=True, stable=True).indices[:, :n_kept]
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(1, order, True).view_as(rows)
