"""A run or a sweep from the command line: Hydra composes the configuration of every cell."""

import json
import logging
import shlex
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from eval.conclusion import conclude
from eval.configuration import plain_values
from eval.override_errors import choices_of
from eval.run_files import atomic_write
from eval.sweep import cell_label, overrides_of
from eval.wording import describe_error
from seme.interface import CheckpointMismatchError
from seme_bench.cell import run_cell
from seme_bench.entries import check_entries, name_after_files
from seme_bench.folders import CONF
from seme_bench.interruption import ends_after_run, raise_if_interrupted
from seme_bench.planning import print_plan

_log = logging.getLogger("run")
_COMMANDS = {"merge": "python run.py", "sweep": "python run.py -m"}
"""The console's commands as they are written in the repository."""


def _program(command: str) -> str:
    """Write a command as the user does: ``${program:sweep}`` of the help."""
    return _COMMANDS[command] if sys.argv[0].endswith(".py") else f"seme-bench {command}"


def _choices(group: str) -> str:
    """List the files of a group in lines below each other: ``${choices:method}`` of the help."""
    names = ", ".join(choices_of(group, [CONF]))
    return textwrap.fill(f"{group:<12}{names}", 80, subsequent_indent=" " * 12)


OmegaConf.register_new_resolver("program", _program, replace=True)
OmegaConf.register_new_resolver("choices", _choices, replace=True)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(config: DictConfig) -> None:
    """Run one cell; in a sweep a failed cell is recorded and the next one goes on."""
    root = Path.cwd()
    hydra_config = HydraConfig.get()
    sweeping = hydra_config.mode == RunMode.MULTIRUN
    folder = Path(hydra_config.runtime.output_dir)
    if sweeping and ends_after_run():  # before this cell, which has not started
        shutil.rmtree(folder)
        raise KeyboardInterrupt
    choices = hydra_config.runtime.choices
    overrides = " ".join(overrides_of(hydra_config))
    cell: dict[str, Any] = {"cell": overrides, "fingerprint": None, "error": None}
    label = str(choices.get("method"))
    index = hydra_config.job.num if sweeping else None
    if index is not None:
        uses_tau = "${tau}" in OmegaConf.to_yaml(config.get("method", {}))
        label = cell_label(label, overrides_of(hydra_config), index, uses_tau=uses_tau)
    try:
        values = plain_values(config)
        check_entries(values)
        name_after_files(values, choices)
        if config.plan:
            print_plan(values, choices["method"], label, root=root)
            return
        group = (folder.parent if sweeping else folder).name
        record = run_cell(
            values,
            method_name=choices["method"],
            group=group,
            label=label,
            root=root,
            index=index,
            command=shlex.join([*_program("merge").split(), *overrides_of(hydra_config)]),
        )
        cell["fingerprint"] = record.fingerprint
    except Exception as caught:
        raise_if_interrupted(caught)
        if not isinstance(caught, ValueError | OSError):  # a fault of the program: show where
            _log.exception("%s", cell["cell"])
        cell["error"] = describe_error(caught)
        cell["refused"] = isinstance(caught, CheckpointMismatchError)
        if sweeping:
            kind = "not applicable" if cell["refused"] else "failed"
            _log.error("%s  %s: %s", label, kind, cell["error"].splitlines()[0])
    atomic_write(folder / "cell.json", json.dumps(cell).encode())
    if not sweeping:
        tasks = OmegaConf.select(config, "suite.tasks")
        conclude(root, config.output, [cell], merge_only=not tasks)
