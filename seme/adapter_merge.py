"""LoRA sources merged to one LoRA: factors put side by side, or a truncated SVD of the change.

A linear method adds c_i s_i B_i A_i over the sources, which is the product of [c_1 s_1 B_1, ...] and
[A_1; ...]: exact, of the summed rank ("cat" of PEFT's ``add_weighted_adapter``). For any method,
merged minus pivot is a matrix M; by Eckart and Young, 1936, its best approximation of rank r is its
r largest singular values and vectors ("svd" of PEFT, of the merged change).
"""

import functools
import json
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seme.architecture.families import EMBEDDINGS, HEADS
from seme.binding import check_method, merge_function
from seme.checkpoint.lora import ADAPTER_FILE, AdaptedCheckpoint, AnyCheckpoint
from seme.checkpoint.lora_writer import write_adapter
from seme.checkpoint.protocol import Readable
from seme.checkpoint.reader import Checkpoint, open_checkpoint
from seme.checkpoint.writer import refuse_existing, remove_stale, temporary_sibling
from seme.compatibility import other_bases, reasons_to_copy
from seme.engine import MergeReport, merge_checkpoints
from seme.interface import Site
from seme.settings import MergeSettings
from seme.streaming import CPU_BLOCK
from seme.tensor_methods import bind_overrides

