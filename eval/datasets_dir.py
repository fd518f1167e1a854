"""Task data from a mirror of Hub data sets.

A mirror is a folder laid out as on the Hub, ``ORG/NAME/``, as ``hf download ORG/NAME --repo-type
dataset --local-dir MIRROR/ORG/NAME`` makes it, or as the Hub's cache,
``datasets--ORG--NAME/snapshots/REVISION/``. It is only read.

    manager = task_manager(None, ["gsm8k"])
    entries = overrides(manager, "gsm8k", Path("/mirror"))
    manager.load({"group": "suite", "task": [{"task": "gsm8k", **entries}]})
"""

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from eval.dataset_files import (
    Files,
    converted_files,
    files_of,
    hash_of,
    hub_snapshot,
    loading_script,
    mirror_folder,
    snapshot_files,
)
from eval.hf_offline import go_offline
from eval.task_extras import missing_extras
from eval.task_manager import TaskManager, is_built_in, task_yaml

_NAMES_TODAY = {
    "lukaemon/bbh": "SaylorTwift/bbh",
    "orange_sum": "EdinburghNLP/orange_sum",
    "paws-x": "google-research-datasets/paws-x",
    "piqa": "baber/piqa",
    "super_glue": "aps/super_glue",
    "truthful_qa": "truthfulqa/truthful_qa",
    "xnli": "facebook/xnli",
    "ybisk/piqa": "baber/piqa",
}
"""Old name of a data set to where lm-eval 0.4.13 reads the same documents."""

GATED = frozenset({"Idavidrein/gpqa", "allenai/paloma"})
"""Data sets whose terms must be accepted on the Hub."""

_LOADERS = frozenset({"arrow", "csv", "json", "parquet", "text"})
"""Values of ``dataset_path`` that read ``data_files`` rather than a data set."""

