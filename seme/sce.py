"""Select-Compute-Erase (SCE): the merge step of SeMe, shared by the SCE baseline.

Wan et al., 2024, FuseChat, https://arxiv.org/abs/2408.07990; used by SeMe, Gu et
al., 2025, https://arxiv.org/abs/2505.20144. Three steps per tensor, on the task vectors:

1. select: keep the share ``tau`` of the elements that vary most across the sources;
2. compute: weigh each source by the energy of its selected elements;
3. erase: per element, leave out the sources that disagree with the sign of the sum.

Select and Compute pass over the whole tensor before it is merged; Erase is elementwise.
Scope of the selection: the tensor. The sign is elected by the unweighted sum, before weighting;
zeros elect nothing and a zero sum elects nobody: such an element stays the pivot's. Divisor: none
(the coefficients sum to one before the erasure) unless ``renormalize``. No rescaling for the
elements left out.

Only elements that vary are selected, at ``tau`` = 1 too: equal sources return the pivot. FuseChat's
code and mergekit mask nothing at 1, and so return the sources; ``tau: all`` is that reading. Below
1 they select int(tau n) of the n elements that vary, here it is round(tau n) of all n.
"""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from seme.checks import check_choice, check_finite, check_share, check_switch
from seme.elementwise import add_signed
from seme.interface import Site
from seme.kernels import reductions, selection
from seme.kernels.jit import use_numba
from seme.ranking_scores import RankingScores
from seme.streaming import Block, OpenTensor
from seme.topk_mask import KeepRule, TopKMask, select_largest

Select = Literal["coefficients", "deltas"]
"""Operand of the selection mask: deltas (paper), or coefficients only (FuseChat's code)."""

Share = float | Literal["all"]
"""Share of a tensor's elements selected, in (0, 1]; ``all`` selects those that do not vary too."""

_SCALE = 2.0**64
"""Scales variances of weights away from float32's smallest number."""


@dataclass(frozen=True, slots=True)
class Fusion:
    """Selected elements of a tensor and coefficients of its sources."""

    kept: TopKMask
    """Mask of the selected elements, by their :func:`variation`."""
    eta: tuple[float, ...]
    """Coefficients of the sources, summing to 1 (paper's eta)."""
    tally: "FusionTally"
    """Counter of erased elements."""


class SelectCompute:
    """Select and Compute, tensor by tensor; implements :class:`seme.interface.Prepared`."""

    def __init__(self, n_sources: int, *, tau: Share) -> None:
        """Read nothing yet; tensors are read in :meth:`at`.

        Args:
            n_sources: Number of sources.
            tau: Share of the elements of a tensor that is selected.
        """
        self._tau = tau
        self._tally = FusionTally(n_sources)

    def at(self, tensor: OpenTensor) -> Fusion:
        kept = select_elements(tensor, tau=self._tau)
        n_selected, eta = compute_coefficients(tensor, kept)
        self._tally.add_tensor(tensor.numel, n_selected, eta)
        return Fusion(kept, eta, self._tally)

    def diagnostics(self) -> dict[str, Any]:
        """Count selected and erased elements; see :meth:`FusionTally.described`."""
        return {"fusion": self._tally.described()}


def select_elements(tensor: OpenTensor, *, tau: Share) -> TopKMask:
    """Select the elements that vary most across the sources.

    Exactly ``round(tau * numel)`` elements, fewer only where fewer vary at all; ties go to the
    lower flat index. Population variance; with one source the square of its delta (ours).

    Args:
        tensor: The tensor in the pivot and the sources.
        tau: Share of the elements selected.

    Returns:
        Mask of the selected elements.
    """
    columns = RankingScores(tensor, variation, 1)
    if tau == "all":
        return TopKMask(columns, [KeepRule(threshold=0.0, cutoff=tensor.numel)])
    (largest,) = select_largest([columns], tau, "exact")
    return TopKMask(columns, [largest.rules[tensor.name]])


def compute_coefficients(tensor: OpenTensor, kept: TopKMask) -> tuple[int, tuple[float, ...]]:
    """Weigh each source by its share of the energy in the selected elements (paper's eta).

    Only energies that are all exactly zero give equal weights. mergekit does so whenever their
    means sum to less than 1e-6, which ordinary fine-tuning does.

    Args:
        tensor: The tensor in the pivot and the sources.
        kept: Mask of the selected elements.

    Returns:
        Number of selected elements, and one coefficient per source, summing to 1.
    """

    def energies(block: Block) -> tuple[int, list[float]]:
        flags = kept.at(block.pivot, block.sources, block.start)
        return _energies(block.pivot, block.sources, flags)

    counted = tensor.map(energies)
    n_sources = len(tensor.models.sources)
    energy = [math.fsum(squares[k] for _, squares in counted) for k in range(n_sources)]
    whole = math.fsum(energy)
    eta = tuple(e / whole if whole > 0 else 1 / n_sources for e in energy)
    return sum(n for n, _ in counted), eta