_logger = logging.getLogger(__name__)
ERRORS_FILE = "adapter_error.json"
"""What the adapter is of the merge: ``rank`` (the largest), ``error``, both by module."""
LINEAR = ("baselines.average.merge", "baselines.task_arithmetic.merge")
"""Methods that add multiples of the sources' changes, the same for every element of a tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """Low-rank change of one weight, and what it leaves out of the merge."""

    down: Tensor
    """(rank, inputs), float64."""
    up: Tensor
    """(outputs, rank), float64."""
    lost: float
    """Squared Frobenius norm of the merged change less ``up @ down``."""
    size: float
    """Squared Frobenius norm of the merged change."""

    @property
    def rank(self) -> int:
        return self.down.shape[0]


def is_linear(method: functools.partial[Tensor]) -> bool:
    """Return True for a method whose merge of adapters is an adapter of the summed rank."""
    return f"{method.func.__module__}.{method.func.__qualname__}" in LINEAR


def check_adapter_merge(
    method: functools.partial[Tensor],
    pivot: Checkpoint,
    sources: Sequence[AnyCheckpoint],
    rank: int | None,
) -> tuple[AdaptedCheckpoint, ...]:
    """Refuse what one LoRA cannot hold; no weights are read.

    Returns:
        The sources, all adapters of the pivot.

    Raises:
        ValueError: If a source is no adapter of the pivot, or changes more than matrices; the
            method is not linear and no rank is given; or the rank is out of range.
    """
    adapters = [_adapter(i, source, pivot) for i, source in enumerate(sources)]
    if rank is None:
        if not is_linear(method):
            raise ValueError(
                f"merged_as=adapter needs adapter_rank=RANK for {method.func.__module__}: only of "
                f"linear methods ({', '.join(n.split('.')[1] for n in LINEAR)}) is the merge of "
                "adapters an adapter; of others it is approximated by a truncated SVD"
            )
        decomposed = [i for i, a in enumerate(adapters) if _magnitudes(a)]
        if decomposed:
            raise ValueError(
                f"source {decomposed[0]} is a DoRA adapter, whose change is no product of two "
                "factors: merged_as=adapter needs adapter_rank=RANK for it"
            )
        return tuple(adapters)
    sides = {n: min(pivot.shape(n)) for a in adapters for n in a.changes.adapted}
    smallest = min(sides, key=sides.__getitem__)
    if not 1 <= rank <= sides[smallest]:
        raise ValueError(
            f"adapter_rank must be from 1 to {sides[smallest]}, the smaller side of {smallest}, "
            f"got {rank}"
        )
    return tuple(adapters)


def _adapter(i: int, source: AnyCheckpoint, pivot: Checkpoint) -> AdaptedCheckpoint:
    """Return a source that one LoRA of the pivot can hold."""
    if not isinstance(source, AdaptedCheckpoint):
        raise ValueError(
            f"merged_as=adapter merges LoRA adapters, source {i} ({source.path}) is a model of "
            "its own: write sources as {path_to_adapter: FOLDER}, or merge to a model"
        )
    if source.base.path.resolve() != pivot.path.resolve():
        raise ValueError(
            f"merged_as=adapter needs adapters of the pivot, {pivot.path}; the base of source "
            f"{i} ({source.path}) is {source.base.path}"
        )
    whole = [*source.changes.replaced]
    whole += [name for name in source.changes.adapted if name.endswith((*EMBEDDINGS, *HEADS))]
    if whole:
        raise ValueError(
            f"source {i} ({source.path}) changes {', '.join(sorted(whole)[:3])} (modules_to_save, "
            "embedding or head), which merged_as=adapter does not merge: merge to a model"
        )
    if not source.changes.adapted:
        raise ValueError(f"source {i} ({source.path}) has no factors")
    return source


def _magnitudes(adapter: AdaptedCheckpoint) -> bool:
    return any(stored.magnitude is not None for stored in adapter.changes.adapted.values())


def merge_to_adapter(
    method: functools.partial[Tensor],
    pivot: Checkpoint,
    sources: Sequence[AnyCheckpoint],
    destination: Path,
    *,
    settings: MergeSettings,
    progress: bool | str,
) -> MergeReport:
    """Merge LoRA sources and write the result as a LoRA of the pivot, as PEFT reads it.

    Args:
        method: The merge function, its hyper-parameters bound.
        pivot: The adapters' base.
        sources: The adapters.
        destination: The new folder; whole when this returns, absent when it raises.
        settings: With ``adapter_rank``; None puts factors side by side.
        progress: Show a progress bar on a terminal.

    Returns:
        Counts, costs, and in its diagnostics the rank and the error,
        ``||merged - pivot - B A|| / ||merged - pivot||`` over all tensors.

    Raises:
        ValueError: As :func:`check_adapter_merge`, and as a merge to a model.
    """
    check_method(method, len(sources))
    refuse_existing(destination)
    rank = settings.adapter_rank
    adapters = check_adapter_merge(method, pivot, sources, rank)
    copied = reasons_to_copy(pivot, settings.include, settings.exclude)
    names = written_names(adapters, copied)
    read: tuple[AnyCheckpoint, ...] = (pivot, *adapters)
    read_before = sum(model.bytes_read for model in read)
    destination.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(destination)
    temporary = temporary_sibling(destination)
    temporary.mkdir()
    try:
        read_again = 0
        if rank is None:
            changes = _side_by_side(method, adapters, names, settings)
            report, elsewhere = _report(pivot, copied, names, other_bases(adapters)), 0.0
            for warning in report.warnings:
                _logger.warning("%s", warning)
        else:
            model = temporary / "model"
            in_full = replace(settings, dtype=torch.float32)
            report = merge_checkpoints(
                method, pivot, sources, model, settings=in_full, progress=progress
            )
            whole = open_checkpoint(model, root=temporary)
            changes = _truncated(pivot, whole, names, rank, adapters)
            elsewhere = _changed_elsewhere(pivot, whole, names)
            read_again = whole.bytes_read
            shutil.rmtree(model)
        written = temporary / "adapter"
        written.mkdir()
        errors = _write(written, adapters, changes, elsewhere)
        refuse_existing(destination)
        written.rename(destination)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return replace(
        report,
        n_parameters=sum(c.down.numel() + c.up.numel() for c in changes.values()),
        bytes_read=sum(model.bytes_read for model in read) - read_before + read_again,
        bytes_written=(destination / ADAPTER_FILE).stat().st_size,
        rounding_loss=0.0,
        diagnostics={
            **report.diagnostics,
            "adapter": {"rank": errors["rank"], "error": errors["error"]},
        },
    )


def written_names(
    adapters: Sequence[AdaptedCheckpoint], copied: Mapping[str, str]
) -> list[str]:
    """List the weights that the written adapter has factors of, sorted.

    Args:
        adapters: The sources.
        copied: Tensors that ``include`` and ``exclude`` leave out, with the reason.

    Raises:
        ValueError: If all that the sources change is left out.
    """
    adapted = sorted({name for adapter in adapters for name in adapter.changes.adapted})
    merged = [name for name in adapted if name not in copied]
    if not merged:
        raise ValueError(
            f"include and exclude leave out all {len(adapted)} weights that the adapters change, "
            f"{adapted[0]} for one: nothing would be merged"
        )
    return merged


def _report(
    pivot: Checkpoint, copied: dict[str, str], merged: Sequence[str], warnings: list[str]
) -> MergeReport:
    """Report of a merge without a walk over the pivot's tensors."""
    return MergeReport(
        n_merged=len(merged),
        n_parameters=0,
        copied=copied | pivot.dropped,
        bytes_read=0,
        bytes_written=0,
        rounding_loss=0.0,
        warnings=warnings,
        diagnostics={},
    )


