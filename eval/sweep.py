"""A sweep: its folder prepared and its cells counted at the start, its tables built at the end."""

import atexit
import json
import logging
import os
import secrets
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from eval.conclusion import conclude
from eval.folders import check_writable, remove_leftovers
from eval.gpus import take_gpu
from eval.launchers import check_launcher, gives_no_gpus, is_alone
from eval.run_lock import Claim
from eval.sweep_state import claims_of, write_plan
from eval.tracking.mirror import set_aside_broken
from eval.wording import describe_error

_log = logging.getLogger("run")
_SWEEP = "SEME_SWEEP"
"""Environment variable with the number of cells of the running sweep, and what it varies."""
_seconds: list[float] = []
"""Seconds of every cell that this process ran."""
_alone = [False]
"""Does this process run all cells of the sweep?"""
_launched: list[Any] = []
"""Configuration of the sweep that this process launched, and the lock that it holds."""
_LONGEST_REASON = 300
"""Characters of a launcher's error that are shown."""
_FOLLOW = "{n} cells go to {launcher}; what becomes of them: python -m scripts.status output={output}\n"

warnings.filterwarnings(  # conf/hydra/launcher has the names of the plugins' own
    "ignore", message=r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema"
)
OmegaConf.register_new_resolver(
    "token", lambda: secrets.token_hex(3), use_cache=True, replace=True
)
"""``${token:}`` of conf/config.yaml: two sweeps of one second have folders of their own."""


class Sweep(Callback):
    """Prepare the results folder; count the cells of a sweep, and at its end build the tables."""

    def on_run_start(self, config: DictConfig, **_: object) -> None:
        """Called by Hydra before a single run makes its folder."""
        _prepare(config)

    def on_multirun_start(self, config: DictConfig, **_: object) -> None:
        """Called by Hydra once; the launcher's processes inherit the environment."""
        _prepare(config)
        launcher: Any = OmegaConf.select(config, "hydra.launcher") or {}
        name = str(OmegaConf.select(config, "hydra.runtime.choices.hydra/launcher"))
        try:
            check_launcher(name, launcher, device=OmegaConf.select(config, "device"))
        except ValueError as error:
            sys.exit(f"error: {error}")
        _alone[:] = [is_alone(launcher)]
        _seconds.clear()
        cells, keys = _cells_of(config)
        os.environ[_SWEEP] = json.dumps({"n_cells": len(cells) or "?", "keys": keys})
        if not config.plan:
            folder = Path.cwd() / config.hydra.sweep.dir
            lock = write_plan(folder, cells, keys=keys, launcher=name)
            atexit.register(lock.release)  # of an interrupted sweep
            _launched[:] = [config, lock]
            if not _alone[0]:
                text = _FOLLOW.format(n=len(cells), launcher=name, output=config.output)
                sys.stdout.write(text)

    def on_job_start(self, config: DictConfig, **_: object) -> None:
        """Called by Hydra in the process of a cell, before it begins."""
        launcher: Any = config.hydra.launcher
        if gives_no_gpus(launcher) and OmegaConf.select(config, "device") != "cpu":
            take_gpu(Path.cwd() / config.output, say=_log.info)

    def on_multirun_end(self, config: DictConfig, **_: object) -> None:
        """Exit with 1 if a cell failed; called by Hydra once, in the launching process."""
        _end(config)


def end_early(error: Exception) -> None:
    """End a sweep whose launcher failed as one whose cells have ended: count them, and exit.

    Nothing happens where no launcher spreads cells: the error is another's.

    Args:
        error: What the launcher raised; Hydra passes it on and calls nothing at the end.
    """
    if not _launched or not is_spread():
        return
    config, _ = _launched
    launcher = OmegaConf.select(config, "hydra.runtime.choices.hydra/launcher")
    reason = " ".join(describe_error(error).split())[:_LONGEST_REASON]
    sys.stderr.write(f"error: the launcher {launcher} ended early: {reason}\n")
    _end(config)
    sys.exit(1)


