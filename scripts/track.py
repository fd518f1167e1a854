"""Log the leaderboards to W&B: ``python -m scripts.track output=results tracker.mode=online``."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from eval.leaderboard.tables import read_leaderboard
from eval.tracking.leaderboard import exhibit_of
from eval.tracking.offline_run import upload_commands
from eval.tracking.wandb_run import check_tracker, track_exhibit
from scripts.leaderboard import main as write_files

_TRACKER = Path(__file__).resolve().parent.parent / "conf" / "tracker" / "wandb.yaml"
_USAGE = "usage: python -m scripts.track [output=RESULTS_FOLDER] [tracker.KEY=VALUE ...]"


def main(arguments: Sequence[str]) -> int:
    """Rebuild the leaderboards of a results folder and log them as one W&B run.

    Args:
        arguments: ``output=FOLDER`` (default ``results``) and ``tracker.KEY=VALUE`` for what
            shall differ from ``conf/tracker/wandb.yaml``; values are YAML.

    Returns:
        0; 1 if a record cannot be read or the run not be logged; 2 if the arguments cannot.
    """
    try:
        output, tracker = _parsed(arguments)
    except (ValueError, yaml.YAMLError) as error:
        print(f"{error}\n{_USAGE}", file=sys.stderr)
        return 2
    root = Path(output)
    if not root.is_dir():
        print(f"output must be a results folder, {root} is absent", file=sys.stderr)
        return 1
    code = write_files([f"output={output}"])
    try:
        found = read_leaderboard(root)
        shown = exhibit_of(root, found.boards, found.standings)
        warning = track_exhibit(shown, root, tracker=tracker)
    except (ValueError, OSError) as error:
        warning = f"not tracked in W&B: {error}"
    if warning is not None:
        print(warning, file=sys.stderr)
        return 1
    print(f"logged to W&B ({tracker['mode']})")
    if tracker["mode"] == "offline":
        print("\n".join(["upload with:", *upload_commands(root)]))
    return code


def _parsed(arguments: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The results folder, and the tracker's file with the changes asked for."""
    output, tracker = "results", yaml.safe_load(_TRACKER.read_text(encoding="utf-8"))
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key == "output" and value:
            output = value.rstrip("/")
        elif key.startswith("tracker.") and value:
            tracker[key.removeprefix("tracker.")] = yaml.safe_load(value)
        else:
            raise ValueError(f"expected output=... or tracker.KEY=..., got {argument}")
    check_tracker(tracker)
    return output, tracker


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
