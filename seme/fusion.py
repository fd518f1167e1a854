"""Select-Compute-Erase (SCE): the fusion step of SeMe, and a method of its own.

Wan et al., 2024, FuseChat, https://arxiv.org/abs/2408.07990; used by SeMe, Gu et
al., 2025, https://arxiv.org/abs/2505.20144. Three steps per tensor, on the task vectors:

1. select: keep the share ``tau`` of the elements that vary most across the sources;
2. compute: weigh each source by the energy of its selected elements;
3. erase: per element, leave out the sources that disagree with the sign of the sum.

Scope of the selection: the tensor. The sign is elected by the unweighted sum, before weighting;
zeros elect nothing and a zero sum elects nobody. Divisor: none (the coefficients sum to one
before the erasure) unless ``renormalize``. No rescaling for the elements left out.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from seme.blockwise import add_to_pivot, agreeing, task_vector_blocks
from seme.checks import check_choice, check_finite, check_share
from seme.selection import select_largest

Select = Literal["coefficients", "deltas"]
"""What the selection masks: the deltas (paper), or the coefficients only (FuseChat's code)."""


def select_compute_erase(
    pivot: Tensor,
    sources: Sequence[Tensor],
    *,
    tau: float,
    lam: float,
    renormalize: bool,
    select: Select,
    tally: "FusionTally | None" = None,
) -> Tensor:
    """Add the selected, weighted and sign-consistent task vectors to the pivot.

    Args:
        pivot: float32 weights the sources are merged into, any shape. Never written to.
        sources: float32 weights in the pivot's frame and shape. Their order does not matter.
        tau: Share of the elements selected, in (0, 1]; the paper's tau.
        lam: Scale of the merged task vector (ours; the papers add it unchanged, 1).
        renormalize: Divide by the coefficients that survive the erasure at each element
            (FuseChat's code) instead of leaving the sum as it is (paper).
        select: ``deltas`` erases and adds the selected elements only (paper);
            ``coefficients`` uses the selection for the coefficients only (FuseChat's code).
        tally: Counts what was selected and erased, if given.

    Returns:
        Merged float32 weights of the pivot's shape.

    Raises:
        ValueError: If ``tau``, ``lam`` or ``select`` is out of range.
    """
    check_share("tau", tau)
    check_finite("lam", lam)
    check_choice("select", select, get_args(Select))
    selected = select_elements(pivot, sources, tau=tau)
    eta = compute_coefficients(pivot, sources, selected)
    if tally is not None:
        tally.select(selected, eta)

    def combine(tv: Tensor, _: slice) -> Tensor:
        sign, survivors = agreeing(tv) if tally is None else tally.erase(tv)
        return lam * _weighted_sum(sign, survivors, eta, renormalize=renormalize)

    return add_to_pivot(
        pivot, sources, combine, chosen=selected if select == "deltas" else None
    )


class FusionTally:
    """What Select, Compute and Erase did, counted over the tensors of a merge."""

    def __init__(self, n_sources: int) -> None:
        self._elements = 0
        self._selected = 0
        self._energy = torch.zeros(n_sources, dtype=torch.float64)
        self._deltas = 0
        self._erased = 0

    def select(self, selected: Tensor, eta: Tensor) -> None:
        """Count a tensor's selected elements, and its coefficients by them."""
        n_selected = int(selected.count_nonzero())
        self._elements += selected.numel()
        self._selected += n_selected
        self._energy += n_selected * eta.cpu()

    def erase(self, tv: Tensor) -> tuple[Tensor, Tensor]:
        """Elect signs as :func:`seme.blockwise.agreeing` does, and count who loses."""
        before = int(tv.count_nonzero())
        sign, survivors = agreeing(tv)
        self._deltas += before
        self._erased += before - int(survivors.count_nonzero())
        return sign, survivors

    def described(self) -> dict[str, Any]:
        """Shares in [0, 1], JSON-ready.

        Returns:
            ``selected`` of all elements; ``erased`` of the deltas that were not zero; the mean
            ``coefficients`` of the sources, each tensor weighted by its selected elements.
        """
        return {
            "selected": self._selected / max(self._elements, 1),
            "erased": self._erased / max(self._deltas, 1),
            "coefficients": (self._energy / max(self._selected, 1)).tolist(),
        }


def select_elements(pivot: Tensor, sources: Sequence[Tensor], *, tau: float) -> Tensor:
    """Select the elements that vary most across the sources.

    Exactly ``round(tau * numel)`` elements, fewer only where fewer vary at all; ties go to the
    lower flat index. Population variance; with one source the square of its delta (ours).

    Args:
        pivot: float32 weights, any shape.
        sources: float32 weights of that shape.
        tau: Share of the elements selected, in (0, 1].

    Returns:
        Booleans of the pivot's shape.
    """
    variation = torch.empty_like(pivot, memory_format=torch.contiguous_format).view(-1)
    for block in task_vector_blocks(pivot, sources):
        variation[block.span] = _variation(block.tv)
    return select_largest(variation, tau).view(pivot.shape)


def compute_coefficients(pivot: Tensor, sources: Sequence[Tensor], selected: Tensor) -> Tensor:
    """Weigh each source by its share of the energy in the selected elements (paper's eta).

    Only energies that are all exactly zero give equal weights. mergekit does so whenever their
    means sum to less than 1e-6, which ordinary fine-tuning does.

    Args:
        pivot: float32 weights, any shape.
        sources: float32 weights of that shape.
        selected: Booleans of that shape.

    Returns:
        One float64 coefficient per source, (n_sources,), summing to 1.
    """
    energy = torch.zeros(len(sources), dtype=torch.float64, device=pivot.device)
    for block in task_vector_blocks(pivot, sources, selected):
        energy += block.tv.square_().sum(dim=1)
    total = energy.sum()
    return energy / total if total > 0 else torch.full_like(energy, 1 / len(sources))


def _variation(tv: Tensor) -> Tensor:
    """Rank elements as their variance across sources does, without its underflow.

    The root keeps tiny deltas apart that would square to a float32 zero. Differences to the
    first source make it exactly zero where all sources agree.
    """
    n_sources = len(tv)
    if n_sources == 1:
        return tv[0].abs()
    apart = tv[1:] - tv[0]
    squares = n_sources * apart.square().sum(dim=0)
    return squares.sub_(apart.sum(dim=0).square_()).clamp_(min=0).sqrt_()


def _weighted_sum(sign: Tensor, survivors: Tensor, eta: Tensor, *, renormalize: bool) -> Tensor:
    """Sum the magnitudes that carry the elected sign, weighted by eta."""
    change = sign * (eta[:, None] * survivors).sum(dim=0)
    if not renormalize:
        return change
    weight = (eta[:, None] * survivors.sign_()).sum(dim=0)
    return torch.where(weight > 0, change / weight, 0.0)
