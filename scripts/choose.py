"""Select hyper-parameters on the validation split and write them as config variants.

python run.py -m experiment=select
python -m scripts.choose experiment=select
python -m scripts.choose records=results/published/paper
python -m scripts.choose experiment=smol_select folder=chosen_smol
python -m scripts.choose experiment=field_select folder=chosen_field shares=false

Writes ``conf/variant/chosen/<method>.yaml`` (``folder=NAME``: another folder there), the best setting of every method that was run on
the validation split, and for a method with a tau or density also ``<method>_<tau>.yaml``, the
best at that value (``shares=false``: without these). The same records give the same bytes. Runs
on the test split are not read.
"""

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from eval.records import Record
from eval.results_folder import load_results
from eval.run_files import atomic_write
from eval.statistics.comparability import best_setting
from eval.statistics.scores import overall_mean
from eval.tables import with_error

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
VARIANTS = CONF / "variant"
_USAGE = (
    "usage: python -m scripts.choose experiment=NAME | records=RESULTS_FOLDER "
    "[folder=FOLDER_IN_CONF_VARIANT] [shares=false]"
)
_SHARE = "${tau}"
"""Value of the parameter that follows ``tau`` in a file of ``conf/method``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The selected setting of one method."""

    name: str
    """Stem of its file: the method, with the tau it is selected at if there is one."""
    method: str
    settings: Mapping[str, Any]
    """Every hyper-parameter, as in the record."""
    tried: tuple[Record, ...]
    """The validation runs compared."""

    @property
    def winners(self) -> tuple[Record, ...]:
        """The runs of the selected setting, one per seed."""
        return tuple(run for run in self.tried if run.settings == self.settings)


def main(arguments: list[str]) -> int:
    """Select, print the runs compared, write the config variants.

    Args:
        arguments: ``experiment=NAME``, whose ``output`` holds the records, or
            ``records=FOLDER``, a results folder; ``folder=NAME``, default ``chosen``;
            ``shares=false`` for one file per method.

    Returns:
        0; 1 if the records allow no selection; 2 if the arguments are invalid.
    """
    asked = _read_arguments(arguments)
    if asked is None:
        print(f"{_USAGE}, got {' '.join(arguments)}", file=sys.stderr)
        return 2
    folder, chosen, each_share = asked
    try:
        choices = choose(_read(folder), each_share=each_share)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(table(choices))
    for line in edges(choices):
        console.print(line, highlight=False)
    chosen.mkdir(parents=True, exist_ok=True)
    for choice in choices:
        atomic_write(chosen / f"{choice.name}.yaml", config_text(choice).encode())
    print(f"{len(choices)} files in {chosen.relative_to(ROOT)}")
    return 0


def _read_arguments(arguments: Sequence[str]) -> tuple[Path, Path, bool] | None:
    """Results folder to read, folder of variants to write, whether each share gets a file.

    None if they are not to be understood.
    """
    options = {key: value for key, _, value in (a.partition("=") for a in arguments)}
    is_twice = len(options) < len(arguments)
    name, shares = options.pop("folder", "chosen"), options.pop("shares", "true")
    if is_twice or not re.fullmatch(r"\w+", name) or shares not in ("true", "false"):
        return None
    match options:
        case {"experiment": str(experiment), **others} if not others:
            path = CONF / "experiment" / f"{experiment}.yaml"
            folder = ROOT / str(_read_yaml(path)["output"]) if path.is_file() else None
        case {"records": str(records), **others} if not others and Path(records).is_dir():
            folder = Path(records)
        case _:
            return None
    return None if folder is None else (folder, VARIANTS / name, shares == "true")


def choose(records: Iterable[Record], *, each_share: bool = True) -> list[Choice]:
    """Select the best setting of every method, over all tau and at each tau.

    Args:
        records: All records of one results folder; merges on other splits are ignored.
        each_share: Select at each tau or density too.

    Returns:
        Methods in alphabetical order, each over all tau first, then tau by tau.

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
        if each_share or name == method
    ]


def share_parameter(method: str) -> str | None:
    """Name of the method's parameter that follows ``tau``; None for a method without one."""
    settings = _read_yaml(CONF / "method" / f"{method}.yaml")
    return next((key for key, value in settings.items() if value == _SHARE), None)


