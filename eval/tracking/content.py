"""What a tracker is told of a record: settings, numbers, a table, and no paths of the machine."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from eval.records import Record, StageCost
from eval.schema import to_json
from eval.statistics.scores import overall_mean

_LONGEST_TAG = 64
_PATH_IN_TEXT = re.compile(
    r"(?<![\w.:/~-])(?:file://)?(?:~\w*)?(?:/[^\s\"'/:;,()<>\[\]]+){2,}/?"
)
_PATH_ALONE = re.compile(r"(?:[A-Za-z]:[\\/]|/[^/\n]+/)(?:(?!: )[^\n])+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of equal length; a column holds one kind of value, or None."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


def config_of(record: Record) -> dict[str, Any]:
    """What defines the run, JSON-ready and without paths of the machine."""
    suite = None if record.suite is None else to_json(record.suite)
    config = {
        "kind": record.kind,
        "method": record.name,
        "settings": dict(record.settings),
        "models": to_json(record.models),
        "suite": suite,
        "seed": record.seed,
        "dtype": record.dtype,
        "fingerprint": record.fingerprint,
        "provenance": dict(record.provenance),
    }
    return {key: without_paths(value) for key, value in config.items()}


def summary_of(record: Record) -> dict[str, Any]:
    """Scores and costs, flat: ``score/<task>``, ``merge/seconds`` and so on."""
    summary = {"status": record.status, "error": without_paths(record.error)}
    summary |= {f"score/{task}": score.value for task, score in record.scores.items()}
    if record.scores:
        mean = overall_mean(record.scores, record.domains)
        summary |= {"score/mean": mean.value, "score/mean_stderr": mean.stderr}
    return summary | merge_summary_of(record) | _cost("evaluation", record.evaluation_cost)


def merge_summary_of(record: Record) -> dict[str, Any]:
    """The cost of the merge alone, flat; empty for an unmerged model."""
    return _cost("merge", record.merge_cost)


def task_table(record: Record) -> Table:
    """One row per task, in the suite's order."""
    rows = [
        (task, record.domains[task], s.value, s.stderr, s.n, s.raw_metric, s.raw)
        for task, s in record.scores.items()
    ]
    columns = ("task", "domain", "score", "stderr", "n", "raw_metric", "raw")
    return Table(columns=columns, rows=tuple(rows))


def tags_of(record: Record, configured: Sequence[str]) -> list[str]:
    """Tags of at most 64 characters, as wandb demands; none twice."""
    suite = "none" if record.suite is None else record.suite.name
    found = [*configured, record.name, record.models.pool, suite, record.status]
    return list(dict.fromkeys(str(tag)[:_LONGEST_TAG] for tag in found))


def without_paths(value: Any) -> Any:  # noqa: ANN401 (any JSON)
    """Cut absolute paths to their last part: the folders above name accounts and machines.

    Args:
        value: Anything JSON can express. Paths from the project's folder and hub ids stay.
    """
    if isinstance(value, Mapping):
        return {key: without_paths(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(part) for part in value]
    if not isinstance(value, str):
        return value
    for path in sorted(paths_in(value), key=len, reverse=True):
        value = value.replace(path, last_part(path))
    return value


def paths_in(value: Any) -> set[str]:  # noqa: ANN401 (any JSON)
    """Find the absolute paths of two parts or more; a text that is one may hold spaces."""
    if isinstance(value, Mapping):
        return set().union(*map(paths_in, value.values()))
    if isinstance(value, list | tuple):
        return set().union(*map(paths_in, value))
    if not isinstance(value, str):
        return set()
    return {value} if _PATH_ALONE.fullmatch(value) else set(_PATH_IN_TEXT.findall(value))


def last_part(path: str) -> str:
    """The name of a file or folder, of whichever system the path is."""
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]


def _cost(stage: str, cost: StageCost | None) -> dict[str, Any]:
    if cost is None:
        return {}
    return {f"{stage}/{key}": value for key, value in asdict(cost).items()}
