"""Log the leaderboard to W&B, or another tracker: ``python -m scripts.track [output=results]``."""

import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from eval.override_errors import unknown_entry
from eval.tracking.content import leaderboard_content
from eval.tracking.trackers import TRACKERS, check_tracker, hints, log_run
from scripts.leaderboard import main as write_files

_FOLDER = Path(__file__).resolve().parent.parent / "conf" / "tracker"
_USAGE = (
    "usage: python -m scripts.track [output=RESULTS_FOLDER] [tracker=NAME or tracker=[A,B]] "
    "[tracker.NAME.KEY=VALUE ...]"
)


def main(arguments: Sequence[str]) -> int:
    """Write the leaderboard of a results folder and log it as one run of each tracker.

    Args:
        arguments: ``output=FOLDER`` (default ``results``), ``tracker=NAME`` or ``tracker=[A,B]``
            (default ``wandb``), and ``tracker.NAME.KEY=VALUE`` to override an entry of
            ``conf/tracker/NAME.yaml``; values are YAML.

    Returns:
        0; 1 if a record is invalid or a tracker failed; 2 if the arguments are invalid.
    """
    try:
        root, tracker = _parse(arguments)
    except (ValueError, yaml.YAMLError) as error:
        print(f"{error}\n{_USAGE}", file=sys.stderr)
        return 2
    code = write_files([f"output={root}"])
    if not root.is_dir():
        return code
    content, run_id = leaderboard_content(root), uuid.uuid4().hex
    for name, entries in tracker.items():
        warning = log_run(
            name, content, root=root, entries=entries, group="leaderboard", run_id=run_id
        )
        if warning is not None:
            print(warning, file=sys.stderr)
            code = 1
    print(*hints(root.absolute()), sep="\n")
    return code


def _parse(arguments: Sequence[str]) -> tuple[Path, dict[str, Any]]:
    """Return the results folder and the trackers' entries with the overrides."""
    given = [argument.partition("=")[::2] for argument in arguments]
    for argument, (key, value) in zip(arguments, given, strict=True):
        if not value or (key not in ("output", "tracker") and not key.startswith("tracker.")):
            raise ValueError(
                f"expected output=..., tracker=... or tracker.NAME.KEY=..., got {argument}"
            )
    values = dict(given)
    names = yaml.safe_load(values.pop("tracker", "wandb"))
    tracker: dict[str, Any] = {}
    for name in names if isinstance(names, list) else [names]:
        tracker |= _entries_of(str(name))
    root = Path(values.pop("output", "results"))
    for path, value in values.items():
        _, name, key, *more = [*path.split("."), "", ""]
        if name not in tracker or key not in tracker[name] or any(more):
            known = [f"tracker.{n}.{k}" for n, entries in tracker.items() for k in entries]
            raise ValueError(unknown_entry(path, known))
        tracker[name][key] = yaml.safe_load(value)
    check_tracker(tracker)
    return root, tracker


def _entries_of(name: str) -> dict[str, Any]:
    """Read the file of a tracker; one to log to."""
    if name not in TRACKERS:
        raise ValueError(f"tracker must be one of {', '.join(TRACKERS)}, got {name}")
    entries: dict[str, Any] = yaml.safe_load((_FOLDER / f"{name}.yaml").read_text("utf-8"))
    return entries


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
