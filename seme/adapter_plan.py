"""Plan of a merge to one LoRA: what is read and written, memory and disk, from headers alone."""

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor

from seme.adapter_merge import check_adapter_merge, written_names
from seme.binding import check_method
from seme.checkpoint.lora import AdaptedCheckpoint, AnyCheckpoint
from seme.checkpoint.lora_writer import adapter_bytes
from seme.checkpoint.reader import Checkpoint
from seme.checkpoint.writer import refuse_existing
from seme.compatibility import other_bases, reasons_to_copy
from seme.outline import gigabytes
from seme.plan import Plan, first_lines, nearest_folder, plan_merge, with_reasons
from seme.settings import MergeSettings
from seme.tensor_methods import bind_overrides

_FACTOR_BYTES = 8 + 4
"""Memory of an element of the written factors: in float64, all at once, and in float32."""
_DECOMPOSED_BYTES = 8 * 4
"""Memory of an element of a decomposed weight, float64: the change, a copy that the solver
overwrites, and both sides' vectors, which are together less than twice as large."""
_SQUARE_BYTES = 8 * 4
"""Workspace of LAPACK's gesdd in float64, per element of a square of the smaller side."""
_MOST_RETAINED_BYTES = 400_000_000
"""Freed memory of decompositions that the allocator keeps (measured: 240 to 370 MB)."""
_FIXED_BYTES = 20_000_000
"""Python objects, headers and the allocator's rest (measured, rounded up)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterPlan:
    """Weights, bytes and memory of a merge to one LoRA."""

    ranks: Mapping[str, int]
    """Weight that factors are written for, to their rank."""
    n_parameters: int
    """Elements of the written factors."""
    excluded: Mapping[str, str]
    """Weights that the sources change and the merge does not, with the reason."""
    overridden: tuple[str, ...]
    """Values that overrides give to tensors, one line for each set."""
    read_bytes: int
    """Bytes of the sources' factors; with a rank also of a merge's walk, of the pivot once more
    and of the merged model."""
    written_bytes: int
    """Size of the file of factors."""
    whole: Plan | None
    """Merge to a model in float32 that comes before an approximation by a given rank; its
    files are deleted at the end."""
    largest: tuple[int, ...]
    """Shape of the largest weight that factors are written for."""
    peak_bytes: int
    """Estimated peak memory, excluding the Python process."""
    free_bytes: int
    """Free bytes on the destination's disk."""
    warnings: tuple[str, ...]
    """Notes on models and settings; none stops the merge."""

    @property
    def disk_bytes(self) -> int:
        """Bytes on the disk at most at a time."""
        return self.written_bytes + (0 if self.whole is None else self.whole.written_bytes)


def plan_adapter(
    method: partial[Tensor],
    pivot: Checkpoint,
    sources: Sequence[AnyCheckpoint],
    destination: Path,
    *,
    settings: MergeSettings,
) -> AdapterPlan:
    """Plan :func:`seme.adapter_merge.merge_to_adapter` from headers; no weights are read.

    Args:
        method: The merge function, its hyper-parameters bound.
        pivot: The adapters' base.
        sources: The adapters.
        destination: The folder that would be made.
        settings: As for the merge.

    Raises:
        ValueError: If the merge would be refused.
    """
    check_method(method, len(sources))
    refuse_existing(destination)
    rank = settings.adapter_rank
    adapters = check_adapter_merge(method, pivot, sources, rank)
    copied = reasons_to_copy(pivot, settings.include, settings.exclude)
    names = written_names(adapters, copied)
    shapes = _shapes(adapters, names, rank)
    modules = {name: module for a in adapters for name, module in a.modules().items()}
    whole = None
    if rank is not None:
        in_full = replace(settings, dtype=torch.float32)
        whole = plan_merge(method, pivot, sources, destination, settings=in_full)
    methods = bind_overrides(method, settings.overrides, tuple(names), len(adapters))
    sizes = {
        name: rank * (inputs + outputs) for name, (rank, inputs, outputs) in shapes.items()
    }
    return AdapterPlan(
        ranks={name: shape[0] for name, shape in shapes.items()},
        n_parameters=sum(sizes.values()),
        excluded={
            name: reason
            for name, reason in copied.items()
            if any(name in adapter.changes.adapted for adapter in adapters)
        },
        overridden=tuple(methods.described()) if whole is None else whole.overridden,
        read_bytes=_factor_bytes(adapters, names)
        + (0 if whole is None else whole.read_bytes + pivot.nbytes + whole.written_bytes),
        written_bytes=adapter_bytes({modules[name]: shapes[name] for name in names}),
        whole=whole,
        largest=max((pivot.shape(name) for name in names), key=math.prod),
        peak_bytes=_peak_bytes(pivot, sizes, whole),
        free_bytes=shutil.disk_usage(nearest_folder(destination)).free,
        warnings=tuple(other_bases(adapters)) if whole is None else whole.warnings,
    )


