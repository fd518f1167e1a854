"""Model card of a kept merge, in the Hub's conventions.

Metadata by :class:`huggingface_hub.ModelCardData` ("Model Cards" in the Hub's documentation);
below it what was merged, how, under which licences, with what scores, and how to make it again.
"""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData

from seme.binding import bind_method
from seme.licences import HUB_LICENCES, describe_terms, forbidding_terms
from seme.publishing.command import language_of
from seme.publishing.manifest import MANIFEST_NAME, InputModel, Manifest
from seme.publishing.mergekit_block import mergekit_block

CARD_NAME = "README.md"
_TAGS = ("merge", "seme-bench")
_LINK = re.compile(r"https?://[^\s)>\]]+[^\s)>\].,;]")
_MARKUP = re.compile(r"([\\`*_{}\[\]<>|#])")
_STDERR = "_stderr"


def card_text(
    manifest: Manifest,
    name: str,
    *,
    config: Mapping[str, Any],
    results: Sequence[EvalResult] = (),
    adapter: Mapping[str, Any] | None = None,
) -> str:
    """Write the card of a merge; the same arguments give the same text.

    Args:
        manifest: The merge.
        name: Of the merged model, its folder's.
        config: Its ``config.json``.
        results: Measured scores, each metric followed by its ``_stderr``.
        adapter: ``rank`` and ``error`` of a merge to an adapter; None of a model.
    """
    sections = [
        _introduction(manifest, name),
        _models(manifest),
        _licences(manifest.models),
        _settings(manifest),
        _scores(results),
        _again(manifest),
        *([_mergekit(manifest, config), _gguf(name)] if adapter is None else []),
    ]
    if adapter is not None:
        sections.insert(1, _adapter(manifest, adapter))
    metadata = _metadata(manifest, name, config, results, adapter is not None).to_yaml()
    return f"---\n{metadata}\n---\n\n" + "\n".join(
        "\n".join(lines) + "\n" for lines in sections if lines
    )


def warnings_of(models: Sequence[InputModel]) -> list[str]:
    """Say which licences forbid a merge, or disagree.

    Args:
        models: Pivot and sources.

    Returns:
        Lines, empty if nothing is to be said.
    """
    entries = _terms(models)
    lines = forbidding_terms(entries)
    stated = {entry["licence"] for _, entry in entries if entry["licence"]}
    if len(stated) > 1:
        lines.append(
            f"the models' licences differ ({', '.join(sorted(stated))}): the card states none; "
            "find out which the merge may have"
        )
    return lines


def common_licence(models: Sequence[InputModel]) -> str | None:
    """Return the licence that all models state; None if one states none or another."""
    stated = {entry["licence"] for _, entry in _terms(models)}
    return stated.pop() if len(stated) == 1 else None


def base_models(models: Sequence[InputModel]) -> list[str]:
    """List the Hub ids of the models that were fetched from the Hub, bases of adapters too."""
    ids = []
    for model in models:
        adapter, place = model.entry.get("path_to_adapter"), model.entry.get("location")
        own, base = (place, None) if adapter is None else (adapter, place)
        base = (model.entry.get("base") or {}).get("location", base)
        ids += [own] if model.commit is not None else []
        ids += [base] if model.base_commit is not None and base is not None else []
    return [str(hub_id) for hub_id in dict.fromkeys(ids)]


def _metadata(
    manifest: Manifest,
    name: str,
    config: Mapping[str, Any],
    results: Sequence[EvalResult],
    is_adapter: bool,
) -> ModelCardData:
    ids = base_models([manifest.pivot] if is_adapter else manifest.models)
    classes = config.get("architectures")
    generates = isinstance(classes, list) and any("CausalLM" in str(c) for c in classes)
    more = _licence(common_licence(manifest.models))
    more |= {"base_model_relation": "adapter" if is_adapter else "merge"} if ids else {}
    return ModelCardData(
        base_model=ids or None,
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="text-generation" if generates else None,
        tags=[*_TAGS, manifest.method.name, *(["lora"] if is_adapter else [])],
        model_name=name if results else None,
        eval_results=list(results) or None,
        **more,
    )


def _licence(licence: str | None) -> dict[str, Any]:
    """Return what the metadata says of the licence."""
    if licence is None or licence in HUB_LICENCES:
        return {"license": licence}
    return {"license": "other", "license_name": licence}


def _terms(models: Sequence[InputModel]) -> list[tuple[str, dict[str, Any]]]:
    """List names and licences of the models and of adapters' bases that are not the pivot."""
    entries = []
    for model in models:
        entries.append((model.name, {"licence": model.licence}))
        if model.base_licence is not None:
            entries.append((f"base of {model.name}", {"licence": model.base_licence}))
    return entries


def _introduction(manifest: Manifest, name: str) -> Iterator[str]:
    n = len(manifest.sources)
    yield f"# {plain(name)}\n"
    sources = f"{n} model{'s' * (n > 1)}"
    yield (
        f"A merge of {sources} into {_place(manifest.pivot)} by the method "
        f"`{manifest.method.name}`, made with SeMe bench; {manifest.n_parameters:,} parameters."
    )
    about = inspect.getdoc(inspect.getmodule(bind_method(manifest.method.config).func)) or ""
    links = _LINK.findall(about)
    reference = f" ([reference]({links[0]}))" if links else ""
    yield f"\n{plain(about.splitlines()[0]) if about else ''}{reference}"


