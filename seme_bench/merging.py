"""A merge from Python: the command's configuration, checks, merge and record, without Hydra."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from eval.folders import check_writable
from eval.meter import metered
from eval.override_errors import choices_of, known_entries, unknown_choice, unknown_entry
from eval.records import RECORD_NAME, PoolRef, Record, record_json, write_record
from eval.run_files import atomic_write
from eval.runs import Cell
from eval.schema import build
from seme.binding import bind_method
from seme.checkpoint.writer import refuse_existing
from seme.job import job_from_config
from seme.kernels.warmup import load
from seme.provenance import collect
from seme.publishing.kept_folder import kept_folder
from seme.publishing.manifest import read_manifest
from seme_bench.entries import origin_of
from seme_bench.folders import CONF, with_embedded

Model = str | os.PathLike[str] | Mapping[str, Any]
"""A folder, a GGUF file, a Hub id, or a mapping as in ``conf/models/custom.yaml``, such as
``{"path_to_adapter": "org/lora"}`` or ``{"location": "org/model", "revision": "v1"}``."""


def merge(
    method: str,
    /,
    *,
    pivot: Model,
    sources: Sequence[Model],
    out: str | os.PathLike[str],
    tau: float | None = None,
    seed: int | None = None,
    dtype: str | None = None,
    device: str | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    overrides: Sequence[Mapping[str, Any]] | None = None,
    tokens: str | None = None,
    memory_budget: str | None = None,
    max_shard_size: str | None = None,
    merged_as: str | None = None,
    adapter_rank: int | None = None,
    results: str | os.PathLike[str] | None = None,
    progress: bool = False,
    **hyper_parameters: Any,  # noqa: ANN401 (each method has its own)
) -> Record:
    """Merge models into a new folder, with its record, as the command does.

    ::

        from seme import merge

        merge("ties", pivot="org/base", sources=["org/code", "./maths"], out="merged",
              density=0.2, lam=1.5)

    Checks, merged bytes and record are those of ``seme-bench merge suite=none``. One merge at a
    time in a process: the record has its memory.

    Args:
        method: Name of a file in ``conf/method``; ``seme-bench methods`` lists them.
        pivot: The model merged into, which gives config, tokenizer and dtype.
        sources: The models merged from. Relative folders start from the current one.
        out: The new folder, never overwritten; its ``record.json`` has the inputs' hashes,
            settings, costs, warnings and versions, its ``merge_manifest.json`` the SHA-256 of
            every file and the call that makes it again, and its ``README.md`` is a model card.
        tau: Share kept, in (0, 1]: ``tau`` of SeMe and SCE, the density of other methods. This
            and the next ones are the command's, None stands for the value in
            ``conf/config.yaml``.
        seed: Of everything drawn at random.
        dtype: float32, float16 or bfloat16; None keeps the pivot's.
        device: cpu, cuda or auto.
        include: Glob patterns of tensors to merge.
        exclude: Glob patterns of tensors to copy from the pivot.
        overrides: The method's values by tensor, such as ``[{"match": "*.mlp.*", "lam": 0.3}]``.
        tokens: What becomes of sources of another tokenizer: same refuses them, by_id merges
            rows as they stand, by_text token by token.
        memory_budget: What the merge may take over the process, such as ``"2GiB"``.
        max_shard_size: Size above which the weights are split into files, such as ``"5GB"``.
        merged_as: model, or adapter: one LoRA of the pivot, from sources that are LoRA adapters
            of it.
        adapter_rank: Rank of that LoRA, by a truncated SVD; None puts the factors of linear
            methods side by side.
        results: A results folder that the record is put in as well, for ``seme-bench
            leaderboard``.
        progress: Show a progress bar on a terminal.
        **hyper_parameters: The method's own, over those in its file. A mapping changes the
            entries that it has, such as ``alignment={"refine": 1}``.

    Returns:
        The record, as it was written.

    Raises:
        ValueError: If a name, a value or a model cannot be used; says what to do. Nothing has
            been written then.
        OSError: If a file cannot be written.
    """
    started, root = time.monotonic(), Path.cwd()
    given: dict[str, Any] = {"tau": tau, "seed": seed, "dtype": dtype, "device": device}
    given |= {"include": include, "exclude": exclude, "overrides": overrides}
    given |= {"tokens": tokens, "memory_budget": memory_budget}
    given |= {"max_shard_size": max_shard_size}
    given |= {"merged_as": merged_as, "adapter_rank": adapter_rank}
    models = {"pivot": _plain(pivot), "sources": _plain(sources)}
    config = with_embedded(
        {**_composed(method, given, hyper_parameters), "models": models}, root
    )
    destination = _folder("out", out)
    listed = None if results is None else _folder("results", results)
    refuse_existing(destination)
    job = job_from_config(config, method, bind_method(config["method"]), root=root)
    device_name = str(job.settings.device)
    cell = Cell(
        output=destination,
        seed=job.settings.seed,
        dtype=dtype,
        device=device_name,
        suite=None,
        tracker={"none": {}},
        group="",
        provenance=collect(),
        force=False,
        progress=progress,
        origin=origin_of("", str(out), root),
    )
    pool = build(PoolRef, job.described_models())
    draft = cell.draft(method, job.identity(), pool, settings=job.hyper_parameters())
    load(len(job.sources))
    with (
        kept_folder(destination, job, config, root=root, from_python=True) as folder,
        metered(device_name) as merging,
    ):
        report = job.run(folder, progress=progress)
    record = replace(
        draft,
        origin={"command": read_manifest(destination).command, **draft.origin},
        status="done",
        error=None,
        merge=asdict(report),
        merge_cost=merging.cost,
        seconds_total=time.monotonic() - started,
    )
    atomic_write(destination / RECORD_NAME, record_json(record).encode())
    if listed is not None:
        write_record(listed, record, None)
    return record


def _folder(argument: str, value: object) -> Path:
    """Return the absolute path of a folder to write to, seen from the current one.

    Raises:
        ValueError: If it is no path of printable characters, or nothing can be written there.
    """
    if not isinstance(value, str | os.PathLike) or not str(value).isprintable():
        raise ValueError(f"{argument} must be a folder, got {value!r:.200}")
    folder = Path.cwd() / os.fsdecode(value)
    check_writable(folder, entry=f"{argument}={str(value)[:200]}")
    return folder


def _composed(
    method: str, given: Mapping[str, Any], hyper_parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """Compose a run's top level and its method from their files and what was given.

    Raises:
        ValueError: If there is no such method, or it has no such hyper-parameter.
    """
    known = choices_of("method", [CONF])
    if method not in known:
        raise ValueError(unknown_choice("method", str(method), known))
    top = OmegaConf.load(CONF / "config.yaml")
    top = OmegaConf.masked_copy(top, [str(key) for key in given])  # type: ignore[arg-type]
    top = OmegaConf.merge(top, {"method": OmegaConf.load(CONF / f"method/{method}.yaml")})
    if given["tau"] is not None:
        top.tau = given["tau"]
    config: dict[str, Any] = OmegaConf.to_container(top, resolve=True)  # type: ignore[assignment]
    own = config["method"]
    for key, value in hyper_parameters.items():
        if key not in own or key.startswith("_"):
            entries = known_entries([f"method={method}"], [CONF])
            raise ValueError(unknown_entry(f"method.{key}", entries))
        is_nested = isinstance(own[key], dict) and isinstance(value, Mapping)
        own[key] = own[key] | dict(value) if is_nested else _plain(value)
    return config | {key: _plain(v) for key, v in given.items() if v is not None}


def _plain(value: Any) -> Any:  # noqa: ANN401 (any value of a configuration)
    """Return a value as YAML would have it: paths as texts, tuples as lists."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value
