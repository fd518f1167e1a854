"""Merge checkpoints: check, prepare, walk the tensors in order, call the method, write.

A method sees float32 on one device, and what it returns is rounded once to the output dtype.
Each thread reads, merges and writes its own blocks, so none waits for another. Memory is a few
blocks and the cached ranking scores of one tensor per thread, for a model of any size; whole
tensors (:mod:`seme.whole_tensor`, sources that are rewritten) are taken from the memory budget.
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

from seme.alignment.options import Sampling, with_sampling
from seme.ancestry import unrelated
from seme.architecture.tensor_names import is_constant
from seme.binding import check_method, merge_function
from seme.budget import Sizes, allocate, keep_freed_memory
from seme.checkpoint.lora import AnyCheckpoint
from seme.checkpoint.protocol import Weights
from seme.checkpoint.reader import Checkpoint
from seme.checkpoint.safetensors_file import TensorSpec
from seme.checkpoint.writer import CheckpointWriter, refuse_existing
from seme.compatibility import (
    other_bases,
    reasons_to_copy,
    refuse_float64,
    warnings_before,
)
from seme.expert_and_base import demand_changes
from seme.interface import Merge, Prepared, Realigned, Site, Traits, traits_of
from seme.own_base import fit_all
from seme.rounding import certain, is_finite, round_merged, round_to, share_lost, summed
from seme.settings import MergeSettings
from seme.streaming import CPU_BLOCK, Block, Models, OpenTensor, ThreadPool
from seme.tensor_methods import TensorMethods, bind_overrides
from seme.whole_tensor import (
    SharedMemory,
    bytes_of_whole,
    call,
    memory_for_whole,
    merge_whole,
    row_length,
)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeReport:
    """Counts, costs and diagnostics of a finished merge."""

    n_merged: int
    """Number of tensors merged."""
    n_parameters: int
    """Number of parameters of the merged model; tied ones count once."""
    copied: dict[str, str]
    """Tensors that were not merged, with the reason."""
    bytes_read: int
    """Bytes of tensors read: to compare a tied LM head, and a sample of each source with the
    pivot, to prepare and to merge."""
    bytes_written: int
    """Bytes of tensors written."""
    rounding_loss: float
    """Share of the merged change lost to the output dtype, in [0, inf).

    ``||rounded - exact|| / ||exact - pivot||`` in the Frobenius norm over all merged tensors;
    0 when nothing changed.
    """
    warnings: list[str]
    """What does not stop the merge: differences of configurations, code that is not copied,
    embedding rows, bases of adapters, weights that share no ancestor."""
    diagnostics: dict[str, Any]
    """Diagnostics of the method's preparation, JSON-ready."""


