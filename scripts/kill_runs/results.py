"""Content of a results folder after a sweep, without times, and differences between two."""

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.leaderboard.tables import read_leaderboard, to_csv, to_markdown

_TIMES = ("started_at", "seconds_total", "merge_cost", "evaluation_cost", "provenance")
_OF_FOLDER = ("origin",)
"""Entries of a record that depend on its results folder."""
_TEMPORARY = ("*scratch-*", ".seme-writing-*", "**/.*.????????", ".leaderboard*")
"""Patterns of files that a run has while it is written; of signals SIGKILL alone leaves them."""
_RUN = re.compile(r"wandb/offline-run-[^/]*")
_SWEEP = re.compile(r"sweeps/[^/]*")
_OF_WANDB = re.compile(r"wandb/(cache|config|data)/.*")
_BROKEN = "wandb/broken"
_CLAIM = re.compile(r"\d+\.free$")
"""A released lock's number is how often it was taken; one that is not released is left over."""
_LAUNCHER = re.compile(r"(sweeps/\*/\.launcher)/\d+\.(?:lock|free)$")
"""A killed sweep cannot release what says that its launcher lives."""


@dataclass(frozen=True, slots=True)
class Results:
    """What a results folder holds, which must not depend on how its sweeps ended."""

    records: dict[str, Any]
    """Folder of a run to its record without times."""
    samples: dict[str, bytes]
    """Folder of a run to its samples, unpacked."""
    paths: frozenset[str]
    """Files and folders; names with times and process numbers are patterns."""


def results_of(root: Path) -> Results:
    """Read a results folder.

    Raises:
        ValueError: If a record cannot be read.
    """
    records = {}
    for path in sorted(root.glob("runs/*/record.json")):
        entries = json.loads(path.read_text(encoding="utf-8"))
        records[path.parent.name] = {
            **{
                key: value
                for key, value in entries.items()
                if key not in (*_TIMES, *_OF_FOLDER)
            },
            "identity": entries["provenance"]["identity"],
        }
    samples = sorted(root.glob("runs/*/samples.jsonl.gz"))
    return Results(
        records=records,
        samples={file.parent.name: gzip.decompress(file.read_bytes()) for file in samples},
        paths=frozenset(_patterns(root)),
    )


def differences(root: Path, expected: Results) -> Iterator[str]:
    """Say in what a results folder differs from the undisturbed one, and what is left over."""
    results = results_of(root)
    for name in sorted(expected.records.keys() | results.records.keys()):
        if results.records.get(name) != expected.records.get(name):
            yield f"the record of {name} differs"
        if results.samples.get(name) != expected.samples.get(name):
            yield f"the samples of {name} differ"
    yield from (f"{path} is left over" for path in sorted(results.paths - expected.paths))
    yield from (f"{path} is missing" for path in sorted(expected.paths - results.paths))
    yield from _wrong_tables(root)
    yield from _wrong_mirrors(root, len(results.records))


def temporary_in(root: Path) -> list[str]:
    """List scratch folders and temporary files of a results folder."""
    temporary = {path for pattern in _TEMPORARY for path in root.glob(pattern)}
    return sorted(path.relative_to(root).as_posix() for path in temporary)


def _patterns(root: Path) -> Iterator[str]:
    """Yield the paths in a results folder; broken W&B runs are no leftovers, they are put there."""
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        name = _RUN.sub("wandb/offline-run-*", _SWEEP.sub("sweeps/*", name))
        name = _LAUNCHER.sub(r"\1/N.free", _CLAIM.sub("N.free", name))
        name = _OF_WANDB.sub(r"wandb/\1/...", name)
        if name.startswith("wandb/offline-run-*/"):
            name = "wandb/offline-run-*/..."
        if not name.startswith(_BROKEN):
            yield name


def _wrong_tables(root: Path) -> Iterator[str]:
    """Compare the tables with those that the records give now."""
    board = read_leaderboard(root)
    markdown = to_markdown(board.boards, board.standings, board.measures, board.problems)
    for name, text in (("md", markdown), ("csv", to_csv(board.boards, board.measures))):
        path = root / f"leaderboard.{name}"
        if not path.exists() or path.read_bytes() != text.encode():
            yield f"{path.name} is not that of the records"


def _wrong_mirrors(root: Path, n_records: int) -> Iterator[str]:
    """Compare the W&B runs with the records' marks."""
    runs = [path.name for path in root.glob("wandb/offline-run-*")]
    for marker in sorted(root.glob("runs/*/wandb.json")):
        entries = json.loads(marker.read_text(encoding="utf-8"))
        n_own = sum(name.endswith(f"-{entries['run']}") for name in runs)
        if entries["complete"] is not True or n_own != 1:
            yield f"{marker.parent.name} has {n_own} W&B runs, marked {entries}"
    if len(runs) != n_records:
        yield f"{len(runs)} W&B runs of {n_records} records"
