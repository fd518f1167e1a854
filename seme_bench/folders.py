"""Folders of this installation: its configuration, and models and tasks that come with it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HOME = Path(__file__).resolve().parents[1]
"""The repository; the folder of installed packages outside one."""
_PACKAGE = Path(__file__).resolve().parent
_IS_INSTALLED = (_PACKAGE / "conf").is_dir()
CONF = _PACKAGE / "conf" if _IS_INSTALLED else HOME / "conf"
"""The folder of configuration files."""
REFERENCE = _PACKAGE / "reference" if _IS_INSTALLED else HOME / "results/reference"
"""The folder of published numbers that reports compare with."""
_EMBEDDED = "eval"
"""Where the repository has models and tasks: relative folders that begin with it are its own."""
_LOCATIONS = ("location", "path_to_adapter")


def with_embedded(config: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """Point models and tasks of the repository to where they are installed.

    Args:
        config: A run's configuration in plain values.
        root: Folder that relative folders start from; what is there stays as it is.

    Raises:
        ValueError: If one is not part of the installation; names it and says what to do.
    """
    installed = dict(config)
    models = config.get("models")
    if isinstance(models, Mapping):
        installed["models"] = {key: _in_models(entry, root) for key, entry in models.items()}
    suite = config.get("suite")
    if isinstance(suite, Mapping) and suite.get("tasks"):
        path = _installed(suite.get("include_path"), root)
        installed["suite"] = {**suite, "include_path": path}
    return installed


def _in_models(entry: object, root: Path) -> object:
    """Replace the locations of a pool's entry: a model, or a list of models."""
    if isinstance(entry, Mapping):
        entries = {k: _installed(v, root) if k in _LOCATIONS else v for k, v in entry.items()}
        return (
            entries | {"base": _in_models(entry["base"], root)} if "base" in entry else entries
        )
    if isinstance(entry, Sequence) and not isinstance(entry, str):
        return [_in_models(model, root) for model in entry]
    return _installed(entry, root)


def _installed(location: object, root: Path) -> object:
    """Return the installed folder of a location of the repository; others as they are."""
    if not isinstance(location, str) or not location.startswith(f"{_EMBEDDED}/"):
        return location
    if root == HOME or (root / location).exists():
        return location
    if (HOME / location).exists():
        return str(HOME / location)
    raise ValueError(
        f"{location[:200]} is neither in {root} nor in the installed package: it is made or "
        "fetched in a clone of the repository; work there, or give models and tasks of your own"
    )
