"""Options of the alignment: the hyper-parameters of SeMe that choose the map of a source."""

import difflib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import partial
from typing import Literal, Self, get_args

from torch import Tensor

from seme.checks import check_choice, check_finite, check_switch, check_whole

Projection = Literal["cosine", "least_squares", "orthogonal"]
Anchors = Literal["activations", "both", "head"]
MatchUnits = Literal["always", "auto", "never"]
_SAMPLING = "sampling"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Seed and memory of a run, for an alignment that samples texts."""

    seed: int = 0
    """Seed of the texts, the merge's."""
    memory_budget: int | None = None
    """Bytes of the whole merge; None: unlimited."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignmentOptions:
    """Options of the alignment, range-checked; the entries of ``alignment`` in SeMe's YAML.

    Raises:
        ValueError: If one is out of range.
    """

    projection: Projection
    """Map made of the operator M: ``cosine`` (paper) is M itself up to scale, ``orthogonal``
    (ours) its polar factor, ``least_squares`` (ours) U_P^+ U_k."""
    anchors: Anchors
    """Anchors of the map: shared tokens in the LM ``head`` (paper), in ``both`` the head and the
    embedding (ours), or these and ``activations``, states of the residual stream on texts that
    the pivot samples (ours; see :mod:`seme.alignment.activations`)."""
    match_units: MatchUnits
    """Match heads and neurons (ours): ``auto`` where a source is not in the pivot's frame,
    ``always`` or ``never``."""
    refine: int
    """Rounds of solving for the map again from matched units, at least 0 (ours); with the
    orthogonal projection only."""
    identity_tolerance: float
    """A source of the pivot's shape whose ||T - I||_F / sqrt(d) is below it is merged as stored
    (ours); at least 0, which maps every source. Not used by ``cosine``, the paper's operator
    taken literally."""

    shuffle_task_vectors: bool = False
    """A control (ours), for sources with a base of their own: the elements of their task vectors
    are put in a random order, tensor by tensor, after the alignment. May be left out."""
    sampling: Sampling = Sampling()
    """Given by the engine, not by the user; see :func:`with_sampling`."""

    def __post_init__(self) -> None:
        check_choice("alignment.projection", self.projection, get_args(Projection))
        check_choice("alignment.anchors", self.anchors, get_args(Anchors))
        check_choice("alignment.match_units", self.match_units, get_args(MatchUnits))
        check_whole("alignment.refine", self.refine, least=0)
        check_finite("alignment.identity_tolerance", self.identity_tolerance, least=0)
        check_switch("alignment.shuffle_task_vectors", self.shuffle_task_vectors)
        if self.anchors == "activations" and self.projection != "orthogonal":
            raise ValueError(
                "alignment.anchors=activations needs alignment.projection=orthogonal: "
                f"{self.projection} is made of semantic bases alone; use alignment.anchors=both "
                "or head with it"
            )

    @classmethod
    def from_mapping(cls, mapping: object) -> Self:
        """Read the entries of ``alignment``.

        Raises:
            ValueError: If an entry is unknown, missing or out of range, or it is no mapping.
        """
        names = sorted(field.name for field in fields(cls) if field.name != _SAMPLING)
        needed = sorted(field.name for field in fields(cls) if field.default is MISSING)
        expected = f"alignment must be a mapping of {', '.join(names)}"
        if not isinstance(mapping, Mapping):
            raise ValueError(f"{expected}, got {mapping!r}")
        for key, value in mapping.items():
            if key not in names and not isinstance(value, Sampling):
                close = difflib.get_close_matches(str(key), names, n=1)
                hint = f"; did you mean alignment.{close[0]}?" if close else ""
                raise ValueError(f"{expected}, got the unknown option {key}{hint}")
        if missing := [name for name in needed if name not in mapping]:
            raise ValueError(f"{expected}, got none for {', '.join(missing)}")
        return cls(**mapping)


def with_sampling(method: partial[Tensor], sampling: Sampling) -> partial[Tensor]:
    """Give a run's seed and memory to a method whose alignment samples texts.

    Args:
        method: Any merge function, its hyper-parameters bound.
        sampling: What the run gives.

    Returns:
        The method itself if it samples none.
    """
    if not samples_texts(method):
        return method
    return partial(method, alignment={**method.keywords["alignment"], _SAMPLING: sampling})


def samples_texts(method: partial[Tensor]) -> bool:
    """Return True if a method's alignment compares activations."""
    alignment = method.keywords.get("alignment")
    return isinstance(alignment, Mapping) and alignment.get("anchors") == "activations"
