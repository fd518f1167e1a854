"""What a merge will do and cost, told before any weights are read."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor

from seme.alignment.head_comparison import comparing_bytes
from seme.budget import Room, rewritten_bytes, share_out
from seme.calibration import Calibration, calibrate
from seme.checkpoint.lora import AnyCheckpoint
from seme.checkpoint.reader import Checkpoint
from seme.checkpoint.safetensors_file import TensorSpec
from seme.checkpoint.writer import refuse_existing
from seme.columns import held_bytes
from seme.compatibility import demand_same_tensors, reasons_to_copy, tolerated_differences
from seme.interface import Traits, check_method, traits_of
from seme.settings import MergeSettings
from seme.whole_tensor import memory_for_whole, peak_of_whole

_N_SHOWN = 5
_WHOLE_CALIBRATION_BYTES = 2**30
"""Ample for whole tensors of the small merges, which the planned one's may be smaller than."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a merge will do, and an estimate of what it will take."""

    merged: tuple[str, ...]
    """Tensors merged."""
    copied: Mapping[str, str]
    """Tensors copied from the pivot, with the reason."""
    dropped: Mapping[str, str]
    """Stored tensors of the pivot that are left out, with the reason."""
    n_parameters: int
    """Of the merged model."""
    read_bytes: int
    """Tensors read by the walk and the method's preparation together, estimated."""
    written_bytes: int
    """Tensors written."""
    peak_bytes: int
    """Largest memory beside what the interpreter holds, estimated."""
    memory_budget: int
    """What the merge may take of it."""
    rewritten_bytes: int | None
    """The same if sources have to be rewritten to fit the pivot, tensor by tensor; None for
    methods that take only what fits."""
    seconds: float
    """Of the merge, estimated: reading, computing and writing at the same time."""
    free_bytes: int
    """Free on the destination's disk; ``written_bytes`` are needed."""
    warnings: tuple[str, ...]
    """What the models' configurations differ in."""

    @property
    def fits_the_disk(self) -> bool:
        return self.written_bytes <= self.free_bytes


def plan_merge(
    method: partial[Tensor],
    pivot: Checkpoint,
    sources: Sequence[AnyCheckpoint],
    destination: Path,
    *,
    settings: MergeSettings,
) -> Plan:
    """Plan a merge from headers, or outlines, of the models; no weights are read.

    Bytes to read are one read of every tensor that the walk needs, times how often the method
    reads its models in small merges made for the purpose. The time is the longest of three: that
    of computing, as those merges took it; of reading, at the speed at which the first part of a
    file that is there is read now; of writing. What a preparation takes that is not linear in
    parameters (the d x d solve of semantic bases) comes on top.

    Args:
        method: The merge function, its hyper-parameters bound.
        pivot: As for :func:`seme.engine.merge_checkpoints`; or an outline without shards.
        sources: Models merged from, at least one.
        destination: The folder that would be made.
        settings: What every method shares.

    Raises:
        CheckpointMismatchError: If the merge would be refused for a source that does not fit.
        ValueError: If it would be refused for its method, patterns or destination.
    """
    check_method(method, len(sources))
    refuse_existing(destination)
    traits = traits_of(method)
    if not traits.any_shape:
        demand_same_tensors(pivot, sources)
    copied = reasons_to_copy(pivot, settings.include, settings.exclude)
    merged = tuple(name for name in pivot.names if name not in copied)
    specs = [pivot.spec(name) for name in merged]
    disk = _nearest_folder(destination)
    room = share_out(settings.memory_budget, len(sources), settings.n_threads, settings.device)
    sizes = [_numel(spec) for spec in specs]
    named = dict(zip(merged, sizes, strict=True))
    peak, budget = room.working_bytes, settings.memory_budget
    if traits.whole_tensor:
        memory = memory_for_whole(named, len(sources), traits, room=room, budget=budget)
        peak += peak_of_whole(named, len(sources), traits, memory=memory, room=room)
    ranked = held_bytes(len(sources)) * room.n_threads  # of an element, if all of it is held
    is_held = ranked * _middle(sizes) <= room.held_bytes
    calibration = calibrate(
        method,
        n_sources=len(sources),
        dtype=_common_dtype(specs),
        settings=replace(
            settings, memory_budget=_calibration_budget(traits, room, budget, is_held=is_held)
        ),
        weights=_largest_file(pivot),
        destination=disk,
    )
    read = round(calibration.passes * bytes_of_walk(pivot, sources, merged, copied))
    written = sum(_written(pivot.spec(name), settings.dtype) for name in pivot.names)
    if traits.preparation is not None and not traits.whole_tensor:
        peak += min(room.held_bytes, ranked * max(sizes, default=0))
    rewritten = None
    if traits.any_shape:
        peak = max(peak, comparing_bytes(pivot, len(sources)))
        rewritten = peak + rewritten_bytes(named, len(sources))
    return Plan(
        merged=merged,
        copied=copied,
        dropped=pivot.dropped,
        n_parameters=sum(_numel(pivot.spec(name)) for name in pivot.names),
        read_bytes=read,
        written_bytes=written,
        peak_bytes=peak,
        memory_budget=budget,
        rewritten_bytes=rewritten,
        seconds=_seconds(calibration, sum(sizes), read, written),
        free_bytes=shutil.disk_usage(disk).free,
        warnings=tuple(tolerated_differences(pivot, sources)),
    )