_URL = re.compile(r"hf://datasets/(?P<name>[^/@]+/[^/@]+)(@[^/]+)?/(?P<file>.+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """The data of one task: what it is, where it is read from, what is wrong with it."""

    name: str | None = None
    """``ORG/NAME`` on the Hub today; None if the task reads no data set of the Hub."""
    config: str | None = None
    """Configuration of the data set; None is its default."""
    revision: str | None = None
    """Branch or commit that the task asks for; None is ``main``."""
    place: Literal["mirror", "cache", "hub", "task"] | None = None
    """The mirror, the Hub's cache, the Hub, or files of one's own; None if nowhere."""
    folder: Path | None = None
    """Folder read instead of the Hub, in the mirror or in the Hub's cache."""
    splits: tuple[str, ...] = ()
    """Splits the task needs: the scored one, then that of its few-shot examples."""
    files: Files = field(default_factory=dict)
    """Every split of the configuration with its local data files, if they are known."""
    entries: Mapping[str, Any] = field(default_factory=dict)
    """Entries to change in the task's YAML, see ``overrides``."""
    problem: str | None = None
    """Why the data cannot be used, and what to do; None if they can."""
    extras: tuple[str, ...] = ()
    """Packages and metrics the task's code lacks, see ``missing_extras``."""


def data_of(
    manager: TaskManager,
    task: str,
    datasets_dir: Path | None,
    changes: Mapping[str, Any] | None = None,
) -> DataSet:
    """Find a task's data: in the mirror, else in the Hub's cache, else on the Hub.

    The Hub is not asked: with ``SEME_ONLINE=1`` what is not on this machine counts as there.

    Args:
        manager: lm-eval's index of tasks.
        task: Name of a task, not of a group.
        datasets_dir: The mirror; None if there is none.
        changes: Entries of the task's YAML that a group or a suite changes: ``num_fewshot``,
            ``test_split``, ...

    Raises:
        ValueError: If there is no such task, or ``datasets_dir`` is no folder.
    """
    go_offline()
    if datasets_dir is not None and not datasets_dir.is_dir():
        raise ValueError(f"datasets_dir must be a folder, got {datasets_dir}")
    mirror = None if datasets_dir is None else datasets_dir.absolute()
    config = {**task_yaml(manager, task), **(changes or {}), "task": task}
    extras = tuple(missing_extras(manager, task, mirror))
    refused = _refusal(config, built_in=is_built_in(manager, task))
    data_set = DataSet(problem=refused) if refused else _checked(config, mirror)
    return replace(data_set, extras=extras)


def overrides(
    manager: TaskManager,
    task: str,
    datasets_dir: Path | None,
    changes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the entries that make a task read its data from where ``data_of`` finds them.

    ``dataset_path`` (absolute, or today's name on the Hub); ``dataset_name``;
    ``dataset_kwargs`` with local ``data_files``, without ``trust_remote_code``;
    ``training_split`` and ``validation_split`` null where the data lack one that the task names
    but does not need. Only entries that differ from the task's YAML.

    Args:
        manager: lm-eval's index of tasks.
        task: Name of a task, not of a group.
        datasets_dir: The mirror; None if there is none.
        changes: As for ``data_of``; not in the result.

    Raises:
        ValueError: If the data cannot be used.
    """
    data_set = data_of(manager, task, datasets_dir, changes)
    if data_set.problem is not None:
        raise ValueError(data_set.problem)
    return dict(data_set.entries)


def content_hash(data_set: DataSet) -> str:
    """Hash the bytes of the data files of the splits that a task needs.

    The hash is the same for a mirror of either layout and for the Hub's cache. Files of other
    configurations and splits do not count, nor do README, file names and places.

    Args:
        data_set: From ``data_of``. If the task reads the Hub, ask after it was built, when its
            files are in the Hub's cache.

    Returns:
        xxh3_128 in hexadecimal.

    Raises:
        ValueError: If the files are not on this machine, or a split is absent.
    """
    files = data_set.files or _cached_files(data_set)
    if missing := [split for split in data_set.splits if split not in files]:
        raise ValueError(
            f"expected local files of the splits {missing} of {data_set.name}, "
            f"configuration {data_set.config}, got {sorted(files)}"
        )
    return hash_of({split: files[split] for split in data_set.splits})


def download_command(name: str, datasets_dir: Path | None, revision: str | None = None) -> str:
    """Return the shell command that fetches a data set into the mirror, or the Hub's cache."""
    words = ["hf", "download", name, "--repo-type", "dataset"]
    words += [] if revision is None else ["--revision", revision]
    words += [] if datasets_dir is None else ["--local-dir", str(datasets_dir / name)]
    return shlex.join(words)


def _refusal(config: Mapping[str, Any], *, built_in: bool) -> str | None:
    """Why no mirror can serve a task, or None."""
    if "class" in config:
        return (
            f"task {config['task']} is written in Python and reads its data itself: they can "
            "neither be read from a mirror nor be pinned"
        )
    if built_in and config.get("custom_dataset"):
        return (
            f"task {config['task']} has a custom_dataset, a function that downloads or makes "
            "its data itself: they can neither be read from a mirror nor be pinned"
        )
    return None


def _checked(config: dict[str, Any], mirror: Path | None) -> DataSet:
    """Locate the data; hold the splits that the task needs against those that there are."""
    data_set = replace(_located(config, mirror), splits=_needed_splits(config))
    if data_set.problem is not None or not data_set.files:
        return data_set
    if missing := [split for split in data_set.splits if split not in data_set.files]:
        problem = (
            f"task {config['task']} needs the splits {list(data_set.splits)} of {data_set.name}, "
            f"configuration {data_set.config}; {missing} not in {data_set.folder}, which has "
            f"{sorted(data_set.files)}"
        )
        return replace(data_set, problem=problem)
    unused = {
        key: None
        for key in ("training_split", "validation_split")
        if config.get(key) is not None and config[key] not in data_set.files
    }
    return replace(data_set, entries={**data_set.entries, **unused})


def _needed_splits(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The scored split, and that of the few-shot examples by lm-eval's rule."""
    named = [config.get(f"{kind}_split") for kind in ("training", "validation", "test")]
    training, validation, test = named
    fewshot = {"split": config.get("fewshot_split"), **(config.get("fewshot_config") or {})}
    drawn = fewshot["split"]
    if drawn is None and not fewshot.get("samples") and (config.get("num_fewshot") or 0) > 0:
        drawn = training or validation or test
    return tuple(dict.fromkeys(s for s in (test or validation, drawn) if s is not None))


def _located(config: dict[str, Any], mirror: Path | None) -> DataSet:
    """Find where a task's data are, without looking at its splits."""
    given = config.get("dataset_kwargs") or {}
    kwargs = {key: value for key, value in given.items() if key != "trust_remote_code"}
    entries = {"dataset_kwargs": kwargs} if kwargs != given else {}
    name = _hub_name(config)
    data_set = DataSet(
        name=name,
        config=config.get("dataset_name"),
        revision=kwargs.get("revision"),
        entries=entries,
    )
    if name is None:
        return _own(data_set, config, kwargs)
    folder = None if mirror is None else mirror_folder(mirror, name, data_set.revision)
    if folder is None:
        return _on_hub(data_set, config, kwargs, mirror)
    return replace(_in_folder(data_set, config, kwargs, folder), place="mirror")


def _hub_name(config: Mapping[str, Any]) -> str | None:
    """Today's name of the Hub data set that a task reads; None for files of one's own."""
    path = str(config.get("dataset_path") or "")
    if path not in _LOADERS:
        is_local = not path or path.startswith(("/", "."))
        return None if is_local else _NAMES_TODAY.get(path, path)
    named = _URL.search(str(config.get("dataset_kwargs")))
    return None if named is None else named["name"]


def _own(data_set: DataSet, config: Mapping[str, Any], kwargs: Mapping[str, Any]) -> DataSet:
    """Data of one's own: files that a task names by path, or whatever its function reads."""
    if config.get("custom_dataset"):
        return replace(data_set, place="task")
    path = str(config.get("dataset_path"))
    try:
        files = files_of(path, data_set.config, kwargs)
    except ValueError as error:
        problem = f"task {config['task']}: its dataset_path {path} cannot be read: {error}"
        return replace(data_set, problem=problem)
    folder = None if path in _LOADERS else Path(path)
    return replace(data_set, place="task", folder=folder, files=files)


def _in_folder(
    data_set: DataSet, config: Mapping[str, Any], kwargs: Mapping[str, Any], folder: Path
) -> DataSet:
    """A data set in a folder, with its files and the entries that lead to it."""
    name, path, own_config = str(data_set.name), str(folder), data_set.config
    if script := loading_script(folder):
        mirror = Path(path.removesuffix(f"/{name}"))
        problem = (
            f"task {config['task']}: {folder} has a loading script, {script}, and datasets runs "
            "none; remove the folder and fetch the files that the Hub converted: "
            f"`{download_command(name, mirror, 'refs/convert/parquet')}`"
        )
        return replace(data_set, folder=folder, problem=problem)
    changed: dict[str, Any] = {"dataset_path": path}
    if config["dataset_path"] in _LOADERS:
        path = config["dataset_path"]
        moved = _moved(kwargs["data_files"], name, folder)
        changed = {"dataset_kwargs": {**kwargs, "data_files": moved}}
    elif "data_files" not in kwargs and (found := converted_files(folder, own_config)):
        own_config = None
        changed |= {"dataset_name": None, "dataset_kwargs": {**kwargs, "data_files": found}}
    try:
        files = files_of(path, own_config, changed.get("dataset_kwargs", kwargs))
    except ValueError as error:
        problem = (
            f"task {config['task']} needs the data set {name}, configuration "
            f"{data_set.config}, but {folder} cannot be read as it: {error}; expected the "
            f"layout that `hf download {name} --repo-type dataset` makes"
        )
        return replace(data_set, folder=folder, problem=problem)
    return replace(
        data_set, folder=folder, files=files, entries={**data_set.entries, **changed}
    )


def _on_hub(
    data_set: DataSet, config: Mapping[str, Any], kwargs: Mapping[str, Any], mirror: Path | None
) -> DataSet:
    """A data set that is not in the mirror: in the Hub's cache, on the Hub, or absent."""
    name = str(data_set.name)
    folder = hub_snapshot(name, data_set.revision)
    if folder is not None:
        cached = _in_folder(data_set, config, kwargs, folder)
        if cached.problem is None:
            return replace(cached, place="cache")
    if config["dataset_path"] not in _LOADERS | {name}:
        data_set = replace(data_set, entries={**data_set.entries, "dataset_path": name})
    if os.environ.get("SEME_ONLINE") == "1":
        return replace(data_set, place="hub")
    if config["dataset_path"] not in _LOADERS and _is_prepared(data_set, kwargs):
        return replace(data_set, place="cache", files=_cached_files(data_set))
    place = "the mirror (datasets_dir is not set)" if mirror is None else str(mirror / name)
    gated = (
        f", after its terms are accepted on https://huggingface.co/datasets/{name} and "
        "`hf auth login`"
    )
    problem = (
        f"task {config['task']} needs the data set {name}, which is neither in {place} nor in "
        "the Hub's cache; fetch it where there is a network, here with SEME_ONLINE=1: "
        f"`{download_command(name, mirror, data_set.revision)}`{gated if name in GATED else ''}"
    )
    return replace(data_set, problem=problem)


def _is_prepared(data_set: DataSet, kwargs: Mapping[str, Any]) -> bool:
    """True if ``datasets`` has a copy in its own cache, which it opens without a network."""
    try:
        files_of(str(data_set.name), data_set.config, kwargs)
    except ValueError:
        return False
    return True


def _cached_files(data_set: DataSet) -> Files:
    """Files of a data set in the Hub's cache, where ``datasets`` downloads them to."""
    folder = None if data_set.name is None else hub_snapshot(data_set.name, data_set.revision)
    return {} if folder is None else snapshot_files(folder, data_set.config)


def _moved(value: object, name: str, folder: Path) -> object:
    """Point the addresses of a Hub data set in ``data_files`` to its folder."""
    if isinstance(value, Mapping):
        return {key: _moved(entry, name, folder) for key, entry in value.items()}
    if isinstance(value, list):
        return [_moved(entry, name, folder) for entry in value]
    match = _URL.fullmatch(str(value))
    return str(folder / match["file"]) if match and match["name"] == name else value
