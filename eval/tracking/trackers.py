"""Trackers by name: entries checked before work starts, runs written, and how to look at them."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from eval.override_errors import nearest
from eval.tracking import mlflow_run, tensorboard_run, wandb_run
from eval.tracking.content import RunContent

NONE = "none"
"""Name of the tracker that keeps records only."""


class Tracker(Protocol):
    """A module that writes the runs of one client, which it alone imports, and late."""

    NAME: str
    TITLE: str
    PACKAGES: tuple[str, ...]
    """Modules of its client, installed by the extra of the tracker's name."""

    def check_entries(self, entries: object, /) -> None: ...

    def write_run(
        self,
        content: RunContent,
        *,
        root: Path,
        entries: Mapping[str, Any],
        group: str,
        run_id: str,
    ) -> None: ...

    def set_aside(self, root: Path, run_id: str, /) -> int: ...

    def hint(self, root: Path, /) -> str | None: ...


TRACKERS: Mapping[str, Tracker] = {
    "wandb": wandb_run,
    "mlflow": mlflow_run,
    "tensorboard": tensorboard_run,
}


def check_tracker(tracker: object) -> None:
    """Check the trackers of a configuration, and that their clients are installed.

    Args:
        tracker: Name to entries, as the files of ``conf/tracker`` have them; ``none: {}`` alone
            keeps records only.

    Raises:
        ValueError: If a name or an entry cannot be used, or a client is not installed.
    """
    if not isinstance(tracker, Mapping) or not tracker:
        raise ValueError(
            f"tracker must be one of {_NAMES}, or several as tracker=[A,B], got {tracker!r:.100}"
        )
    for name, entries in tracker.items():
        if name == NONE:
            if len(tracker) > 1:
                others = ", ".join(sorted(tracker.keys() - {NONE}))
                raise ValueError(f"tracker=none goes alone, got it beside {others}")
            if entries:
                raise ValueError(f"tracker.none has no entries, got {entries!r:.100}")
            return
        if name not in TRACKERS:
            near = nearest(str(name), TRACKERS)
            hint = f"; did you mean {near}?" if near else ""
            raise ValueError(
                f"there is no tracker {name!r:.100}, only {_NAMES}{hint}; entries are under the "
                "tracker's name, such as tracker.wandb.mode=online"
            )
        TRACKERS[name].check_entries(entries)
        _check_installed(TRACKERS[name])


def log_run(
    name: str,
    content: RunContent,
    *,
    root: Path,
    entries: Mapping[str, Any],
    group: str,
    run_id: str,
) -> str | None:
    """Write one run of a tracker.

    Args:
        name: The tracker.
        content: What the run holds; its files are on disk.
        root: The results folder.
        entries: Those of the tracker, checked.
        group: Name of the sweep.
        run_id: Id of the run.

    Returns:
        None, or a warning to print.
    """
    tracker = TRACKERS[name]
    try:
        tracker.write_run(content, root=root, entries=entries, group=group, run_id=run_id)
    except Exception as error:  # anything a foreign client raises; the results are on disk
        return (
            f"not logged to {tracker.TITLE}: {type(error).__name__}: {error} "
            f"(the results in {root} are complete)"
        )
    return None


def set_aside(name: str, root: Path, run_id: str) -> int:
    """Put what a dead process left of a run out of the way.

    Args:
        name: The tracker.
        root: The results folder.
        run_id: Id of the run.

    Returns:
        Number of runs put out of the way; 0 where the client cannot, which writing a run says.
    """
    try:
        return TRACKERS[name].set_aside(root, run_id)
    except Exception:  # anything a foreign client raises; it may not be installed
        return 0


def hints(root: Path) -> list[str]:
    """Say for every tracker with runs in a results folder how to upload them or look at them."""
    lines = [tracker.hint(root) for tracker in TRACKERS.values()]
    return [line for line in lines if line is not None]


def _check_installed(tracker: Tracker) -> None:
    missing = [name for name in tracker.PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"tracker={tracker.NAME} needs {', '.join(missing)}, not installed here; in "
            f"the repository: pip install -e '.[{tracker.NAME}]' -c constraints.txt (tracker=none logs nothing)"
        )


_NAMES = ", ".join([*TRACKERS, NONE])
