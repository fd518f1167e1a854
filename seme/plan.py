"""Merge plan: tensors, bytes, memory and disk, from headers alone (no weights loaded).

Shards may be absent: config and index are enough. transformers is imported for models without
shards only; a merge never does, except to convert a GGUF model.
"""

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from seme.alignment.head_comparison import comparing_bytes
from seme.architecture.config_entries import check_config
from seme.architecture.families import HEADS
from seme.binding import check_method
from seme.budget import allocate, cached_bytes, rewritten_bytes
from seme.checkpoint.gguf_config import outline_gguf
from seme.checkpoint.gguf_conversion import place_in_cache
from seme.checkpoint.gguf_model import read_gguf
from seme.checkpoint.lora import AnyCheckpoint
from seme.checkpoint.model_folder import INDEX_FILE, locate, read_index, read_object
from seme.checkpoint.opening import gguf_files
from seme.checkpoint.quantised import refuse_quantised
from seme.checkpoint.reader import (
    SINGLE_FILE,
    Checkpoint,
    is_tied,
    open_checkpoint,
)
from seme.checkpoint.regular_file import find_file, shown
from seme.checkpoint.renamed import in_names_of
from seme.checkpoint.safetensors_file import StoredTensor, TensorSpec
from seme.checkpoint.writer import refuse_existing
from seme.compatibility import (
    demand_same_tensors,
    other_bases,
    reasons_to_copy,
    refuse_float64,
    warnings_before,
)
from seme.embedding_rows import MergeableSource, fit_rows, row_differences
from seme.engine import sizes_of
from seme.interface import traits_of
from seme.settings import MergeSettings
from seme.whole_tensor import memory_for_whole, peak_of_whole, whole_names

_logger = logging.getLogger(__name__)
_PICKLE_INDEX = "pytorch_model.bin.index.json"
_N_NAMED = 5
"""Tensors named per reason in the table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Tensors, bytes and memory of a merge."""

    merged: tuple[str, ...]
    """Tensors merged."""
    copied: Mapping[str, str]
    """Tensors copied from the pivot, with the reason."""
    dropped: Mapping[str, str]
    """Stored tensors of the pivot that are left out, with the reason."""
    n_parameters: int
    """Parameters of the merged model."""
    read_bytes: int
    """Bytes read by the walk: every tensor once."""
    is_prepared: bool
    """The method's preparation reads the models too, before or during the walk."""
    written_bytes: int
    """Bytes of the merged tensors."""
    peak_bytes: int
    """Estimated peak memory, excluding the Python process."""
    rewritten_bytes: int | None
    """Estimated peak memory if sources have to be rewritten to fit the pivot, tensor by tensor;
    None for methods that merge only models of the same shape."""
    free_bytes: int
    """Free bytes on the destination's disk; ``written_bytes`` are needed."""
    warnings: tuple[str, ...]
    """Differences between the models that do not stop the merge; the merge also compares a
    sample of the weights."""

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
    """Plan a merge from the headers, or outlines, of its models; no weights are read.

    Args:
        method: The merge function, its hyper-parameters bound.
        pivot: As for :func:`seme.engine.merge_checkpoints`; or an outline without shards.
        sources: Models merged from, at least one.
        destination: The folder that would be made.
        settings: Merge settings common to all methods.

    Raises:
        CheckpointMismatchError: If the merge would be refused for a source that does not fit.
        ValueError: If it would be refused for its method, patterns, budget or destination.
    """
    check_method(method, len(sources))
    refuse_existing(destination)
    traits = traits_of(method)
    patterns = {"include": settings.include, "exclude": settings.exclude}
    copied = reasons_to_copy(pivot, **patterns)
    renamed = tuple(in_names_of(pivot, source) for source in sources)
    fitted: tuple[MergeableSource, ...] = renamed
    if not traits.any_shape:
        fitted = fit_rows(pivot, renamed, copied)
        demand_same_tensors(pivot, fitted, **patterns)
    merged = tuple(name for name in pivot.names if name not in copied)
    refuse_float64(pivot, merged, settings.dtype)
    sizes = {name: _numel(pivot.spec(name)) for name in merged}
    peak = _peak_bytes(method, pivot, len(sources), sizes, settings)
    return Plan(
        merged=merged,
        copied=copied,
        dropped=pivot.dropped,
        n_parameters=sum(_numel(pivot.spec(name)) for name in pivot.names),
        read_bytes=bytes_of_walk(pivot, fitted, merged, copied),
        is_prepared=traits.preparation is not None,
        written_bytes=sum(_written(pivot.spec(n), settings.dtype) for n in pivot.names),
        peak_bytes=peak,
        rewritten_bytes=peak + rewritten_bytes(sizes, len(sources))
        if traits.any_shape
        else None,
        free_bytes=shutil.disk_usage(_nearest_folder(destination)).free,
        warnings=(
            *warnings_before(pivot, renamed),
            *row_differences(fitted),
            *other_bases(sources),
            *pickled_only((pivot, *sources)),
        ),
    )


