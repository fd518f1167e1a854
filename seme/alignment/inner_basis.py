"""Turn the inner basis of one attention head group to another's: orthogonal Procrustes.

Ours. Between V and O any orthogonal change of basis leaves the attention's function unchanged,
between Q and K any that commutes with the position encoding: with RoPE one rotation per pair,
and anything orthogonal among dimensions that carry no position.

Shapes: n heads of the group, i rows of a pivot head, j rows of a source head, w width. All bases
are (i, j); with i > j their columns are orthonormal, so that nothing of the source is lost.
"""

import torch
from torch import Tensor

from seme.alignment.rotary import PairMatch, pairwise_rotation


def value_output_basis(
    values: Tensor, outputs: Tensor, source_values: Tensor, source_outputs: Tensor
) -> Tensor:
    """Find R with the least |v - R v_source|^2 + |o - o_source R^T|^2, both sides of norm 1.

    Args:
        values: (i, w).
        outputs: (n, i, w), what each coordinate of each head writes.
        source_values: (j, w).
        source_outputs: (n, j, w).

    Returns:
        (i, j), float32.
    """
    return _procrustes(_cross(values, source_values) + _cross(outputs, source_outputs)).float()


def query_key_basis(
    queries: Tensor, keys: Tensor, source_queries: Tensor, source_keys: Tensor, pairs: PairMatch
) -> Tensor:
    """Find R with the least |q - R q_source|^2 + |k - R k_source|^2 among those RoPE allows.

    Args:
        queries: (n, i, w), the rotary pairs first: the first coordinates of all, then the second.
        keys: (i, w).
        source_queries: (n, j, w).
        source_keys: (j, w).
        pairs: Source pair of each pivot pair.

    Returns:
        (i, j), float32: one rotation per matched pair, zero rows for pairs without a counterpart
        and a Procrustes block for the dimensions without position.
    """
    cross = _cross(queries, source_queries) + _cross(keys, source_keys)
    basis = torch.zeros_like(cross)
    rotary = pairs.planes[:, :, None], pairs.source_planes[:, None, :]
    basis[rotary] = pairwise_rotation(cross[rotary])
    free = slice(2 * len(pairs.index), None), slice(2 * pairs.n_source, None)
    basis[free] = _procrustes(cross[free])
    return basis.float()


def _cross(rows: Tensor, source_rows: Tensor) -> Tensor:
    """Sum a_pivot a_source^T over heads and width with both sides scaled to norm 1, float64."""
    sizes = rows.shape[-2], source_rows.shape[-2]
    norms = torch.linalg.norm(rows) * torch.linalg.norm(source_rows)
    cross = (rows @ source_rows.mT).double().sum_to_size(*sizes)
    scaled: Tensor = cross / norms.double().clamp(min=torch.finfo(torch.float32).tiny)
    return scaled


def _procrustes(cross: Tensor) -> Tensor:
    """Find the (semi-)orthogonal matrix for which tr(R^T cross) is greatest: U V^T of its SVD."""
    left, _, right = torch.linalg.svd(cross, full_matrices=False)
    polar: Tensor = left @ right
    return polar
