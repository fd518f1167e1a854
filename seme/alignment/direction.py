"""The direction test: do recomposed representations point where the representations do?

SeMe, https://arxiv.org/abs/2505.20144, takes for granted that a representation is kept by its
cosines with the semantic bases. With many more tokens than dimensions any vectors do nearly as
well (ours, measured), so the test means nothing without its control, random vectors.
"""

import torch
from torch import Tensor


def recomposition_cosine(representations_ND: Tensor, vectors_VD: Tensor) -> Tensor:
    """Recompose representations from their cosines with unit vectors, and compare directions.

    Args:
        representations_ND: N representations, float.
        vectors_VD: V vectors; only their directions count, a vector of zeros counts for nothing.

    Returns:
        cos(r, sum_i cos(r, v_i) v_i / |v_i|) of each, float64, (N,), in [-1, 1].
    """
    r_ND = torch.nn.functional.normalize(representations_ND.double(), dim=1)
    unit_VD = torch.nn.functional.normalize(vectors_VD.double(), dim=1)
    recomposed_ND = r_ND @ (unit_VD.T @ unit_VD)
    return torch.nn.functional.cosine_similarity(r_ND, recomposed_ND, dim=1)


def random_vectors(n: int, width: int) -> Tensor:
    """Draw the control: vectors of independent normal numbers, the same on every call, (n, width)."""
    return torch.randn(n, width, generator=torch.Generator().manual_seed(0))
