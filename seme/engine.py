"""Merge checkpoints: check, prepare, walk the tensors in order, call the method, write.

The only place where weights change dtype: a method sees float32 on one device, and what it
returns is rounded once to the output dtype.
"""

import difflib
import functools
import inspect
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from seme.comparison import (
    demand_same_tensors,
    describe,
    reasons_to_copy,
    tolerated_differences,
)
from seme.rounding import RoundingLoss, is_finite, round_to
from seme.storage.adapter import AnyCheckpoint
from seme.storage.checkpoint import Checkpoint
from seme.storage.shard import TensorSpec
from seme.storage.writing import CheckpointWriter, refuse_existing
from seme.types import Models, Preparation, Prepared, Realigned, Site, Weights

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeReport:
    """What a merge did."""

    n_merged: int
    """Number of tensors merged."""
    n_parameters: int
    """Number of parameters of the merged model; tied ones count once."""
    copied: dict[str, str]
    """Tensors that were not merged, with the reason."""
    bytes_read: int
    """Bytes of tensors read, preparation and walk together."""
    bytes_written: int
    """Bytes of tensors written."""
    rounding_loss: float
    """Share of the merged change lost to the output dtype, in [0, inf).

    ``||rounded - exact|| / ||exact - pivot||`` in the Frobenius norm over all merged tensors;
    0 when nothing changed.
    """
    warnings: list[str]
    """What the models' configurations differ in and the merge goes on in spite of."""
    diagnostics: dict[str, Any]
    """What the method's preparation reports; JSON-ready."""


def check_method(method: functools.partial[Tensor]) -> None:
    """Check a method's hyper-parameters against its signature, before any weights are read.

    Args:
        method: A merge function with its keyword-only parameters bound.

    Raises:
        ValueError: If a hyper-parameter is unknown or unbound, or if the method's preparation
            asks for one that the method does not have.
    """
    name = f"{method.func.__module__}.{method.func.__qualname__}"
    valid = _keyword_only(method.func)
    if method.args:
        raise ValueError(f"{name}: only keyword parameters can be bound, got {method.args}")
    for key in sorted(set(method.keywords) - valid):
        close = difflib.get_close_matches(key, sorted(valid), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"{name} has no parameter {key}, only {_listed(valid)}{hint}")
    missing = valid - set(method.keywords)
    if missing:
        raise ValueError(f"{name} needs {_listed(missing)} as well; it takes {_listed(valid)}")
    preparation = _preparation(method)
    if preparation is not None and not _keyword_only(preparation) <= valid:
        extra = _keyword_only(preparation) - valid
        raise ValueError(f"the preparation of {name} takes {_listed(extra)}, which it has not")


def method_settings(method: functools.partial[Tensor]) -> dict[str, Any]:
    """Return a method's bound hyper-parameters as plain, JSON-ready values.

    Raises:
        ValueError: If a value is nothing that JSON can hold.
    """
    return {key: _plain(key, value) for key, value in sorted(method.keywords.items())}


def merge_checkpoints(
    method: functools.partial[Tensor],
    pivot: Checkpoint,
    sources: Sequence[AnyCheckpoint],
    destination: Path,
    *,
    seed: int,
    device: torch.device,
    dtype: torch.dtype | None,
    include: Sequence[str],
    exclude: Sequence[str],
    progress: bool,
) -> MergeReport:
    """Merge the sources into the pivot and write the result to a new folder.

    Args:
        method: The merge function, its hyper-parameters bound.
        pivot: Model that gives the result its tensors, configuration and tokenizer.
        sources: Models merged from, at least one, with the pivot's names and shapes unless the
            method's preparation takes any.
        destination: The new folder; whole when this returns, absent when it raises.
        seed: Seed of the method's random draws.
        device: Where the arithmetic is done.
        dtype: Dtype of the result's floating-point tensors; None keeps the pivot's.
        include: Glob patterns of tensors to merge; empty for all.
        exclude: Glob patterns of tensors to copy from the pivot.
        progress: Show a progress bar where standard error is a terminal.

    Returns:
        What was merged, copied, read and written.

    Raises:
        CheckpointMismatchError: If a source's names, shapes or heads differ from the pivot's.
        ValueError: If the method is bound wrongly, the destination exists, there is no source,
            a pattern matches nothing, or a tensor is not finite.
    """
    check_method(method)
    refuse_existing(destination)
    if not sources:
        raise ValueError("a merge needs at least one source, got none")
    if not getattr(method.func, "any_shape", False):
        demand_same_tensors(pivot, sources)
    warnings = tolerated_differences(pivot, sources)
    for warning in warnings:
        _logger.warning("%s; the merged model computes with the pivot's", warning)
    copied = reasons_to_copy(pivot, include, exclude)
    opened = tuple({id(model): model for model in (pivot, *sources)}.values())
    read_before = sum(model.bytes_read for model in opened)
    models = Models(
        pivot=pivot,
        sources=tuple(sources),
        merged_names=tuple(n for n in pivot.names if n not in copied),
        device=device,
    )
    prepared = _prepare(method, models)
    models = prepared.models if isinstance(prepared, Realigned) else models
    inputs = _Inputs(models, pivot=pivot, sources=tuple(sources))
    layout = {name: _output_spec(models.pivot, name, dtype) for name in models.pivot.names}
    loss = RoundingLoss()
    with (
        CheckpointWriter(
            destination, pivot=pivot, layout=layout, config=models.pivot.config, dtype=dtype
        ) as writer,
        _progress_bar(progress) as bar,
    ):
        task = bar.add_task("merging", total=_n_parameters(layout))
        for name, spec in layout.items():
            if name in copied:
                merged = _copy(pivot, name, spec)
            else:
                found = None if prepared is None else prepared.at(name)
                site = Site(name=name, seed=seed, prepared=found)
                merged = _merge(method, inputs, site, spec, loss)
            writer.write(name, merged)
            bar.advance(task, merged.numel())
        report = MergeReport(
            n_merged=len(layout) - len(copied),
            n_parameters=_n_parameters(layout),
            copied=copied | pivot.dropped,
            bytes_read=sum(model.bytes_read for model in opened) - read_before,
            bytes_written=writer.bytes_written,
            rounding_loss=loss.share,
            warnings=warnings,
            diagnostics={} if prepared is None else dict(prepared.diagnostics()),
        )
    _logger.info(
        "merged %d tensors (%d copied) into %s", report.n_merged, len(copied), destination
    )
    return report


