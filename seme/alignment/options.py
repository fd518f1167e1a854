"""Options of the alignment: hyper-parameters of SeMe that decide how a source is mapped."""

from dataclasses import dataclass
from typing import Literal

Projection = Literal["cosine", "least_squares", "orthogonal"]
"""``cosine`` is the paper's operator; the other two are ours."""
Anchors = Literal["both", "head"]
"""``head`` is the paper's; ``both`` adds the embeddings of the shared tokens (ours)."""
MatchUnits = Literal["always", "auto", "never"]
"""``auto``: only where the source is not in the pivot's frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignmentOptions:
    """How sources are aligned; see :func:`seme.method.prepare`."""

    projection: Projection
    anchors: Anchors
    match_units: MatchUnits
    refine: int
    identity_tolerance: float
    min_overlap: float