def merge_checkpoints(
    method: functools.partial[Tensor],
    pivot: Checkpoint,
    sources: Sequence[AnyCheckpoint],
    destination: Path,
    *,
    settings: MergeSettings,
    progress: bool | str,
    bases: Sequence[Checkpoint | None] = (),
) -> MergeReport:
    """Merge the sources into the pivot and write the result to a new folder.

    Args:
        method: The merge function, its hyper-parameters bound.
        pivot: Model that gives the result its tensors, configuration and tokenizer.
        sources: Models merged from, with the pivot's names and shapes unless the method's
            preparation takes any.
        destination: The new folder; whole when this returns, absent when it raises.
        settings: Common to all methods.
        progress: Show a progress bar on a terminal; a text, rich's markup, is put before it.
        bases: What each source was fine-tuned from, where it is not the pivot; see
            :mod:`seme.own_base`. Empty if no source has a base of its own.

    Returns:
        Counts, costs and diagnostics.

    Raises:
        CheckpointMismatchError: If a source's names, shapes or heads differ from the pivot's.
        ValueError: If a hyper-parameter or the number of sources is out of range, the
            destination exists, a pattern matches nothing, the budget is too small, or a tensor
            is not finite.
    """
    check_method(method, len(sources))
    refuse_existing(destination)
    own_bases = tuple(bases) or (None,) * len(sources)
    read = (pivot, *sources, *filter(None, own_bases))
    opened = tuple({id(model): model for model in read}.values())
    read_before = sum(model.bytes_read for model in opened)  # names read a tied LM head
    traits = traits_of(method)
    copied = reasons_to_copy(pivot, settings.include, settings.exclude)
    merged_names = tuple(n for n in pivot.names if n not in copied)
    fitted = fit_all(
        method, pivot, sources, own_bases, copied, any_shape=traits.any_shape, settings=settings
    )
    refuse_float64(pivot, merged_names, settings.dtype)
    sampling = Sampling(seed=settings.seed, memory_budget=settings.memory_budget)
    methods = bind_overrides(
        with_sampling(method, sampling), settings.overrides, merged_names, len(sources)
    )
    warnings = warnings_before(pivot, fitted.origins)
    for warning in warnings:
        _logger.warning("%s", warning)
    budget, device = settings.memory_budget, settings.device
    allocation = allocate(
        budget, len(fitted.read), settings.n_threads, device, sizes_of(pivot, traits)
    )
    memory = None
    whole = methods.whole_names({name: pivot.shape(name) for name in merged_names})
    if whole:
        sizes = {name: math.prod(pivot.shape(name)) for name in whole}
        memory = memory_for_whole(
            sizes, len(sources), traits, allocation=allocation, budget=budget
        )
    notes = [*fitted.notes, *other_bases(sources), *demand_changes(sources, own_bases)]
    if not traits.any_shape:
        notes += unrelated(pivot, fitted.origins, merged_names)
    for note in notes:
        _logger.warning("%s", note)
    keep_freed_memory()
    with ThreadPool(allocation.n_threads) as threads:
        models = Models(
            pivot=pivot,
            sources=fitted.origins if traits.any_shape else fitted.beside(pivot),
            merged_names=merged_names,
            device=device,
            threads=threads,
            blocks_per_read=allocation.blocks_per_read,
            cache_bytes=allocation.cache_bytes if memory is None else 0,
            memory_budget=budget,
        )
        prepared = methods.prepare(models)
        if traits.any_shape:
            prepared = fitted.moved(prepared)
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
                max_shard_bytes=settings.max_shard_bytes,
            ) as writer,
            _progress_bar(bool(progress)) as bar,
        ):
            title = f"{progress} merging" if isinstance(progress, str) else "merging"
            task = bar.add_task(title, total=_n_parameters(layout))
            walk = _Walk(
                methods=methods,
                prepared=prepared,
                seed=settings.seed,
                layout=layout,
                copied=copied,
                whole=frozenset(whole),
                memory=memory,
                writer=writer,
                advance=lambda n: bar.advance(task, n),
            )
            rank_per_thread = allocation.rank_per_thread and memory is None
            alone = walked is models and (prepared is None or rank_per_thread)
            errors = walk.over(walked, alone=alone)
            report = MergeReport(
                n_merged=len(layout) - len(copied),
                n_parameters=_n_parameters(layout),
                copied=copied | pivot.dropped,
                bytes_read=sum(model.bytes_read for model in opened) - read_before,
                bytes_written=writer.bytes_written,
                rounding_loss=share_lost(errors),
                warnings=[*warnings, *notes],
                diagnostics={} if prepared is None else certain(dict(prepared.diagnostics())),
            )
    return report