def _calibration_budget(traits: Traits, room: Room, budget: int, *, is_held: bool) -> int:
    """Budget of the small merges: what decides how the planned merge reads decides it there."""
    if traits.whole_tensor:
        return max(budget, room.working_bytes + _WHOLE_CALIBRATION_BYTES)
    return budget if is_held else room.working_bytes


def _middle(sizes: Sequence[int]) -> int:
    """The size of the tensor that holds the middle parameter, counted by size; 0 of none."""
    reached, half = 0, sum(sizes) / 2
    for size in sorted(sizes):
        reached += size
        if reached >= half:
            return size
    return 0


def bytes_of_walk(
    pivot: Checkpoint,
    sources: Sequence[AnyCheckpoint],
    merged: Sequence[str],
    copied: Mapping[str, str],
) -> int:
    """Return the bytes of every tensor that a walk reads once.

    A source of other names than the pivot's counts whole.
    """
    total = sum(pivot.spec(name).nbytes for name in (*merged, *copied))
    for source in sources:
        names = merged if set(merged) <= set(source.names) else source.names
        total += sum(source.spec(name).nbytes for name in names)
    return total


def plan_table(plan: Plan) -> Table:
    """Return a plan as a table of two columns."""
    table = Table(
        title="Plan of the merge; of the weights only a sample was read, for the disk's speed",
        title_justify="left",
    )
    table.add_column("")
    table.add_column("", overflow="fold")
    table.add_row(
        "merged", f"{len(plan.merged)} tensors of a model of {plan.n_parameters:,} parameters"
    )
    table.add_row("copied", _with_reasons(plan.copied))
    table.add_row("dropped", _with_reasons(plan.dropped))
    table.add_row("to read", _size(plan.read_bytes))
    table.add_row("to write", _size(plan.written_bytes))
    verdict = "" if plan.fits_the_disk else ": NOT ENOUGH"
    table.add_row("disk free", f"{_size(plan.free_bytes)}{verdict}")
    table.add_row("peak memory", _memory(plan))
    table.add_row("time", f"about {plan.seconds:.3g} seconds")
    for warning in plan.warnings:
        table.add_row("warning", warning)
    return table


def _memory(plan: Plan) -> str:
    told = f"about {_size(plan.peak_bytes)} beside the interpreter"
    if plan.rewritten_bytes is not None:
        told += f"; {_size(plan.rewritten_bytes)} if sources must be rewritten"
    return f"{told} (memory_budget: {_size(plan.memory_budget)})"


def _seconds(calibration: Calibration, n_merged: int, read: int, written: int) -> float:
    return calibration.fixed_seconds + max(
        n_merged * calibration.seconds_per_parameter,
        read / calibration.read_bytes_per_second,
        written / calibration.write_bytes_per_second,
    )


def _written(spec: TensorSpec, dtype: torch.dtype | None) -> int:
    if dtype is None or not spec.dtype.is_floating_point:
        return spec.nbytes
    return _numel(spec) * dtype.itemsize


def _numel(spec: TensorSpec) -> int:
    return spec.nbytes // spec.dtype.itemsize


def _common_dtype(specs: Sequence[TensorSpec]) -> torch.dtype:
    """Return the dtype that most of the parameters have."""
    counts: dict[torch.dtype, int] = {}
    for spec in specs:
        counts[spec.dtype] = counts.get(spec.dtype, 0) + _numel(spec)
    return max(counts, key=lambda dtype: counts[dtype])


def _largest_file(model: Checkpoint) -> Path | None:
    """Return the largest file of weights of a model; None where there is none."""
    files = [file for file in model.path.glob("*.safetensors") if file.is_file()]
    return max(files, key=lambda file: file.stat().st_size, default=None)


def _nearest_folder(path: Path) -> Path:
    """Return the nearest folder above a path that exists."""
    return next(folder for folder in path.absolute().parents if folder.is_dir())


def _with_reasons(reasons: Mapping[str, str]) -> str:
    """Count tensors by reason; name a few where they are few."""
    if not reasons:
        return "none"
    grouped: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        grouped.setdefault(reason, []).append(name)
    return "\n".join(
        f"{len(names)} {reason}: {', '.join(names[:_N_SHOWN])}"
        + (", ..." if len(names) > _N_SHOWN else "")
        for reason, names in grouped.items()
    )


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 10_000_000 else f"{n_bytes / 1e6:.2f} MB"
