"""Methods of the benchmark, each with mergekit's method and settings to compare with."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from seme.checkpoint.reader import open_checkpoint

_LAM = 0.4
_DENSITY = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A merge as mergekit configures it."""

    method: str
    weight: float
    normalize: bool
    parameters: dict[str, float]
    """Parameters of the whole merge."""
    per_source: dict[str, float]
    """Parameters of every source, without its weight."""
    coincides: bool
    """True if mergekit defines the method as this project does: the numbers must agree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row of the benchmark."""

    name: str
    overrides: tuple[str, ...]
    """Overrides for ``run.py``."""
    peer: Peer | None
    """None if mergekit lacks the method."""


def _peer(
    method: str,
    *,
    weight: float = 1.0,
    normalize: bool = False,
    parameters: dict[str, float] | None = None,
    per_source: dict[str, float] | None = None,
    coincides: bool = False,
) -> Peer:
    return Peer(
        method=method,
        weight=weight,
        normalize=normalize,
        parameters=parameters or {},
        per_source=per_source or {},
        coincides=coincides,
    )


CASES = {
    case.name: case
    for case in (
        Case(
            name="average",
            overrides=("method=average",),
            peer=_peer("linear", normalize=True, coincides=True),
        ),
        Case(
            name="task_arithmetic",
            overrides=("method=task_arithmetic", f"method.lam={_LAM}"),
            peer=_peer("task_arithmetic", weight=_LAM, coincides=True),
        ),
        Case(
            name="dare",
            overrides=("method=dare", f"method.density={_DENSITY}", f"method.lam={_LAM}"),
            peer=_peer("dare_linear", weight=_LAM, per_source={"density": _DENSITY}),
        ),
        Case(
            name="ties",
            overrides=("method=ties", f"method.density={_DENSITY}"),
            peer=_peer("ties", normalize=True, per_source={"density": _DENSITY}),
        ),
        Case(
            name="ties_tensor",
            overrides=("method=ties", f"method.density={_DENSITY}", "method.scope=tensor"),
            peer=_peer(
                "ties", normalize=True, per_source={"density": _DENSITY}, coincides=True
            ),
        ),
        Case(
            name="sce",
            overrides=("method=sce", f"method.tau={_DENSITY}"),
            peer=_peer("sce", parameters={"select_topk": _DENSITY}),
        ),
        Case(name="seme", overrides=("method=seme", f"method.tau={_DENSITY}"), peer=None),
        Case(
            name="breadcrumbs",
            overrides=(
                "method=breadcrumbs",
                f"method.density={_DENSITY}",
                f"method.lam={_LAM}",
            ),
            peer=_peer(
                "breadcrumbs",
                weight=_LAM,
                per_source={"density": _DENSITY, "gamma": 0.01},
                coincides=True,
            ),
        ),
        Case(
            name="della",
            overrides=("method=della", f"method.density={_DENSITY}"),
            peer=_peer(
                "della", normalize=True, per_source={"density": _DENSITY, "epsilon": 0.07}
            ),
        ),
        Case(
            name="multislerp",
            overrides=("method=multislerp",),
            peer=_peer("multislerp", coincides=True),
        ),
        Case(
            name="karcher", overrides=("method=karcher",), peer=_peer("karcher", coincides=True)
        ),
        Case(name="model_stock", overrides=("method=model_stock",), peer=_peer("model_stock")),
        Case(
            name="ram_tensor",
            overrides=("method=ram", "method.scope=tensor"),
            peer=_peer("ramplus_tl", parameters={"r": 0.1, "alpha": 0.2}),
        ),
        *(
            Case(name=name, overrides=(f"method={name}",), peer=None)
            for name in ("consensus", "iso_c", "iso_cts", "tsv_m", "wudi", "swudi", "ace")
        ),
    )
}
"""Cases by name. TIES over the whole model is paired with mergekit's, which trims per tensor:
the work is the same, the numbers are not. DARE draws at random; in SCE mergekit gives all
sources equal weight when their task vectors are small. DELLA draws at random, and mergekit restores
the norm; its Model Stock takes the angle of task vectors that are small for 90 degrees."""


def peer_config(
    peer: Peer, models: Sequence[Path], *, dtype: str, output_dtype: str
) -> dict[str, Any]:
    """Return mergekit's configuration of a merge.

    Args:
        peer: The merge.
        models: The base, then the sources.
        dtype: Dtype that mergekit computes in; its users give the checkpoint's.
        output_dtype: Dtype that it writes.
    """
    base, *sources = (str(model) for model in models)
    settings = {"weight": peer.weight, **peer.per_source}
    config: dict[str, Any] = {
        "merge_method": peer.method,
        "models": [{"model": source, "parameters": settings} for source in sources],
        "parameters": {"normalize": peer.normalize, **peer.parameters},
        "dtype": dtype,
        "out_dtype": output_dtype,
    }
    if peer.method not in ("linear", "karcher"):
        config["base_model"] = base
    return config


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Difference between the weights of two merged checkpoints."""

    largest: float
    """Largest absolute difference."""
    share: float
    """Share of the elements that differ at all, in [0, 1]."""


def difference(first: Path, second: Path) -> Difference:
    """Compare two checkpoints tensor by tensor.

    Raises:
        ValueError: If they hold tensors of different names.
    """
    one, other = (open_checkpoint(folder, root=folder) for folder in (first, second))
    if one.names != other.names:
        raise ValueError(
            f"{first} and {second} must hold the same tensors, only one of them holds "
            f"{set(one.names) ^ set(other.names)}"
        )
    largest, n_differing, n_elements = 0.0, 0, 0
    for name in one.names:
        gap = (one.read(name).float() - other.read(name).float()).abs()
        largest = max(largest, gap.max().item())
        n_differing += int(torch.count_nonzero(gap))
        n_elements += gap.numel()
    return Difference(largest=largest, share=n_differing / n_elements)
