"""State of every cell of a sweep, read from its folder and the locks of runs."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.folders import LOCKS
from eval.run_files import atomic_write
from eval.run_lock import Claim, RunLock, latest_claim

PLAN_NAME = "sweep.json"
_LAUNCHER = ".launcher"
"""Folder in a sweep's folder with the lock of the process that launched it."""
ENDED = ("done", "failed", "not applicable")
UNDER_WAY = ("running", "starting", "waiting")
LOST = ("died", "not started")
STATES = (*ENDED, *UNDER_WAY, *LOST)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPlan:
    """Plan of a sweep, as it wrote it at its start."""

    cells: tuple[tuple[str, ...], ...]
    """Overrides of every cell, in order."""
    keys: tuple[str, ...]
    """Entries that the sweep varies."""
    launcher: str

    def title(self, index: int) -> str:
        """Name a cell by its method and what the sweep varies."""
        keys = {"method", *self.keys}
        return " ".join(o for o in self.cells[index] if o.partition("=")[0] in keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class CellState:
    """A cell and what has become of it."""

    number: int
    """From 1, as in ``[3/12]``."""
    title: str
    state: str
    """One of :data:`STATES`."""
    error: str = ""
    claim: Claim | None = None
    """Who runs it, or died with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepState:
    """A sweep, or a single run, and its cells."""

    name: str
    launcher: str
    launched_by: Claim | None
    """The launching process while it lives."""
    cells: tuple[CellState, ...]

    def count(self, *states: str) -> int:
        return sum(cell.state in states for cell in self.cells)


def write_plan(
    folder: Path, cells: Sequence[Sequence[str]], *, keys: Sequence[str], launcher: str
) -> RunLock:
    """Write down what a sweep is going to do, and tell others that its launcher lives.

    Args:
        folder: Of the sweep; created.
        cells: Overrides of every cell, in order.
        keys: Entries that the sweep varies.
        launcher: Choice of ``hydra/launcher``.

    Returns:
        A lock that the launching process holds; its end frees it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries = {"cells": [list(cell) for cell in cells], "keys": list(keys)}
    text = json.dumps(entries | {"launcher": launcher})
    atomic_write(folder / PLAN_NAME, text.encode())
    lock = RunLock(folder / _LAUNCHER)
    lock.acquire(wait=False)
    return lock


def claims_of(root: Path) -> dict[tuple[str, int | None], Claim]:
    """Read who has a run of which sweep and cell, or died with it.

    Args:
        root: The results folder.

    Returns:
        Name of the sweep and place of the cell, from 0, None for a single run, to the claim.
    """
    claims: dict[tuple[str, int | None], Claim] = {}
    for folder in sorted((root / LOCKS).glob("*/")):
        claim = latest_claim(folder)
        if claim is None or claim.is_free:
            continue
        sweep, index = claim.about.get("sweep"), claim.about.get("index")
        if isinstance(sweep, str) and (index is None or type(index) is int):
            known = claims.get((sweep, index))
            if known is None or known.is_dead(time.time()):
                claims[sweep, index] = claim
    return claims


def sweep_state(folder: Path, claims: Mapping[tuple[str, int | None], Claim]) -> SweepState:
    """Tell what has become of the cells of a sweep, or of a single run.

    Args:
        folder: ``sweeps/NAME`` of a results folder.
        claims: From :func:`claims_of`.
    """
    launcher = latest_claim(folder / _LAUNCHER)
    lives = launcher is not None and not launcher.is_free and not launcher.is_dead(time.time())
    plan = _plan_in(folder)
    if plan is None and not any(_index(path) is not None for path in folder.iterdir()):
        cell = _state_of(folder, claims.get((folder.name, None)), 0, "", launcher_lives=False)
        return SweepState(name=folder.name, launcher="", launched_by=None, cells=(cell,))
    indices = range(len(plan.cells)) if plan else sorted(_indices(folder))
    cells = [
        _state_of(
            folder / str(index),
            claims.get((folder.name, index)),
            index,
            plan.title(index) if plan else "",
            launcher_lives=lives,
        )
        for index in indices
    ]
    return SweepState(
        name=folder.name,
        launcher=plan.launcher if plan else "",
        launched_by=launcher if lives else None,
        cells=tuple(cells),
    )


def _state_of(
    folder: Path, claim: Claim | None, index: int, title: str, *, launcher_lives: bool
) -> CellState:
    """Tell the state of a cell from its folder and from who has it."""
    ended = _read(folder / "cell.json")
    title = title or str(ended.get("cell") or (claim and claim.about.get("label")) or "")
    error = str(ended.get("error") or "")
    if ended:
        refused = "not applicable" if ended.get("refused") else "failed"
        state, claim = refused if error else "done", None
    elif claim is not None:
        state = "died" if claim.is_dead(time.time()) else "running"
    elif launcher_lives:
        state = "starting" if folder.exists() else "waiting"
    else:
        state = "died" if folder.exists() else "not started"
    return CellState(number=index + 1, title=title, state=state, error=error, claim=claim)


def _plan_in(folder: Path) -> SweepPlan | None:
    """Read a sweep's plan; None if there is none, or it is damaged."""
    plan = _read(folder / PLAN_NAME)
    listed, keys = plan.get("cells"), _texts(plan.get("keys"))
    cells = [_texts(cell) for cell in listed] if isinstance(listed, list) else [None]
    whole = [cell for cell in cells if cell is not None]
    if keys is None or len(whole) < len(cells):
        return None
    launcher = str(plan.get("launcher", ""))
    return SweepPlan(cells=tuple(whole), keys=keys, launcher=launcher)


def _texts(value: object) -> tuple[str, ...] | None:
    """Return a list of texts as a tuple; None if it is something else."""
    if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        return tuple(value)
    return None


def _indices(folder: Path) -> list[int]:
    return [index for path in folder.iterdir() if (index := _index(path)) is not None]


def _index(path: Path) -> int | None:
    """Return the place of a cell from its folder's name; None for another folder."""
    name = path.name
    return int(name) if name.isdecimal() and name.isascii() and len(name) < 8 else None


def _read(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty if there is none, or it is damaged."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return entries if isinstance(entries, dict) else {}