def _peak_bytes(
    method: partial[Tensor],
    pivot: Checkpoint,
    n_sources: int,
    sizes: Mapping[str, int],
    settings: MergeSettings,
) -> int:
    """Estimate the peak memory of a merge of tensors with these numbers of elements."""
    traits, budget = traits_of(method), settings.memory_budget
    allocation = allocate(
        budget, n_sources, settings.n_threads, settings.device, sizes_of(pivot, traits)
    )
    peak = allocation.working_bytes
    whole = {n: sizes[n] for n in whole_names(method, {n: pivot.shape(n) for n in sizes})}
    if whole:
        memory = memory_for_whole(
            whole, n_sources, traits, allocation=allocation, budget=budget
        )
        peak += peak_of_whole(whole, n_sources, traits, memory=memory, allocation=allocation)
    elif traits.preparation is not None:
        cached = cached_bytes(n_sources) * allocation.n_threads * max(sizes.values(), default=0)
        peak += min(allocation.cache_bytes, cached)
    if traits.any_shape:
        peak = max(peak, comparing_bytes(pivot, n_sources))
    return peak


def bytes_of_walk(
    pivot: Checkpoint,
    sources: Sequence[MergeableSource],
    merged: Sequence[str],
    copied: Mapping[str, str],
) -> int:
    """Sum the bytes of every tensor that a walk reads, each once.

    All tensors of a source whose names differ from the pivot's count.
    """
    total = sum(pivot.spec(name).nbytes for name in (*merged, *copied))
    for source in sources:
        names = merged if set(merged) <= set(source.names) else source.names
        total += sum(source.spec(name).nbytes for name in names)
    return total


def open_outline(
    location: str | Path, *, revision: str | None = None, root: Path
) -> Checkpoint:
    """Open a checkpoint to plan with; its shards may be absent.

    A GGUF model that was not converted yet is not converted: its shapes are in its header.
    Without shards, shapes come from the architecture that ``config.json`` describes, built
    without memory on torch's meta device, and names from the index; of a model on the Hub that
    has none, being a single file, from the architecture too. Weights are not downloaded.

    Args:
        location: A folder, relative to ``root`` or absolute, or a Hub id.
        revision: Branch, tag or commit; for Hub ids only.
        root: Folder that relative paths start from: the repository's root.

    Returns:
        The checkpoint; reading a tensor whose shard is absent fails.

    Raises:
        ValueError: If the model cannot be opened, or its index names tensors that its
            architecture, as transformers builds it, has not.
    """
    files = gguf_files(location, revision=revision, root=root)
    if files:
        return _outline_of_gguf(files)
    model = locate(location, revision=revision, root=root, weights=False)
    shards = read_index(model.folder) if find_file(model.folder, INDEX_FILE) else {}
    on_the_hub = model.commit is not None and not _has_weights(model.folder)
    held = (find_file(model.folder, shard) for shard in sorted(set(shards.values())))
    if not on_the_hub and all(held):
        return open_checkpoint(location, revision=revision, root=root)
    config = read_object(model.folder / "config.json", of="a model folder")
    refuse_quantised(model.folder, config, {})
    if shards:
        check_config(config, dict.fromkeys(shards, ()), path=model.folder / "config.json")
    specs = _specs_of_architecture(model.folder)
    shards = shards or dict.fromkeys(specs, SINGLE_FILE)
    unknown = sorted(shards.keys() - specs.keys())
    if unknown:
        raise ValueError(
            f"{model.folder} has no shards, and the shapes of {len(unknown)} tensors do not "
            f"follow from its config.json, {unknown[0]} for one: fetch the shards to plan with "
            "this model"
        )
    stored = {
        name: StoredTensor(spec=specs[name], path=model.folder / shard, offset=0)
        for name, shard in shards.items()
        if not (is_tied(config) and name.endswith(HEADS))  # whose bytes cannot be compared
    }
    return Checkpoint(model.folder, config, stored, commit=model.commit)


