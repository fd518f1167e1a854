"""Write TensorBoard runs: a folder with one event file each.

A run is written in ``<results>/.tensorboard`` and then moved to ``<results>/tensorboard``: half of
one is never shown. The numbers of the summary are scalars at step 0, what tells runs apart is a row
of the HPARAMS page, the whole configuration and the tables are texts.
"""

import json
import shlex
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.tables import markdown_table
from eval.tracking.content import RunContent, TableContent
from eval.tracking.entries import check_keys, check_tags

NAME, TITLE = "tensorboard", "TensorBoard"
PACKAGES: tuple[str, ...] = ("tensorboard",)
_KEYS = {"tags"}
_COLUMNS = {"kind", "method", "models.pool", "suite.name", "suite.split", "seed", "dtype"}
"""Entries of the configuration that are columns of the HPARAMS page, beside ``settings.*``."""


def check_entries(entries: object) -> None:
    """Check ``tracker.tensorboard``.

    Raises:
        ValueError: If a key is unknown or missing.
    """
    check_tags(NAME, check_keys(NAME, entries, _KEYS)["tags"])


def write_run(
    content: RunContent, *, root: Path, entries: Mapping[str, Any], group: str, run_id: str
) -> None:
    """Write one TensorBoard run; one of this name, of the run before it, is replaced.

    Args:
        content: What the run holds; files and figures are left to the results folder.
        root: The results folder.
        entries: ``tracker.tensorboard``, checked.
        group: Name of the sweep.
        run_id: Id of the run.
    """
    set_aside(root, run_id)
    unfinished, target = _unfinished(root, run_id), root / NAME / content.name
    about = {"group": group, "kind": content.job_type, "id": run_id}
    tags = list(dict.fromkeys([*entries["tags"], *content.tags]))
    _write(content, unfinished, {**about, "tags": tags, "summary": content.texts()})
    for number, file in enumerate(sorted(unfinished.glob("*tfevents*"))):
        # TensorBoard's own name ends in the host's
        file.rename(file.with_name(f"events.out.tfevents.{int(time.time())}.{number}"))
    target.parent.mkdir(exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    unfinished.rename(target)


def set_aside(root: Path, run_id: str) -> int:
    """Remove what a dead process left of a run; return the number of folders."""
    unfinished = _unfinished(root, run_id)
    if not unfinished.exists():
        return 0
    shutil.rmtree(unfinished)
    return 1


def hint(root: Path) -> str | None:
    """One line with the command that shows the runs; None if there are none."""
    if not (root / NAME).exists():
        return None
    return f"TensorBoard: look at the runs with: tensorboard --logdir {shlex.quote(str(root / NAME))}"


def _unfinished(root: Path, run_id: str) -> Path:
    return root / f".{NAME}" / run_id


def _write(content: RunContent, folder: Path, about: Mapping[str, Any]) -> None:
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 (needs the extra)
    from torch.utils.tensorboard.summary import hparams  # noqa: PLC0415 (needs the extra)

    config, numbers = content.flat_config(), content.numbers()
    columns = {k: v for k, v in config.items() if k in _COLUMNS or k.startswith("settings.")}
    measured = {k: v for k, v in numbers.items() if not k.startswith("metric/")}
    with SummaryWriter(str(folder)) as writer:
        for key, value in numbers.items():
            writer.add_scalar(key, value, 0)
        writer.add_text("about", _fenced(about), 0)
        writer.add_text("config", _fenced(content.config), 0)
        for key, table in content.tables.items():
            writer.add_text(key, _markdown(table), 0)
        for part in hparams(columns, measured) if columns else ():
            writer.file_writer.add_summary(part)


def _fenced(entries: Mapping[str, Any]) -> str:
    """JSON as a block of code of Markdown."""
    return f"```\n{json.dumps(entries, indent=1, ensure_ascii=False)}\n```"


def _markdown(table: TableContent) -> str:
    cells = [["" if value is None else str(value) for value in row] for row in table.rows]
    return markdown_table(table.columns, cells)