def config_text(choice: Choice) -> str:
    """Text of the file in ``conf/variant/chosen``: the setting and its evidence."""
    means = ", ".join(_mean(run) for run in choice.winners)
    n_settings = len({_setting(run, run.settings) for run in choice.tried})
    fingerprints = " ".join(sorted(run.fingerprint for run in choice.tried))
    content = hashlib.sha256(fingerprints.encode()).hexdigest()[:16]
    settings = dict(choice.settings)
    overrides = settings.pop("overrides", None)
    body = {
        "defaults": [{"override /method": choice.method}],
        "method": _nested(settings),
        **({} if overrides is None else {"overrides": json.loads(overrides)}),
    }
    return (
        "# @package _global_\n"
        f"# {choice.name}: the best of {n_settings} on the validation split, mean {means} %\n"
        f"# Written by scripts/choose.py from {len(choice.tried)} records, {content} (sha256 "
        "of their fingerprints); change nothing here.\n"
        f"{yaml.safe_dump(body)}"
    )


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nest the dotted keys of a record's settings as in a configuration."""
    nested: dict[str, Any] = {}
    for key, value in settings.items():
        *outer, name = key.split(".")
        place = nested
        for part in outer:
            place = place.setdefault(part, {})
        place[name] = value
    return nested


def table(choices: Sequence[Choice]) -> Table:
    """Every run compared, with the files it was selected for."""
    runs = Table(title="Tried on the validation split", title_justify="left")
    for header in ("method", "setting", "seed"):
        runs.add_column(header)
    runs.add_column("mean %", justify="right", no_wrap=True)
    runs.add_column("chosen for")
    for choice in _most_general(choices):
        varied = _varied(choice)
        for run in sorted(choice.tried, key=lambda r: _sorted_by(r, varied)):
            won = [c.name for c in choices if run in c.winners]
            setting = _setting(run, varied)
            runs.add_row(run.name, setting, str(run.seed), _mean(run), ", ".join(won))
    return runs


def edges(choices: Sequence[Choice]) -> list[str]:
    """Name the selected numbers at the edge of the grid: a better one may be outside."""
    return [
        f"{choice.name}: {name}={choice.settings[name]:g} is the {end} tried"
        for choice in choices
        for name in _varied(choice)
        if _is_number(choice.settings[name])
        for end, extreme in (("least", min), ("largest", max))
        if choice.settings[name] == extreme(run.settings[name] for run in choice.tried)
    ]


def _read(folder: Path) -> tuple[Record, ...]:
    """Read every record of a results folder; an invalid one is an error."""
    results = load_results(folder)
    if results.problems:
        lines = "\n".join(f"{folder / p.path} {p.message}" for p in results.problems)
        raise ValueError(f"refusing to select hyper-parameters: invalid records\n{lines}")
    return results.records


def _read_yaml(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return values


def _validation_runs(records: Sequence[Record]) -> list[Record]:
    """The merges scored on the validation split."""
    merges = [r for r in records if r.kind == "merge" and r.suite is not None]
    runs = [r for r in merges if r.suite is not None and r.suite.split == "validation"]
    if failed := [f"{r.name} {r.fingerprint[:12]}" for r in runs if r.status == "failed"]:
        raise ValueError(f"runs on validation failed: {failed}; run the experiment again")
    if not runs:
        raise ValueError(
            f"nothing was tried on the validation split ({len(merges)} merges on other "
            "splits): first python run.py -m experiment=select"
        )
    return [run for run in runs if run.status == "done"]


def _questions(method: str, runs: Sequence[Record]) -> list[tuple[str, tuple[Record, ...]]]:
    """Pair the stem of every file with the runs compared for it: all tau, then each tau."""
    share = share_parameter(method)
    if share is None:
        return [(method, tuple(runs))]
    values = sorted({run.settings[share] for run in runs})
    at = [(f"{method}_{v:g}", tuple(r for r in runs if r.settings[share] == v)) for v in values]
    return [(method, tuple(runs)), *at]


def _most_general(choices: Sequence[Choice]) -> list[Choice]:
    return [choice for choice in choices if choice.name == choice.method]


def _varied(choice: Choice) -> list[str]:
    """Hyper-parameters with several values among the runs, tau or density first."""
    share = share_parameter(choice.method)
    names = [
        name
        for name in choice.settings
        if len({str(run.settings.get(name)) for run in choice.tried}) > 1
    ]
    return sorted(names, key=lambda name: (name != share, name))


def _is_number(value: Any) -> bool:  # noqa: ANN401 (any JSON)
    return isinstance(value, int | float) and not isinstance(value, bool)


def _setting(run: Record, names: Iterable[str]) -> str:
    return " ".join(f"{name}={run.settings[name]}" for name in names if name in run.settings)


def _sorted_by(run: Record, names: Sequence[str]) -> tuple[str, list[Any], int]:
    return run.name, [run.settings.get(name) for name in names], run.seed


def _mean(run: Record) -> str:
    """Mean over domains with one standard error, in per cent."""
    mean = overall_mean(run.scores, run.domains, run.groups)
    return with_error(mean)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
