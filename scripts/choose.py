"""Choose hyper-parameters on the validation split, and write them down for other experiments.

python run.py -m experiment=select
python -m scripts.choose experiment=select
python -m scripts.choose records=results/published/paper

Every method that was run on the validation split gets ``conf/variant/chosen/<method>.yaml``, its best
setting of all; a method that keeps a share also ``<method>_<share>.yaml``, the best at that share.
The same records give the same bytes. Runs of the test split are never looked at.
"""

import hashlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from eval.records import Record, atomic_write
from eval.results_folder import load_results
from eval.statistics.comparability import best_setting
from eval.statistics.scores import overall_mean
from eval.tables import with_error

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
CHOSEN = CONF / "variant" / "chosen"
_USAGE = "usage: python -m scripts.choose experiment=NAME | records=RESULTS_FOLDER"
_SHARE = "${tau}"
"""What the parameter that keeps a share is set to in a method's file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The best of several settings of one method."""

    name: str
    """Stem of its file: the method, and the share kept where that was given."""
    method: str
    settings: Mapping[str, Any]
    """Every hyper-parameter, as in the record."""
    tried: tuple[Record, ...]
    """The validation runs it was chosen from."""

    @property
    def winners(self) -> tuple[Record, ...]:
        """The runs of the chosen setting: one for each seed."""
        return tuple(run for run in self.tried if run.settings == self.settings)


def main(arguments: list[str]) -> int:
    """Choose, print what was tried, write the configuration files.

    Args:
        arguments: ``experiment=NAME``, whose ``output`` holds the records, or
            ``records=FOLDER``, a results folder.

    Returns:
        0; 1 if the records allow no choice; 2 if the arguments cannot be read.
    """
    match [argument.partition("=") for argument in arguments]:
        case [("experiment", "=", name)] if (CONF / "experiment" / f"{name}.yaml").is_file():
            folder = ROOT / str(_read_yaml(CONF / "experiment" / f"{name}.yaml")["output"])
        case [("records", "=", given)] if Path(given).is_dir():
            folder = Path(given)
        case _:
            print(f"{_USAGE}, got {' '.join(arguments)}", file=sys.stderr)
            return 2
    try:
        choices = choose(_read(folder))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(table(choices))
    for line in edges(choices):
        console.print(line, highlight=False)
    CHOSEN.mkdir(parents=True, exist_ok=True)
    for choice in choices:
        atomic_write(CHOSEN / f"{choice.name}.yaml", config_text(choice).encode())
    print(f"{len(choices)} files in {CHOSEN.relative_to(ROOT)}")
    return 0


def choose(records: Iterable[Record]) -> list[Choice]:
    """Choose the best setting of every method, over all shares kept and at each of them.

    Args:
        records: Of one results folder; only merges on the validation split count.

    Returns:
        Methods in alphabetical order, each over all shares first, then share by share.

    Raises:
        ValueError: If no merge was scored on the validation split, one of them failed, or they
            are not comparable.
    """
    runs = _validation_runs(list(records))
    return [
        Choice(
            name=name, method=method, settings=best_setting(tried, method=method), tried=tried
        )
        for method in sorted({run.name for run in runs})
        for name, tried in _questions(method, [run for run in runs if run.name == method])
    ]


def share_parameter(method: str) -> str | None:
    """Name of the method's parameter that ``tau`` feeds, None if it keeps no share."""
    settings = _read_yaml(CONF / "method" / f"{method}.yaml")
    return next((key for key, value in settings.items() if value == _SHARE), None)


def config_text(choice: Choice) -> str:
    """The file in ``conf/variant/chosen``: the choice, and what it rests on."""
    means = ", ".join(_mean(run) for run in choice.winners)
    n_settings = len({_setting(run, run.settings) for run in choice.tried})
    fingerprints = " ".join(sorted(run.fingerprint for run in choice.tried))
    content = hashlib.sha256(fingerprints.encode()).hexdigest()[:16]
    body = {
        "defaults": [{"override /method": choice.method}],
        "method": _nested(choice.settings),
    }
    return (
        "# @package _global_\n"
        f"# {choice.name}: the best of {n_settings} on the validation split, mean {means} %\n"
        f"# Written by scripts/choose.py from {len(choice.tried)} records, {content} (sha256 of their "
        "fingerprints); change nothing here.\n"
        f"{yaml.safe_dump(body)}"
    )


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the dotted keys of a record's settings into the nested mappings of a configuration."""
    nested: dict[str, Any] = {}
    for key, value in settings.items():
        *outer, name = key.split(".")
        place = nested
        for part in outer:
            place = place.setdefault(part, {})
        place[name] = value
    return nested