class _Inputs:
    """The models of a merge as the walk reads them."""

    def __init__(
        self, models: Models, *, pivot: Checkpoint, sources: tuple[AnyCheckpoint, ...]
    ) -> None:
        self._device = models.device
        self._pivot = models.pivot, f"the pivot ({pivot.path})"
        self._sources = [
            (model, describe(i, source))
            for i, (model, source) in enumerate(zip(models.sources, sources, strict=True))
        ]

    def read(self, name: str) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Read a tensor of every model in float32 onto the device; all must be finite."""
        pivot = self._read_one(name, *self._pivot)
        return pivot, tuple(self._read_one(name, *source) for source in self._sources)

    def _read_one(self, name: str, model: Weights, owner: str) -> Tensor:
        tensor = model.read(name).to(self._device, torch.float32)
        _demand_finite(tensor, f"{name} of {owner}")
        return tensor


def _prepare(method: functools.partial[Tensor], models: Models) -> Prepared | None:
    """Run the pass over the whole model that the method names, if it names one."""
    preparation = _preparation(method)
    if preparation is None:
        return None
    keys = sorted(_keyword_only(preparation))
    return preparation(models, **{key: method.keywords[key] for key in keys})


def _copy(pivot: Checkpoint, name: str, spec: TensorSpec) -> Tensor:
    """Read a tensor of the pivot in the output dtype."""
    try:
        values = pivot.read(name)
        _demand_finite(values, f"{name} of the pivot ({pivot.path})")
        return round_to(spec.dtype, values)
    except Exception as error:
        error.add_note(f"while copying {name} with shape {spec.shape}")
        raise


def _merge(
    method: functools.partial[Tensor],
    inputs: _Inputs,
    site: Site,
    spec: TensorSpec,
    loss: RoundingLoss,
) -> Tensor:
    """Merge one tensor and round the result to the output dtype."""
    try:
        pivot, sources = inputs.read(site.name)
        exact = method(pivot, sources, site)
        if exact.shape != spec.shape:
            raise ValueError(
                f"the method returned shape {tuple(exact.shape)}, not {spec.shape}"
            )
        _demand_finite(exact, "what the method returned")
        rounded = round_to(spec.dtype, exact)
        loss.add(exact=exact, rounded=rounded, pivot=pivot)
        return rounded
    except Exception as error:
        error.add_note(f"while merging {site.name} with shape {spec.shape}")
        raise


def _demand_finite(tensor: Tensor, what: str) -> None:
    """Refuse a tensor that holds NaN or an infinity."""
    if not is_finite(tensor):
        raise ValueError(f"{what} holds NaN or an infinity")


def _output_spec(pivot: Weights, name: str, dtype: torch.dtype | None) -> TensorSpec:
    """Return what a tensor will be on disk; only floating-point tensors change dtype."""
    own = pivot.dtype(name)
    return TensorSpec(
        dtype=dtype if dtype is not None and own.is_floating_point else own,
        shape=pivot.shape(name),
    )


def _n_parameters(layout: Mapping[str, TensorSpec]) -> int:
    return sum(math.prod(spec.shape) for spec in layout.values())


def _progress_bar(wanted: bool) -> Progress:
    """Return a progress bar on standard error; one that shows nothing off a terminal."""
    console = Console(stderr=True)
    return Progress(console=console, disable=not (wanted and console.is_terminal))


def _preparation(method: functools.partial[Tensor]) -> Preparation | None:
    """Return the preparation a method names with ``prepared_by``, if any."""
    return getattr(method.func, "preparation", None)


def _keyword_only(function: Callable[..., object]) -> set[str]:
    """Return the names of a function's keyword-only parameters."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _plain(key: str, value: object) -> object:
    """Return a value as JSON would give it back."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(k): _plain(f"{key}.{k}", v) for k, v in value.items()}
    if isinstance(value, Sequence):
        return [_plain(key, item) for item in value]
    raise ValueError(f"{key} must be a number, text, list or mapping, got {value!r}")