def sizes_of(pivot: Weights, traits: Traits) -> Sizes:
    """Return what the pivot's tensors say about the memory of a merge.

    A method with a preparation may rank all elements together; where sources may have any shape,
    nothing is known of their tensors.
    """
    if traits.any_shape:
        return Sizes()
    numbers = [math.prod(pivot.shape(name)) for name in pivot.names]
    n_ranked = 0 if traits.preparation is None else sum(numbers)
    return Sizes(n_ranked=n_ranked, largest=max(numbers, default=0))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Walk:
    """Visits every tensor of the merged model once: merge or copy it, round it, write it."""

    methods: TensorMethods
    prepared: Prepared | None
    seed: int
    layout: Mapping[str, TensorSpec]
    copied: Mapping[str, str]
    whole: frozenset[str]
    """Tensors that the method is called with whole."""
    memory: SharedMemory | None
    """For whole tensors; None where the method takes blocks only."""
    writer: CheckpointWriter
    advance: Callable[[int], None]
    """Called with the number of elements written."""

    def over(self, models: Models, *, alone: bool) -> list[tuple[float, float]]:
        """Write all tensors, on all threads each or, where memory allows, on one thread each.

        Returns:
            What rounding lost and the merge changed, squared, by tensor in their order.
        """
        names = list(self.layout)
        if not alone or models.device.type != "cpu":
            return [self._write(models, name) for name in names]
        one_core = replace(
            models,
            threads=ThreadPool(1),
            cache_bytes=models.cache_bytes // models.threads.n_threads,
        )
        if self.memory is not None:
            return models.map(lambda index: self._write(one_core, names[index]), len(names))
        return models.map_tensors(
            [math.prod(self.layout[name].shape) for name in names],
            lambda index: self._write(models, names[index]),
            lambda index: self._write(one_core, names[index]),
        )

    def _write(self, models: Models, name: str) -> tuple[float, float]:
        spec, is_copied = self.layout[name], name in self.copied
        try:
            error = (0.0, 0.0)
            if is_copied:
                self._copy(models, name)
            else:
                error = self._merge(models, name)
        except Exception as failure:
            doing = "copying" if is_copied else "merging"
            failure.add_note(f"while {doing} {name} with shape {spec.shape}")
            raise
        self.advance(math.prod(spec.shape))
        return error

    def _copy(self, models: Models, name: str) -> None:
        """Copy a tensor of the pivot: its bytes, unchecked, or rounded to the output dtype."""
        spec = self.layout[name]
        size, numel = CPU_BLOCK * models.blocks_per_read, math.prod(spec.shape)
        opened = models.pivot.opened(name)

        def copy(index: int) -> None:
            start = index * size
            values = opened.read(start, min(start + size, numel))
            is_checked = values.dtype != spec.dtype and is_finite(values)
            copied = round_to(spec.dtype, values) if is_checked else values.to(spec.dtype)
            self.writer.write(name, copied, start)

        models.threads.map(copy, -(-numel // size))

    def _merge(self, models: Models, name: str) -> tuple[float, float]:
        """Merge a tensor, block by block or whole."""
        method = self.methods.at(name)
        n_columns = row_length(method, models.pivot.shape(name))
        tensor = models.open(name, row_length=n_columns)
        prepared = None if self.prepared is None else self.prepared.at(tensor)
        site = Site(name=name, seed=self.seed, prepared=prepared, row_length=n_columns)
        merge = merge_function(method)
        if self.memory is not None and name in self.whole:
            return self._merge_whole(merge, tensor, site, self.memory)

        def merge_block(block: Block) -> tuple[float, float]:
            here = replace(site, start=block.start)
            exact = call(merge, block.pivot, block.sources, here, whose="a block's")
            return self._finish(name, block, exact)

        return summed(tensor.map(merge_block))

    def _merge_whole(
        self, merge: Merge, tensor: OpenTensor, site: Site, memory: SharedMemory
    ) -> tuple[float, float]:
        n_bytes = bytes_of_whole(
            tensor.numel, len(tensor.models.sources), traits_of(self.methods.method)
        )
        with memory.taken(n_bytes):
            return summed(
                merge_whole(
                    merge,
                    tensor,
                    site,
                    lambda block, exact: self._finish(site.name, block, exact),
                )
            )

    def _finish(self, name: str, block: Block, exact: Tensor) -> tuple[float, float]:
        """Round and write a merged block; return what rounding lost and the merge changed."""
        rounded = round_merged(self.layout[name].dtype, exact=exact, pivot=block.pivot)
        self.writer.write(name, rounded.values, block.start)
        return rounded.lost, rounded.changed


def _output_spec(pivot: Weights, name: str, dtype: torch.dtype | None) -> TensorSpec:
    """Return what a tensor will be on disk; only floating-point weights change dtype."""
    own, shape = pivot.dtype(name), pivot.shape(name)
    is_kept = dtype is None or not own.is_floating_point or is_constant(name, shape)
    return TensorSpec(dtype=own if dtype is None or is_kept else dtype, shape=shape)


def _n_parameters(layout: Mapping[str, TensorSpec]) -> int:
    return sum(math.prod(spec.shape) for spec in layout.values())


def _progress_bar(wanted: bool) -> Progress:
    """Return a progress bar on standard error; one that shows nothing off a terminal."""
    console = Console(stderr=True)
    return Progress(console=console, disable=not (wanted and console.is_terminal))