def erase_and_add(
    pivot: Tensor,
    sources: Sequence[Tensor],
    site: Site,
    *,
    lam: float,
    renormalize: bool,
    select: Select,
) -> Tensor:
    """Add the selected, weighted and sign-consistent task vectors to the pivot.

    Args:
        pivot: Block of float32 weights that the sources are merged into, (n,).
        sources: Blocks of the sources, in the pivot's frame. Their order does not matter.
        site: Carries the tensor's :class:`Fusion`.
        lam: Scale of the merged task vector (ours; the papers add it unchanged, 1).
        renormalize: Divide by the coefficients that survive the erasure at each element
            (FuseChat's code) instead of leaving the sum as it is (paper).
        select: ``deltas`` erases and adds the selected elements only (paper);
            ``coefficients`` uses the selection for the coefficients only (FuseChat's code).

    Returns:
        Merged float32 weights, (n,).
    """
    fusion: Fusion = site.prepared
    kept = None
    if select == "deltas":
        kept = fusion.kept.at(pivot, sources, site.start)
    added = add_signed(
        pivot, sources, weights=fusion.eta, scale=lam, divide=renormalize, kept=kept
    )
    fusion.tally.add_block(added.n_values, added.n_values - added.n_survivors)
    return added.merged


def variation(pivot: Tensor, sources: Sequence[Tensor]) -> Tensor:
    """Rank elements as their variance across the sources does.

    The magnitude of the one delta; of the difference of two; else the variance times 2 ** 64,
    so that its float32 separates standard deviations from 1e-29 to 1e8. Differences to the
    first source make it exactly zero where all sources agree.

    Args:
        pivot: float32 weights, any shape.
        sources: float32 weights of that shape.

    Returns:
        float32, (1, *shape); only its order has a meaning.
    """
    first, *others = sources
    if not others:
        return (first - pivot).unsqueeze(0)
    if len(others) == 1:
        return (others[0] - first).unsqueeze(0)
    if use_numba(pivot.device):
        return selection.variance(sources, _SCALE).unsqueeze(0)
    origin = first.double()
    apart = [source.double().sub_(origin) for source in others]
    summed, squares = torch.zeros_like(origin), torch.zeros_like(origin)
    for values in apart:
        summed += values
        squares += values * values
    scaled = squares * (len(sources) * _SCALE) - summed * _SCALE * summed
    return scaled.clamp_(min=0).float().unsqueeze(0)


def check_fusion(*, tau: Share, lam: float, renormalize: bool, select: Select) -> None:
    """Check SCE's hyper-parameters; see :func:`erase_and_add` and :class:`SelectCompute`.

    Raises:
        ValueError: If one is out of range.
    """
    if tau != "all":
        check_share("tau", tau)
    check_finite("lam", lam)
    check_switch("renormalize", renormalize)
    check_choice("select", select, get_args(Select))


class FusionTally:
    """Counts of Select, Compute and Erase over the tensors of a merge; thread-safe."""

    def __init__(self, n_sources: int) -> None:
        self._elements = 0
        self._selected = 0
        self._weighted: list[list[float]] = [[] for _ in range(n_sources)]
        self._deltas = 0
        self._erased = 0
        self._lock = threading.Lock()

    def add_tensor(self, n_elements: int, n_selected: int, eta: Sequence[float]) -> None:
        """Count a tensor's selected elements, and its coefficients by them."""
        with self._lock:
            self._elements += n_elements
            self._selected += n_selected
            for weighted, coefficient in zip(self._weighted, eta, strict=True):
                weighted.append(n_selected * coefficient)

    def add_block(self, n_deltas: int, n_erased: int) -> None:
        """Count deltas that were not zero, and those of them that were erased."""
        with self._lock:
            self._deltas += n_deltas
            self._erased += n_erased

    def described(self) -> dict[str, Any]:
        """Shares in [0, 1], JSON-ready, the same in whatever order tensors were counted.

        Returns:
            ``selected`` of all elements; ``erased`` of the deltas that were not zero; the mean
            ``coefficients`` of the sources, each tensor weighted by its selected elements.
        """
        return {
            "selected": self._selected / max(self._elements, 1),
            "erased": self._erased / max(self._deltas, 1),
            "coefficients": [math.fsum(w) / max(self._selected, 1) for w in self._weighted],
        }


def _energies(
    pivot: Tensor, sources: Sequence[Tensor], kept: Tensor
) -> tuple[int, list[float]]:
    """Count the kept elements, and sum their squares in every task vector."""
    if use_numba(pivot.device):
        return reductions.energies(pivot, sources, kept)
    tv = [source.double() - pivot.double() for source in sources]
    squares = [float(torch.where(kept, values, 0.0).square_().sum()) for values in tv]
    return int(kept.count_nonzero()), squares
