"""Log the leaderboard to W&B: ``python -m scripts.track [output=results]``."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from eval.tracking.content import leaderboard_content
from eval.tracking.wandb_run import check_tracker, log_run, upload_hint
from scripts.leaderboard import main as write_files

_TRACKER = Path(__file__).resolve().parent.parent / "conf" / "tracker" / "wandb.yaml"
_USAGE = "usage: python -m scripts.track [output=RESULTS_FOLDER] [tracker.KEY=VALUE ...]"


def main(arguments: Sequence[str]) -> int:
    """Write the leaderboard of a results folder and log it as one W&B run.

    Args:
        arguments: ``output=FOLDER`` (default ``results``), and ``tracker.KEY=VALUE`` to
            override an entry of ``conf/tracker/wandb.yaml``; values are YAML.

    Returns:
        0; 1 if a record is invalid or W&B failed; 2 if the arguments are invalid.
    """
    try:
        root, tracker = _parse(arguments)
    except (ValueError, yaml.YAMLError) as error:
        print(f"{error}\n{_USAGE}", file=sys.stderr)
        return 2
    code = write_files([f"output={root}"])
    if not root.is_dir():
        return code
    warning = log_run(
        leaderboard_content(root), root=root, tracker=tracker, group="leaderboard"
    )
    if warning is not None:
        print(warning, file=sys.stderr)
        return 1
    print(upload_hint(root.absolute()) or "logged to W&B")
    return code


def _parse(arguments: Sequence[str]) -> tuple[Path, dict[str, Any]]:
    """Return the results folder and the tracker's configuration with the overrides."""
    root, tracker = Path("results"), yaml.safe_load(_TRACKER.read_text(encoding="utf-8"))
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key == "output" and value:
            root = Path(value)
        elif key.startswith("tracker.") and value:
            tracker[key.removeprefix("tracker.")] = yaml.safe_load(value)
        else:
            raise ValueError(f"expected output=... or tracker.KEY=..., got {argument}")
    check_tracker(tracker)
    return root, tracker


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
