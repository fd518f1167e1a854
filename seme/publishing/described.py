"""Manifest of a merge that was just made: its job and its folder described."""

import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seme.checkpoint.lora import AdaptedCheckpoint
from seme.checkpoint.reader import Checkpoint
from seme.job import MergeJob
from seme.licences import licence_of_card
from seme.named_model import NamedModel
from seme.pool import BASE, check_pool, portable
from seme.provenance import NUMBERS_VERSION, code_version, collect
from seme.publishing.command import merge_call, merge_command
from seme.publishing.manifest import (
    FileEntry,
    Files,
    InputModel,
    Manifest,
    MergeMethod,
    parse_manifest,
)
from seme.publishing.sha256 import hash_files, hash_inputs, input_files

_PLACES = ("location", "path_to_adapter")
_NOT_OF_A_MERGE = frozenset(
    {
        *("method", "models", "suite", "evaluator", "tracker", "variant", "experiment"),
        *("tau", "device", "memory_budget", "output", "merged_dir", "datasets_dir"),
        *("plan", "force", "quiet", "push"),
    }
)
"""Entries of a run's configuration that no merged byte depends on, or that are in the method."""
_OF_AN_ADAPTER = ("merged_as", "adapter_rank")


def describe_inputs(
    job: MergeJob, models: Mapping[str, Any], root: Path
) -> tuple[InputModel, ...]:
    """Describe pivot and sources, their files not yet hashed.

    Args:
        job: The merge.
        models: The pool as in the run's configuration.
        root: Folder that relative locations start from.
    """
    pool = check_pool(models)
    entries = [pool["pivot"], *pool["sources"]]
    opened = (job.pivot, *job.sources)
    return tuple(
        _input(model, entry, job, root) for model, entry in zip(opened, entries, strict=True)
    )


def _input(
    model: NamedModel, entry: Mapping[str, Any], job: MergeJob, root: Path
) -> InputModel:
    checkpoint, described = model.checkpoint, model.described()
    base = _base_of(model)
    if base is not None and base.path.resolve() == job.base.path.resolve():
        base_licence = None
    else:
        base_licence = None if base is None else licence_of_card(base.path)
    places: dict[str, Any] = _portable_places(entry, root)
    if entry.get(BASE) is not None:
        places[BASE] = {**entry[BASE], **_portable_places(entry[BASE], root)}
    return InputModel(
        name=model.name,
        entry={k: v for k, v in {**entry, **places}.items() if v is not None},
        commit=described["commit"],
        base_commit=None if base is None else base.commit,
        content_hash=described["content_hash"],
        licence=entry.get("licence") or licence_of_card(checkpoint.path),
        base_licence=base_licence,
        files={},
        base_files={},
        more={k: v for k, v in described.items() if k == "dequantised_from"},
    )


def _base_of(model: NamedModel) -> Checkpoint | None:
    """Return what an adapter is applied to, or the base of its own of another source."""
    if isinstance(model.checkpoint, AdaptedCheckpoint):
        return model.checkpoint.base
    return model.own_base


def _portable_places(entry: Mapping[str, Any], root: Path) -> dict[str, Any]:
    return {k: portable(entry[k], root) for k in _PLACES if entry.get(k) is not None}


def describe_merge(
    job: MergeJob,
    config: Mapping[str, Any],
    inputs: Sequence[InputModel],
    folder: Path,
    *,
    n_parameters: int,
    merged_dir: str,
    from_python: bool = False,
) -> Manifest:
    """Hash inputs and outputs of a merge, and describe it.

    Args:
        job: The merge.
        config: The run's configuration.
        inputs: What :func:`describe_inputs` returned.
        folder: What was written.
        n_parameters: Of the merged model.
        merged_dir: The folder that the command line writes.
        from_python: Write the command as a call from Python.

    Raises:
        ValueError: If a file cannot be read, or something cannot be written as JSON and read
            again.
    """
    pivot, *sources = (
        _with_files(described, model)
        for described, model in zip(inputs, (job.pivot, *job.sources), strict=True)
    )
    settings = {key: config[key] for key in config if key not in _NOT_OF_A_MERGE}
    if not job.settings.as_adapter:
        settings = {k: v for k, v in settings.items() if k not in _OF_AN_ADAPTER}
    files = hashed(folder)
    provenance = collect()
    repeating = merge_call if from_python else merge_command
    manifest = Manifest(
        schema_version=1,
        command=repeating(
            method=job.method_name,
            config=config["method"],
            settings=settings,
            pivot=pinned(pivot),
            sources=[*map(pinned, sources)],
            merged_dir=merged_dir,
        ),
        method=MergeMethod(
            name=job.method_name,
            config=dict(config["method"]),
            code=code_version(job.method),
            numbers=NUMBERS_VERSION,
        ),
        settings=settings,
        pool=job.pool,
        pivot=pivot,
        sources=sources,
        versions={
            "seme-bench": _own_version(),
            "git": provenance["git"],
            "python": platform.python_version(),
            "libraries": provenance["libraries"],
        },
        n_parameters=n_parameters,
        n_bytes=sum(file.bytes for file in files.values()),
        files=files,
    )
    return parse_manifest(manifest.model_dump(), what="the manifest")


def pinned(model: InputModel) -> dict[str, Any]:
    """Return a model's entry with the commits of the Hub as revisions, without its terms."""
    entry = {k: v for k, v in model.entry.items() if k not in ("licence", "gated", "name")}
    adapter = "path_to_adapter" in entry
    if model.commit is not None:
        entry["adapter_revision" if adapter else "revision"] = model.commit
    if model.base_commit is not None:
        if adapter and "location" in entry:
            entry["revision"] = model.base_commit
        if BASE in entry:
            entry[BASE] = {**entry[BASE], "revision": model.base_commit}
    return entry


def hashed(folder: Path) -> Files:
    """Hash all files of a folder and of the folders in it, now."""
    files = sorted(path for path in folder.rglob("*") if not path.is_dir())
    return _entries(folder, files, hash_files(files))


def input_hashes(model: NamedModel) -> tuple[Files, Files]:
    """Hash the files of an input and those of its base, if it has one; cached."""
    checkpoint = model.checkpoint
    files = input_files(checkpoint)
    own = _entries(checkpoint.path, files, hash_inputs(files))
    if (base := _base_of(model)) is None:
        return own, {}
    files = input_files(base)
    return own, _entries(base.path, files, hash_inputs(files))


def _with_files(described: InputModel, model: NamedModel) -> InputModel:
    files, base_files = input_hashes(model)
    return described.model_copy(update={"files": files, "base_files": base_files})


def _entries(folder: Path, files: Sequence[Path], digests: Sequence[str]) -> Files:
    return {
        file.relative_to(folder).as_posix(): FileEntry(
            sha256=digest,
            bytes=os.stat(file).st_size,  # noqa: PTH116 (follows links)
        )
        for file, digest in zip(files, digests, strict=True)
    }


def _own_version() -> str | None:
    try:
        return importlib.metadata.version("seme-bench")
    except importlib.metadata.PackageNotFoundError:
        return None
