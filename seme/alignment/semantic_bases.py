"""Semantic bases: one direction of the latent space per token, from the LM head alone.

SeMe, https://arxiv.org/abs/2505.20144, section on semantic bases; notation of
https://arxiv.org/abs/2401.16184.

Paper: with the head W = H^T, the basis of token i is s_i = e_i W^+, here S = H (H^T H)^-1.
Ours: the final norm's gain is folded into H first (only then do two models that differ by a
rotation get bases that differ by it); the Gram matrix is summed over row blocks in float64; a
head without full column rank is solved with a stated ridge; S is computed block by block when
it is needed and never stored, for it is four times as large as a bfloat16 head.

Shape suffixes: V tokens, B tokens of one block, D residual width.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

MAX_CONDITION = 1e6
"""Condition number of H diag(g) above which the head counts as rank-deficient."""

_RIDGE_SHARE = 1e-8
"""Ridge over the Gram matrix's largest eigenvalue: far above float64's rounding (2e-16), so
that a direction no token has stays negligible after the division by it."""

_PANEL = 256
"""Columns of the Gram matrix computed at a time, from the diagonal on: it is symmetric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Whitening:
    """Bases as two factors, U = rows(H) unwhitener; the first has a condition number near 1."""

    whitener_DD: Tensor
    """Whitening matrix, float32 or float64."""
    spread_D: Tensor
    """Inverse root eigenvalues, float32 or float64."""
    unwhitener_DD: Tensor
    """Second factor, float64."""

    def rows(self, head_BD: Tensor) -> Tensor:
        """Whiten head rows and divide them by the length of their bases; zero stays zero."""
        whitened_BD = head_BD.to(self.whitener_DD.dtype) @ self.whitener_DD
        lengths_B = torch.linalg.vector_norm(whitened_BD * self.spread_D, dim=1)
        tiny = torch.finfo(whitened_BD.dtype).tiny
        return whitened_BD.div_(lengths_B.clamp(min=tiny)[:, None])


@dataclass(frozen=True, slots=True, kw_only=True)
class Bases:
    """The semantic bases of one model, S = H whitener diag(spread) axes^T, never stored whole.

    H whitener has columns of length one, whatever the head's condition number, which
    ``spread_D`` carries alone. As the axes are orthogonal, |s_i| needs ``spread_D`` only.
    """

    head_VD: Tensor
    """LM head as stored, any floating dtype, one row per token."""
    whitener_DD: Tensor
    """diag(g) axes diag(spread), float64."""
    spread_D: Tensor
    """(eigenvalue of G + ridge)^-1/2 in float64, G the Gram matrix of H diag(g)."""
    axes_DD: Tensor
    """Eigenvectors of G in columns, float64."""
    condition: float
    """Condition number of H diag(g), at most 2**26: float64's Gram matrix shows no more."""
    ridge: float
    """Ridge on the diagonal of G, in G's own unit; 0 where G is invertible."""
    _whitenings: dict[torch.dtype, Whitening] = field(default_factory=dict, repr=False)

    def whitening(self, dtype: torch.dtype) -> Whitening:
        """Return the bases in two factors, of which the first is in float32 or float64.

        Computed when it is first asked for: the pivot's is, once for every source.
        """
        if dtype not in self._whitenings:
            self._whitenings[dtype] = self._in_factors(dtype)
        return self._whitenings[dtype]

    def _in_factors(self, dtype: torch.dtype) -> Whitening:
        if dtype == torch.float64:
            whitener_DD, unwhitener_DD = (
                self.whitener_DD,
                self.spread_D[:, None] * self.axes_DD.T,
            )
        else:
            # inverting the rounded matrix cancels the rounding error common to all tokens
            whitener_DD = self.whitener_DD.to(dtype)
            unwhitener_DD = torch.linalg.solve(whitener_DD.double(), self.solver_DD)
        return Whitening(
            whitener_DD=whitener_DD,
            spread_D=self.spread_D.to(dtype),
            unwhitener_DD=unwhitener_DD,
        )

    @property
    def solver_DD(self) -> Tensor:
        """Compute diag(g) (G + ridge I)^-1, what a head row is multiplied by; float64."""
        return (self.whitener_DD * self.spread_D) @ self.axes_DD.T

    def rows(self, start: int, stop: int) -> Tensor:
        """Compute the bases of the tokens ``start`` to ``stop``, float64, (tokens, D)."""
        return self.head_VD[start:stop].double() @ self.solver_DD

    def unit_rows(self, start: int, stop: int) -> Tensor:
        """Compute the same rows at length one; a token whose head row is zero stays zero."""
        tiny = torch.finfo(torch.float64).tiny
        return torch.nn.functional.normalize(self.rows(start, stop), dim=1, eps=tiny)


def semantic_bases(head_VD: Tensor, gain_D: Tensor, *, block_rows: int) -> Bases:
    """Solve for the semantic bases of all or some tokens of a model.

    Args:
        head_VD: Rows of the LM head, (tokens, width), any floating dtype. Never written to.
        gain_D: Gain of the final norm as it multiplies (1 + g where that is the convention).
        block_rows: Rows taken to float64 at a time, at least 1; bounds the working memory.

    Returns:
        The bases. A ridge is used when the condition number of H diag(g) exceeds
        ``MAX_CONDITION``, as it does with fewer tokens than dimensions.

    Raises:
        ValueError: If the head with its gain is zero or not finite.
    """
    gain_D = gain_D.double()
    gram_DD = gain_D[:, None] * _gram(head_VD, block_rows) * gain_D
    if not gram_DD.isfinite().all():
        raise ValueError(
            f"the LM head {tuple(head_VD.shape)} and the final norm's gain must be finite "
            "for semantic bases, got NaN or infinity"
        )
    values_D, axes_DD = torch.linalg.eigh(gram_DD)
    largest = float(values_D[-1])
    if largest <= 0:
        raise ValueError("the LM head has no semantic bases: all of H diag(gain) is zero")
    condition = math.sqrt(largest / max(float(values_D[0]), largest * 2.0**-52))
    ridge = largest * _RIDGE_SHARE if condition > MAX_CONDITION else 0.0
    spread_D = (values_D + ridge).rsqrt()
    return Bases(
        head_VD=head_VD,
        whitener_DD=gain_D[:, None] * axes_DD * spread_D,
        spread_D=spread_D,
        axes_DD=axes_DD,
        condition=condition,
        ridge=ridge,
    )


def row_blocks(n_rows: int, block_rows: int) -> Iterator[tuple[int, int]]:
    """Cut rows into blocks: yield the bounds of each, the second exclusive."""
    for start in range(0, n_rows, block_rows):
        yield start, min(start + block_rows, n_rows)


def blocks_of(matrix: Tensor, rows: Tensor | None, block_rows: int) -> Iterator[Tensor]:
    """Yield rows of a matrix in blocks, in the order of ``rows``; all if it is None."""
    for start, stop in row_blocks(len(matrix if rows is None else rows), block_rows):
        yield matrix[start:stop] if rows is None else matrix[rows[start:stop]]


def _gram(head_VD: Tensor, block_rows: int) -> Tensor:
    width = head_VD.shape[1]
    upper_DD = torch.zeros(width, width, dtype=torch.float64, device=head_VD.device)
    for block in blocks_of(head_VD, None, block_rows):
        block_BD = block.double()
        for start, stop in row_blocks(width, _PANEL):
            upper_DD[start:stop, start:].addmm_(block_BD[:, start:stop].T, block_BD[:, start:])
    return upper_DD.triu() + upper_DD.triu(1).T