def _end(config: DictConfig) -> None:
    """Count all cells, whoever ran them, and build the tables."""
    folder = Path.cwd() / config.hydra.sweep.dir
    numbers = {int(path.parent.name) for path in folder.glob("*/cell.json")}
    if config.hydra.sweeper._target_.endswith(".BasicSweeper") and not config.plan:
        numbers |= set(range(json.loads(os.environ[_SWEEP])["n_cells"]))
    claims = {} if config.plan else claims_of(Path.cwd() / config.output)
    planned, _ = _cells_of(config)
    cells = [
        _ended_cell(
            folder / f"{number}/cell.json",
            " ".join(planned[number]) if number < len(planned) else f"cell {number}",
            claims.get((folder.name, number)),
        )
        for number in sorted(numbers)
    ]
    if config.plan:
        errors = [f"error: {c['cell']}: {c['error']}" for c in cells if c["error"]]
        sys.exit("\n".join(errors) or 0)
    for _, lock in [_launched] if _launched else []:
        lock.release()
    _launched.clear()
    try:
        conclude(Path.cwd(), config.output, cells)
    except Exception:  # Hydra would pass over it, and exit with 0
        _log.exception("the tables of the sweep could not be written")
        sys.exit(1)


def _cells_of(config: DictConfig) -> tuple[list[list[str]], list[str]]:
    """Return the overrides of every cell as Hydra's own sweeper makes them, and what varies.

    Another sweeper decides on its cells as it goes: none are known.
    """
    if not config.hydra.sweeper._target_.endswith(".BasicSweeper"):
        return [], []
    params = config.hydra.sweeper.get("params") or {}
    lines = [f"{key}={value}" for key, value in params.items()]
    overrides = OverridesParser.create().parse_overrides([*lines, *overrides_of(config.hydra)])
    try:
        cells = [c for batch in BasicSweeper.split_arguments(overrides, None) for c in batch]
    except HydraException:  # Hydra says so itself
        return [], []
    last = {override.get_key_element(): override for override in overrides}
    return cells, [key for key, override in last.items() if override.is_sweep_override()]


def _prepare(config: DictConfig) -> None:
    """Sweep the results folder of what dead processes left; exit where nothing can be written."""
    output = OmegaConf.select(config, "output")
    if not isinstance(output, str) or not output.strip():  # one called None, or in /
        sys.exit(f"error: output must be a folder, got {output!r}")
    root = Path.cwd() / output
    try:
        check_writable(root, entry=f"output={output}")
        remove_leftovers(root)
        set_aside_broken(root)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {describe_error(error)}")


def _ended_cell(path: Path, name: str, claim: Claim | None) -> dict[str, Any]:
    """Read what a cell left; one that left nothing still runs, or was killed with its process."""
    if path.exists():
        ended: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return ended
    error = "its process died: run the same command again"
    if claim is not None and not claim.is_dead(time.time()):
        error = f"it still runs, by {claim.whose()}: run the same command when it has ended"
    return {"cell": name, "fingerprint": None, "error": error, "refused": False}


def overrides_of(hydra_config: Any) -> list[str]:  # noqa: ANN401 (Hydra's own)
    """Return a run's overrides as they were written, with ``${...}`` in them."""
    lines: Any = OmegaConf.to_container(hydra_config.overrides.task, resolve=False)
    return [str(line) for line in lines]


def cell_label(method: str, overrides: Sequence[str], index: int, *, uses_tau: bool) -> str:
    """Name a cell of the running sweep: ``[3/10] ties tau=0.2``, ``[4/10] average (no tau)``."""
    sweep = json.loads(os.environ.get(_SWEEP, '{"n_cells": "?", "keys": []}'))
    keys = set(sweep["keys"]) - {"method"}
    varied = [line for line in overrides if line.partition("=")[0] in keys]
    if not uses_tau:
        varied = ["(no tau)" if line.startswith("tau=") else line for line in varied]
    return " ".join([f"[{index + 1}/{sweep['n_cells']}]", method, *varied])


def is_spread() -> bool:
    """Return True if a launcher spreads the cells: in its processes, and where it was called."""
    return _SWEEP in os.environ and not _alone[0]


def seconds_left(index: int, seconds: float) -> float | None:
    """Estimate how long the cells after this one take: as long as those that this process ran.

    Args:
        index: Place of the cell in the sweep, from 0.
        seconds: What it took.

    Returns:
        Seconds; None where a launcher spreads the cells over processes, or a sweeper makes them
        as it goes.
    """
    if not _alone[0]:
        return None
    _seconds.append(seconds)
    n_cells = json.loads(os.environ[_SWEEP])["n_cells"]
    if not isinstance(n_cells, int):
        return None
    return sum(_seconds) / len(_seconds) * (n_cells - index - 1)
