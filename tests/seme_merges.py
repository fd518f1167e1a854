"""SeMe run on model folders."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from seme.checkpoint.reader import open_checkpoint
from seme.engine import MergeReport, merge_checkpoints
from seme.method import merge
from tests.settings import SETTINGS as COMMON

ALIGNMENT = {
    "projection": "orthogonal",
    "anchors": "both",
    "match_units": "auto",
    "refine": 2,
    "identity_tolerance": 0.1,
}
SETTINGS = {
    "tau": 1.0,
    "lam": 1.0,
    "renormalize": False,
    "select": "deltas",
    "alignment": ALIGNMENT,
}


def settings_with(**changed: object) -> dict[str, object]:
    """SETTINGS with some replaced, options of the alignment by their own names."""
    options = {key: changed.pop(key, value) for key, value in ALIGNMENT.items()}
    return {**SETTINGS, "alignment": options, **changed}


def merged(
    destination: Path,
    pivot: Path,
    *sources: Path,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    seed: int = 0,
    **settings: object,
) -> MergeReport:
    """Merge model folders; see :func:`settings_with`."""
    models = [open_checkpoint(model, root=model) for model in (pivot, *sources)]
    return merge_checkpoints(
        functools.partial(merge, **settings_with(**settings)),
        models[0],
        models[1:],
        destination,
        settings=replace(COMMON, include=tuple(include), exclude=tuple(exclude), seed=seed),
        progress=False,
    )


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def bits(folder: Path) -> dict[str, list]:
    """Every tensor as integers, in which 0.0 and -0.0 differ."""
    return {n: t.view(torch.int32).tolist() for n, t in tensors_of(folder).items()}


def change_tensors(folder: Path, **tensors: Tensor) -> None:
    """Overwrite or add some tensors of a model folder."""
    path = folder / "model.safetensors"
    save_file({**load_file(path), **tensors}, path, metadata={"format": "pt"})
