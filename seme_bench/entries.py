"""Top level of a run's configuration: entries checked, names filled in, the suite built."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.evaluator import evaluator_from_config
from eval.override_errors import unknown_entry
from eval.suite import Suite, suite_from_config
from eval.tracking.trackers import check_tracker
from seme.pool import portable

_GROUPS = {"method", "models", "suite", "evaluator", "tracker"}
_LIMITS = {"include", "exclude", "overrides", "memory_budget"}
_FOLDERS = {"output", "merged_dir", "datasets_dir"}
_VALUES = (
    _LIMITS
    | _FOLDERS
    | {"tokens", "tau", "seed", "device", "dtype", "max_shard_size", "push"}
    | {"merged_as", "adapter_rank"}
)
_SWITCHES = {"force", "plan", "quiet"}


def check_entries(config: Mapping[str, Any]) -> None:
    """Check the top level of a run's configuration.

    Raises:
        ValueError: If an entry is missing, nothing would read one, a switch is neither on nor
            off, or the evaluator or the tracker cannot be used.
    """
    expected = _GROUPS | _VALUES | _SWITCHES
    if unknown := sorted(config.keys() - expected):
        entries = [*expected, *(f"method.{key}" for key in config.get("method") or ())]
        raise ValueError(unknown_entry(unknown[0], entries))
    if missing := sorted(expected - config.keys()):
        none = "; tracker=none keeps records only" if "tracker" in missing else ""
        raise ValueError(f"missing entries {missing}{none}")
    for key in sorted(_SWITCHES):
        if not isinstance(config[key], bool):
            raise ValueError(f"{key} must be true or false, got {config[key]!r}")
    _check_folders(config)
    if config["merged_as"] == "adapter":
        _check_adapter(config)
    evaluator_from_config(config["evaluator"])
    check_tracker(config["tracker"])


def _check_folders(config: Mapping[str, Any]) -> None:
    """Demand folders or null, and a name that the manifest's command and the card can hold."""
    for key in ("merged_dir", "datasets_dir"):
        if not isinstance(config[key], str | None):
            raise ValueError(f"{key} must be a folder or null, got {config[key]!r}")
    if (kept := config["merged_dir"]) is not None and not kept.isprintable():
        raise ValueError(
            f"merged_dir must be a name of printable characters, got {kept!r:.200}"
        )


def _check_adapter(config: Mapping[str, Any]) -> None:
    """Demand what a merge to an adapter needs besides its sources."""
    if config["merged_dir"] is None:
        raise ValueError("merged_as=adapter needs merged_dir=FOLDER, where the adapter is kept")
    if (config["suite"] or {}).get("tasks"):
        raise ValueError(
            "merged_as=adapter needs suite=none: an adapter is scored as a source of a merge of "
            "its own, method=average 'models.sources=[{path_to_adapter: FOLDER}]'"
        )


def name_after_files(values: dict[str, Any], choices: Mapping[str, str]) -> None:
    """Name pool and suite after their files.

    Raises:
        ValueError: If several files of a group are chosen.
    """
    for group in ("method", "suite", "models"):
        if group not in choices:  # group=[A,B]
            raise ValueError(
                f"{group} must be one file; -m {group}=A,B is a sweep over several"
            )
        if group != "method":
            values[group].setdefault("name", choices[group])


def origin_of(command: str, merged_dir: str | None, root: Path) -> dict[str, str]:
    """Say where a run came from, for its record; what is not known is left out.

    Args:
        command: The command line of the run alone.
        merged_dir: Folder of a kept merge.
        root: Folder that relative folders start from.
    """
    kept = {} if merged_dir is None else {"merged_dir": portable(str(merged_dir), root)}
    return ({"command": command} if command else {}) | kept


def suite_of(config: Mapping[str, Any], root: Path) -> Suite | None:
    """Build the suite; None if nothing is evaluated."""
    return suite_from_config(
        config["suite"],
        root=root,
        datasets_dir=config["datasets_dir"],
        evaluator=evaluator_from_config(config["evaluator"]),
    )