def _outline_of_gguf(files: Sequence[Path]) -> Checkpoint:
    """Open a GGUF model as it is, or will be, converted."""
    folder = place_in_cache(files)
    if folder.is_dir():
        return open_checkpoint(folder, root=folder)
    outline = outline_gguf(read_gguf(files))
    size = _size(outline.nbytes)
    _logger.info("%s will first be converted to %s in %s", files[0], size, folder)
    stored = {
        name: StoredTensor(spec=tensor.spec, path=folder, offset=0)
        for name, tensor in outline.tensors.items()
    }
    return Checkpoint(folder, outline.config, stored)


def _has_weights(folder: Path) -> bool:
    return any(folder.glob("*.safetensors"))


def pickled_only(models: Sequence[AnyCheckpoint]) -> list[str]:
    """Name the models of which the Hub has pickled weights only: a merge refuses them."""
    return [
        f"{model.path} has pickled weights only, as far as its files on the Hub show: the merge "
        "will refuse it; convert it to safetensors first"
        for model in models
        if (model.path / _PICKLE_INDEX).is_file()
        and not (model.path / INDEX_FILE).is_file()
        and not _has_weights(model.path)
    ]


def _specs_of_architecture(folder: Path) -> dict[str, TensorSpec]:
    """Build a model on the meta device; return dtype and shape of its tensors."""
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415 (see the module)

    try:
        config: Any = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        config._attn_implementation = config._experts_implementation = None  # no kernels
        dtype = getattr(config, "dtype", None) or torch.float32
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                config, dtype=dtype, attn_implementation=None, trust_remote_code=False
            )
    except Exception as error:  # whatever transformers makes of a damaged file
        raise ValueError(
            f"transformers cannot build the model that {folder / 'config.json'} describes "
            f"({type(error).__name__}: {shown(str(error))}): fetch the shards to plan with it"
        ) from error
    return {
        name: TensorSpec(dtype=tensor.dtype, shape=tuple(tensor.shape))
        for name, tensor in model.state_dict().items()
    }


def plan_table(plan: Plan, *, memory_budget: str) -> Table:
    """Lay out a plan as a table of two columns.

    Args:
        plan: The plan.
        memory_budget: As the user gave it, such as ``2GiB``.
    """
    table = Table(
        title="Merge plan (no weights loaded)", title_justify="left", show_header=False
    )
    table.add_column("")
    table.add_column("", overflow="fold")
    table.add_row(
        "merged", f"{len(plan.merged)} tensors of a model of {plan.n_parameters:,} parameters"
    )
    table.add_row("copied", _with_reasons(plan.copied))
    table.add_row("dropped", _with_reasons(plan.dropped))
    more = " per pass; the method's preparation adds passes" if plan.is_prepared else ""
    table.add_row("to read", f"{_size(plan.read_bytes)}{more}")
    table.add_row("to write", _size(plan.written_bytes))
    verdict = "" if plan.fits_the_disk else ": NOT ENOUGH"
    table.add_row("disk free", f"{_size(plan.free_bytes)}{verdict}")
    table.add_row("peak memory", _memory(plan, memory_budget))
    for warning in plan.warnings:
        table.add_row("warning", warning)
    return table


def _memory(plan: Plan, memory_budget: str) -> str:
    peak = f"+{_size(plan.peak_bytes)} over the Python process (budget {memory_budget})"
    if plan.rewritten_bytes is None:
        return peak
    return f"{peak}; +{_size(plan.rewritten_bytes)} if sources must be rewritten"


def _written(spec: TensorSpec, dtype: torch.dtype | None) -> int:
    if dtype is None or not spec.dtype.is_floating_point:
        return spec.nbytes
    return _numel(spec) * dtype.itemsize


def _numel(spec: TensorSpec) -> int:
    return spec.nbytes // spec.dtype.itemsize


def _nearest_folder(path: Path) -> Path:
    """Return the nearest parent of a path that exists."""
    return next(folder for folder in path.absolute().parents if folder.is_dir())


def _with_reasons(reasons: Mapping[str, str]) -> str:
    """Count tensors by reason and name the first few of each."""
    if not reasons:
        return "none"
    grouped: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        grouped.setdefault(reason, []).append(name)
    return "\n".join(
        f"{len(names)} {reason}: {', '.join(names[:_N_NAMED])}"
        + (", ..." if len(names) > _N_NAMED else "")
        for reason, names in grouped.items()
    )


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 10_000_000 else f"{n_bytes / 1e6:.2f} MB"