def _models(manifest: Manifest) -> Iterator[str]:
    yield "## Models merged\n"
    yield "| | model | commit | licence |"
    yield "|---|---|---|---|"
    for i, model in enumerate(manifest.models):
        role = "source" if i else "merged into"
        commit = f"`{model.commit}`" if model.commit else "a local folder"
        yield f"| {role} | {_place(model)} | {commit} | {plain(model.licence or 'not stated')} |"
    yield (
        f"\n`{MANIFEST_NAME}` has the SHA-256 of every file of these models and of this one, all "
        "settings, and the versions of what made it."
    )


def _adapter(manifest: Manifest, adapter: Mapping[str, Any]) -> list[str]:
    """Say what a merge to an adapter is of the merge."""
    rank, error = adapter["rank"], adapter["error"]
    if manifest.settings.get("adapter_rank") is None:
        how = (
            f"the sources' factors side by side, rank {rank}: exact up to rounding to float32."
        )
    else:
        how = (
            f"the truncated singular value decomposition of the merged change, rank {rank}: "
            f"`||change - B A|| / ||change||` is {error:.4f} over all tensors "
            "(`adapter_error.json` has it by module)."
        )
    return ["## Adapter\n", f"This is a LoRA of the pivot, as PEFT reads it; it holds {how}"]


def _licences(models: Sequence[InputModel]) -> list[str]:
    lines = [*describe_terms(_terms(models)), *warnings_of(models)]
    if not any(entry["licence"] for _, entry in _terms(models)):
        lines = ["No model states its licence: ask their authors before you publish this one."]
    return ["## Licences\n", *(f"- {plain(line)}" for line in dict.fromkeys(lines))]


def _settings(manifest: Manifest) -> list[str]:
    own = {k: v for k, v in manifest.method.config.items() if not k.startswith("_")}
    content = yaml.safe_dump(
        {"method": manifest.method.name, **own, **manifest.settings},
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,
    )
    return ["## Settings\n", *_fenced(content, "yaml")]


def _scores(results: Sequence[EvalResult]) -> list[str]:
    if not results:
        return []
    errors = {
        (r.dataset_type, r.metric_type): r.metric_value
        for r in results
        if r.metric_type.endswith(_STDERR)
    }
    rows = [
        f"| {plain(r.dataset_name)} | {plain(r.metric_type)} | {r.metric_value:.4f} | "
        + _or_empty(errors.get((r.dataset_type, f"{r.metric_type}{_STDERR}")))
        + f" | {(r.metric_args or {}).get('n_samples', '')} |"
        for r in results
        if not r.metric_type.endswith(_STDERR)
    ]
    return [
        "## Scores\n",
        "| task | metric | value | one standard error | documents |",
        "|---|---|---|---|---|",
        *rows,
    ]


def _or_empty(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _again(manifest: Manifest) -> list[str]:
    git = manifest.versions.get("git") or {}
    state = f", commit `{git.get('revision')}`" if git.get("revision") else ""
    state += " and changes that were not committed" if git.get("dirty") else ""
    version = manifest.versions.get("seme-bench")
    libraries = manifest.versions.get("libraries") or {}
    return [
        "## Make it again\n",
        f"With SeMe bench {version}{state}, torch {libraries.get('torch')}, Python "
        f"{manifest.versions.get('python')}; paths are those of the machine that made it:\n",
        *_fenced(manifest.command, language_of(manifest.command)),
        "\nCheck the files of this model; `rederive=true` also merges again and compares the "
        "bytes:\n",
        *_fenced("python -m scripts.verify FOLDER", "bash"),
        "\nOutside the repository `seme-bench merge` stands for `python run.py`, and "
        "`seme-bench verify` for `python -m scripts.verify`.\n",
    ]


def _mergekit(manifest: Manifest, config: Mapping[str, Any]) -> list[str]:
    dtype = config.get("dtype", config.get("torch_dtype"))
    block, lines = mergekit_block(manifest, out_dtype=dtype if isinstance(dtype, str) else None)
    if block is None:
        return []
    introduction = "mergekit defines the method alike:"
    if lines:
        introduction = "Near to it in mergekit, which differs: " + "; ".join(lines) + "."
    return ["## mergekit\n", f"{introduction}\n", *_fenced(block, "yaml")]


def _gguf(name: str) -> list[str]:
    out = f"{PurePosixPath(name).name}.gguf"
    return [
        "## GGUF\n",
        "With llama.cpp's converter, from its checkout:\n",
        *_fenced(f"python convert_hf_to_gguf.py FOLDER --outfile {out}", "bash"),
    ]


def _fenced(content: str, language: str) -> list[str]:
    """Return a block of code, its fence longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", content)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{language}", content.rstrip("\n"), fence]


def _place(model: InputModel) -> str:
    """Name a model by its place, with a link to the Hub where it came from there."""
    place = str(model.entry.get("path_to_adapter") or model.entry.get("location"))
    if model.commit is None:
        is_named = model.name != PurePosixPath(place).name
        return plain(f"{model.name} ({place})" if is_named else place)
    return f"[{plain(place)}](https://huggingface.co/{place}/tree/{model.commit})"


def plain(text: str) -> str:
    """Return a text that Markdown shows as it is, on one line."""
    return _MARKUP.sub(r"\\\1", " ".join(str(text).split()))
