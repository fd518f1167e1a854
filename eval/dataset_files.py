"""Data files of a data set in a local folder: splits, layouts of mirrors, content hash."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import xxhash
import yaml
from datasets.data_files import DataFilesDict, get_data_patterns, sanitize_patterns
from datasets.exceptions import DatasetsError
from datasets.utils.metadata import MetadataConfigs

Files = Mapping[str, Sequence[Path]]
"""Split to its data files, in the order in which their documents are numbered."""

_BUILDER_ENTRIES = ("data_files", "data_dir")
"""Entries of a task's ``dataset_kwargs`` that say which files are read."""


def mirror_folder(datasets_dir: Path, name: str, revision: str | None) -> Path | None:
    """Find a data set's folder in a mirror.

    Args:
        datasets_dir: The mirror, with either layout: ``ORG/NAME/`` or that of the Hub's cache.
        name: ``ORG/NAME``.
        revision: A commit or branch, only for the layout of the Hub's cache; None is ``main``.
    """
    plain = datasets_dir / name
    return plain if plain.is_dir() else snapshot(datasets_dir, name, revision)


def snapshot(root: Path, name: str, revision: str | None) -> Path | None:
    """Find ``root/datasets--ORG--NAME/snapshots/REVISION``: of the branch, else the only one."""
    repository = root / f"datasets--{name.replace('/', '--')}"
    reference = repository / "refs" / (revision or "main")
    commit = reference.read_text().strip() if reference.is_file() else revision or ""
    if commit and (repository / "snapshots" / commit).is_dir():
        return repository / "snapshots" / commit
    snapshots = list((repository / "snapshots").glob("*"))
    return snapshots[0] if len(snapshots) == 1 and revision is None else None


def hub_snapshot(name: str, revision: str | None) -> Path | None:
    """Find a data set's snapshot in the Hub's cache on this machine."""
    return snapshot(Path(huggingface_hub.constants.HF_HUB_CACHE), name, revision)


def loading_script(folder: Path) -> str | None:
    """Name of the Python script that loads a data set and that ``datasets`` refuses, or None.

    That is ``FOLDER/FOLDER.py``, or any script in a folder without data files.
    """
    if (folder / f"{folder.name}.py").is_file():
        return f"{folder.name}.py"
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != "README.md"]
    visible = [p for p in files if not p.relative_to(folder).as_posix().startswith(".")]
    scripts = sorted(path.name for path in visible if path.suffix == ".py")
    return scripts[0] if scripts and len(scripts) == len(visible) else None


def converted_files(folder: Path, config: str | None) -> dict[str, str]:
    """Map split to pattern in the layout of the branch ``refs/convert/parquet``.

    The Hub converts data sets that are loaded by a script to ``CONFIG/SPLIT/0000.parquet``,
    without a README that names configurations and splits. Empty for other layouts.
    """
    base = folder / (config or "default")
    if (folder / "README.md").is_file() or not base.is_dir():
        return {}
    splits = sorted({path.parent.name for path in base.glob("*/*.parquet")})
    return {split: f"{base.name}/{split}/*.parquet" for split in splits}


def files_of(path: str, config: str | None, kwargs: Mapping[str, Any]) -> Files:
    """Find the files that ``load_dataset(path, config, **kwargs)`` reads, without reading them.

    Args:
        path: An absolute folder, or a loader of files as ``json``.
        config: Name of the configuration; None is the default one.
        kwargs: A task's ``dataset_kwargs``; ``data_files`` and ``data_dir`` count.

    Raises:
        ValueError: If the folder has no such configuration, files are absent, or not local.
    """
    chosen = {key: kwargs[key] for key in _BUILDER_ENTRIES if key in kwargs}
    readme = Path(path) / "README.md"
    state = readme.stat().st_mtime_ns if readme.is_file() else 0
    key = path, config, json.dumps(chosen, sort_keys=True, default=str), state
    if not all(file.exists() for files in _builder_files(*key).values() for file in files):
        _builder_files.cache_clear()  # files were moved meanwhile
    return dict(_builder_files(*key))


@cache
def _builder_files(path: str, config: str | None, chosen: str, _state: int) -> Files:
    """List files once per process: README.md of a data set of 57 configurations is long."""
    try:
        builder = datasets.load_dataset_builder(path, config, **json.loads(chosen))
        listed = builder.config.data_files or {}
    except (DatasetsError, OSError, RuntimeError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if remote := [file for files in listed.values() for file in files if "://" in file]:
        raise ValueError(f"expected local files, its README or task names {remote[0]}")
    return {str(split): tuple(map(Path, files)) for split, files in listed.items()}


def snapshot_files(folder: Path, config: str | None) -> Files:
    """Find the files of one configuration in a snapshot that may lack those of others.

    ``datasets`` downloads only what it loads, and does not open such a snapshot as a folder.
    Empty if the configuration is not there.
    """
    readme = folder / "README.md"
    try:
        card = huggingface_hub.DatasetCard.load(readme) if readme.is_file() else None
        if card is not None and (configs := MetadataConfigs.from_dataset_card_data(card.data)):
            entry = configs[config or configs.get_default_config_name() or next(iter(configs))]
            patterns = sanitize_patterns(entry["data_files"])
        else:
            patterns = get_data_patterns(str(folder))
        listed = DataFilesDict.from_patterns(patterns, base_path=str(folder))
    except (DatasetsError, KeyError, OSError, ValueError, yaml.YAMLError):
        return {}
    return {str(split): tuple(map(Path, files)) for split, files in listed.items()}


def hash_of(files: Files) -> str:
    """Hash the content of data files: xxh3_128 in hexadecimal.

    It depends on the bytes of each split's files in order and on the names of the splits, not
    on the names of files and folders. A file is read once per process while it is unchanged.
    """
    digest = xxhash.xxh3_128()
    for split in sorted(files):
        digest.update(f"{split}\0".encode())
        for file in files[split]:
            status = file.stat()
            content = _file_hash(file.resolve(), status.st_size, status.st_mtime_ns)
            digest.update(f"{status.st_size} {content}\0".encode())
    return digest.hexdigest()


@cache
def _file_hash(file: Path, _size: int, _modified_ns: int) -> str:
    digest = xxhash.xxh3_128()
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
