"""SeMe: semantic bases, alignment with the pivot's residual frame, Select-Compute-Erase.

Gu, Aleti, Chen and Zhang, 2025, https://arxiv.org/abs/2505.20144. No public code exists.

Paper: bases from the output head; a source's representations recomposed in the pivot's bases;
Select-Compute-Erase. Ours: the orthogonal projection, the way the map acts on weights, the
folding of gains, and the identity short-cut that leaves a source alone which is already in the
pivot's frame. For sources of the pivot's shape and tokenizer.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

import torch
from torch import Tensor

from seme.alignment import Projection, ResidualMap, align_tensor, residual_map
from seme.architecture import gain_in_front_of, readout_of, roles_of
from seme.bases import Bases, semantic_bases
from seme.checks import check_choice, check_finite
from seme.fusion import Select, select_compute_erase
from seme.types import Models, Role, Site, Weights, prepared_by

_BLOCK_ROWS = 2048
"""Tokens taken to float64 at a time: 67 MB at width 4096."""

_FOLDED = (Role.NORM, Role.READER, Role.HEAD)

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFrame:
    """Where one source's residual stream stands relative to the pivot's."""

    residual_map: ResidualMap | None
    """T; None where the identity short-cut was taken."""
    distance: float
    """||T - I||_F / sqrt(d)."""
    condition: float
    """Condition number of the head with the final norm's gain."""
    ridge: float
    """Ridge of the bases, 0 without one."""
    seconds_bases: float
    seconds_map: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFrames:
    """How one tensor of the pivot, then of every source, gets into the pivot's frame."""

    role: Role | None
    """None when all sources are in the pivot's frame: nothing is touched, gains included."""
    maps: tuple[ResidualMap | None, ...] = ()
    gains: tuple[Tensor | None, ...] = ()

    def align(self, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Rewrite the tensors, the pivot's first; see :func:`seme.alignment.align_tensor`."""
        if self.role is None:
            return tuple(weights)
        triples = zip(weights, self.maps, self.gains, strict=True)
        return tuple(align_tensor(w, self.role, turn, gain) for w, turn, gain in triples)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """The preparation's outcome: the frame of every source, the gains to fold if any turns."""

    projection: Projection
    pivot: Mapping[str, float]
    sources: tuple[SourceFrame, ...]
    roles: Mapping[str, Role]
    """Role of each tensor; empty when all sources are in the pivot's frame."""
    gains: tuple[Mapping[str, Tensor], ...]
    """Gains by norm's name, float32, the pivot's first; empty as ``roles`` is."""

    def at(self, name: str) -> TensorFrames:
        if not self.roles:
            return TensorFrames(role=None)
        norm = gain_in_front_of(name)
        return TensorFrames(
            role=self.roles[name],
            maps=(None, *(source.residual_map for source in self.sources)),
            gains=tuple(gains[norm] if norm else None for gains in self.gains),
        )

    def diagnostics(self) -> dict[str, Any]:
        return {
            "projection": self.projection,
            "pivot": dict(self.pivot),
            "gains_folded": bool(self.roles),
            "sources": [
                {
                    "distance_from_identity": source.distance,
                    "identity_shortcut": source.residual_map is None,
                    "condition": source.condition,
                    "ridge": source.ridge,
                    "seconds_bases": source.seconds_bases,
                    "seconds_map": source.seconds_map,
                }
                for source in self.sources
            ],
        }


def prepare(
    models: Models, /, *, projection: Projection, identity_tolerance: float
) -> Alignment:
    """Find every source's map into the pivot's residual frame.

    Reads the heads and the final norms and, only if some source has to be turned, all gains.

    Args:
        models: Pivot and sources of one shape, with one tokenizer.
        projection: ``orthogonal`` (ours), ``least_squares`` (ours) or ``cosine`` (paper).
        identity_tolerance: A source whose ||T - I||_F / sqrt(d) is below it is merged as it is
            (ours); 0 turns every source. Not used by ``cosine``, which is the paper's operator
            taken literally.

    Raises:
        ValueError: If a parameter is out of range, a head cannot be found, or a source has to
            be turned where that would change what it computes.
    """
    check_choice("projection", projection, get_args(Projection))
    check_finite("identity_tolerance", identity_tolerance)
    if identity_tolerance < 0:
        raise ValueError(f"identity_tolerance must be at least 0, got {identity_tolerance}")
    tolerance = 0.0 if projection == "cosine" else identity_tolerance
    pivot, seconds = _timed(lambda: _bases(models.pivot, "the pivot", models.device))
    frames = tuple(
        _source_frame(pivot, source, f"source {index}", models.device, projection, tolerance)
        for index, source in enumerate(models.sources)
    )
    _log_shortcuts(frames)
    turns = any(frame.residual_map is not None for frame in frames)
    roles = _roles_to_turn(models, frames) if turns else {}
    norms = [name for name, role in roles.items() if role is Role.NORM]
    everyone = (models.pivot, *models.sources)
    return Alignment(
        projection=projection,
        pivot={"condition": pivot.condition, "ridge": pivot.ridge, "seconds_bases": seconds},
        sources=frames,
        roles=roles,
        gains=tuple({n: _read(m, n, models.device) for n in norms} for m in everyone),
    )


@prepared_by(prepare)
def merge(
    pivot: Tensor,
    sources: Sequence[Tensor],
    site: Site,
    /,
    *,
    tau: float,
    lam: float,
    renormalize: bool,
    select: Select,
    projection: Projection,  # noqa: ARG001  (both belong to the preparation)
    identity_tolerance: float,  # noqa: ARG001
) -> Tensor:
    """Bring every source into the pivot's frame, then Select, Compute, Erase.

    Args:
        pivot: Weights the sources are merged into. Never written to.
        sources: Weights of the pivot's shape.
        site: Its ``prepared`` is what :func:`prepare` found for this tensor.
        tau: Share of elements selected, in (0, 1] (paper).
        lam: Scale of the merged task vector (paper: 1).
        renormalize: Divide by the surviving weights per element (FuseChat's code; paper: no).
        select: ``deltas`` (paper) or ``coefficients`` (FuseChat's code).
        projection: See :func:`prepare`.
        identity_tolerance: See :func:`prepare`.

    Returns:
        Merged weights of the pivot's shape. When any source was turned, all gains of norms on
        the residual stream are folded into the readers behind them and come out as ones.

    Raises:
        ValueError: If ``tau``, ``lam`` or ``select`` is out of range.
    """
    frames = site.prepared
    assert isinstance(frames, TensorFrames), "SeMe's preparation has not run"
    aligned_pivot, *aligned_sources = frames.align((pivot, *sources))
    return select_compute_erase(
        aligned_pivot, aligned_sources, tau=tau, lam=lam, renormalize=renormalize, select=select
    )


def _source_frame(
    pivot: Bases,
    source: Weights,
    owner: str,
    device: torch.device,
    projection: Projection,
    tolerance: float,
) -> SourceFrame:
    bases, seconds_bases = _timed(lambda: _bases(source, owner, device))
    turn, seconds_map = _timed(
        lambda: residual_map(pivot, bases, projection=projection, block_rows=_BLOCK_ROWS)
    )
    return SourceFrame(
        residual_map=None if turn.distance < tolerance else turn,
        distance=turn.distance,
        condition=bases.condition,
        ridge=bases.ridge,
        seconds_bases=seconds_bases,
        seconds_map=seconds_map,
    )


def _bases(model: Weights, owner: str, device: torch.device) -> Bases:
    try:
        end = readout_of(model.config, model.names)
        gain = _read(model, end.norm, device) + end.gain_offset
        head = model.read(end.head).to(device)
        return semantic_bases(head, gain, block_rows=_BLOCK_ROWS)
    except ValueError as error:
        error.add_note(f"while solving for the semantic bases of {owner}")
        raise


def _read(model: Weights, name: str, device: torch.device) -> Tensor:
    return model.read(name).to(device, torch.float32)


def _timed(work: Callable[[], _T]) -> tuple[_T, float]:
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def _log_shortcuts(frames: Sequence[SourceFrame]) -> None:
    for index, frame in enumerate(frames):
        frame_name = "the pivot's frame" if frame.residual_map is None else "a frame of its own"
        _log.info("source %d is in %s: ||T - I|| = %.2e", index, frame_name, frame.distance)


def _roles_to_turn(models: Models, frames: Sequence[SourceFrame]) -> dict[str, Role]:
    """Look up all roles and refuse what a turn would change the function of."""
    roles = roles_of(models.pivot.config, models.pivot.names)
    farthest = max(frame.distance for frame in frames)
    _check_untied(models.pivot, farthest)
    for source in models.sources:
        roles_of(source.config, source.names)
        _check_untied(source, farthest)
    folded = {name for name, role in roles.items() if role in _FOLDED}
    left_out = sorted(folded - set(models.merged_names))
    if left_out:
        raise ValueError(
            "turning a source folds every norm's gain into the tensors behind it, so all norms, "
            f"readers and the head must be merged, but {left_out[:3]} are left out; drop the "
            f"include or exclude pattern, or raise identity_tolerance above {farthest:.2e}"
        )
    return roles


def _check_untied(model: Weights, farthest: float) -> None:
    end = readout_of(model.config, model.names)
    if end.tied:
        raise ValueError(
            f"a source must be turned (||T - I|| is {farthest:.2e}), but the embedding {end.head} "
            f"is tied to the head: the gain of {end.norm} sits between them and cannot be folded "
            "into one without changing the other. Untie the models (save lm_head.weight and set "
            "tie_word_embeddings: false), choose sources fine-tuned from one base, or, if they "
            f"are, raise identity_tolerance above {farthest:.2e} (not with cosine, which always "
            "turns)"
        )
