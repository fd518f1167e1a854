"""Kill sweeps at random moments, and run them side by side: results as of an undisturbed one.

``python -m scripts.kill_runs folder=FOLDER [kills=10] [signals=3] [pairs=2] [seed=0]``

Each trial starts a sweep over the embedded benchmark in a folder of its own, ends it by a signal
(at a moment drawn from its duration, or at an event such as a record being written), starts it
again, and compares: every record and sample file, the tables, the W&B runs, and what is left
over. Most sweeps are forked from this process, see :mod:`scripts.kill_runs.sweeps`.
"""

import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scripts.kill_runs.results import Results, differences, results_of, temporary_in
from scripts.kill_runs.sweeps import Sweep, load, start_sweep
from seme_bench.interruption import LINE, WAITS

_EVENTS = (
    "sweeps/*/*/.hydra",
    "scratch-*",
    ".seme-writing-*",
    "runs/*/.samples.jsonl.gz.*",
    "runs/*/samples.jsonl.gz",
    "runs/*/record.json",
    "runs/*/wandb.json",
    "wandb/offline-run-*",
    "sweeps/*/*/cell.json",
    ".leaderboard.*",
    "leaderboard.md",
)
"""Files that a sweep makes on its way; it is killed the moment one appears, or a little later."""
_LATER_SECONDS = 0.05
"""Mean of the time between an event and the signal, in every second trial."""
_SHARE_TWICE = 1 / 3
"""Share of trials that are interrupted a second time, after the first restart."""
_ANEW = {signal.SIGKILL: 0.1, signal.SIGINT: 0.4, signal.SIGTERM: 0.4, signal.SIGHUP: 0.4}
"""Share of interrupted sweeps in a new interpreter: signals come while it loads modules, too."""
_DEFAULTS = {"kills": 10, "signals": 3, "pairs": 2, "seed": 0}
_USAGE = (
    "usage: python -m scripts.kill_runs folder=FOLDER [kills=N] [signals=N] [pairs=N] [seed=N]"
)


@dataclass(slots=True)
class Bench:
    """What trials share."""

    folder: Path
    expected: Results
    seconds: dict[bool, float]
    """Durations of an undisturbed sweep, by whether its interpreter is new."""
    rng: random.Random
    moments: Counter[str] = field(default_factory=Counter)
    """Interruptions that came before a sweep's end, by moment."""


def main(arguments: Sequence[str]) -> int:
    """Run all trials and print a line for each, and the counts.

    Args:
        arguments: ``folder=FOLDER``, absent or empty, and numbers of trials; ``signals`` is per
            kind of signal.

    Returns:
        0; 1 if a trial gave other results or left something over; 2 if the arguments are wrong.
    """
    options = dict(argument.partition("=")[::2] for argument in arguments)
    folder = Path(options.pop("folder", ""))
    if (
        not options.keys() <= _DEFAULTS.keys()
        or not all(value.isdigit() for value in options.values())
        or folder == Path()
        or (folder.exists() and any(folder.iterdir()))
    ):
        print(
            f"{_USAGE}; FOLDER is absent or empty; got {' '.join(arguments)}", file=sys.stderr
        )
        return 2
    numbers = {key: int(options.get(key, value)) for key, value in _DEFAULTS.items()}
    bench = _undisturbed(folder, random.Random(numbers["seed"]))
    kinds = [signal.SIGKILL] * numbers["kills"]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        kinds += [number] * numbers["signals"]
    started = time.monotonic()
    faults = sum(_interrupted(bench, i, number) for i, number in enumerate(kinds))
    seconds = (time.monotonic() - started) / max(1, len(kinds))
    faults += sum(_side_by_side(bench, i) for i in range(numbers["pairs"]))
    print("moments: " + ", ".join(f"{n} {m}" for m, n in sorted(bench.moments.items())))
    print(
        f"{len(kinds)} trials with {bench.moments.total()} interruptions, {seconds:.1f} s each; "
        f"{numbers['pairs']} pairs; {faults} faults"
    )
    return 1 if faults else 0


def _undisturbed(folder: Path, rng: random.Random) -> Bench:
    """Run a sweep to its end in a new interpreter and a forked one, which must agree."""
    load()
    seconds = {}
    for name, anew in (("whole", True), ("forked", False)):
        start = time.monotonic()
        if said := _finish(folder / name, anew=anew):
            raise RuntimeError(f"the undisturbed sweep failed: {said}")
        seconds[anew] = time.monotonic() - start
    bench = Bench(folder, results_of(folder / "whole"), seconds, rng)
    print(
        f"undisturbed: {seconds[True]:.1f} s in a new interpreter, {seconds[False]:.1f} s forked, "
        f"{len(bench.expected.records)} records",
        flush=True,
    )
    _report(bench, "forked", [])
    return bench


def _report(bench: Bench, name: str, said: Sequence[str], moments: Sequence[str] = ()) -> int:
    """Print the outcome of a trial; return 1 if it has a fault. A faultless folder is removed."""
    faults = [*said, *differences(bench.folder / name, bench.expected)]
    at = f" ({', '.join(moments)})" if moments else ""
    print(f"{name}{at}: {'; '.join(faults) or 'as undisturbed'}", flush=True)
    if not faults:
        shutil.rmtree(bench.folder / name)
        for stream in bench.folder.glob(f"{name}.*.*"):
            stream.unlink()
    return 1 if faults else 0


