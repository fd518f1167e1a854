"""A sweep: its folder prepared and its cells counted at the start, its tables built at the end."""

import json
import logging
import math
import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from eval.conclusion import conclude
from eval.folders import check_writable, remove_leftovers
from eval.runs import describe_error
from eval.tracking.mirror import set_aside_broken

_log = logging.getLogger("run")
_SWEEP = "SEME_SWEEP"
"""Environment variable with the number of cells of the running sweep, and what it varies."""
_seconds: list[float] = []
"""Seconds of every cell that this process ran."""
_here = [False]
"""Does this process run all cells of the sweep?"""

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
        params = config.hydra.sweeper.get("params") or {}
        lines = [f"{key}={value}" for key, value in params.items()]
        overrides = OverridesParser.create().parse_overrides(
            [*lines, *overrides_of(config.hydra)]
        )
        swept = [override for override in overrides if override.is_sweep_override()]
        n_cells = math.prod(len(list(override.sweep_iterator())) for override in swept)
        keys = [override.get_key_element() for override in swept]
        os.environ[_SWEEP] = json.dumps({"n_cells": n_cells, "keys": keys})
        launcher = OmegaConf.select(config, "hydra.launcher._target_")
        _here[:] = [str(launcher).endswith(".BasicLauncher")]
        _seconds.clear()

    def on_multirun_end(self, config: DictConfig, **_: object) -> None:
        """Exit with 1 if a cell failed; called by Hydra once, in the launching process."""
        folder = Path(config.hydra.sweep.dir)
        numbers = {int(path.parent.name) for path in folder.glob("*/cell.json")}
        if config.hydra.sweeper._target_.endswith(".BasicSweeper") and not config.plan:
            numbers |= set(range(json.loads(os.environ[_SWEEP])["n_cells"]))
        cells = [_ended_cell(folder / f"{number}/cell.json") for number in sorted(numbers)]
        if config.plan:
            errors = [f"error: {c['cell']}: {c['error']}" for c in cells if c["error"]]
            sys.exit("\n".join(errors) or 0)
        try:
            conclude(Path.cwd(), config.output, cells)
        except Exception:  # Hydra would pass over it, and exit with 0
            _log.exception("the tables of the sweep could not be written")
            sys.exit(1)


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


def _ended_cell(path: Path) -> dict[str, Any]:
    """Read what a cell left; a cell that left nothing was killed with its process."""
    if path.exists():
        ended: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return ended
    name, error = f"cell {path.parent.name}", "its process died: run the same command again"
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


def seconds_left(index: int, seconds: float) -> float | None:
    """Estimate how long the cells after this one take: as long as those that this process ran.

    Args:
        index: Place of the cell in the sweep, from 0.
        seconds: What it took.

    Returns:
        Seconds; None where a launcher spreads the cells over processes.
    """
    if not _here[0]:
        return None
    _seconds.append(seconds)
    n_cells: int = json.loads(os.environ[_SWEEP])["n_cells"]
    return sum(_seconds) / len(_seconds) * (n_cells - index - 1)
