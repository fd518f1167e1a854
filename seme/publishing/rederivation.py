"""A kept merge made again from its inputs, and compared with its manifest byte for byte."""

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from seme.binding import bind_method
from seme.checkpoint.regular_file import find_file
from seme.checkpoint.safetensors_file import read_header
from seme.job import MergeJob, job_from_config
from seme.named_model import NamedModel
from seme.provenance import NUMBERS_VERSION, code_version, collect
from seme.publishing.described import hashed, input_hashes, pinned
from seme.publishing.manifest import Files, InputModel, Manifest

_MACHINE = {"tau": 1.0, "device": "auto", "memory_budget": "2GiB"}
"""No merged byte depends on these; ``tau`` is in the method's own entries."""
_MOST_NAMED = 3


def rederive(
    manifest: Manifest,
    folder: Path,
    *,
    root: Path,
    machine: Mapping[str, Any],
    placed: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
) -> list[str]:
    """Merge again from the inputs that the manifest names, and compare every file.

    The inputs' files are compared first: nothing is merged from others. The merge is written
    beside the folder, and removed.

    Args:
        manifest: Of the folder.
        folder: The kept merge.
        root: Folder that relative locations start from.
        machine: ``device`` and ``memory_budget``, over the usual ones.
        placed: Points a configuration's models to where they are installed.

    Returns:
        What differs, and with which versions; empty if every byte is the same.

    Raises:
        ValueError: If an input is not there, the manifest's settings or method cannot be used,
            or the merge fails; says which.
        OSError: If the merge cannot be written beside the folder.
    """
    job = _job(placed(_config(manifest, machine)), manifest, root)
    models = (job.pivot, *job.sources)
    problems = [
        line
        for model, described in zip(models, manifest.models, strict=True)
        for line in _other_files(model, described)
    ]
    if problems:
        return problems
    with tempfile.TemporaryDirectory(
        prefix=".seme-verifying-", dir=folder.resolve().parent
    ) as scratch:
        again = Path(scratch) / "merged"
        job.run(again, progress=False)
        lines = _differences(manifest.files, hashed(again), "made again")
        lines += _other_tensors(folder, again, manifest.files)
    return [*lines, *_other_versions(manifest, job)] if lines else []


def _job(config: Mapping[str, Any], manifest: Manifest, root: Path) -> MergeJob:
    method = manifest.method
    return job_from_config(config, method.name, bind_method(method.config), root=root)


def _config(manifest: Manifest, machine: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with the inputs, in the commits of the Hub that were merged."""
    pivot, *sources = (_entry(model) for model in manifest.models)
    return {
        **_MACHINE,
        **manifest.settings,
        **machine,
        "models": {"name": manifest.pool, "pivot": pivot, "sources": sources},
    }


def _entry(model: InputModel) -> dict[str, Any]:
    return {**pinned(model), "name": model.name}


def _other_files(model: NamedModel, described: InputModel) -> list[str]:
    """Compare the files of an input with those that were merged."""
    own, base = input_hashes(model)
    return [
        *_differences(described.files, own, f"of the input {model.name}"),
        *_differences(described.base_files, base, f"of the base of the input {model.name}"),
    ]


def _differences(expected: Files, found: Files, which: str) -> list[str]:
    """Name files that one of the two lacks, or that differ."""
    lines = []
    for name in sorted({*expected, *found}):
        if name not in found:
            lines.append(f"{name} {which} is missing")
        elif name not in expected:
            lines.append(f"{name} {which} is not in the manifest")
        elif found[name] != expected[name]:
            lines.append(
                f"{name} {which} differs: its SHA-256 is {found[name].sha256}, the manifest has "
                f"{expected[name].sha256}"
            )
    return lines


def _other_tensors(folder: Path, again: Path, files: Files) -> list[str]:
    """Name the tensors in which the folder differs from the merge made again."""
    other: list[str] = []
    n_tensors = 0
    for name in files:
        try:
            file = find_file(folder, name) if name.endswith(".safetensors") else None
            if file is None:
                continue
            own, new = read_header(file), read_header(again / name)
        except (ValueError, OSError):  # what was damaged is named by its hash
            continue
        n_tensors += len(new)
        other += [
            tensor
            for tensor in new
            if tensor not in own
            or own[tensor].spec != new[tensor].spec
            or not own[tensor].read().view(-1).equal(new[tensor].read().view(-1))
        ]
    if not other:
        return []
    named = ", ".join(sorted(other)[:_MOST_NAMED])
    return [f"{len(other)} of {n_tensors} tensors differ from those made again: {named}"]


def _other_versions(manifest: Manifest, job: MergeJob) -> list[str]:
    """Say what was made with other software than is here."""
    here = collect()
    pairs = {
        "the method's code": (manifest.method.code, code_version(job.method)),
        "the engine's numbers": (manifest.method.numbers, NUMBERS_VERSION),
        **{
            name: (version, here["libraries"].get(name))
            for name, version in (manifest.versions.get("libraries") or {}).items()
            if name in ("torch", "numpy", "numba")
        },
    }
    return [
        f"{what} was {then}, here it is {now}"
        for what, (then, now) in pairs.items()
        if then != now
    ]


def offline_unless_asked() -> None:
    """Keep the Hub's client from downloading, unless ``SEME_ONLINE=1``."""
    if os.environ.get("SEME_ONLINE") != "1":
        os.environ["HF_HUB_OFFLINE"] = "1"