def _interrupted(bench: Bench, i: int, number: signal.Signals) -> int:
    """End a sweep by a signal, once or twice, then let it finish; return 1 for a fault."""
    name = f"{number.name.lower()}-{i}"
    root, faults = bench.folder / name, list[str]()
    while not (moments := _interrupt(bench, root, number, faults)) and not faults:
        shutil.rmtree(root)  # the sweep was faster
    if bench.rng.random() < _SHARE_TWICE:
        moments += _interrupt(bench, root, number, faults)
    bench.moments.update(moment.partition(" + ")[0] for moment in moments)
    faults += _finish(root, anew=False)
    return _report(bench, name, faults, moments)


def _interrupt(
    bench: Bench, root: Path, number: signal.Signals, faults: list[str]
) -> list[str]:
    """Start a sweep and send it a signal.

    Args:
        bench: Draws the moment.
        root: The results folder.
        number: The signal; every second Ctrl-C that waits for a run is followed by another.
        faults: Takes what is wrong with the end.

    Returns:
        The moment; nothing if the sweep had ended.
    """
    rng = bench.rng
    anew = rng.random() < _ANEW[number]
    event = rng.choice((None, *_EVENTS))
    drawn = rng.uniform(0.0, bench.seconds[anew])
    later = rng.choice((0.0, rng.expovariate(1 / _LATER_SECONDS)))
    sweep = start_sweep(root, anew=anew)
    moment = _wait(sweep, event, drawn, later)
    sweep.send(number, to_group=number is signal.SIGKILL and rng.random() < 0.5)
    came = sweep.is_running
    if number is signal.SIGINT and rng.random() < 0.5:
        moment += _second(sweep, rng.uniform(0.0, bench.seconds[False]))
    code, error = sweep.wait(), sweep.text("error")
    ended = number is signal.SIGKILL or code == 0 or not temporary_in(root)
    if not ended:
        faults.append(f"{', '.join(temporary_in(root))} left by {number.name} at {moment}")
    if not _is_said(number, code, error):
        faults.append(f"exit {code}, {error.strip()[-300:]!r} at {moment}")
    return [moment] if came and (code or error) else []


def _wait(sweep: Sweep, event: str | None, seconds: float, later: float) -> str:
    """Wait for a time, or until a path of this pattern is made anew; return the moment's name."""
    start, before = time.monotonic(), set(sweep.folder.glob(event)) if event else set()
    while sweep.is_running and not sweep.handles_signals:
        time.sleep(0.001)
    while sweep.is_running:
        if event is None and time.monotonic() - start >= seconds:
            return f"a time + {seconds:.2f} s"
        if event is not None and set(sweep.folder.glob(event)) - before:
            time.sleep(later)
            return f"{event} + {later:.2f} s"
        time.sleep(0.001)
    return "its end"


def _second(sweep: Sweep, seconds: float) -> str:
    """Send Ctrl-C again where the first one waits for a run."""
    deadline = time.monotonic() + seconds
    while sweep.is_running and time.monotonic() < deadline:
        if WAITS in sweep.text("error"):
            time.sleep(seconds / 4)
            sweep.send(signal.SIGINT)
            return ", twice"
        time.sleep(0.005)
    return ""


def _is_said(number: signal.Signals, code: int, error: str) -> bool:
    """Return True for an end as promised: its code, and one line or, of a Ctrl-C, two."""
    lines = [line for line in error.splitlines() if line]
    if number is signal.SIGKILL:
        return code in (0, -number) and not lines
    waited = number is signal.SIGINT and lines[:1] == [WAITS]
    if code == 0:  # it was faster, or it was in its last run
        return lines == [WAITS][: len(lines)]
    return code == 128 + number and lines[waited:] == [LINE]


def _side_by_side(bench: Bench, i: int) -> int:
    """Run two sweeps into one folder at the same time; return 1 for a fault."""
    name, faults = f"pair-{i}", list[str]()
    root = bench.folder / name
    sweeps = [start_sweep(root, anew=False)]
    time.sleep(bench.rng.choice((0.0, bench.rng.uniform(0.0, bench.seconds[False]))))
    sweeps.append(start_sweep(root, anew=False))
    for sweep in sweeps:
        if sweep.wait() or "2 runs, 0 failed" not in sweep.text("output"):
            faults.append(f"exit {sweep.code}, {sweep.text('error').strip()[-300:]!r}")
    if len(list(root.glob("sweeps/*"))) != len(sweeps):
        faults.append("the two share a folder")
    return _report(bench, name, faults)


def _finish(root: Path, *, anew: bool) -> list[str]:
    """Run a sweep to its end; the faults of it."""
    sweep = start_sweep(root, anew=anew)
    code, error = sweep.wait(), sweep.text("error").strip()
    return [f"exit {code}, {error[-300:]!r}"] if code or error else []
