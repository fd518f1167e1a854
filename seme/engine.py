"""Merge checkpoints: check, prepare, walk the tensors in order, call the method, write.

The only place where weights change dtype: a method sees float32 on one device, and what it
returns is rounded once to the output dtype. Every core takes blocks from reading over the method
to writing, so nothing waits for anything else, and memory is a few blocks and, of what is ranked,
a tensor of bounded size per core, whatever the model; only sources that have to be rewritten are
held in whole tensors.
"""

import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from seme.binding import check_method, prepare, takes_any_shape
from seme.budget import allocate, keep_freed_memory
from seme.checkpoint.lora import AnyCheckpoint
from seme.checkpoint.protocol import Weights
from seme.checkpoint.reader import Checkpoint
from seme.checkpoint.safetensors_file import TensorSpec
from seme.checkpoint.writer import CheckpointWriter, refuse_existing
from seme.compatibility import (
    demand_same_tensors,
    reasons_to_copy,
    tolerated_differences,
)
from seme.interface import Prepared, Realigned, Site
from seme.rounding import is_finite, round_merged, round_to, share_lost, summed
from seme.settings import MergeSettings
from seme.streaming import CPU_BLOCK, Block, Models, ThreadPool

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


def merge_checkpoints(
    method: functools.partial[Tensor],
    pivot: Checkpoint,
    sources: Sequence[AnyCheckpoint],
    destination: Path,
    *,
    settings: MergeSettings,
    progress: bool,
) -> MergeReport:
    """Merge the sources into the pivot and write the result to a new folder.

    Args:
        method: The merge function, its hyper-parameters bound.
        pivot: Model that gives the result its tensors, configuration and tokenizer.
        sources: Models merged from, at least one, with the pivot's names and shapes unless the
            method's preparation takes any.
        destination: The new folder; whole when this returns, absent when it raises.
        settings: What every method shares.
        progress: Show a progress bar where standard error is a terminal.

    Returns:
        What was merged, copied, read and written.

    Raises:
        CheckpointMismatchError: If a source's names, shapes or heads differ from the pivot's.
        ValueError: If the method is bound wrongly, the destination exists, there is no source,
            a pattern matches nothing, the budget is too small, or a tensor is not finite.
    """
    check_method(method)
    refuse_existing(destination)
    if not sources:
        raise ValueError("a merge needs at least one source, got none")
    if not takes_any_shape(method):
        demand_same_tensors(pivot, sources)
    warnings = tolerated_differences(pivot, sources)
    for warning in warnings:
        _logger.warning("%s; the merged model computes with the pivot's", warning)
    copied = reasons_to_copy(pivot, settings.include, settings.exclude)
    opened = tuple({id(model): model for model in (pivot, *sources)}.values())
    read_before = sum(model.bytes_read for model in opened)
    budget, device = settings.memory_budget, settings.device
    allocation = allocate(budget, len(sources), settings.n_threads, device)
    keep_freed_memory()
    with ThreadPool(allocation.n_threads) as threads:
        models = Models(
            pivot=pivot,
            sources=tuple(sources),
            merged_names=tuple(n for n in pivot.names if n not in copied),
            device=device,
            threads=threads,
            blocks_per_read=allocation.blocks_per_read,
            cache_bytes=allocation.cache_bytes,
            memory_budget=budget,
        )
        prepared = prepare(method, models)
        walked = prepared.models if isinstance(prepared, Realigned) else models
        layout = {
            name: _output_spec(walked.pivot, name, settings.dtype)
            for name in walked.pivot.names
        }
        with (
            CheckpointWriter(
                destination,
                pivot=pivot,
                layout=layout,
                config=walked.pivot.config,
                dtype=settings.dtype,
            ) as writer,
            _progress_bar(progress) as bar,
        ):
            task = bar.add_task("merging", total=_n_parameters(layout))

            def write(read: Models, name: str) -> tuple[float, float]:
                lost = (0.0, 0.0)
                if name in copied:
                    _copy(read, name, layout[name], writer)
                else:
                    site = Site(name=name, seed=settings.seed)
                    lost = _merge(method, read, prepared, site, layout[name], writer)
                bar.advance(task, math.prod(layout[name].shape))
                return lost

            alone = walked is models and (prepared is None or allocation.rank_per_thread)
            errors = _walk(write, walked, layout, alone=alone)
            report = MergeReport(
                n_merged=len(layout) - len(copied),
                n_parameters=_n_parameters(layout),
                copied=copied | pivot.dropped,
                bytes_read=sum(model.bytes_read for model in opened) - read_before,
                bytes_written=writer.bytes_written,
                rounding_loss=share_lost(errors),
                warnings=warnings,
                diagnostics={} if prepared is None else dict(prepared.diagnostics()),
            )
    return report


def _walk(
    write: Callable[[Models, str], tuple[float, float]],
    models: Models,
    layout: Mapping[str, TensorSpec],
    *,
    alone: bool,
) -> list[tuple[float, float]]:
    """Write all tensors, on all cores each or, where memory allows, small ones on one alone."""
    names = list(layout)
    if not alone or models.device.type != "cpu":
        return [write(models, name) for name in names]
    one_core = replace(
        models,
        threads=ThreadPool(1),
        cache_bytes=models.cache_bytes // models.threads.n_threads,
    )
    return models.map_tensors(
        [math.prod(layout[name].shape) for name in names],
        lambda index: write(models, names[index]),
        lambda index: write(one_core, names[index]),
    )


def _copy(models: Models, name: str, spec: TensorSpec, writer: CheckpointWriter) -> None:
    """Copy a tensor of the pivot in the output dtype."""
    size, numel = CPU_BLOCK * models.blocks_per_read, math.prod(spec.shape)

    def copy(index: int) -> None:
        start = index * size
        values = opened.read(start, min(start + size, numel))
        if not is_finite(values):
            raise ValueError(
                f"{name} of the pivot ({models.pivot.path}) holds NaN or an infinity"
            )
        writer.write(name, round_to(spec.dtype, values), start)

    try:
        opened = models.pivot.opened(name)
        models.threads.map(copy, -(-numel // size))
    except Exception as error:
        error.add_note(f"while copying {name} with shape {spec.shape}")
        raise


def _merge(
    method: functools.partial[Tensor],
    models: Models,
    prepared: Prepared | None,
    site: Site,
    spec: TensorSpec,
    writer: CheckpointWriter,
) -> tuple[float, float]:
    """Merge one tensor block by block; return what rounding lost and the merge changed."""

    def merge(block: Block) -> tuple[float, float]:
        exact = method(block.pivot, block.sources, replace(site, start=block.start))
        if exact.shape != block.pivot.shape:
            raise ValueError(
                f"the method must return a block's shape, {tuple(block.pivot.shape)}, got "
                f"{tuple(exact.shape)}"
            )
        if exact.dtype != torch.float32:
            raise ValueError(f"the method must return float32, got {exact.dtype}")
        rounded = round_merged(spec.dtype, exact=exact, pivot=block.pivot)
        writer.write(site.name, rounded.values, block.start)
        return rounded.lost, rounded.changed

    try:
        tensor = models.open(site.name)
        site = replace(site, prepared=None if prepared is None else prepared.at(tensor))
        return summed(tensor.map(merge))
    except Exception as error:
        error.add_note(f"while merging {site.name} with shape {spec.shape}")
        raise


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