def table(choices: Sequence[Choice]) -> Table:
    """Every run that was looked at, with the files it won."""
    shown = Table(title="Tried on the validation split", title_justify="left")
    for header in ("method", "setting", "seed"):
        shown.add_column(header)
    shown.add_column("mean %", justify="right", no_wrap=True)
    shown.add_column("chosen for")
    for choice in _most_general(choices):
        varied = _varied(choice)
        for run in sorted(choice.tried, key=lambda r: _sorted_by(r, varied)):
            won = [c.name for c in choices if run in c.winners]
            setting = _setting(run, varied)
            shown.add_row(run.name, setting, str(run.seed), _mean(run), ", ".join(won))
    return shown


def edges(choices: Sequence[Choice]) -> list[str]:
    """Say which chosen numbers are the least or the largest tried: a better one may lie beyond."""
    return [
        f"{choice.name}: {name}={choice.settings[name]:g} is the {end} tried"
        for choice in choices
        for name in _varied(choice)
        if _is_number(choice.settings[name])
        for end, extreme in (("least", min), ("largest", max))
        if choice.settings[name] == extreme(run.settings[name] for run in choice.tried)
    ]


def _read(folder: Path) -> tuple[Record, ...]:
    """Every record of a results folder; none if one of them cannot be trusted."""
    found = load_results(folder)
    if found.problems:
        told = "\n".join(f"{folder / fault.path} {fault.message}" for fault in found.problems)
        raise ValueError(f"nothing is chosen from records that cannot be trusted:\n{told}")
    return found.records


def _read_yaml(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def _validation_runs(records: Sequence[Record]) -> list[Record]:
    """The merges that were scored on the validation split."""
    merges = [r for r in records if r.kind == "merge" and r.suite is not None]
    runs = [r for r in merges if r.suite is not None and r.suite.split == "validation"]
    if failed := [f"{r.name} {r.fingerprint[:12]}" for r in runs if r.status == "failed"]:
        raise ValueError(f"runs on validation failed: {failed}; run the experiment again")
    if not runs:
        raise ValueError(
            f"nothing was tried on the validation split ({len(merges)} merges on other splits): "
            "first python run.py -m experiment=select"
        )
    return [run for run in runs if run.status == "done"]


def _questions(method: str, runs: Sequence[Record]) -> list[tuple[str, tuple[Record, ...]]]:
    """File name to the runs one choice is made from: all of a method, then each share."""
    share = share_parameter(method)
    if share is None:
        return [(method, tuple(runs))]
    values = sorted({run.settings[share] for run in runs})
    at = [(f"{method}_{v:g}", tuple(r for r in runs if r.settings[share] == v)) for v in values]
    return [(method, tuple(runs)), *at]


def _most_general(choices: Sequence[Choice]) -> list[Choice]:
    return [choice for choice in choices if choice.name == choice.method]


def _varied(choice: Choice) -> list[str]:
    """Hyper-parameters with several values among the runs, the share first."""
    share = share_parameter(choice.method)
    names = [
        name
        for name in choice.settings
        if len({str(run.settings[name]) for run in choice.tried}) > 1
    ]
    return sorted(names, key=lambda name: (name != share, name))


def _is_number(value: Any) -> bool:  # noqa: ANN401 (any JSON)
    return isinstance(value, int | float) and not isinstance(value, bool)


def _setting(run: Record, names: Iterable[str]) -> str:
    return " ".join(f"{name}={run.settings[name]}" for name in names)


def _sorted_by(run: Record, names: Sequence[str]) -> tuple[str, list[Any], int]:
    return run.name, [run.settings[name] for name in names], run.seed


def _mean(run: Record) -> str:
    """Mean over domains with one standard error, in per cent."""
    mean = overall_mean(run.scores, run.domains)
    return with_error(mean)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