def _shapes(
    adapters: Sequence[AdaptedCheckpoint], names: Sequence[str], rank: int | None
) -> dict[str, tuple[int, int, int]]:
    """Return rank, inputs and outputs of the factors of every weight."""
    shapes = {}
    for name in names:
        stored = [a.changes.adapted[name] for a in adapters if name in a.changes.adapted]
        summed = sum(factors.down.spec.shape[0] for factors in stored)
        _, inputs = stored[0].down.spec.shape
        outputs, _ = stored[0].up.spec.shape
        shapes[name] = (summed if rank is None else rank, inputs, outputs)
    return shapes


def _factor_bytes(adapters: Sequence[AdaptedCheckpoint], names: Sequence[str]) -> int:
    """Sum the stored bytes of the sources' factors."""
    return sum(
        adapter.changes.adapted[name].nbytes
        for adapter in adapters
        for name in names
        if name in adapter.changes.adapted
    )


def _peak_bytes(pivot: Checkpoint, sizes: Mapping[str, int], whole: Plan | None) -> int:
    """Estimate the peak memory.

    Args:
        pivot: The adapters' base.
        sizes: Elements of the written factors, by weight.
        whole: Plan of the merge to a model that comes first, if one does.
    """
    written = _FACTOR_BYTES * sum(sizes.values())
    if whole is None:
        return _FIXED_BYTES + written + 2 * 8 * max(sizes.values())
    decomposed = [
        _DECOMPOSED_BYTES * math.prod(pivot.shape(name))
        + _SQUARE_BYTES * min(pivot.shape(name)) ** 2
        for name in sizes
    ]
    retained = min(sum(decomposed) - max(decomposed), _MOST_RETAINED_BYTES)
    return max(whole.peak_bytes, _FIXED_BYTES + written + max(decomposed) + retained)


def adapter_plan_table(plan: AdapterPlan, *, memory_budget: str) -> Table:
    """Lay out a plan as a table of two columns.

    Args:
        plan: The plan.
        memory_budget: As the user gave it, such as ``2GiB``.
    """
    table = Table(
        title="Plan of a merge to one LoRA (no weights loaded)",
        title_justify="left",
        show_header=False,
    )
    table.add_column("")
    table.add_column("", overflow="fold")
    table.add_row("merged", f"{len(plan.ranks)} weights, {_ranks(plan)}")
    table.add_row("left out", with_reasons(plan.excluded))
    if plan.overridden:
        table.add_row("overrides", first_lines(plan.overridden))
    table.add_row("to read", _read(plan))
    n_numbers = f"{plan.n_parameters:,} numbers in float32"
    table.add_row("to write", f"{gigabytes(plan.written_bytes)}: {n_numbers}")
    if plan.whole is not None:
        n_bytes = gigabytes(plan.whole.written_bytes)
        table.add_row(
            "for a while", f"{n_bytes}: the merged model in float32, on the same disk"
        )
        table.add_row("to compute", _decompositions(plan))
    verdict = "" if plan.disk_bytes <= plan.free_bytes else ": NOT ENOUGH"
    table.add_row("disk free", f"{gigabytes(plan.free_bytes)}{verdict}")
    peak = f"+{gigabytes(plan.peak_bytes)} over the Python process"
    table.add_row("peak memory", f"{peak}{_budgeted(plan, memory_budget)}")
    for warning in plan.warnings:
        table.add_row("warning", warning)
    return table


def _ranks(plan: AdapterPlan) -> str:
    """Say how the sources become one LoRA, and of which ranks."""
    if plan.whole is not None:
        rank = max(plan.ranks.values())
        return f"their change approximated by rank {rank}, truncated SVD"
    least, most = min(plan.ranks.values()), max(plan.ranks.values())
    ranks = f"rank {most}" if least == most else f"ranks {least} to {most}"
    return f"the sources' factors side by side, {ranks}: exact"


def _read(plan: AdapterPlan) -> str:
    if plan.whole is None:
        return f"{gigabytes(plan.read_bytes)}: factors alone, none of the pivot's weights"
    more = "; the method's preparation adds passes" if plan.whole.is_prepared else ""
    return f"{gigabytes(plan.read_bytes)}: the models, the pivot again, the merged model{more}"


def _decompositions(plan: AdapterPlan) -> str:
    sides = " x ".join(map(str, plan.largest))
    return (
        f"{len(plan.ranks)} singular value decompositions in float64, the largest of {sides}; "
        "their time grows with its larger side and the square of its smaller one"
    )


def _budgeted(plan: AdapterPlan, memory_budget: str) -> str:
    """Say what the memory budget bounds."""
    if plan.whole is None:
        return f"; memory_budget ({memory_budget}) does not bound it"
    return f"; of it memory_budget ({memory_budget}) bounds the merge, not the decompositions"