def _side_by_side(
    method: functools.partial[Tensor],
    adapters: Sequence[AdaptedCheckpoint],
    names: Sequence[str],
    settings: MergeSettings,
) -> dict[str, _Change]:
    """Stack the sources' factors, each times its coefficient."""
    methods = bind_overrides(method, settings.overrides, tuple(names), len(adapters))
    changes = {}
    for name in names:
        coefficients = _coefficients(methods.at(name), name, len(adapters), settings.seed)
        down, up = [], []
        for adapter, coefficient in zip(adapters, coefficients, strict=True):
            if name in adapter.changes.adapted:
                factors = adapter.factors(name)
                down.append(factors.down.double())
                up.append(factors.up.double() * (coefficient * factors.scaling))
        left, right = torch.cat(up, dim=1), torch.cat(down)
        size = float(((left.T @ left) * (right @ right.T)).sum())  # the squared norm of B A
        changes[name] = _Change(down=right, up=left, lost=0.0, size=max(size, 0.0))
    return changes


def _coefficients(
    method: functools.partial[Tensor], name: str, n_sources: int, seed: int
) -> list[float]:
    """Multiples of the sources' changes that a linear method adds: its value on unit changes."""
    merge = merge_function(method)
    site, zero = Site(name=name, seed=seed, prepared=None), torch.zeros(1)
    units = torch.eye(n_sources)
    return [float(merge(zero, [*units[:, i : i + 1]], site)) for i in range(n_sources)]


def _truncated(
    pivot: Checkpoint,
    merged: Checkpoint,
    names: Sequence[str],
    rank: int,
    adapters: Sequence[AdaptedCheckpoint],
) -> dict[str, _Change]:
    """Approximate the change of each adapted weight by ``rank`` singular values."""
    changes = {}
    for name in names:
        change = merged.read(name).double() - pivot.read(name).double()
        stored = next(a.changes.adapted[name] for a in adapters if name in a.changes.adapted)
        if stored.transposed:
            change = change.T
        left, values, right = torch.linalg.svd(change, full_matrices=False)
        changes[name] = _Change(
            up=left[:, :rank] * values[:rank],
            down=right[:rank].clone(),  # a view would keep all of them
            lost=float(values[rank:].square().sum()),
            size=float(values.square().sum()),
        )
    return changes


def _changed_elsewhere(pivot: Checkpoint, merged: Checkpoint, names: Sequence[str]) -> float:
    """Squared norm of what the merge changed in tensors that no source adapts; usually 0."""
    return math.fsum(
        _distance(pivot.opened(name), merged.opened(name), math.prod(pivot.shape(name)))
        for name in pivot.names
        if name not in names
    )


def _distance(before: Readable, after: Readable, numel: int) -> float:
    """Squared norm of the difference of two tensors, read block by block."""
    ranges = ((start, min(start + CPU_BLOCK, numel)) for start in range(0, numel, CPU_BLOCK))
    return math.fsum(
        float((after.read(*place).double() - before.read(*place).double()).square().sum())
        for place in ranges
    )


def _write(
    folder: Path,
    adapters: Sequence[AdaptedCheckpoint],
    changes: Mapping[str, _Change],
    elsewhere: float,
) -> dict[str, Any]:
    """Write the adapter's tensors, configuration and errors; return the errors."""
    modules = {name: module for a in adapters for name, module in a.modules().items()}
    ranks = {modules[name]: change.rank for name, change in changes.items()}
    factors = {modules[name]: (change.down, change.up) for name, change in changes.items()}
    write_adapter(folder, factors, like=adapters[0].path)
    lost, size = (sum(getattr(c, k) for c in changes.values()) for k in ("lost", "size"))
    errors = {
        "rank": max(ranks.values()),
        "error": _share(lost + elsewhere, size + elsewhere),
        "modules": {
            modules[name]: {"rank": change.rank, "error": _share(change.lost, change.size)}
            for name, change in changes.items()
        },
    }
    (folder / ERRORS_FILE).write_text(json.dumps(errors, indent=1) + "\n", encoding="utf-8")
    return errors


def _share(lost: float, size: float) -> float:
    return math.sqrt(lost / size) if size else 0.0
