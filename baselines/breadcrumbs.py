"""Model Breadcrumbs: leave out the smallest and the largest of each task vector, add the rest.

Davari and Belilovsky, 2023, https://arxiv.org/abs/2312.06795, section 3: per layer, a mask at
both tails of the magnitudes; then task arithmetic, https://arxiv.org/abs/2212.04089.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from seme.checks import check_between, check_finite, check_share
from seme.elementwise import add_weighted, differences
from seme.interface import Prepared, Site, checked_by, prepared_by
from seme.ranking_scores import RankingScores
from seme.streaming import Models, OpenTensor
from seme.topk_mask import TopKMask, select_band


@dataclass(frozen=True, slots=True, kw_only=True)
class Bands:
    """The band of magnitudes that survives in each tensor of each task vector."""

    n_sources: int
    density: float
    gamma: float

    def at(self, tensor: OpenTensor) -> TopKMask:
        scores = RankingScores(tensor, differences, self.n_sources)
        return select_band(scores, min(self.density + self.gamma, 1.0), self.gamma)

    def diagnostics(self) -> Mapping[str, Any]:
        return {}


def prepare(models: Models, /, *, density: float, gamma: float) -> Prepared:
    """Read nothing yet: the bands are found tensor by tensor.

    Args:
        models: Pre-trained model and sources.
        density: Share of each tensor of a task vector that survives, in (0, 1]; the paper's
            beta is ``1 - gamma - density``.
        gamma: Share of largest magnitudes that are left out, in [0, 1 - density].
    """
    return Bands(n_sources=len(models.sources), density=density, gamma=gamma)


def check(*, density: float, gamma: float, lam: float) -> None:
    """Demand two shares that fit into one tensor, and a finite number."""
    check_share("density", density)
    check_between("gamma", gamma, 0, 1)
    check_finite("lam", lam)
    if density + gamma > 1 + 1e-9:
        raise ValueError(
            f"gamma must be at most 1 - density, {1 - density:g}, so that both shares fit into "
            f"a tensor, got {gamma!r}; density is {density!r}"
        )


@prepared_by(prepare)
@checked_by(check)
def merge(pivot: Tensor, sources: Sequence[Tensor], site: Site, /, *, lam: float) -> Tensor:
    """Add ``lam`` times the sum of the masked task vectors to the pivot.

    Exactly ``round((density + gamma) n) - round(gamma n)`` elements of a tensor survive, fewer
    where zeros are among them; equal magnitudes are cut by index. Scope of the mask: the tensor,
    embeddings and norms included. No rescaling, no sign election, a sum and not a mean.

    Args:
        pivot: Pre-trained float32 weights, any shape. Never written to.
        sources: Fine-tuned float32 weights, each shaped like ``pivot``, in any order.
        site: Carries the tensor's masks, see :func:`seme.topk_mask.select_band`.
        lam: Scale of the sum (the paper's alpha).

    Returns:
        float32 weights of the pivot's shape.
    """
    band: TopKMask = site.prepared
    kept = band.at(pivot, sources, site.start)
    return add_weighted(pivot, sources, weights=[1.0] * len(sources), scale=lam, kept=kept)
